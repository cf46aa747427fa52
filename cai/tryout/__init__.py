"""A constitution tried and tested while it is being written: a few prompts, its own tests, answers at once.

Nothing here is a run: what is asked stays in a scratch folder, and its journal answers whatever was asked before.
"""

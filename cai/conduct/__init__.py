"""A run from its first prompt to its evaluated models: what follows what, told once.

The sequence does not know how a unit of work is carried out: `cai.conduct.work.HERE` runs all of it as plain
coroutines of this process, the flows hand in Prefect tasks of the same signatures (`flows/tasks.py`).
"""

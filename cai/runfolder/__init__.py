"""The folder of a run: who holds it, what it is pinned to, and what it was before."""

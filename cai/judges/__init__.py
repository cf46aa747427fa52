"""The judges of a run: who judges what, and how each is measured on labelled pairs before it may."""

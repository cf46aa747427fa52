"""What people say of a run's labels: marks, the audit that they are drawn for, and what comes of both.

`mark.py` is one mark and the file of them, `sample.py` the order in which rows are shown, `plan.py` how many that
takes, `bounds.py` the intervals, `figures.py` how often the judge is right, `export.py` the way to the judge's own
tools. The viewer's pages and the command line both
stand on it.
"""

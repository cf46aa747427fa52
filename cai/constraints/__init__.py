"""The versions that an installation takes: one file for machines without a GPU, one for those with an NVIDIA GPU.

`cai/install.py` uses them; `python -m cai.constraints` (`make lock`) makes them anew.
"""

"""`python -m cai`: the command line."""

from cai.cli import main

main()

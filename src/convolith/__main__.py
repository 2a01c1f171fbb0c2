"""`python -m convolith`: the command line."""

from convolith.cli import main

main(prog_name="python -m convolith")

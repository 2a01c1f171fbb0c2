"""`python -m bench`: one group, one command per file."""

import click

from bench.grid import grid


@click.group()
def main() -> None:
    """Time Convolith against its peers, as ratios measured in turn in one run."""


main.add_command(grid)
main(prog_name="python -m bench")

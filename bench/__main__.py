"""`python -m bench`: one group, one command per file."""

import click

from bench.big import big
from bench.cost import cost
from bench.decompose import decompose
from bench.fit import fit
from bench.fold import fold
from bench.grid import grid
from bench.images import images
from bench.machine import denormals, memory, overhead, scaling
from bench.models import classes, models
from bench.page import page
from bench.picture import picture
from bench.report import report
from bench.train import train
from bench.without_torch import without_torch
from bench.zoo import zoo


@click.group()
def main() -> None:
    """Time Convolith against its peers, as ratios measured in turn in one run."""


COMMANDS = (
    big,
    classes,
    cost,
    decompose,
    denormals,
    fit,
    fold,
    grid,
    images,
    memory,
    models,
    overhead,
    page,
    picture,
    report,
    scaling,
    train,
    without_torch,
    zoo,
)
for command in COMMANDS:
    main.add_command(command)
main(prog_name="python -m bench")

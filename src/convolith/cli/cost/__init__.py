"""`convolith cost`: the operations and bytes of a layer or a model."""

from convolith.cli.cost.main import command

__all__ = ["command"]

"""`convolith tour`: the chapter on a real photograph."""

from convolith.cli.tour.main import command

__all__ = ["command"]

"""`convolith correlate`: correlation of an image or an array with a kernel."""

from convolith.cli.correlate.main import command

__all__ = ["command"]

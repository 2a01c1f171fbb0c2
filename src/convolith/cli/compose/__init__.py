"""`convolith compose`: two convolutions as one."""

from convolith.cli.compose.main import command

__all__ = ["command"]

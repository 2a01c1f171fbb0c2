"""`convolith fit`: the kernel that maps one image or array to another."""

from convolith.cli.fit.main import command

__all__ = ["command"]

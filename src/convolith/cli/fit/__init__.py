"""`convolith fit`: the kernel that turned one picture or array into another."""

from convolith.cli.fit.main import command

__all__ = ["command"]

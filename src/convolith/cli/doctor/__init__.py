"""`convolith doctor`: what is installed, what works, and what to do about the rest."""

from convolith.cli.doctor.main import command

__all__ = ["command"]

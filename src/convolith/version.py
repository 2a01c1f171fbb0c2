"""The version of the package, which what is kept on disk is signed with."""

__version__ = "0.3.0"

"""The one error that Convolith raises when it refuses something, and its warnings."""

import sys
import warnings


class ConvolithError(ValueError):
    """A refusal: the message names the argument, what came, what was expected and what to do about it."""


def missing_extra(package: str, extra: str, purpose: str) -> ConvolithError:
    """The refusal for an optional `package` that is not installed but is needed for `purpose`."""
    return ConvolithError(
        f"{purpose} needs {package}, which is not installed; install it with: pip install 'convolith[{extra}]'"
    )


def warn(message: str) -> None:
    """A RuntimeWarning at the line of the caller's caller outside Convolith, who can do something about it."""
    level = 1
    while sys._getframe(level).f_globals.get("__name__", "").startswith("convolith") and sys._getframe(level).f_back:
        level += 1
    warnings.warn(message, RuntimeWarning, stacklevel=level + 1)

"""The one error that Convolith raises when it refuses something, and its warnings."""

import sys
import warnings
from collections.abc import Collection
from typing import Any

MAX_SHOWN = 100
"""Characters of a value in a message."""


class ConvolithError(ValueError):
    """A refusal: the message names the argument, what came, what was expected and what to do about it."""


def shown(value: Any) -> str:
    """Return a value for a message: its repr in one line, cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def check_option(argument: str, value: Any, options: Collection[str]) -> None:
    """Refuse what is not one of an argument's names; arrays are no names, though they compare with them."""
    if not isinstance(value, str) or value not in options:
        raise ConvolithError(f"{argument} is {shown(value)}; expected one of {', '.join(options)}")


def check_flag(argument: str, value: Any) -> bool:
    """Return a flag as a bool; refuse what is neither True nor False (nor NumPy's, nor 0 or 1)."""
    if value is True or value is False:
        return value
    if type(value).__name__ in ("bool", "bool_") or (type(value) is int and value in (0, 1)):
        return bool(value)
    raise ConvolithError(f"{argument} is {shown(value)}; expected True or False")


def missing_extra(package: str, extra: str, purpose: str) -> ConvolithError:
    """The refusal for an optional `package` that is not installed but is needed for `purpose`."""
    return ConvolithError(
        f"{purpose} needs {package}, which is not installed; install it with: pip install 'convolith[{extra}]'"
    )


def renamed(old: str, new: str) -> None:
    """Warn that a keyword has another name now; the old one goes on working."""
    warn(f"{old}= is called {new}= now; the old name will go", DeprecationWarning)


def warn(message: str, kind: type[Warning] = RuntimeWarning) -> None:
    """Warn at the line outside Convolith that called it, since its author can do something about it."""
    level = 1
    while sys._getframe(level).f_globals.get("__name__", "").startswith("convolith") and sys._getframe(level).f_back:
        level += 1
    warnings.warn(message, kind, stacklevel=level + 1)

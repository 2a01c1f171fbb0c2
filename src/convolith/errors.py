"""Error that Convolith raises when it refuses an argument, and its warnings."""

import sys
import warnings
from collections.abc import Collection
from contextvars import ContextVar
from types import FrameType
from typing import Any

MAX_SHOWN = 100
"""Maximum number of characters of a value in a message."""

caller: ContextVar[FrameType | None] = ContextVar("caller", default=None)
"""Frame that waits for this thread, where a thread of our own computes for another one."""


class ConvolithError(ValueError):
    """Error of a refused argument: the message gives the argument, its value, the expected value and the remedy.

    It is a `ValueError`.

    Example:
        >>> import numpy as np
        >>> import convolith as cl
        >>> try:
        ...     cl.correlate(np.ones((1, 3, 3)), np.ones((1, 2, 2, 2)))
        ... except cl.ConvolithError as error:
        ...     print("x has 1 channel" in str(error))
        True
    """


def shown(value: Any) -> str:
    """Return the repr of a value for a message, on one line, truncated if it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def check_option(argument: str, value: Any, options: Collection[str]) -> None:
    """Refuse a value that is not one of the options; only a string, never an array, is compared with them."""
    if not isinstance(value, str) or value not in options:
        raise ConvolithError(f"{argument} is {shown(value)}; expected one of {', '.join(options)}")


def check_flag(argument: str, value: Any) -> bool:
    """Return a flag as a bool; refuse a value other than True, False, a NumPy boolean, 0 or 1."""
    if value is True or value is False:
        return value
    if type(value).__name__ in ("bool", "bool_") or (type(value) is int and value in (0, 1)):
        return bool(value)
    raise ConvolithError(f"{argument} is {shown(value)}; expected True or False")


def missing_extra(package: str, extra: str, purpose: str) -> ConvolithError:
    """Return the error for an optional `package` that `purpose` needs but that is not installed."""
    return ConvolithError(
        f"{purpose} needs {package}, which is not installed; install it with: pip install 'convolith[{extra}]'"
    )


def renamed(old: str, new: str) -> None:
    """Warn that a keyword, attribute or method has a new name; the old one still works."""
    warn(f"{old} is called {new} now; the old name will be removed", DeprecationWarning)


def warn(message: str, kind: type[Warning] = RuntimeWarning) -> None:
    """Emit a warning at the line that called Convolith, since the author of that line can act on it."""
    frame, waiting = _outside(sys._getframe(1)), caller.get()
    if waiting is not None and _name(frame) == "concurrent.futures.thread":
        frame = _outside(waiting)
    registry = frame.f_globals.setdefault("__warningregistry__", {})
    warnings.warn_explicit(message, kind, frame.f_code.co_filename, frame.f_lineno, _name(frame), registry)


def _outside(frame: FrameType) -> FrameType:
    """Return the innermost frame that is not Convolith's."""
    while _name(frame).startswith("convolith") and frame.f_back:
        frame = frame.f_back
    return frame


def _name(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))

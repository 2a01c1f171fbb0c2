"""Output files of `convolith fit`: checked against each other and against the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from convolith.errors import ConvolithError


def check_distinct(outputs: Mapping[str, str | None], inputs: Mapping[str, str | None]) -> None:
    """Refuse outputs that would overwrite each other or an input.

    Args:
        outputs, inputs: paths by the name of the option or argument, None where it was not given.

    Raises:
        ConvolithError: two names of one file.
    """
    taken = {_file(path): name for name, path in inputs.items() if path is not None}
    for name, path in outputs.items():
        if path is None:
            continue
        other = taken.get(place := _file(path))
        if other is not None:
            what = f"the file of {other} too" if other in outputs else f"the input itself, {other}"
            raise ConvolithError(f"{name} is {path}, which is {what}; expected a name of its own")
        taken[place] = name


def _file(path: str) -> Path:
    """Return the file of a path, which may name a part of it (`image.fits:1`)."""
    whole, _, part = path.rpartition(":")
    return Path(whole if part and whole and not Path(path).exists() and Path(whole).exists() else path).resolve()

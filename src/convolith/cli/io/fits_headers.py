"""FITS headers of results: those of the input, with coordinates that follow the pixels, and a HISTORY card."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

from convolith.geometry import Grid
from convolith.version import __version__

STRUCTURE = ("BLANK", "CHECKSUM", "DATASUM", "DATAMIN", "DATAMAX", "BSCALE", "BZERO")
"""Keywords that describe the stored numbers of the input, not the picture."""


def carried(header: Any, moved: Mapping[int, Grid], axes: int, history: str) -> Any:
    """Return a copy of a header for a result.

    Args:
        header: header of the input, an `astropy.io.fits.Header`.
        moved: by axis of the array, where the result's pixels lie; other axes are unchanged.
        axes: number of axes of the array.
        history: what was done, for a HISTORY card.
    """
    result = header.copy()
    for name in STRUCTURE:
        result.remove(name, ignore_missing=True, remove_all=True)
    by_number = {axes - axis: grid for axis, grid in moved.items()}  # FITS counts axes from the last
    turned = any(re.fullmatch(r"PC\d+_\d+[A-Z]?", name) for name in result)  # steps of pixels are in PC, not in CDELT
    for name in list(result):
        match = re.fullmatch(r"(CRPIX|CDELT)(\d+)([A-Z]?)|(?:CD|PC)(\d+)_(\d+)([A-Z]?)", name)
        value = result[name] if match else None
        if match is None or isinstance(value, bool | str) or value is None or (turned and match[1] == "CDELT"):
            continue
        grid = by_number.get(int(match[2] or match[5]), Grid())
        result[name] = grid.reference_pixel(value) if match[1] == "CRPIX" else value * grid.step
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a long line becomes several cards
        result.add_history(f"convolith {__version__}: {history}")
    return result


def unit_of(header: Any) -> str | None:
    """Return the unit of the numbers, or None if the header has none."""
    unit = None if header is None else header.get("BUNIT")
    return str(unit).strip() or None if unit is not None else None

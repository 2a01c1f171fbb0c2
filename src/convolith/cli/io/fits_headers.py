"""FITS headers of results: those of the input, with coordinates that follow the pixels, and a HISTORY card."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

import click

from convolith.big.stores.metadata import follow_pixels
from convolith.geometry import Grid

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
    wrong = of_wrong_coordinates(header)
    if wrong:
        click.echo(f"warning: {wrong}", err=True)
    result = header.copy()
    for name in STRUCTURE:
        result.remove(name, ignore_missing=True, remove_all=True)
    follow_pixels(result, moved, axes, history)
    return result


def of_wrong_coordinates(header: Any) -> str | None:
    """Return the notice of a header whose coordinates make no sense; None for others."""
    wrong = _wrong_coordinates(header)
    return (
        f"the header's coordinates could not be carried: {wrong}; those of the result may be wrong" if wrong else None
    )


def _wrong_coordinates(header: Any) -> str | None:
    """Return why the coordinates of a header make no sense, or None."""
    from astropy.wcs import WCS

    numbered = [re.fullmatch(r"(?:CRPIX|CRVAL|CDELT|CTYPE)(\d+)", name) for name in header]
    last = max((int(match[1]) for match in numbered if match), default=0)
    for match in numbered:
        if match and not match[0].startswith("CTYPE") and isinstance(header[match[0]], str):
            return f"{match[0]} is {header[match[0]]!r}, not a number"
    if isinstance(header.get("WCSAXES"), int) and header["WCSAXES"] < last:
        return f"WCSAXES is {header['WCSAXES']}, and the header has coordinates along axis {last}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on cards of old conventions, which are understood
            WCS(header, naxis=header.get("NAXIS") or None).wcs.set()
    except Exception as error:  # noqa: BLE001 - errors of wcslib and of distortion tables; all mean a wrong header
        return " ".join(str(error).split()) or type(error).__name__
    return None


def unit_of(header: Any) -> str | None:
    """Return the unit of the numbers, or None if the header has none."""
    unit = None if header is None else header.get("BUNIT")
    return str(unit).strip() or None if unit is not None else None

"""Reading and writing of FITS files by astropy."""

from __future__ import annotations

import io
import warnings
from contextlib import nullcontext
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np

from convolith.big.stores.sources import with_primary
from convolith.cli.io.expansion import check_expansion, expanded
from convolith.cli.io.fits_structure import check_structure
from convolith.cli.io.picture_info import PictureInfo
from convolith.errors import ConvolithError, missing_extra


class Unit(NamedTuple):
    """The contents of a file: an array, its FITS header or None, whether the last of three axes is channels, notes."""

    array: np.ndarray
    header: Any
    picture: bool = False
    info: PictureInfo = PictureInfo()


def read_fits(argument: str, file: Path, name: str | None) -> Unit:
    """Read the first image of a file, or that of a unit's name or number; all damage raises the same error.

    Raises:
        ConvolithError: a damaged or truncated file, no such unit, a unit without an array.
    """
    fits = _astropy()
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            contents = expanded(argument, file)
            with file.open("rb") if contents is file else nullcontext(contents) as stream:
                check_structure(cast("IO[bytes]", stream), fits)
            with fits.open(contents, memmap=False) as units:
                check_expansion(argument, file, sum(map(_bytes, units)))
                arrays = [
                    (number, unit.name, np.array(unit.data), with_primary(unit.header, units[0]))
                    for number, unit in enumerate(units)
                    if unit.is_image and unit.data is not None
                ]
            cut = next((str(one.message) for one in said if "truncated" in str(one.message)), None)
            if cut:  # astropy only warns
                raise OSError(cut)
    except ConvolithError:
        raise
    except Exception as error:  # noqa: BLE001 - every layer of the format raises its own errors
        raise ConvolithError(
            f"{argument} is {file}, which cannot be read as FITS ({error or type(error).__name__}); is it complete?"
        ) from None
    chosen = [
        Unit(array, header)
        for number, own, array, header in arrays
        if name in (None, str(number)) or name.upper() == own
    ]
    if not chosen:
        names = ", ".join(f"{number} ({own})" if own else str(number) for number, own, *_ in arrays) or "no array"
        raise ConvolithError(f"{argument} is {file}{f':{name}' if name else ''}, but the file holds {names}")
    array, header = chosen[0][:2]
    names = "zyx"[-array.ndim :].upper() if 0 < array.ndim <= len("zyx") else ""  # FITS counts axes from the last
    return Unit(array.astype(array.dtype.newbyteorder("=")), header, info=PictureInfo(axes=names))


def _bytes(unit: Any) -> int:
    """Return the decompressed size in bytes of a unit's image, by its header."""
    return prod(unit.shape) * abs(int(unit.header.get("BITPIX", 8))) // 8 if unit.is_image and unit.shape else 0


def encode_fits(array: np.ndarray, header: Any = None) -> bytes:
    """Return the bytes of a FITS file with the array as its only unit, under a header if one is given.

    Raises:
        ConvolithError: complex values, which FITS images do not support.
    """
    if np.iscomplexobj(array):
        raise ConvolithError("the result is complex, which no FITS image holds; write a .npy instead")
    stored = {np.dtype(np.float16): np.float32, np.dtype(np.bool_): np.uint8}.get(array.dtype, array.dtype)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the input's header may have cards that the standard does not know
        unit = _astropy().PrimaryHDU(array.astype(stored), header=header)
        unit.writeto(buffer, output_verify="silentfix+ignore")
    return buffer.getvalue()


def _astropy() -> Any:
    try:
        from astropy.io import fits
    except ImportError:
        raise missing_extra("astropy", "fits", "reading and writing FITS files") from None
    return fits

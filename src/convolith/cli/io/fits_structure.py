"""Check of a FITS file against its own headers: what they declare, and what is there."""

from __future__ import annotations

from math import prod
from typing import IO, Any

BLOCK = 2880
"""Bytes of a FITS record; headers and data are filled up to whole ones."""
BITPIX = (8, 16, 32, 64, -32, -64)
MAX_AXES = 999


def check_structure(stream: IO[bytes], fits: Any) -> None:
    """Refuse a file whose headers contradict what is there.

    Args:
        stream: the uncompressed file; it is at its beginning afterwards.
        fits: the module `astropy.io.fits`.

    Raises:
        ValueError: what the header of which unit declares, and what is there.
    """
    end = stream.seek(0, 2)
    stream.seek(0)
    beginning = stream.read(9)
    if not beginning.startswith(b"SIMPLE  ="):
        raise ValueError(f"it begins with {beginning!r}, not with SIMPLE =")
    start, number = 0, 0
    while start < end:
        stream.seek(start)
        if number and stream.read(8) != b"XTENSION":
            stream.seek(start)
            if end - start >= BLOCK and stream.read(end - start).strip(b"\0 "):  # a few bytes more do no harm
                raise ValueError(f"the headers declare {start:,} bytes, and {end:,} are there")
            break
        stream.seek(start)
        header = _header(stream, fits, number)
        start = stream.tell()
        declared = _declared(header, number)
        if start + declared > end:
            shape = " x ".join(str(header[f"NAXIS{axis}"]) for axis in range(1, header["NAXIS"] + 1))
            raise ValueError(
                f"the header of unit {number} declares {shape} values with BITPIX {header['BITPIX']}, {declared:,} "
                f"bytes, and {end - start:,} are there"
            )
        start += -(-declared // BLOCK) * BLOCK
        number += 1
    stream.seek(0)


def _header(stream: IO[bytes], fits: Any, number: int) -> Any:
    try:
        return fits.Header.fromfile(stream)
    except (OSError, EOFError):
        raise ValueError(f"the header of unit {number} has no END card") from None


def _declared(header: Any, number: int) -> int:
    """Return the bytes of values that a header declares."""
    if header.get("BITPIX") not in BITPIX:
        raise ValueError(
            f"the header of unit {number} declares BITPIX {header.get('BITPIX')}; expected one of "
            f"{', '.join(map(str, BITPIX))}"
        )
    axes = header.get("NAXIS")
    if type(axes) is not int or not 0 <= axes <= MAX_AXES:
        raise ValueError(f"the header of unit {number} declares NAXIS {axes}; expected a whole number, 0 or more")
    lengths = [header.get(f"NAXIS{axis}") for axis in range(1, axes + 1)]
    for axis, length in enumerate(lengths, 1):
        if type(length) is not int or length < 0:
            raise ValueError(f"the header of unit {number} declares {axes} axes and NAXIS{axis} {length}")
    groups = bool(header.get("GROUPS")) and lengths[:1] == [0]
    count = prod(lengths[1:] if groups else lengths) if axes else 0
    return int(abs(header["BITPIX"]) // 8 * header.get("GCOUNT", 1) * (header.get("PCOUNT", 0) + count))

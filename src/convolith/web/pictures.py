"""Pictures as the page sends and shows them: PNG, JPEG and .npy, bounded before they are decoded."""

from __future__ import annotations

import io
import math
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from convolith.web.schema import RequestError
from convolith.web.store import Stored

Body = bytes | bytearray
"""Contents of an upload."""
MAX_BYTES = 64 << 20
"""Largest number of bytes of an upload, and of the array that it becomes."""
MAX_PIXELS = 36_000_000
"""Largest number of pixels of a picture, by its header."""
MAX_SIDE = 32_768
"""Largest number of pixels along an axis."""
MOST_OF_HEADER = 1 << 16
"""Bytes of a .npy file in which its header must end."""
MAX_COUNT = 2**63 - 1
"""Largest number that an axis of an array can have at all; larger ones are too long for a message."""
PNG, JPEG, NPY = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\x93NUMPY"
"""First bytes of the files that are read."""
ORIENTATION = 0x0112
"""EXIF tag: how the camera was held."""
PACKAGED = {
    "astronaut": "astronaut.png",
    "camera": "camera.png",
    "coins": "coins.png",
    "moon": "moon.png",
    "page": "page.png",
}
"""Pictures that scikit-image has in its package, by name."""
GENERATED = ("rings", "squares", "noise")
"""Pictures that are computed, which are there without scikit-image."""


def decode(body: Body) -> Stored:
    """Return the picture of an uploaded file, (H, W) or (H, W, 3), of finite numbers or NaN.

    Raises:
        RequestError: status 415 for other kinds of files; 413 for too many pixels; 422 for damaged files, and arrays
            that are no pictures.
    """
    if body.startswith(NPY):
        return _decode_npy(body)
    if body.startswith((PNG, JPEG)):
        return _decode_picture(body)
    raise RequestError(415, "the file is no PNG, JPEG or .npy; convert it first: PIL.Image.open('x').save('x.png')")


def _check_size(rows: int, columns: int) -> None:
    if rows * columns > MAX_PIXELS or max(rows, columns) > MAX_SIDE:
        raise RequestError(
            413,
            f"the picture has {rows:,} x {columns:,} pixels; expected at most {MAX_PIXELS:,}, and {MAX_SIDE:,} "
            "along an axis; `convolith correlate` takes larger ones",
        )
    if not rows or not columns:
        raise RequestError(422, f"the picture has {rows} x {columns} pixels; expected at least one")


def _decode_picture(body: Body) -> Stored:
    """Decode a PNG or JPEG; the size is read from the header before any pixel is."""
    try:
        with Image.open(io.BytesIO(body), formats=("PNG", "JPEG")) as opened:
            _check_size(opened.height, opened.width)
            notes = []
            if getattr(opened, "n_frames", 1) > 1:
                notes.append("only the first picture of the animation was read")
            if opened.mode == "CMYK":
                raise RequestError(422, "the picture is CMYK, amounts of ink and not of light; convert it to RGB first")
            sixteen_bits = body.startswith(PNG) and body[24:25] == b"\x10"
            if sixteen_bits and not opened.mode.startswith("I"):
                raise RequestError(
                    422, "the picture has 16 bits and colours, which would be cut to 8; send a .npy array"
                )
            if opened.getexif().get(ORIENTATION, 1) != 1:
                notes.append("the picture was turned upright by its orientation tag")
            array = _pixels(ImageOps.exif_transpose(opened), notes)
    except RequestError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as problem:  # by its header, as above
        raise RequestError(
            413, f"the picture is too large ({problem}); expected at most {MAX_PIXELS:,} pixels"
        ) from None
    except UnidentifiedImageError:
        raise RequestError(422, "the file begins as a picture, but cannot be read as one; is it complete?") from None
    except Exception as problem:  # noqa: BLE001 - every decoder raises its own errors; all mean an invalid file
        raise RequestError(422, f"the picture cannot be read ({str(problem)[:200]}); is it complete?") from None
    return Stored(array, tuple(notes))


def _pixels(opened: Any, notes: list[str]) -> np.ndarray:
    """Return the pixels of an opened picture: uint8 or uint16, (H, W) or (H, W, 3)."""
    if opened.mode.startswith("I"):
        return np.asarray(opened).astype(np.uint16)
    grey = opened.mode in ("1", "L", "LA")
    if opened.mode in ("LA", "RGBA", "PA") or "transparency" in opened.info:
        notes.append("transparency was left out")
    if opened.mode == "P":
        notes.append("the palette was replaced by its colours")
    return np.array(opened.convert("L" if grey else "RGB"))


def _decode_npy(body: Body) -> Stored:
    """Read an array, which stays where it is; its shape and dtype are compared with the length first."""
    stream = io.BytesIO(body[:MOST_OF_HEADER])
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, by_columns, dtype = read(stream)
    except Exception as problem:  # noqa: BLE001 - NumPy raises errors of many kinds for damaged headers
        raise RequestError(422, f"the .npy file has no valid header ({str(problem)[:200]})") from None
    if not all(0 <= count <= MAX_COUNT for count in shape):
        raise RequestError(422, "the array has a shape of negative or impossible numbers; expected (H, W)")
    if dtype.hasobject or dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise RequestError(
            422, f"the array has dtype {str(dtype)[:60]}; expected whole or real numbers of up to 64 bits"
        )
    if len(shape) not in (2, 3) or (len(shape) == 3 and not 1 <= shape[2] <= 4):
        raise RequestError(
            422, f"the array has shape {str(shape)[:60]}; expected (H, W), or (H, W, channels) with 1 to 4"
        )
    _check_size(*shape[:2])
    needed, there = math.prod(shape) * dtype.itemsize, len(body) - stream.tell()
    if needed != there:
        raise RequestError(
            422, f"the array of shape {shape} and dtype {dtype} takes {needed:,} bytes; the file has {there:,}"
        )
    values = np.frombuffer(body, dtype, offset=stream.tell())
    array = _native(values.reshape(shape, order="F" if by_columns else "C"))
    missing = int(np.count_nonzero(~np.isfinite(array))) if array.dtype.kind == "f" else 0
    notes = (f"{missing:,} pixels are NaN or infinite",) if missing else ()
    return Stored(array, notes)


def _native(array: np.ndarray) -> np.ndarray:
    """Return an array in this machine's byte order and memory layout; booleans as 0 and 1, one channel as none."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    dtype = np.dtype(np.uint8) if array.dtype.kind == "b" else array.dtype.newbyteorder("=")
    return np.ascontiguousarray(array, dtype)


def described(stored: Stored) -> dict[str, Any]:
    """Return what the page is told of an array: shape, dtype, range, number of missing values, notes."""
    array = stored.array
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    return {
        "shape": list(array.shape),
        "dtype": array.dtype.name,
        "least": float(finite.min()) if finite.size else None,
        "largest": float(finite.max()) if finite.size else None,
        "not_finite": int(array.size - finite.size),
        "notes": list(stored.notes),
    }


@lru_cache(maxsize=1)
def bundled_names() -> tuple[str, ...]:
    """Return the names of the pictures that need no upload."""
    folder = _package_folder()
    return (*(name for name, file in PACKAGED.items() if folder and (folder / file).is_file()), *GENERATED)


def _package_folder() -> Path | None:
    """Return scikit-image's folder of pictures; the package itself is not imported, nor asked to fetch anything."""
    found = find_spec("skimage")
    return Path(found.origin).parent / "data" if found and found.origin else None


def bundled(name: str) -> Stored:
    """Return a picture by its name in `bundled_names`."""
    folder = _package_folder()
    if name in PACKAGED and folder:
        return decode((folder / PACKAGED[name]).read_bytes())
    rows, columns = np.mgrid[:256, :256].astype(float)
    if name == "rings":
        waves = np.cos(((rows - 127.5) ** 2 + (columns - 127.5) ** 2) / 180)
        return Stored(np.rint(127.5 + 127.5 * waves).astype(np.uint8))
    if name == "squares":
        return Stored((((rows // 32 + columns // 32) % 2) * 255).astype(np.uint8))
    return Stored(np.random.default_rng(0).integers(0, 256, (256, 256)).astype(np.uint8))


def encode_npy(array: np.ndarray) -> bytes:
    """Return an array as a .npy file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def usual_range(array: np.ndarray) -> tuple[float, float]:
    """Return the values shown as black and white: of 8 bits as they are, of others from the least to the largest."""
    if array.dtype == np.uint8:
        return 0.0, 255.0
    finite = array[np.isfinite(array)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def encode_png(
    array: np.ndarray, low: float | None = None, high: float | None = None, *, diverging: bool = False
) -> tuple[bytes, dict[str, str]]:
    """Return a picture as a PNG, with headers that say which values are shown and how many lie beyond them.

    Args:
        array: (H, W) or (H, W, channels).
        low, high: values that are shown as black and white; by default those of `usual_range`.
        diverging: whether to show values by colour: blue below zero, white at zero, red above, as far as the larger
            magnitude of `low` and `high`. Colours of a picture are summed up as the value of largest magnitude.
    """
    if diverging and array.ndim == 3:
        places = np.abs(np.nan_to_num(array)).argmax(2)[..., None]
        array = np.take_along_axis(array, places, 2)[..., 0]
    usual = usual_range(array)
    low, high = usual[0] if low is None else low, usual[1] if high is None else high
    if diverging:
        high = max(abs(low), abs(high))
        low = -high
    width = (high - low) or 1.0
    kind = np.dtype(np.float64 if array.dtype.itemsize == 8 else np.float32)
    with np.errstate(all="ignore"):  # infinity and NaN are shown as such below
        values = np.divide(np.subtract(array, low, dtype=kind), width, dtype=kind)
    clipped = int(np.count_nonzero((values < -1e-6) | (values > 1 + 1e-6)))
    values = np.nan_to_num(values, nan=0.5 if diverging else 0.0, posinf=1.0, neginf=0.0).clip(0, 1)
    pixels = _coloured(values) if diverging else np.rint(values * 255).astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] not in (3, 4):
        pixels = pixels[..., 0]  # of two channels, the first
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue(), {
        "x-convolith-low": repr(float(low)),
        "x-convolith-high": repr(float(high)),
        "x-convolith-clipped": str(clipped),
    }


def _coloured(values: np.ndarray) -> np.ndarray:
    """Return colours of values from 0 to 1: blue, white in the middle, red."""
    stops = np.array([[33, 102, 172], [247, 247, 247], [178, 24, 43]], float)
    channels = [np.interp(values, (0.0, 0.5, 1.0), stops[:, channel]) for channel in range(3)]
    pixels: np.ndarray = np.rint(np.stack(channels, -1)).astype(np.uint8)
    return pixels

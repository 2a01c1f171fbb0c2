"""Reading and writing of pictures: PNG and JPEG by Pillow, TIFF and its stacks of pages by tifffile."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from convolith.cli.io.expansion import check_expansion
from convolith.cli.io.fits import Unit
from convolith.errors import ConvolithError, missing_extra

TIFF = (".tif", ".tiff")


def imageio() -> Any:
    """Return `imageio.v3`."""
    try:
        import imageio.v3
    except ImportError:
        raise missing_extra("imageio", "image", "reading and writing pictures") from None
    return imageio.v3


def _tifffile() -> Any:
    try:
        import tifffile
    except ImportError:
        raise missing_extra("tifffile", "image", "reading and writing TIFF files") from None
    return tifffile


@contextmanager
def _any_size() -> Iterator[None]:
    """Turn off Pillow's own limit of 13,400 x 13,400 pixels; `check_expansion` limits the size."""
    try:
        from PIL import Image
    except ImportError:  # the reader in use does not need Pillow
        yield
        return
    usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():  # readers warn on invalid files
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = usual


def read_image(argument: str, file: Path) -> Unit:
    """Read a picture, (H, W) or (H, W, channels), or a stack of pages; all damage raises the same error.

    Black and white is 0 and 255.

    Raises:
        ConvolithError: a damaged file, inks instead of colours, more bits or channels than can be read.
    """
    imageio()
    try:
        read = _read_tiff if file.suffix.lower() in TIFF else _read_other
        unit = read(argument, file)
    except ConvolithError:
        raise
    except Exception as error:  # noqa: BLE001 - every decoder raises its own errors; all mean an invalid file
        raise ConvolithError(
            f"{argument} is {file}, which cannot be read as a picture ({error or type(error).__name__}); "
            "is it complete?"
        ) from None
    array = unit.array
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    if unit.picture and array.ndim == 3 and array.shape[2] > 4:
        raise ConvolithError(
            f"{argument} is {file}, whose pixels have {array.shape[2]} channels; expected 1 to 4; pass a .npy array"
        )
    return unit._replace(array=array)


def _read_other(argument: str, file: Path) -> Unit:
    content, suffix = file.read_bytes(), file.suffix.lower()
    with _any_size(), imageio().imopen(content, "r", plugin="pillow", extension=suffix) as opened:
        header = opened.properties()
        check_expansion(argument, file, prod(header.shape) * header.dtype.itemsize)
        _check_inks(argument, file, inks=opened.metadata().get("mode") == "CMYK")
    turned = {"rotate": True} if suffix in (".jpg", ".jpeg") else {}  # upright, by the camera's orientation tag
    with _any_size():
        picture = np.asarray(imageio().imread(content, plugin="pillow", extension=suffix, **turned))
    if suffix == ".png" and content[24] == 16 and picture.dtype == np.uint8:  # the header's bits per channel
        raise ConvolithError(
            f"{argument} is {file}, a .png of 16 bits and colour, which would be cut to 8; pass a .tif"
        )
    return Unit(picture, None, picture=True)


def _read_tiff(argument: str, file: Path) -> Unit:
    """Read the first series of a TIFF file; samples of a pixel come last, pages are axes before the picture's."""
    with _any_size(), _tifffile().TiffFile(file) as opened:
        series, page = opened.series[0], opened.pages[0]
        _check_inks(argument, file, inks=page.photometric is not None and page.photometric.name == "SEPARATED")
        check_expansion(argument, file, prod(series.shape) * series.dtype.itemsize)
        array, axes = series.asarray(), series.axes
    if "S" in axes and not axes.endswith("S"):  # colours one after another
        array, axes = np.moveaxis(array, axes.index("S"), -1), axes.replace("S", "") + "S"
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return Unit(array, None, picture=array.ndim == 2 or (array.ndim == 3 and axes.endswith("S")))


def _check_inks(argument: str, file: Path, *, inks: bool) -> None:
    if inks:
        raise ConvolithError(
            f"{argument} is {file}, whose pixels are amounts of four inks (CMYK); convert it to RGB first"
        )


def encode_picture(array: np.ndarray, suffix: str) -> bytes:
    """Return the bytes of a picture file, (H, W) or (H, W, channels)."""
    extension = {".jpg": ".jpeg", ".tif": ".tiff"}.get(suffix, suffix)
    encoded: bytes = imageio().imwrite("<bytes>", array, extension=extension)
    return encoded


def encode_pages(array: np.ndarray) -> bytes:
    """Return the bytes of a TIFF file with a page for each plane of an array."""
    buffer = io.BytesIO()
    _tifffile().imwrite(buffer, array, photometric="minisblack")
    return buffer.getvalue()

"""Reading and writing of pictures: PNG, JPEG, WebP and BMP by Pillow, TIFF by tifffile (see `tiff`)."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import click
import numpy as np

from convolith.big.stores.orientation import ORIENTATION, TURNS
from convolith.big.stores.sources import check_colours
from convolith.cli.io.expansion import check_expansion
from convolith.cli.io.fits import Unit
from convolith.cli.io.picture_info import PictureInfo, upright
from convolith.cli.io.tiff import TIFF, read_tiff
from convolith.errors import ConvolithError, missing_extra

WITH_ALPHA = {"P": "RGBA", "RGB": "RGBA", "L": "LA", "1": "LA"}
"""Modes of pictures that have a transparent colour instead of an alpha channel, and those that have the channel."""
ANIMATED = ("PNG", "WEBP")
"""Formats whose frames are a stack; the further pictures of a JPEG are previews of the first."""


def imageio() -> Any:
    """Return `imageio.v3`."""
    try:
        import imageio.v3
    except ImportError:
        raise missing_extra("imageio", "image", "reading and writing pictures") from None
    return imageio.v3


@contextmanager
def _any_size() -> Iterator[None]:
    """Turn off Pillow's own limit of 13,400 x 13,400 pixels; `check_expansion` limits the size."""
    from PIL import Image

    usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():  # readers warn on invalid files
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = usual


def read_image(argument: str, file: Path) -> Unit:
    """Read a picture, (H, W) or (H, W, channels), or a stack of pages; all damage raises the same error.

    Black and white is 0 and 255. A picture is turned upright by its orientation tag.

    Raises:
        ConvolithError: a damaged file, inks instead of colours, more bits or channels than can be read.
    """
    imageio()
    try:
        with _any_size():
            unit = read_tiff(argument, file) if file.suffix.lower() in TIFF else _read_other(argument, file)
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
    from PIL import Image

    content, suffix = file.read_bytes(), file.suffix.lower()
    with Image.open(io.BytesIO(content)) as opened:
        frames = getattr(opened, "n_frames", 1) if opened.format in ANIMATED else 1
        mode = WITH_ALPHA.get(opened.mode) if "transparency" in opened.info else None
        if opened.format == "PNG" and opened.info.get("transparency") is not None and mode is None:
            click.echo(f"warning: {argument} is {file}, whose transparent colour is read as any other", err=True)
        header = (*opened.size, frames, len((mode or opened.mode).rstrip("aX")))
        check_expansion(argument, file, prod(header) * (2 if ";16" in opened.mode else 1))
        check_colours(argument, file, "SEPARATED" if opened.mode == "CMYK" else "")
        info = _info(opened)
    which: dict[str, Any] = {"index": ...} if frames > 1 else {} if suffix == ".png" else {"index": 0}
    which |= {"mode": mode} if mode else {}
    turned = {"rotate": True} if frames == 1 else {}
    picture = np.asarray(imageio().imread(content, plugin="pillow", extension=suffix, **turned, **which))
    if suffix == ".png" and content[24] == 16 and picture.dtype == np.uint8:  # the header's bits per channel
        raise ConvolithError(
            f"{argument} is {file}, a .png of 16 bits and colour, which would be cut to 8; pass a .tif"
        )
    if frames > 1:
        axes = "TYX" if picture.ndim == 3 else "TYXS"
        return Unit(picture, None, info=info._replace(axes=axes))
    return Unit(picture, None, picture=True, info=info._replace(axes="YX" if picture.ndim == 2 else "YXS"))


def _info(opened: Any) -> PictureInfo:
    """Return the notes of a picture that Pillow has opened, as they hold when it is upright."""
    dpi, exif = opened.info.get("dpi"), opened.getexif()
    good = dpi is not None and all(0 < float(one) < np.inf for one in dpi)
    dpi = (float(dpi[0]), float(dpi[1])) if good and dpi != (1, 1) else None
    info = PictureInfo(icc=opened.info.get("icc_profile"), exif=upright(exif), dpi=dpi)
    return info.swapped() if TURNS.get(exif.get(ORIENTATION), (False,))[0] else info


def encode_picture(array: np.ndarray, suffix: str, info: PictureInfo) -> bytes:
    """Return the bytes of a PNG or JPEG file of a picture, (H, W) or (H, W, channels)."""
    extension = {".jpg": ".jpeg"}.get(suffix, suffix)
    options: dict[str, Any] = {} if info.icc is None else {"icc_profile": info.icc}
    options |= {} if info.dpi is None else {"dpi": info.dpi}
    options |= {} if info.exif is None else {"exif": info.exif.tobytes()}
    encoded: bytes = imageio().imwrite("<bytes>", array, plugin="pillow", extension=extension, **options)
    return encoded

"""TIFF files by tifffile: colours, stacks of pages, and the notes of cameras and microscopes."""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

import click
import numpy as np

from convolith.big.stores.orientation import ORIENTATION, TURNS, turned
from convolith.big.stores.sources import check_colours, left_out, palette, white_is_zero
from convolith.cli.io.expansion import check_expansion
from convolith.cli.io.fits import Unit
from convolith.cli.io.picture_info import DESCRIPTION, EXIF, GPS, INCH_IN_CENTIMETRES, PictureInfo, upright
from convolith.errors import missing_extra

TIFF = (".tif", ".tiff")
OME_AXES, IMAGEJ_AXES = "TZCYXS", "TZCYXS"
OME_DTYPES = ("int8", "int16", "int32", "uint8", "uint16", "uint32", "float32", "float64")
IMAGEJ_DTYPES = ("uint8", "uint16", "float32")
IMAGEJ_NOTES = ("spacing", "unit", "finterval", "fps", "mode")
"""ImageJ's metadata that still hold for a filtered picture; its display range does not."""
OME_NOTES = (
    *(f"PhysicalSize{axis}{of}" for axis in "XYZ" for of in ("", "Unit")),
    "TimeIncrement",
    "TimeIncrementUnit",
)
"""OME's metadata that still hold for a filtered picture."""
MICROMETRE = ("um", "µm", "\\u00B5m", "micron", "microns")
"""ImageJ's words for the micrometre, the usual unit of OME."""


def tifffile() -> Any:
    """Return the module of that name."""
    try:
        import tifffile as module
    except ImportError:
        raise missing_extra("tifffile", "image", "reading and writing TIFF files") from None
    return module


def read_tiff(argument: str, file: Path) -> Unit:
    """Read the first series of a TIFF file; samples of a pixel come last, pages are axes before the picture's."""
    with tifffile().TiffFile(file) as opened:
        series, page = opened.series[0], opened.series[0].keyframe
        kind = "" if page.photometric is None else page.photometric.name
        check_colours(argument, file, kind, page.compression)
        check_expansion(argument, file, prod(series.shape) * series.dtype.itemsize)
        array, axes = series.asarray(), series.axes
        info = _info(opened, page, file)
        notices = (white_is_zero(kind, array.dtype), left_out(opened.series))
        if kind == "PALETTE" and not info.form:
            array, axes = palette(page.colormap)[array], f"{axes}S"
            info = info._replace(samples=None)
        turn = TURNS.get(page.tags[ORIENTATION].value if ORIENTATION in page.tags else 1)
    if "S" in axes and not axes.endswith("S"):  # colours one after another
        array, axes = np.moveaxis(array, axes.index("S"), -1), axes.replace("S", "") + "S"
    if turn is not None and "YX" in axes:
        array = turned(array, axes.index("Y"), turn)
        info = info.swapped() if turn[0] else info
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if kind == "MINISWHITE" and array.dtype == np.bool_:
        array = ~array
    for notice in notices:
        if notice is not None:
            click.echo(f"warning: {argument} is {file}, {notice}", err=True)
    picture = array.ndim == 2 or (array.ndim == 3 and axes.endswith("S"))
    return Unit(array, None, picture=picture, info=info._replace(axes=axes))


def _info(opened: Any, page: Any, file: Path) -> PictureInfo:
    """Return the notes of a TIFF file; damaged ones are left out."""
    info = PictureInfo(icc=page.iccprofile, samples=_samples(page))
    with suppress(Exception):
        from PIL import Image

        with Image.open(file) as picture:
            exif = upright(picture.getexif())
            if exif is not None and (opened.is_ome or opened.is_imagej or opened.is_shaped):
                exif.pop(DESCRIPTION, None)  # metadata that are written anew
            info = info._replace(exif=exif or None)
    with suppress(Exception):
        x, y = page.get_resolution()
        unit = int(page.resolutionunit)
        if unit in (2, 3) and min(x, y) > 0 and (x, y) != (1, 1):  # which stands for none
            scale = 1.0 if unit == 2 else INCH_IN_CENTIMETRES
            info = info._replace(dpi=(float(x) * scale, float(y) * scale))
        elif opened.is_imagej and x > 0 and y > 0:
            info = info._replace(per=(float(x), float(y)))
    with suppress(Exception):
        if opened.is_ome:
            info = info._replace(form="ome", notes=_ome_notes(opened.ome_metadata))
        elif opened.is_imagej:
            found = opened.imagej_metadata or {}
            info = info._replace(form="imagej", notes={name: found[name] for name in IMAGEJ_NOTES if name in found})
    return info


def _samples(page: Any) -> tuple[str, tuple[int, ...]] | None:
    """Return how a page's samples are to be seen, where an array of its shape does not say so."""
    if page.photometric is None or page.photometric.name not in ("RGB", "MINISBLACK", "MINISWHITE"):
        return None
    if page.dtype is not None and page.dtype.kind == "b":
        return None
    return page.photometric.name.lower(), tuple(int(one) for one in page.extrasamples)


def _ome_notes(xml: str) -> dict[str, Any]:
    """Return the physical sizes and the names of channels of the first picture of an OME file."""
    image = tifffile().xml2dict(xml)["OME"]["Image"]
    image = image[0] if isinstance(image, list) else image
    pixels = image["Pixels"]
    notes = {name: pixels[name] for name in OME_NOTES if name in pixels}
    channels = pixels.get("Channel", [])
    named = [one.get("Name") for one in (channels if isinstance(channels, list) else [channels])]
    if named and all(named):
        notes["Channel"] = {"Name": named}
    return notes | ({"Name": image["Name"]} if "Name" in image else {})


def exact_values(array: np.ndarray) -> np.ndarray:
    """Return integers of 64 bits in the first of int32, uint32 and float64 that holds them all; else unchanged."""
    if array.dtype.kind not in "iu" or array.dtype.itemsize < 8:
        return array
    least, most = (int(array.min()), int(array.max())) if array.size else (0, 0)
    for dtype in (np.int32, np.uint32):
        if np.iinfo(dtype).min <= least and most <= np.iinfo(dtype).max:
            return array.astype(dtype)
    return array.astype(np.float64) if max(-least, most) <= 1 << 53 else array


def encode_tiff(array: np.ndarray, info: PictureInfo, *, samples: bool, ome: bool) -> bytes:
    """Return the bytes of a TIFF file.

    Args:
        array: a picture or a stack.
        info: notes that the file gets; its axes count if there are as many as those of the array.
        samples: whether the last axis holds the channels of a pixel; otherwise every plane is a page.
        ome: whether the file follows OME.
    """
    names = info.axes if len(info.axes) == array.ndim else ""
    if samples and array.shape[-1] == 1:
        array, samples, names = array[..., 0], False, names[:-1]
    options = _layout(array.shape, info, samples=samples)
    metadata: dict[str, Any] = {"axes": names} if names else {}
    form = _form(array, names, info, ome=ome, samples=samples)
    if form == "imagej":
        metadata |= dict(info.notes) if info.form == "imagej" else {}
        options = {"photometric": options["photometric"]}
    elif form == "ome":
        metadata |= _as_ome(info)
    options |= {"imagej": True} if form == "imagej" else {"ome": form == "ome"}
    if info.dpi is not None:
        options |= {"resolution": info.dpi, "resolutionunit": "INCH"}
    elif info.per is not None:
        options |= {"resolution": info.per, "resolutionunit": "NONE"}
    if form != "imagej":
        options |= {"iccprofile": info.icc, "extratags": _tags(info.exif), "byteorder": "<"}
    buffer = io.BytesIO()
    tifffile().imwrite(buffer, np.ascontiguousarray(array), metadata=metadata, **options)
    return _with_directories(buffer, info.exif) if form != "imagej" else buffer.getvalue()


def _layout(shape: tuple[int, ...], info: PictureInfo, *, samples: bool) -> dict[str, Any]:
    """Return how the samples of a pixel are to be seen."""
    photometric, extra = info.samples or ("", ())
    if not samples:
        return {"photometric": photometric if photometric == "miniswhite" else "minisblack"}
    count = shape[-1]
    colours = 3 if photometric == "rgb" or (not photometric and count > 2) else 1
    if colours > count or len(extra) != count - colours:
        colours = 3 if count > 2 else 1
        extra = (2,) * (count - colours)  # alpha that the colours are not multiplied by
    options: dict[str, Any] = {"photometric": "rgb" if colours == 3 else "minisblack", "planarconfig": "contig"}
    return options | ({"extrasamples": extra} if extra else {})


def _form(array: np.ndarray, names: str, info: PictureInfo, *, ome: bool, samples: bool) -> str:
    """Return the convention for a file: that of the input where it has the axes and the dtype, else OME's for names."""
    order = "".join(name for name in OME_AXES if name in names)
    fits = array.dtype.name in OME_DTYPES and (not names or names == order)
    if ome:
        if not fits and names:
            return ""
        return "ome" if array.dtype.name in OME_DTYPES else ""
    if info.form == "imagej" and names and names == order and array.dtype.name in IMAGEJ_DTYPES and not samples:
        return "imagej"
    return "ome" if info.form and names and fits else ""


def _as_ome(info: PictureInfo) -> dict[str, Any]:
    """Return notes in the words of OME."""
    if info.form != "imagej":
        return dict(info.notes)
    unit = str(info.notes.get("unit", ""))
    notes: dict[str, Any] = {}
    unit = "µm" if unit.lower() in MICROMETRE else unit
    if unit in ("µm", "nm", "mm", "cm", "m"):
        sizes = {} if info.per is None else {"X": 1 / info.per[0], "Y": 1 / info.per[1]}
        sizes |= {"Z": float(info.notes["spacing"])} if "spacing" in info.notes else {}
        for axis, size in sizes.items():
            notes |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit}
    if "finterval" in info.notes:
        notes |= {"TimeIncrement": float(info.notes["finterval"]), "TimeIncrementUnit": "s"}
    return notes


TEXTS = (0x010F, 0x0110, 0x0132, 0x013B, 0x8298)
"""Descriptive tags that are text: camera, date, author, rights."""


def _tags(exif: Any) -> list[tuple[Any, ...]]:
    """Return EXIF tags as tifffile takes them, with a place for each directory, under the number before its own."""
    if exif is None:
        return []
    texts = [(tag, 2, 0, str(exif[tag]), True) for tag in TEXTS if tag in exif and str(exif[tag]).isascii()]
    return texts + [(tag - 1, 4, 1, 0, True) for tag in (EXIF, GPS) if exif.get_ifd(tag)]


def _with_directories(buffer: io.BytesIO, exif: Any) -> bytes:
    """Return a TIFF file with the directories of EXIF, which tifffile does not write, at its end."""
    if exif is None:
        return buffer.getvalue()
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    buffer.seek(0)
    with tifffile().TiffFile(buffer) as opened:
        tags = opened.pages[0].tags
        places = {} if opened.is_bigtiff else {tag: tags[tag - 1] for tag in (EXIF, GPS) if tag - 1 in tags}
        entries = {tag: (found.offset, found.valueoffset) for tag, found in places.items()}
    for tag, (entry, value) in entries.items():
        directory = ImageFileDirectory_v2(prefix=b"II")
        for name, one in exif.get_ifd(tag).items():
            with suppress(Exception):  # a note that has no type
                directory[name] = one
        end = buffer.seek(0, io.SEEK_END)
        end += buffer.write(b"\0" * (end % 2))
        buffer.write(directory.tobytes(end))
        buffer.seek(entry)
        buffer.write(struct.pack("<H", tag))
        buffer.seek(value)
        buffer.write(struct.pack("<I", end))
    return buffer.getvalue()

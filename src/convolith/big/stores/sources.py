"""Sources of pixels that need not fit into memory: one row of `KINDS` for each kind of file or array.

A source can be sliced, and knows its shape, dtype, chunks and axes. Nothing is read before a block asks for it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import weakref
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from convolith.big.stores.chunk_files import ChunkFiles, chunk_files
from convolith.big.stores.orientation import ORIENTATION, TURNS, Upright
from convolith.big.stores.places import (
    FITS,
    NPZ,
    Place,
    RemotePath,
    names_below,
    needed,
    place_of,
    selected,
    stamp_of,
)
from convolith.big.stores.raw_tiff import RawTiff, places_of
from convolith.big.stores.scaled import WHITE, LookedUp, scaled
from convolith.errors import ConvolithError, shown, warn

ZARR_FILES = ("zarr.json", ".zarray", ".zgroup")
COMPLETE = "convolith_complete"
"""Attribute of a result in an object store: whether all of its blocks are there."""
SAMPLES = 16
"""Number of stored parts of a source by which it is recognised."""
ZARR = ".zarr"
TIFF = (".tif", ".tiff")
WHOLE = {
    ".fits.gz": "is compressed as a whole; decompress it first, as gunzip does",
    ".fits.fz": "is compressed; decompress it first, as funpack does",
    **dict.fromkeys(
        (".png", ".jpg", ".jpeg", ".webp", ".bmp"),
        "is decoded as a whole; store it as a .tif or .npy file",
    ),
}
"""Endings of files that cannot be read block by block: the reason, and the way out."""
INKS = {"SEPARATED": "amounts of four inks (CMYK)"}
OTHER_COLOURS = ("CIELAB", "ICCLAB", "ITULAB", "YCBCR", "LOGLUV", "LOGL", "CFA")
"""Photometric interpretations whose samples are no amounts of light, which alone may be summed."""
JPEG_COMPRESSIONS = (6, 7)
"""Compressions whose decoder gives RGB, however the file stores colours."""
MINISBLACK, RGB = 1, 2
"""Values of the tag PhotometricInterpretation."""


@dataclass(frozen=True, eq=False)
class Source:
    """Pixels that can be sliced.

    Attributes:
        name: what it is called in messages.
        array: supports `array[slices]`, `shape` and `dtype`.
        chunks: shape of the parts that are stored one by one, or None.
        axes: names of the axes, such as `("c", "y", "x")`, or None.
        nodata: number that stands for a missing pixel, or None.
        attributes: metadata that the result keeps.
        path: file or folder, or a name in an object store, or None.
        direct: whether any part can be read alone all the same, as where chunks are not compressed.
        files: files of its chunks, or None.
        compressed: whether its chunks are compressed.
        part: which of several arrays of a file it is, or None for the only or the first one.
        notices: what a reader of the file has to know, as sentences whose subject is the file.
    """

    name: str
    array: Any
    chunks: tuple[int, ...] | None = None
    axes: tuple[str, ...] | None = None
    nodata: float | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    path: Place | None = None
    direct: bool = False
    files: ChunkFiles | None = None
    compressed: bool = True
    part: str | None = None
    notices: tuple[str, ...] = ()

    @property
    def decoded_chunks(self) -> tuple[int, ...] | None:
        """Shape of the parts that are decoded as a whole, or None where any part can be read alone."""
        return None if self.direct else self.chunks

    def chunk(self, numbers: tuple[int, ...]) -> np.ndarray:
        """Return the pixels of a chunk, by its number along each axis."""
        if self.files is not None:
            return self.files.read(numbers)
        parts = zip(numbers, self.chunks or self.shape, self.shape, strict=True)
        return np.asarray(self.array[tuple(slice(i * c, min((i + 1) * c, n)) for i, c, n in parts)])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the pixels."""
        kind: np.dtype[Any] = np.dtype(self.array.dtype)
        return kind

    def __reduce__(self) -> Any:
        """Let another process open the file itself."""
        if self.path is not None:
            return _opened, (self.name, "source")
        return Source, tuple(getattr(self, one.name) for one in fields(self))

    def fingerprint(self) -> dict[str, Any]:
        """Return what must stay the same for an interrupted run to go on: sizes, dtype, and the state of the files."""
        found: dict[str, Any] = {"shape": list(self.shape), "dtype": str(self.dtype), "chunks": self.chunks}
        if isinstance(self.path, Path) and self.path.is_file():
            status = self.path.stat()
            found |= {"bytes": status.st_size, "modified": status.st_mtime_ns}
        elif self.path is not None:
            paths = [path for name in sorted(ZARR_FILES) if (path := self.path / name).exists()]
            found["metadata"] = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
        found |= {} if self.part is None else {"part": self.part}
        plain: dict[str, Any] = json.loads(json.dumps(found))
        return plain

    def absent(self) -> int | None:
        """Return how many stored parts are not there, and read as the fill value; None where this is not known."""
        if self.path is None or self.chunks is None or not self.path.is_dir():
            return None
        parts = getattr(self.array, "shards", None) or self.chunks
        names = (name for name in names_below(self.path) if name not in ZARR_FILES and not name.startswith(".z"))
        stored = sum(".partial" not in name for name in names)
        return max(prod(-(-n // int(part)) for n, part in zip(self.shape, parts, strict=True)) - stored, 0)

    def sample(self) -> list[list[str] | None]:
        """Return sizes and times of some of the files or objects that hold the pixels, None for those that are not."""
        key = getattr(getattr(self.array, "metadata", None), "encode_chunk_key", None)
        if self.path is None or key is None or not self.path.is_dir():
            return []
        parts = getattr(self.array, "shards", None) or self.array.chunks
        counts = [-(-n // part) for n, part in zip(self.shape, parts, strict=True)]
        found: list[list[str] | None] = []
        for number in sorted({int(n) for n in np.linspace(0, prod(counts) - 1, SAMPLES)}):
            numbers = tuple(map(int, np.unravel_index(number, counts)))
            try:
                found.append(stamp_of(self.path / key(numbers)))
            except OSError:
                found.append(None)
        return found


def open_source(source: Any, argument: str = "source") -> Source:
    """Return a source: a path, a URL of a Zarr array, or an array that can be sliced.

    FILE.npz:NAME, FILE.fits:NAME and FILE.fits:1 select one of several arrays; the default of FITS is the first image.
    A warning says what has to be known of a file.

    Raises:
        ConvolithError: a file that does not exist or is of no known kind; numbers that are not real.
    """
    found = _opened(source, argument)
    for notice in found.notices:
        warn(f"{argument} is {found.name}, {notice}")
    return found


def _opened(source: Any, argument: str) -> Source:
    """Return a source, without warnings."""
    path = place_of(selected(str(source))[0], argument) if isinstance(source, str | Path) else None
    if path is not None and not _exists(path, argument):
        raise ConvolithError(f"{argument} is {str(source)!r}, which does not exist")
    for is_kind, read in KINDS:
        if is_kind(source, path):
            try:
                found = read(source, path, argument)
            except ConvolithError as problem:
                if str(problem).startswith(f"{argument} "):
                    raise
                raise ConvolithError(f"{argument} is {str(source)!r}, which cannot be read: {problem}") from problem
            except Exception as problem:
                raise ConvolithError(
                    f"{argument} is {str(source)!r}, which cannot be read: {_first_line(problem)}"
                ) from problem
            break
    else:
        if isinstance(path, RemotePath):
            raise ConvolithError(f"{argument} is {str(source)!r}; expected the URL of a Zarr array; copy other files")
        reason = None if path is None else why_not_in_blocks(path.name)
        if reason is not None:
            raise ConvolithError(f"{argument} is {source}, which cannot be read block by block: it {reason}")
        raise ConvolithError(
            f"{argument} is {source if path else type(source).__name__!r}; expected a Zarr array, a TIFF, .npy, .npz "
            "or FITS file, or an array that can be sliced"
        )
    if found.dtype.kind not in "fiub":
        raise ConvolithError(f"{argument} has dtype {found.dtype}; expected real numbers")
    if not found.shape:
        raise ConvolithError(f"{argument} has no axes; expected an array of pixels")
    return found


def why_not_in_blocks(name: str) -> str | None:
    """Return why a kind of file cannot be read block by block, by the ending of its name; None for other kinds."""
    return next((reason for ending, reason in WHOLE.items() if name.lower().endswith(ending)), None)


def _exists(path: Place, argument: str) -> bool:
    try:
        return path.exists()
    except Exception as problem:
        raise ConvolithError(f"{argument} is {str(path)!r}, which cannot be read: {_first_line(problem)}") from problem


def _first_line(problem: Exception) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]


def _is_zarr_object(source: Any, _: Place | None) -> bool:
    return type(source).__module__.split(".")[0] == "zarr" and hasattr(source, "attrs")


def _zarr_object(source: Any, _: Place | None, __: str) -> Source:
    return _of_zarr(source, str(getattr(source, "store_path", "a Zarr array")), None)


def _is_zarr_folder(_: Any, path: Place | None) -> bool:
    return path is not None and path.is_dir() and any((path / name).exists() for name in ZARR_FILES)


def _zarr_folder(_: Any, path: Place | None, __: str) -> Source:
    zarr = needed("zarr", "big")
    return _of_zarr(zarr.open(str(path), mode="r"), str(path), path)


def _of_zarr(node: Any, name: str, path: Place | None) -> Source:
    """Return a Zarr array, or the finest level of a group in the OME-Zarr form."""
    attributes = dict(node.attrs)
    if attributes.get(COMPLETE) is False:
        raise ConvolithError(
            f"{name} is the unfinished result of a run; give the call that writes it again to finish it"
        )
    axes: tuple[str, ...] | None = None
    if not hasattr(node, "shape"):
        arrays, scales = sorted(node.keys()), attributes.get("ome", attributes).get("multiscales")
        if not scales:
            raise ConvolithError(
                f"{name} is a group with {', '.join(arrays) or 'nothing'} in it; name one of its arrays"
            )
        try:
            axes = tuple(axis["name"] if isinstance(axis, dict) else str(axis) for axis in scales[0].get("axes", ()))
            level = scales[0]["datasets"][0]["path"]
            node = node[level]
            if axes and len(axes) != len(node.shape):
                raise ValueError(f"axes {' '.join(axes)} of an array of shape {node.shape}")
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as problem:
            raise ConvolithError(
                f"{name} has multiscales that are not in the form of OME-Zarr ({type(problem).__name__}: {problem}); "
                f"name one of its arrays: {', '.join(arrays)}"
            ) from problem
        path = None if path is None else path / level
    names = getattr(node.metadata, "dimension_names", None) or node.attrs.get("_ARRAY_DIMENSIONS")
    if axes is None and isinstance(names, list | tuple) and len(names) == len(node.shape) and all(names):
        axes = tuple(map(str, names))
    attributes |= dict(node.attrs)
    nodata = _number(attributes.get("_FillValue", attributes.get("nodata")))
    files, compressed = chunk_files(node), bool(node.compressors)
    chunks = tuple(node.chunks)
    return Source(name, node, chunks, axes or None, nodata, attributes, path, files=files, compressed=compressed)


def _suffix(*endings: str) -> Callable[[Any, Place | None], bool]:
    return lambda _, path: isinstance(path, Path) and path.is_file() and path.name.lower().endswith(endings)


def _npz(source: Any, path: Any, argument: str) -> Source:
    """Return an array of an archive that is not compressed, whose bytes lie in the file as those of a .npy file do."""
    _, name = selected(str(source))
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        members = {one.filename.removesuffix(".npy"): one for one in archive.infolist()}
        if not members:
            raise ConvolithError(f"{argument} is {path}, which holds no array; write it with numpy.savez")
        if name is None and len(members) == 1:
            (name,) = members
        if name not in members:
            missing = "" if name is None else f" and no {name}"
            raise ConvolithError(
                f"{argument} is {path}, which holds {', '.join(members)}{missing}; name one: {path}:{min(members)}"
            )
        member = members[name]
        if member.compress_type != zipfile.ZIP_STORED:
            raise ConvolithError(
                f"{argument} is {path}, which cannot be read block by block: it is compressed; store its array by "
                "numpy.save, or by numpy.savez, which does not compress"
            )
        file.seek(member.header_offset + ZIP_LENGTHS)
        file.seek(sum(struct.unpack("<HH", file.read(4))), 1)
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, by_columns, dtype = read(file)
        order: Any = "F" if by_columns else "C"
        array = np.memmap(path, dtype, "r", file.tell(), shape, order)
    return Source(str(source), array, path=path, part=name)


def _npy(_: Any, path: Any, argument: str) -> Source:
    with path.open("rb") as file:
        beginning = file.read(len(np.lib.format.MAGIC_PREFIX))
    if beginning != np.lib.format.MAGIC_PREFIX:
        raise ConvolithError(
            f"{argument} is {path}, which cannot be read: it begins with {beginning!r}, not as a file of numpy.save "
            "does; write it with numpy.save"
        )
    array = np.load(str(path), mmap_mode="r", allow_pickle=False)
    return Source(str(path), array, path=path)


def _tiff(_: Any, path: Any, argument: str) -> Source:
    tifffile = needed("tifffile", "big")
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        axes = tuple(series.axes.lower())
        page, tags = series.keyframe, series.keyframe.tags
        kind = "" if page.photometric is None else page.photometric.name
        check_colours(argument, path, kind, page.compression)
        colours = page.colormap if kind == "PALETTE" and not (file.is_ome or file.is_imagej) else None
        notices = [one for one in (white_is_zero(kind, page.dtype), left_out(file.series)) if one is not None]
        attributes = _tags(tags)
        turn = TURNS.get(tags[ORIENTATION].value) if ORIENTATION in tags and "YX" in series.axes else None
        if file.is_ome:
            attributes |= _ome(tifffile.xml2dict(file.ome_metadata), axes)
        places, compressed = places_of(series), series.keyframe.compression != 1
    array = tiff_array(path) if places is None else RawTiff(path, places)
    chunks, nodata = tuple(array.chunks), _number(attributes.pop("nodata", None))
    if colours is not None:
        array, chunks, axes = LookedUp(array, palette(colours)), (*chunks, 3), (*axes, "s")
        attributes["PhotometricInterpretation"] = RGB
    elif array.dtype == np.bool_:  # black and white, as they look
        array = LookedUp(array, np.array((WHITE, 0) if kind == "MINISWHITE" else (0, WHITE), np.uint8))
        attributes["PhotometricInterpretation"] = MINISBLACK
    if turn is not None:
        if attributes.keys() & GEOTIFF.keys():
            raise ConvolithError(
                f"{path} has a place on the earth and an Orientation tag that is not 1, which programs read in "
                "different ways; write it anew without the tag, such as with gdal_translate"
            )
        array = Upright(array, axes.index("y"), turn)
        chunks = array.in_order(chunks)
        if turn[0] and "XResolution" in attributes and "YResolution" in attributes:
            x, y = attributes["XResolution"], attributes["YResolution"]
            attributes |= {"XResolution": y, "YResolution": x}
    about: dict[str, Any] = {"direct": places is not None, "compressed": compressed, "notices": tuple(notices)}
    return Source(str(path), array, chunks, axes, nodata, attributes, path, **about)


def check_colours(argument: str, file: Path, photometric: str, compression: int = 1) -> None:
    """Refuse pixels that are no amounts of light.

    Raises:
        ConvolithError: inks, or a brightness with two colour differences.
    """
    if photometric in INKS:
        raise ConvolithError(f"{argument} is {file}, whose pixels are {INKS[photometric]}; convert it to RGB first")
    if photometric in OTHER_COLOURS and compression not in JPEG_COMPRESSIONS:
        raise ConvolithError(
            f"{argument} is {file}, whose pixels are {photometric} values, not amounts of light; convert it to "
            "RGB first"
        )


def white_is_zero(photometric: str, dtype: Any) -> str | None:
    """Return the notice of numbers of which 0 is white; None for others, and for black and white."""
    if photometric != "MINISWHITE" or dtype == np.bool_:
        return None
    read = "its values are read as they are stored, as tifffile and scikit-image read them"
    return f"in which 0 is white (MINISWHITE); {read}"


def left_out(series: Any) -> str | None:
    """Return the notice of pages of another size or dtype, which the first series does not hold; None without any."""
    if len(series) < 2:
        return None
    sizes = ", ".join(" x ".join(map(str, one.shape)) for one in series[1:4])
    return (
        f"which also holds pictures of another size or dtype ({sizes}); only the first is read, "
        f"{' x '.join(map(str, series[0].shape))}"
    )


def palette(colormap: np.ndarray) -> np.ndarray:
    """Return the colours of a palette, (count, 3) of 8 bits."""
    return np.moveaxis(colormap >> 8, 0, -1).astype(np.uint8)


def tiff_array(path: Path) -> Any:
    """Return the finest level of a TIFF file as a Zarr array."""
    store = needed("tifffile", "big").imread(path, aszarr=True, level=0)
    node = needed("zarr", "big").open(store, mode="r")
    weakref.finalize(node, store.close)
    return node


GEOTIFF = {
    "ModelPixelScaleTag": (33550, 12),
    "ModelTiepointTag": (33922, 12),
    "ModelTransformationTag": (34264, 12),
    "GeoKeyDirectoryTag": (34735, 3),
    "GeoDoubleParamsTag": (34736, 12),
    "GeoAsciiParamsTag": (34737, 2),
    "GDAL_METADATA": (42112, 2),
}
"""TIFF tags of the place of an image on the earth: their codes, and the codes of their dtypes."""
LOOKS = ("PhotometricInterpretation", "ExtraSamples", "ResolutionUnit")
"""TIFF tags of whole numbers that a result keeps."""
UNITS = {
    "Å": "angstrom",
    "nm": "nanometer",
    "µm": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "m": "meter",
    "km": "kilometer",
    "in": "inch",
    "ft": "foot",
    "µs": "microsecond",
    "ms": "millisecond",
    "s": "second",
    "min": "minute",
    "h": "hour",
    "d": "day",
}
"""Units in OME-XML, and their names in OME-Zarr."""
ZIP_LENGTHS = 26
"""Place of the lengths of a member's name and extra field in its header, which its bytes follow."""
KINDS_OF_AXES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
"""Names of axes, and their types in OME-Zarr."""


def _tags(tags: Any) -> dict[str, Any]:
    """Return the TIFF tags that a result keeps, by name, as plain numbers, lists and texts."""
    found: dict[str, Any] = {}
    for name in (*GEOTIFF, *LOOKS):
        if name in tags:
            value = tags[name].value
            several = isinstance(value, tuple)
            found[name] = value if isinstance(value, str) else list(value) if several else int(value)
    for name in ("XResolution", "YResolution"):
        if name in tags and tags[name].value[1]:
            found[name] = tags[name].value[0] / tags[name].value[1]
    if "GDAL_NODATA" in tags:
        found["nodata"] = str(tags["GDAL_NODATA"].value).strip("\x00 ")
    return found


def _ome(described: dict[str, Any], axes: tuple[str, ...]) -> dict[str, Any]:
    """Return the sizes of pixels in the OME-XML of a TIFF file, in the form that OME-Zarr has for them."""
    image = described["OME"]["Image"]
    pixels = (image[0] if isinstance(image, list | tuple) else image)["Pixels"]
    named, scale = [], []
    for axis in axes:
        key, usual = ("TimeIncrement", "s") if axis == "t" else (f"PhysicalSize{axis.upper()}", "µm")
        about = {"name": axis} | ({"type": KINDS_OF_AXES[axis]} if axis in KINDS_OF_AXES else {})
        if key in pixels:
            unit = UNITS.get(pixels.get(f"{key}Unit", usual))
            about |= {} if unit is None else {"unit": unit}
        named.append(about)
        scale.append(float(pixels.get(key, 1)))
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
    return {"ome": {"version": "0.5", "multiscales": [{"axes": named, "datasets": [level]}]}}


def _number(value: Any) -> float | None:
    """Return the number that stands for a missing pixel, which attributes and tags may give as a text.

    It is a number, such as "NaN", or, as xarray writes it, the eight bytes of a float in base 64.

    Raises:
        ConvolithError: something else.
    """
    if value is None:
        return None
    with suppress(TypeError, ValueError):
        return float(value)
    with suppress(TypeError, ValueError, struct.error):
        (number,) = struct.unpack("<d", base64.b64decode(value, validate=True))
        return float(number)
    raise ConvolithError(f"{shown(value)}, which is said to stand for missing pixels, is no number")


def _fits(source: Any, path: Place | None, argument: str) -> Source:
    fits = needed("astropy.io.fits", "fits")
    _, name = selected(str(source))
    with fits.open(path, memmap=True) as file:
        images = {
            number: unit.name for number, unit in enumerate(file) if unit.is_image and 0 not in (unit.shape or (0,))
        }
        chosen = [number for number, own in images.items() if name in (None, str(number)) or name.upper() == own]
        if not chosen:
            names = ", ".join(f"{number} ({own})" if own else str(number) for number, own in images.items())
            raise ConvolithError(f"{argument} is {source}, which has no image{f'; it holds {names}' if names else ''}")
        number = chosen[0]
        header, packed = with_primary(file[number].header, file[0]), isinstance(file[number], fits.CompImageHDU)
    with fits.open(path, memmap=not packed, do_not_scale_image_data=not packed) as file:  # what is mapped stays so
        data = file[number].data  # of packed images the whole
    pixels = data if packed else scaled(data, header)
    text = header.tostring("\n", endcard=False, padding=False)
    part = None if number == min(images) else str(number)
    return Source(str(source), pixels, attributes={"fits_header": text}, path=path, part=part)


def with_primary(header: Any, primary: Any) -> Any:
    """Return a copy of a unit's header with the cards of a primary unit that holds no picture: they describe it too."""
    result = header.copy()
    if 0 in (primary.shape or (0,)):
        result.extend(primary.header.cards, strip=True, unique=True)
    return result


def _is_array(source: Any, _: Place | None) -> bool:
    return hasattr(source, "shape") and hasattr(source, "dtype") and hasattr(source, "__getitem__")


def _array(source: Any, _: Place | None, __: str) -> Source:
    chunks = getattr(source, "chunks", None)
    if chunks is not None and all(isinstance(n, tuple) for n in chunks):  # a Dask array's
        chunks = tuple(max(n) for n in chunks)
    return Source(type(source).__name__, source, chunks)


KINDS: tuple[tuple[Callable[[Any, Place | None], bool], Callable[[Any, Place | None, str], Source]], ...] = (
    (_is_zarr_object, _zarr_object),
    (_is_zarr_folder, _zarr_folder),
    (_suffix(".npy"), _npy),
    (_suffix(NPZ), _npz),
    (_suffix(*TIFF), _tiff),
    (_suffix(*FITS), _fits),
    (_is_array, _array),
)
"""Kinds of sources: whether something is one, and how it is opened."""

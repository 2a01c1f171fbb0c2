"""Sources of pixels that need not fit into memory: one row of `KINDS` for each kind of file or array.

A source can be sliced, and knows its shape, dtype, chunks and axes. Nothing is read before a block asks for it.
"""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from convolith.errors import ConvolithError

ZARR_FILES = ("zarr.json", ".zarray", ".zgroup")
TIFF = (".tif", ".tiff")
FITS = (".fits", ".fit", ".fts")


@dataclass(frozen=True, eq=False)
class Source:
    """Pixels that can be sliced.

    Attributes:
        name: what it is called in messages.
        array: supports `array[slices]`, `shape` and `dtype`.
        chunks: shape of the parts that are stored one by one; None where any part can be read alone.
        axes: names of the axes, such as `("c", "y", "x")`, or None.
        nodata: number that stands for a missing pixel, or None.
        attributes: metadata that the result keeps.
        path: file or folder, or None.
    """

    name: str
    array: Any
    chunks: tuple[int, ...] | None = None
    axes: tuple[str, ...] | None = None
    nodata: float | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the pixels."""
        kind: np.dtype[Any] = np.dtype(self.array.dtype)
        return kind

    def fingerprint(self) -> dict[str, Any]:
        """Return what must stay the same for an interrupted run to go on: sizes, dtype, and the state of the files."""
        found: dict[str, Any] = {"shape": list(self.shape), "dtype": str(self.dtype), "chunks": self.chunks}
        if self.path is not None and self.path.is_file():
            status = self.path.stat()
            found |= {"bytes": status.st_size, "modified": status.st_mtime_ns}
        elif self.path is not None and self.path.is_dir():
            names = sorted(path for name in ZARR_FILES for path in self.path.glob(name))
            found["metadata"] = hashlib.sha256(b"".join(path.read_bytes() for path in names)).hexdigest()
        plain: dict[str, Any] = json.loads(json.dumps(found))
        return plain


def open_source(source: Any, argument: str = "source") -> Source:
    """Return a source: a path, or an array that can be sliced.

    Raises:
        ConvolithError: a file that does not exist or is of no known kind; numbers that are not real.
    """
    path = Path(source) if isinstance(source, str | Path) else None
    if path is not None and not path.exists():
        raise ConvolithError(f"{argument} is {str(source)!r}, which does not exist")
    for is_kind, read in KINDS:
        if is_kind(source, path):
            try:
                found = read(source, path)
            except ConvolithError:
                raise
            except Exception as problem:
                raise ConvolithError(
                    f"{argument} is {str(source)!r}, which cannot be read: {_first_line(problem)}"
                ) from problem
            break
    else:
        raise ConvolithError(
            f"{argument} is {source if path else type(source).__name__!r}; expected a Zarr array, a TIFF, .npy or FITS "
            "file, or an array that can be sliced"
        )
    if found.dtype.kind not in "fiub":
        raise ConvolithError(f"{argument} has dtype {found.dtype}; expected real numbers")
    if not found.shape:
        raise ConvolithError(f"{argument} has no axes; expected an array of pixels")
    return found


def _first_line(problem: Exception) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]


def _is_zarr_object(source: Any, _: Path | None) -> bool:
    return type(source).__module__.split(".")[0] == "zarr" and hasattr(source, "attrs")


def _zarr_object(source: Any, _: Path | None) -> Source:
    return _of_zarr(source, str(getattr(source, "store_path", "a Zarr array")), None)


def _is_zarr_folder(_: Any, path: Path | None) -> bool:
    return path is not None and path.is_dir() and any((path / name).exists() for name in ZARR_FILES)


def _zarr_folder(_: Any, path: Path | None) -> Source:
    zarr = needed("zarr", "big")
    return _of_zarr(zarr.open(str(path), mode="r"), str(path), path)


def _of_zarr(node: Any, name: str, path: Path | None) -> Source:
    """Return a Zarr array, or the finest level of a group in the OME-Zarr form."""
    attributes = dict(node.attrs)
    axes: tuple[str, ...] | None = None
    if not hasattr(node, "shape"):
        scales = attributes.get("ome", attributes).get("multiscales")
        if not scales:
            raise ConvolithError(
                f"{name} is a group with {', '.join(sorted(node.keys())) or 'nothing'} in it; name one of its arrays"
            )
        axes = tuple(axis["name"] if isinstance(axis, dict) else str(axis) for axis in scales[0].get("axes", ()))
        level = scales[0]["datasets"][0]["path"]
        path = None if path is None else path / level
        node = node[level]
    names = getattr(node.metadata, "dimension_names", None) or node.attrs.get("_ARRAY_DIMENSIONS")
    if axes is None and names and all(names):
        axes = tuple(map(str, names))
    own = dict(node.attrs)
    nodata = own.get("_FillValue", own.get("nodata"))
    return Source(name, node, tuple(node.chunks), axes or None, nodata, attributes | own, path)


def _suffix(*endings: str) -> Callable[[Any, Path | None], bool]:
    return lambda _, path: path is not None and path.is_file() and path.name.lower().endswith(endings)


def _npy(_: Any, path: Path | None) -> Source:
    array = np.load(str(path), mmap_mode="r", allow_pickle=False)
    return Source(str(path), array, path=path)


def _tiff(_: Any, path: Path | None) -> Source:
    zarr = needed("zarr", "big")
    tifffile = needed("tifffile", "big")
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        axes = tuple(series.axes.lower())
        tag = series.keyframe.tags.get("GDAL_NODATA")
        geography = {n: series.keyframe.tags[n].value for n in GEOTIFF if n in series.keyframe.tags}
    store = tifffile.imread(path, aszarr=True, level=0)
    node = zarr.open(store, mode="r")
    nodata = None if tag is None else float(str(tag.value).strip("\x00 "))
    found = Source(str(path), node, tuple(node.chunks), axes, nodata, geography, path)
    weakref.finalize(found, store.close)
    return found


GEOTIFF = ("ModelPixelScaleTag", "ModelTiepointTag", "ModelTransformationTag", "GeoKeyDirectoryTag")
"""TIFF tags of the place of an image on the earth."""


def _fits(_: Any, path: Path | None) -> Source:
    fits = needed("astropy.io.fits", "fits")
    file = fits.open(path, memmap=True)
    with file:  # what is mapped stays so
        image = next((part for part in file if part.header.get("NAXIS", 0) and part.is_image), None)
        if image is None:
            raise ConvolithError(f"{path} has no image")
        return Source(str(path), image.data, attributes={"header": image.header.tostring()}, path=path)


def _is_array(source: Any, _: Path | None) -> bool:
    return hasattr(source, "shape") and hasattr(source, "dtype") and hasattr(source, "__getitem__")


def _array(source: Any, _: Path | None) -> Source:
    chunks = getattr(source, "chunks", None)
    if chunks is not None and all(isinstance(n, tuple) for n in chunks):  # a Dask array's
        chunks = tuple(max(n) for n in chunks)
    return Source(type(source).__name__, source, chunks)


KINDS: tuple[tuple[Callable[[Any, Path | None], bool], Callable[[Any, Path | None], Source]], ...] = (
    (_is_zarr_object, _zarr_object),
    (_is_zarr_folder, _zarr_folder),
    (_suffix(".npy"), _npy),
    (_suffix(*TIFF), _tiff),
    (_suffix(*FITS), _fits),
    (_is_array, _array),
)
"""Kinds of sources: whether something is one, and how it is opened."""


def needed(module: str, extra: str) -> Any:
    """Import a module of an extra.

    Raises:
        ConvolithError: if it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as problem:
        package = module.split(".")[0]
        raise ConvolithError(
            f"{package} is not installed, which this needs; pip install 'convolith[{extra}]'"
        ) from problem

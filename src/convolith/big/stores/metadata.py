"""Metadata of a result: those of the source, with places that follow the pixels.

Places are kept in the form that the source has: OME-Zarr's scales (OME-TIFF's are read into it), GeoTIFF's tags, the
header of a FITS file. They follow the pixels by one rule: a result lies at the centre of its window, element
`(extent - 1) // 2`, as everywhere in Convolith (`convolith.geometry.Grid`).
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from convolith.big.stores.places import needed
from convolith.big.stores.sources import COMPLETE, GEOTIFF, Source
from convolith.big.windows import Geometry
from convolith.errors import warn
from convolith.geometry import Grid, extent
from convolith.version import __version__

LEFT_OUT = ("_ARRAY_DIMENSIONS", COMPLETE)
"""Attributes that the result gets in another form, or by its own right."""
NODATA = ("_FillValue", "nodata")
"""Attributes that name the number of missing pixels; the last one is written where the source has none."""
RASTER_TYPE, POINT = 1025, 2
"""Key of a GeoTIFF that says what its coordinates name, and the value for centres of pixels rather than corners."""
STRUCTURE = r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|PCOUNT|GCOUNT|BLANK|CHECKSUM|DATASUM|DATAMIN|DATAMAX|BSCALE|BZERO"
"""Keywords of a FITS header that describe the stored numbers of the source, not the picture."""


def grids_of(geometry: Geometry) -> dict[int, Grid]:
    """Return where the pixels of a result lie among those of the source, by axis."""
    return {
        axis: Grid((extent(k, d) - 1) // 2 - before, s)
        for axis, k, s, (before, _), d in zip(
            geometry.axes, geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation, strict=True
        )
    }


def moved(
    source: Source, geometry: Geometry, history: str, nodata: float | None = None
) -> tuple[dict[str, Any], str, tuple[str, ...] | None]:
    """Return the attributes of a result, the name of its array within a group (or ""), and the names of its axes.

    Args:
        source: the array that is correlated.
        geometry: how the kernel slides.
        history: what was done, in a line.
        nodata: number of the result that stands for a missing pixel, or None.
    """
    attributes: dict[str, Any] = {
        name: copy.deepcopy(value) for name, value in source.attributes.items() if name not in LEFT_OUT
    }
    grids = grids_of(geometry)
    own = attributes.get("ome", attributes)
    group = ""
    if isinstance(own, dict) and own.get("multiscales"):
        with _or_left_out(source, own, "multiscales"):
            own["multiscales"] = [_finest(own["multiscales"][0], geometry)]
            group = "0" if _is_image(own["multiscales"][0].get("axes", ())) else ""
    y, x = (grids.get(axis, Grid()) for axis in rows_and_columns(source))
    with _or_left_out(source, attributes, *GEOTIFF):
        attributes |= geography(attributes, x, y)
    for name, grid in (("XResolution", x), ("YResolution", y)):
        with _or_left_out(source, attributes, name):
            attributes |= {name: attributes[name] / grid.step} if name in attributes else {}
    if "fits_header" in attributes:
        with _or_left_out(source, attributes, "fits_header"):
            attributes["fits_header"] = moved_header(attributes["fits_header"], grids, len(geometry.shape), history)
    if nodata is not None:
        stored: Any = "NaN" if np.isnan(nodata) else int(nodata) if float(nodata).is_integer() else float(nodata)
        names = [name for name in NODATA if name in attributes]
        attributes |= dict.fromkeys(names or NODATA[-1:], stored)
    attributes["history"] = [*_lines(attributes.get("history")), f"convolith {__version__}: {history}"]
    return attributes, group, source.axes


@contextmanager
def _or_left_out(source: Source, attributes: dict[str, Any], *names: str) -> Iterator[None]:
    """Return a context that moves attributes of a result; if these are not in their form, it leaves them out."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as problem:
        lost = [name for name in names if attributes.pop(name, None) is not None]
        reason = (str(problem) or type(problem).__name__).splitlines()[0]
        warn(f"the result has no {', '.join(lost)}: those of {source.name} are not in their form ({reason})")


def _lines(history: Any) -> list[str]:
    if history is None:
        return []
    return [str(line) for line in history] if isinstance(history, list | tuple) else [str(history)]


def rows_and_columns(source: Source) -> tuple[int, int]:
    """Return the axes of a source named y and x, or its last two."""
    names = source.axes or ()
    if "y" in names and "x" in names:
        return names.index("y"), names.index("x")
    count = len(source.shape)
    return count - 2, count - 1


def _finest(scales: dict[str, Any], geometry: Geometry) -> dict[str, Any]:
    """Return the description of an image of one level: its scale and translation follow stride and padding."""
    result = {name: value for name, value in scales.items() if name != "datasets"}
    first = scales["datasets"][0]
    changes = first.get("coordinateTransformations", [])
    count = len(geometry.shape)
    scale = next((list(c["scale"]) for c in changes if c.get("type") == "scale"), [1.0] * count)
    shift = next((list(c["translation"]) for c in changes if c.get("type") == "translation"), [0.0] * count)
    for axis, grid in grids_of(geometry).items():
        shift[axis] += grid.start * scale[axis]
        scale[axis] *= grid.step
    transforms: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if any(shift):
        transforms.append({"type": "translation", "translation": shift})
    result["datasets"] = [{"path": "0", "coordinateTransformations": transforms}]
    return result


def _is_image(axes: Sequence[Any]) -> bool:
    """Return whether axes are in an order that OME-Zarr has: those of space last, and nothing that it does not know."""
    if not all(isinstance(axis, dict) for axis in axes):
        return True  # versions before 0.4
    spaces = [axis.get("type") == "space" for axis in axes]
    return spaces == sorted(spaces) and all(axis.get("name") != "s" for axis in axes)


def pixel_sizes(attributes: Mapping[str, Any], count: int) -> list[tuple[str, float, str | None]] | None:
    """Return the name, the size and the unit of a pixel along each axis of an OME image, or None for another one.

    Args:
        attributes: attributes of the image.
        count: number of its axes.
    """
    own = attributes.get("ome", attributes)
    scales = own.get("multiscales") if isinstance(own, Mapping) else None
    if not scales:
        return None
    axes = scales[0].get("axes", ())
    if len(axes) != count or not all(isinstance(axis, dict) and "name" in axis for axis in axes):
        return None
    sizes = np.ones(count)
    for where in (scales[0]["datasets"][0], scales[0]):
        for change in where.get("coordinateTransformations", ()):
            sizes = sizes * change["scale"] if change.get("type") == "scale" else sizes
    return [(axis["name"], float(size), axis.get("unit")) for axis, size in zip(axes, sizes, strict=True)]


def geography(tags: Mapping[str, Any], x: Grid, y: Grid) -> dict[str, Any]:
    """Return the tags of a GeoTIFF that change where its pixels are other ones of the source.

    Where coordinates name corners, pixel i is centred at i + 1/2, so that the coordinate u of the result is
    `step * u + start + (1 - step) / 2` of the source; where they name centres, it is `step * u + start`.

    Args:
        tags: attributes of the source, by the names of the tags.
        x, y: where the columns and rows of the result lie among those of the source.
    """
    found: dict[str, Any] = {}
    keys = tags.get("GeoKeyDirectoryTag", ())
    points = any(keys[at] == RASTER_TYPE and keys[at + 3] == POINT for at in range(4, len(keys) - 3, 4))
    starts = [grid.start + (0 if points else (1 - grid.step) / 2) for grid in (x, y)]
    if "ModelTransformationTag" in tags:
        to_source = np.diag([x.step, y.step, 1.0, 1.0])
        to_source[:2, 3] = starts
        matrix = np.reshape(tags["ModelTransformationTag"], (4, 4)) @ to_source
        found["ModelTransformationTag"] = matrix.ravel().tolist()
    sizes, ties = tags.get("ModelPixelScaleTag"), tags.get("ModelTiepointTag")
    if sizes is not None:
        found["ModelPixelScaleTag"] = [sizes[0] * x.step, sizes[1] * y.step, *sizes[2:]]
    if ties is not None:
        control = np.reshape(np.array(ties, float), (-1, 6))
        for axis, (grid, start, sign) in enumerate(zip((x, y), starts, (1, -1), strict=True)):
            if sizes is None:  # control points keep their places on the earth, and are other pixels
                control[:, axis] = (control[:, axis] - start) / grid.step
            else:
                own = control[:, axis]
                control[:, 3 + axis] += sign * sizes[axis] * (grid.step * own + start - own)
        found["ModelTiepointTag"] = control.ravel().tolist()
    if "GDAL_METADATA" in tags:  # without the statistics of the source's pixels
        found["GDAL_METADATA"] = re.sub(r'\s*<Item name="STATISTICS_[^>]*>[^<]*</Item>', "", tags["GDAL_METADATA"])
    return found


def moved_header(text: str, grids: Mapping[int, Grid], axes: int, history: str) -> str:
    """Return the cards of a FITS header, a line each, for a result; see `follow_pixels`."""
    header = needed("astropy.io.fits", "fits").Header.fromstring(text, sep="\n")
    for name in [name for name in header if re.fullmatch(STRUCTURE, name)]:
        header.remove(name, ignore_missing=True, remove_all=True)
    follow_pixels(header, grids, axes, history)
    found: str = header.tostring("\n", endcard=False, padding=False)
    return found


def unit_of(source: Source) -> str | None:
    """Return the unit of the numbers of a FITS file (BUNIT), or None if nothing says it."""
    text = source.attributes.get("fits_header")
    if not isinstance(text, str) or "BUNIT" not in text:
        return None
    return str(needed("astropy.io.fits", "fits").Header.fromstring(text, sep="\n").get("BUNIT", "")).strip() or None


def follow_pixels(header: Any, grids: Mapping[int, Grid], axes: int, history: str) -> None:
    """Let the coordinates of a FITS header follow the pixels of a result, and add a HISTORY card.

    Args:
        header: the cards of the source, an `astropy.io.fits.Header`, which is changed.
        grids: by axis of the array, where the result's pixels lie; other axes are unchanged.
        axes: number of axes of the array.
        history: what was done.
    """
    by_number = {axes - axis: grid for axis, grid in grids.items()}  # FITS counts axes from the last
    turned = any(re.fullmatch(r"PC\d+_\d+[A-Z]?", name) for name in header)  # steps of pixels are in PC, not in CDELT
    for name in list(header):
        match = re.fullmatch(r"(CRPIX|CDELT)(\d+)([A-Z]?)|(?:CD|PC)(\d+)_(\d+)([A-Z]?)", name)
        value = header[name] if match else None
        if match is None or isinstance(value, bool | str) or value is None or (turned and match[1] == "CDELT"):
            continue
        grid = by_number.get(int(match[2] or match[5]), Grid())
        header[name] = grid.reference_pixel(value) if match[1] == "CRPIX" else value * grid.step
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a long line becomes several cards
        header.add_history(f"convolith {__version__}: {history}")

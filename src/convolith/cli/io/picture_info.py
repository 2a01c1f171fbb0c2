"""What a file says about a picture beyond its pixels: names of axes, pixel size, colour profile, the camera's notes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from convolith.errors import ConvolithError
from convolith.geometry import Grid

EXIF, GPS = 0x8769, 0x8825
"""EXIF tags of the directories of the camera's and of the receiver's notes."""
DESCRIPTION = 0x010E
TITLES = range(0x9C9B, 0x9CA0)
DESCRIPTIVE = {DESCRIPTION, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x4746, 0x8298, 0x9286, EXIF, GPS, *TITLES}
"""EXIF tags that describe a picture and not how a file stores it: camera, software, date, author, rating, comments."""
STORED_SIZE = (0xA002, 0xA003)
"""EXIF tags of the camera's notes that repeat the number of pixels."""
INCH_IN_CENTIMETRES = 2.54
STEPS = {
    "X": ("PhysicalSizeX",),
    "Y": ("PhysicalSizeY",),
    "Z": ("PhysicalSizeZ", "spacing"),
    "T": ("TimeIncrement", "finterval"),
}
"""Notes of microscopes that grow with the step along an axis."""


class PictureInfo(NamedTuple):
    """Notes on a picture that a result keeps."""

    axes: str = ""
    """A letter for each axis, as `tifffile` has them: "ZYX", "YXS"; empty if the file names none."""
    icc: bytes | None = None
    """Colour profile."""
    exif: Any = None
    """`PIL.Image.Exif` of descriptive tags, upright."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch, along x and along y."""
    per: tuple[float, float] | None = None
    """Pixels along x and y per unit of `notes`, where the file has no inches: of ImageJ."""
    notes: Mapping[str, Any] = {}
    """Metadata of a microscope: physical sizes and names."""
    form: str = ""
    """Convention that a TIFF follows: "ome", "imagej" or none."""
    samples: tuple[str, tuple[int, ...]] | None = None
    """Photometric interpretation and extra samples of a TIFF."""

    def swapped(self) -> PictureInfo:
        """Return the notes on a picture whose rows became columns."""
        dpi, per = (None if one is None else (one[1], one[0]) for one in (self.dpi, self.per))
        return self._replace(dpi=dpi, per=per)

    def after(self, grids: Mapping[int, Grid], *, recoloured: bool) -> PictureInfo:
        """Return the notes on a result.

        Args:
            grids: where the result's pixels lie among those of the picture, by axis.
            recoloured: whether the result has other channels than the picture.
        """
        names = self.axes or ("YX" if max(grids, default=0) <= 1 else "")
        steps = {names[axis]: grid.step for axis, grid in grids.items() if axis < len(names)}
        step = (steps.get("X", 1), steps.get("Y", 1))
        notes = dict(self.notes)
        for axis, keys in STEPS.items():
            notes |= {key: notes[key] * steps.get(axis, 1) for key in keys if isinstance(notes.get(key), int | float)}
        dpi, per = (None if one is None else (one[0] / step[0], one[1] / step[1]) for one in (self.dpi, self.per))
        kept = self._replace(dpi=dpi, per=per, notes=notes)
        return kept._replace(icc=None, samples=None) if recoloured else kept


def upright(exif: Any) -> Any:
    """Return the descriptive tags of a picture's `PIL.Image.Exif`, of a picture that is upright now; None if empty."""
    from PIL import Image

    result = Image.Exif()
    for tag in exif:
        if tag in (EXIF, GPS):
            result.get_ifd(tag).update(exif.get_ifd(tag))
            result[tag] = result.get_ifd(tag)
        elif tag in DESCRIPTIVE:
            result[tag] = exif[tag]
    for tag in STORED_SIZE if EXIF in result else ():
        result.get_ifd(EXIF).pop(tag, None)
    return result if len(result) else None


def named_axes(names: str, axes: str, ndim: int, argument: str = "INPUT") -> tuple[int, ...]:
    """Return the axes of a file that a user named.

    Args:
        names: the names.
        axes: names of all axes, as in `PictureInfo`.
        ndim: number of axes.
        argument: the name of the file, for messages.

    Raises:
        ConvolithError: names that the file does not have.
    """
    upper = names.upper()
    if not axes:
        raise ConvolithError(f"--axes is {names!r}; {argument} has no names of axes: give numbers, such as 1,2")
    if any(name not in axes for name in upper) or len(set(upper)) < len(upper):
        have = ", ".join(f"{name} ({number})" for number, name in enumerate(axes[:ndim]))
        raise ConvolithError(f"--axes is {names!r}; {argument} has the axes {have}; name some of them, once each")
    return tuple(axes.index(name) for name in upper)

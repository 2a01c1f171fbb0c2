"""Input files of `convolith fit`: images and arrays as the data of a fit, one pair or many."""

from __future__ import annotations

import re
from glob import glob, has_magic
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from convolith.cli.fit.stacks import Stack, check_one_reading, stacks_of
from convolith.cli.io.files import is_fits, read_array, read_picture
from convolith.cli.io.fits import Unit
from convolith.cli.io.fits_headers import unit_of
from convolith.cli.io.picture_info import PictureInfo
from convolith.correlation.nddata import weights_of_variance
from convolith.errors import ConvolithError
from convolith.fitting.data.shapes import spatial_axes
from convolith.fitting.data.units import warn_of_units


class Files(NamedTuple):
    """File names of a pair, and of the masks and variances of its pictures or None."""

    before: str
    after: str
    mask: str | None
    before_mask: str | None
    variance: str | None
    before_variance: str | None


class Pair(NamedTuple):
    """The data of a fit.

    Attributes:
        x, y: the arrays, with an axis of channels.
        pixels: `mask`, `x_mask` and `weights` of `fit`, or None.
        cropped: whether y is as large as x, so that its border is left out.
        shape: shape of AFTER in its file.
        header: FITS header of AFTER, or None.
        variances: variances of the pixels of BEFORE and AFTER, or None, as in their files.
        picture: whether a last axis of three axes of AFTER is channels.
        info: what the file of AFTER says beyond its pixels.
        stack: layout of AFTER if it is a stack of images with one kernel.
    """

    x: np.ndarray
    y: np.ndarray
    pixels: dict[str, Any]
    cropped: bool
    shape: tuple[int, ...]
    header: Any
    variances: tuple[np.ndarray | None, np.ndarray | None]
    picture: bool = False
    info: PictureInfo = PictureInfo()
    stack: Stack | None = None


def pairs_of(before: str, after: str, **others: str | None) -> list[Files]:
    """Return the files that match the patterns, in the order of their names; one other file serves all pairs.

    Args:
        before, after: patterns of the pictures.
        others: patterns of the other files of `Files`, or None.

    Raises:
        ConvolithError: a pattern that no file matches, patterns that match different numbers of files.
    """
    befores, afters = _matching("BEFORE", before), _matching("AFTER", after)
    if len(befores) != len(afters):
        raise ConvolithError(
            f"BEFORE matches {len(befores)} files and AFTER {len(afters)}; expected equal numbers; files are paired "
            f"in the order of their names, {befores[0]} with {afters[0]} first"
        )
    more = (_others(f"--{name.replace('_', '-')}", others[name], len(befores)) for name in Files._fields[2:])
    return [Files(*names) for names in zip(befores, afters, *more, strict=True)]


def _others(option: str, pattern: str | None, pairs: int) -> list[str] | list[None]:
    """Return a file for each pair: several that match, or one for all."""
    if pattern is None:
        return [None] * pairs
    files = _matching(option, pattern)
    if len(files) not in (1, pairs):
        raise ConvolithError(f"{option} matches {len(files)} files; expected one, or one for each of {pairs} pairs")
    return files * pairs if len(files) == 1 else files


def read_pair(files: Files, options: dict[str, Any], *, mix: bool, plane_axes: Any = None) -> Pair:
    """Read a pair as the data of a fit.

    Args:
        files: names of the files.
        options: kernel_size, stride, padding and dilation.
        mix: whether the kernel maps all channels of an image to all channels, or each channel separately.
        plane_axes: axes that the kernel runs along in a stack, whose other axes are images, or None.
    """
    first, second = (read_picture(name, path) for name, path in (("BEFORE", files.before), ("AFTER", files.after)))
    size = options["kernel_size"]
    stacks: tuple[Stack | None, Stack | None] = (None, None)
    if plane_axes is not None:
        stacks = stacks_of(first, second, plane_axes, size)
        x, y = (stack.images(unit.array) for stack, unit in zip(stacks, (first, second), strict=True))
        axes = len(stacks[0].places)
        x, y = (x, y) if len(x) == 1 else (x[:, None], y[:, None])
    else:
        x, y, axes = _images(first, second, size, mix=mix)
    warn_of_units(unit_of(first.header), unit_of(second.header))
    pixels: dict[str, Any] = {
        name: None if path is None else _in_images(read_array(option, path), stack) != 0
        for name, option, path, stack in (
            ("mask", "--mask", files.mask, stacks[1]),
            ("x_mask", "--before-mask", files.before_mask, stacks[0]),
        )
    }
    variances = tuple(
        None if path is None else _in_images(read_array(option, path), stack).astype(float)
        for option, path, stack in (
            ("--before-variance", files.before_variance, stacks[0]),
            ("--variance", files.variance, stacks[1]),
        )
    )
    checked = zip(("--before-mask", "--mask", "--before-variance", "--variance"), (x, y, x, y), strict=True)
    given = (pixels["x_mask"], pixels["mask"], *variances)
    for (option, data), array in zip(checked, given, strict=True):
        if (
            array is not None
            and array.ndim == axes
            and array.shape not in (data.shape[-axes:], _inner(x, y, options, axes))
        ):
            whose = "BEFORE" if data is x else "AFTER"
            raise ConvolithError(f"{option} has shape {array.shape}; expected that of {whose}, {data.shape[-axes:]}")
    pixels["weights"] = None if variances[1] is None else _weights(variances[1])
    plain = options["padding"] == "valid" and np.all(np.asarray(options["stride"]) == 1)
    cropped = plain and size != "auto" and np.any(np.asarray(size) > 1) and x.shape[-axes:] == y.shape[-axes:]
    of_file = {"header": second.header, "picture": second.picture, "info": second.info, "stack": stacks[1]}
    return Pair(x, y, pixels, bool(cropped), second.array.shape, variances=(variances[0], variances[1]), **of_file)


def _images(before: Unit, after: Unit, size: Any, *, mix: bool) -> tuple[np.ndarray, np.ndarray, int]:
    """Return two pictures or arrays as the x and y of a fit, and the number of the kernel's axes."""
    if not mix:
        check_one_reading("BEFORE", before, size)
        check_one_reading("AFTER", after, size)
    mix = mix or not (before.picture and after.picture)
    if not mix:
        _check_channels(before.array, after.array)
    x, y = (_channels(one.array, mix=mix, picture=one.picture) for one in (before, after))
    if isinstance(size, int) and x.ndim == y.ndim == 2 and len(x) > size:
        x, y = x[None], y[None]  # a picture
    axes = spatial_axes(size, x.shape)
    x, y = (array[(None,) * max(axes + 1 - array.ndim, 0)] for array in (x, y))
    return x, y, axes


def _in_images(array: np.ndarray, stack: Stack | None) -> np.ndarray:
    """Return a mask or a variance in the layout of a stack as images, (N, *size), or (*size) of one image."""
    if stack is None or array.ndim != len(stack.shape):
        return array
    images = stack.images(array)
    return images[0] if len(images) == 1 else images


def _inner(x: np.ndarray, y: np.ndarray, options: dict[str, Any], axes: int) -> tuple[int, ...]:
    """Return the size of AFTER without the border that a fit leaves out."""
    if options["kernel_size"] == "auto":
        return y.shape[-axes:]
    reach = (np.broadcast_to(options["kernel_size"], axes) - 1) * np.broadcast_to(options["dilation"], axes)
    return tuple(n - int(r) for n, r in zip(x.shape[-axes:], reach, strict=True))


def _weights(variance: np.ndarray) -> np.ndarray:
    """Return inverse variances; pixels without a positive variance have no weight."""
    weights = weights_of_variance(variance)
    if not weights.any():
        raise ConvolithError("--variance has no positive value; expected the variance of each pixel of AFTER")
    return weights


CROPPED = "AFTER is as large as BEFORE: its border is left out (--padding same takes it in)"


def say_cropped() -> None:
    """Print on stderr that the border was cropped."""
    click.echo(CROPPED, err=True)


def _matching(argument: str, pattern: str) -> list[str]:
    if not has_magic(pattern) or "://" in pattern or Path(pattern).is_file():
        return [pattern]
    unit = ""
    if is_fits(pattern.rpartition(":")[0]):
        pattern, _, unit = pattern.rpartition(":")
        unit = f":{unit}"
    names = [name + unit for name in sorted(glob(pattern), key=_by_numbers)]
    if not names:
        raise ConvolithError(f"{argument} is {pattern}, which matches no file; expected a file or a pattern of some")
    return names


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """Return a sort key by numeric order: 2 comes before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _check_channels(before: np.ndarray, after: np.ndarray) -> None:
    """Refuse pictures that differ in their number of channels, each of which would be filtered by itself."""
    counts = [1 if picture.ndim == 2 else picture.shape[-1] for picture in (before, after)]
    if counts[0] != counts[1]:
        first, second = (f"{count} channel{'s' * (count > 1)}" for count in counts)
        raise ConvolithError(
            f"BEFORE is a picture of {first} and AFTER one of {second}; expected as many; pass --mix-channels, which "
            "fits a kernel from all channels to all channels, or convert one of them"
        )


def _channels(array: np.ndarray, *, mix: bool, picture: bool) -> np.ndarray:
    """Return an image as (channels, 1, H, W), or as (channels, H, W) to mix the channels; an array is unchanged."""
    if not picture:
        return array
    if array.ndim == 2:
        return array[None]
    planes = np.moveaxis(array, -1, 0)
    return planes if mix else planes[:, None]

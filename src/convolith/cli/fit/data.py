"""Input files of `convolith fit`: images and arrays as the data of a fit, one pair or many."""

from __future__ import annotations

import re
from glob import glob, has_magic
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from convolith.cli.io.files import is_fits, is_image, read_array
from convolith.errors import ConvolithError
from convolith.fitting.data.problem import spatial_axes
from convolith.geometry import per_axis, same_padding


class Files(NamedTuple):
    """File names of a pair, and of its mask or None."""

    before: str
    after: str
    mask: str | None


class Pair(NamedTuple):
    """The data of a fit.

    Attributes:
        x, y, mask: arguments of `fit`.
        cropped: whether y was as large as x and its border was cropped.
    """

    x: np.ndarray
    y: np.ndarray
    mask: np.ndarray | None
    cropped: bool


def pairs_of(before: str, after: str, mask: str | None) -> list[Files]:
    """Return the files that match the patterns, in the order of their names; a single mask applies to all pairs.

    Raises:
        ConvolithError: a pattern that no file matches, patterns that match different numbers of files.
    """
    befores, afters = _matching("BEFORE", before), _matching("AFTER", after)
    masks = [None] if mask is None else _matching("--mask", mask)
    if len(befores) != len(afters):
        raise ConvolithError(
            f"BEFORE matches {len(befores)} files and AFTER {len(afters)}; expected equal numbers; files are paired "
            f"in the order of their names, {befores[0]} with {afters[0]} first"
        )
    if len(masks) not in (1, len(befores)):
        raise ConvolithError(
            f"--mask matches {len(masks)} files; expected one, or one for each of {len(befores)} pairs"
        )
    masks = masks * len(befores) if len(masks) == 1 else masks
    return [Files(*names) for names in zip(befores, afters, masks, strict=True)]


def read_pair(files: Files, options: dict[str, Any], *, mix: bool) -> Pair:
    """Read a pair as the data of a fit.

    Args:
        files: names of the files.
        options: kernel_size, stride, padding and dilation.
        mix: whether the kernel maps all channels of an image to all channels, or each channel separately.
    """
    mix = mix or not (is_image(files.before) and is_image(files.after))
    x, y = (_channels(name, path, mix=mix) for name, path in (("BEFORE", files.before), ("AFTER", files.after)))
    mask = None if files.mask is None else read_array("--mask", files.mask) != 0
    unpadded = options["padding"] == "valid" and np.all(np.asarray(options["stride"]) == 1)
    if options["kernel_size"] == "auto" or not unpadded or x.ndim != y.ndim:
        return Pair(x, y, mask, cropped=False)
    inside = inner_part(x, y, options["kernel_size"], options["dilation"])
    if inside is None:
        return Pair(x, y, mask, cropped=False)
    if mask is not None and mask.shape[-len(inside) :] == y.shape[-len(inside) :]:
        mask = crop(mask, inside)
    return Pair(x, crop(y, inside), mask, cropped=True)


def say_cropped() -> None:
    """Print on stderr that the border was cropped."""
    click.echo("AFTER is as large as BEFORE: its border is left out (--padding same takes it in)", err=True)


def inner_part(x: np.ndarray, y: np.ndarray, kernel_size: Any, dilation: Any) -> tuple[slice, ...] | None:
    """Return the slices of y that read no padding, if y is as large as x; None otherwise, or if they would be empty."""
    axes = spatial_axes(kernel_size, x.ndim)
    size = x.shape[-axes:]
    if y.shape[-axes:] != size:
        return None
    taps, steps = per_axis("kernel_size", kernel_size, axes, 1), per_axis("dilation", dilation, axes, 1)
    pads = [same_padding(n, k, 1, d) for n, k, d in zip(size, taps, steps, strict=True)]
    if not any(map(any, pads)) or any(sum(pair) >= n for pair, n in zip(pads, size, strict=True)):
        return None
    return tuple(slice(before, n - after) for (before, after), n in zip(pads, size, strict=True))


def crop(array: np.ndarray, inside: tuple[slice, ...]) -> np.ndarray:
    """Crop the last axes of an array."""
    return array[tuple([...] + list(inside))]  # noqa: RUF005 - NumPy's stubs know no tuple that begins with an ellipsis


def _matching(argument: str, pattern: str) -> list[str]:
    if not has_magic(pattern) or Path(pattern).is_file():
        return [pattern]
    unit = ""
    if is_fits(pattern.rpartition(":")[0]):
        pattern, _, unit = pattern.rpartition(":")
        unit = f":{unit}"
    names = [name + unit for name in sorted(glob(pattern), key=_by_numbers)]
    if not names:
        raise ConvolithError(f"{argument} is {pattern}, which matches no file")
    return names


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """Return a sort key by numeric order: 2 comes before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _channels(argument: str, path: str, *, mix: bool) -> np.ndarray:
    """Return an image as (channels, 1, H, W), or as (channels, H, W) to mix the channels; an array is unchanged."""
    array = read_array(argument, path)
    if array.ndim == 2:
        return array[None]
    if is_image(path):
        planes = np.moveaxis(array, -1, 0)
        return planes if mix else planes[:, None]
    if array.ndim < 2:
        raise ConvolithError(f"{argument} has shape {array.shape}; expected (in_channels, *size)")
    return array

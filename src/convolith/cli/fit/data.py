"""Input files of `convolith fit`: images and arrays as the data of a fit, one pair or many."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob, has_magic
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from convolith.cli.io.files import is_fits, is_image, read_array
from convolith.errors import ConvolithError
from convolith.fitting.data.shapes import spatial_axes


class Files(NamedTuple):
    """File names of a pair, and of the masks of its pictures or None."""

    before: str
    after: str
    mask: str | None
    before_mask: str | None


class Pair(NamedTuple):
    """The data of a fit.

    Attributes:
        x, y: the arrays, with an axis of channels.
        pixels: `mask` and `x_mask` of `fit`, or None.
        cropped: whether y is as large as x, so that its border is left out.
    """

    x: np.ndarray
    y: np.ndarray
    pixels: dict[str, Any]
    cropped: bool


def pairs_of(before: str, after: str, mask: str | None, before_mask: str | None) -> list[Files]:
    """Return the files that match the patterns, in the order of their names; a single mask applies to all pairs.

    Raises:
        ConvolithError: a pattern that no file matches, patterns that match different numbers of files.
    """
    befores, afters = _matching("BEFORE", before), _matching("AFTER", after)
    if len(befores) != len(afters):
        raise ConvolithError(
            f"BEFORE matches {len(befores)} files and AFTER {len(afters)}; expected equal numbers; files are paired "
            f"in the order of their names, {befores[0]} with {afters[0]} first"
        )
    masks = (_masks("--mask", mask, len(befores)), _masks("--before-mask", before_mask, len(befores)))
    return [Files(*names) for names in zip(befores, afters, *masks, strict=True)]


def _masks(option: str, pattern: str | None, pairs: int) -> list[str] | list[None]:
    """Return a mask for each pair: several that match, or one for all."""
    if pattern is None:
        return [None] * pairs
    masks = _matching(option, pattern)
    if len(masks) not in (1, pairs):
        raise ConvolithError(f"{option} matches {len(masks)} files; expected one, or one for each of {pairs} pairs")
    return masks * pairs if len(masks) == 1 else masks


def read_pair(files: Files, options: dict[str, Any], *, mix: bool) -> Pair:
    """Read a pair as the data of a fit.

    Args:
        files: names of the files.
        options: kernel_size, stride, padding and dilation.
        mix: whether the kernel maps all channels of an image to all channels, or each channel separately.
    """
    mix = mix or not (is_image(files.before) and is_image(files.after))
    x, y = (_channels(name, path, mix=mix) for name, path in (("BEFORE", files.before), ("AFTER", files.after)))
    size = options["kernel_size"]
    axes = spatial_axes(size, x.shape)
    x, y = (array[(None,) * max(axes + 1 - array.ndim, 0)] for array in (x, y))
    pixels: dict[str, Any] = {
        name: None if path is None else read_array(option, path) != 0
        for name, option, path in (("mask", "--mask", files.mask), ("x_mask", "--before-mask", files.before_mask))
    }
    plain = options["padding"] == "valid" and np.all(np.asarray(options["stride"]) == 1)
    cropped = plain and size != "auto" and np.any(np.asarray(size) > 1) and x.shape[-axes:] == y.shape[-axes:]
    return Pair(x, y, pixels, cropped=bool(cropped))


WORDS = (
    (r"^x has", "BEFORE has"),
    (r"^y has", "AFTER has"),
    (r"nan='omit' or x_mask=", "--ignore-nan or --before-mask"),
    (r"nan='omit' or mask=", "--ignore-nan or --mask"),
    (r"\bx_mask\b=?", "--before-mask"),
    (r"(?<!-)\bmask\b=?", "--mask"),
    (r"\bpixels of y\b", "pixels of AFTER"),
    (r"\bpixel of x\b", "pixel of BEFORE"),
    (r"\bpixel of y\b", "pixel of AFTER"),
    (r"\borigin=", "--origin "),
    (r"\bnan or saturation\b", "--ignore-nan or --saturation"),
)
"""Words of `fit` in its errors, as regular expressions, with those of the command."""


@contextmanager
def in_words_of_the_command() -> Iterator[None]:
    """Return a context in which errors of `fit` name files and options instead of arguments."""
    try:
        yield
    except ConvolithError as error:
        text = str(error)
        for pattern, word in WORDS:
            text = re.sub(pattern, word, text)
        raise ConvolithError(text) from None


def say_cropped() -> None:
    """Print on stderr that the border was cropped."""
    click.echo("AFTER is as large as BEFORE: its border is left out (--padding same takes it in)", err=True)


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
    if not is_image(path):
        return array
    if array.ndim == 2:
        return array[None]
    planes = np.moveaxis(array, -1, 0)
    return planes if mix else planes[:, None]

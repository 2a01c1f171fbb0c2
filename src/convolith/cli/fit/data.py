"""Input files of `convolith fit`: images and arrays as the data of a fit, one pair or many."""

from __future__ import annotations

import re
from glob import glob, has_magic
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from convolith.cli.io.files import is_fits, read_array, read_picture
from convolith.cli.io.fits_headers import unit_of
from convolith.errors import ConvolithError
from convolith.fitting.data.shapes import spatial_axes


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
    """

    x: np.ndarray
    y: np.ndarray
    pixels: dict[str, Any]
    cropped: bool
    shape: tuple[int, ...]
    header: Any
    variances: tuple[np.ndarray | None, np.ndarray | None]
    picture: bool = False


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


def read_pair(files: Files, options: dict[str, Any], *, mix: bool) -> Pair:
    """Read a pair as the data of a fit.

    Args:
        files: names of the files.
        options: kernel_size, stride, padding and dilation.
        mix: whether the kernel maps all channels of an image to all channels, or each channel separately.
    """
    first, second = (read_picture(name, path) for name, path in (("BEFORE", files.before), ("AFTER", files.after)))
    mix = mix or not (first.picture and second.picture)
    _say_units(first.header, second.header)
    x = _channels(first.array, mix=mix, picture=first.picture)
    y = _channels(second.array, mix=mix, picture=second.picture)
    size = options["kernel_size"]
    if isinstance(size, int) and x.ndim == y.ndim == 2 and len(x) > size:
        x, y = x[None], y[None]  # a picture
    axes = spatial_axes(size, x.shape)
    x, y = (array[(None,) * max(axes + 1 - array.ndim, 0)] for array in (x, y))
    pixels: dict[str, Any] = {
        name: None if path is None else read_array(option, path) != 0
        for name, option, path in (("mask", "--mask", files.mask), ("x_mask", "--before-mask", files.before_mask))
    }
    variances = tuple(
        None if path is None else read_array(option, path).astype(float)
        for option, path in (("--before-variance", files.before_variance), ("--variance", files.variance))
    )
    about = zip(("--before-mask", "--mask", "--before-variance", "--variance"), (x, y, x, y), strict=True)
    given = (pixels["x_mask"], pixels["mask"], *variances)
    for (option, data), array in zip(about, given, strict=True):
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
    return Pair(
        x, y, pixels, bool(cropped), second.array.shape, second.header, (variances[0], variances[1]), second.picture
    )


def _inner(x: np.ndarray, y: np.ndarray, options: dict[str, Any], axes: int) -> tuple[int, ...]:
    """Return the size of AFTER without the border that a fit leaves out."""
    if options["kernel_size"] == "auto":
        return y.shape[-axes:]
    reach = (np.broadcast_to(options["kernel_size"], axes) - 1) * np.broadcast_to(options["dilation"], axes)
    return tuple(n - int(r) for n, r in zip(x.shape[-axes:], reach, strict=True))


def _weights(variance: np.ndarray) -> np.ndarray:
    """Return inverse variances; pixels without a positive variance have no weight."""
    known = np.isfinite(variance) & (variance > 0)
    if not known.any():
        raise ConvolithError("--variance has no positive value; expected the variance of each pixel of AFTER")
    return np.where(known, 1 / np.where(known, variance, 1.0), 0.0)


def _say_units(before: Any, after: Any) -> None:
    """Print on stderr that two pictures are in different units."""
    first, second = unit_of(before), unit_of(after)
    if first and second and first != second:
        click.echo(f"warning: BEFORE is in {first} and AFTER in {second}; the kernel's sum converts them", err=True)


WORDS = (
    (r"^x has", "BEFORE has"),
    (r"^y has", "AFTER has"),
    (r"nan='omit' or x_mask=", "--ignore-nan or --before-mask"),
    (r"nan='omit' or mask=", "--ignore-nan or --mask"),
    (r"\bthe first at \(\d+, \d+, (\d+), (\d+)\)", r"the first at row \1, column \2"),
    (r"\bx_mask\b=?", "--before-mask"),
    (r"(?<!-)\bmask\b=?", "--mask"),
    (r"\bpixels of y\b", "pixels of AFTER"),
    (r"\bpixel of x\b", "pixel of BEFORE"),
    (r"\bpixel of y\b", "pixel of AFTER"),
    (r"\bnan or saturation\b", "--ignore-nan or --saturation"),
    (r"\borigin=\(([-\d]+), ([-\d]+)\)", r"--origin \1,\2"),
    (r"\borigin=\(([-\d]+),\)", r"--origin \1"),
    (r"\borigin=", "--origin"),
    (r'\berrors="jackknife"', "--errors jackknife"),
    (r"\bweights=1/variance\b", "--variance"),
    (r"\bridge=", "--ridge"),
    (r"\bmax_size\b", "--max-size"),
    (r"\bkernel_size\b", "--size"),
    (r"\bsee Fit\.selection\b", "see the table of sizes"),
    (r": y has a constant\b", ": AFTER has a constant"),
    (r"\bvariance of y\b", "variance of AFTER"),
    (r"\by looks like x\b", "AFTER looks like BEFORE"),
    (r"\bcorrelated with x\b", "correlated with BEFORE"),
    (r"\bbut stderr assumes\b", "but the standard errors assume"),
    (r"\bbut stderr takes\b", "but the standard errors take"),
    (r"\boffset=True\b", "--background"),
    (r'\bpass method="(\w+)"', r"pass --method \1"),
    (r'\bwith loss="huber" only', "with --loss huber only"),
    (r"\bhuber_delta is\b", "--huber-delta is"),
    (r"\blearning_rate is\b", "--learning-rate is"),
    (r"\bpass degree=0\b", "pass --degree 0"),
    (r"\bconstraints is \('nonnegative',\)", "--nonnegative was given"),
    (r'--size="auto"', "--size auto"),
    (r"\bweights has\b", "--variance has"),
    (r"\bpadding='same' with the padding_mode\b", "--padding same with the --padding-mode"),
    (r"\bpadding as \(before, after\) pairs", "--padding as before:after"),
    (r"\bspatial size \(([^)]*)\) but x\b", r"spatial size (\1) but BEFORE"),
    (r"\bbut x (\d+)\b", r"but BEFORE has \1"),
)
"""Words of `fit` in its errors and warnings, as regular expressions, with those of the command."""


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


def _channels(array: np.ndarray, *, mix: bool, picture: bool) -> np.ndarray:
    """Return an image as (channels, 1, H, W), or as (channels, H, W) to mix the channels; an array is unchanged."""
    if not picture:
        return array
    if array.ndim == 2:
        return array[None]
    planes = np.moveaxis(array, -1, 0)
    return planes if mix else planes[:, None]

"""Fits of `convolith fit`: one pair at once, or many accumulated in a `Gram`; constant or varying kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import click
import numpy as np

from convolith.cli.fit.data import Files, Pair, read_pair, say_cropped
from convolith.errors import ConvolithError
from convolith.fitting import Fit, Gram, VaryingFit, VaryingGram, fit, fit_varying
from convolith.fitting.data.shapes import spatial_axes
from convolith.report.progress import track

GEOMETRY = ("stride", "padding", "dilation", "padding_mode")
ABOUT_PIXELS = ("nan", "saturation")
SOLVER_OPTIONS = ("ridge", "smoothness", "basis", "constraints", "x_noise_variance")
ONE_PAIR = {
    "method": "lstsq",
    "errors": "white",
    "max_size": None,
    "size_tolerance": None,
    "origin": 0,
    "loss": "squares",
    "flip": False,
    "huber_delta": None,
    "learning_rate": None,
    "steps": 1000,
    "seed": 0,
}
"""Options that need several passes over the data, with the values that turn them off."""


class Varying(NamedTuple):
    """Options of a kernel that varies with position: see `fit_varying`."""

    degree: int
    modulation: str
    background_degree: int | None
    constant: tuple[int, ...]
    positions: np.ndarray | None


class Outcome(NamedTuple):
    """The fit, the last pair of data and the number of pairs."""

    found: Fit | VaryingFit
    pair: Pair
    pairs: int


def solve(
    files: Sequence[Files], options: dict[str, Any], varying: Varying | None, *, mix: bool, plane_axes: Any = None
) -> Outcome:
    """Read the files and fit.

    Args:
        files: the pairs.
        options: options of `fit`.
        varying: options of a kernel that varies, or None.
        mix, plane_axes: see `read_pair`.

    Raises:
        ConvolithError: options that cannot be combined.
    """
    if varying is not None or len(files) > 1:
        _refuse(files, options, varying)
    if len(files) > 1:
        return _through_a_state(files, options, varying, mix=mix, plane_axes=plane_axes)
    pair = read_pair(files[0], options, mix=mix, plane_axes=plane_axes)
    if pair.cropped:
        say_cropped()
    if varying is None:
        return Outcome(fit(pair.x, pair.y, **pair.pixels, progress=True, **options), pair, 1)
    rest = {
        name: options[name]
        for name in ("kernel_size", *GEOMETRY, *SOLVER_OPTIONS, *ABOUT_PIXELS, "errors")
        if name in options
    }
    return Outcome(fit_varying(pair.x, pair.y, **pair.pixels, **rest, **varying._asdict()), pair, 1)


def _through_a_state(
    files: Sequence[Files], options: dict[str, Any], varying: Varying | None, *, mix: bool, plane_axes: Any
) -> Outcome:
    """Read each pair once and accumulate its normal equations, then solve them."""
    gram: Gram | VaryingGram | None = None
    positions = None if varying is None else varying.positions
    if positions is not None and len(positions) != len(files):
        raise ConvolithError(f"--positions has {len(positions)} rows; expected one for each of {len(files)} pairs")
    first, last = files[0], files[-1]
    click.echo(
        f"{len(files)} pairs, from {first.before} with {first.after} to {last.before} with {last.after}", err=True
    )
    for number in track(range(len(files)), "pairs", len(files), shown=True):
        names = files[number]
        pair = read_pair(names, options, mix=mix, plane_axes=plane_axes)
        if pair.cropped and number == 0:
            say_cropped()
        gram = gram or _state(pair, options, varying)
        try:
            where = {} if positions is None else {"position": positions[number]}
            about = {name: options[name] for name in ABOUT_PIXELS}
            gram.update(pair.x, pair.y, **pair.pixels, **about, **where)
        except ConvolithError as problem:
            raise ConvolithError(f"{names.before} and {names.after}: {problem}") from None
    assert gram  # noqa: S101 - there is a first pair
    rest = {name: options[name] for name in SOLVER_OPTIONS if name in options}
    if isinstance(gram, VaryingGram) and varying is not None:
        solved: Fit | VaryingFit = gram.solve(
            background_degree=varying.background_degree, constant=varying.constant, **rest
        )
    else:
        solved = gram.solve(offset=options["offset"], **rest)
    return Outcome(solved, pair, len(files))


def _state(pair: Pair, options: dict[str, Any], varying: Varying | None) -> Gram | VaryingGram:
    axes = spatial_axes(options["kernel_size"], pair.x.shape)
    size = options["kernel_size"] if not isinstance(options["kernel_size"], int) else (options["kernel_size"],) * axes
    channels = pair.x.shape[-axes - 1], pair.y.shape[-axes - 1]
    geometry = {name: options[name] for name in GEOMETRY}
    if varying is None:
        return Gram(size, *channels, **geometry)
    return VaryingGram(
        size,
        *channels,
        degree=varying.degree,
        modulation=varying.modulation,
        background_degree=varying.background_degree or 0,
        **geometry,
    )


def _refuse(files: Sequence[Files], options: dict[str, Any], varying: Varying | None) -> None:
    what = "a kernel that varies with position" if varying is not None else f"{len(files)} pairs"
    allowed = ("errors",) if len(files) == 1 else ()
    for name, usual in ONE_PAIR.items():
        if name not in allowed and options[name] != usual:
            came = "was given" if options[name] is True else f"is {options[name]}"
            raise ConvolithError(
                f"--{name.replace('_', '-')} {came}; it applies to a constant kernel and one pair, not to {what}, "
                f"solved in one pass in closed form; leave --{name.replace('_', '-')} out"
            )
    for name in ("kernel_size", "ridge"):
        if options[name] == "auto":
            option = "size" if name == "kernel_size" else name
            raise ConvolithError(
                f"--{option} is auto, which is chosen for a kernel of one pair that does not vary; pass a number "
                f"for {what}, such as the one that is chosen for the first pair"
            )
    if varying is not None and options["offset"]:
        constant = "" if varying.background_degree is not None else "; pass --background-degree 0"
        raise ConvolithError(f"--background was given together with a kernel that varies; leave it out{constant}")

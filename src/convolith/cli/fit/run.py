"""What `convolith fit` runs: one pair at once, many one after another through a state, of kernels that vary or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import click
import numpy as np

from convolith.cli.fit.data import Files, Pair, read_pair, say_cropped
from convolith.errors import ConvolithError
from convolith.fitting import Fit, Gram, VaryingFit, VaryingGram, fit, fit_varying
from convolith.fitting.data.problem import spatial_axes
from convolith.report.progress import track

GEOMETRY = ("stride", "padding", "dilation", "padding_mode")
ASKED = ("ridge", "smoothness", "basis", "constraints", "x_noise_variance")
ONE_PAIR = {
    "method": "lstsq",
    "errors": "white",
    "max_size": None,
    "loss": "squares",
    "huber_delta": None,
    "learning_rate": None,
    "steps": 1000,
    "seed": 0,
}
"""What looks at the data several times, and what it is where it does not."""


class Varying(NamedTuple):
    """What is asked of a kernel that varies: see `fit_varying`."""

    degree: int
    modulation: str
    background_degree: int | None
    constant: tuple[int, ...]
    positions: np.ndarray | None


class Outcome(NamedTuple):
    """What was found, from the last pair and how many there were."""

    found: Fit | VaryingFit
    pair: Pair
    pairs: int


def run(files: Sequence[Files], options: dict[str, Any], varying: Varying | None, *, mix: bool) -> Outcome:
    """Read the files and fit.

    Args:
        files: the pairs.
        options: those of `fit`.
        varying: what is asked of a kernel that varies, or None.
        mix: see `read_pair`.

    Raises:
        ConvolithError: options that do not go together.
    """
    if varying is not None or len(files) > 1:
        _refuse(files, options, varying)
    if len(files) > 1:
        return _through_a_state(files, options, varying, mix=mix)
    pair = read_pair(files[0], options, mix=mix)
    if pair.cropped:
        say_cropped()
    if varying is None:
        return Outcome(fit(pair.x, pair.y, mask=pair.mask, progress=True, **options), pair, 1)
    asked = {name: options[name] for name in ("kernel_size", *GEOMETRY, *ASKED, "errors") if name in options}
    return Outcome(fit_varying(pair.x, pair.y, mask=pair.mask, **asked, **varying._asdict()), pair, 1)


def _through_a_state(files: Sequence[Files], options: dict[str, Any], varying: Varying | None, *, mix: bool) -> Outcome:
    """Every pair is read once, and only what a fit depends on is kept."""
    gram: Gram | None = None
    places = None if varying is None else varying.positions
    if places is not None and len(places) != len(files):
        raise ConvolithError(f"--positions has {len(places)} rows; expected one for each of {len(files)} pairs")
    first, last = files[0], files[-1]
    click.echo(
        f"{len(files)} pairs, from {first.before} with {first.after} to {last.before} with {last.after}", err=True
    )
    for number in track(range(len(files)), "pairs", len(files), shown=True):
        names = files[number]
        pair = read_pair(names, options, mix=mix)
        if pair.cropped and number == 0:
            say_cropped()
        gram = gram or _state(pair, options, varying)
        try:
            where = {} if places is None else {"position": places[number]}
            gram.update(pair.x, pair.y, mask=pair.mask, **where)
        except ConvolithError as problem:
            raise ConvolithError(f"{names.before} and {names.after}: {problem}") from None
    assert gram is not None  # noqa: S101 - there is a first pair
    asked = {name: options[name] for name in ASKED if name in options}
    if isinstance(gram, VaryingGram) and varying is not None:
        solved: Fit | VaryingFit = gram.solve(
            background_degree=varying.background_degree, constant=varying.constant, **asked
        )
    else:
        solved = gram.solve(offset=options["offset"], **asked)
    return Outcome(solved, pair, len(files))


def _state(pair: Pair, options: dict[str, Any], varying: Varying | None) -> Gram:
    axes = spatial_axes(options["kernel_size"], pair.x.ndim)
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
            raise ConvolithError(
                f"--{name.replace('_', '-')} is {options[name]}, which is for a kernel of one pair that is the same "
                f"everywhere; {what} come in closed form and in one pass; leave it out"
            )
    for name in ("kernel_size", "ridge"):
        if options[name] == "auto":
            option = "size" if name == "kernel_size" else name
            raise ConvolithError(
                f"--{option} is auto, which is chosen for a kernel of one pair that is the same everywhere; give a "
                f"number for {what}, such as the one that is chosen for the first"
            )
    if varying is not None and options["offset"]:
        raise ConvolithError("--background was given together with a kernel that varies; pass --background-degree 0")

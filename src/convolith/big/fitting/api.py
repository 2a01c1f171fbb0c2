"""`fit`: the kernel between stores that are larger than memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from convolith.big.fitting.checkpoint import Checkpoint, Reached
from convolith.big.fitting.jobs import States, pooled
from convolith.big.fitting.memory import Memory, Peak
from convolith.big.fitting.opening import SourceOptions, stacks_of
from convolith.big.fitting.plan import FitPlan, Plan, Solving
from convolith.big.fitting.result import BigFit
from convolith.big.fitting.run import Passes, merged_state
from convolith.big.fitting.solution import Choice, Solver, check_folds, choose, merged_slope, narrowed, result
from convolith.big.fitting.stacks import Folds
from convolith.big.layout import bytes_of
from convolith.big.running import is_here
from convolith.big.stores.journal import alone
from convolith.errors import ConvolithError, check_flag, warn
from convolith.fitting.data.pixels import Pixels
from convolith.fitting.data.problem import holding_dtype
from convolith.fitting.diagnosis import examine
from convolith.fitting.gram import Gram
from convolith.fitting.kernel_options import KernelOptions
from convolith.fitting.refinement import residual_of
from convolith.fitting.results import check_errors, is_number
from convolith.fitting.selection.cross_validation import TOLERANCE, check_auto, odd_sizes
from convolith.fitting.selection.jackknife import jackknife
from convolith.fitting.selection.tiles import LEAST
from convolith.geometry import Axes, Padding, check_whole, per_axis
from convolith.report.progress import State
from convolith.torch_private import safe_in_forks

ROUGH = 1e-6
"""Relative error of a kernel by rounding from which a warning names `passes`."""


@safe_in_forks
def fit(
    x: Any,
    y: Any,
    *,
    kernel_size: Axes | str,
    memory: str | int = "1GB",
    axes: Any = None,
    channel_axis: Any = None,
    pair_axis: Any = None,
    nodata: Any = None,
    mask: Any = None,
    x_mask: Any = None,
    weights: Any = None,
    variance: Any = None,
    nan: str = "omit",
    saturation: Any = None,
    stride: Axes = 1,
    padding: Padding = "valid",
    dilation: Axes = 1,
    padding_mode: str = "zeros",
    origin: Axes = 0,
    offset: bool = False,
    ridge: float | str = 0.0,
    smoothness: float = 0.0,
    basis: Any = None,
    constraints: str | Sequence[str] = (),
    x_noise_variance: Any = 0.0,
    max_size: int | None = None,
    size_tolerance: float = TOLERANCE,
    errors: str = "white",
    flip: bool = False,
    folds: int = 10,
    passes: int = 1,
    block: Sequence[int] | int | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
    executor: Executor | None = None,
    in_flight: int | None = None,
    listener: Callable[[State], object] | None = None,
    on_plan: Callable[[FitPlan], object] | None = None,
) -> BigFit:
    """Find the kernel for which `correlate(x, kernel, offset, ...)` is closest to y, for data larger than memory.

    The data are read once, block by block. Each block adds its products of pixels to the normal equations (`Gram`),
    which are solved at the end. Sizes, ridges and errors by the jackknife need no further pass, since the sums of each
    fold are kept. The result equals that of `cl.fit` to rounding. It does not depend on the memory, the order in which
    blocks are read, the number of workers or interruptions.

    Args:
        x, y: sources as for `cl.big.plan`, such as a folder with a Zarr array, or two lists of equally many sources.
            The shape of y is that of `correlate`'s result; with padding "valid" and stride 1 it may also be that of x,
            whose border is then left out.
        kernel_size: a number per axis that the kernel slides along, or "auto" as for `cl.fit`. With "auto", all sizes
            are compared, and the chosen one is fitted, on those pixels of y that a kernel of the largest size can
            predict.
        memory: bytes that the fit may take in addition to what the process has: a number, or a text such as "2GB",
            which is 2 * 2^30 bytes.
        axes: axes of x that the kernel slides along, as numbers, or as names that the source has ("yx"). By default its
            axes of space, or as many of the last ones as `kernel_size` has entries, or two.
        channel_axis: axis of the channels, all of which the kernel maps to all channels of y; x or y may lack it. By
            default there is one channel.
        pair_axis: axes along which pairs of images lie; by default all others. Where it is given, the remaining axis is
            that of the channels.
        nodata: number that stands for a missing pixel, as NaN does, or one for x and one for y; by default each
            source's own. Missing pixels of y, and pixels of y that read a missing pixel of x, are left out.
        mask: source of booleans, or of integers that are not 0, where a pixel of y is left out: of the shape of y, of
            one without its channels, or of a single image, which serves all pairs; or a list of sources.
        x_mask: likewise, where a pixel of x is bad: all pixels of y that read it are left out.
        weights: source of numbers of 0 or more, the weight of each pixel of y; shaped as `mask`, without channels.
        variance: source of the variance of each pixel of y, in place of `weights`, which are its inverse. Pixels whose
            variance is not a finite number above zero, or the source's own nodata, are left out.
        nan: "omit" takes NaN and infinity for missing pixels, "refuse" refuses them, as `cl.fit` does by default.
        saturation, stride, padding, dilation, padding_mode, origin, offset: as for `cl.fit`.
        ridge, smoothness, basis, constraints, x_noise_variance, max_size, size_tolerance, errors, flip: as for
            `cl.fit`.
        folds: approximate number of parts that are left out in turn by `kernel_size="auto"`, `ridge="auto"` and
            `errors="jackknife"`: groups of images, or tiles of few images.
        passes: number of passes over the data. After one, the kernel is accurate to eps times `condition`; each further
            pass refines it by the residuals of the data, as `cl.fit` does.
        block: most pixels of y of a block, along each axis of the kernel; by default near the chunks of x.
        checkpoint: name of a file that ends in .npz, to which the sums are written every minute and at an interrupt.
            The same call goes on from it, also with another ridge or other constraints. It is removed when the fit is
            complete.
        progress: whether to show a progress bar on stderr.
        executor: where blocks are computed: any executor of `concurrent.futures`, such as one of worker processes
            (started by "spawn"), or that of a `distributed.Client`; by default two threads of its own. In worker
            processes, each job is up to four blocks and takes one thread, and `memory` is per process.
        in_flight: number of jobs of worker processes at a time, those that wait for a worker included; by default two
            for each core of this machine. Threads of this process have a number that fits into memory, two at most.
        listener: function that is called with the state of the fit after every block or job: `phase`, `done` of
            `total`, `bytes` that were read, `bytes_per_second`, `seconds_left`.
        on_plan: function that is called once, before pixels are read, with a `FitPlan`: the fit's blocks, bytes and
            memory.

    Returns:
        A `BigFit`: its `kernel`, (out_channels, in_channels, *kernel_size), is a NumPy array in the floating dtype of x
        (or of y, or float64); `found` is the `Fit`. Print it for tables.

    Raises:
        ConvolithError: sources that cannot be read or that do not fit together, too little memory, a checkpoint of
            another fit, no pixel that counts, and whatever `cl.fit` refuses.

    References:
        As for `cl.fit`.

    Example:
        >>> import numpy as np
        >>> import convolith as cl
        >>> rng = np.random.default_rng(0)
        >>> x, kernel = rng.normal(size=(20, 64, 64)), rng.normal(size=(5, 5))
        >>> y = cl.filter_image(x, kernel, axes=(1, 2))
        >>> found = cl.big.fit(x, y, kernel_size=5, memory="300MB", progress=False)
        >>> bool(np.abs(found.kernel[0, 0] - kernel).max() < 1e-10)
        True
    """
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "padding_mode": padding_mode}
    given = 0.0 if isinstance(ridge, str) else ridge
    options = KernelOptions(given, smoothness, basis, constraints, x_noise_variance)
    _check(kernel_size, ridge, options, errors, size_tolerance, max_size)
    pixels = Pixels(nan=nan, saturation=saturation)
    flags = {"offset": check_flag("offset", offset), "flip": check_flag("flip", flip)}
    check_whole("passes", passes, 1)
    sizes: list[tuple[int, ...]] = []
    size: Any = kernel_size
    if isinstance(kernel_size, str):
        check_auto(geometry)

        def size(lengths: Sequence[int]) -> tuple[int, ...]:
            steps = per_axis("dilation", dilation, len(lengths), 1)
            sizes.extend(odd_sizes([(n - 1) // d + 1 for n, d in zip(lengths, steps, strict=True)], max_size))
            return sizes[-1]

    if weights is not None and variance is not None:
        raise ConvolithError("weights was given together with variance, whose inverse are weights; leave one out")
    about = {"mask": mask, "x_mask": x_mask, "weights": weights, "variance": variance}
    marks = {name: value for name, value in about.items() if value is not None}
    stacks = stacks_of(x, y, size, SourceOptions(axes, channel_axis, pair_axis, nodata, origin, marks), geometry)
    dimensions = len(stacks[0].spec.size)
    limits = None if block is None else per_axis("block", block, dimensions, 1)
    images, automatic = sum(stack.images for stack in stacks), isinstance(ridge, str) or bool(sizes)
    held_out = automatic or errors == "jackknife"
    division = Folds.of(check_whole("folds", folds, LEAST) if held_out else 1, images, dimensions)
    plan = Plan(stacks, division, limits, geometry)
    solving = Solving(
        options=options,
        sizes=sizes or None,
        ridge=None if isinstance(ridge, str) else given,
        used=int(flags["offset"]),
        tolerance=size_tolerance,
        errors=errors,
        passes=passes,
        flip=flags["flip"],
        origin=origin,
    )
    jobs = None if is_here(executor) else in_flight or 2 * (os.cpu_count() or 1)
    room = Memory.of(stacks, plan.blocks, plan.count * (1 if passes == 1 else 2), bytes_of(memory), jobs)
    if on_plan is not None:
        on_plan(plan.overview(passes, room.predicted_bytes))
    file = None
    if checkpoint is not None:
        file = Checkpoint(checkpoint, plan.fingerprint(pixels, origin), solving.fingerprint())
    with alone(file.lock) if file is not None else nullcontext():
        options_of_run = (pixels, flags["offset"], progress, listener, executor, file)
        found = _fitted(plan, solving, Passes(stacks, plan.blocks, room, *options_of_run))
        if file is not None:
            file.remove()
    return found


def _fitted(plan: Plan, solving: Solving, run: Passes) -> BigFit:
    """Make the passes, and solve."""
    start = time.perf_counter()
    spent = 0.0
    with Peak() as peak:
        reached = Reached(tuple(plan.template.like() for _ in range(plan.count)))
        if run.checkpoint is not None:
            reached = run.checkpoint.load(reached)
        if not reached.passed:
            reached = run(reached, States(plan.template.geometry), merged_state, "fitting")
        begun = time.perf_counter()
        total, states = _united(plan, reached.states, keep=solving.passes > 1)
        choice, solver, options = _solved(total, states, solving)
        left_out = None
        if solving.errors == "jackknife":
            left_out = jackknife(solver.total, _restricted(states, choice), options, solving.used)
        coefficients = solver.coefficients if reached.coefficients is None else reached.coefficients
        squares = float(solver.solution.squares.sum())
        spent += time.perf_counter() - begun
        while reached.passed < solving.passes:
            reached = replace(reached, coefficients=coefficients)
            reached = run(reached, solver.sums(coefficients), merged_slope, "refining")
            coefficients, squares = solver.corrected(reached)
            reached = replace(reached, coefficients=coefficients, slope=None, squares=0.0)
        sample, dtype = None, plan.dtype()
        if run.read_bytes:  # and not for sums that are all in the checkpoint, which need no data
            sample = narrowed(run.sample(States(plan.template.geometry)), choice.kernel_size)
            dtype = holding_dtype(dtype, sample, *solver.parts(coefficients))
        found = result(solver, coefficients, squares, left_out, options, choice, dtype=dtype, flip=solving.flip)
    if sample is not None and sample.equations:
        residual = residual_of(sample, Gram(**solver.total.geometry), coefficients)
        white, free = solving.errors == "white", not options.names
        examine(
            sample, residual, solver.parts(coefficients)[0], found.explained, solving.origin, white=white, free=free
        )
    accuracy = solver.accuracy(solving.passes)
    if ROUGH < accuracy < float("inf"):
        warn(
            f"the kernel is accurate to about {accuracy:.0e} of its size, by rounding (condition "
            f"{found.condition:.1e} times eps); pass passes={solving.passes + 1}, which reads the data once more"
        )
    seconds: Mapping[str, float] = {
        "in all": time.perf_counter() - start,
        "read": run.seconds[0],
        "update": run.seconds[1],
        "solve": spent,
    }
    return BigFit(
        found=found,
        images=plan.folds.images,
        cropped=any(stack.cropped for stack in plan.stacks),
        blocks=len(plan.blocks) * solving.passes,
        resumed=run.resumed,
        missing=reached.missing,
        passes=solving.passes,
        accuracy=accuracy,
        read_bytes=run.read_bytes,
        seconds=seconds,
        predicted_bytes=run.memory.predicted_bytes,
        measured_bytes=None if peak.measured_bytes is None else max(peak.measured_bytes, run.peak_bytes),
    )


def _united(plan: Plan, states: Sequence[Gram], *, keep: bool) -> tuple[Gram, list[Gram]]:
    """Return the state of all equations, and those of the folds that have any, with the same shift.

    Args:
        plan: the data.
        states: states of the folds, which are changed unless `keep` is true.
        keep: whether a later checkpoint needs the states as they are.
    """
    total = plan.template.like()
    for state in states:
        total = pooled(total, state)
    if not total.equations:
        raise ConvolithError(
            "no pixel of y is left to fit: all of them are masked, missing (NaN or nodata), saturated or without "
            "weight, or read a pixel of x that is; expected at least one"
        )
    size = plan.stacks[0].spec.size
    folds = [copy(state) if keep else state for state in states if state.equations]
    for state in folds if plan.count > 1 else ():
        state.matrix, state.shift = state.about(total.shift), total.shift
    for state in (total, *folds):
        state.size = size
    return total, folds


def _restricted(states: Sequence[Gram], choice: Choice) -> list[Gram]:
    """Return the states for the chosen kernel size."""
    return [s if s.kernel_size == choice.kernel_size else s.restricted_to(choice.kernel_size) for s in states]


def _solved(total: Gram, states: Sequence[Gram], solving: Solving) -> tuple[Choice, Solver, KernelOptions]:
    """Choose the size and the ridge, and solve the normal equations."""
    if solving.sizes is not None or solving.ridge is None or solving.errors == "jackknife":
        check_folds(states)
    choice = choose(total, states, solving.sizes, solving.ridge, solving.tolerance, offset=bool(solving.used))
    (own,) = _restricted([total], choice)
    options = replace(solving.options, ridge=choice.ridge)
    return choice, Solver.of(own, options, solving.used), options


def _check(
    kernel_size: Any,
    ridge: Any,
    options: KernelOptions,
    errors: str,
    tolerance: Any,
    max_size: Any,
) -> None:
    """Refuse options that cannot be combined, in the words of `cl.fit`."""
    check_errors(errors)
    automatic = [name for name, one in (("kernel_size", kernel_size), ("ridge", ridge)) if isinstance(one, str)]
    for name, value in (("kernel_size", kernel_size), ("ridge", ridge)):
        if isinstance(value, str) and value != "auto":
            raise ConvolithError(f'{name} is {value!r}; expected a number, one per axis, or "auto"')
    if automatic and not options.plain:
        raise ConvolithError(
            f'{automatic[0]} is "auto", which is chosen for kernels without smoothness, basis, constraints and '
            "x_noise_variance; choose it first, then fit with its value"
        )
    if max_size is not None and "kernel_size" not in automatic:
        raise ConvolithError('max_size was given together with a kernel_size; it belongs to kernel_size="auto" only')
    if not is_number(tolerance) or not 0 <= tolerance < 1:
        raise ConvolithError(f"size_tolerance is {tolerance!r}; expected 0 or more and less than 1")

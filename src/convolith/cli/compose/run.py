"""Two convolutions as one, checked on random input, for `convolith compose`."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import click
import numpy as np

from convolith.algebra import Composition, compose
from convolith.cli.io.files import Output, conv_arrays, read_kernel
from convolith.cli.options import emit
from convolith.cli.words import in_words_of_the_command
from convolith.conv import Conv
from convolith.correlation import correlate
from convolith.planner.machine import check_memory
from convolith.report.table import Table

TOLERANCE = 1e-4
"""Largest accepted relative error; float16 weights have a rounding of 5e-4, but it averages out below this value."""


def _of_one_dtype(convs: list[Conv]) -> list[Conv]:
    """Return convolutions with weights in the widest of their dtypes, if these are floats."""
    dtypes = {np.asarray(conv.weight).dtype for conv in convs}
    if len(dtypes) == 1 or any(dtype.kind not in "fc" for dtype in dtypes):
        return convs
    wide = np.result_type(*dtypes)
    return [
        Conv(
            np.asarray(conv.weight).astype(wide),
            None if conv.bias is None else np.asarray(conv.bias).astype(wide),
            **conv.options,
        )
        for conv in convs
    ]


def run(first: str, second: str, output: str | None, *, as_json: bool, **options: Any) -> None:
    """Compose SECOND after FIRST, check and write the result, and print it; the parameters are the options."""
    target = None if output is None else Output(output, (".npz",))
    convs = []
    for which, text in (("first", first), ("second", second)):
        names = ("stride", "padding", "dilation", "groups", "padding_mode")
        chosen = {name: options[f"{which}_{name}"] for name in names if options[f"{which}_{name}"] is not None}
        kernel = read_kernel(which.upper(), text, chosen, f"{which}-")
        if isinstance(kernel, np.ndarray) and kernel.ndim == 1:
            kernel = kernel[None, None]
        with in_words_of_the_command(((r"^weight (has|is)", rf"{which.upper()} \1"),)):
            convs.append(kernel if isinstance(kernel, Conv) else Conv(kernel, **chosen))
    both = compose(*_of_one_dtype(convs))
    error = check(both)
    if target:
        target.write(lambda file: np.savez(file, **conv_arrays(both.conv)))
    named = {"first": both.first, "second": both.second, "both": both.conv}
    rows = [conv.row(name) for name, conv in named.items()]
    data = {
        "exact": both.exact,
        "reason": both.reason,
        "largest_relative_error": error,
        "convolutions": rows,
        "weight": np.asarray(both.conv.weight),
        "bias": both.conv.bias,
    }
    summary = Table(
        "", [{"exact": both.exact, "because": both.reason, "checked to": error, "written to": output or "-"}]
    )
    emit(as_json=as_json, data=data, tables=[Table("Two convolutions as one", rows), summary])
    if not error <= TOLERANCE:  # NaN fails as well
        for name, conv in (("FIRST", both.first), ("SECOND", both.second)):
            if not np.isfinite(conv.weight).all():
                click.echo(f"{name} has weights that are not finite, so that the check has no result", err=True)
        click.echo(f"the check failed: the error is {error:.3g}, and expected is at most {TOLERANCE:g}", err=True)
        raise click.exceptions.Exit(1)


def check(both: Composition, seed: int = 0) -> float:
    """Return the largest error of a composition on random float64 input, borders included, relative to the output."""
    first, second = _wide(both.first), _wide(both.second)
    spare = 16 if len(first.kernel_size) == 3 else 64  # input beyond the receptive field, per axis
    reaches = [
        d1 * (k1 - 1) + s1 * d2 * (k2 - 1)
        for d1, k1, s1, d2, k2 in zip(
            first.dilation, first.kernel_size, first.stride, second.dilation, second.kernel_size, strict=True
        )
    ]
    shape = (1, first.in_channels, *(spare + reach for reach in reaches))
    between = first.spec(shape).output_shape
    values = sum(map(prod, (shape, between, *[second.spec(between).output_shape] * 4)))
    check_memory("checking the composition with these paddings and dilations takes", values * first.weight.itemsize)
    x = np.random.default_rng(seed).normal(size=shape)
    x = x.astype(first.weight.dtype)
    expected = correlate(correlate(x, first), second)
    result = replace(both, first=first, second=second, conv=_wide(both.conv))(x)
    return float(np.abs(result - expected).max() / max(np.abs(expected).max(), np.finfo(float).tiny))


def _wide(conv: Conv) -> Conv:
    """Return a convolution in float64, or in complex128 if it is complex."""
    to = np.complex128 if np.iscomplexobj(conv.weight) else np.float64
    return Conv(conv.weight.astype(to), None if conv.bias is None else conv.bias.astype(to), **conv.options)

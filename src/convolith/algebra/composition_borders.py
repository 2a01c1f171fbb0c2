"""Borders of a composition: where it differs from the two convolutions that it replaces, and how to correct it.

`second` reads padding around `first`'s output; the composed convolution reads there the values that `first` would
compute outside its output. Where these are equal, the composition is exact; where they differ, the two original
convolutions recompute the outputs that read padding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from convolith.arrays import as_tensor, flip
from convolith.conv import Conv
from convolith.correlation import correlate
from convolith.dtypes import dtype_name
from convolith.geometry import Pairs

Range = tuple[int, int]
"""A half-open range of positions along one axis."""


def is_padded(conv: Conv) -> bool:
    """Return whether a convolution pads any axis."""
    return any(map(any, conv.padding))


def exactness(first: Conv, second: Conv) -> tuple[str, str]:
    """Return ("everywhere" | "interior", reason): whether the composition equals the two at every input size."""
    padded = [axis for axis, pair in enumerate(second.padding) if any(pair)]
    if not padded:
        return "everywhere", "the second convolution is not padded"
    mode = second.padding_mode
    if is_padded(first) and first.padding_mode != mode:
        return "interior", f"the first convolution pads with {first.padding_mode}, the second with {mode}"
    if mode == "zeros" and first.bias is not None and as_tensor("bias", first.bias).any():
        return "interior", "the second convolution pads with zeros where the first would give its bias"
    if not all(axis_is_exact(first, second, axis) for axis in padded):
        return "interior", f"{mode} padding of the first's output is not what the first computes beyond its border"
    return "everywhere", f"{mode} padding of the first's output is just what the first computes beyond its border"


def axis_is_exact(first: Conv, second: Conv, axis: int) -> bool:
    """Return whether padding of the first's output equals the values it would compute there, at every input size.

    Circular and reflected padding need an output as long as the input (stride 1), replicated padding a single tap.
    """
    mode = second.padding_mode
    reach = first.dilation[axis] * (first.kernel_size[axis] - 1)
    before, after = first.padding[axis]
    if mode == "zeros":
        return _reads_zeros(first, second, axis)
    if first.stride[axis] > 1:
        return False
    if mode == "circular":
        return before + after == reach
    if mode == "replicate":
        return before == after == reach == 0
    weight = as_tensor("weight", first.weight)
    return 2 * before == 2 * after == reach and torch.equal(weight, flip(weight, [2 + axis]))


def _reads_zeros(first: Conv, second: Conv, axis: int) -> bool:
    """Return whether every position outside first's output that second reads has only padding in its window."""
    reach = first.dilation[axis] * (first.kernel_size[axis] - 1)
    stride, (before, after) = first.stride[axis], first.padding[axis]
    low, high = second.padding[axis]
    starts = range(0, low, second.stride[axis])
    reads = [start + second.dilation[axis] * tap - low for start in starts for tap in range(second.kernel_size[axis])]
    nearest = max((q for q in reads if q < 0), default=None)
    low_is_zero = nearest is None or nearest * stride - before + reach < 0
    high_is_zero = high == 0 or after >= reach  # the worst remainder of the division by the stride occurs at some size
    return low_is_zero and high_is_zero


def apply(first: Conv, second: Conv, conv: Conv, exact: str, x: Any, **options: Any) -> Any:
    """Compute `second(first(x))`, through `conv` where it is correct; `options` are correlate's engine and accuracy."""
    tensor = as_tensor("x", x)
    inner = first.spec(tensor.shape, dtype_name(tensor.dtype))
    outer = second.spec(inner.output_shape, inner.out_dtype)
    if exact == "everywhere":
        return correlate(x, conv, **options)
    modes = {c.padding_mode for c in (first, second) if is_padded(c)}
    if first.transposed or second.transposed:
        modes = set()
    strips = _strips(first, second, inner.size, inner.output_size, outer.output_size) if modes == {"zeros"} else None
    if strips is None:
        return correlate(correlate(x, first, **options), second, **options)
    y = correlate(x, conv, **options)
    for strip in strips:
        part = x[(..., *(slice(*window) for window in strip.window))]
        h = correlate(part, _padded(first, strip.first_padding), **options)
        y[(..., *(slice(*span) for span in strip.outputs))] = correlate(
            h, _padded(second, strip.second_padding), **options
        )
    return y


def _padded(conv: Conv, padding: Pairs) -> Conv:
    """Return a convolution with its padding replaced."""
    return Conv(conv.weight, conv.bias, **{**conv.options, "padding": padding})


class Strip(NamedTuple):
    """A box of outputs with the window of x that they depend on and the padding that each layer needs there."""

    outputs: tuple[Range, ...]
    window: tuple[Range, ...]
    first_padding: Pairs
    second_padding: Pairs


def _strips(
    first: Conv, second: Conv, size: tuple[int, ...], hidden: tuple[int, ...], outputs: tuple[int, ...]
) -> list[Strip] | None:
    """Return strips that cover each output that reads padding once; None where the composition saves nothing."""
    interior = []
    for axis, (n, count) in enumerate(zip(hidden, outputs, strict=True)):
        stride, (before, _) = second.stride[axis], second.padding[axis]
        reach = second.dilation[axis] * (second.kernel_size[axis] - 1)
        low, high = -(-before // stride), (n - 1 + before - reach) // stride + 1
        interior.append((low, min(high, count)))
    if any(low >= high for low, high in interior):
        return None
    strips = []
    for axis, (low, high) in enumerate(interior):
        for span in ((0, low), (high, outputs[axis])):
            box = (*interior[:axis], span, *((0, n) for n in outputs[axis + 1 :]))
            if span[0] == span[1]:
                continue
            read = [_reads(second, a, span, n) for a, (span, n) in enumerate(zip(box, hidden, strict=True))]
            seen = [_reads(first, a, inner, n) for a, ((inner, _), n) in enumerate(zip(read, size, strict=True))]
            if any(start >= stop for (start, stop), _ in read + seen):
                return None  # a strip that reads nothing but padding
            strips.append(Strip(box, tuple(w for w, _ in seen), tuple(p for _, p in seen), tuple(p for _, p in read)))
    return strips


def _reads(conv: Conv, axis: int, outputs: Range, size: int) -> tuple[Range, Range]:
    """Return the range of actual input that a range of outputs reads along one axis, and the padding on both sides."""
    before = conv.padding[axis][0]
    start = outputs[0] * conv.stride[axis] - before
    stop = (outputs[1] - 1) * conv.stride[axis] - before + conv.dilation[axis] * (conv.kernel_size[axis] - 1) + 1
    return (max(start, 0), min(stop, size)), (max(-start, 0), max(stop - size, 0))

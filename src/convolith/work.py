"""What a layer costs: the addable record `Work` of operations and bytes, and one layer's closed forms.

One rule counts every pass: multiplications are the products formed; additions are the products less the result
elements that receive at least one product, and one more per output where a bias is added. "dense" counts products
with the zeros of the padding, as every tool does; "effective" leaves them out.

All counts are products of one number per axis, so none of them enumerates the products.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache, lru_cache
from math import prod
from typing import Self

import numpy as np

from convolith.dtypes import ITEMSIZE
from convolith.errors import check_option
from convolith.geometry import padding_sources
from convolith.spec import ConvSpec

CONVENTIONS = ("dense", "effective")


class Addable:
    """A dataclass of counts: `a + b` adds field by field."""

    def __add__(self, other: Self) -> Self:
        if type(other) is not type(self):
            return NotImplemented
        return type(self)(*(getattr(self, name) + getattr(other, name) for name in _names(type(self))))  # type: ignore[arg-type]  # a class can be hashed


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


@dataclass(frozen=True)
class Count(Addable):
    """Operations of one pass, and the bytes that it has to move.

    Attributes:
        multiplications: products formed.
        additions: sums and differences formed.
        bytes: moved.
        elementwise: those of the multiplications whose products are not summed up, of norms and activations.
        others: comparisons, divisions, roots, exponentials and the like, one each.
    """

    multiplications: int = 0
    additions: int = 0
    bytes: int = 0
    elementwise: int = 0
    others: int = 0

    def __add__(self, other: Self) -> Self:  # by hand, since models add thousands
        if type(other) is not type(self):
            return NotImplemented
        return type(self)(
            self.multiplications + other.multiplications,
            self.additions + other.additions,
            self.bytes + other.bytes,
            self.elementwise + other.elementwise,
            self.others + other.others,
        )

    @property
    def macs(self) -> int:
        """Multiply-accumulates: one per product that is summed up, of convolutions, matrix products and the like."""
        return self.multiplications - self.elementwise


@dataclass(frozen=True)
class Backward(Addable):
    """The backward pass by part; a part that is not asked for is zero.

    The three gradients are those of convolutions; `rest` is of all other operators of a model.
    """

    input_gradient: Count = Count()
    weight_gradient: Count = Count()
    bias_gradient: Count = Count()
    rest: Count = Count()

    @property
    def total(self) -> Count:
        """All parts together."""
        return self.input_gradient + self.weight_gradient + self.bias_gradient + self.rest

    @property
    def multiplications(self) -> int:
        """Of all parts together."""
        return self.total.multiplications

    @property
    def macs(self) -> int:
        """Of all parts together."""
        return self.total.macs

    @property
    def additions(self) -> int:
        """Of all parts together."""
        return self.total.additions

    @property
    def bytes(self) -> int:
        """Moved by all parts together."""
        return self.total.bytes


@dataclass(frozen=True)
class ForwardMemory(Addable):
    """Bytes held in a forward pass, by term.

    Attributes:
        workspace: that an engine needs while it runs.
        prepared: what an engine makes of the kernel, and keeps.
    """

    input: int = 0
    parameters: int = 0
    output: int = 0
    workspace: int = 0
    prepared: int = 0

    @property
    def bytes(self) -> int:
        """All terms together."""
        return self.input + self.parameters + self.output + self.workspace + self.prepared


@dataclass(frozen=True)
class BackwardMemory(Addable):
    """Bytes held for and in a backward pass, by term."""

    parameter_gradients: int = 0
    input_gradient: int = 0
    output_gradient: int = 0
    saved_activations: int = 0

    @property
    def bytes(self) -> int:
        """All terms together."""
        return self.parameter_gradients + self.input_gradient + self.output_gradient + self.saved_activations


@dataclass(frozen=True)
class Memory(Addable):
    """Bytes held, forward and backward."""

    forward: ForwardMemory = ForwardMemory()
    backward: BackwardMemory = BackwardMemory()


@dataclass(frozen=True)
class Work(Addable):
    """Operations and bytes of a layer, forward and backward; works of several layers add."""

    forward: Count = Count()
    backward: Backward = Backward()
    memory: Memory = Memory()


@dataclass(frozen=True)
class AxisCounts:
    """Counts of one axis of a plain correlation, from which products over the axes give a layer's."""

    products: int
    outputs: int
    inputs: int
    taps: int
    """Products formed, and the outputs, inputs and taps that at least one of them reaches."""


@lru_cache(maxsize=4096)
def axis_counts(
    size: int,
    outputs: int,
    kernel_size: int,
    stride: int,
    padding: tuple[int, int],
    dilation: int,
    mode: str,
    *,
    effective: bool,
) -> AxisCounts:
    """Count one axis; `mode` is the padding mode, and `effective` leaves the padding's zeros out."""
    before, after = padding
    padded = before + size + after
    low, high = (before, before + size - 1) if effective and mode == "zeros" else (0, padded - 1)
    taps = dilation * np.arange(kernel_size)
    first = np.maximum(-((taps - low) // stride), 0)  # the first and last output for which a tap reads what counts
    last = np.minimum((high - taps) // stride, outputs - 1)
    reads = np.maximum(last - first + 1, 0)
    if effective and mode != "zeros":
        inputs = repeated_sources(size, outputs, stride, padding, taps, mode)
    else:
        inputs = union_size(first + taps // stride, last + taps // stride, taps % stride)
    reached = union_size(first, last, np.zeros_like(taps))
    return AxisCounts(sum(reads.tolist()), reached, inputs, int((reads > 0).sum()))


def union_size(first: np.ndarray, last: np.ndarray, group: np.ndarray) -> int:
    """How many integers lie in at least one of the ranges first..last, counted apart in each group.

    Ranges of one group that begin later must not end earlier.
    """
    order = np.lexsort((last, first, group))
    order = order[first[order] <= last[order]]
    first, last, group = first[order], last[order], group[order]
    fresh = first.copy()
    same = group[1:] == group[:-1]
    fresh[1:][same] = np.maximum(first[1:], last[:-1] + 1)[same]
    return sum(np.maximum(last - fresh + 1, 0).tolist())


def repeated_sources(
    size: int, outputs: int, stride: int, padding: tuple[int, int], taps: np.ndarray, mode: str
) -> int:
    """How many inputs are read, directly or through padding that repeats them."""
    touched = np.zeros(sum(padding) + size, np.bool_)
    for tap in taps.tolist():
        touched[tap : tap + stride * (outputs - 1) + 1 : stride] = True
    return len(np.unique(padding_sources(size, padding, mode)[touched]))


ALL = (True, True, True)
"""Gradients of the input, the weights and the bias."""


def layer_work(spec: ConvSpec, convention: str = "dense", *, gradients: tuple[bool, bool, bool] = ALL) -> Work:
    """One layer's work in closed form, with the gradients of its input, weights and bias that are wanted.

    A network's first layer needs no gradient of its input, and a frozen one none of its weights.

    A transposed convolution is the adjoint of a plain one: its forward pass forms the products of that one's input
    gradient, and the other way round.
    """
    check_option("convention", convention, CONVENTIONS)
    sizes = (spec.output_size, spec.size) if spec.transposed else (spec.size, spec.output_size)
    axes_of = zip(*sizes, spec.kernel_size, spec.stride, spec.padding, spec.dilation, strict=True)
    axes = [axis_counts(*axis, spec.padding_mode, effective=convention == "effective") for axis in axes_of]
    products, far, near, taps = (
        prod(getattr(axis, name) for axis in axes) for name in ("products", "outputs", "inputs", "taps")
    )
    read, written = (far, near) if spec.transposed else (near, far)
    channels = spec.in_channels * spec.out_channels // spec.groups
    total = spec.batch * channels * products
    outputs = spec.batch * spec.out_channels * prod(spec.output_size)
    memory = layer_memory(spec, gradients=gradients)
    of_input, of_weight, of_bias = gradients
    forward = memory.forward
    weights = prod(spec.kernel_shape) * ITEMSIZE[spec.kernel_dtype]
    biased = outputs if spec.bias else 0
    moved = forward.input + weights + forward.output
    by_input = Count(total, total - spec.batch * spec.in_channels * read, moved)
    by_weight = Count(total, max(total - channels * taps, 0), moved)
    by_bias = Count(0, max(biased - spec.out_channels, 0), forward.output + forward.parameters - weights)
    return Work(
        Count(total, total - spec.batch * spec.out_channels * written + biased, forward.bytes),
        Backward(
            by_input if of_input else Count(),
            by_weight if of_weight else Count(),
            by_bias if of_bias and spec.bias else Count(),
        ),
        memory,
    )


def layer_memory(spec: ConvSpec, *, gradients: tuple[bool, bool, bool] = ALL) -> Memory:
    """Bytes that one layer holds, by term.

    What autograd saves is what torch's module gives it: the input, or a copy that is padded in other modes, and by what
    one side has more; the input too where a mode's own gradient needs it, and no image for weights without a gradient.
    """
    item, out_item = ITEMSIZE[spec.dtype], ITEMSIZE[spec.out_dtype]
    inputs, outputs = prod(spec.input_shape) * item, prod(spec.output_shape) * out_item
    weights, bias = prod(spec.kernel_shape) * ITEMSIZE[spec.kernel_dtype], spec.bias * spec.out_channels * out_item
    of_input, of_weight, of_bias = gradients
    around = [0 if spec.transposed else abs(after - before) for before, after in spec.padding]
    if spec.padding_mode != "zeros":
        around = [sum(pair) for pair in spec.padding]
    padded = prod(n + more for n, more in zip(spec.size, around, strict=True))
    saved = of_weight * spec.batch * spec.in_channels * padded * item
    saved += of_input * inputs * (spec.padding_mode in ("reflect", "replicate"))
    return Memory(
        ForwardMemory(inputs, weights + bias, outputs),
        BackwardMemory(of_weight * weights + of_bias * bias, of_input * inputs, outputs, saved),
    )

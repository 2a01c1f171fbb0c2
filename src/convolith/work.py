"""Cost of a layer: `Work`, an addable record of operations and bytes, and the closed forms for one layer.

Every pass is counted by one rule: multiplications are the products formed; additions are the products minus the
result elements that receive at least one product, plus one per output if a bias is added. "dense" includes products
with the zeros of the padding, as every tool does; "effective" excludes them.

Every count is a product of one number per axis, so the products need not be enumerated.
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
    """Base class of dataclasses of counts: `a + b` adds field by field."""

    def __add__(self, other: Self) -> Self:
        if type(other) is not type(self):
            return NotImplemented
        return type(self)(*(getattr(self, name) + getattr(other, name) for name in _names(type(self))))  # type: ignore[arg-type]  # a class can be hashed


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


@dataclass(frozen=True)
class Count(Addable):
    """Operations of one pass, and the bytes that it must move.

    Attributes:
        multiplications: number of products formed.
        additions: number of sums and differences formed.
        bytes: number of bytes moved.
        elementwise: number of multiplications whose products are not summed, as in norms and activations.
        others: number of comparisons, divisions, roots, exponentials and similar operations, each counted as one.

    Example:
        >>> from convolith import Count
        >>> (Count(multiplications=6, additions=4) + Count(multiplications=1, elementwise=1)).macs
        6
    """

    multiplications: int = 0
    additions: int = 0
    bytes: int = 0
    elementwise: int = 0
    others: int = 0

    def __add__(self, other: Self) -> Self:  # explicit for speed: models add thousands
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
        """Number of multiply-accumulates: one per product that is summed, as in convolutions and matrix products."""
        return self.multiplications - self.elementwise


@dataclass(frozen=True)
class Backward(Addable):
    """Operations of the backward pass by part; a part that is not requested is zero.

    Attributes:
        input_gradient, weight_gradient, bias_gradient: the gradients of convolutions.
        rest: all other operators of a model.
    """

    input_gradient: Count = Count()
    weight_gradient: Count = Count()
    bias_gradient: Count = Count()
    rest: Count = Count()

    @property
    def total(self) -> Count:
        """Sum of all parts."""
        return self.input_gradient + self.weight_gradient + self.bias_gradient + self.rest

    @property
    def multiplications(self) -> int:
        """Number of multiplications in all parts."""
        return self.total.multiplications

    @property
    def macs(self) -> int:
        """Number of multiply-accumulates in all parts."""
        return self.total.macs

    @property
    def additions(self) -> int:
        """Number of additions in all parts."""
        return self.total.additions

    @property
    def bytes(self) -> int:
        """Number of bytes moved by all parts."""
        return self.total.bytes


@dataclass(frozen=True)
class ForwardMemory(Addable):
    """Bytes held in a forward pass, by term.

    Attributes:
        input, output: bytes of the input and of the output.
        parameters: bytes of the weights and biases (of a model also of its buffers).
        workspace: temporary memory of an engine while it runs; 0 where the engine is not known.
        prepared: kernel in the engine's own form, which the engine keeps; 0 where the engine is not known.
    """

    input: int = 0
    parameters: int = 0
    output: int = 0
    workspace: int = 0
    prepared: int = 0

    @property
    def bytes(self) -> int:
        """Sum of all terms."""
        return self.input + self.parameters + self.output + self.workspace + self.prepared


@dataclass(frozen=True)
class BackwardMemory(Addable):
    """Bytes held for and in a backward pass, by term.

    Attributes:
        parameter_gradients: bytes of the gradients of weights and biases.
        input_gradient, output_gradient: bytes of the gradients of the input and of the output.
        saved_activations: bytes of the tensors that autograd saves in the forward pass.
    """

    parameter_gradients: int = 0
    input_gradient: int = 0
    output_gradient: int = 0
    saved_activations: int = 0

    @property
    def bytes(self) -> int:
        """Sum of all terms."""
        return self.parameter_gradients + self.input_gradient + self.output_gradient + self.saved_activations


@dataclass(frozen=True)
class Memory(Addable):
    """Bytes held, forward and backward.

    Attributes:
        forward, backward: bytes by term.
    """

    forward: ForwardMemory = ForwardMemory()
    backward: BackwardMemory = BackwardMemory()


@dataclass(frozen=True)
class Work(Addable):
    """Operations and bytes of a layer, forward and backward; `+` adds up several layers.

    Attributes:
        forward, backward: operations and bytes moved by the two passes.
        memory: bytes held.
    """

    forward: Count = Count()
    backward: Backward = Backward()
    memory: Memory = Memory()


@dataclass(frozen=True)
class AxisCounts:
    """Counts for one axis of an ordinary correlation; a layer's counts are their products over all axes."""

    products: int
    outputs: int
    inputs: int
    taps: int
    """Number of products formed, and of the outputs, inputs and taps that take part in at least one product."""


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
    """Compute the counts for one axis; `mode` is the padding mode, and `effective` excludes the padding's zeros."""
    before, after = padding
    padded = before + size + after
    low, high = (before, before + size - 1) if effective and mode == "zeros" else (0, padded - 1)
    taps = dilation * np.arange(kernel_size)
    first = np.maximum(-((taps - low) // stride), 0)  # first and last output at which a tap is counted
    last = np.minimum((high - taps) // stride, outputs - 1)
    reads = np.maximum(last - first + 1, 0)
    if effective and mode != "zeros":
        inputs = repeated_sources(size, outputs, stride, padding, taps, mode)
    else:
        inputs = union_size(first + taps // stride, last + taps // stride, taps % stride)
    reached = union_size(first, last, np.zeros_like(taps))
    return AxisCounts(sum(reads.tolist()), reached, inputs, int((reads > 0).sum()))


def union_size(first: np.ndarray, last: np.ndarray, group: np.ndarray) -> int:
    """Count the integers in the union of the ranges first..last of each group, and sum the counts over the groups.

    Within a group, a range that begins later must not end earlier.
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
    """Count the inputs that are read, directly or through padding that repeats them."""
    touched = np.zeros(sum(padding) + size, np.bool_)
    for tap in taps.tolist():
        touched[tap : tap + stride * (outputs - 1) + 1 : stride] = True
    sources = padding_sources(size, padding, mode)[touched]
    return len(np.unique(sources[sources >= 0]))


ALL = (True, True, True)
"""Flags that request the gradients of the input, the weights and the bias."""


def layer_work(spec: ConvSpec, convention: str = "dense", *, gradients: tuple[bool, bool, bool] = ALL) -> Work:
    """Compute one layer's work in closed form, with the requested gradients of its input, weights and bias.

    A network's first layer needs no gradient of its input, and a frozen layer needs none of its weights.

    A transposed convolution is the adjoint of an ordinary one: its forward pass forms the products of the ordinary
    convolution's input gradient, and vice versa.
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
    """Compute the bytes that one layer holds, by term.

    Autograd saves the convolution's input for the weight gradient. Torch pads it in advance: on one side if
    padding is uneven, fully in modes other than "zeros". The input gradient of "reflect" and "replicate" saves x, too.
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

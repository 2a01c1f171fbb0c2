"""A 1x1 kernel as a matrix product of channels: `y[o, p] = sum over c of k[o, c] x[c, p]`, stride by slicing."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import torch

from convolith.dtypes import COMPLEX, ITEMSIZE
from convolith.engines.limits import Limits, sum_dtype_name
from convolith.engines.protocol import deliver, direct_sum_bound, to_working, working_dtype
from convolith.spec import ConvSpec
from convolith.work import Count, ForwardMemory, Memory, Work, layer_work

name = "pointwise"

PRODUCT_SHARE = 0.6
"""The share of the machine's products that torch's matrix product reaches on the shapes of layers."""


class State(NamedTuple):
    """The spec, and the kernel as a (groups, out/groups, in/groups) matrix."""

    spec: ConvSpec
    matrix: torch.Tensor


def refuse(spec: ConvSpec, kernel: torch.Tensor | None = None) -> str | None:
    """Only kernels of one tap, unpadded."""
    if spec.transposed:
        return "transposed"
    if spec.taps > 1:
        return f"kernel_size {'x'.join(map(str, spec.kernel_size))} is not 1"
    if any(map(any, spec.padding)):
        return "padding around a single tap"
    return None


def sums_directly(spec: ConvSpec) -> bool:
    """The matrix product does, but for complex numbers, whose parts mix."""
    return spec.out_dtype not in COMPLEX


def note(spec: ConvSpec) -> str:
    """What is multiplied."""
    rows, columns = spec.out_channels // spec.groups, spec.in_channels // spec.groups
    return f"{rows}x{columns} matrix product" + (f", {spec.groups} groups" if spec.groups > 1 else "")


def work(spec: ConvSpec) -> Work:
    """The layer's products; strided or converted inputs are copied first."""
    layer = layer_work(spec)
    memory = layer.memory.forward
    item = working_dtype(spec).itemsize
    read = spec.batch * spec.in_channels * prod(spec.output_size) * item
    copied = read if max(spec.stride) > 1 or item != ITEMSIZE[spec.dtype] else 0
    forward = Count(layer.forward.multiplications, layer.forward.additions, memory.bytes + 2 * copied)
    return Work(forward=forward, memory=Memory(ForwardMemory(memory.input, memory.parameters, memory.output, copied)))


def seconds(spec: ConvSpec, limits: Limits) -> float:
    """A product of matrices at the rate of torch's library, and the copies."""
    forward = work(spec).forward
    rate = limits.products_per_second(sum_dtype_name(spec)) * PRODUCT_SHARE
    return 2 * limits.call_seconds + forward.multiplications / rate + limits.moving_seconds(forward.bytes)


def error_bound(spec: ConvSpec, kernel: torch.Tensor | None = None) -> float:
    """A direct sum over the channels."""
    return direct_sum_bound(spec)


def prepare(spec: ConvSpec, kernel: torch.Tensor) -> State:
    """The kernel without its single tap."""
    matrix = to_working(kernel, working_dtype(spec))
    return State(spec, matrix.reshape(spec.groups, spec.out_channels // spec.groups, -1))


def apply(state: State, x: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None = None) -> torch.Tensor:
    """Multiply."""
    spec, matrix = state
    x = x[:, :, *(slice(None, None, s) for s in spec.stride)]
    x = to_working(x, matrix.dtype)
    if spec.groups == 1 and channels_are_last(x):
        y = torch.matmul(x.movedim(1, -1), matrix[0].T).movedim(-1, 1)
    else:
        y = torch.matmul(matrix, x.reshape(spec.batch, spec.groups, matrix.shape[2], prod(spec.output_size)))
    return deliver(y.reshape(spec.output_shape), bias, spec, out)


def channels_are_last(x: torch.Tensor) -> bool:
    """Whether the channels of one position lie side by side in memory, and nothing else would be contiguous too."""
    return not x.is_contiguous() and x.movedim(1, -1).is_contiguous()

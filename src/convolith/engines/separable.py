"""Kernels of low rank as columns and rows: `k = sum over r of column_r row_r'`, by the singular value decomposition.

A kernel of rank r and n x m taps takes r (n + m) products instead of n m: a Gaussian has rank one. What the
decomposition drops is in the error bound, so that other kernels are refused. Both passes are direct sums.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch

from convolith.dtypes import ITEMSIZE, half_ulp
from convolith.engines.base import NEEDS_KERNEL, turned
from convolith.engines.direct import engine as direct
from convolith.engines.machine_limits import MachineLimits
from convolith.spec import ConvSpec
from convolith.work import Count, ForwardMemory, Memory, Work, layer_work

name = "separable"

DROPPED = {"float32": 1e-6, "float64": 2e-15}
"""What the decomposition may leave out, relative to the sum of |k|: below what any class admits."""
MOST_BETWEEN = 1 << 25
"""Bytes that may lie between the passes beside one output: terms beyond the first one."""
DECOMPOSITION_STEPS, DECOMPOSITION_SECONDS = 200, 1e-5
"""Products for each tap and each term of a decomposition, and what any decomposition takes."""
RANK_ONE = 1
"""The rank that is assumed where no kernel is given to count with."""


class State(NamedTuple):
    """The two passes, ready."""

    columns: direct.State
    rows: direct.State


class Factors(NamedTuple):
    """A kernel's columns, (channels * rank, 1, height, 1), and its rows, (channels, rank, 1, width)."""

    columns: torch.Tensor
    rows: torch.Tensor

    @property
    def rank(self) -> int:
        """Terms of the sum, the same for every channel."""
        return self.rows.shape[1]


def refuse(spec: ConvSpec, kernel: torch.Tensor | None = None) -> str | None:
    """Kernels on two axes, one channel each, of a rank low enough to save products."""
    if spec.axes != 2 or min(spec.kernel_size) < 2:
        return "not a kernel on two axes"
    if spec.in_channels > spec.groups or spec.out_channels > spec.groups or spec.transposed:
        return "channels meet" if not spec.transposed else "transposed"
    if spec.dtype != spec.kernel_dtype or spec.dtype not in DROPPED:
        return f"{spec.dtype} with {spec.kernel_dtype}"
    if spec.padding_mode != "zeros":
        return f"padding_mode {spec.padding_mode}"
    if kernel is None:
        return NEEDS_KERNEL
    if not bool(kernel.isfinite().all()):
        return "a kernel with NaN or infinity has no factors"
    rank = factors(kernel).rank
    if rank * sum(spec.kernel_size) >= spec.taps:
        return f"rank {rank}: no fewer products"
    if (rank - 1) * prod(spec.output_shape) * ITEMSIZE[spec.dtype] > MOST_BETWEEN:
        return f"rank {rank}: too much memory between its passes"
    return None


def factors(kernel: torch.Tensor) -> Factors:
    """The singular value decomposition of every channel's kernel, as short as what may be dropped allows."""
    planes = kernel[:, 0].double()
    left, values, right = torch.linalg.svd(planes, full_matrices=False)
    size = planes.abs().sum((1, 2))
    limit = DROPPED[str(kernel.dtype).removeprefix("torch.")] * size
    for rank in range(1, values.shape[1] + 1):
        columns, rows = left[:, :, :rank] * values[:, None, :rank], right[:, :rank]
        rest = (planes - columns @ rows).abs().sum((1, 2))
        if bool((rest <= limit).all()):
            break
    by_column = columns.transpose(1, 2).flatten(0, 1)[:, None, :, None]
    return Factors(by_column.to(kernel.dtype), rows[:, :, None, :].to(kernel.dtype))


@lru_cache(maxsize=1024)
def passes(spec: ConvSpec, rank: int) -> tuple[ConvSpec, ConvSpec]:
    """The specs of the pass down the columns, one output for each term, and of the pass along the rows, which adds."""
    down = replace(
        spec,
        out_channels=spec.out_channels * rank,
        kernel_size=(spec.kernel_size[0], 1),
        stride=(spec.stride[0], 1),
        padding=(spec.padding[0], (0, 0)),
        dilation=(spec.dilation[0], 1),
        bias=False,
    )
    along = replace(
        spec,
        in_channels=spec.in_channels * rank,
        size=down.output_size,
        kernel_size=(1, spec.kernel_size[1]),
        stride=(1, spec.stride[1]),
        padding=((0, 0), spec.padding[1]),
        dilation=(1, spec.dilation[1]),
    )
    return down, along


def keeps_nonfinite_local(spec: ConvSpec) -> bool:
    """It does not: an infinity times a zero of a factor is not a number."""
    return False


def note(spec: ConvSpec) -> str:
    """How it goes about it."""
    return "columns, then rows; may spread NaN and infinity"


def work(spec: ConvSpec) -> Work:
    """Both passes at rank one, and what lies between them."""
    down, along = passes(spec, RANK_ONE)
    first, second = direct.work(down), direct.work(along)
    between = prod(down.output_shape) * ITEMSIZE[spec.dtype]
    forward = Count(
        first.forward.multiplications + second.forward.multiplications,
        first.forward.additions + second.forward.additions,
        first.forward.bytes + second.forward.bytes,
    )
    given, made = first.memory.forward, second.memory.forward
    workspace = between + max(given.workspace, made.workspace)
    factors_bytes = given.parameters + made.parameters
    parameters = layer_work(spec).memory.forward.parameters
    terms = ForwardMemory(given.input, parameters, made.output, workspace, factors_bytes)
    return Work(forward=forward, memory=Memory(terms))


def seconds(spec: ConvSpec, limits: MachineLimits) -> float:
    """Of both passes."""
    return sum(direct.seconds(part, limits) for part in passes(spec, RANK_ONE))


def error_bound(spec: ConvSpec, kernel: torch.Tensor | None = None) -> float:
    """Of both passes, the rounding of the factors, and what was dropped."""
    first, second = (direct.error_bound(part) for part in passes(spec, RANK_ONE))
    return 2 * (first + second) + 4 * half_ulp(spec.dtype) + DROPPED[spec.dtype]


def prepare_seconds(spec: ConvSpec, limits: MachineLimits) -> float:
    """Of the decompositions, a few tens of operations for each product of two sides."""
    height, width = spec.kernel_size
    steps = spec.groups * height * width * min(height, width) * DECOMPOSITION_STEPS
    return DECOMPOSITION_SECONDS * spec.groups + steps / limits.float64_products_per_second


def prepare(spec: ConvSpec, kernel: torch.Tensor, *, adjoint: bool = False) -> State:
    """The factors, and both passes made ready."""
    found = factors(turned(spec, kernel) if adjoint else kernel)
    down, along = passes(spec, found.rank)
    return State(direct.prepare(down, found.columns), direct.prepare(along, found.rows))


def apply(state: State, x: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None = None) -> torch.Tensor:
    """Down the columns, then along the rows."""
    return direct.apply(state.rows, direct.apply(state.columns, x, None), bias, out)

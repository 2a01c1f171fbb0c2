"""Low-rank kernels as column and row passes: `k = sum over r of column_r row_r'`, by singular value decomposition.

A kernel of rank r with n x m taps takes r (n + m) products instead of n m; a Gaussian has rank one. The error bound
includes the truncation of the decomposition; kernels of high rank are refused. Both passes are direct sums.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch

from convolith.dtypes import ITEMSIZE, half_ulp
from convolith.engines.base import NEEDS_KERNEL, Engine, turned
from convolith.engines.direct.engine import State as DirectState
from convolith.engines.direct.engine import direct
from convolith.engines.machine_limits import MachineLimits
from convolith.spec import ConvSpec
from convolith.work import Count, ForwardMemory, Memory, Work, layer_work

DROPPED = {"float32": 1e-6, "float64": 2e-15}
"""Upper bound on the truncation error, relative to the sum of |k|: below the tolerance of every accuracy class."""
BETWEEN = 1.25
"""Time of both passes, relative to the sum of their times alone: the second reads what the first one wrote."""
MOST_BETWEEN = 1 << 25
"""Upper bound on the bytes between the passes, not counting the first term."""
DECOMPOSITION_STEPS, DECOMPOSITION_SECONDS = 200, 1e-5
"""Products per tap and singular value of a decomposition, and the fixed time of a decomposition in seconds."""
RANK_ONE = 1
"""Rank assumed by estimates, which do not know the kernel."""


class State(NamedTuple):
    """Prepared states of the two passes."""

    columns: DirectState
    rows: DirectState


class Factors(NamedTuple):
    """Columns of a kernel, (channels * rank, 1, height, 1), and its rows, (channels, rank, 1, width)."""

    columns: torch.Tensor
    rows: torch.Tensor

    @property
    def rank(self) -> int:
        """Number of terms of the sum, equal for all channels."""
        return self.rows.shape[1]


class Separable(Engine[State]):
    """Engine of low-rank kernels."""

    name = "separable"

    def refuse(self, spec: ConvSpec, kernel: torch.Tensor | None = None) -> str | None:
        """Return a reason for all but 2-D kernels of one channel per group whose low rank saves products."""
        if _kernel_axes(spec) != 2 or min(spec.kernel_size[:2]) < 2:
            return "not a 2-D kernel with at least 2 taps per axis"
        if spec.in_channels > spec.groups or spec.out_channels > spec.groups or spec.transposed:
            return "channels meet" if not spec.transposed else "transposed"
        if spec.kernel_dtype not in DROPPED or spec.out_dtype != spec.kernel_dtype:
            return f"{spec.dtype} with {spec.kernel_dtype}"
        if spec.padding_mode == "constant":
            return "padding_mode constant"  # a column of constants is no constant
        if kernel is None:
            return NEEDS_KERNEL
        if not bool(kernel.isfinite().all()):
            return "a kernel with NaN or infinity has no factors"
        rank = factors(kernel).rank
        if rank * sum(spec.kernel_size[:2]) >= spec.taps:
            return f"rank {rank}: no fewer products"
        if (rank - 1) * prod(spec.output_shape) * ITEMSIZE[spec.out_dtype] > MOST_BETWEEN:
            return f"rank {rank}: the result of its first pass takes too much memory"
        return None

    def keeps_nonfinite_local(self, spec: ConvSpec) -> bool:
        """Return False: infinity times a zero of a factor is NaN."""
        return False

    def note(self, spec: ConvSpec) -> str:
        """Describe the two passes."""
        return "columns, then rows; may spread NaN and infinity"

    def work(self, spec: ConvSpec) -> Work:
        """Count both passes at rank one, and the memory between them."""
        down, along = passes(spec, RANK_ONE)
        first, second = direct.work(down), direct.work(along)
        between = prod(down.output_shape) * ITEMSIZE[spec.out_dtype]
        forward = Count(
            first.forward.multiplications + second.forward.multiplications,
            first.forward.additions + second.forward.additions,
            first.forward.bytes + second.forward.bytes,
        )
        columns, rows = first.memory.forward, second.memory.forward
        workspace = between + max(columns.workspace, rows.workspace)
        factors_bytes = columns.parameters + rows.parameters
        parameters = layer_work(spec).memory.forward.parameters
        terms = ForwardMemory(columns.input, parameters, rows.output, workspace, factors_bytes)
        return Work(forward=forward, memory=Memory(terms))

    def seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time of both passes at rank one."""
        return BETWEEN * sum(direct.seconds(part, limits) for part in passes(spec, RANK_ONE))

    def error_bound(self, spec: ConvSpec, kernel: torch.Tensor | None = None) -> float:
        """Bound the errors of both passes, of rounding the factors and of the truncation."""
        first, second = (direct.error_bound(part) for part in passes(spec, RANK_ONE))
        return 2 * (first + second) + 4 * half_ulp(spec.out_dtype) + DROPPED[spec.out_dtype]

    def prepare_seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time of the decompositions of all channels."""
        height, width = spec.kernel_size[:2]
        steps = spec.groups * height * width * min(height, width) * DECOMPOSITION_STEPS
        return DECOMPOSITION_SECONDS * spec.groups + steps / limits.float64_products_per_second

    def prepare(self, spec: ConvSpec, kernel: torch.Tensor, *, adjoint: bool = False) -> State:
        """Decompose the kernel, and prepare both passes."""
        low_rank = factors(turned(spec, kernel) if adjoint else kernel)
        down, along = passes(spec, low_rank.rank)
        plane = (..., *(None,) * (spec.axes - 2))  # interleaved channels are an axis of one tap
        columns, rows = low_rank.columns[plane], low_rank.rows[plane]
        return State(direct.prepare(down, columns), direct.prepare(along, rows))

    def apply(
        self, state: State, x: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Apply the column pass, then the row pass."""
        return direct.apply(state.rows, direct.apply(state.columns, x, None), bias, out)


separable = Separable()


def factors(kernel: torch.Tensor) -> Factors:
    """Decompose every channel's kernel by SVD, with the smallest rank whose truncation error is within DROPPED."""
    planes = kernel[:, 0].reshape(len(kernel), *kernel.shape[2:4]).double()
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


def _kernel_axes(spec: ConvSpec) -> int:
    """Return the number of axes that the kernel runs along, not counting interleaved channels."""
    return spec.axes - (spec.interleaved > 1)


@lru_cache(maxsize=1024)
def passes(spec: ConvSpec, rank: int) -> tuple[ConvSpec, ConvSpec]:
    """Return the specs of the column pass, with an output channel per term, and of the row pass, which sums terms."""
    ones = (1,) * (spec.axes - 1)
    down = replace(
        spec,
        out_channels=spec.out_channels * rank,
        kernel_size=(spec.kernel_size[0], *ones),
        stride=(spec.stride[0], *ones),
        padding=(spec.padding[0], *[(0, 0)] * len(ones)),
        dilation=(spec.dilation[0], *ones),
        bias=False,
    )
    along = replace(
        spec,
        dtype=spec.out_dtype,
        in_channels=spec.in_channels * rank,
        size=down.output_size,
        kernel_size=(1, *spec.kernel_size[1:]),
        stride=(1, *spec.stride[1:]),
        padding=((0, 0), *spec.padding[1:]),
        dilation=(1, *spec.dilation[1:]),
    )
    return down, along

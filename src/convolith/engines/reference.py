"""Reference engine for all options: sums shifted slices in NumPy, in float64, complex128, int64 or uint64."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch

from convolith.dtypes import COMPLEX, half_ulp, is_float
from convolith.engines.base import Engine, turned
from convolith.engines.error_bounds import direct_sum_bound
from convolith.engines.machine_limits import MachineLimits
from convolith.spec import ConvSpec
from convolith.tensors import torch_dtype
from convolith.work import Count, ForwardMemory, Memory, Work, layer_work

PRODUCTS_PER_SECOND = 2e8
"""Product rate of the reference engine, which is written for readability."""


class State(NamedTuple):
    """Spec, and the kernel in the widest dtype."""

    spec: ConvSpec
    kernel: np.ndarray


class Reference(Engine[State]):
    """Engine that accepts every layer, for comparisons."""

    name = "reference"

    def refuse(self, spec: ConvSpec, kernel: torch.Tensor | None = None) -> str | None:
        """Return None, since every option is supported."""
        return None

    def note(self, spec: ConvSpec) -> str:
        """Describe the dtype of the computation."""
        return f"in {wide_dtype(spec)}, tap by tap"

    def work(self, spec: ConvSpec) -> Work:
        """Count the layer's products; each tap copies a slice of the widened input and adds to the widened output."""
        layer = layer_work(spec)
        memory, item = layer.memory.forward, np.dtype(wide_dtype(spec)).itemsize
        inputs = spec.batch * spec.in_channels * item * prod(padded_size(spec))
        outputs = spec.batch * spec.out_channels * item * prod(uncropped_size(spec))
        per_tap = 3 * inputs + 4 * outputs  # the slice is copied and read; its product is written, read and added
        forward = Count(layer.forward.multiplications, layer.forward.additions, memory.bytes + spec.taps * per_tap)
        terms = ForwardMemory(memory.input, memory.parameters, memory.output, 2 * inputs + 2 * outputs)
        return Work(forward=forward, memory=Memory(terms))

    def seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time of one NumPy pass over the outputs per tap."""
        forward = self.work(spec).forward
        return limits.call_seconds * spec.taps + forward.multiplications / PRODUCTS_PER_SECOND

    def error_bound(self, spec: ConvSpec, kernel: torch.Tensor | None = None) -> float:
        """Bound the errors of the float64 sum and of rounding the result, except rounding to a half type."""
        if not is_float(spec.out_dtype):
            return 0.0
        rounding = half_ulp(spec.out_dtype) if spec.out_dtype in ("float32", "complex64") else 0.0
        return 2 * rounding + direct_sum_bound(replace(spec, dtype=wide_dtype(spec), kernel_dtype=wide_dtype(spec)))

    def prepare_seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time to convert the kernel."""
        return limits.moving_seconds(16 * prod(spec.kernel_shape))

    def prepare(self, spec: ConvSpec, kernel: torch.Tensor, *, adjoint: bool = False) -> State:
        """Convert the kernel to the widest dtype."""
        return State(spec, widen(turned(spec, kernel) if adjoint else kernel, spec))

    def apply(
        self, state: State, x: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Sum the taps, and add the bias."""
        spec, kernel = state
        run = scatter_taps if spec.transposed else gather_taps
        # NaN, infinity and integer overflow are valid results.
        with np.errstate(invalid="ignore", over="ignore"):
            y = run(widen(x, spec), kernel, spec)
            if bias is not None:
                y += widen(bias, spec).reshape(-1, *[1] * spec.axes)
        result = torch.from_numpy(y).to(torch_dtype(spec.out_dtype))
        if out is None:
            return result
        out.copy_(result)
        return out


reference = Reference()


def wide_dtype(spec: ConvSpec) -> str:
    """Return the dtype of the computation."""
    if spec.out_dtype in COMPLEX:
        return "complex128"
    return "float64" if is_float(spec.out_dtype) else spec.out_dtype


def widen(tensor: torch.Tensor, spec: ConvSpec) -> np.ndarray:
    """Convert a tensor to a NumPy array of the widest dtype; integers modulo 2^64."""
    name = wide_dtype(spec)
    if not is_float(name):
        array: np.ndarray = tensor.numpy().astype(name)
        return array
    wide: np.ndarray = tensor.to(torch_dtype(name)).numpy()
    return wide


def padded_size(spec: ConvSpec) -> tuple[int, ...]:
    """Return the spatial size of the padded input."""
    if spec.transposed:
        return spec.size
    return tuple(n + sum(pair) for n, pair in zip(spec.size, spec.padding, strict=True))


def uncropped_size(spec: ConvSpec) -> tuple[int, ...]:
    """Return the spatial size of the result before a transposed convolution's padding is cropped."""
    if not spec.transposed:
        return spec.output_size
    return tuple(n + sum(pair) for n, pair in zip(spec.output_size, spec.padding, strict=True))


def tap_slices(spec: ConvSpec, taps: tuple[int, ...], counts: tuple[int, ...]) -> tuple[slice, ...]:
    """Return slices of the positions that one tap reads (transposed: writes), `counts` per axis, strided."""
    axes_of = zip(taps, spec.dilation, spec.stride, counts, strict=True)
    every = slice(None)  # all images, all channels
    return (every, every, *(slice(t * d, t * d + s * (n - 1) + 1, s) for t, d, s, n in axes_of))


def tap_matrix(grouped: np.ndarray, taps: tuple[int, ...]) -> np.ndarray:
    """Return the weights of one tap: (groups, rows, columns)."""
    return grouped.reshape(*grouped.shape[:3], -1)[..., np.ravel_multi_index(taps, grouped.shape[3:])]


def gather_taps(x: np.ndarray, kernel: np.ndarray, spec: ConvSpec) -> np.ndarray:
    """Compute y = sum over taps of k[tap] @ (x shifted by the tap), for each group."""
    modes = {"zeros": "constant", "replicate": "edge", "circular": "wrap"}
    mode: Any = modes.get(spec.padding_mode, spec.padding_mode)
    around = {"constant_values": spec.padding_value} if mode == "constant" else {}
    x = np.pad(x, [(0, 0), (0, 0), *spec.padding], mode=mode, **around)
    grouped = kernel.reshape(spec.groups, -1, *kernel.shape[1:])  # (groups, out/groups, in/groups, *kernel_size)
    y = np.zeros((spec.batch, spec.groups, grouped.shape[1], prod(spec.output_size)), x.dtype)
    times = np.multiply if grouped.shape[2] == 1 else np.matmul  # equal products without a matrix call per group
    for taps in product(*map(range, spec.kernel_size)):
        shifted = x[tap_slices(spec, taps, spec.output_size)]
        y += times(tap_matrix(grouped, taps), shifted.reshape(spec.batch, spec.groups, grouped.shape[2], y.shape[-1]))
    return y.reshape(spec.output_shape)


def scatter_taps(x: np.ndarray, kernel: np.ndarray, spec: ConvSpec) -> np.ndarray:
    """Compute the adjoint: add k[tap] times each input to the output shifted by the tap, then crop the padding."""
    grouped = kernel.reshape(spec.groups, -1, *kernel.shape[1:])  # (groups, in/groups, out/groups, *kernel_size)
    x = x.reshape(spec.batch, spec.groups, grouped.shape[1], prod(spec.size))
    full = np.zeros((spec.batch, spec.out_channels, *uncropped_size(spec)), x.dtype)
    for taps in product(*map(range, spec.kernel_size)):
        part = np.swapaxes(tap_matrix(grouped, taps), -1, -2) @ x
        full[tap_slices(spec, taps, spec.size)] += part.reshape(spec.batch, spec.out_channels, *spec.size)
    inner = [slice(before, before + n) for (before, _), n in zip(spec.padding, spec.output_size, strict=True)]
    return np.ascontiguousarray(full[:, :, *inner])

"""Engines that call torch's convolution, contiguous or channels_last, padding first if necessary; its gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from convolith.dtypes import COMPLEX, ITEMSIZE, is_float
from convolith.engines.base import Engine, deliver, turned
from convolith.engines.error_bounds import direct_sum_bound
from convolith.engines.machine_limits import MachineLimits, sum_dtype_name
from convolith.engines.padding import crop, pad, padded, unpadded
from convolith.geometry import Pairs
from convolith.spec import ConvSpec
from convolith.tensors import to_working, torch_dtype, working_dtype
from convolith.work import Count, ForwardMemory, Memory, Work, layer_work

PLAIN = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
LAST = {axes + 2: layout for axes, layout in CHANNELS_LAST.items()}
"""Channels-last memory formats by the number of tensor dimensions."""
COMPLEX_PRODUCTS = 3
"""Number of real convolutions in torch's complex convolution (Gauss's trick: the sum of both parts is used once)."""
MANY_TAPS = 100
"""Number of taps from which torch's contiguous float32 code for one channel per group uses plain loops."""
DENSE_EFFICIENCY = 0.8
"""Fraction of the peak product rate that layers with many channels reach."""
POINTWISE_EFFICIENCY = 0.68
"""Fraction of the peak product rate that 1x1 layers reach."""
FEW_CHANNELS = 8
"""Number of channels per group below which vectors are not filled and the efficiency falls in proportion."""
DEPTHWISE_EFFICIENCY = {False: 0.4, True: 0.28}
"""Fraction of the peak product rate of depthwise layers: contiguous with few taps, and channels_last."""
PLANE_EFFICIENCY = {False: 0.03, True: 0.08}
"""Fraction of the peak product rate of one-channel images, contiguous and channels_last."""
FALLBACK_EFFICIENCY = 0.012
"""Fraction of the peak product rate of the plain loops."""
CALLS, ONEDNN_CALLS = 0.5, 4.0
"""Fixed overhead of torch's native code and of its oneDNN path, in units of `MachineLimits.call_seconds`."""
NATIVE_ELEMENTS, NATIVE_KERNEL = 20480, 3
"""Largest input elements and shorter kernel side for which torch's native code computes a float32 layer."""
BACKWARD_CALLS = 3.0
"""Fixed overhead of torch's backward pass, in units of `MachineLimits.call_seconds`."""
POINTWISE_GRADIENT_EFFICIENCIES, DENSE_GRADIENT_EFFICIENCIES = (0.6, 0.8), (0.75, 0.6)
"""Fractions of the peak product rate of the input gradient and the kernel gradient, with one tap and with more."""
PLANE_GRADIENT_EFFICIENCY = 0.006
"""Fraction of the peak product rate of both gradients for one-channel images."""
DEPTHWISE_KERNEL_EFFICIENCY = {False: 0.35, True: 0.05}
"""Fraction of the peak product rate of a depthwise kernel's gradient, contiguous with few taps and channels_last."""
DEPTHWISE_INPUT_EFFICIENCY = 0.3
"""Fraction of the peak product rate of a depthwise input's gradient, contiguous."""
FEW_TAPS = 9
"""Largest number of taps for which torch has specialised code for the kernel gradient with one channel per group."""
LAST_EFFICIENCY_OF_TAP = 0.0015
"""Efficiency that each tap adds to a depthwise input's gradient in channels_last."""
UNFOLDED_EFFICIENCY = 0.5
"""Fraction of the peak product rate where the windows are first copied to a matrix (im2col)."""


class State(NamedTuple):
    """Spec, kernel in the working dtype and memory format, and torch's operator if it alone computes the result."""

    spec: ConvSpec
    kernel: torch.Tensor
    straight: Callable[..., torch.Tensor] | None


@dataclass(frozen=True)
class TorchEngine(Engine[State]):
    """Engine for one memory format."""

    name: str
    last: bool

    def refuse(self, spec: ConvSpec, kernel: torch.Tensor | None = None) -> str | None:
        """Return a reason only for channels_last on one axis, where this format does not exist."""
        return "channels_last needs two or three axes" if self.last and spec.axes == 1 else None

    def keeps_nonfinite_local(self, spec: ConvSpec) -> bool:
        """Return True for real dtypes; complex results are combined from three real sums."""
        return spec.out_dtype not in COMPLEX

    def memory_format(self, spec: ConvSpec) -> torch.memory_format:
        """Return the memory format of the computation."""
        return CHANNELS_LAST[spec.axes] if self.last else torch.contiguous_format

    def note(self, spec: ConvSpec) -> str:
        """Describe the memory format, the working dtype and whether padding is a separate step."""
        parts = ["channels_last" if self.last else "contiguous"]
        if any(map(any, split_padding(spec)[1])):
            parts.append("crops after" if spec.transposed else "pads first")
        working = str(working_dtype(spec)).removeprefix("torch.")
        return ", ".join(parts + [f"in {working}"] * (working != spec.out_dtype))

    def work(self, spec: ConvSpec) -> Work:
        """Count the layer's products (three real ones per complex one), and the copies for padding and conversion."""
        layer = layer_work(spec)
        memory, item = layer.memory.forward, working_dtype(spec).itemsize
        rest = split_padding(spec)[1]
        grown = prod(n + sum(pair) for n, pair in zip(spec.size, rest, strict=True))
        elements, copied = spec.batch * spec.in_channels, 0
        if any(map(any, rest)) and not spec.transposed:
            copied += elements * grown * item
        if item != ITEMSIZE[spec.dtype]:
            copied += elements * prod(spec.size) * item
        if self.last:  # to the format and back; a single channel has both formats
            copied += elements * grown * item * (spec.in_channels > 1) + memory.output * (spec.out_channels > 1)
        written, held = unfolded(spec)
        copied += written
        times = COMPLEX_PRODUCTS if spec.out_dtype in COMPLEX else 1
        forward = Count(
            times * layer.forward.multiplications, times * layer.forward.additions, memory.bytes + 2 * copied
        )
        workspace = copied - written + held
        converted = self.last or working_dtype(spec) is not torch_dtype(spec.kernel_dtype)
        prepared = converted * prod(spec.kernel_shape) * item
        terms = ForwardMemory(memory.input, memory.parameters, memory.output, workspace, prepared)
        return Work(forward=forward, memory=Memory(terms))

    def seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time of the products, at the efficiency of torch's code for such a layer, and of the copies."""
        forward = self.work(spec).forward
        rate = limits.products_per_second(sum_dtype_name(spec)) * self._share(spec)
        calls, moved = (ONEDNN_CALLS if through_onednn(spec) else CALLS), forward.bytes
        if self.last or any(map(any, split_padding(spec)[1])):
            calls += 1.5  # copies
        elif through_onednn(spec) and spec.groups == spec.in_channels == spec.out_channels > 1:
            moved *= 3  # reordering to oneDNN's layout and back takes longer than the few products
        return calls * limits.call_seconds + forward.multiplications / rate + limits.moving_seconds(moved)

    def _share(self, spec: ConvSpec) -> float:
        """Return the fraction of the peak product rate."""
        ins, outs = spec.in_channels // spec.groups, spec.out_channels // spec.groups
        if unfolded(spec)[0]:
            return UNFOLDED_EFFICIENCY * min(1, outs / FEW_CHANNELS)
        if ins == outs == 1:
            if not self.last and spec.taps >= MANY_TAPS:
                return FALLBACK_EFFICIENCY
            return (PLANE_EFFICIENCY if spec.groups == 1 else DEPTHWISE_EFFICIENCY)[self.last]
        dense = POINTWISE_EFFICIENCY if spec.taps == 1 else DENSE_EFFICIENCY
        return dense * min(1, outs / FEW_CHANNELS, (ins + 1) / FEW_CHANNELS)

    def gradient_seconds(self, spec: ConvSpec, limits: MachineLimits) -> tuple[float, float]:
        """Estimate the time of torch's backward pass for the input gradient alone and the kernel gradient alone."""
        forward = self.work(spec).forward
        rate = limits.products_per_second(sum_dtype_name(spec))
        calls = BACKWARD_CALLS + (2.0 if self.last else 0.0)
        fixed = calls * limits.call_seconds + limits.moving_seconds(forward.bytes)
        by_x, by_k = (fixed + forward.multiplications / (rate * share) for share in self._gradient_shares(spec))
        return by_x, by_k

    def _gradient_shares(self, spec: ConvSpec) -> tuple[float, float]:
        """Return the fractions of the peak product rate for the input gradient and the kernel gradient."""
        ins, outs = spec.in_channels // spec.groups, spec.out_channels // spec.groups
        filled = min(1, outs / FEW_CHANNELS, (ins + 1) / FEW_CHANNELS)
        if unfolded(spec)[0]:
            return UNFOLDED_EFFICIENCY * min(1, outs / FEW_CHANNELS), UNFOLDED_EFFICIENCY * min(1, outs / FEW_CHANNELS)
        if ins > 1 or outs > 1:
            by_x, by_k = POINTWISE_GRADIENT_EFFICIENCIES if spec.taps == 1 else DENSE_GRADIENT_EFFICIENCIES
            return by_x * filled, by_k * filled
        if spec.groups == 1:
            return PLANE_GRADIENT_EFFICIENCY, PLANE_GRADIENT_EFFICIENCY
        by_k = DEPTHWISE_KERNEL_EFFICIENCY[self.last]
        if self.last:
            return min(DEPTHWISE_EFFICIENCY[True], LAST_EFFICIENCY_OF_TAP * spec.taps), by_k
        return DEPTHWISE_INPUT_EFFICIENCY, by_k if spec.taps <= FEW_TAPS else FALLBACK_EFFICIENCY

    def error_bound(self, spec: ConvSpec, kernel: torch.Tensor | None = None) -> float:
        """Return the bound of a direct sum, times 4 for complex dtypes, where sums of both parts are added."""
        return direct_sum_bound(spec) * (4 if spec.out_dtype in COMPLEX else 1)

    def prepare_seconds(self, spec: ConvSpec, limits: MachineLimits) -> float:
        """Estimate the time to convert the kernel, if it is converted."""
        moved = limits.moving_seconds(2 * self.work(spec).memory.forward.prepared)
        return moved + limits.call_seconds / 4 if moved else 0.0

    def prepare(self, spec: ConvSpec, kernel: torch.Tensor, *, adjoint: bool = False) -> State:
        """Convert the kernel to the working dtype and memory format."""
        kernel = to_working(turned(spec, kernel) if adjoint else kernel, working_dtype(spec))
        straight = None if self.last else torch_operator(spec)
        return State(spec, kernel.to(memory_format=self.memory_format(spec)), straight)

    def apply(
        self, state: State, x: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Convert x, convolve, and make the result contiguous unless x is channels_last."""
        spec, kernel, straight = state
        if out is None and straight is not None:
            return straight(x, kernel, bias)
        last = CHANNELS_LAST.get(spec.axes)  # with one channel, x has both formats and counts as contiguous
        given_last = last is not None and x.is_contiguous(memory_format=last) and not x.is_contiguous()
        if spec.pads_beyond_zeros:
            x, spec = padded(x, spec), unpadded(spec)
        x = to_working(x, kernel.dtype)
        if self.last:
            x = x.to(memory_format=self.memory_format(spec))
        y = torch_operators(x, kernel, None, spec)
        if not given_last:
            y = y.contiguous()
        return deliver(y, bias, spec, out)


contiguous = TorchEngine("aten", last=False)
channels_last = TorchEngine("aten_channels_last", last=True)


def split_padding(spec: ConvSpec) -> tuple[tuple[int, ...], Pairs]:
    """Split the padding into a symmetric part for torch's operator, and a rest to pad (transposed: crop) separately."""
    if spec.pads_beyond_zeros:
        return (0,) * spec.axes, spec.padding
    shared = tuple(min(pair) for pair in spec.padding)
    return shared, tuple((before - m, after - m) for (before, after), m in zip(spec.padding, shared, strict=True))


def unfolded(spec: ConvSpec) -> tuple[int, int]:
    """Return the bytes of im2col windows that torch writes, in total and at once; its float32 kernels need none.

    In other dtypes torch copies the window of every output of a group before the products: `taps` times the input.
    """
    working = working_dtype(spec)
    single = spec.taps == 1 and max(spec.stride) == 1 and not any(map(any, spec.padding))
    if working in (torch.float32, torch.complex64) or single:
        return 0, 0
    positions = prod(spec.size if spec.transposed else spec.output_size)
    channels = spec.out_channels if spec.transposed else spec.in_channels
    written = spec.batch * channels * spec.taps * positions * working.itemsize
    return written, written // spec.groups


def through_onednn(spec: ConvSpec) -> bool:
    """Return whether torch uses oneDNN."""
    return working_dtype(spec) is torch.float32 and exceeds_native(spec.input_shape, spec.kernel_size, spec.groups)


def exceeds_native(input_shape: Sequence[int], kernel_size: Sequence[int], groups: int) -> bool:
    """Return whether torch hands a float32 layer to oneDNN: all but small single images (torch's `use_mkldnn`)."""
    square = len(kernel_size) > 1 and min(kernel_size[-2:]) > NATIVE_KERNEL
    return groups > 1 or square or input_shape[0] > 1 or prod(input_shape[:4]) > NATIVE_ELEMENTS


def torch_operator(spec: ConvSpec) -> Callable[..., torch.Tensor] | None:
    """Return torch's operator of (x, k, bias) with the spec's options, or None if x must be converted or padded."""
    shared, rest = split_padding(spec)
    same = spec.dtype == spec.kernel_dtype == spec.out_dtype and working_dtype(spec) is torch_dtype(spec.dtype)
    if spec.transposed or any(map(any, rest)) or not same or not is_float(spec.dtype):
        return None
    return partial(_straight, PLAIN[spec.axes], (spec.stride, shared, spec.dilation, spec.groups))


def is_torch_operator(compute: Any) -> bool:
    """Return whether a function was returned by `torch_operator`."""
    return isinstance(compute, partial) and compute.func is _straight


def _straight(
    convolve: Callable[..., torch.Tensor],
    options: tuple[Any, ...],
    x: torch.Tensor,
    k: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """Call torch's operator with positional options, which torch parses faster than keywords."""
    return convolve(x, k, bias, *options)


def torch_operators(x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None, spec: ConvSpec) -> torch.Tensor:
    """Convolve with torch operators only, in the tensors' own dtype, so that torch's transforms can trace it."""
    shared, rest = split_padding(spec)
    options: dict[str, Any] = {"stride": spec.stride, "dilation": spec.dilation, "groups": spec.groups}
    if not spec.transposed:
        x = pad(x, rest, spec.padding_mode, spec.padding_value)
        return PLAIN[spec.axes](x, kernel, bias, padding=shared, **options)
    y = TRANSPOSED[spec.axes](x, kernel, bias, padding=shared, output_padding=spec.output_padding, **options)
    return crop(y, rest, spec.output_size)


def gradients(
    grad: torch.Tensor, x: torch.Tensor, kernel: torch.Tensor, spec: ConvSpec, wanted: tuple[bool, bool, bool]
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Return the gradients of x, the kernel and the bias (None where not wanted); they can be differentiated again.

    Padding modes other than zeros are applied to x beforehand, where torch differentiates them.
    """
    if grad.is_complex():
        by_bias = grad.sum((0, *range(2, grad.ndim))) if wanted[2] else None
        return (*_complex_gradients(grad, x, kernel, spec, wanted[:2]), by_bias)
    shared, rest = split_padding(spec)
    by_x: torch.Tensor | None
    by_x, by_kernel, by_bias = torch.ops.aten.convolution_backward(
        pad(grad, rest, "zeros") if spec.transposed else grad,
        x if spec.transposed else pad(x, rest, "zeros"),
        kernel,
        [spec.out_channels] if wanted[2] else None,
        spec.stride,
        shared,
        spec.dilation,
        spec.transposed,
        spec.output_padding,
        spec.groups,
        list(wanted),
    )
    if by_x is not None and not spec.transposed:
        by_x = crop(by_x, rest, spec.size)
    return by_x, by_kernel, by_bias


def _complex_gradients(
    grad: torch.Tensor, x: torch.Tensor, kernel: torch.Tensor, spec: ConvSpec, wanted: tuple[bool, bool]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return the gradients of complex tensors, which convolution_backward rejects, by autograd of the forward pass."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        y = torch_operators(x, kernel, None, spec)
        leaves = [tensor for tensor, want in zip((x, kernel), wanted, strict=True) if want]
        results = iter(torch.autograd.grad(y, leaves, grad, create_graph=again))
    by_x, by_kernel = (next(results) if want else None for want in wanted)
    return by_x, by_kernel

"""Receptive fields: how many input pixels one pixel of a layer's output depends on, and the cumulative stride.

They are propagated from operator to operator: a window of k taps with dilation d, at cumulative stride j, enlarges the
field by (k - 1) d j input pixels, and a stride multiplies j (Araujo, Norris and Sim 2019). A sum or a concatenation has
the largest field of its parts; operators that combine all pixels (means over pixels, matrix products that sum over more
than channels, attention) have the whole input as field. Unsupported operators make it unknown, but stop no count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, floor
from typing import Any

import torch

from convolith.costing.tracing.fake_models import storages_of
from convolith.costing.tracing.module_tracker import Path
from convolith.torch_private import storage_identity

MIXERS = frozenset(
    (
        *("native_group_norm", "mkldnn_rnn_layer", "_scaled_dot_product_flash_attention_for_cpu"),
        *("_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention"),
    )
)
"""Operators whose results depend on every pixel, if their input has spatial axes."""
PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1, "mv": 0}
"""Matrix products, and the position of their first matrix; they sum over channels, or over pixels too."""
NORMS = frozenset(("native_layer_norm", "native_batch_norm", "_native_batch_norm_legit"))
_KEEPING = (
    "clone _to_copy copy cat stack native_dropout constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d "
    "replication_pad1d replication_pad2d replication_pad3d _unsafe_view _reshape_alias _fused_rms_norm glu "
    "_native_batch_norm_legit_no_training _batch_norm_with_update channel_shuffle native_channel_shuffle expand_copy "
    "unsafe_split unsafe_split_with_sizes split_with_sizes_copy _prelu_kernel masked_fill bernoulli index_select"
)
KEEPERS = frozenset(_KEEPING.split())
"""Operators that, like pointwise ones, keep the receptive field of their arguments."""
_REDUCING = (
    "mean sum amax amin max min var std var_mean std_mean logsumexp prod norm linalg_vector_norm any all argmax argmin "
    "cumsum cumprod median sort topk _softmax _log_softmax _safe_softmax _fft_r2c _fft_c2c _fft_c2r"
)
REDUCTIONS = frozenset(_REDUCING.split())
"""Operators along axes, which are the second argument, or the third of norms (all axes by default)."""


@dataclass(frozen=True)
class ReceptiveField:
    """Receptive field of a pixel of a layer's output.

    A window of k taps with dilation d, at cumulative stride j, enlarges the field by `(k - 1) * d * j` input pixels,
    and a stride multiplies j.

    Attributes:
        size: number of input pixels along each axis; None for the whole input.
        stride: distance of neighbouring output pixels along each axis, in input pixels; below one after upsampling.

    References:
        Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks", Distill, 2019.
    """

    size: tuple[Fraction, ...] | None
    stride: tuple[Fraction, ...]

    def __str__(self) -> str:
        sides = "all" if self.size is None else "x".join(_number(n) for n in self.size)
        return f"{sides} by {'x'.join(str(s) for s in self.stride)}" if self.stride else sides


@dataclass(frozen=True)
class Seen:
    """Receptive field of a tensor (None before the first window operator), and its number of channels, if known.

    If `fixed`, its number of pixels does not depend on the input's size.
    """

    field: ReceptiveField | None = None
    channels: int | None = None
    fixed: bool = False


class ReceptiveFields:
    """Receptive fields of tensors, by storage, and of modules, after the last window operator of each."""

    def __init__(self, inputs: Iterable[torch.Tensor]) -> None:
        self.of_modules: dict[Path, ReceptiveField] = {}
        self.strides: set[tuple[Fraction, ...]] = set()
        self._of: dict[int, Seen] = {}
        self._kept: list[Any] = []  # storages, so that no identity is reused
        for tensor in inputs:
            self._put(tensor, Seen())

    def seen(
        self,
        name: str,
        args: tuple[Any, ...],
        ins: list[torch.Tensor],
        made: list[torch.Tensor],
        path: Path,
        *,
        pointwise: bool,
    ) -> None:
        """Update the fields after an operator that is not a view, with its input tensors and its results."""
        given = [seen for tensor in ins if (seen := self._get(tensor)) is not None]
        if not given or not made:
            return
        name = name.removesuffix("_")
        before = _widest(given)
        after = self._through(name, args, made[0], before, pointwise=pointwise)
        for tensor in made:
            self._put(tensor, after)
        if after is None or after.field is None:
            return
        if name in WINDOWS:
            self.of_modules[path] = after.field
            stride = after.field.stride
            if name in ADAPTIVE:  # its windows are of whole pixels if the size is a multiple of this
                stride = (Fraction(1),) * len(stride) if before.field is None else before.field.stride
                stride = tuple(j * n for j, n in zip(stride, made[0].shape[-len(stride) :], strict=True))
            if not before.fixed:
                self.strides.add(stride)
        elif after.field.size is None:
            self.of_modules[path] = after.field

    def _get(self, tensor: torch.Tensor) -> Seen | None:
        return self._of.get(storage_identity(storages_of(tensor)[0]))

    def _put(self, tensor: torch.Tensor, seen: Seen | None) -> None:
        storage = storages_of(tensor)[0]
        if seen is None:
            self._of.pop(storage_identity(storage), None)
            return
        self._kept.append(storage)
        self._of[storage_identity(storage)] = seen

    def forget(self, tensor: torch.Tensor) -> None:
        """Make the field of a tensor unknown, after an operator that is not supported."""
        self._put(tensor, None)

    def _through(
        self, name: str, args: tuple[Any, ...], out: torch.Tensor, seen: Seen, *, pointwise: bool
    ) -> Seen | None:
        """Return the field of an operator's result, or None if it is unknown."""
        if name in WINDOWS:
            return _window(name, args, out, seen)
        if name in PRODUCTS:
            first, second = args[PRODUCTS[name]], args[PRODUCTS[name] + 1]
            one = (self._get(first) is None) != (self._get(second) is None)
            mixes = not (one and seen.channels in (first.shape[-1], None))
            return replace(_mixed(seen) if mixes else seen, channels=out.shape[-1])
        if name in MIXERS or (name in REDUCTIONS and _over_pixels(name, args, seen)):
            return _mixed(seen)
        if name in NORMS and _normalises_pixels(name, args, seen):
            return _mixed(seen)
        if name == "cat" and seen.channels is not None and out.ndim > 1:
            axis = args[1] % out.ndim if len(args) > 1 else 0
            parts = [part for part in args[0] if part.ndim == out.ndim]
            if parts and (axis == 1 or parts[0].shape[axis] == seen.channels):
                return replace(seen, channels=out.shape[axis])
        return seen if pointwise or name in KEEPERS or name in REDUCTIONS or name in NORMS else None


def _mixed(seen: Seen) -> Seen:
    """Return the whole input as field, or no field if no window operator ran before."""
    return seen if seen.field is None else replace(seen, field=ReceptiveField(None, seen.field.stride))


def _over_pixels(name: str, args: tuple[Any, ...], seen: Seen) -> bool:
    """Return whether a reduction includes spatial axes, not only batch and channels."""
    place = 2 if "norm" in name else 1
    x, axes = args[0], args[place] if len(args) > place else None
    if isinstance(axes, bool) or not isinstance(axes, int | list | tuple) or axes == []:
        return True
    reduced = {axis % max(x.ndim, 1) for axis in ([axes] if isinstance(axes, int) else axes)}
    channels = 1 if x.ndim > 1 and seen.channels in (x.shape[1], None) else x.ndim - 1
    return bool(reduced - {0, channels}) and x.ndim > 2


def _normalises_pixels(name: str, args: tuple[Any, ...], seen: Seen) -> bool:
    """Return whether a norm's statistics are over pixels: over spatial axes, or of each image separately."""
    if name == "native_layer_norm":
        return len(args[1]) > 1 or (seen.channels not in (args[1][0], None) and args[0].ndim > 2)
    return len(args) > 5 and args[3] is None and bool(args[5])  # statistics of the batch, without running ones


def _widest(several: list[Seen]) -> Seen:
    """Return the largest field of several tensors that are combined pixel by pixel."""
    if len(several) == 1:
        return several[0]
    channels = max((seen.channels for seen in several if seen.channels is not None), default=None)
    fixed = all(seen.fixed for seen in several)
    fields = [seen.field for seen in several if seen.field is not None]
    if not fields:
        return Seen(None, channels, fixed)
    comparable = [field for field in fields if len(field.stride) == len(fields[0].stride)]
    strides = tuple(max(sides) for sides in zip(*(field.stride for field in comparable), strict=True))
    if any(field.size is None for field in comparable):
        return Seen(ReceptiveField(None, strides), channels, fixed)
    sizes = (field.size for field in comparable if field.size is not None)
    return Seen(ReceptiveField(tuple(max(sides) for sides in zip(*sizes, strict=True)), strides), channels, fixed)


def _window(name: str, args: tuple[Any, ...], out: torch.Tensor, seen: Seen) -> Seen | None:
    """Return the field after a window operator; the first one sees input pixels and sets the number of axes."""
    taps, strides = WINDOWS[name](args, out)
    channels = out.shape[-len(taps) - 1]
    if seen.field is None:
        one = (Fraction(1),) * len(strides)
        field = ReceptiveField(one, one)
    else:
        field = seen.field
        more = len(strides) - len(field.stride)  # 1-d signals may be pooled as images of one row
        if more < 0 or any(n != 1 for n in (*taps[:more], *strides[:more])):
            return None
        taps, strides = taps[more:], strides[more:]
    after = tuple(j * s for j, s in zip(field.stride, strides, strict=True))
    size = field.size
    if size is not None:
        size = tuple(n + (k - 1) * j for n, k, j in zip(size, taps, field.stride, strict=True))
    return Seen(ReceptiveField(size, after), channels, seen.fixed or name in ADAPTIVE)


def _number(n: Fraction) -> str:
    return str(int(n) if n.denominator == 1 else round(float(n), 2))


def _each(values: Any, axes: int) -> tuple[int, ...]:
    entries = tuple(values) if isinstance(values, list | tuple) else (values,)
    return entries * axes if len(entries) == 1 else entries


def _extents(kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    return [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]


def _convolution(args: tuple[Any, ...], out: torch.Tensor) -> Any:  # noqa: ARG001 - signature of every window
    axes = args[1].ndim - 2
    steps = _each(args[3], axes)
    taps = _extents(args[1].shape[2:], _each(args[5], axes))
    if not args[6]:
        return taps, [Fraction(s) for s in steps]
    reached = [(k - 1) // s + 1 for k, s in zip(taps, steps, strict=True)]  # inputs that one output reads
    return reached, [Fraction(1, s) for s in steps]


def _correlation(args: tuple[Any, ...], out: torch.Tensor) -> Any:
    return _convolution((*args[:6], False), out)


def _pool(axes: int, *, dilated: bool = False) -> Any:
    def window(args: tuple[Any, ...], out: torch.Tensor) -> Any:  # noqa: ARG001 - signature of every window
        kernel = _each(args[1], axes)
        stride = _each(args[2], axes) if len(args) > 2 and args[2] else kernel
        dilation = _each(args[4], axes) if dilated and len(args) > 4 else (1,) * axes
        return _extents(kernel, dilation), [Fraction(s) for s in stride]

    return window


def _shares(args: tuple[Any, ...], out: torch.Tensor, axes: int) -> list[Fraction]:
    return [Fraction(n, m) for n, m in zip(args[0].shape[-axes:], out.shape[-axes:], strict=True)]


def _resized(axes: int, neighbours: int, *, smoothed: bool = False) -> Any:
    """Return the window of an interpolation from `neighbours` per axis; antialiasing reads all pixels between them."""

    def window(args: tuple[Any, ...], out: torch.Tensor) -> Any:
        shares = _shares(args, out, axes)
        return [neighbours * (ceil(s) if smoothed and s > 1 else 1) for s in shares], shares

    return window


def _adaptive(axes: int) -> Any:
    def window(args: tuple[Any, ...], out: torch.Tensor) -> Any:
        sizes = zip(args[0].shape[-axes:], out.shape[-axes:], strict=True)
        taps = [max(ceil((i + 1) * n / m) - floor(i * n / m) for i in range(m)) for n, m in sizes]
        return taps, _shares(args, out, axes)

    return window


ADAPTIVE: dict[str, Any] = {
    "_adaptive_avg_pool2d": _adaptive(2),
    "_adaptive_avg_pool3d": _adaptive(3),
    "adaptive_max_pool2d": _adaptive(2),
    "adaptive_max_pool3d": _adaptive(3),
}
"""Window operators whose results have a fixed size; entries as in `WINDOWS`."""
WINDOWS: dict[str, Any] = {
    **ADAPTIVE,
    "pixel_shuffle": lambda args, _: ([1, 1], [Fraction(1, args[1])] * 2),
    "pixel_unshuffle": lambda args, _: ([args[1]] * 2, [Fraction(args[1])] * 2),
    "convolution": _convolution,
    "convolith::correlate": _correlation,
    "max_pool2d_with_indices": _pool(2, dilated=True),
    "max_pool3d_with_indices": _pool(3, dilated=True),
    "avg_pool2d": _pool(2),
    "avg_pool3d": _pool(3),
    "upsample_nearest1d": _resized(1, 1),
    "upsample_nearest2d": _resized(2, 1),
    "upsample_nearest3d": _resized(3, 1),
    "_upsample_nearest_exact2d": _resized(2, 1),
    "upsample_linear1d": _resized(1, 2),
    "upsample_bilinear2d": _resized(2, 2),
    "upsample_trilinear3d": _resized(3, 2),
    "upsample_bicubic2d": _resized(2, 4),
    "_upsample_bilinear2d_aa": _resized(2, 2, smoothed=True),
    "_upsample_bicubic2d_aa": _resized(2, 4, smoothed=True),
}
"""Functions of arguments and output, by operator: taps of a window (with dilation gaps), and its stride."""

"""Receptive fields: how many pixels of the input a pixel of each layer's result sees, and how far apart neighbours are.

Followed from operator to operator: a window of k taps, d apart, on pixels that lie j of the input's apart, sees
(k - 1) d j pixels more, and a stride multiplies j (Araujo, Norris and Sim 2019). What is added or stacked sees what the
widest of its parts sees; what mixes all pixels (matrix products of them, means) sees all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch

from convolith.costing.fakes import tensors_in
from convolith.costing.watching import Path

MIXERS = frozenset(
    (
        *("mm", "addmm", "bmm", "baddbmm", "mean", "sum", "native_group_norm", "mkldnn_rnn_layer"),
        "_scaled_dot_product_flash_attention_for_cpu",
    )
)
"""Operators whose results see every pixel (of those that have a spatial extent at all)."""


@dataclass(frozen=True)
class Field:
    """What a pixel of a layer's result sees.

    Attributes:
        size: pixels of the input along each axis; None for all.
        stride: how many pixels of the input lie between neighbours, along each axis; below one after upsampling.
    """

    size: tuple[Fraction, ...] | None
    stride: tuple[Fraction, ...]

    def __str__(self) -> str:
        sides = (
            "all"
            if self.size is None
            else "x".join(str(int(n) if n.denominator == 1 else round(float(n), 2)) for n in self.size)
        )
        return f"{sides} by {'x'.join(str(s) for s in self.stride)}"


class Fields:
    """Fields of tensors, by their storage, and of modules, by the last window of each."""

    def __init__(self, inputs: Sequence[torch.Tensor]) -> None:
        self.of_modules: dict[Path, Field] = {}
        self._of: dict[int, Field] = {}
        self._kept: list[Any] = []  # storages, so that no other takes their place
        for tensor in inputs:
            axes = max(tensor.ndim - 2, 0)
            if axes:
                self._put(tensor, Field((Fraction(1),) * axes, (Fraction(1),) * axes))

    def seen(self, func: Any, args: tuple[Any, ...], out: Any, path: Path) -> None:
        """An operator ran."""
        if func.is_view:
            return
        given = [field for tensor in tensors_in(args) if (field := self._get(tensor)) is not None]
        made = tensors_in(out)
        if not given or not made:
            return
        name = func._schema.name.removeprefix("aten::").removesuffix("_")
        found = _through(name, args, made[0], _widest(given))
        for tensor in made:
            self._put(tensor, found)
        if name in WINDOWS or name in MIXERS:
            self.of_modules[path] = found

    def _get(self, tensor: torch.Tensor) -> Field | None:
        return self._of.get(tensor.untyped_storage()._cdata)

    def _put(self, tensor: torch.Tensor, field: Field) -> None:
        storage = tensor.untyped_storage()
        self._kept.append(storage)
        self._of[storage._cdata] = field


def _widest(fields: list[Field]) -> Field:
    first = fields[0]
    alike = [field for field in fields if len(field.stride) == len(first.stride)]
    strides = tuple(max(sides) for sides in zip(*(field.stride for field in alike), strict=True))
    if any(field.size is None for field in alike):
        return Field(None, strides)
    sizes = (field.size for field in alike if field.size is not None)
    return Field(tuple(max(sides) for sides in zip(*sizes, strict=True)), strides)


def _through(name: str, args: tuple[Any, ...], out: torch.Tensor, field: Field) -> Field:
    """The field of an operator's result."""
    if name in MIXERS:
        return Field(None, field.stride)
    if name not in WINDOWS:
        return field
    taps, strides = WINDOWS[name](args, out, len(field.stride))
    after = tuple(j * s for j, s in zip(field.stride, strides, strict=True))
    if field.size is None:
        return Field(None, after)
    finer = tuple(min(j, a) for j, a in zip(field.stride, after, strict=True))  # transposed: taps lie on the result
    return Field(tuple(n + (k - 1) * j for n, k, j in zip(field.size, taps, finer, strict=True)), after)


def _each(values: Any, axes: int) -> tuple[int, ...]:
    found = tuple(values) if isinstance(values, list | tuple) else (values,)
    return found * axes if len(found) == 1 else found


def _convolution(args: tuple[Any, ...], out: torch.Tensor, axes: int) -> Any:  # noqa: ARG001 - as every window
    kernel, dilation = args[1].shape[-axes:], _each(args[5], axes)
    taps = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    steps = [Fraction(s) for s in _each(args[3], axes)]
    return taps, [1 / s for s in steps] if args[6] else steps


def _correlation(args: tuple[Any, ...], out: torch.Tensor, axes: int) -> Any:
    return _convolution((*args[:6], False), out, axes)


def _pool(args: tuple[Any, ...], out: torch.Tensor, axes: int) -> Any:  # noqa: ARG001 - as every window
    kernel = _each(args[1], axes)
    stride = _each(args[2], axes) if len(args) > 2 and args[2] else kernel
    return kernel, [Fraction(s) for s in stride]


def _resized(reach: int) -> Any:
    def window(args: tuple[Any, ...], out: torch.Tensor, axes: int) -> Any:
        shares = [Fraction(n, m) for n, m in zip(args[0].shape[-axes:], out.shape[-axes:], strict=True)]
        shrunk = [-(-s.numerator // s.denominator) for s in shares]
        return [max(reach, n) if s > 1 else reach for n, s in zip(shrunk, shares, strict=True)], shares

    return window


WINDOWS: dict[str, Any] = {
    "convolution": _convolution,
    "convolith::correlate": _correlation,
    "max_pool2d_with_indices": _pool,
    "max_pool3d_with_indices": _pool,
    "avg_pool2d": _pool,
    "avg_pool3d": _pool,
    "_adaptive_avg_pool2d": _resized(1),
    "_adaptive_avg_pool3d": _resized(1),
    "adaptive_max_pool2d": _resized(1),
    "upsample_nearest1d": _resized(1),
    "upsample_nearest2d": _resized(1),
    "upsample_nearest3d": _resized(1),
    "upsample_linear1d": _resized(2),
    "upsample_bilinear2d": _resized(2),
    "upsample_trilinear3d": _resized(2),
    "upsample_bicubic2d": _resized(4),
}
"""By operator: taps of a window (gaps counted) and how many times farther apart its results lie, from its arguments."""

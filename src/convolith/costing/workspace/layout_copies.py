"""Bytes of tensors, mostly gradients, that torch's kernels copy first because they cannot read their memory layout.

The gradient of a sum is one number that is expanded to the shape of the summands, a layout that kernels do not read; a
gradient may also be channels-last where the image is not. Which kernels copy was measured with torch's profiler, for
each operator, layout and dtype, with torch 2.13 and 2.14.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch

from convolith.costing.rules.elementwise import broadcast
from convolith.costing.tracing.fake_models import storage_bytes, tensors_in
from convolith.engines.aten import CHANNELS_LAST
from convolith.torch_private import has_onednn

FORMATS = {axes + 2: layout for axes, layout in CHANNELS_LAST.items()}
LOSSES = frozenset(("aten::mse_loss", "aten::smooth_l1_loss"))
"""Losses whose sum or mean overwrites the first of the elementwise terms, in the memory of these terms."""
MAX_CHANNELS_LAST_SIDES = {4: 128, 5: 256}
"""Largest sum of a resized image's side lengths for which torch interpolates in channels-last, by tensor dimensions."""
GELU_DTYPES = (torch.float32, torch.bfloat16)
"""Dtypes for which oneDNN computes GELU, from contiguous tensors."""


def peak_bytes(name: str, args: tuple[Any, ...], keywords: Mapping[str, Any], out: Any) -> int | None:
    """Return the peak bytes while an operator runs, including its results; None for operators that copy nothing."""
    if name == "aten::gelu_backward" and keywords.get("approximate", "none") != "none":  # not computed by oneDNN
        return None
    copied = COPY_RULES.get(name)
    return None if copied is None else storage_bytes(tensors_in(out)) + copied(args, out)


def excess_storage_bytes(name: str, args: tuple[Any, ...], out: Any) -> int:
    """Return the bytes of a result's storage beyond its elements: a reduced loss keeps the memory of its terms."""
    if name not in LOSSES or not isinstance(out, torch.Tensor) or out.ndim:
        return 0
    return int((prod(broadcast(args[0].shape, args[1].shape)) - 1) * out.element_size())


def is_channels_last(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is channels-last; one with a single channel, for example, is contiguous as well."""
    return tensor.ndim in FORMATS and tensor.is_contiguous(memory_format=FORMATS[tensor.ndim])


def layout(tensor: torch.Tensor) -> str | None:
    """Return the memory layout of a tensor without gaps: "contiguous" or "channels last"; None for all others."""
    if tensor.is_contiguous():
        return "contiguous"
    return "channels last" if is_channels_last(tensor) else None


def _unless_contiguous(*places: int) -> Callable[..., int]:
    """Return the rule for operators that copy the arguments at these positions unless they are contiguous."""

    def copied(args: tuple[Any, ...], out: Any) -> int:  # noqa: ARG001 - signature of all rules
        return sum(args[position].nbytes for position in places if not args[position].is_contiguous())

    return copied


def _unless_dense(args: tuple[Any, ...], out: Any) -> int:  # noqa: ARG001 - signature of all rules
    """Return the bytes of the first argument if it is copied, because it is neither contiguous nor channels-last."""
    return int(args[0].nbytes) * (layout(args[0]) is None)


def _unless_input_layout(args: tuple[Any, ...], out: Any) -> int:  # noqa: ARG001 - signature of all rules
    """Return the bytes of the gradient if it is copied, since its layout differs from the image's."""
    return int(args[0].nbytes) * (layout(args[0]) != layout(args[1]))


def _unless_same_layout(ndim: int) -> Callable[..., int]:
    """Return the rule that copies a gradient with gaps and, if the layouts differ, image (or result) and indices."""

    def copied(args: tuple[Any, ...], out: Any) -> int:
        grad, x = args[:2]
        if x.ndim != ndim:  # an image without a batch axis is never channels-last
            return _unless_contiguous(0)(args, out)
        layouts = layout(grad), layout(x)
        if layouts[0] == layouts[1] or "channels last" not in layouts:
            return _unless_dense(args, out)
        indices = [tensor for tensor in args[2:] if isinstance(tensor, torch.Tensor)]
        return int(_unless_dense(args, out) + x.nbytes + sum(tensor.nbytes for tensor in indices))

    return copied


def _channels_last_resize(args: tuple[Any, ...], out: torch.Tensor) -> int:
    """Return the bytes of the channels-last copies of image and result with which torch interpolates small images."""
    if sum(out.shape[2:]) > MAX_CHANNELS_LAST_SIDES[out.ndim]:
        return 0
    return sum(int(tensor.nbytes) for tensor in (args[0], out) if not is_channels_last(tensor))


def _separable_resize(args: tuple[Any, ...], out: torch.Tensor) -> int:
    """Return the bytes of an image that is resized along the last axis only, before the other axis."""
    x = args[0]
    return int(x.nbytes // x.shape[-1] * out.shape[-1]) if x.shape[-2] != out.shape[-2] else 0


def _col2im(args: tuple[Any, ...], out: torch.Tensor) -> int:
    """Return the bytes beyond the result: col2im makes windows contiguous, and sums them in a buffer of their size."""
    size, copies = int(args[0].nbytes), not args[0].is_contiguous()
    return max(size + size * copies - int(out.nbytes), 0)


def _type_promoted(args: tuple[Any, ...], out: torch.Tensor) -> int:
    """Return the bytes of arguments, such as masks, that are converted to the result's dtype before broadcasting."""
    others = [value for value in args if isinstance(value, torch.Tensor) and value.ndim and value.dtype != out.dtype]
    return sum(value.numel() * out.element_size() for value in others)


def _loss_terms(args: tuple[Any, ...], out: torch.Tensor) -> int:
    """Return the bytes of a reduced loss's terms, of which two copies are in memory."""
    return 2 * excess_storage_bytes("aten::mse_loss", args, out)


def _antialiased(args: tuple[Any, ...], out: torch.Tensor) -> int:
    """Return the bytes of contiguous copies of gradient and result in the gradient of antialiased interpolation."""
    return _unless_contiguous(0)(args, out) + int(out.nbytes) * (not out.is_contiguous())


def _gelu(args: tuple[Any, ...], out: torch.Tensor) -> int:
    """Return the bytes of contiguous copies for oneDNN, which computes the exact GELU's gradient for contiguous x."""
    grad, x = args[:2]
    mkldnn = torch.backends.mkldnn.enabled and has_onednn()
    if not (mkldnn and x.is_cpu and x.dtype in GELU_DTYPES and x.is_contiguous()):
        return 0
    return int(grad.nbytes) * (not grad.is_contiguous()) + int(out.nbytes) * (not out.is_contiguous())


def _names_per_axes(*names: str) -> str:
    """Return the names of the operators for one, two and three axes, with each number in place of #."""
    return " ".join(name.replace("#", str(axes)) for name in names for axes in (1, 2, 3))


_ROWS: tuple[tuple[Callable[..., int], str], ...] = (
    (_gelu, "gelu_backward"),
    (
        _unless_contiguous(0),
        "_softmax_backward_data _log_softmax_backward_data upsample_bicubic2d_backward grid_sampler_2d_backward "
        "grid_sampler_3d_backward embedding_dense_backward",
    ),
    (_unless_contiguous(0, 1), "native_layer_norm_backward"),
    (_unless_input_layout, "native_group_norm_backward adaptive_max_pool2d_backward adaptive_max_pool3d_backward"),
    (
        _unless_dense,
        "upsample_linear1d_backward upsample_bilinear2d_backward upsample_trilinear3d_backward pixel_shuffle "
        "pixel_unshuffle channel_shuffle native_channel_shuffle "
        + _names_per_axes("upsample_nearest#d_backward", "_upsample_nearest_exact#d_backward"),
    ),
    (_antialiased, "_upsample_bilinear2d_aa_backward _upsample_bicubic2d_aa_backward"),
    (
        _unless_same_layout(4),
        "max_pool2d_with_indices_backward avg_pool2d_backward _adaptive_avg_pool2d_backward reflection_pad2d_backward "
        "replication_pad2d_backward",
    ),
    (
        _unless_same_layout(5),
        "max_pool3d_with_indices_backward avg_pool3d_backward _adaptive_avg_pool3d_backward reflection_pad3d_backward "
        "replication_pad3d_backward",
    ),
    (_unless_contiguous(0), "reflection_pad1d_backward replication_pad1d_backward"),
    (_channels_last_resize, "upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d upsample_bilinear2d"),
    (_separable_resize, "_upsample_bilinear2d_aa _upsample_bicubic2d_aa"),
    (_col2im, "col2im"),
    (lambda args, _: int(args[0].nbytes), "im2col"),
    (_loss_terms, "mse_loss smooth_l1_loss"),
    (_type_promoted, "add sub mul div"),
)
COPY_RULES: dict[str, Callable[..., int]] = {f"aten::{name}": rule for rule, names in _ROWS for name in names.split()}
"""Functions by operator name that return the copied bytes, given the operator's arguments and result."""

"""Bytes that kernels copy first: tensors, mostly gradients, that are not laid out in memory as the kernel reads them.

The gradient of a sum is one number that is expanded to the shape of the summands, which is no layout that kernels read;
a gradient may also have its channels last where the image has not. Which kernels copy was measured with torch's
profiler, for each operator, layout and dtype, of torch 2.13 and 2.14.
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
"""Losses whose sum or mean is written over the first of the terms, in their memory."""
VECTORISED = {4: 128, 5: 256}
"""Lengths of a resized image's sides, together, up to which torch interpolates with channels last, by axes."""
GELU_DTYPES = (torch.float32, torch.bfloat16)
"""Dtypes whose GELU is computed by oneDNN, from contiguous tensors."""


def running_bytes(name: str, args: tuple[Any, ...], keywords: Mapping[str, Any], out: Any) -> int | None:
    """Return the bytes at most while an operator runs, with what comes out; None for operators that copy nothing."""
    if name == "aten::gelu_backward" and keywords.get("approximate", "none") != "none":  # which oneDNN has not
        return None
    copied = COPIED.get(name)
    return None if copied is None else storage_bytes(tensors_in(out)) + copied(args, out)


def oversized(name: str, args: tuple[Any, ...], out: Any) -> int:
    """Return the bytes of a result beyond its elements: the sum of a loss lies in the memory of its terms."""
    if name not in LOSSES or not isinstance(out, torch.Tensor) or out.ndim:
        return 0
    return int((prod(broadcast(args[0].shape, args[1].shape)) - 1) * out.element_size())


def is_channels_last(tensor: torch.Tensor) -> bool:
    """Return whether channels are last in memory, perhaps because it makes no difference."""
    return tensor.ndim in FORMATS and tensor.is_contiguous(memory_format=FORMATS[tensor.ndim])


def layout(tensor: torch.Tensor) -> str | None:
    """Return how the numbers of a tensor follow each other without gaps: "contiguous" or "channels last", else None."""
    if tensor.is_contiguous():
        return "contiguous"
    return "channels last" if is_channels_last(tensor) else None


def _contiguous(*places: int) -> Callable[..., int]:
    """Arguments at these places are copied if they are not contiguous."""

    def copied(args: tuple[Any, ...], out: Any) -> int:  # noqa: ARG001 - as every row
        return sum(args[place].nbytes for place in places if not args[place].is_contiguous())

    return copied


def _dense(args: tuple[Any, ...], out: Any) -> int:  # noqa: ARG001 - as every row
    """The first argument is copied if it has neither layout."""
    return int(args[0].nbytes) * (layout(args[0]) is None)


def _as_image(args: tuple[Any, ...], out: Any) -> int:  # noqa: ARG001 - as every row
    """The gradient is copied if it is not laid out as the image is."""
    return int(args[0].nbytes) * (layout(args[0]) != layout(args[1]))


def _in_one_layout(ndim: int) -> Callable[..., int]:
    """A gradient of neither layout is copied; where the layouts differ, image (or result) and indices are too."""

    def copied(args: tuple[Any, ...], out: Any) -> int:
        grad, x = args[:2]
        if x.ndim != ndim:  # without a batch, of which there are no layouts
            return _contiguous(0)(args, out)
        layouts = layout(grad), layout(x)
        if layouts[0] == layouts[1] or "channels last" not in layouts:
            return _dense(args, out)
        indices = [tensor for tensor in args[2:] if isinstance(tensor, torch.Tensor)]
        return int(_dense(args, out) + x.nbytes + sum(tensor.nbytes for tensor in indices))

    return copied


def _vectorised(args: tuple[Any, ...], out: torch.Tensor) -> int:
    """Small images are interpolated with channels last, from a copy and into one."""
    if sum(out.shape[2:]) > VECTORISED[out.ndim]:
        return 0
    return sum(int(tensor.nbytes) for tensor in (args[0], out) if not is_channels_last(tensor))


def _by_axis(args: tuple[Any, ...], out: torch.Tensor) -> int:
    """Images are resized along one axis after the other, the last one first."""
    x = args[0]
    return int(x.nbytes // x.shape[-1] * out.shape[-1]) if x.shape[-2] != out.shape[-2] else 0


def _unrolled(args: tuple[Any, ...], out: torch.Tensor) -> int:
    """Windows are added up in memory as large as they are, and copied before if they are not contiguous."""
    size, copies = int(args[0].nbytes), not args[0].is_contiguous()
    return max(size + size * copies - int(out.nbytes), 0)


def _promoted(args: tuple[Any, ...], out: torch.Tensor) -> int:
    """Arguments of another dtype than the result, such as masks, are converted first, at their own size."""
    others = [part for part in args if isinstance(part, torch.Tensor) and part.ndim and part.dtype != out.dtype]
    return sum(part.numel() * out.element_size() for part in others)


def _terms(args: tuple[Any, ...], out: torch.Tensor) -> int:
    """A loss that is summed has its terms in memory twice."""
    return 2 * oversized("aten::mse_loss", args, out)


def _smoothed(args: tuple[Any, ...], out: torch.Tensor) -> int:
    """Interpolation that smooths computes in contiguous copies of both sides."""
    return _contiguous(0)(args, out) + int(out.nbytes) * (not out.is_contiguous())


def _gelu(args: tuple[Any, ...], out: torch.Tensor) -> int:
    """OneDNN computes the gradient of the exact function where the image is contiguous, from contiguous copies."""
    grad, x = args[:2]
    mkldnn = torch.backends.mkldnn.enabled and has_onednn()
    if not (mkldnn and x.is_cpu and x.dtype in GELU_DTYPES and x.is_contiguous()):
        return 0
    return int(grad.nbytes) * (not grad.is_contiguous()) + int(out.nbytes) * (not out.is_contiguous())


def _of_axes(*names: str) -> str:
    """Names of operators of one, two and three axes, whose number stands for #."""
    return " ".join(name.replace("#", str(axes)) for name in names for axes in (1, 2, 3))


_ROWS: tuple[tuple[Callable[..., int], str], ...] = (
    (_gelu, "gelu_backward"),
    (
        _contiguous(0),
        "_softmax_backward_data _log_softmax_backward_data upsample_bicubic2d_backward grid_sampler_2d_backward "
        "grid_sampler_3d_backward embedding_dense_backward",
    ),
    (_contiguous(0, 1), "native_layer_norm_backward"),
    (_as_image, "native_group_norm_backward adaptive_max_pool2d_backward adaptive_max_pool3d_backward"),
    (
        _dense,
        "upsample_linear1d_backward upsample_bilinear2d_backward upsample_trilinear3d_backward pixel_shuffle "
        "pixel_unshuffle channel_shuffle native_channel_shuffle "
        + _of_axes("upsample_nearest#d_backward", "_upsample_nearest_exact#d_backward"),
    ),
    (_smoothed, "_upsample_bilinear2d_aa_backward _upsample_bicubic2d_aa_backward"),
    (
        _in_one_layout(4),
        "max_pool2d_with_indices_backward avg_pool2d_backward _adaptive_avg_pool2d_backward reflection_pad2d_backward "
        "replication_pad2d_backward",
    ),
    (
        _in_one_layout(5),
        "max_pool3d_with_indices_backward avg_pool3d_backward _adaptive_avg_pool3d_backward reflection_pad3d_backward "
        "replication_pad3d_backward",
    ),
    (_contiguous(0), "reflection_pad1d_backward replication_pad1d_backward"),
    (_vectorised, "upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d upsample_bilinear2d"),
    (_by_axis, "_upsample_bilinear2d_aa _upsample_bicubic2d_aa"),
    (_unrolled, "col2im"),
    (lambda args, _: int(args[0].nbytes), "im2col"),
    (_terms, "mse_loss smooth_l1_loss"),
    (_promoted, "add sub mul div"),
)
COPIED: dict[str, Callable[..., int]] = {f"aten::{name}": rule for rule, names in _ROWS for name in names.split()}
"""By operator the bytes that are copied, of its arguments and its result."""

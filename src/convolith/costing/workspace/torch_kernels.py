"""Memory that torch's CPU kernels, mainly of convolutions, hold while they run, as torch's allocator sees it.

oneDNN copies images and weights into its own layouts, computes, and copies the result back; torch's native code unrolls
the windows of a whole batch (im2col). Steps are bytes in the order in which they are allocated (positive) or freed
(negative), as observed with torch 2.13.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from math import prod
from typing import Any

import torch

from convolith.costing.tracing.fake_models import storage_bytes, tensors_in
from convolith.costing.workspace import onednn
from convolith.costing.workspace.layout_copies import (
    FORMATS,
    LOSSES,
    excess_storage_bytes,
    is_channels_last,
    layout,
    peak_bytes,
)
from convolith.costing.workspace.onednn import MAX_DEPTHWISE_GRADIENT_WIDTH, Layer, lanes
from convolith.engines.aten import exceeds_native
from convolith.torch_private import has_onednn, operator_name

NNPACK_MIN_BATCH, NNPACK_MAX_KERNEL = 16, 16
"""Smallest batch for which torch's native code calls NNPACK, and largest kernel size that it supports along an axis."""
LSTM_BYTES = 4664
"""Bytes of an LSTM layer in addition to its scratch."""
MATMULS = {"aten::mm": 0, "aten::bmm": 0, "aten::addmm": 1, "aten::baddbmm": 1}
"""Matrix products, with the position of the first matrix among the arguments."""
ATTENTION = "aten::_scaled_dot_product_flash_attention_for_cpu"
ATTENTION_TILE_ROWS, ATTENTION_TILE_KEYS = ((768, 256), (192, 64), (0, 32)), 512
"""Pairs (smallest number of query rows, rows per tile of attention scores), and largest number of keys per tile."""


def peak_of(steps: Iterable[float]) -> int:
    """Return the peak bytes of a sequence of steps."""
    return int(max(accumulate(steps), default=0))


def forward(
    x: torch.Tensor,
    w: torch.Tensor,
    y: torch.Tensor,
    groups: int,
    stride: Sequence[int] = (),
    padding: Sequence[int] = (),
    dilation: Sequence[int] = (),
) -> int:
    """Return the peak bytes while y is computed, including y."""
    layer = Layer.from_tensors(x, w, y, groups, stride, padding, dilation)
    if uses_onednn(x, w, groups, strided_or_dilated=layer.strided or layer.dilated):
        return peak_of(_forward_steps(layer, last=_channels_last(x), weights_last=is_channels_last(w)))
    held = layer.weight_bytes() * (_channels_last(x) and not is_channels_last(w))
    unrolled = groups * layer.out_channels * layer.itemsize if _uses_nnpack(layer) else _im2col_bytes(layer)
    if groups > 1:
        return (
            held
            + layer.output_bytes()
            + max(layer.output_bytes(), ((len(x) > 1) * layer.input_bytes() + unrolled) // groups)
        )
    return held + layer.output_bytes() + unrolled


def backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    w: torch.Tensor,
    groups: int,
    mask: Sequence[bool],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (),
    dilation: Sequence[int] = (),
) -> int:
    """Return the peak bytes while gradients of x and w are computed, including both; a bias's is computed with w's."""
    layer = Layer.from_tensors(x, w, grad, groups, stride, padding, dilation)
    if uses_onednn(x, w, groups, strided_or_dilated=layer.strided or layer.dilated):
        last, weights_last = _channels_last(x), is_channels_last(w)
        steps = _input_gradient_steps(layer, last=last, weights_last=weights_last) if mask[0] else []
        return peak_of(
            steps + (_weight_gradient_steps(layer, last=last, weights_last=weights_last) if any(mask[1:]) else [])
        )
    held = layer.weight_bytes() * (_channels_last(x) and not is_channels_last(w))
    results, columns = (
        layer.input_bytes() * mask[0] + layer.weight_bytes() * mask[1],
        _im2col_bytes(layer) * (mask[1] or layer.dilated),
    )
    if groups > 1:
        return (
            held
            + results
            + max(results, ((len(x) > 1) * (layer.input_bytes() + layer.output_bytes()) + columns) // groups)
        )
    return held + results + columns


def _forward_steps(layer: Layer, *, last: bool, weights_last: bool) -> list[int]:
    """Return the steps of a forward pass; a 3D depthwise result is computed in channels-last, and copied twice."""
    if last:
        held, weights = (
            layer.weight_bytes() * (not weights_last),
            onednn.channels_last_weight_bytes(layer, back=False),
        )
        return [held, layer.output_bytes(), weights, -weights, -held]
    depthwise_3d = layer.depthwise and not layer.depthwise_2d
    x, w, y, scratch = onednn.forward(layer)
    second_copy = layer.output_bytes() if depthwise_3d else 0
    return [scratch, x, w, y, -w, -x, -scratch, layer.output_bytes(), second_copy, -second_copy, -y]


def _input_gradient_steps(layer: Layer, *, last: bool, weights_last: bool) -> list[int]:
    """Return the steps of an input gradient; one computed in channels-last, with several channels, is copied twice."""
    if last:
        held, weights = (
            layer.weight_bytes() * (not weights_last),
            onednn.channels_last_weight_bytes(layer, back=True),
        )
        return [held, layer.input_bytes(), weights, -weights, -held]
    x, w, y, scratch = onednn.input_gradient(layer)
    second_copy = (
        layer.input_bytes()
        if onednn.has_channels_last_input_gradient(layer) and layer.groups * layer.in_channels > 1
        else 0
    )
    return [y, w, x, scratch, -scratch, -w, -y, layer.input_bytes(), second_copy, -second_copy, -x]


def _weight_gradient_steps(layer: Layer, *, last: bool, weights_last: bool) -> list[int]:
    """Return the steps of a weight gradient."""
    if last:
        held = layer.weight_bytes() * (not weights_last)
        if layer.depthwise_2d and layer.kernel_size[-1] <= MAX_DEPTHWISE_GRADIENT_WIDTH:
            w = scratch = layer.weight_bytes()
        else:
            w = layer.weight_bytes(1 if layer.groups == 1 and layer.in_channels < lanes() else lanes(), lanes())
            scratch = onednn.weight_copy_bytes(layer) if layer.depthwise else onednn.weight_gradient(layer).scratch
        return [
            held,
            w,
            scratch,
            -scratch,
            layer.weight_bytes(),
            layer.weight_bytes(),
            -layer.weight_bytes(),
            -w,
            -held,
        ]
    x, w, y, scratch = onednn.weight_gradient(layer)
    return [y, x, w, scratch, -scratch, -x, -y, layer.weight_bytes(), -w]


def _im2col_bytes(layer: Layer) -> int:
    """Return the bytes of im2col windows, of a batch or (dilated) one image; 1x1 kernels read the image directly."""
    images = 1 if layer.dilated or _uses_nnpack(layer) else layer.batch
    channels = images * layer.groups * layer.in_channels * layer.itemsize
    return channels * prod(layer.kernel_size) * prod(layer.output_size) * (onednn.needs_im2col(layer) or layer.dilated)


def _has_nnpack() -> bool:
    return bool(torch.backends.nnpack.is_available())  # type: ignore[no-untyped-call]  # torch's own is untyped


def _uses_nnpack(layer: Layer) -> bool:
    """Return whether NNPACK, with its own memory, computes the result; gradients are then computed image by image."""
    supported = layer.batch >= NNPACK_MIN_BATCH and max(layer.kernel_size) <= NNPACK_MAX_KERNEL and layer.itemsize == 4
    padding_fits = all(before < taps for before, taps in zip(layer.padding, layer.kernel_size, strict=True))
    undilated_2d = len(layer.input_size) == 2 and not layer.dilated
    return supported and padding_fits and undilated_2d and _has_nnpack()


def _channels_last(x: torch.Tensor) -> bool:
    return x.ndim in FORMATS and not x.is_contiguous() and is_channels_last(x)


def uses_onednn(x: torch.Tensor, w: torch.Tensor, groups: int, *, strided_or_dilated: bool = False) -> bool:
    """Return whether torch calls oneDNN for a convolution of x, which may be strided or dilated (`strided_or_dilated`).

    Torch's native code computes small single images, 1x1 kernels on a single thread, and dtypes unknown to oneDNN.
    """
    if not (torch.backends.mkldnn.enabled and has_onednn() and x.is_cpu and x.numel()):
        return False
    if x.dtype in (torch.bfloat16, torch.float16):
        supported = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
        return bool(getattr(torch.ops.mkldnn, supported[x.dtype])())
    taps = strided_or_dilated or len(x) >= 16 or max(w.shape[2:][-2:]) > 1 or torch.get_num_threads() > 1
    return x.dtype == torch.float32 and taps and exceeds_native(x.shape, w.shape[2:], groups)


def operator_peak(func: Any, args: tuple[Any, ...], keywords: Mapping[str, Any], out: Any) -> int | None:
    """Return the peak bytes while an operator runs, including its results; None if only its results count."""
    name = operator_name(func)
    if name == "aten::convolution":
        return _convolution_peak(*args, out=out)
    if name == "aten::convolution_backward":
        return _convolution_backward_peak(*args)
    if name == "aten::native_batch_norm_backward":
        same = layout(args[0]) == layout(args[1]) is not None  # other layouts are not copied
        return storage_bytes(tensors_in(out)) + int(args[1].nbytes) * same
    if name == ATTENTION:
        return _attention_peak(args[0], args[1], out)
    if name == f"{ATTENTION}_backward":
        return _attention_peak(args[1], args[2], out, back=True)
    if name in MATMULS:
        return _matmul_peak(args[MATMULS[name] :][:2], out)
    if name == "aten::mkldnn_rnn_layer":
        return _lstm_peak(args, out, back=False) + hidden_result_bytes(func, args, out)
    if name == "aten::mkldnn_rnn_layer_backward":
        return _lstm_peak(args, out, back=True)
    return peak_bytes(name, args, keywords, out)


def _convolution_peak(x: Any, w: Any, _: Any, *geometry: Any, out: Any) -> int | None:
    """Return the peak bytes of a convolution, transposed or not."""
    *options, transposed, _, groups = geometry
    x, w, y = as_matrix(x), as_matrix(w), as_matrix(out)
    if transposed:
        return _transposed_peak(y, w, x, groups, options, (False, True, False))
    (x,), copied = _to_channels_last(w, groups, x)
    return copied + forward(x, w, y, groups, *options)


def _convolution_backward_peak(grad: Any, x: Any, w: Any, _: Any, *geometry: Any) -> int | None:
    """Return the peak bytes of a convolution's gradients; an expanded output gradient, such as a sum's, is copied."""
    *options, transposed, _, groups, mask = geometry
    grad, x, w = as_matrix(grad), as_matrix(x), as_matrix(w)
    per_group = groups > 1 and not uses_onednn(x, w, groups)  # native code slices each group out of it
    expanded = 0 if per_group else grad.nbytes * (0 in grad.stride())
    if transposed:
        held = _transposed_peak(grad, w, x, groups, options, (mask[0], False, any(mask[1:])))
        return None if held is None else expanded + held
    (grad, x), copied = _to_channels_last(w, groups, grad, x)
    return (copied or expanded) + backward(grad, x, w, groups, mask, *options)


def _to_channels_last(w: torch.Tensor, groups: int, *images: torch.Tensor) -> tuple[list[torch.Tensor], int]:
    """Return images as oneDNN reads them, channels-last if the last one or the weights are, and the bytes of copies."""
    if not uses_onednn(images[-1], w, groups) or not (_channels_last(images[-1]) or _channels_last(w)):
        return list(images), 0
    copied = [image for image in images if not is_channels_last(image)]
    return [image.contiguous(memory_format=FORMATS[image.ndim]) for image in images], sum(
        image.nbytes for image in copied
    )


def _transposed_peak(
    image: torch.Tensor,
    w: torch.Tensor,
    given: torch.Tensor,
    groups: int,
    options: Sequence[Sequence[int]],
    wanted: tuple[bool, bool, bool],
) -> int | None:
    """Return the peak bytes of a transposed layer, for `wanted`: gradient of `given`, result `image`, gradient of w."""
    layer, layouts = Layer.from_tensors(image, w, given, groups, *options), (_channels_last(given), is_channels_last(w))
    if not uses_onednn(given, w, groups, strided_or_dilated=layer.strided or layer.dilated):
        return None
    parts = zip(wanted, (_forward_steps, _input_gradient_steps, _weight_gradient_steps), strict=True)
    return peak_of(
        step for want, steps in parts if want for step in steps(layer, last=layouts[0], weights_last=layouts[1])
    )


def hidden_result_bytes(func: Any, args: tuple[Any, ...], out: Any) -> int:
    """Return the bytes that an operator keeps in its last result, beyond the size that fake tensors report."""
    if operator_name(func) in LOSSES:
        return excess_storage_bytes(operator_name(func), args, out)
    if operator_name(func) != "aten::mkldnn_rnn_layer" or not torch.is_grad_enabled():
        return 0
    (steps, images, inputs), units, item = args[0].shape, args[10], args[0].element_size()
    states, wide = 2 * (steps + 1) * images, _padded_row(max(inputs, units), item)
    gates = steps * images * _padded_row(4 * units, item), steps * images * _padded_row(units, item)
    parts = (*gates, states * wide, states * units, states * wide, states * wide, states * units)
    return sum(onednn.round_up(part * item, onednn.PAGE) for part in parts)


def _attention_peak(q: torch.Tensor, k: torch.Tensor, out: Any, *, back: bool = False) -> int:
    """Return the peak bytes of attention: results, and scores of a tile per thread (`back`: twice, and a copy of q)."""
    rows, keys, depth = q.shape[-2], k.shape[-2], q.shape[-1]
    tile_rows = min(next(tile for least, tile in ATTENTION_TILE_ROWS if rows >= least), rows)
    scores = tile_rows * min(keys, ATTENTION_TILE_KEYS)
    numbers = 2 * scores if back else scores + 2 * tile_rows + tile_rows * depth
    held = onednn.threads() * numbers * max(q.element_size(), 4)
    return storage_bytes(tensors_in(out)) + held + q.nbytes * back


def _matmul_peak(matrices: Sequence[torch.Tensor], out: torch.Tensor) -> int:
    """Return the bytes of a product, and of matrices that are copied since neither rows nor columns are contiguous."""
    copied = [
        matrix
        for matrix in matrices
        if not (_rows_are_contiguous(matrix) or _rows_are_contiguous(matrix.transpose(-1, -2)))
    ]
    return sum(matrix.nbytes for matrix in (*copied, out))


def _rows_are_contiguous(matrix: torch.Tensor) -> bool:
    """Return whether every row of a matrix is contiguous, and rows do not overlap."""
    (step, one), width = matrix.stride()[-2:], matrix.shape[-1]
    return one == 1 and step >= max(width, 1)


def _lstm_peak(args: tuple[Any, ...], out: Any, *, back: bool) -> int:
    """Return the peak bytes of an LSTM layer in training, forward or (`back`) backward, with copies and scratch."""
    x, w, u, *_ = args
    (steps, images, inputs), units, item = x.shape, args[5].shape[-1], x.element_size()
    parts = (
        steps * images * _padded_row(4 * units, item),
        images * _padded_row(units, item),
        images * _padded_row(units, item),
    )
    held = sum(onednn.round_up(part * item, onednn.PAGE) for part in parts) + LSTM_BYTES
    held += storage_bytes([*tensors_in(out)]) + (w.numel() + u.numel() + 4 * units) * item
    if back:  # input weights padded to whole blocks, if needed, and copies of the forward results
        held += onednn.round_up(inputs, lanes()) * 4 * units * item * (inputs % lanes() > 0)
        held += sum(tensor.numel() for tensor in args[7:10]) * item
    return int(held)


def _padded_row(numbers: int, item: int) -> int:
    """Return the padded row length of a matrix, in elements: whole cache lines, and no multiple of 256."""
    line = 64 // item
    row = onednn.round_up(numbers, line)
    return row + line * (row % 256 == 0)


def as_matrix(tensor: torch.Tensor) -> torch.Tensor:
    """Return a signal (3 dimensions) as an image of one row, and other tensors unchanged."""
    return tensor.unsqueeze(2) if tensor.ndim == 3 else tensor

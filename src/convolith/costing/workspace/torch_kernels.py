"""What torch's CPU kernels of a convolution hold for themselves while they run, as its allocator sees it.

oneDNN copies images and weights as its kernels lay them out, computes, and copies the result back; torch's own code
unrolls the windows of a whole batch (im2col). Steps are bytes in the order in which they are taken (above zero) or
given back (below), as seen of torch 2.13.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from math import prod
from typing import Any

import torch

from convolith.costing.tracing.fake_models import storage_bytes, tensors_in
from convolith.costing.workspace import onednn
from convolith.costing.workspace.gradient_copies import (
    FORMATS,
    LOSSES,
    is_channels_last,
    layout,
    oversized,
    running_bytes,
)
from convolith.costing.workspace.onednn import SPECIAL, Layer, lanes
from convolith.engines.aten import NATIVE_ELEMENTS
from convolith.torch_private import has_onednn, operator_name

NNPACK_BATCH, NNPACK_TAPS = 16, 16
"""Images from which on torch's own code hands convolutions to NNPACK, and taps that it takes at most along an axis."""
LISTS = 4664
"""Bytes beside the scratch of an LSTM."""
PRODUCTS = {"aten::mm": 0, "aten::bmm": 0, "aten::addmm": 1, "aten::baddbmm": 1}
"""And the place of the first matrix."""
ATTENTION = "aten::_scaled_dot_product_flash_attention_for_cpu"
ROWS_OF_SCORES, KEYS_OF_SCORES = ((768, 256), (192, 64), (0, 32)), 512
"""From so many rows on so many are taken at a time; and keys, at most."""


def most(steps: Iterable[float]) -> int:
    """The most that is held at once."""
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
    """Bytes at most while `y` is made, with y itself."""
    layer = Layer.of(x, w, y, groups, stride, padding, dilation)
    if uses_onednn(x, w, groups, moved=layer.strided or layer.dilated):
        return most(_making(layer, last=_channels_last(x), laid_out=is_channels_last(w)))
    held = layer.w() * (_channels_last(x) and not is_channels_last(w))
    unrolled = groups * layer.outputs * layer.item if _by_nnpack(layer) else _columns(layer)
    if groups > 1:
        return held + layer.y() + max(layer.y(), ((len(x) > 1) * layer.x() + unrolled) // groups)
    return held + layer.y() + unrolled


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
    """Bytes at most while gradients of x and w are made, with these themselves; that of a bias is made with w's."""
    layer = Layer.of(x, w, grad, groups, stride, padding, dilation)
    if uses_onednn(x, w, groups, moved=layer.strided or layer.dilated):
        last, laid_out = _channels_last(x), is_channels_last(w)
        steps = _input_gradient(layer, last=last, laid_out=laid_out) if mask[0] else []
        return most(steps + (_weight_gradient(layer, last=last, laid_out=laid_out) if any(mask[1:]) else []))
    held = layer.w() * (_channels_last(x) and not is_channels_last(w))
    made, columns = layer.x() * mask[0] + layer.w() * mask[1], _columns(layer) * (mask[1] or layer.dilated)
    if groups > 1:
        return held + made + max(made, ((len(x) > 1) * (layer.x() + layer.y()) + columns) // groups)
    return held + made + columns


def _making(layer: Layer, *, last: bool, laid_out: bool) -> list[int]:
    """Steps of a result; that of three axes by channels is made channels last, and copied twice."""
    if last:
        held, weights = layer.w() * (not laid_out), onednn.channels_last_weights(layer, back=False)
        return [held, layer.y(), weights, -weights, -held]
    deep = layer.channelwise and not layer.depthwise
    x, w, y, scratch = onednn.forward(layer)
    again = layer.y() if deep else 0
    return [scratch, x, w, y, -w, -x, -scratch, layer.y(), again, -again, -y]


def _input_gradient(layer: Layer, *, last: bool, laid_out: bool) -> list[int]:
    """Steps of a gradient of the image; one that is made channels last is copied twice if it has several channels."""
    if last:
        held, weights = layer.w() * (not laid_out), onednn.channels_last_weights(layer, back=True)
        return [held, layer.x(), weights, -weights, -held]
    x, w, y, scratch = onednn.input_gradient(layer)
    again = layer.x() if onednn.channels_last_gradient(layer) and layer.groups * layer.inputs > 1 else 0
    return [y, w, x, scratch, -scratch, -w, -y, layer.x(), again, -again, -x]


def _weight_gradient(layer: Layer, *, last: bool, laid_out: bool) -> list[int]:
    """Steps of a gradient of weights."""
    if last:
        held = layer.w() * (not laid_out)
        if layer.depthwise and layer.taps[-1] <= SPECIAL:
            w = scratch = layer.w()
        else:
            w = layer.w(1 if layer.groups == 1 and layer.inputs < lanes() else lanes(), lanes())
            scratch = onednn.shared_scratch(layer) if layer.channelwise else onednn.weight_gradient(layer).scratch
        return [held, w, scratch, -scratch, layer.w(), layer.w(), -layer.w(), -w, -held]
    x, w, y, scratch = onednn.weight_gradient(layer)
    return [y, x, w, scratch, -scratch, -x, -y, layer.w(), -w]


def _columns(layer: Layer) -> int:
    """Windows of a batch in torch's own code, or of one image if dilated; a single tap reads the image as it is."""
    images = 1 if layer.dilated or _by_nnpack(layer) else layer.batch
    channels = images * layer.groups * layer.inputs * layer.item
    return channels * prod(layer.taps) * prod(layer.made) * (onednn.windows(layer) or layer.dilated)


def _has_nnpack() -> bool:
    return bool(torch.backends.nnpack.is_available())  # type: ignore[no-untyped-call]  # torch's own is untyped


def _by_nnpack(layer: Layer) -> bool:
    """Whether NNPACK, whose memory is its own, makes the result; gradients are then made image by image."""
    small = layer.batch >= NNPACK_BATCH and max(layer.taps) <= NNPACK_TAPS and layer.item == 4
    within = all(before < taps for before, taps in zip(layer.before, layer.taps, strict=True))
    plain = len(layer.size) == 2 and not layer.dilated
    return small and within and plain and _has_nnpack()


def _channels_last(x: torch.Tensor) -> bool:
    return x.ndim in FORMATS and not x.is_contiguous() and is_channels_last(x)


def uses_onednn(x: torch.Tensor, w: torch.Tensor, groups: int, *, moved: bool = False) -> bool:
    """Whether torch hands a convolution of x, perhaps strided or dilated, to oneDNN.

    It keeps small single images, single taps for a single thread, and types that oneDNN has no code for.
    """
    if not (torch.backends.mkldnn.enabled and has_onednn() and x.is_cpu and x.numel()):
        return False
    if x.dtype in (torch.bfloat16, torch.float16):
        supported = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
        return bool(getattr(torch.ops.mkldnn, supported[x.dtype])())
    large = groups > 1 or min(w.shape[-2:]) > SPECIAL or len(x) > 1 or prod(x.shape[:4]) > NATIVE_ELEMENTS
    taps = moved or len(x) >= 16 or max(w.shape[-2:]) > 1 or torch.get_num_threads() > 1
    return x.dtype == torch.float32 and large and taps


def of_operator(func: Any, args: tuple[Any, ...], keywords: Mapping[str, Any], out: Any) -> int | None:
    """Bytes at most while an operator runs, with what comes out; None where that is all that it holds."""
    name = operator_name(func)
    if name == "aten::convolution":
        return _convolved(*args, out=out)
    if name == "aten::convolution_backward":
        return _sloped(*args)
    if name == "aten::native_batch_norm_backward":
        same = layout(args[0]) == layout(args[1]) is not None  # a copy that is not made of others
        return storage_bytes(tensors_in(out)) + int(args[1].nbytes) * same
    if name == ATTENTION:
        return _attended(args[0], args[1], out)
    if name == f"{ATTENTION}_backward":
        return _attended(args[1], args[2], out, back=True)
    if name in PRODUCTS:
        return _product(args[PRODUCTS[name] :][:2], out)
    if name == "aten::mkldnn_rnn_layer":
        return _recurrent(args, out, back=False) + kept_by(func, args, out)
    if name == "aten::mkldnn_rnn_layer_backward":
        return _recurrent(args, out, back=True)
    return running_bytes(name, args, keywords, out)


def _convolved(x: Any, w: Any, _: Any, *geometry: Any, out: Any) -> int | None:
    """Of a convolution, transposed or not."""
    *options, transposed, _, groups = geometry
    x, w, y = plane(x), plane(w), plane(out)
    if transposed:
        return _transposed(y, w, x, groups, options, (False, True, False))
    (x,), copied = _in_one_layout(w, groups, x)
    return copied + forward(x, w, y, groups, *options)


def _sloped(grad: Any, x: Any, w: Any, _: Any, *geometry: Any) -> int | None:
    """Of the gradients of a convolution; a slope that is expanded, as a sum's is, is copied."""
    *options, transposed, _, groups, mask = geometry
    grad, x, w = plane(grad), plane(x), plane(w)
    apart = groups > 1 and not uses_onednn(x, w, groups)  # groups are cut out of it, each by itself
    expanded = 0 if apart else grad.nbytes * (0 in grad.stride())
    if transposed:
        held = _transposed(grad, w, x, groups, options, (mask[0], False, any(mask[1:])))
        return None if held is None else expanded + held
    (grad, x), copied = _in_one_layout(w, groups, grad, x)
    return (copied or expanded) + backward(grad, x, w, groups, mask, *options)


def _in_one_layout(w: torch.Tensor, groups: int, *images: torch.Tensor) -> tuple[list[torch.Tensor], int]:
    """Images as oneDNN takes them: channels last if the last of them or the weights are; and bytes of the copies."""
    if not uses_onednn(images[-1], w, groups) or not (_channels_last(images[-1]) or _channels_last(w)):
        return list(images), 0
    copied = [image for image in images if not is_channels_last(image)]
    return [image.contiguous(memory_format=FORMATS[image.ndim]) for image in images], sum(
        image.nbytes for image in copied
    )


def _transposed(
    image: torch.Tensor,
    w: torch.Tensor,
    given: torch.Tensor,
    groups: int,
    options: Sequence[Sequence[int]],
    wanted: tuple[bool, bool, bool],
) -> int | None:
    """Of the convolution that makes what is given to a transposed one from its image: wanted are either, or weights."""
    layer, layout = Layer.of(image, w, given, groups, *options), (_channels_last(given), is_channels_last(w))
    if not uses_onednn(given, w, groups, moved=layer.strided or layer.dilated):
        return None
    parts = zip(wanted, (_making, _input_gradient, _weight_gradient), strict=True)
    return most(step for want, steps in parts if want for step in steps(layer, last=layout[0], laid_out=layout[1]))


def kept_by(func: Any, args: tuple[Any, ...], out: Any) -> int:
    """Bytes that an operator keeps in its last result, beyond the size that fake tensors know."""
    if operator_name(func) in LOSSES:
        return oversized(operator_name(func), args, out)
    if operator_name(func) != "aten::mkldnn_rnn_layer" or not torch.is_grad_enabled():
        return 0
    (steps, images, inputs), units, item = args[0].shape, args[10], args[0].element_size()
    states, wide = 2 * (steps + 1) * images, _row(max(inputs, units), item)
    gates = steps * images * _row(4 * units, item), steps * images * _row(units, item)
    parts = (*gates, states * wide, states * units, states * wide, states * wide, states * units)
    return sum(onednn.up(part * item, onednn.PAGE) for part in parts)


def _attended(q: torch.Tensor, k: torch.Tensor, out: Any, *, back: bool = False) -> int:
    """Bytes of what comes out, and for each thread of scores of some rows and keys; back, of those twice and a copy."""
    rows, keys, depth = q.shape[-2], k.shape[-2], q.shape[-1]
    tall = min(next(most for least, most in ROWS_OF_SCORES if rows >= least), rows)
    scores = tall * min(keys, KEYS_OF_SCORES)
    numbers = 2 * scores if back else scores + 2 * tall + tall * depth
    held = onednn.threads() * numbers * max(q.element_size(), 4)
    return storage_bytes(tensors_in(out)) + held + q.nbytes * back


def _product(matrices: Sequence[torch.Tensor], out: torch.Tensor) -> int:
    """Bytes of a product, and of matrices that are copied since neither rows nor columns lie side by side."""
    copied = [each for each in matrices if not (_has_rows(each) or _has_rows(each.transpose(-1, -2)))]
    return sum(each.nbytes for each in (*copied, out))


def _has_rows(matrix: torch.Tensor) -> bool:
    """Whether the numbers of every row lie side by side, and rows apart."""
    (step, one), width = matrix.stride()[-2:], matrix.shape[-1]
    return one == 1 and step >= max(width, 1)


def _recurrent(args: tuple[Any, ...], out: Any, *, back: bool) -> int:
    """Bytes of what comes out of a layer of an LSTM in training or goes back, of copies of weights, and of scratch."""
    x, w, u, *_ = args
    (steps, images, inputs), units, item = x.shape, args[5].shape[-1], x.element_size()
    parts = steps * images * _row(4 * units, item), images * _row(units, item), images * _row(units, item)
    held = sum(onednn.up(part * item, onednn.PAGE) for part in parts) + LISTS
    held += storage_bytes([*tensors_in(out)]) + (w.numel() + u.numel() + 4 * units) * item
    if back:  # weights of inputs in whole blocks, if they are none, and copies of what came out
        held += onednn.up(inputs, lanes()) * 4 * units * item * (inputs % lanes() > 0)
        held += sum(tensor.numel() for tensor in args[7:10]) * item
    return int(held)


def _row(numbers: int, item: int) -> int:
    """Numbers of a row of a matrix: whole lines of the cache, and no multiple of 256."""
    line = 64 // item
    row = onednn.up(numbers, line)
    return row + line * (row % 256 == 0)


def plane(tensor: torch.Tensor) -> torch.Tensor:
    """Signals are images of one row."""
    return tensor.unsqueeze(2) if tensor.ndim == 3 else tensor

"""Readers of views, slices, joins, shuffled and enlarged images."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

import torch

from convolith.layer_steps.copies import Axis
from convolith.layer_steps.resizes import Weights
from convolith.network.graph.nodes import (
    Alias,
    Copy,
    Join,
    Node,
    Piece,
    Resize,
    Scatter,
)
from convolith.network.graph.readers.arguments import (
    FLOATS,
    Values,
    new_value,
    own_argument,
    own_result,
)
from convolith.network.graph.trace import Op, Ref


def alias(op: Op, values: Values) -> Node | None:
    """Read a view of all elements in their order."""
    x = own_argument(op, 0, values)
    if x is None or not values[own_result(op)].planes or prod(values[x].shape) != prod(values[own_result(op)].shape):
        return None
    return Alias(op.where, [x], [own_result(op)])


def same_memory(op: Op, values: Values) -> Node | None:
    """Read a copy as the memory that it copies: nothing writes in place."""
    x = own_argument(op, 0, values)
    if x is None or op.kwargs.get("memory_format") not in (None, torch.contiguous_format, torch.preserve_format):
        return None
    value = values[x]
    image = prod(value.shape[1:])
    if value.strides and value.shape[0] > 1 and value.strides[0] != image:  # images that lie apart
        return Copy.of(op.where, x, own_result(op), (Axis(image, 1, 1),), values[own_result(op)].shape)
    return alias(op, values)


def pairs_of(op: Op, ndim: int) -> list[tuple[int, int]] | None:
    """Return the padding before and after each axis of an image, channels first; None if the batch is padded too."""
    given = list(op.args[1])
    pairs = [(given[n], given[n + 1]) for n in range(0, len(given), 2)][::-1]
    if len(pairs) >= ndim:
        return None
    return [(0, 0)] * (ndim - 1 - len(pairs)) + pairs


def padding(op: Op, values: Values) -> Node | None:
    """Read padding by a constant, by mirrored or by repeated elements; negative amounts crop."""
    x = own_argument(op, 0, values)
    pairs = None if x is None else pairs_of(op, len(values[x].shape))
    if x is None or pairs is None:
        return None
    kind = op.name.split(".")[1]
    shape, out = values[x].shape, values[own_result(op)].shape
    constant = float(op.args[2] if len(op.args) > 2 else 0) if kind == "constant_pad_nd" else None
    parts = []
    for axis, (before, after) in enumerate(pairs, 1):
        size, row, out_row = shape[axis], prod(shape[axis + 1 :]), prod(out[axis + 1 :])
        low, high = max(before, 0), max(after, 0)  # what is padded; the rest of the axis is copied
        first, count = max(-before, 0), out[axis] - low - high
        along = [(Piece((Axis(count, row, out_row),), first * row, low * out_row), False)]
        if kind.startswith("reflection"):
            along += [(Piece((Axis(low, -row, out_row),), low * row, 0), True)]
            along += [(Piece((Axis(high, -row, out_row),), (size - 2) * row, (low + count) * out_row), True)]
        else:
            along += [(Piece((Axis(low, 0, out_row),), 0, 0), True)]
            along += [(Piece((Axis(high, 0, out_row),), (size - 1) * row, (low + count) * out_row), True)]
        parts.append([(piece, outside) for piece, outside in along if piece.axes[0].size])
    pieces = []
    for chosen in product(*parts):
        axes = tuple(piece.axes[0] for piece, _ in chosen)
        source, goal = (sum(getattr(piece, name) for piece, _ in chosen) for name in ("source", "goal"))
        if constant is not None and any(outside for _, outside in chosen):
            pieces.append(Piece(tuple(axis._replace(source=0) for axis in axes), 0, goal, constant))
        else:
            pieces.append(Piece(axes, source, goal))
    if len(pieces) > MOST_PIECES:
        return None
    return Copy(op.where, [x], [own_result(op)], tuple(pieces), out)


MOST_PIECES = 27
"""Largest number of pieces of a copy: what padding along three axes takes."""


def channel_slice(op: Op, values: Values) -> Node | None:
    """Read a slice of channels, or one that takes everything."""
    x = own_argument(op, 0, values)
    given: list[Any] = [*op.args[1:], *[None] * (4 - len(op.args[1:]))]
    axis, start, step = given[0] or 0, given[1] or 0, 1 if given[3] is None else given[3]
    if x is None or step != 1:
        return None
    shape = values[x].shape
    if values[own_result(op)].shape == shape:
        return Alias(op.where, [x], [own_result(op)])
    if axis % len(shape) != 1:
        return None
    start = max(start + shape[1], 0) if start < 0 else min(start, shape[1])
    return Alias(op.where, [x], [own_result(op)], (start * prod(shape[2:]),), whole=False)


def channel_select(op: Op, values: Values) -> Node | None:
    """Read one channel."""
    x, axis, index = own_argument(op, 0, values), op.args[1], op.args[2]
    if x is None or len(values[x].shape) < 3 or axis % len(values[x].shape) != 1:
        return None
    shape = values[x].shape
    return Alias(op.where, [x], [own_result(op)], (index % shape[1] * prod(shape[2:]),), whole=False)


def channel_split(op: Op, values: Values) -> Node | None:
    """Read a split of the channels."""
    x, axis = own_argument(op, 0, values), op.args[2] if len(op.args) > 2 else op.kwargs.get("dim", 0)
    if x is None or axis % len(values[x].shape) != 1:
        return None
    offsets, done = [], 0
    for number in op.outputs:
        offsets.append(done)
        done += prod(values[number].shape[1:])
    return Alias(op.where, [x], op.outputs, tuple(offsets), whole=False)


def scatter(op: Op, values: Values) -> Node | None:
    """Read images of which a part along one axis, not the first, is replaced."""
    base, part = (argument.number for argument in op.args[:2])
    y = own_result(op)
    shape, dtype = values[y].shape, values[y].dtype
    axis = op.args[2] if len(op.args) > 2 else op.kwargs.get("dim", 0)
    if dtype not in FLOATS or {values[base].dtype, values[part].dtype} != {dtype} or not axis % len(shape):
        return None
    view = torch.ops.aten.slice.Tensor if "slice" in op.name else torch.ops.aten.select.int
    seen = view(torch.empty(shape, device="meta"), *op.args[2:], **op.kwargs)
    inputs, constant = [base, part], values[part].constant
    same = constant is not None and constant.numel() > 0 and bool((constant == constant.flatten()[0]).all())
    for number in inputs[: 1 if same else 2]:
        given = values[number].constant
        if given is not None and not bool((given == given[:1]).all()):  # another one for each image
            return None
    if not seen.numel():
        return None
    rows = [prod(seen.shape[axis + 1 :]) for axis in range(1, seen.ndim)]
    number = float(constant.flatten()[0]) if constant is not None and same else None
    axes = tuple(
        Axis(size, 0 if same else row, goal)
        for size, row, goal in zip(seen.shape[1:], rows, seen.stride()[1:], strict=True)
    )
    piece = Piece(axes, 0, int(seen.storage_offset()), number)
    return Scatter(op.where, inputs[: 1 if same else 2], [y], piece, shape)


def separate(op: Op, values: Values) -> list[Op]:
    """Return the parts of a split as one operator each, or none for other operators."""
    kind = op.name.split(".")[1] if op.name.startswith("aten.") else ""
    if kind not in ("split", "split_with_sizes", "unbind") or not isinstance(op.result, tuple | list):
        return []
    first = 1 if kind == "unbind" else 2
    axis = op.args[first] if len(op.args) > first else op.kwargs.get("dim", 0)
    found, done = [], 0
    for number, result in enumerate(op.result):
        call, size = (torch.ops.aten.select.int, 0)
        args: tuple[Any, ...] = (op.args[0], axis, number)
        if kind != "unbind":
            shape = values[result.number].shape
            call, size = torch.ops.aten.slice.Tensor, shape[axis % len(shape)]
            args = (op.args[0], axis, done, done + size)
        done += size
        found.append(Op(str(call), call, args, {}, result, op.where))
    return found


def join(op: Op, values: Values) -> Node | None:
    """Read a concatenation of channels."""
    parts, axis = op.args[0], op.args[1] if len(op.args) > 1 else op.kwargs.get("dim", 0)
    numbers = [part.number for part in parts if isinstance(part, Ref)]
    if len(numbers) != len(parts) or any(values[n].constant is not None for n in numbers):
        return None
    if {values[n].dtype for n in numbers} != {values[own_result(op)].dtype}:
        return None
    shapes = tuple(values[n].shape for n in numbers)
    if len(shapes[0]) < 2 or axis % len(shapes[0]) != 1 or len({len(s) for s in shapes}) > 1:
        return None
    return Join(op.where, numbers, [own_result(op)], shapes)


def pixel_shuffle(op: Op, values: Values) -> Node | None:
    """Read channels that become pixels."""
    x, r = own_argument(op, 0, values), op.args[1]
    if x is None or len(values[x].shape) != 4:
        return None
    channels, height, width = values[x].shape[1:]
    plane, wide = height * width, width * r
    axes = (
        Axis(channels // (r * r), r * r * plane, r * r * plane),
        Axis(height, width, r * wide),
        Axis(r, r * plane, wide),
        Axis(width, 1, r),
        Axis(r, plane, 1),
    )
    return Copy.of(op.where, x, own_result(op), axes, values[own_result(op)].shape)


def channel_shuffle(op: Op, values: Values) -> Node | None:
    """Read groups of channels that are interleaved."""
    x, groups = own_argument(op, 0, values), op.args[1]
    if x is None:
        return None
    plane, each = prod(values[x].shape[2:]), values[x].shape[1] // groups
    axes = (Axis(each, plane, groups * plane), Axis(groups, each * plane, plane), Axis(plane, 1, 1))
    return Copy.of(op.where, x, own_result(op), axes, values[own_result(op)].shape)


def pixel_unshuffle(op: Op, values: Values) -> Node | None:
    """Read pixels that become channels."""
    x, r = own_argument(op, 0, values), op.args[1]
    if x is None or len(values[x].shape) != 4:
        return None
    channels, height, width = values[x].shape[1:]
    plane = height * width // (r * r)
    axes = (
        Axis(channels, height * width, r * r * plane),
        Axis(height // r, r * width, width // r),
        Axis(r, width, r * plane),
        Axis(width // r, r, 1),
        Axis(r, 1, plane),
    )
    return Copy.of(op.where, x, own_result(op), axes, values[own_result(op)].shape)


def nearest(op: Op, values: Values) -> Node | list[Node] | None:
    """Read the nearest element of each position: for enlargements by whole numbers, a copy."""
    x = own_argument(op, 0, values)
    if x is None:
        return None
    shape, out = values[x].shape, values[own_result(op)].shape
    if "exact" in op.name or any(m % n for n, m in zip(shape[2:], out[2:], strict=True)):
        return resize(op, values)
    scales = [s for s in op.args[2:] if isinstance(s, float)]
    scales += [s for given in op.args[2:] if isinstance(given, list | tuple) for s in given]
    if any(s != int(s) for s in scales):
        return resize(op, values)
    axes = [Axis(shape[1], prod(shape[2:]), prod(out[2:]))]
    for axis in range(2, len(shape)):
        factor, row, out_row = out[axis] // shape[axis], prod(shape[axis + 1 :]), prod(out[axis + 1 :])
        axes += [Axis(shape[axis], row, factor * out_row), Axis(factor, 0, out_row)]
    return Copy.of(op.where, x, own_result(op), axes, out)


MOST_TAPS = 16
"""Largest number of elements along an axis that generated code sums for one result of an interpolation."""


def resize(op: Op, values: Values) -> Node | list[Node] | None:
    """Read interpolation of signals, images and volumes, and means over windows of unequal sizes."""
    x = own_argument(op, 0, values)
    if x is None:
        return None
    shape, out, dtype = values[x].shape, values[own_result(op)].shape, values[x].dtype
    kind, overload = op.name.split(".")[1:]
    aligned = "linear" in kind or "cubic" in kind
    given: list[Any] = list(op.args[3 if aligned else 2 :])
    scales: list[Any] = [None] * (len(shape) - 2)
    if overload == "vec":
        scales = list(given[0]) if given and given[0] is not None else scales
    else:
        scales = [*given, *scales][: len(scales)]
    corners = aligned and bool(op.args[2])
    if len(scales) == 3 and not aligned:
        return None
    sizes = zip(shape[2:], out[2:], scales, strict=True)
    axes = [_weights(kind, n, m, scale, dtype, corners=corners) for n, m, scale in sizes]
    if any(axis.weights.shape[1] > MOST_TAPS for axis in axes):
        return None
    if len(axes) == 3:
        return _of_volumes(op, values, axes, scales, corners=corners)
    one = Weights.of(torch.ones(1, 1, dtype=dtype, device="cpu"))
    call, rest = op.call, op.args[1:]
    node = Resize(op.where, [x], [own_result(op)])
    node.axes = (axes[0], axes[1]) if len(axes) == 2 else (one, axes[0])
    node.shape = (*shape[:2], *(1,) * (4 - len(shape)), *shape[2:])
    node.out_shape, node.call = out, lambda tensor: call(tensor, *rest)
    return node


def _of_volumes(op: Op, values: Values, axes: list[Weights], scales: list[Any], *, corners: bool) -> list[Node]:
    """Return linear interpolation of volumes as that of all their slices, and then along the depth alone."""
    (x,), y = op.inputs, own_result(op)
    (batch, channels, depth, *size), out = values[x].shape, values[y].shape
    plane, linear = prod(out[3:]), torch.ops.aten.upsample_bilinear2d
    slices = new_value(values, (batch, channels * depth, *out[3:]), values[x].dtype)
    first, second = Resize(op.where, [x], [slices]), Resize(op.where, [slices], [y])
    first.axes, first.shape, first.out_shape = (
        (axes[1], axes[2]),
        (batch, channels * depth, *size),
        values[slices].shape,
    )
    first.call = lambda tensor: linear(tensor.reshape(first.shape), [*out[3:]], corners, *scales[1:])
    same = Weights(torch.arange(plane, device="cpu"), torch.ones(plane, 1, dtype=values[x].dtype, device="cpu"))
    second.axes, second.shape, second.out_shape = (axes[0], same), (batch, channels, depth, plane), out
    second.call = lambda tensor: linear(
        tensor.reshape(second.shape), [out[2], plane], corners, scales[0], None
    ).reshape(out)
    return [first, second]


def _weights(kind: str, size: int, out: int, scale: float | None, dtype: torch.dtype, *, corners: bool) -> Weights:
    """Return the interpolation along one axis, from what torch makes of each position alone."""
    alone = torch.eye(size, dtype=torch.float64, device="cpu")
    aten = torch.ops.aten
    if kind in ("upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"):
        made = getattr(aten, kind)(alone[:, None, None], [1, out], corners, None, scale)[:, 0, 0]
    elif "pool" in kind:
        made = aten.adaptive_avg_pool1d(alone[:, None], [out])[:, 0]
    elif "nearest" in kind:
        along = aten._upsample_nearest_exact1d if "exact" in kind else aten.upsample_nearest1d
        made = along(alone[:, None], [out], scale)[:, 0]
    else:
        made = aten.upsample_linear1d(alone[:, None], [out], corners, scale)[:, 0]
    return Weights.of(made.T.to(dtype))

"""Reader of attention: products, a softmax and products again."""

from __future__ import annotations

from math import prod, sqrt
from typing import Any

import torch

from convolith.network.graph.readers.arguments import FLOATS, Values, new_value, own_argument, own_result
from convolith.network.graph.trace import Op, Ref

aten = torch.ops.aten
ATTENTIONS = ("aten._scaled_dot_product_flash_attention_for_cpu.default",)
"""Operators on queries, keys and values, (N, heads, positions, channels)."""
MOST_BYTES = 1 << 22
"""Bytes of all scores from which torch, which never holds them all, is as fast."""


def attention(op: Op, values: Values) -> list[Op]:
    """Return the parts of an attention as one operator each, or none for other operators."""
    if op.name not in ATTENTIONS:
        return []
    found = [own_argument(op, at, values) for at in range(3)]
    if any(n is None or len(values[n].shape) != 4 or values[n].dtype not in FLOATS for n in found):
        return []
    q, k, v = (n for n in found if n is not None)
    (batch, heads, rows, inner), (*_, columns, _), (*_, outs) = (values[n].shape for n in (q, k, v))
    options = dict(zip(("dropout_p", "is_causal"), op.args[3:5], strict=False)) | op.kwargs
    scores, dtype, matrices = (batch, heads, rows, columns), values[q].dtype, batch * heads
    if options.get("dropout_p") or options.get("is_causal") or prod(scores) * dtype.itemsize > MOST_BYTES:
        return []
    if values[k].shape[:2] != values[q].shape[:2] or values[v].shape[:2] != values[q].shape[:2]:
        return []
    parts: list[Op] = []

    def call(operator: Any, shape: tuple[int, ...], *args: Any, result: int | None = None) -> Ref:
        number = new_value(values, shape, dtype) if result is None else result
        planes = [values[a.number].planes for a in args if isinstance(a, Ref)]
        values[number].planes = operator is not aten.transpose.int and all(planes)
        parts.append(Op(str(operator), operator, args, {}, Ref(number), op.where))
        return Ref(number)

    def matrix(number: int) -> Ref:
        shape = (matrices, *values[number].shape[2:])
        return call(aten.view.default, shape, Ref(number), list(shape))

    scale = 1 / sqrt(inner) if options.get("scale") is None else options["scale"]
    scaled = call(aten.mul.Tensor, (matrices, rows, inner), matrix(q), scale)
    turned = call(aten.transpose.int, (matrices, inner, columns), matrix(k), 1, 2)
    whole = call(aten.bmm.default, (matrices, rows, columns), scaled, turned)
    if options.get("attn_mask") is not None:
        whole = call(aten.view.default, scores, whole, list(scores))
        whole = call(aten.add.Tensor, scores, whole, options["attn_mask"])
        whole = call(aten.view.default, (matrices, rows, columns), whole, [matrices, rows, columns])
    shares = call(aten._safe_softmax.default, (matrices, rows, columns), whole, -1)
    product = call(aten.bmm.default, (matrices, rows, outs), shares, matrix(v))
    y = own_result(op)
    values[y].strides = ()
    call(aten.view.default, values[y].shape, product, list(values[y].shape), result=y)
    values[y].planes = True
    return parts

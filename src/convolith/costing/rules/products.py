"""Rules for sums of products: convolutions, matrix products, attention, recurrent layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import Any

import torch

from convolith.costing.rules.elementwise import broadcast, softmax_of, softmax_slope, sums_of_products
from convolith.dtypes import ITEMSIZE, dtype_name
from convolith.spec import ConvSpec
from convolith.work import Backward, Count, Work, layer_work


@lru_cache(maxsize=4096)
def _layer(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    dtype: torch.dtype,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    transposed: bool,
    output_padding: tuple[int, ...],
    groups: int,
    bias: bool,
    convention: str,
    edge: tuple[int, ...],
) -> Work:
    """Compute the work of a convolution from the shapes and options that torch dispatches."""
    axes = len(w_shape) - 2

    def each(values: tuple[int, ...]) -> tuple[int, ...]:
        return values * axes if len(values) == 1 else values

    name = str(dtype).removeprefix("torch.")
    spec = ConvSpec(
        batch=x_shape[0] if len(x_shape) == axes + 2 else 1,
        in_channels=x_shape[-axes - 1],
        out_channels=w_shape[1] * groups if transposed else w_shape[0],
        size=x_shape[-axes:],
        kernel_size=w_shape[2:],
        dtype=dtype_name(name) if name in ITEMSIZE else "float32",
        stride=each(stride),
        padding=each(padding),
        dilation=each(dilation),
        groups=groups,
        transposed=transposed,
        output_padding=each(output_padding) if transposed else 0,
        bias=bias,
    )
    return layer_work(_edged(spec, edge), convention)


def _work(
    x: torch.Tensor, w: torch.Tensor, geometry: Sequence[Any], *, bias: bool, convention: str, edge: Sequence[int]
) -> Work:
    stride, padding, dilation, transposed, output_padding, groups = geometry
    options = (tuple(stride), tuple(padding), tuple(dilation), transposed, tuple(output_padding), groups)
    return _layer(tuple(x.shape), tuple(w.shape), x.dtype, *options, bias, convention, tuple(edge))


def convolution(
    x: torch.Tensor,
    w: torch.Tensor,
    bias: torch.Tensor | None,
    *geometry: Any,
    convention: str,
    edge: Sequence[int] = (),
    **_: Any,
) -> Count:
    """Count a convolution; `edge` is the zero padding that an earlier operator added around the image."""
    return _work(x, w, geometry[:6], bias=bias is not None, convention=convention, edge=edge).forward


def _edged(spec: ConvSpec, edge: Sequence[int]) -> ConvSpec:
    """Return the spec with an edge of zeros moved into its padding; as in `pad`, the edge lists the last axis first."""
    if not edge or spec.transposed or min(edge) < 0 or len(edge) > 2 * spec.axes:
        return spec
    pairs = [*zip(edge[::2], edge[1::2], strict=True)] + [(0, 0)] * (spec.axes - len(edge) // 2)
    around = list(reversed(pairs))
    size = tuple(n - sum(pair) for n, pair in zip(spec.size, around, strict=True))
    both = zip(spec.padding, around, strict=True)
    return replace(spec, size=size, padding=tuple((a + c, b + d) for (a, b), (c, d) in both))


def convolution_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    w: torch.Tensor,
    bias_sizes: Sequence[int] | None,
    *geometry: Any,
    convention: str,
    edge: Sequence[int] = (),
    **_: Any,
) -> Backward:
    """Count the gradients of a convolution that the output mask selects."""
    *shape, mask = geometry
    work = _work(x, w, shape, bias=bool(bias_sizes) or mask[2], convention=convention, edge=edge)
    return _parts(work.backward, mask)


WANTED = 7
"""Place of the wanted gradients among the options of Convolith's own backward operator."""


def correlated(x: torch.Tensor, k: torch.Tensor, bias: torch.Tensor | None, *options: Any) -> ConvSpec:
    """Return the spec of a call of Convolith's own operator."""
    stride, padding, dilation, groups, padding_mode, *rest = options
    pairs = tuple(zip(padding[::2], padding[1::2], strict=True))
    geometry: dict[str, Any] = {"stride": tuple(stride), "padding": pairs, "dilation": tuple(dilation)}
    if rest and isinstance(rest[-1], float):  # calls of earlier versions have no padding value
        geometry["padding_value"] = rest[-1]
    return ConvSpec.of(x, k, bias, **geometry, groups=groups, padding_mode=padding_mode)


def correlation(*arguments: Any, convention: str, **_: Any) -> Count:
    """Count Convolith's own operator: all products of the layer, even if an engine forms fewer."""
    return layer_work(correlated(*arguments), convention).forward


def correlation_backward(grad: torch.Tensor, *arguments: Any, convention: str, **_: Any) -> Backward:
    """Count the gradients that a call of Convolith's own backward operator requests."""
    x, k, bias, *options = arguments
    return _parts(layer_work(correlated(x, k, bias, *options), convention).backward, options[WANTED])


def _parts(whole: Backward, mask: Sequence[bool]) -> Backward:
    """Return the gradients of a backward pass that a mask selects."""
    parts = (whole.input_gradient, whole.weight_gradient, whole.bias_gradient)
    return Backward(*(part if selected else Count() for part, selected in zip(parts, mask, strict=True)))


def product(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor, **_: Any) -> Count:
    """Count mm, bmm, mv, dot: every result is a sum of products along one axis."""
    return sums_of_products(out.numel() * a.shape[-1], out.numel())


def product_added(
    bias: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    *,
    out: torch.Tensor,
    **factors: Any,
) -> Count:
    """Count addmm, baddbmm, addmv, addr: the products, a term added to each result, and the factors of both."""
    inner = a.shape[-1] if a.ndim > 1 else 1
    return _added(sums_of_products(out.numel() * inner, out.numel()), out, **factors)


def _added(products: Count, out: torch.Tensor, alpha: float = 1, beta: float = 1, **_: Any) -> Count:
    """Add a term to products; alpha multiplies the products and beta the term, unless they are trivial."""
    scaled = out.numel() * ((alpha != 1) + (beta not in (0, 1)))
    return products + Count(scaled, out.numel() * (beta != 0), elementwise=scaled)


def product_summed(bias: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor, **factors: Any) -> Count:
    """Count addbmm, which also sums the matrix products over the batch."""
    return _added(sums_of_products(out.numel() * a.shape[0] * a.shape[-1], out.numel()), out, **factors)


def grouped_product(a: torch.Tensor, b: torch.Tensor, *_: Any, out: torch.Tensor, **__: Any) -> Count:
    """Count a grouped product: the rows (or inner indices) of one matrix are divided among several other matrices."""
    rows = a.shape[-2] if a.ndim == 2 and b.ndim == 2 else out.numel() // max(out.shape[-1], 1)
    inner, columns = a.shape[-1], out.shape[-1]
    results = out.numel()
    return sums_of_products(rows * inner * columns, results)


def trilinear(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, *given: Any, out: torch.Tensor, **_: Any) -> Count:
    """Count products of three factors, summed along axes (`nn.Bilinear`)."""
    sides = [tensor.ndim for tensor in (a, b, c)]
    ndim = sides[0] + len(given[0])
    shapes = []
    for tensor, expanded in zip((a, b, c), given[:3], strict=True):
        sizes = iter(tensor.shape)
        shapes.append([1 if axis in expanded else next(sizes) for axis in range(ndim)])
    n = prod(broadcast(*shapes))
    return sums_of_products(2 * n, 2 * n - max(n - out.numel(), 0))


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, **__: Any) -> Count:
    """Count scores, their softmax, and weighted sums of values (Vaswani et al. 2017), including masked ones."""
    rows, keys = prod(q.shape[:-1]), k.shape[-2]
    scores = rows * keys
    matrices = sums_of_products(scores * q.shape[-1], scores) + sums_of_products(
        scores * v.shape[-1], rows * v.shape[-1]
    )
    return matrices + Count(scores, elementwise=scores) + softmax_of(scores, rows)


def attention_backward(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, **__: Any
) -> Count:
    """Count the recomputed scores and softmax, and the gradients of values, softmax, queries and keys."""
    rows, keys, depth, wide = prod(q.shape[:-1]), k.shape[-2], q.shape[-1], v.shape[-1]
    scores = rows * keys
    again = sums_of_products(scores * depth, scores) + Count(scores, elementwise=scores) + softmax_of(scores, rows)
    values = sums_of_products(scores * wide, v.numel()) + sums_of_products(scores * wide, scores)
    queries = sums_of_products(scores * depth, q.numel()) + sums_of_products(scores * depth, k.numel())
    return again + values + queries + softmax_slope(scores, rows)


def _cells(x: torch.Tensor, w: torch.Tensor, hidden: torch.Tensor) -> tuple[int, int, int, int]:
    """Return the number of cells (steps times images), and of gates, inputs and hidden units of each cell."""
    return x.numel() // max(x.shape[-1], 1), w.shape[0], w.shape[1], hidden.shape[1]


def lstm(x: torch.Tensor, w: torch.Tensor, hidden: torch.Tensor, *rest: Any, **_: Any) -> Count:
    """Count a layer's matrix products of inputs and hidden units, and the gates (Hochreiter and Schmidhuber 1997)."""
    cells, gates, inputs, units = _cells(x, w, hidden)
    biased = 2 if rest[8] else 0
    of_inputs = sums_of_products(cells * gates * inputs, cells * gates, biased=cells * gates * (1 + biased))
    n = cells * units
    return (
        of_inputs
        + sums_of_products(cells * gates * units, cells * gates)
        + Count(3 * n, 4 * n, elementwise=3 * n, others=8 * n)
    )


def lstm_backward(x: torch.Tensor, w: torch.Tensor, hidden: torch.Tensor, *_: Any, **__: Any) -> Count:
    """Count the gradients of inputs, hidden units and both matrices, and those of the gates."""
    cells, gates, inputs, units = _cells(x, w, hidden)
    total = Count(16 * cells * units, 6 * cells * units, elementwise=16 * cells * units)
    for width in (inputs, units):
        products = cells * gates * width
        total = total + sums_of_products(products, cells * width) + sums_of_products(products, gates * width)
    return total

"""The definition itself, in Python loops over exact integers or floats: what the oracle is held against."""

from __future__ import annotations

from itertools import product

from convolith import ConvSpec
from convolith.geometry import padding_sources


def source(position: int, axis: int, spec: ConvSpec) -> int | None:
    """The input position behind a position of the padded axis; None for a zero of the padding."""
    before, n = spec.padding[axis][0], spec.size[axis]
    if spec.padding_mode == "zeros":
        return position - before if 0 <= position - before < n else None
    repeated = int(padding_sources(n, spec.padding[axis], spec.padding_mode)[position])
    return None if repeated < 0 else repeated


def products(spec: ConvSpec):
    """Every product of a spec: (image, group, out channel in its group, in channel in its group, output, input, tap).

    `input` is None where the product is with a zero of the padding; for a transposed spec `output` is None where it
    falls on what is cropped off.
    """
    outs, ins = spec.out_channels // spec.groups, spec.in_channels // spec.groups
    far = spec.size if spec.transposed else spec.output_size
    channels = product(range(spec.batch), range(spec.groups), range(outs), range(ins))
    for n, g, o, c in channels:
        for p in product(*map(range, far)):
            for t in product(*map(range, spec.kernel_size)):
                padded = [q * s + i * d for q, s, i, d in zip(p, spec.stride, t, spec.dilation)]
                if spec.transposed:
                    out = tuple(q - pair[0] for q, pair in zip(padded, spec.padding))
                    inside = all(0 <= q < m for q, m in zip(out, spec.output_size))
                    yield n, g, o, c, out if inside else None, p, t, tuple(padded)
                else:
                    q = tuple(source(position, axis, spec) for axis, position in enumerate(padded))
                    yield n, g, o, c, p, None if None in q else q, t, tuple(padded)


def correlate(x, kernel, bias, spec: ConvSpec) -> dict:
    """Outputs as a dict from (image, channel, *position) to a number."""
    outs, ins = spec.out_channels // spec.groups, spec.in_channels // spec.groups
    y = {}
    for position in product(range(spec.batch), range(spec.out_channels), *map(range, spec.output_size)):
        y[position] = 0 if bias is None else bias[position[1]]
    for n, g, o, c, p, q, t, _ in products(spec):
        if p is None or q is None:
            continue
        weight = kernel[(g * ins + c, o, *t)] if spec.transposed else kernel[(g * outs + o, c, *t)]
        y[(n, g * outs + o, *p)] += weight * x[(n, g * ins + c, *q)]
    return y


def enumerate_work(spec: ConvSpec, effective: bool) -> dict:
    """(products, result elements that receive one) for each pass, counted one by one."""
    outs, ins = spec.out_channels // spec.groups, spec.in_channels // spec.groups
    total, forward, by_input, by_weight = 0, set(), set(), set()
    for n, g, o, c, p, q, t, padded in products(spec):
        real = p is not None and q is not None
        if effective and not real:
            continue
        total += 1
        out, inp = (n, g * outs + o), (n, g * ins + c)
        # dense: the padded input (transposed: the uncropped output) is what the gradient (the result) is as large as
        near = padded if not effective else (p if spec.transposed else q)
        forward.add((*out, *(near if spec.transposed else p)))
        by_input.add((*inp, *(q if spec.transposed else near)))
        by_weight.add((g, o, c, t))
    return {"products": total, "forward": len(forward), "input": len(by_input), "weight": len(by_weight)}

"""Values of the library for drawn layers, written as JSON: the tests of the explorer compare its own with them.

`python tests/web_values.py [SEED [COUNT]]` writes them to stdout.
"""

import json
import random
import sys
from typing import Any

import numpy as np

import convolith as cl
from convolith.algebra import add, compose
from convolith.geometry import CONV_MODES, output_length, transposed_length
from convolith.work import layer_work

COUNTS = ("forward", "input_gradient", "weight_gradient", "bias_gradient")


def drawn_axis(rng: random.Random, *, transposed: bool, padded: bool) -> dict[str, int]:
    """Draw the geometry of one axis with at least one output."""
    while True:
        k, d, s = rng.randint(1, 4), rng.randint(1, 3), rng.randint(1, 3)
        before, after = (rng.randint(0, 4), rng.randint(0, 4)) if padded else (0, 0)
        if rng.random() < 0.6:
            after = before
        more = rng.randint(0, max(s, d) - 1) if transposed and rng.random() < 0.4 else 0
        n = rng.randint(1, 9)
        length = (
            transposed_length(n, k, s, (before, after), d, more)
            if transposed
            else output_length(n, k, s, (before, after), d)
        )
        if 1 <= length <= 20:
            return {
                "size": n,
                "kernel": k,
                "stride": s,
                "before": before,
                "after": after,
                "dilation": d,
                "outputPadding": more,
            }


SINGLE = {"size": 1, "kernel": 1, "stride": 1, "before": 0, "after": 0, "dilation": 1, "outputPadding": 0}


def drawn_layer(rng: random.Random, *, plain: bool = False) -> dict[str, Any]:
    """Draw a layer as the page describes it; `plain` leaves out transposed layers and flipped kernels."""
    transposed = not plain and rng.random() < 0.3
    groups = rng.choice((1, 1, 2, 3))
    axes = rng.choice((1, 2, 2))
    padded = rng.random() < 0.7
    rows = drawn_axis(rng, transposed=transposed, padded=padded) if axes == 2 else SINGLE
    return {
        "axes": axes,
        "inChannels": groups * rng.randint(1, 2),
        "outChannels": groups * rng.randint(1, 2),
        "groups": groups,
        "rows": rows,
        "columns": drawn_axis(rng, transposed=transposed, padded=padded),
        "mode": "zeros" if transposed or rng.random() < 0.4 else rng.choice(CONV_MODES),
        "transposed": transposed,
        "flip": not plain and rng.random() < 0.3,
    }


def axes_of(layer: dict[str, Any]) -> list[dict[str, int]]:
    return [layer["rows"], layer["columns"]][2 - layer["axes"] :]


def conv_of(layer: dict[str, Any], weight: np.ndarray, bias: np.ndarray | None) -> cl.Conv:
    axes = axes_of(layer)
    return cl.Conv(
        weight,
        bias,
        stride=[a["stride"] for a in axes],
        padding=[(a["before"], a["after"]) for a in axes],
        dilation=[a["dilation"] for a in axes],
        groups=layer["groups"],
        padding_mode=layer["mode"],
        transposed=layer["transposed"],
        output_padding=[a["outputPadding"] for a in axes],
    )


def drawn_values(
    rng: random.Random, layer: dict[str, Any], *, biased: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Draw x, the weights and the bias of a layer; a third of them are whole numbers."""
    random_state = np.random.default_rng(rng.randint(0, 2**31))
    axes = axes_of(layer)
    first, second = ("inChannels", "outChannels") if layer["transposed"] else ("outChannels", "inChannels")
    shapes = (
        (layer["inChannels"], *(a["size"] for a in axes)),
        (layer[first], layer[second] // layer["groups"], *(a["kernel"] for a in axes)),
        (layer["outChannels"],),
    )
    whole = rng.random() < 1 / 3
    draw = [random_state.integers(-9, 10, s).astype(float) if whole else random_state.normal(size=s) for s in shapes]
    return draw[0], draw[1], draw[2] if biased else None


def flat(array: Any) -> list[float] | None:
    return None if array is None else np.asarray(array, dtype=float).ravel().tolist()


def layer_case(rng: random.Random) -> dict[str, Any]:
    """Return one layer: its output, gradients, counts and memory."""
    import torch

    layer = drawn_layer(rng)
    x, k, b = drawn_values(rng, layer, biased=rng.random() < 0.5)
    flip = tuple(range(2, k.ndim)) if layer["flip"] else ()
    conv = conv_of(layer, np.flip(k, flip), b)
    y = cl.correlate(x, conv, engine="reference")
    dy = np.random.default_rng(rng.randint(0, 2**31)).normal(size=y.shape)
    tensors = [torch.tensor(x, requires_grad=True), torch.tensor(k, requires_grad=True)]
    made = cl.correlate(tensors[0], cl.Conv(tensors[1].flip(flip) if flip else tensors[1], **conv.options))
    dx, dk = torch.autograd.grad(made, tensors, torch.tensor(dy))
    spec = conv.spec(x.shape)
    counts = {}
    for convention in ("dense", "effective"):
        work = layer_work(spec, convention)
        parts = (work.forward, work.backward.input_gradient, work.backward.weight_gradient, work.backward.bias_gradient)
        counts[convention] = [[part.multiplications, part.additions] for part in parts]
    memory = layer_work(spec).memory
    return {
        "layer": layer,
        **{
            name: flat(value)
            for name, value in (("x", x), ("k", k), ("b", b), ("y", y), ("dy", dy), ("dx", dx), ("dk", dk))
        },
        "shape": list(y.shape),
        "counts": counts,
        "memory": [
            *(memory.forward.input, memory.forward.parameters, memory.forward.output),
            *(memory.backward.parameter_gradients, memory.backward.input_gradient),
            *(memory.backward.output_gradient, memory.backward.saved_activations),
        ],
    }


def row_case(rng: random.Random) -> dict[str, Any]:
    """Return two layers in a row, the convolution that they equal, and the differences of its output."""
    while True:
        first, second = drawn_layer(rng, plain=True), drawn_layer(rng, plain=True)
        first |= {"inChannels": 1, "outChannels": second["inChannels"], "groups": 1}
        if first["groups"] == 1 and second["groups"] == 1 and rng.random() < 0.5:
            first["groups"] = first["inChannels"] = first["outChannels"]
        if first["axes"] != second["axes"]:
            continue
        if rng.random() < 0.7:
            second["mode"] = first["mode"]
        if rng.random() < 0.3:
            for axis in axes_of(second):
                axis["before"] = axis["after"] = 0
        x, k1, b1 = drawn_values(rng, first, biased=rng.random() < 0.5)
        _, k2, b2 = drawn_values(rng, second, biased=rng.random() < 0.5)
        if rng.random() < 0.3:
            k1 = k1 + np.flip(k1, tuple(range(2, k1.ndim)))
        one, two = conv_of(first, k1, b1), conv_of(second, k2, b2)
        try:
            hidden = cl.correlate(x, one, engine="reference")
            expected = cl.correlate(hidden, two, engine="reference")
        except cl.ConvolithError:
            continue  # the second kernel does not fit into the first's output
        whole = compose(one, two)
        naive = cl.correlate(x, whole.conv, engine="reference")
        return {
            "first": first,
            "second": second,
            **{n: flat(v) for n, v in (("x", x), ("k1", k1), ("b1", b1), ("k2", k2), ("b2", b2))},
            **{n: flat(v) for n, v in (("kernel", whole.conv.weight), ("bias", whole.conv.bias))},
            "options": options_of(whole.conv),
            "exact": whole.exact,
            "difference": flat(naive - expected),
        }


def branch_case(rng: random.Random) -> dict[str, Any]:
    """Return two or three branches whose outputs are added, and the convolution that they equal."""
    while True:
        first = drawn_layer(rng, plain=True)
        layers = [first]
        for _ in range(rng.randint(1, 2)):
            other = {
                **drawn_layer(rng, plain=True),
                **{n: first[n] for n in ("axes", "inChannels", "outChannels", "mode")},
            }
            other["groups"] = rng.choice((1, first["groups"]))
            other["rows"] = drawn_axis(rng, transposed=False, padded=True) if first["axes"] == 2 else SINGLE
            for name in ("rows", "columns"):
                other[name] = {**other[name], "size": first[name]["size"], "stride": first[name]["stride"]}
            layers.append(other)
        values = [drawn_values(rng, layer, biased=rng.random() < 0.5) for layer in layers]
        try:
            whole = add(*(conv_of(layer, k, b) for layer, (_, k, b) in zip(layers, values)))
            y = cl.correlate(values[0][0], whole, engine="reference")
        except cl.ConvolithError:
            continue
        return {
            "layers": layers,
            "x": flat(values[0][0]),
            "kernels": [flat(k) for _, k, _ in values],
            "biases": [flat(b) for _, _, b in values],
            "kernel": flat(whole.weight),
            "bias": flat(whole.bias),
            "options": options_of(whole),
            "y": flat(y),
        }


def options_of(conv: cl.Conv) -> dict[str, Any]:
    return {
        "kernel": list(conv.kernel_size),
        "stride": list(conv.stride),
        "padding": [list(pair) for pair in conv.padding],
        "dilation": list(conv.dilation),
        "groups": conv.groups,
    }


def factor_case(rng: random.Random) -> dict[str, Any]:
    """Return a kernel, a third of them of rank one, and its singular values."""
    random_state = np.random.default_rng(rng.randint(0, 2**31))
    shape = rng.randint(1, 7), rng.randint(1, 7)
    kernel = random_state.normal(size=shape)
    if rng.random() < 1 / 3:
        kernel = np.outer(random_state.integers(-4, 5, shape[0]), random_state.integers(-4, 5, shape[1])).astype(float)
    return {"shape": shape, "kernel": flat(kernel), "singular": flat(np.linalg.svd(kernel, compute_uv=False))}


CHANGES = {
    "channels2": {"channels": 2},
    "channels3": {"channels": 3},
    "padding2": {"padding": 2},
    "size2": {"size": 2},
    "stride2": {"stride": 2},
}
"""Changes of a layer in the view "Cost", as `LayerCost.scaled` takes them."""
COST_DTYPES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def drawn_cost_layer(rng: random.Random) -> dict[str, Any]:
    """Draw a layer of the sizes that the view "Cost" takes."""

    def below(most: int, least: int = 1) -> int:
        return min(most, round(least * (most / least) ** rng.random()))

    def axis() -> dict[str, int]:
        while True:
            d, s = (below(64), below(16)) if rng.random() < 0.5 else (1, 1)
            k, n = below(63), below(4096, 4)
            before = rng.choice((0, d * (k - 1) // 2, below(1024)))
            after = rng.choice((before, before, rng.randint(0, 9)))
            if max(before, after) <= 1024 and n + before + after > d * (k - 1):
                values = {"size": n, "kernel": k, "stride": s, "before": before, "after": after, "dilation": d}
                return {**values, "outputPadding": 0}

    groups, axes = rng.choice((1, 1, below(64))), rng.choice((1, 2, 2))
    many = (1, 1) if rng.random() < 0.3 else (below(2048 // groups), below(2048 // groups))
    return {
        "axes": axes,
        "inChannels": groups * many[0],
        "outChannels": groups * many[1],
        "groups": groups,
        "rows": axis() if axes == 2 else SINGLE,
        "columns": axis(),
        "mode": rng.choice(("zeros", *CONV_MODES)),
        "transposed": False,
        "flip": False,
    }


def strip_of(layer: dict[str, Any], outputs: list[int]) -> cl.ConvSpec:
    """Return one channel of a layer on an input that gives just some adjacent outputs, without padding."""
    axes = axes_of(layer)
    return cl.ConvSpec(
        in_channels=1,
        out_channels=1,
        size=[(n - 1) * a["stride"] + (a["kernel"] - 1) * a["dilation"] + 1 for n, a in zip(outputs, axes)],
        kernel_size=[a["kernel"] for a in axes],
        stride=[a["stride"] for a in axes],
        dilation=[a["dilation"] for a in axes],
    )


def cost_case(rng: random.Random) -> dict[str, Any]:
    """Return a large layer: every count, the factors of a change, the inputs that a strip of outputs reads.

    Whole numbers are text, since some are longer than those of JavaScript.
    """
    layer = drawn_cost_layer(rng)
    axes = axes_of(layer)
    dtype, change = rng.choice(list(COST_DTYPES)), rng.choice(list(CHANGES))
    options = {
        "batch": rng.choice((1, rng.randint(2, 1024))),
        "biased": rng.random() < 0.5,
        "convention": rng.choice(("dense", "effective")),
        "itemsize": COST_DTYPES[dtype],
        "inputGradient": rng.random() < 0.7,
    }
    spec = cl.ConvSpec(
        batch=options["batch"],
        in_channels=layer["inChannels"],
        out_channels=layer["outChannels"],
        size=[a["size"] for a in axes],
        kernel_size=[a["kernel"] for a in axes],
        stride=[a["stride"] for a in axes],
        padding=[(a["before"], a["after"]) for a in axes],
        dilation=[a["dilation"] for a in axes],
        groups=layer["groups"],
        padding_mode=layer["mode"],
        bias=options["biased"],
        dtype=dtype,
    )
    cost = cl.cost(spec, convention=options["convention"], input_gradient=options["inputGradient"])
    scaled = cost.scaled(**CHANGES[change])
    strip = [min(rng.randint(1, 24), n) for n in spec.output_size]
    read = cl.cost(strip_of(layer, strip)).backward.input_gradient
    forward, backward = cost.memory.forward, cost.memory.backward
    parts = (cost.forward, cost.backward.input_gradient, cost.backward.weight_gradient, cost.backward.bias_gradient)
    return {
        "layer": layer,
        "options": options,
        "change": change,
        "operations": [[str(part.multiplications), str(part.additions)] for part in parts],
        "memory": [
            *map(str, (forward.input, forward.parameters, forward.output, backward.parameter_gradients)),
            *map(str, (backward.input_gradient, backward.output_gradient, backward.saved_activations)),
        ],
        "before": {name: str(count) for name, count in cost.counts().items()},
        "after": {name: str(count) for name, count in scaled.after.counts().items()},
        "strip": strip,
        "reads": read.multiplications - read.additions,
    }


def values(seed: int = 0, count: int = 500) -> dict[str, Any]:
    """Return `count` layers, and a third to a half as many of each of the others."""
    rng = random.Random(seed)
    kinds = {
        "layers": (layer_case, count),
        "rows": (row_case, count // 3),
        "branches": (branch_case, count // 3),
        "factors": (factor_case, count // 3),
        "costs": (cost_case, count // 2),
    }
    return {name: [draw(rng) for _ in range(n)] for name, (draw, n) in kinds.items()}


if __name__ == "__main__":
    json.dump(values(*map(int, sys.argv[1:])), sys.stdout)

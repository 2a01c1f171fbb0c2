"""Random calls of everything public: a right answer, or a refusal that names an argument; no other error, no crash.

Every case is drawn from its own seed, and runs alone again: `python -m tests.test_fuzz correlate 1234 1`. Cases run in
a process of their own, so that one that ends the interpreter is a failed test with its seed.
"""

import json
import random
import re
import subprocess
import sys
import traceback
import warnings

import numpy as np
import pytest
import torch

import convolith as cl
from convolith import Conv, ConvolithError, ConvSpec

CASES = {"correlate": 200, "planned": 100, "algebra": 80, "fits": 30, "costs": 60, "chapter": 60}
"""How many random calls of each kind a run of the tests makes."""
ADDRESS_SPACE_BYTES = 24 << 30
"""What a process of random calls may reserve: a call that asks for more must have been refused before."""
FLOATS = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
LOOSE = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 2e-4, "complex64": 2e-4, "float64": 1e-10, "complex128": 1e-10}
"""Errors that count as right, relative to the largest magnitude that a sum could have: engines' bounds have own tests."""
NAMED = re.compile(
    r"\b(x|y|k|X|K|bias|weight|weights|image|kernel|kernel_size|stride|padding|dilation|groups|padding_mode|engine|"
    r"accuracy|effort|budget|spec|size|batch|in_channels|out_channels|first|second|conv|tolerance|out|mask|ridge|"
    r"smoothness|basis|method|degree|steps|seed|learning_rate|input_shape|input_dtype|example_input|convention|subject|"
    r"transposed|output_padding|dtype|flip|like|branches|module|channels|errors|loss|constraints|offset|modulation|"
    r"background_degree|positions|max_size|x_noise_variance|huber_delta|optimizer|backward|run|verify|input_gradient|"
    r"calibration|callback|progress|constant|kernel_dtype|the result)\b"
)


class Odd:
    """An object of no kind that anything expects."""

    def __repr__(self) -> str:
        return "Odd()"


ODD_VALUES = (
    *(None, -1, 0, 1.5, 2.0, float("nan"), float("inf"), 1j, "", "a", "same", "full", "1", b"1", True, False),
    *(10**30, -(10**30), 2**40, 2**63, 2**62, -(2**63), np.int64(2), np.uint8(1), np.float32(2), np.bool_(True)),
    *((), [], {}, set(), (1,), [2], (1, 2, 3, 4), (1, None), (1, "a"), ((1, 2),), [[1, 0], [0, 1]], ((1, 2, 3),)),
    *([[]], (1, (2, 3)), ((0, 1), (1, 0)), range(2), {"a": 1}, Odd(), Odd, len, np.array(2), np.array([1, 2])),
    *(np.array([[1, 1], [0, 2]]), np.ones(0), np.array(["a"]), torch.tensor(2), torch.tensor([1, 1]), torch.ones(2)),
    *(torch.empty(2, device="meta"), np.ma.masked_array([1, 2]), np.array([None, 1]), slice(1, 2), ..., NotImplemented),
)


def values(rng: random.Random, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    if dtype in INTEGERS:
        low = 0 if dtype.startswith("u") else -9
        return torch.randint(low, 10, shape, generator=generator).to(getattr(torch, dtype))
    found = torch.randn(shape, generator=generator, dtype=torch.float64)
    if dtype.startswith("complex"):
        found = torch.complex(found, torch.randn(shape, generator=generator, dtype=torch.float64))
    found = found.to(getattr(torch, dtype))
    if rng.random() < 0.05 and found.numel():
        found.view(-1)[rng.randrange(found.numel())] = rng.choice((float("nan"), float("inf"), -float("inf")))
    return found


def unaligned(array: np.ndarray, offset: int) -> np.ndarray:
    memory = np.empty(array.nbytes + 64, np.uint8)
    begin = -memory.ctypes.data % 64 + offset
    found = memory[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    found[...] = array
    return found


def spread(array: np.ndarray) -> np.ndarray:
    wide = np.zeros([2 * n + 1 for n in array.shape], array.dtype)
    found = wide[tuple(slice(1, None, 2) for _ in array.shape)]
    found[...] = array
    return found


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.setflags(write=False)
    return array


def conjugated(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.conj().resolve_conj().conj()


def negated(tensor: torch.Tensor) -> torch.Tensor:
    """The same values as a lazy negative: the imaginary part of a lazy conjugate."""
    if tensor.dtype not in (torch.float32, torch.float64):
        return tensor
    return torch.complex(torch.zeros_like(tensor), -tensor).conj().imag


GOOD_ARRAYS = {
    "plain": lambda a, _: a,
    "reversed": lambda a, _: np.ascontiguousarray(a[..., ::-1])[..., ::-1] if a.ndim else a,
    "unaligned": lambda a, r: unaligned(a, r.choice((1, 2, 3, 4, 8, 12))),
    "swapped": lambda a, _: a.astype(a.dtype.newbyteorder()),
    "read-only": lambda a, _: read_only(a),
    "spread": lambda a, _: spread(a),
    "fortran": lambda a, _: np.asfortranarray(a),
}
GOOD_TENSORS = {
    "plain": lambda t, _: t,
    "unaligned": lambda t, r: (
        t if t.dtype is torch.bfloat16 else torch.from_numpy(unaligned(t.numpy(), r.choice((1, 4, 8))))
    ),
    "conjugated": lambda t, _: conjugated(t),
    "negated": lambda t, _: negated(t),
    "recorded": lambda t, _: t.clone().requires_grad_() if t.is_floating_point() or t.is_complex() else t,
    "parameter": lambda t, _: torch.nn.Parameter(t.clone(), requires_grad=False),
    "spread": lambda t, _: torch.stack([t, t], -1)[..., 0],
    "transposed": lambda t, _: t.movedim(0, -1).contiguous().movedim(-1, 0) if t.ndim else t,
    "odd strides": lambda t, _: t.clone().as_strided(t.shape, [7] * t.ndim) if t.numel() == 1 else t,
}
BAD_ARRAYS = {
    "booleans": lambda a: a != 0,
    "objects": lambda a: a.astype(object),
    "strings": lambda a: np.full(a.shape, "a"),
    "records": lambda a: np.zeros(a.shape, [("re", "f4")]),
    "dates": lambda a: np.zeros(a.shape, "M8[s]"),
    "wide": lambda a: a.real.astype(np.longdouble),
    "masked": lambda a: np.ma.masked_array(a, mask=a == a.flat[0] if a.size else False),
    "list": lambda a: a.tolist(),
    "empty": lambda a: a[..., :0],
    "one axis less": lambda a: a[0],
    "one axis more": lambda a: a[None],
    "number": lambda _: np.array(1.0),
    "a float": lambda _: 2.5,
    "a tensor": lambda a: torch.from_numpy(a.astype(np.float32, casting="unsafe")),
    "odd": lambda _: Odd(),
    "None": lambda _: None,
}
BAD_TENSORS = {
    "booleans": lambda t: t != 0,
    "meta": lambda t: t.to("meta"),
    "sparse": lambda t: t.to(torch.float32).to_sparse(),
    "quantised": lambda t: torch.quantize_per_tensor(t.to(torch.float32), 0.1, 0, torch.qint8),
    "nested": lambda t: torch.nested.nested_tensor([t.to(torch.float32), t.to(torch.float32)]),
    "jagged": lambda t: torch.nested.nested_tensor([t.to(torch.float32)] * 2, layout=torch.jagged),
    "float8": lambda t: t.to(torch.float32).to(torch.float8_e4m3fn),
    "empty": lambda t: t[..., :0],
    "one axis less": lambda t: t[0],
    "one axis more": lambda t: t[None],
    "an array": lambda t: t.to(torch.float32).numpy(),
    "a number": lambda _: torch.tensor(1.0),
    "parameter list": lambda t: torch.nn.ParameterList([t.to(torch.float32)]),
    "odd": lambda _: Odd(),
}


def disguised(rng: random.Random, tensor: torch.Tensor, *, numpy: bool, bad: float = 0.02) -> object:
    """The values in one of the ways that arrays come in, now and then in one that must be refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of prototypes, while the argument is made
        try:
            if numpy and tensor.dtype is not torch.bfloat16:
                if rng.random() < bad:
                    return rng.choice(list(BAD_ARRAYS.values()))(tensor.numpy())
                return rng.choice(list(GOOD_ARRAYS.values()))(tensor.numpy(), rng)
            if rng.random() < bad:
                return rng.choice(list(BAD_TENSORS.values()))(tensor)
            return rng.choice(list(GOOD_TENSORS.values()))(tensor, rng)
        except (RuntimeError, IndexError, TypeError):  # what torch raises for variants that it cannot make
            return tensor


def geometry(rng: random.Random, axes: int) -> dict[str, object]:
    """Options of a layer; most are as they should be."""
    some = lambda low, high: rng.choice((rng.randint(low, high), tuple(rng.randint(low, high) for _ in range(axes))))
    found: dict[str, object] = {}
    if rng.random() < 0.4:
        found["stride"] = some(1, 3)
    if rng.random() < 0.3:
        found["dilation"] = some(1, 2)
    if rng.random() < 0.5:
        found["padding"] = rng.choice((some(0, 3), "same", "valid", "full", ((1, 0),) * axes))
    if rng.random() < 0.2:
        found["padding_mode"] = rng.choice(("reflect", "replicate", "circular", "zeros"))
    return found


def spoiled(rng: random.Random, options: dict[str, object], names: tuple[str, ...], share: float = 0.2) -> None:
    """Now and then, an option that is none."""
    while rng.random() < share:
        options[rng.choice(names)] = rng.choice(ODD_VALUES)


def layer(rng: random.Random, *, numpy: bool) -> tuple[object, object, object, dict[str, object]]:
    """x, k, bias and options that mostly go together."""
    axes, groups = rng.choice((1, 2, 2, 2, 3)), rng.choice((1, 1, 1, 2, 3))
    wide = rng.choice((1, 1, 2, 3, 16))
    ends = groups * wide, groups * rng.choice((1, 2, wide))
    size = [rng.choice((1, 3, 5, 8, 17, 40 if axes < 3 else 6)) for _ in range(axes)]
    taps = [min(rng.choice((1, 1, 2, 3, 3, 5, 9)), rng.choice((n, n, 9))) for n in size]
    dtype = rng.choice((*FLOATS, *INTEGERS, "float32", "float64"))
    other = dtype if dtype in FLOATS and rng.random() < 0.9 else rng.choice((*INTEGERS, *FLOATS, dtype))
    shape = (*((rng.choice((1, 2, 0)),) if rng.random() < 0.8 else ()), ends[0], *size)
    options = geometry(rng, axes) | ({"groups": groups} if groups > 1 or rng.random() < 0.1 else {})
    x, k = values(rng, shape, dtype), values(rng, (ends[1], ends[0] // groups, *taps), other)
    bias = None
    if rng.random() < 0.4:
        out = next((name for name in (dtype, other) if name in FLOATS), "int64")
        bias = disguised(rng, values(rng, (ends[1],), rng.choice((out, out, out, "int32"))), numpy=numpy)
    return disguised(rng, x, numpy=numpy), disguised(rng, k, numpy=numpy), bias, options


def plain(array: object) -> object:
    """Values as a tensor of their own, of the reference's kind."""
    if array is None:
        return None
    if isinstance(array, np.ndarray):
        array = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    tensor = array.detach().resolve_conj().resolve_neg().clone()
    wide = torch.complex128 if tensor.is_complex() else torch.float64
    return tensor.to(wide) if tensor.is_floating_point() or tensor.is_complex() else tensor


def check_result(y: object, x: object, k: object, bias: object, options: dict[str, object]) -> None:
    """Compare with the reference in float64, where there are values to compare and all of them are finite."""
    assert isinstance(y, np.ndarray) == isinstance(x, np.ndarray), "of another kind than x"
    if isinstance(y, torch.Tensor) and y.is_meta:
        return
    geometry_of = {name: value for name, value in options.items() if name not in ("engine", "accuracy")}
    X, K, B = plain(x), plain(k), plain(bias)
    expected = cl.correlate(X, K, B, engine="reference", **geometry_of)
    found = plain(y)
    assert found.shape == expected.shape, f"shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
    if not found.numel() or not all(bool(t.isfinite().all()) for t in (X, K) if t.dtype.is_floating_point):
        return
    if not (expected.is_floating_point() or expected.is_complex()):
        assert torch.equal(found, expected), "integers differ"
        return
    name = str(torch.as_tensor(y).dtype).removeprefix("torch.") if isinstance(y, torch.Tensor) else y.dtype.name
    loose = max(LOOSE[name], 2e-3 if options.get("accuracy") == "fast" else 0.0)
    X, K = (t if t.is_complex() else t.double() for t in (X, K))
    scale = float(X.abs().max()) * float(K.abs().flatten(1).sum(1).max())
    scale += 0.0 if B is None else float((B if B.is_complex() else B.double()).abs().max())
    if not bool(expected.isfinite().all()) or (name == "float16" and float(expected.abs().max()) > 6e4):
        return
    difference = float((found - expected).abs().max())
    assert difference <= loose * max(scale, 1e-30), f"off by {difference:g} of {scale:g}"


def correlate_case(rng: random.Random) -> None:
    numpy = rng.random() < 0.5
    x, k, bias, options = layer(rng, numpy=numpy)
    if rng.random() < 0.3:
        options["accuracy"] = rng.choice(("exact", "fast", "double", "default"))
    if rng.random() < 0.2:
        options["engine"] = rng.choice(
            ("aten", "direct", "fft", "winograd", "separable", "pointwise", "im2col", "reference")
        )
    kind = rng.choice(("correlate", "correlate", "correlate", "convolve", "filter_image", "Conv"))
    names = ("stride", "padding", "dilation", "groups", "padding_mode", "engine", "accuracy", "flip")
    if kind == "filter_image":
        options.pop("groups", None)
        spoiled(rng, options, (*names[:3], *names[4:]))
        if hasattr(x, "shape") and hasattr(k, "shape") and len(k.shape) == 4 and len(x.shape) > 2 and 0 not in x.shape:
            x, k = x.squeeze() if rng.random() < 0.5 else x[0, 0] if len(x.shape) == 4 else x[0], k[0, 0]
        cl.filter_image(x, rng.choice((k, k, [[1, 2], [3, 4]], [[1], [2, 3]], "a", [["a"]], [])), **options)
        return
    if kind == "Conv":
        spoiled(rng, options, names)
        carried = {name: options.pop(name) for name in list(options) if name not in ("engine", "accuracy", "flip")}
        cl.correlate(x, Conv(k, bias, **carried), **options)
        return
    flip = kind == "correlate" and rng.random() < 0.1
    if kind == "correlate":
        options |= {"flip": True} if flip else {}
    right = dict(options)
    spoiled(rng, options, names)
    call = getattr(cl, kind)
    for _ in range(rng.choice((1, 1, 2, 3))):  # a second call may go another way
        y = call(x, k, bias, **options)
        if options == right:
            flipped = {"flip": True} if kind == "convolve" else {}
            check_result(y, x, k, bias, options | flipped)
            if isinstance(y, torch.Tensor) and y.requires_grad:
                (y.abs() if y.is_complex() else y).sum().backward()


def planned_case(rng: random.Random) -> None:
    numpy = rng.random() < 0.5
    x, k, bias, options = layer(rng, numpy=numpy)
    kind = rng.choice(("of", "of", "of", "spec"))
    if kind == "spec":
        fields = {"in_channels": 2, "out_channels": 2, "size": rng.choice((8, (8, 9))), "kernel_size": 3}
        fields |= rng.choice(({}, {"transposed": True, "output_padding": 1, "stride": 2}, {"dtype": "float16"}))
        names = ("batch", "in_channels", "out_channels", "size", "kernel_size", "stride", "padding", "dilation")
        names += ("groups", "transposed", "output_padding", "padding_mode", "dtype", "kernel_dtype")
        spoiled(rng, fields, names, 0.6)
        spec = ConvSpec(**fields)
        chosen = {"accuracy": rng.choice(("default", "exact", "fast", "double"))}
        spoiled(rng, chosen, ("accuracy", "engine", "effort", "budget", "kernel"), 0.3)
        if not isinstance(chosen.get("effort"), str):
            cl.plan(spec, **chosen).explain()
        cl.cost(spec)
        return
    spoiled(rng, options, tuple(options) or ("stride",), 0.05)
    spec = ConvSpec.of(x, k, bias, **options)
    plan = cl.plan(spec, k if rng.random() < 0.3 else None, accuracy=rng.choice(("default", "double", "exact")))
    x = x if len(x.shape) == spec.axes + 2 else x[None]
    y = plan(x, k, bias)
    check_result(y, x, k, bias, options)
    fresh = torch.from_numpy(y.copy()) if isinstance(y, np.ndarray) else y.clone()
    out = disguised(rng, torch.zeros_like(fresh), numpy=isinstance(y, np.ndarray), bad=0.1)
    bound = plan.bind(k, bias)
    given = bound(x, out)
    assert out is None or given is out
    check_result(given, x, k, bias, options)


def algebra_case(rng: random.Random) -> None:
    numpy = rng.random() < 0.5
    convs = []
    axes, channels = rng.choice((1, 2, 2)), rng.choice((1, 2))
    dtype = rng.choice(("float32", "float64", "float64", "float16", "int8", "int64", "complex64", "uint64"))
    for _ in range(2):
        weight = values(rng, (channels, channels, *(rng.choice((1, 2, 3, 6)) for _ in range(axes))), dtype)
        options = geometry(rng, axes)
        options |= rng.choice(({}, {}, {"transposed": True}, {"groups": channels}))
        names = ("stride", "padding", "dilation", "groups", "padding_mode", "transposed", "output_padding", "bias")
        spoiled(rng, options, names, 0.1)
        bias = disguised(rng, values(rng, (channels,), dtype), numpy=numpy) if rng.random() < 0.3 else None
        convs.append(Conv(disguised(rng, weight, numpy=numpy), **({"bias": bias} | options)))
    if rng.random() < 0.05:
        convs[rng.randrange(2)] = rng.choice(ODD_VALUES)
    kind = rng.choice(("compose", "compose", "decompose", "expand"))
    if kind == "compose":
        both = cl.compose(*convs)
        x = values(rng, (1, channels, *[rng.choice((4, 12))] * axes), dtype)
        given = disguised(rng, x, numpy=numpy)
        y, expected = plain(both(given)), plain(cl.correlate(cl.correlate(given, convs[0]), convs[1]))
        assert y.shape == expected.shape, f"shape {tuple(y.shape)}, expected {tuple(expected.shape)}"
        if dtype in ("float64", "complex64") and y.numel() and bool(expected.isfinite().all() & y.isfinite().all()):
            difference, scale = float((y - expected).abs().max()), float(expected.abs().max()) + 1e-30
            assert difference <= 1e3 * LOOSE[dtype] * max(scale, 1.0), f"off by {difference:g} of {scale:g}"
    elif kind == "decompose":
        options = {"tolerance": rng.choice((0.0, 0.1, 0.9))}
        spoiled(rng, options, ("tolerance",))
        parts = cl.decompose(convs[0], **options)
        assert (parts.parts is None or not len(parts.parts)) or parts.relative < 1
    else:
        options = {"like": rng.choice(("repvgg", "mobileone", "acnet", "dbb"))}
        spoiled(rng, options, ("like", "branches", "seed", "calibration"))
        if not isinstance(options.get("branches"), int) or options["branches"] < 9:
            cl.expand(convs[0], **options)


def fits_case(rng: random.Random) -> None:
    numpy = rng.random() < 0.7
    dtype = rng.choice(("float64", "float32", "float64", "int16", "uint8", "float16", "complex64"))
    axes = rng.choice((1, 2, 2))
    x, k = values(rng, (2, *[24] * axes), dtype), values(rng, (1, 2, *[3] * axes), dtype)
    y = cl.correlate(x, k)
    positive = y.real[0] > 0
    options: dict[str, object] = {"kernel_size": rng.choice((3, (3,) * axes, 3, "auto"))}
    for name, some in {
        "offset": (True,),
        "mask": (disguised(rng, positive, numpy=True, bad=0.3), positive.numpy(), positive),
        "weights": (disguised(rng, y[0].abs().double(), numpy=numpy, bad=0.3), np.full((22,) * axes, 2.0)),
        "ridge": (0.1, "auto"),
        "smoothness": (0.1,),
        "errors": ("jackknife",),
        "constraints": ("symmetric", ["sum-to-one"]),
        "method": ("gd", "adam"),
        "loss": ("huber",),
        "basis": ("gaussian-hermite", np.eye(9).reshape(9, 3, 3)),
        "x_noise_variance": (0.01, [0.1, 0.2]),
    }.items():
        if rng.random() < 0.1:
            options[name] = rng.choice(some)
    if "method" in options:
        options["steps"] = 5
    names = ("kernel_size", "stride", "padding", "dilation", "padding_mode", "offset", "mask", "weights", "ridge")
    names += ("smoothness", "basis", "constraints", "x_noise_variance", "errors", "loss", "method", "max_size")
    spoiled(rng, options, names, 0.3)
    x, y = disguised(rng, x, numpy=numpy), disguised(rng, y, numpy=numpy)
    kind = rng.choice(("fit", "fit", "fit", "Gram", "varying"))
    if kind == "fit":
        found = cl.fit(x, y, **options)
        usual = set(options) <= {"kernel_size"} and options["kernel_size"] != "auto" and dtype != "float16"
        if usual and all(bool(plain(one).isfinite().all()) for one in (x, y)):
            difference = np.abs(np.asarray(found.kernel, np.float64) - k.double().numpy()).max()
            assert difference < 1e-3, f"the kernel is off by {difference:g}"
    elif kind == "Gram":
        kept = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        state = cl.Gram(
            **{"in_channels": 2, "out_channels": 1, **{name: options[name] for name in kept if name in options}}
        )
        state.update(x, y, mask=options.get("mask"), weights=options.get("weights"))
        state.solve(offset=options.get("offset", False), ridge=options.get("ridge", 0.0))
    else:
        for name in ("offset", "method", "steps", "loss", "max_size"):
            options.pop(name, None)
        options |= rng.choice(({}, {"degree": 0}, {"degree": 2}, {"background_degree": 1}, {"modulation": "input"}))
        spoiled(rng, options, ("degree", "modulation", "background_degree", "positions", "constant"), 0.1)
        if not isinstance(options.get("degree"), int) or options["degree"] < 4:
            cl.fit_varying(x, y, **options)


def costs_case(rng: random.Random) -> None:
    x, k, bias, options = layer(rng, numpy=rng.random() < 0.5)
    layers = (
        lambda: torch.nn.Conv2d(3, 4, 3),
        lambda: torch.nn.Conv1d(3, 4, 3, padding="same"),
        lambda: torch.nn.ConvTranspose2d(3, 4, 3, stride=2),
        lambda: torch.nn.Linear(3, 4),
        lambda: torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()),
        lambda: Conv(k, bias, **options),
        lambda: torch.nn.LazyConv2d(3, 3),
        lambda: torch.nn.Conv2d(3, 4, 3, device="meta"),
        lambda: rng.choice(ODD_VALUES),
    )
    arguments: dict[str, object] = {}
    arguments["input_shape"] = rng.choice(((1, 3, 8, 8), (3, 8, 8), (1, 3, 8), (2, 3), (0, 3, 8, 8), (1, 4, 8, 8)))
    if rng.random() < 0.1 and hasattr(x, "shape"):
        arguments["input_shape"] = tuple(x.shape)
    if rng.random() < 0.1:
        arguments["convention"] = "effective"
    if rng.random() < 0.1:
        arguments["optimizer"] = rng.choice(("sgd", "adam"))
    names = ("input_shape", "input_dtype", "example_input", "convention", "backward", "input_gradient", "optimizer")
    spoiled(rng, arguments, names)
    counted = cl.cost(rng.choice(layers)(), **arguments)
    assert str(counted)


def chapter_case(rng: random.Random) -> None:
    numpy = rng.random() < 0.5
    name = rng.choice(("corr2d", "corr2d_multi_in", "corr2d_multi_in_out", "corr2d_multi_in_out_1x1"))
    axes = {"corr2d": (2, 2), "corr2d_multi_in": (3, 3)}.get(name, (3, 4))
    dtype = rng.choice((*FLOATS, *INTEGERS))
    shapes = [[2] * (n - 2) + [rng.choice((1, 2, 5, 9))] * 2 for n in axes]
    if name.endswith("1x1"):
        shapes[1][2:] = [1, 1]
    X, K = (disguised(rng, values(rng, tuple(s), dtype), numpy=numpy, bad=0.1) for s in shapes)
    getattr(cl.d2l, name)(X, K)


KINDS = {
    "correlate": correlate_case,
    "planned": planned_case,
    "algebra": algebra_case,
    "fits": fits_case,
    "costs": costs_case,
    "chapter": chapter_case,
}


def failure_of(kind: str, seed: int) -> str | None:
    """What is wrong with one case, or None."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            torch.manual_seed(seed)
            KINDS[kind](random.Random(seed))
        except ConvolithError as refusal:
            if not NAMED.search(str(refusal)):
                return f"names no argument: {refusal}"
        except BaseException:  # noqa: BLE001 - every other error is what is looked for
            return traceback.format_exc(limit=-9)
    for one in said:
        if one.filename != __file__:  # Convolith's own are given at the caller's line
            return f"warning: {one.filename}:{one.lineno}: {one.message}"
    return None


def run_cases(kind: str, first: int, count: int) -> None:
    """Run cases in this process; print each seed before its case, and what was wrong after it."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = ADDRESS_SPACE_BYTES if hard == resource.RLIM_INFINITY else min(hard, ADDRESS_SPACE_BYTES)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    for seed in range(first, first + count):
        print(json.dumps({"kind": kind, "seed": seed}), flush=True)
        failure = failure_of(kind, seed)
        if failure is not None:
            print(json.dumps({"kind": kind, "seed": seed, "failure": failure}), flush=True)


@pytest.fixture(scope="module", params=[10, 1])
def outcome(request) -> tuple[int, list[dict[str, object]], int, str]:
    """A share of the cases, and what those of all kinds said in one process, its exit code and its last words."""
    script = [sys.executable, "-m", "tests.test_fuzz", "share", str(request.param)]
    ended = subprocess.run(script, capture_output=True, text=True, timeout=900, check=False)  # noqa: S603 - our own
    rows = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    return request.param, rows, ended.returncode, ended.stderr[-2000:]


@pytest.mark.slow(quick=len(KINDS))
@pytest.mark.parametrize("kind", KINDS)
def test_random_calls(kind, outcome):
    share, rows, code, last = outcome
    own = [row for row in rows if row["kind"] == kind]
    failures = [f"{kind} {row['seed']}: {row['failure']}" for row in own if "failure" in row]
    assert not failures, "\n".join(failures)
    assert len({row["seed"] for row in own}) == CASES[kind] // share, (
        f"{rows[-1] if rows else 'the start'} ended the process with {code}: {last}"
    )


if __name__ == "__main__":
    if sys.argv[1] == "share":
        for name, number in CASES.items():
            run_cases(name, 0, number // int(sys.argv[2]))
    else:
        run_cases(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

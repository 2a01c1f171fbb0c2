"""Two thousand drawn correlations from store to store, each against the engine `reference` in memory."""

import shutil
from math import prod

import numpy as np
import pytest

import convolith as cl
from convolith import big
from tests.test_big import MODES, Counted

zarr = pytest.importorskip("zarr")
CASES, BATCH, QUICK = 2000, 50, 1
"""Number of cases, of those in a test, and of the tests that run always."""
MOST_BLOCKS = 4
ENGINES = {"reference": 0.86, "aten": 0.07, "fft": 0.03, "direct": 0.03, "auto": 0.01}
"""Engines and their shares: those that generate code for each kernel take ten times as long."""
EXACT = ("reference", "aten", "direct")
"""Engines whose sums of whole numbers are exact."""
DTYPES = ("float32", "float64", "uint8", "int16", "int32", "bool", ">f4", "float16")


def draw(rng):
    """Draw an array, its chunks, a kernel and options."""
    axes = int(rng.choice([1, 2, 2, 2, 3]))
    sizes = [int(rng.integers(1, {1: 40, 2: 16, 3: 7}[axes])) for _ in range(axes)]
    mixing = rng.random() < 0.4
    groups = int(rng.integers(1, 4)) if mixing else 1
    channels = groups * int(rng.integers(1, 3))
    others = [int(n) for n in rng.integers(1, 3, rng.integers(0, 2 if axes == 3 else 3))]
    order = rng.permutation(len(others) + mixing + axes)
    shape, roles = [0] * len(order), {}
    for place, (kind, n) in zip(
        order, [*(("image", n) for n in others), *([("channel", channels)] * mixing), *(("size", n) for n in sizes)]
    ):
        shape[place] = n
        roles.setdefault(kind, []).append(int(place))
    kernel_size = [int(rng.integers(1, 2 + min(n + 1, 8))) for n in sizes]
    out = groups * int(rng.integers(1, 3))
    kernel = rng.standard_normal((out, channels // groups, *kernel_size) if mixing else kernel_size)
    options = {
        "stride": int(rng.integers(1, 4)) if rng.random() < 0.3 else 1,
        "dilation": int(rng.integers(1, 4)) if rng.random() < 0.3 else 1,
        "padding": [
            rng.choice(["same", "valid", "full"]).item(),
            2,
            [(int(a), int(b)) for a, b in rng.integers(0, 4, (axes, 2))],
        ][int(rng.choice([0, 0, 0, 1, 2]))],
        "padding_mode": str(rng.choice([*MODES, "constant"])),
        "flip": bool(rng.random() < 0.2),
        "groups": groups,
    }
    if options["padding_mode"] == "constant":
        options["padding_value"] = float(rng.integers(-3, 4))
    if mixing and rng.random() < 0.5:
        options["bias"] = np.rint(rng.standard_normal(out) * 3)
    if rng.random() < 0.5:
        kernel = np.rint(3 * kernel)  # sums are exact in any order
    return shape, roles, kernel, options, mixing


def pixels(rng, shape, dtype, *, whole):
    """Return pixels of a dtype."""
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return rng.random(shape) < 0.5
    if kind.kind in "iu":
        return rng.integers(max(np.iinfo(kind).min, -1000), min(np.iinfo(kind).max, 1000), shape).astype(kind)
    values = rng.standard_normal(shape) * 9
    return (np.rint(values) if whole else values).astype(kind)


def reference(x, roles, kernel, options, wide):
    """Correlate in memory by the engine `reference`."""
    places = [*roles.get("channel", []), *roles["size"]]
    last = range(-len(places), 0)
    moved = np.moveaxis(x.astype(wide), places, last)
    images = moved.shape[: len(shape_of(x, places))]
    planes = moved.reshape(
        -1, *(moved.shape[len(images) :] if "channel" in roles else (1, *moved.shape[len(images) :]))
    )
    taps = kernel if "channel" in roles else kernel[None, None]
    own = {name: value for name, value in options.items() if name not in ("flip", "bias")}
    taps = np.flip(taps, tuple(range(2, taps.ndim))) if options["flip"] else taps
    bias = options.get("bias")
    bias = None if bias is None else bias.astype(wide)
    y = cl.correlate(planes, np.ascontiguousarray(taps, wide), bias, engine="reference", **own)
    y = y.reshape(*images, *y.shape[1 if "channel" in roles else 2 :])
    return np.moveaxis(y, last, places)


def shape_of(x, places):
    return [n for axis, n in enumerate(x.shape) if axis not in places]


def source_of(rng, x):
    """Return an array with chunks of any size from one pixel to all; an open Zarr array, some with shards, or another."""
    chunks = [int(rng.choice([1, rng.integers(1, n + 1), rng.integers(1, n + 1), n])) for n in x.shape]
    while prod(-(-n // c) for n, c in zip(x.shape, chunks)) > 200:
        chunks = [min(n, 2 * c) for n, c in zip(x.shape, chunks)]
    if rng.random() < 0.7:
        return Counted(x, tuple(chunks))
    shards = [c * int(rng.integers(1, 4)) for c in chunks] if rng.random() < 0.2 else None
    form = {"zarr_format": 2} if shards is None and rng.random() < 0.3 else {"shards": shards}
    made = zarr.create_array({}, shape=x.shape, chunks=chunks, dtype=x.dtype, compressors=None, **form)
    made[...] = x
    return made


def block_of(rng, shape, whole):
    """Return blocks of any size, but few of them."""
    block = [int(rng.integers(1, n + 1)) for n in shape]
    while prod(-(-n // b) for axis, (n, b) in enumerate(zip(shape, block)) if axis not in whole) > MOST_BLOCKS:
        block = [min(n, 2 * b) for n, b in zip(shape, block)]
    return block


def check(rng, folder):
    """Check a drawn case; return whether it is one that both compute."""
    shape, roles, kernel, options, mixing = draw(rng)
    dtype = str(rng.choice(DTYPES))
    exact = bool((kernel == np.rint(kernel)).all())
    x = pixels(rng, shape, dtype, whole=exact)
    engine = str(rng.choice(list(ENGINES), p=list(ENGINES.values())))
    same = dtype not in ("bool",) and rng.random() < 0.3
    given = (
        options | {"axes": roles["size"], "engine": engine} | ({"channel_axis": roles["channel"][0]} if mixing else {})
    )
    given |= {"dtype": "same"} if same else {}
    inside = (
        np.float64
        if (np.dtype(dtype).itemsize > 2 and np.dtype(dtype).kind in "iu") or dtype == "float64"
        else np.float32
    )
    try:
        expected = reference(x, roles, kernel.astype(inside), options, np.float64)
    except cl.ConvolithError:
        with pytest.raises(cl.ConvolithError):
            big.plan(x, kernel, **(given | {"engine": "auto"}))
        return False
    whole = roles.get("channel", [])
    block = block_of(rng, expected.shape, whole)
    try:
        plan = big.plan(source_of(rng, x), kernel, folder / "y.zarr", block=block, **given)
    except cl.ConvolithError:
        if engine != "fft":  # which does not take every layer
            raise
        return False
    plan.run(progress=False)
    found = zarr.open_array(str(folder / "y.zarr"), mode="r")[...]
    shutil.rmtree(folder / "y.zarr")
    bound = np.abs(kernel).sum() * (np.abs(x.astype(float)).max() + abs(options.get("padding_value", 0)))
    least = np.finfo(found.dtype).eps if found.dtype.kind == "f" else 0
    tolerance = (0 if exact and engine in EXACT else (32 if engine == "fft" else 8) * np.finfo(inside).eps) * bound
    if found.dtype.kind in "iu":
        limits = np.iinfo(found.dtype)
        expected, tolerance = np.rint(expected).clip(limits.min, limits.max), np.ceil(tolerance)
    assert found.shape == expected.shape
    np.testing.assert_allclose(
        found, expected, rtol=least, atol=tolerance, err_msg=f"{shape} {kernel.shape} {given} {dtype}"
    )
    return True


@pytest.mark.slow(quick=QUICK)
@pytest.mark.parametrize("batch", range(CASES // BATCH))
def test_blocks_are_those_of_the_reference(batch, tmp_path):
    checked = 0
    for case in range(BATCH):
        rng = np.random.default_rng((batch, case))
        try:
            checked += check(rng, tmp_path)
        except AssertionError as problem:
            raise AssertionError(f"case {batch}, {case}: {problem}") from problem
    assert checked > BATCH / 2

"""Padding that repeats x, or another constant than zero, in every engine, and against NumPy, SciPy and OpenCV."""

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage

import convolith as cl
from convolith import ConvolithError, ConvSpec
from convolith.engines import TABLE
from convolith.geometry import OTHER_WORDS, PADDING_MODES, padding_sources

MODES = [mode for mode in PADDING_MODES if mode != "zeros"]
NUMPY = {
    "constant": "constant",
    "reflect": "reflect",
    "symmetric": "symmetric",
    "replicate": "edge",
    "circular": "wrap",
}
SCIPY = {
    "constant": "constant",
    "reflect": "mirror",
    "symmetric": "reflect",
    "replicate": "nearest",
    "circular": "wrap",
}
LAYERS = {
    "one channel": {"in_channels": 1, "out_channels": 1, "size": (37, 41), "kernel_size": (5, 3)},
    "wide": {"in_channels": 1, "out_channels": 1, "size": (9, 1700), "kernel_size": (3, 3)},
    "wide kernel": {"in_channels": 1, "out_channels": 1, "size": (150, 160), "kernel_size": (31, 27)},
    "colours": {"in_channels": 3, "out_channels": 8, "size": (21, 30), "kernel_size": 3, "stride": 2},
    "dense": {"in_channels": 16, "out_channels": 16, "size": (18, 20), "kernel_size": 3, "batch": 2},
    "depthwise": {"in_channels": 6, "out_channels": 6, "size": (23, 31), "kernel_size": 7, "groups": 6, "batch": 2},
    "dilated": {"in_channels": 2, "out_channels": 3, "size": (25, 19), "kernel_size": 3, "dilation": (2, 3)},
    "signal": {"in_channels": 1, "out_channels": 1, "size": (2000,), "kernel_size": (301,)},
    "signals": {"in_channels": 2, "out_channels": 3, "size": (600,), "kernel_size": (9,), "stride": 3},
    "volume": {"in_channels": 1, "out_channels": 2, "size": (9, 12, 11), "kernel_size": (3, 5, 3)},
    "deep volume": {"in_channels": 3, "out_channels": 3, "size": (8, 9, 10), "kernel_size": 3, "batch": 2},
}


def spec_of(name, mode, dtype="float32", padding=None):
    layer = dict(LAYERS[name])
    plain = ConvSpec(**layer)
    padding = tuple((e // 2, e - e // 2) for e in plain.extent) if padding is None else padding
    value = {"padding_value": 3.0} if mode == "constant" else {}
    return ConvSpec(**layer, padding=padding, padding_mode=mode, dtype=dtype, **value)


def operands(spec, seed=0):
    rng = np.random.default_rng(seed)
    if "int" in spec.dtype:
        return rng.integers(0, 100, spec.input_shape).astype(spec.dtype), rng.integers(-9, 9, spec.kernel_shape)
    return tuple(rng.normal(size=shape).astype(spec.dtype) for shape in (spec.input_shape, spec.kernel_shape))


def expected_of(x, k, spec):
    """Pad with NumPy, then correlate without padding by the reference."""
    around = {"constant_values": spec.padding_value} if spec.padding_mode == "constant" else {}
    padded = np.pad(x, [(0, 0), (0, 0), *spec.padding], mode=NUMPY[spec.padding_mode], **around)
    options = {"stride": spec.stride, "dilation": spec.dilation, "groups": spec.groups}
    return cl.correlate(padded, k, engine="reference", **options)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", LAYERS)
def test_every_engine_pads_as_numpy_does(name, mode):
    spec = spec_of(name, mode)
    x, k = operands(spec)
    expected = expected_of(x, k, spec)
    scale = np.abs(x).max() * np.abs(k).sum(tuple(range(1, k.ndim))).max()
    tried = 0
    for engine in TABLE:
        if engine.refuse(spec, torch.from_numpy(k)) is None:
            accuracy = "fast" if engine.only_fast else "default"
            y = cl.plan(spec, engine=engine.name, accuracy=accuracy)(x, k)
            np.testing.assert_allclose(
                y, expected, atol=(3e-5 if engine.only_fast else 1e-5) * scale, err_msg=engine.name
            )
            tried += 1
    assert tried >= 3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float64"])
def test_dtypes_of_the_direct_engine(mode, dtype):
    for name in ("one channel", "colours", "signals", "volume"):
        spec = spec_of(name, mode, dtype)
        x, k = operands(spec)
        spec = ConvSpec.of(
            *(x, k), stride=spec.stride, padding=spec.padding, padding_mode=mode, padding_value=spec.padding_value
        )
        y = cl.plan(spec, engine="direct")(x, k)
        np.testing.assert_allclose(y, expected_of(x, k, spec), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_padding_longer_than_the_image_goes_on_as_in_numpy(mode):
    for size, kernel_size, padding in [((3,), (40,), ((25, 19),)), ((4, 2), (9, 8), ((7, 9), (5, 6)))]:
        spec = ConvSpec(
            in_channels=1,
            out_channels=1,
            size=size,
            kernel_size=kernel_size,
            padding=padding,
            padding_mode=mode,
            padding_value=2.0 * (mode == "constant"),
            dtype="float64",
        )
        x, k = operands(spec)
        for engine in ("direct", "fft", "aten"):
            y = cl.plan(spec, engine=engine)(x, k)
            np.testing.assert_allclose(y, expected_of(x, k, spec), atol=1e-12, err_msg=engine)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_are_those_of_padding_first(mode):
    for name in ("one channel", "dense", "depthwise", "signals", "deep volume"):
        spec = spec_of(name, mode, "float64")
        x, k = (torch.from_numpy(array).requires_grad_() for array in operands(spec))
        options = {"stride": spec.stride, "dilation": spec.dilation, "groups": spec.groups}
        around = {"padding": spec.padding, "padding_mode": mode, "padding_value": spec.padding_value}
        y = cl.correlate(x, k, **options, **around)
        slope = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
        found = torch.autograd.grad(y, (x, k), slope)
        padded = x
        if mode == "constant":
            flat = [amount for pair in reversed(spec.padding) for amount in pair]
            padded = torch.nn.functional.pad(x, flat, value=3.0)
        else:
            for axis, (n, pair) in enumerate(zip(spec.size, spec.padding, strict=True), start=2):
                padded = padded.index_select(axis, torch.from_numpy(padding_sources(n, pair, mode)))
        plain = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)[spec.axes - 1]
        expected = torch.autograd.grad(plain(padded, k, **options), (x, k), slope)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_constant_of_zero_is_zero_padding_and_values_are_checked():
    spec = ConvSpec(in_channels=1, out_channels=1, size=5, kernel_size=3, padding=1, padding_mode="constant")
    assert spec.padding_mode == "zeros"
    x, k = np.ones((1, 5), np.uint8), np.ones((1, 1, 3), int)
    assert cl.correlate(x, k, padding=1, padding_mode="constant", padding_value=7).tolist() == [[9, 3, 3, 3, 9]]
    for value, mode, message in [
        (7, "reflect", "padding_value is 7 but padding_mode is 'reflect'"),
        (0.5, "constant", "padding_value is 0.5, which uint8 does not hold"),
        (256, "constant", "padding_value is 256, which uint8 does not hold"),
        ("a", "constant", "padding_value is 'a'; expected a real number"),
    ]:
        with pytest.raises(ConvolithError, match=message):
            cl.correlate(x, k, padding=1, padding_mode=mode, padding_value=value)
    with pytest.raises(ConvolithError, match='padding_mode is "constant"; a Conv takes'):
        cl.Conv(np.ones((1, 1, 3)), padding=1, padding_mode="constant")


def test_words_of_other_libraries():
    image, kernel = np.random.default_rng(0).normal(size=(9, 7)), np.random.default_rng(1).normal(size=(3, 5))
    for word, mode in OTHER_WORDS.items():
        np.testing.assert_array_equal(
            cl.filter_image(image, kernel, padding_mode=word.upper()), cl.filter_image(image, kernel, padding_mode=mode)
        )
        with pytest.raises(ConvolithError, match=f"padding_mode is '{word}', a word of another library; pass '{mode}'"):
            cl.correlate(image[None], kernel[None, None], padding_mode=word)


@pytest.mark.parametrize(("mode", "flip"), list(itertools.product(SCIPY, (False, True))))
def test_filter_image_is_scipys_correlate_and_convolve(mode, flip):
    rng = np.random.default_rng(2)
    image = rng.normal(size=(23, 18))
    value = {"padding_value": 1.5} if mode == "constant" else {}
    theirs = ndimage.convolve if flip else ndimage.correlate
    for shape, origin in itertools.product([(3, 3), (4, 5), (2, 6)], [0, 1, (0, -1), (-1, 1)]):
        kernel = rng.normal(size=shape)
        even = np.array([n % 2 == 0 for n in shape])
        ours = np.broadcast_to(origin, 2) + even * (not flip)  # an even kernel's centre
        if any(not 0 <= (n - 1) // 2 + (-o if flip else o) < n for n, o in zip(shape, ours, strict=True)):
            continue
        moved = tuple(int(o) for o in ours)
        y = cl.filter_image(image, kernel, padding_mode=mode, origin=moved, flip=flip, **value)
        expected = theirs(image, kernel, mode=SCIPY[mode], cval=1.5, origin=origin)
        np.testing.assert_allclose(y, expected, atol=1e-12)


def test_opencv_borders():
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(3)
    image, kernel = rng.normal(size=(40, 33)).astype(np.float32), rng.normal(size=(5, 5)).astype(np.float32)
    for word in ("BORDER_REFLECT_101", "BORDER_REFLECT", "BORDER_REPLICATE"):
        expected = cv2.filter2D(image, -1, kernel, borderType=getattr(cv2, word))
        np.testing.assert_allclose(cl.filter_image(image, kernel, padding_mode=word), expected, atol=1e-4)


def test_origins_that_are_refused():
    image, kernel = np.ones((5, 5)), np.ones((3, 3))
    for options, message in [
        ({"origin": 2}, "origin is 2, which puts the centre outside a kernel of 3 elements; expected -1 to 1"),
        ({"origin": 1, "padding": 1}, "it applies to padding 'same'"),
        ({"origin": 1, "stride": 2}, "it applies to padding 'same'"),
        ({"origin": (1, 1, 1)}, "origin has 3 entries"),
    ]:
        with pytest.raises(ConvolithError, match=message):
            cl.filter_image(image, kernel, **options)


def test_symmetric_padding_in_the_algebra_and_the_layers_of_torch():
    weight = np.array([1.0, 2.0, 1.0])[None, None]
    first = cl.Conv(weight, padding=1, padding_mode="symmetric")
    both = cl.compose(first, first)
    assert both.exact == "everywhere"
    x = np.random.default_rng(4).normal(size=(1, 1, 12))
    np.testing.assert_allclose(cl.correlate(x, both.conv), first(first(x)), atol=1e-12)
    skewed = cl.Conv(np.array([1.0, 2.0, 3.0])[None, None], padding=1, padding_mode="symmetric")
    assert cl.compose(skewed, skewed).exact == "interior"
    with pytest.raises(ConvolithError, match="conv pads with symmetric, which torch's layers do not have"):
        cl.expand(cl.Conv(np.ones((2, 2, 3, 3)), padding=1, padding_mode="symmetric"))


def test_compiled_and_watched_calls_pad_with_the_constant():
    x, k = torch.randn(1, 1, 9, 9), torch.randn(1, 1, 3, 3)
    options = {"padding": 1, "padding_mode": "constant", "padding_value": 2.0}
    expected = cl.correlate(x, k, **options)

    class Filter(torch.nn.Module):
        def forward(self, x):
            return cl.correlate(x, k, **options)

    exported = torch.export.export(Filter(), (x,)).module()
    torch.testing.assert_close(exported(x), expected)
    mapped = torch.func.vmap(lambda image: cl.correlate(image, k, **options))(x[None])
    torch.testing.assert_close(mapped[0], expected)

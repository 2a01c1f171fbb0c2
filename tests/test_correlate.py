"""`correlate` against the oracle and torch on drawn specs, and its rules of dtypes, layouts and options."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import convolith as cl
from convolith import Conv, ConvolithError, ConvSpec
from convolith.dtypes import FLOATS, ITEMSIZE, result_dtype
from convolith.geometry import PADDING_MODES
from convolith.planner import plan, prepared_kernels
from tests.strategies import INTEGERS, arrays_for, random_array, specs

PLAIN = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def by_torch(spec: ConvSpec, x, kernel, bias):
    """Torch's own answer, with the padding done by torch's own pad (circular and reflect where it can)."""
    common = {"stride": spec.stride, "dilation": spec.dilation, "groups": spec.groups}
    if spec.transposed:
        full = TRANSPOSED[spec.axes](x, kernel, bias, output_padding=spec.output_padding, **common)
        crop = [slice(before, before + n) for (before, _), n in zip(spec.padding, spec.output_size)]
        return full[(..., *crop)]
    widths = [n for pair in reversed(spec.padding) for n in pair]
    mode = "constant" if spec.padding_mode == "zeros" else spec.padding_mode
    return PLAIN[spec.axes](functional.pad(x, widths, mode=mode), kernel, bias, **common)


def torch_can_pad(spec: ConvSpec) -> bool:
    """Torch's reflection reaches no further than the input is long, and its wrapping neither."""
    if spec.padding_mode == "symmetric":
        return False
    spare = {"reflect": 1, "circular": 0}.get(spec.padding_mode)
    return spare is None or all(max(pair) <= n - spare for pair, n in zip(spec.padding, spec.size))


def by_correlate(spec: ConvSpec, x, kernel, bias, **options):
    names = ("stride", "padding", "dilation", "groups", "padding_mode")
    given_options = {name: getattr(spec, name) for name in names}
    if spec.transposed:
        conv = Conv(kernel, bias, transposed=True, output_padding=spec.output_padding, **given_options)
        return cl.correlate(x, conv, **options)
    return cl.correlate(x, kernel, bias, **given_options, **options)


@pytest.mark.slow
@settings(max_examples=260)
@given(spec=specs(dtypes=("float64", "float64", "float32")), seed=st.integers(0, 99))
def test_drawn_specs_equal_the_oracle_and_torch(spec, seed):
    x, kernel, bias = arrays_for(spec, seed)
    y = by_correlate(spec, x, kernel, bias)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if spec.dtype == "float32" else {"rtol": 1e-11, "atol": 1e-11}
    torch.testing.assert_close(y, plan(spec, engine="reference")(x, kernel, bias), **tolerance)
    if spec.batch and torch_can_pad(spec):
        torch.testing.assert_close(y, by_torch(spec, x, kernel, bias), **tolerance)


@pytest.mark.slow
@settings(max_examples=160)
@given(spec=specs(dtypes=tuple(ITEMSIZE), max_axes=2), kernel_dtype=st.sampled_from(tuple(ITEMSIZE)))
def test_numpy_and_torch_agree_in_every_pair_of_dtypes(spec, kernel_dtype):
    x, _, _ = arrays_for(spec)
    kernel = random_array(np.random.default_rng(1), spec.kernel_shape, kernel_dtype)
    if spec.dtype in FLOATS and kernel_dtype in FLOATS and spec.dtype != kernel_dtype:
        with pytest.raises(ConvolithError, match="two different float dtypes"):
            by_correlate(spec, x, kernel, None)
        return
    prepared_kernels.forget()
    y = by_correlate(spec, x, kernel, None)
    assert str(y.dtype) == f"torch.{result_dtype(spec.dtype, kernel_dtype)}"
    if "bfloat16" not in (spec.dtype, kernel_dtype):  # NumPy has none
        prepared_kernels.forget()  # a kernel that is seen again may be prepared for another engine
        from_numpy = by_correlate(spec, x.numpy(), kernel.numpy(), None)
        assert isinstance(from_numpy, np.ndarray)
        np.testing.assert_array_equal(from_numpy, y.numpy())


@pytest.mark.parametrize(
    ("x", "k", "expected"),
    [
        ("uint8", "int8", "int64"),
        ("uint8", "uint16", "int64"),
        ("uint64", "uint8", "uint64"),
        ("uint64", "int8", "int64"),
        ("int32", "float32", "float32"),
        ("float16", "int64", "float16"),
        ("uint8", "complex64", "complex64"),
    ],
)
def test_result_dtypes(x, k, expected):
    assert cl.correlate(np.ones((1, 4), x), np.ones((1, 1, 2), k)).dtype == expected


def test_integers_wrap_modulo_two_to_the_64():
    x = np.full((1, 3), 2**62, np.int64)
    assert cl.correlate(x, np.full((1, 1, 3), 3, np.int64))[0, 0] == (9 * 2**62 + 2**63) % 2**64 - 2**63
    big = np.full((1, 2), 2**64 - 1, np.uint64)
    assert cl.correlate(big, np.full((1, 1, 2), 2, np.uint64))[0, 0] == (4 * (2**64 - 1)) % 2**64


def test_half_types_accumulate_in_float32():
    x = np.ones((1, 4096), np.float16)
    y = cl.correlate(x, np.ones((1, 1, 4096), np.float16))
    assert y[0, 0] == 4096  # a float16 running sum of ones stops at 2048


def test_any_layout_of_numpy_arrays():
    rng = np.random.default_rng(0)
    x, k = rng.normal(size=(2, 3, 9, 8)), rng.normal(size=(4, 3, 3, 2))
    expected = cl.correlate(x, k)
    frozen = x.copy()
    frozen.setflags(write=False)
    shifted = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float64).reshape(x.shape)
    layouts = {
        "big-endian": x.astype(">f8"),
        "negative strides": np.ascontiguousarray(x[:, :, ::-1, ::-1])[:, :, ::-1, ::-1],
        "Fortran order": np.asfortranarray(x),
        "read-only": frozen,
        "misaligned": shifted,
        "a view": np.repeat(x, 2, axis=3)[..., ::2],
    }
    for name, array in layouts.items():
        np.testing.assert_allclose(cl.correlate(array, k), expected, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(cl.correlate(x, k[::-1, :, ::-1][::-1, :, ::-1]), expected, atol=1e-12)
    ones = np.broadcast_to(np.ones(1), (2, 3, 9, 8))
    np.testing.assert_allclose(cl.correlate(ones, k)[0, :, 0, 0], k.sum((1, 2, 3)), atol=1e-12)


def test_inputs_are_never_written():
    rng = np.random.default_rng(0)
    x, k, b = rng.normal(size=(1, 2, 6, 6)), rng.normal(size=(2, 2, 1, 1)), rng.normal(size=2)
    kept = [a.copy() for a in (x, k, b)]
    for engine in ("auto", "aten", "pointwise", "reference"):
        cl.correlate(x, k, b, engine=engine)
    for before, after in zip(kept, (x, k, b)):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_channels_last_in_gives_channels_last_out(kernel_size):
    x = torch.randn(2, 8, 9, 9).to(memory_format=torch.channels_last)
    k = torch.randn(8, 8, kernel_size, kernel_size)
    y = cl.correlate(x, k, padding="same")
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, cl.correlate(x.contiguous(), k, padding="same"), rtol=1e-4, atol=1e-4)
    assert cl.correlate(x.contiguous(), k).is_contiguous()


def test_unbatched_and_empty_batches():
    x, k = np.ones((3, 8, 8)), np.ones((2, 3, 3, 3))
    assert cl.correlate(x, k).shape == (2, 6, 6)
    assert cl.correlate(x[None], k).shape == (1, 2, 6, 6)
    empty = cl.correlate(np.ones((0, 3, 8, 8), np.float32), k.astype(np.float32))
    assert empty.shape == (0, 2, 6, 6)
    assert empty.dtype == np.float32


@pytest.mark.parametrize("engine", ["auto", "aten", "reference"])
def test_same_full_and_flip(engine):
    rng = np.random.default_rng(0)
    x, k = rng.normal(size=(1, 1, 11)), rng.normal(size=(1, 1, 4))
    full = np.convolve(x[0, 0], k[0, 0], mode="full")
    np.testing.assert_allclose(cl.convolve(x, k, padding="full", engine=engine)[0, 0], full, atol=1e-12)
    assert cl.correlate(x, k, padding="same", stride=3, engine=engine).shape == (1, 1, 4)
    flipped = cl.correlate(x, k[..., ::-1], padding="full", engine=engine)
    np.testing.assert_allclose(cl.correlate(x, k, padding="full", flip=True, engine=engine), flipped, atol=1e-12)


def test_a_conv_brings_its_own_options():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 4, 9, 9))
    weight, bias = rng.normal(size=(6, 2, 3, 3)), rng.normal(size=6)
    options = {"stride": 2, "padding": ((1, 2), (0, 1)), "dilation": (1, 2), "groups": 2, "padding_mode": "circular"}
    expected = cl.correlate(x, weight, bias, **options)
    conv = Conv(weight, bias, **options)
    np.testing.assert_array_equal(cl.correlate(x, conv), expected)
    np.testing.assert_allclose(
        cl.convolve(x, conv), cl.correlate(x, weight[:, :, ::-1, ::-1], bias, **options), atol=1e-12
    )
    with pytest.raises(ConvolithError, match="stride was given together with a Conv"):
        cl.correlate(x, conv, stride=2)
    with pytest.raises(ConvolithError, match="bias was given together with a Conv"):
        cl.correlate(x, conv, bias)


def test_a_conv_keeps_its_own_copy():
    weight = np.ones((1, 1, 3))
    conv = Conv(weight)
    weight[:] = 7
    assert conv.weight.sum() == 3
    with pytest.raises(ValueError, match="read-only"):
        conv.weight[:] = 7
    tensor = torch.ones(1, 1, 3)
    held = Conv(tensor)
    tensor.fill_(7)
    assert held.weight.sum() == 3


@pytest.mark.slow
@settings(max_examples=60)
@given(spec=specs(dtypes=INTEGERS, transposed=False, max_axes=2), bias_dtype=st.sampled_from(INTEGERS))
def test_integer_bias_of_any_dtype_is_exact(spec, bias_dtype):
    x, kernel, _ = arrays_for(spec)
    bias = random_array(np.random.default_rng(2), (spec.out_channels,), bias_dtype)
    with_bias = by_correlate(spec, x, kernel, bias).view(torch.int64)
    shape = (-1, *[1] * spec.axes)
    apart = by_correlate(spec, x, kernel, None).view(torch.int64) + bias.to(torch.int64).reshape(shape)
    assert torch.equal(with_bias, apart)


def test_conjugate_views_are_resolved():
    x = torch.randn(1, 2, 8, dtype=torch.complex128)
    k = torch.randn(2, 2, 3, dtype=torch.complex128)
    y = cl.correlate(x.conj(), k, engine="reference")
    torch.testing.assert_close(y, functional.conv1d(x.conj().resolve_conj(), k))


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
def test_padding_goes_on_repeating_beyond_the_input(padding_mode):
    x = np.arange(1.0, 4.0)[None]
    mode = {"zeros": "constant", "replicate": "edge", "circular": "wrap"}.get(padding_mode, padding_mode)
    for engine in ("aten", "reference"):
        y = cl.correlate(x, np.ones((1, 1, 1)), padding=((7, 9),), padding_mode=padding_mode, engine=engine)
        np.testing.assert_array_equal(y[0], np.pad(x[0], (7, 9), mode=mode))


def test_one_channel_stays_contiguous():
    layer = cl.nn.Conv2d(1, 8, 3)
    assert layer(torch.rand(2, 1, 8, 8)).view(2, -1).shape == (2, 288)
    assert cl.correlate(np.ones((1, 1, 8, 8), np.float32), np.ones((8, 1, 3, 3), np.float32)).flags.c_contiguous


def test_odd_strides_on_axes_of_length_one():
    assert cl.correlate(np.ones((1, 1, 5))[::-1], np.ones((1, 1, 3))).shape == (1, 1, 3)
    assert cl.filter_image(np.ones((1, 5))[::-1], np.ones((1, 1))).shape == (1, 5)
    packed = np.ones((1, 1, 1), dtype=[("before", "u1"), ("value", "<u2")])["value"]
    assert cl.correlate(packed, np.ones((1, 1, 1), np.uint16))[0, 0, 0] == 1


def test_a_bias_beside_integer_weights_waits_for_x():
    weight = np.ones((1, 1, 3), np.uint64)
    x = np.ones((1, 1, 4))
    assert cl.correlate(x, Conv(weight, np.array([-1]))).tolist() == [[[2, 2]]]
    assert cl.correlate(x, Conv(weight.astype(int), np.array([0.5]))).tolist() == [[[3.5, 3.5]]]
    with pytest.raises(ConvolithError, match="bias has dtype float64 but the result has int64"):
        cl.correlate(x.astype(int), Conv(weight.astype(int), np.array([0.5])))


def test_a_conv_copies_and_pickles_as_a_value():
    conv = Conv(np.ones((1, 1, 3)), np.zeros(1), padding=1)
    again = pickle.loads(pickle.dumps(conv))  # noqa: S301 - our own bytes
    assert not again.weight.flags.writeable
    assert repr(again) == repr(conv)
    assert copy.deepcopy(conv) is conv
    assert copy.deepcopy(Conv(torch.rand(1, 1, 3, requires_grad=True))) is not None


def test_strides_beyond_the_input():
    assert cl.correlate(np.ones((1, 1, 8)), np.ones((1, 1, 3)), stride=10**11).tolist() == [[[3]]]
    assert cl.correlate(np.ones((1, 9)), np.ones((1, 1, 3)), stride=np.array([2])).shape == (1, 4)
    for options, message in [
        ({"stride": 2**70}, "stride is .*; expected at most 2\\^40"),
        ({"padding": 2**70}, "padding is .*; expected at most 2\\^40"),
    ]:
        with pytest.raises(ConvolithError, match=message):
            cl.correlate(np.ones((1, 1, 8)), np.ones((1, 1, 3)), **options)
    with pytest.raises(ConvolithError, match="an output of .* elements; expected at most"):
        Conv(np.ones((1, 1, 3)), transposed=True, stride=2**39).spec((1, 1, 1000))


def test_traced_modules_take_other_sizes():
    for kernel_size in (1, 3):
        layer = cl.nn.Conv2d(2, 3, kernel_size, bias=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's tracer says of itself that it is deprecated, and of shapes
            traced = torch.jit.trace(layer, torch.rand(1, 2, 6, 6))
        x = torch.rand(2, 2, 9, 9)
        torch.testing.assert_close(traced(x), layer(x))


def test_engines_and_exactness_hold_with_gradients_too():
    x = torch.zeros(1, 1, 5, dtype=torch.complex128)
    x[0, 0, 0] = complex("inf")
    k = torch.ones(1, 1, 1, dtype=torch.complex128)
    plain = cl.correlate(x, k, accuracy="exact")
    with_gradient = cl.correlate(x, k.requires_grad_(), accuracy="exact").detach()
    torch.testing.assert_close(with_gradient, plain, equal_nan=True)
    with pytest.raises(ConvolithError, match="cannot compute this: padding around a kernel of a single tap"):
        cl.correlate(x, k, padding=1, padding_mode="replicate", engine="pointwise")
    with pytest.raises(ConvolithError, match="left to torch's own convolution; use engine='auto'"):
        torch.func.vmap(lambda a: cl.correlate(a, k.detach(), engine="reference"))(x[None])


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_no_input_channels_leave_the_bias(kind, axes):
    x, k, bias = np.zeros((2, 0, *(5,) * axes)), np.zeros((3, 0, *(3,) * axes)), np.array([1.0, 2.0, 3.0])
    expected = np.broadcast_to(bias.reshape(3, *(1,) * axes), (2, 3, *(3,) * axes))
    if kind == "torch":
        x, k, bias = (torch.from_numpy(one).requires_grad_() for one in (x, k, bias))
        cl.correlate(x, k, bias).sum().backward()
        assert bias.grad.tolist() == [2.0 * 3**axes] * 3
        assert (x.grad.shape, k.grad.shape) == (x.shape, k.shape)
    for _ in range(2):
        assert np.array_equal(cl.correlate(x, k, bias).tolist(), expected)
        assert not np.any(cl.correlate(x[0], k, padding=1).tolist())
    assert not np.any(cl.correlate(x, k, groups=3).tolist())
    with pytest.raises(ConvolithError, match="expected no empty channel"):
        cl.correlate(x, np.zeros((3, 2, *(3,) * axes)) if kind == "numpy" else torch.zeros(3, 2, *(3,) * axes))

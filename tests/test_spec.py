"""Shape rules and the canonical form of a spec."""

from dataclasses import FrozenInstanceError, replace
from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import convolith as cl
from convolith import Conv, ConvolithError, ConvSpec
from convolith.geometry import extent, output_length, same_padding
from tests.strategies import specs


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 5), st.integers(1, 4))
def test_same_gives_size_over_stride_rounded_up(size, kernel_size, stride, dilation):
    before, after = same_padding(size, kernel_size, stride, dilation)
    assert 0 <= after - before <= 1
    assert output_length(size, kernel_size, stride, (before, after), dilation) == ceil(size / stride)
    spec = ConvSpec(
        in_channels=1,
        out_channels=1,
        size=size,
        kernel_size=kernel_size,
        stride=stride,
        dilation=dilation,
        padding="same",
    )
    assert spec.padding == ((before, after),)


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 4))
def test_full_meets_every_overlap(size, kernel_size, dilation):
    spec = ConvSpec(
        in_channels=1, out_channels=1, size=size, kernel_size=kernel_size, dilation=dilation, padding="full"
    )
    assert spec.output_size == (size + extent(kernel_size, dilation) - 1,)


@pytest.mark.slow
@settings(max_examples=200)
@given(specs())
def test_a_spec_is_canonical_hashable_and_frozen(spec):
    again = replace(spec)
    assert again == spec
    assert hash(again) == hash(spec)
    assert len(spec.padding) == len(spec.stride) == len(spec.output_size) == spec.axes
    with pytest.raises(FrozenInstanceError):
        spec.batch = 1


@pytest.mark.slow
@settings(max_examples=200)
@given(specs(dtypes=("float32",)))
def test_output_shapes_are_torchs(spec):
    kind = {1: "1d", 2: "2d", 3: "3d"}[spec.axes]
    symmetric = all(a == b for a, b in spec.padding)
    if spec.padding_mode != "zeros" or not symmetric:
        return
    module = getattr(torch.nn, f"ConvTranspose{kind}" if spec.transposed else f"Conv{kind}")
    options = {"output_padding": spec.output_padding} if spec.transposed else {}
    layer = module(
        spec.in_channels,
        spec.out_channels,
        spec.kernel_size,
        stride=spec.stride,
        padding=tuple(a for a, _ in spec.padding),
        dilation=spec.dilation,
        groups=spec.groups,
        bias=spec.bias,
        device="meta",
        **options,
    )
    assert tuple(layer(torch.empty(spec.input_shape, device="meta")).shape) == spec.output_shape
    assert ConvSpec.from_module(layer, spec.input_shape) == spec
    assert tuple(layer.weight.shape) == spec.kernel_shape


def test_reading_a_spec_off_arrays_and_modules():
    spec = ConvSpec.of(torch.empty(4, 3, 10, 12), torch.empty(8, 3, 3, 5), torch.empty(8), padding="same", stride=2)
    assert (spec.batch, spec.size, spec.bias, spec.output_size) == (4, (10, 12), True, (5, 6))
    unbatched = ConvSpec.of(torch.empty(3, 10, 12), torch.empty(8, 3, 3, 5))
    assert unbatched.batch == 1
    mixed = ConvSpec.of(torch.empty(1, 9, dtype=torch.uint8), torch.empty(1, 1, 3))
    assert (mixed.dtype, mixed.kernel_dtype, mixed.out_dtype) == ("uint8", "float32", "float32")


def test_a_conv_knows_its_geometry():
    module = torch.nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
    conv = Conv.from_module(module)
    assert (conv.in_channels, conv.out_channels, conv.kernel_size) == (4, 6, (3, 3))
    assert conv.spec((2, 4, 5, 5)) == ConvSpec.from_module(module, (2, 4, 5, 5))
    assert "transposed=True" in repr(conv)


x, k = np.ones((1, 3, 8, 8)), np.ones((2, 3, 3, 3))


CONV = {
    "same with a stride": (
        {"padding": "same", "stride": 2},
        'padding is "same" with a stride above 1.*pass padding to correlate',
    ),
    "transposed same": (
        {"padding": "same", "transposed": True},
        "padding is 'same'; a transposed convolution takes numbers",
    ),
    "transposed circular": (
        {"padding_mode": "circular", "transposed": True},
        'a transposed convolution takes "zeros" only',
    ),
    "output padding": ({"output_padding": 1}, "output_padding is 1; it belongs to transposed convolutions"),
    "large output padding": (
        {"output_padding": 2, "stride": 2, "transposed": True},
        r"output_padding is \(2, 2\); expected less than the stride",
    ),
    "groups": ({"groups": 4}, "groups is 4, which does not divide out_channels = 2"),
}


@pytest.mark.parametrize(("options", "message"), CONV.values(), ids=CONV)
def test_options_of_a_conv_that_are_refused(options, message):
    with pytest.raises(ConvolithError, match=message):
        Conv(k, **options)


def test_weights_and_shapes_of_a_conv_that_are_refused():
    with pytest.raises(ConvolithError, match=r"weight has shape \(3,\); expected"):
        Conv(np.ones(3))
    with pytest.raises(ConvolithError, match="bias has shape"):
        Conv(k, np.ones(5))
    with pytest.raises(ConvolithError, match=r"input_shape \(1, 4, 8, 8\) has 4 channels but the convolution takes 3"):
        Conv(k).spec((1, 4, 8, 8))
    with pytest.raises(ConvolithError, match="crops the whole output away"):
        Conv(np.ones((3, 2, 3, 3)), transposed=True, padding=5).spec((1, 3, 4, 4))


def test_specs_that_are_refused():
    good = {"in_channels": 2, "out_channels": 2, "size": (8, 8), "kernel_size": 3}
    for change, message in [
        ({"batch": -1}, "batch is -1; expected 0 or more"),
        ({"in_channels": 0}, "in_channels is 0; expected 1 or more"),
        ({"in_channels": 2.5}, "in_channels is 2.5; expected a whole number"),
        ({"size": (8, 0)}, "size is"),
        ({"kernel_size": (1, 1, 1, 1)}, "kernel_size has 4 axes; expected 1 to 3"),
        ({"kernel_size": (1, 1, 1)}, "size has 2 entries"),
        ({"dtype": "float8"}, "x has dtype float8; expected one of float16"),
        ({"transposed": True, "padding": "full"}, "a transposed convolution takes numbers"),
    ]:
        with pytest.raises(ConvolithError, match=message):
            ConvSpec(**(good | change))
    with pytest.raises(ConvolithError, match="input_shape .* has 4 channels but the module expects 3"):
        ConvSpec.from_module(torch.nn.Conv2d(3, 3, 3), (1, 4, 8, 8))


@pytest.mark.parametrize(
    ("dtype", "name"), [(np.float32, "float32"), (float, "float64"), (np.int8, "int8"), (torch.float16, "float16")]
)
def test_dtypes_may_be_given_as_classes(dtype, name):
    assert cl.ConvSpec(in_channels=1, out_channels=1, size=5, kernel_size=3, dtype=dtype).dtype == name
    with pytest.raises(cl.ConvolithError, match="dtype object"):
        cl.ConvSpec(in_channels=1, out_channels=1, size=5, kernel_size=3, dtype=object)


@pytest.mark.parametrize("options", [{}, {"padding": "same"}, {"stride": 2, "transposed": True}], ids=str)
def test_a_conv_is_called(options):
    conv = Conv(np.random.default_rng(0).normal(size=(2, 2, 3, 3)), np.ones(2), **options)
    x = np.random.default_rng(1).normal(size=(1, 2, 6, 7))
    np.testing.assert_array_equal(conv(x), cl.correlate(x, conv))
    np.testing.assert_allclose(conv(x, accuracy="exact", engine="reference"), conv(x))


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_writing_to_a_conv_is_refused(part):
    theirs = Conv(np.ones((1, 1, 3, 3)), np.ones(1))
    with pytest.raises(ValueError, match="read-only"):
        getattr(theirs, part)[...] = 2
    conv, x = Conv(torch.ones(1, 1, 3, 3), torch.ones(1)), torch.ones(1, 1, 5, 5)
    conv(x)
    getattr(conv, part)[...] = 2
    for use in (lambda: conv(x), lambda: cl.correlate(x, conv), lambda: getattr(conv, part)):
        with pytest.raises(ConvolithError, match=f"the {part} of a Conv was written to"):
            use()

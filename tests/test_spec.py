"""Shape rules and the canonical form of a spec."""

from dataclasses import FrozenInstanceError, replace
from math import ceil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convolith import Conv, ConvSpec
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


@settings(max_examples=200)
@given(specs())
def test_a_spec_is_canonical_hashable_and_frozen(spec):
    again = replace(spec)
    assert again == spec
    assert hash(again) == hash(spec)
    assert len(spec.padding) == len(spec.stride) == len(spec.output_size) == spec.axes
    with pytest.raises(FrozenInstanceError):
        spec.batch = 1


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

"""Rows and branches whose constant part is kept apart: exact through zero padding."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convolith import Conv, ConvolithError, correlate
from convolith.algebra import add, concatenate, rescale, subtract
from convolith.algebra.affine import Affine, affine, constant, join, then
from convolith.folding.rewrite.modules import module_of
from convolith.geometry import TORCH_MODES
from tests.strategies import branches, pairs_of_convs, pairs_with_transposed


def in_torch(conv):
    bias = None if conv.bias is None else torch.tensor(np.array(conv.bias), dtype=torch.float64)
    return Conv(torch.tensor(np.array(conv.weight), dtype=torch.float64), bias, **conv.options)


def apply(x, conv):
    return correlate(x, conv, engine="reference")


def check(one: Affine, x, expected):
    """The same with the border corrected either way."""
    if one.conv.padding_mode not in TORCH_MODES:
        return  # torch has no such layer
    sizes = zip(one.conv.padding, x.shape[2:], strict=True)
    if one.conv.padding_mode != "zeros" and any(max(pair) >= n for pair, n in sizes):
        return  # torch's own padding wants more pixels than ours
    by_channel = one.edge is not None and one.conv.groups == 1
    for ones in {False, by_channel}:
        with torch.no_grad():
            found = module_of(one, flat=False, by_channel=ones)(x)
        assert found.shape == expected.shape
        if expected.numel():
            assert (found - expected).abs().max() <= 1e-12 * max(float(expected.abs().max()), 1.0)


REASONS = (
    "by more than small images have pixels",
    "is not what the first computes beyond its border",
    "is not what lies beyond its border",
    "the first convolution pads with",
    "none of its taps reads a pixel",
    "zeros where the first crops",
    "would spread what the first crops",
    "reads more than one position",
    "after a transposed convolution; expected 1",
    "more than its kernel reaches",
    "output_padding",
    "for rows of stride 1 only",
    "such rows are joined with nothing",
)


@pytest.mark.slow
@settings(max_examples=130)
@given(
    st.one_of(pairs_of_convs(), pairs_of_convs(modes=("zeros",)), pairs_with_transposed()),
    st.lists(st.integers(1, 12), min_size=2, max_size=2),
    st.integers(0, 9),
)
def test_drawn_rows(pair, size, seed):
    first, second = map(in_torch, pair)
    try:
        one = then(affine(first), second)
    except ConvolithError as refusal:
        assert any(reason in str(refusal) for reason in REASONS)  # noqa: PT017 - most pairs are not refused
        return
    x = torch.randn(2, first.in_channels, *size[: len(first.kernel_size)], dtype=torch.float64)
    try:
        expected = apply(apply(x, first), second)
    except ConvolithError:  # smaller than a kernel, or than what a padding mode needs
        return
    check(one, x, expected)


@pytest.mark.slow
@settings(max_examples=90)
@given(branches(), st.lists(st.integers(12, 16), min_size=2, max_size=2), st.integers(0, 9))
def test_drawn_branches_behind_a_shift(convs, size, seed):
    """Every branch behind the same scale and shift, whose constant meets the padding of each."""
    convs = [in_torch(conv) for conv in convs]
    generator = torch.Generator().manual_seed(seed)
    channels, axes = convs[0].in_channels, len(convs[0].kernel_size)
    factors, shift = torch.randn(2, channels, generator=generator, dtype=torch.float64)
    before = rescale(factors, shift, axes=axes)
    x = torch.randn(2, channels, *size[:axes], generator=generator, dtype=torch.float64)
    try:
        parts = [then(affine(before), conv) for conv in convs]
        total, stacked = join(add, *parts), join(concatenate, *parts)
        difference = join(subtract, parts[0], parts[-1])
    except ConvolithError as refusal:
        assert any(reason in str(refusal) for reason in REASONS)  # noqa: PT017 - most are not refused
        return
    try:
        expected = [apply(apply(x, before), conv) for conv in convs]
    except ConvolithError:
        return
    check(total, x, sum(expected))
    check(stacked, x, torch.cat(expected, 1))
    check(difference, x, expected[0] - expected[-1])


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 3), (16, 16)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_1x1_with_a_bias_before_a_padded_3x3(size, stride):
    first = Conv(torch.randn(8, 3, 1, 1).double(), torch.randn(8).double())
    second = Conv(torch.randn(5, 8, 3, 3).double(), torch.randn(5).double(), padding=1, stride=stride)
    one = then(affine(first), second)
    assert one.edge is not None
    assert one.conv.bias is None
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    check(one, x, apply(apply(x, first), second))


def test_a_correction_goes_through_more_layers():
    row = [
        Conv(torch.randn(6, 2, 1, 1).double(), torch.randn(6).double()),
        Conv(torch.randn(6, 4, 2, 2).double(), torch.randn(4).double(), stride=2, transposed=True),
        Conv(torch.randn(3, 4, 3, 3).double(), torch.randn(3).double(), padding=1),
        Conv(torch.randn(5, 3, 1, 1).double(), torch.randn(5).double()),
    ]
    one = affine(row[0])
    for conv in row[1:]:
        one = then(one, conv)
    assert one.conv.transposed
    assert one.conv.kernel_size == (4, 4)
    for size in [(1, 1), (2, 3), (9, 8)]:
        x = expected = torch.randn(1, 2, *size, dtype=torch.float64)
        for conv in row:
            expected = apply(expected, conv)
        check(one, x, expected)


WIDE = {
    "bias": Conv(torch.randn(8, 2, 3, 3).double(), torch.randn(8).double(), padding=1),
    "groups and dilation": Conv(torch.randn(8, 1, 2, 3).double(), padding=((0, 3), (2, 1)), dilation=(3, 1), groups=2),
    "padding beyond the kernel": Conv(torch.randn(8, 2, 1, 2).double(), torch.randn(8).double(), padding=2),
    "no padding": Conv(torch.randn(8, 2, 2, 1).double()),
}
SMALL = [(1, 1), (1, 9), (2, 3), (5, 4), (12, 11)]


@pytest.mark.parametrize("first", WIDE.values(), ids=WIDE)
def test_a_row_that_differs_at_the_border_is_recomputed_there(first):
    second = Conv(torch.randn(3, 8, 3, 5).double(), torch.randn(3).double(), padding=((1, 2), (0, 3)))
    one = then(affine(first), second)
    assert one.row is not None
    assert one.corrected
    for size in SMALL:
        x = torch.randn(2, 2, *size, dtype=torch.float64)
        try:
            expected = apply(apply(x, first), second)
        except ConvolithError:  # smaller than a kernel
            continue
        check(one, x, expected)


def test_what_follows_a_recomputed_row_joins_its_second():
    row = [
        WIDE["bias"],
        Conv(torch.randn(8, 4, 3, 3).double(), torch.randn(8).double(), padding=1, groups=2),
        rescale(torch.randn(8).double(), torch.randn(8).double(), axes=2),
        Conv(torch.randn(3, 8, 2, 2).double(), torch.randn(3).double()),
    ]
    one = affine(row[0])
    for conv in row[1:]:
        one = then(one, conv)
    assert one.row is not None
    assert one.conv.kernel_size == (6, 6)
    for size in SMALL[2:]:
        x = expected = torch.randn(1, 2, *size, dtype=torch.float64)
        for conv in row:
            expected = apply(expected, conv)
        check(one, x, expected)
    with pytest.raises(ConvolithError, match="a border correction of its own behind it"):
        then(one, Conv(torch.randn(1, 3, 3, 3).double(), padding=1))
    with pytest.raises(ConvolithError, match="such rows are joined with nothing"):
        join(add, one, one)


def test_rows_with_strides_are_not_recomputed():
    first, second = WIDE["bias"], Conv(torch.randn(3, 8, 3, 3).double(), padding=1)
    for pair in [(Conv(first.weight, padding=1, stride=2), second), (first, Conv(second.weight, padding=1, stride=2))]:
        with pytest.raises(ConvolithError, match="for rows of stride 1 only"):
            then(affine(pair[0]), pair[1])


def test_a_bias_that_cancels_needs_no_correction():
    shift = torch.randn(3).double()
    row = [
        rescale(torch.ones(3).double(), -shift),
        rescale(torch.ones(3).double(), shift),
        Conv(torch.randn(2, 3, 3, 3).double(), padding=1),
    ]
    one = then(then(affine(row[0]), row[1]), row[2])
    assert one.edge is None
    assert not one.conv.bias.any()


def test_a_constant_needs_a_tap_that_always_reads_a_pixel():
    with pytest.raises(ConvolithError, match="none of its taps reads a pixel for every output"):
        constant(Conv(torch.ones(1, 1, 1, 1).double(), padding=1), torch.ones(1).double())

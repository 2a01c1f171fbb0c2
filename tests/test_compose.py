"""Two convolutions as one: the values, exactness at every size, and the answer with borders."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import convolith as cl
from convolith import Conv, ConvolithError, compose, correlate, d2l
from tests.strategies import pairs_of_convs


@pytest.mark.slow
@settings(max_examples=190)
@given(pairs_of_convs(), st.lists(st.integers(1, 16), min_size=2, max_size=2), st.integers(0, 9))
def test_drawn_pairs(pair, size, seed):
    """The call is exact always; the one convolution alone is, wherever it says so."""
    first, second = pair
    both = compose(first, second)
    x = np.random.default_rng(seed).normal(size=(2, first.in_channels, *size[: len(first.kernel_size)]))
    try:
        expected = correlate(correlate(x, first, engine="reference"), second, engine="reference")
    except ConvolithError:
        with pytest.raises(ConvolithError):
            both(x, engine="reference")
        return
    scale = max(np.abs(expected).max(), 1.0)
    found = both(x, engine="reference")
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-12 * scale
    alone = correlate(x, both.conv, engine="reference")
    assert alone.shape == expected.shape
    if both.exact == "everywhere":
        assert np.abs(alone - expected).max() <= 1e-12 * scale


@pytest.mark.slow
@settings(max_examples=60)
@given(pairs_of_convs(modes=("zeros",)))
def test_interior_means_that_some_size_differs(pair):
    """Where only the interior is said to be exact, some input shows it (so "interior" is not said in vain)."""
    first, second = pair
    both = compose(first, second)
    assume(both.exact == "interior")
    rng = np.random.default_rng(0)
    differs = False
    for extra in range(14):
        x = rng.normal(size=(1, first.in_channels, *[6 + extra] * len(first.kernel_size)))
        try:
            expected = correlate(correlate(x, first, engine="reference"), second, engine="reference")
        except ConvolithError:
            continue
        differs |= bool(np.abs(correlate(x, both.conv, engine="reference") - expected).max() > 1e-9)
    assert differs


def test_the_sizes_of_the_chapter():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 12))
    k1, k2 = rng.normal(size=(4, 4)), rng.normal(size=(3, 3))
    both = compose(Conv(k1[None, None]), Conv(k2[None, None]))
    in_a_row = d2l.corr2d(d2l.corr2d(x, k1), k2)
    at_once = d2l.corr2d(x, both.conv.weight[0, 0])
    assert both.conv.kernel_size == (6, 6)
    assert in_a_row.shape == at_once.shape == (7, 7)
    assert np.abs(in_a_row - at_once).max() < 1e-12
    assert d2l.corr2d(x, d2l.corr2d(k1, k2)).shape == (11, 11)


def test_same_after_same_differs_on_the_ring_only():
    rng = np.random.default_rng(0)
    first, second = (Conv(rng.normal(size=(1, 1, 3, 3)), padding="same") for _ in range(2))
    x = rng.normal(size=(1, 20, 20))
    both = compose(first, second)
    alone, expected = correlate(x, both.conv), correlate(correlate(x, first), second)
    assert both.exact == "interior"
    assert int((np.abs(alone - expected) > 1e-12).sum()) == 76
    np.testing.assert_allclose(both(x), expected, atol=1e-12)


def test_the_rule_of_stride_dilation_groups_and_padding():
    first = Conv(np.ones((4, 1, 3, 1)), stride=(2, 1), dilation=(2, 1), groups=4, padding=((4, 4), (0, 0)))
    second = Conv(np.ones((4, 2, 3, 2)), stride=2, dilation=(2, 3), groups=2, padding=((2, 1), (0, 0)))
    conv = compose(first, second).conv
    assert (conv.stride, conv.padding) == ((4, 2), ((8, 6), (0, 0)))
    assert (conv.dilation, conv.kernel_size, conv.groups) == ((2, 3), (7, 2), 2)


def test_two_single_taps_have_dilation_one():
    conv = compose(Conv(np.ones((1, 1, 1)), dilation=5), Conv(np.ones((1, 1, 1)), dilation=3, stride=2)).conv
    assert (conv.kernel_size, conv.dilation, conv.stride) == ((1,), (1,), (2,))


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex128, torch.int32])
def test_dtypes_and_torch(dtype):
    generator = torch.Generator().manual_seed(0)
    make = lambda *shape: (torch.randn(shape, generator=generator) * 4).to(dtype)
    bias = make(4) if dtype is not torch.int32 else torch.arange(4)
    both = compose(Conv(make(4, 2, 3), bias, padding=1), Conv(make(2, 4, 3), padding=1))
    x = make(2, 2, 9)
    expected = correlate(correlate(x, both.first), both.second) if dtype is not torch.int32 else None
    if dtype is torch.int32:
        assert both.conv.weight.dtype == torch.int64
        expected = correlate(correlate(x, both.first), both.second)
        assert torch.equal(both(x), expected)
        return
    loose = {torch.float32: 1e-5, torch.bfloat16: 0.1}.get(dtype, 1e-11)
    torch.testing.assert_close(both(x), expected, rtol=loose, atol=loose * float(expected.abs().max()))
    assert both.conv.weight.dtype == dtype


@pytest.mark.slow
def test_gradients_pass_through_a_composition():
    rng = np.random.default_rng(0)
    both = compose(*(Conv(torch.from_numpy(rng.normal(size=(2, 2, 3, 3))), padding=1) for _ in range(2)))
    x = torch.randn(1, 2, 7, 7, dtype=torch.float64, requires_grad=True)
    assert both.exact == "interior"
    assert torch.autograd.gradcheck(both, x)


def test_weights_keep_their_gradients():
    weights = [torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    x = torch.randn(1, 2, 9, dtype=torch.float64)

    def run(w1, w2):
        return correlate(x, compose(Conv(w1, padding=1), Conv(w2)).conv)

    assert torch.autograd.gradcheck(run, weights)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (Conv(np.ones((2, 1, 3))), Conv(np.ones((1, 3, 3))), "second takes 3 channels but first gives 2"),
        (Conv(np.ones((1, 1, 3))), Conv(np.ones((1, 1, 3, 3))), "first has 1 spatial axes but second has 2"),
        (Conv(np.ones((1, 1, 3))), Conv(np.ones((1, 1, 3)), transposed=True), "first reads more than one position"),
        (
            Conv(np.ones((1, 1, 3)), transposed=True),
            Conv(np.ones((1, 1, 3)), stride=2),
            "after a transposed convolution; expected 1",
        ),
        (
            Conv(np.ones((1, 1, 3)), transposed=True),
            Conv(np.ones((1, 1, 3)), padding=4),
            "more than its kernel reaches",
        ),
        (Conv(np.ones((1, 1, 1)), np.ones(1)), Conv(np.ones((1, 1, 3)), transposed=True), "spreads unevenly"),
        ("blur", Conv(np.ones((1, 1, 3))), "first is a str; expected a Conv, or its weights"),
        (Conv(np.ones((1, 1, 3))), Conv(np.ones((1, 1, 3), np.float32)), "two different float dtypes"),
        (Conv(np.ones((1, 1, 3))), Conv(torch.ones(1, 1, 3)), "first is a NumPy array but second is a torch tensor"),
    ],
)
def test_refusals(first, second, message):
    with pytest.raises(ConvolithError, match=message):
        cl.compose(first, second)


def test_integer_compositions_give_the_dtype_of_the_two():
    names = ("uint8", "uint32", "uint64", "int8", "int64")
    for a, b, c in product(names, repeat=3):
        both = compose(Conv(np.ones((1, 1, 2), a)), Conv(np.full((1, 1, 2), 3, b)))
        x = np.full((1, 1, 6), 100, c)
        expected = correlate(correlate(x, both.first), both.second)
        assert both(x).dtype == expected.dtype, (a, b, c)
        np.testing.assert_array_equal(both(x), expected)
    big = np.full((1, 1, 6), 2**60, np.uint64)
    both = compose(Conv(np.ones((1, 1, 3), np.uint8)), Conv(np.ones((1, 1, 3), np.uint8)))
    np.testing.assert_array_equal(both(big), correlate(correlate(big, both.first), both.second))


def test_negative_biases_beside_unsigned_weights():
    both = compose(
        Conv(np.ones((1, 1, 3), np.uint64), np.array([-2])), Conv(np.ones((1, 1, 2), np.uint64), np.array([-1]))
    )
    for x in (np.ones((1, 1, 6)), np.ones((1, 1, 6), np.uint8)):
        np.testing.assert_array_equal(both(x), correlate(correlate(x, both.first), both.second))


def test_weights_that_leave_the_range_are_refused():
    half = np.full((1, 1, 1), 1e-4, np.float16)
    for first, second in [
        (Conv(half), Conv(half)),
        (Conv(np.full((1, 1, 1), 300, np.float16)),) * 2,
        (Conv(np.array([[[2**40]]])), Conv(np.array([[[2**40]]]))),
        (Conv(np.ones((1, 1, 1), np.int64), np.array([2**62])), Conv(np.full((1, 1, 1), 4))),
    ]:
        with pytest.raises(ConvolithError, match="leave the range of .*; convert both convolutions to a wider dtype"):
            compose(first, second)
    with pytest.raises(ConvolithError, match="first has a float bias and integer weights"):
        compose(Conv(np.ones((1, 1, 1), int), np.array([0.5])), Conv(np.ones((1, 1, 1), int)))
    with pytest.raises(ConvolithError, match="first has weights on the meta device"):
        compose(*(Conv(torch.ones(1, 1, 3, device="meta")),) * 2)


def test_everywhere_is_every_size():
    """Repeating padding wider than the image is still the padding of the padding."""
    for mode in ("circular", "reflect"):
        both = compose(*(Conv(np.array([[[1.0, 3.0, 1.0]]]), padding=1, padding_mode=mode) for _ in range(2)))
        assert both.exact == "everywhere"
        for n in range(1, 6):
            x = np.random.default_rng(n).normal(size=(1, n))
            expected = correlate(correlate(x, both.first), both.second)
            np.testing.assert_allclose(correlate(x, both.conv), expected, atol=1e-13)


def test_unsigned_weights_reflect():
    mirrored = Conv(np.array([[[1, 2, 1]]], np.uint16), padding=1, padding_mode="reflect")
    assert compose(mirrored, mirrored).exact == "everywhere"

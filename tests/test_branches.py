"""Branches that are one convolution, what stands beside convolutions as a `Conv`, and rows with transposed ones."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from convolith import Conv, ConvolithError, compose, correlate
from convolith.algebra import (
    add,
    average_pool,
    batch_norm,
    concatenate,
    identity,
    linear,
    pad,
    rescale,
    scale,
    select,
    subtract,
    upsample,
)
from tests.strategies import branches, pairs_with_transposed


def apply(x, conv):
    return correlate(x, conv, engine="reference")


def near(found, expected):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max(initial=0) <= 1e-12 * max(np.abs(expected).max(initial=0), 1.0)


@pytest.mark.slow
@settings(max_examples=130)
@given(branches(), st.lists(st.integers(1, 14), min_size=2, max_size=2), st.integers(0, 9))
def test_drawn_branches(convs, size, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, convs[0].in_channels, *size[: len(convs[0].kernel_size)]))
    factors = rng.normal(size=convs[0].out_channels)
    total, stacked, scaled = add(*convs), concatenate(*convs), scale(convs[0], factors)
    try:
        parts = [apply(x, conv) for conv in convs]
    except ConvolithError:  # smaller than a kernel, or than what a padding mode needs
        return
    near(apply(x, total), sum(parts))
    near(apply(x, subtract(total, convs[0])), sum(parts[1:]) if len(parts) > 1 else 0 * parts[0])
    near(apply(x, stacked), np.concatenate(parts, axis=1))
    near(apply(x, scaled), parts[0] * factors.reshape(-1, *(1,) * len(convs[0].kernel_size)))


@pytest.mark.slow
@settings(max_examples=130)
@given(pairs_with_transposed(), st.lists(st.integers(1, 9), min_size=2, max_size=2), st.integers(0, 9))
def test_drawn_rows_with_transposed_convolutions(pair, size, seed):
    first, second = pair
    refused = ""
    try:
        both = compose(first, second)
    except ConvolithError as refusal:
        refused = str(refusal)
    if refused:
        assert any(word in refused for word in ("reaches", "unevenly", "output_padding"))
        return
    x = np.random.default_rng(seed).normal(size=(1, first.in_channels, *size[: len(first.kernel_size)]))
    try:
        expected = apply(apply(x, first), second)
    except ConvolithError:
        return
    near(both(x, engine="reference"), expected)
    alone = apply(x, both.conv)
    assert alone.shape == expected.shape
    if both.exact == "everywhere":
        near(alone, expected)


@settings(max_examples=60)
@given(pairs_with_transposed())
def test_interior_of_a_transposed_row_means_that_some_size_differs(pair):
    first, second = pair
    try:
        both = compose(first, second)
    except ConvolithError:
        return
    if both.exact == "everywhere" or second.padding_mode != "zeros":
        return
    rng = np.random.default_rng(0)
    found = []
    for extra in range(8):
        x = rng.normal(size=(1, first.in_channels, *[2 + extra] * len(first.kernel_size)))
        try:
            expected = apply(apply(x, first), second)
        except ConvolithError:
            continue
        found.append(np.abs(apply(x, both.conv) - expected).max(initial=0))
    assert not found or max(found) > 1e-9


def test_upsampling_then_3x3_is_a_transposed_convolution_of_size_4():
    rng = np.random.default_rng(0)
    conv = Conv(rng.normal(size=(5, 3, 3, 3)), rng.normal(size=5), padding=1)
    both = compose(upsample(3, 2), conv)
    assert (both.conv.kernel_size, both.conv.stride, both.conv.padding) == ((4, 4), (2, 2), ((1, 1), (1, 1)))
    assert both.exact == "everywhere"
    x = rng.normal(size=(2, 3, 6, 7))
    larger = functional.interpolate(torch.from_numpy(x), scale_factor=2, mode="nearest").numpy()
    near(apply(x, both.conv), apply(larger, conv))


def test_a_norm_before_a_padded_convolution_is_right_at_the_border_too():
    rng = np.random.default_rng(0)
    norm = batch_norm(rng.normal(size=3), rng.uniform(0.5, 2, 3), rng.normal(size=3), rng.normal(size=3))
    conv = Conv(rng.normal(size=(4, 3, 3, 3)), rng.normal(size=4), padding=1)
    both = compose(norm, conv)
    assert both.exact == "interior"
    x = rng.normal(size=(1, 3, 9, 8))
    expected = apply(apply(x, norm), conv)
    near(both(x, engine="reference"), expected)
    assert np.abs(apply(x, both.conv) - expected)[:, :, 1:-1, 1:-1].max() < 1e-12
    assert np.abs(apply(x, both.conv) - expected).max() > 0.1


def test_operators_are_torchs():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 8, 9))
    t = torch.from_numpy(x)
    mean, variance, weight, bias = (rng.uniform(0.5, 2, 3) for _ in range(4))
    norm = functional.batch_norm(t, *(torch.from_numpy(a) for a in (mean, variance, weight, bias)), eps=1e-3)
    near(apply(x, batch_norm(mean, variance, weight, bias, eps=1e-3)), norm.numpy())
    near(apply(x, average_pool(3, 3, stride=2, padding=1)), functional.avg_pool2d(t, 3, 2, 1).numpy())
    near(apply(x, average_pool(3, (2, 3))), functional.avg_pool2d(t, (2, 3)).numpy())
    near(apply(x, identity(3)), x)
    near(apply(x, pad(3, ((1, 2), (0, 3)))), np.pad(x, ((0, 0), (0, 0), (1, 2), (0, 3))))
    near(apply(x, pad(3, 1, padding_mode="reflect")), functional.pad(t, (1,) * 4, mode="reflect").numpy())
    near(apply(x, rescale(weight, bias)), (x * weight[:, None, None] + bias[:, None, None]))
    near(apply(x, select(3, [2, 0])), x[:, [2, 0]])
    matrix = rng.normal(size=(5, 3))
    near(apply(x[:, :, :1, :1], linear(matrix, rng.normal(size=5) * 0))[:, :, 0, 0], x[:, :, 0, 0] @ matrix.T)
    near(apply(x, upsample(3, (2, 3))), x.repeat(2, axis=2).repeat(3, axis=3))


def test_a_training_block_of_three_branches_is_one_convolution():
    """RepVGG's block (Ding et al. 2021): 3x3, 1x1 and identity, each with its own norm."""
    rng = np.random.default_rng(0)
    norms = [batch_norm(*(rng.uniform(0.5, 2, 4) for _ in range(4))) for _ in range(3)]
    wide, narrow = Conv(rng.normal(size=(4, 4, 3, 3)), padding=1), Conv(rng.normal(size=(4, 4, 1, 1)))
    block = add(*(compose(conv, norm).conv for conv, norm in zip((wide, narrow, identity(4)), norms)))
    assert (block.kernel_size, block.padding) == ((3, 3), ((1, 1), (1, 1)))
    x = rng.normal(size=(1, 4, 7, 7))
    expected = sum(apply(apply(x, c), n) for c, n in zip((wide, narrow, identity(4)), norms))
    near(apply(x, block), expected)


def test_torch_weights_stay_torchs_and_keep_their_gradients():
    weight = torch.randn(2, 3, 3, 3, requires_grad=True)
    total = add(Conv(weight, padding=1), Conv(torch.randn(2, 3, 1, 1)))
    assert isinstance(total.weight, torch.Tensor)
    assert total.dtype == "float32"
    total.weight.sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))


ONE = np.ones((2, 2, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: add(), "no convolution is given"),
        (lambda: add(ONE), "argument 0 is a ndarray; expected a Conv"),
        (lambda: add(Conv(ONE), Conv(np.ones((2, 2, 1)))), r"outputs of different sizes \(n-2 and n along"),
        (lambda: add(Conv(ONE), Conv(ONE, stride=2)), "differ in stride"),
        (lambda: add(Conv(ONE), Conv(np.ones((3, 2, 3)))), "differ in output channels"),
        (lambda: concatenate(Conv(ONE), Conv(np.ones((2, 3, 3)))), "differ in input channels"),
        (lambda: add(Conv(ONE), Conv(ONE, transposed=True)), "differ in transposed"),
        (lambda: add(Conv(ONE), Conv(np.ones((2, 2, 3, 3)))), r"have \[1, 2\] spatial axes"),
        (lambda: add(Conv(ONE), Conv(torch.ones(2, 2, 3))), "NumPy array"),
        (
            lambda: add(Conv(ONE, padding=1), Conv(ONE, padding=1, padding_mode="circular")),
            r"pad with \['circular', 'zeros'\]",
        ),
        (
            lambda: add(Conv(ONE, transposed=True), Conv(ONE, transposed=True, padding=1)),
            "the transposed convolutions differ in padding",
        ),
        (lambda: concatenate(Conv(ONE, transposed=True)), "only plain ones are concatenated"),
        (lambda: scale(Conv(ONE), np.ones(3)), "factors has 3 numbers; expected one, or one for each of 2"),
        (lambda: select(3, [3]), r"channels is \[3\]; expected some numbers from 0 to 2"),
        (lambda: linear(np.ones(3)), r"weight has shape \(3,\)"),
        (lambda: rescale(np.ones((3, 1))), r"factors has shape \(3, 1\)"),
        (lambda: batch_norm(np.ones(3), np.ones(2)), r"variance has shape \(2,\); expected \(3,\)"),
        (lambda: batch_norm(np.ones(1), -np.ones(1)), "expected more than 0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ConvolithError, match=message):
        call()


def test_transposed_branches_and_scales():
    rng = np.random.default_rng(0)
    options = {"stride": 2, "padding": 1, "groups": 2, "transposed": True}
    a, b = (Conv(rng.normal(size=(4, 3, 4)), rng.normal(size=6), **options) for _ in range(2))
    x, factors = rng.normal(size=(1, 4, 9)), rng.normal(size=6)
    near(apply(x, add(a, b)), apply(x, a) + apply(x, b))
    near(apply(x, scale(a, factors)), apply(x, a) * factors[:, None])

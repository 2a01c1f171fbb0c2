"""One convolution as several: round trips, the certificate, what does not decompose, and every refusal."""

from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import convolith as cl
from convolith import Conv, ConvolithError, compose, correlate, decompose
from convolith.algebra.decomposition import certificate
from convolith.algebra.decomposition.decompose import METHODS
from tests.strategies import decomposable_convs


def composed(parts) -> Conv:
    return reduce(lambda first, second: compose(first, second).conv, parts)


@pytest.mark.slow
@settings(max_examples=16)
@given(decomposable_convs(), st.lists(st.integers(12, 40), min_size=2, max_size=2), st.integers(0, 9))
def test_round_trips(conv, size, seed):
    """What is built of smaller ones is found, composes to itself, and gives the same outputs, borders included."""
    found = decompose(conv)
    assert found.parts, found.reason
    assert found.relative <= 1e-10
    both = composed(found.parts)
    assert (both.stride, both.padding) == (conv.stride, conv.padding)
    assert np.abs(both.weight - conv.weight).max() <= 1e-10 * np.abs(conv.weight).max()
    x = np.random.default_rng(seed).normal(size=(2, conv.in_channels, *size[: len(conv.kernel_size)]))
    try:
        expected = correlate(x, conv)
    except ConvolithError:
        with pytest.raises(ConvolithError):
            found(x)
        return
    y = found(x)
    assert y.shape == expected.shape
    assert np.abs(y - expected).max() <= 1e-10 * max(np.abs(expected).max(), 1)
    if found.method != "polynomial":
        assert found.multiplications_after < found.multiplications_before


@pytest.mark.slow(quick=16)
@pytest.mark.parametrize("taps", [2, 3, 4, 9, 31, 64, 101])
@pytest.mark.parametrize("kind", ["random", "gauss", "box", "binomial", "zeros", "wide", "steep"])
def test_one_axis_always_decomposes(taps, kind):
    rng = np.random.default_rng(taps)
    kernel = {
        "random": rng.normal(size=taps),
        "gauss": np.exp(-(np.linspace(-3, 3, taps) ** 2)),
        "box": np.ones(taps) / taps,
        "binomial": np.poly(-np.ones(taps - 1)),
        "zeros": np.where(np.arange(taps) % 3 == 1, rng.normal(size=taps), 0),
        "wide": 10 ** rng.normal(size=taps, scale=3),
        "steep": 10 ** rng.normal(size=taps, scale=50),
    }[kind]
    found = decompose(Conv(kernel[None, None]))
    assert found.method == "polynomial"
    assert all(part.kernel_size[0] <= 3 for part in found.parts)
    assert found.relative <= 1e-10
    if taps > 3:
        assert "saves nothing" in found.reason
        assert np.abs(composed(found.parts).weight - kernel).max() <= 1e-10 * np.abs(kernel).max()


@pytest.mark.slow
def test_long_kernels_decompose_too():
    """Hundreds of pieces, whose product and rounding would leave the range of floats if nothing kept them in it."""
    found = decompose(Conv(np.random.default_rng(0).normal(size=(1, 1, 600))))
    assert (len(found.parts), found.relative <= 1e-10) == (300, True)


def test_the_gain_of_strides_is_counted():
    """With stride, the part that runs first runs more often: the cheaper order is taken."""
    rng = np.random.default_rng(0)
    found = decompose(Conv((rng.normal(size=(5, 1)) * rng.normal(size=(1, 9)))[None, None], stride=(1, 3)))
    assert [part.kernel_size for part in found.parts] == [(1, 9), (5, 1)]
    assert [part.stride for part in found.parts] == [(1, 3), (1, 1)]
    assert found.multiplications_after == 14


def test_options_are_shared_out():
    kernel = np.outer([1.0, 2, 3, 4], [1.0, -2, 3, 1, 1])
    conv = Conv(kernel[None, None], np.ones(1), padding=((1, 2), (0, 3)), dilation=(2, 3), padding_mode="reflect")
    first, second = decompose(conv).parts
    assert (first.padding, second.padding) == (((1, 2), (0, 0)), ((0, 0), (0, 3)))
    assert (first.dilation, second.dilation) == ((2, 1), (1, 3))
    assert first.bias is None
    assert second.bias.tolist() == [1]
    assert compose(first, second).exact == "everywhere"


def test_depthwise_kernels_are_separable_only_if_all_are():
    rng = np.random.default_rng(0)
    planes = rng.normal(size=(3, 5, 1)) * rng.normal(size=(3, 1, 5))
    assert decompose(Conv(planes[:, None], groups=3)).method == "separable"
    planes[1] = rng.normal(size=(5, 5))
    found = decompose(Conv(planes[:, None], groups=3))
    assert found.parts == ()
    assert 0 < found.relative < 1


@pytest.mark.slow
def test_methods_over_channels():
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape)
    cases = {
        "tucker": np.einsum("op,pqst,qi->oist", draw(12, 3), draw(3, 4, 3, 3), draw(4, 10)),
        "depthwise": draw(8, 6, 1, 1) * draw(1, 6, 3, 3),
        "cp": np.einsum("or,ir,sr,tr->oist", draw(9, 7), draw(8, 7), draw(3, 7), draw(3, 7)),
    }
    for method, weight in cases.items():
        conv = Conv(weight, rng.normal(size=len(weight)), padding=1)
        found = decompose(conv)
        assert (found.method, found.relative < 1e-10) == (method, True), found.reason
        x = draw(1, conv.in_channels, 9, 8)
        np.testing.assert_allclose(found(x), correlate(x, conv), atol=1e-10)
    pointwise = Conv((draw(12, 2) @ draw(2, 12))[:, :, None])
    assert decompose(pointwise).multiplications_after == 48


def test_three_axes():
    rng = np.random.default_rng(0)
    weight = np.einsum("a,b,c->abc", rng.normal(size=3), rng.normal(size=4), rng.normal(size=5))[None, None]
    conv = Conv(weight, padding=((1, 2), (0, 1), (2, 0)), stride=(1, 2, 3))
    found = decompose(conv)
    x = rng.normal(size=(1, 8, 9, 12))
    assert len(found.parts) == 3
    np.testing.assert_allclose(found(x), correlate(x, conv), atol=1e-12)


def worst_input(gap: np.ndarray, n: int) -> np.ndarray:
    """A plane wave, at the frequency of a fine grid at which the gap's response is largest."""
    response = np.abs(np.fft.fft2(gap, (n, n)))
    u, v = np.unravel_index(response.argmax(), response.shape)
    rows, columns = np.indices((n, n))
    return np.cos(2 * np.pi * (u * rows + v * columns) / n)


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
def test_the_certificate_holds_and_is_sharp(mode):
    rng = np.random.default_rng(1)
    kernel = np.exp(-np.add.outer(np.arange(-3, 4) ** 2, np.arange(-3, 4) ** 2) / 4) + 1e-2 * rng.normal(size=(7, 7))
    conv = Conv(kernel[None, None], padding=3, padding_mode=mode)
    found = decompose(conv, tolerance=0.05)
    assert found.parts
    assert 1e-10 < found.relative <= 0.05
    gap = composed(found.parts).weight[0, 0] - kernel
    for x in (rng.normal(size=(1, 64, 64)), worst_input(gap, 64)[None], rng.normal(size=(1, 1, 2))):
        if mode == "reflect" and x.shape[-1] < 4:
            continue
        error = np.linalg.norm(found(x) - correlate(x, conv))
        assert error <= found.bound * np.linalg.norm(x)
    if mode == "zeros":
        wave = worst_input(gap, 64)[None]
        inner = Conv(gap[None, None])
        assert np.linalg.norm(correlate(wave, inner)) >= 0.85 * found.bound * np.linalg.norm(wave)


@pytest.mark.slow
@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 4), st.integers(1, 4)), st.tuples(*[st.integers(1, 6)] * 2))
def test_norms_lie_between_their_bounds(seed, channels, taps):
    """The norm at any frequency, also between grid points, is not above the upper bound."""
    rng = np.random.default_rng(seed)
    blocks = rng.normal(size=(2, *channels, *taps))
    low, high = certificate.norm_bounds(blocks)
    rough_low, rough_high = certificate.norm_sketch(blocks)
    fine = np.fft.fft2(blocks, (101, 97), axes=(3, 4))
    norm = np.linalg.svd(np.moveaxis(fine.reshape(2, *channels, -1), 3, 1), compute_uv=False).max()
    assert 0.99 * low <= norm <= high  # neither grid has the other's points
    assert max(rough_low, low) <= min(rough_high, high)


@pytest.mark.slow
def test_rounding_is_part_of_the_bound():
    """Chains too large to be multiplied out in whole numbers are bounded with their rounding."""
    rng = np.random.default_rng(0)
    weight = np.einsum("op,pist->oist", rng.normal(size=(64, 3)), rng.normal(size=(3, 64, 3, 3)))
    found = decompose(Conv(weight))
    gap = np.abs(composed(found.parts).weight - weight).max()
    assert gap <= found.bound <= 1e-10 * np.linalg.norm(weight)


def test_generic_kernels_do_not_decompose():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(5, 5))
    conv = Conv(kernel[None, None], padding=2)
    found = decompose(conv)
    assert found.parts == ()
    assert found.reason.startswith("does not decompose: the nearest that does is ")
    assert found.multiplications_after == found.multiplications_before == 25
    x = rng.normal(size=(1, 9, 9))
    np.testing.assert_array_equal(found(x), correlate(x, conv))
    near = decompose(conv, tolerance=found.relative * (1 + 1e-9))  # the distance is a true one: at it, there is a chain
    assert near.parts
    gap = composed(near.parts).weight[0, 0] - kernel
    largest = np.abs(np.fft.fft2(gap, (128, 128))).max()
    assert largest <= near.bound <= 1.03 * largest


@pytest.mark.slow
def test_tolerance_admits_low_rank():
    rng = np.random.default_rng(0)
    kernel = np.outer(rng.normal(size=9), rng.normal(size=9)) + 1e-3 * rng.normal(size=(9, 9))
    assert decompose(Conv(kernel[None, None])).parts == ()
    found = decompose(Conv(kernel[None, None]), tolerance=0.01)
    assert (found.method, found.multiplications_after) == ("separable", 18)
    assert "within" in found.reason


@pytest.mark.slow
def test_two_layers_of_as_many_channels_come_apart():
    rng = np.random.default_rng(1)
    found = decompose(compose(*(Conv(rng.normal(size=(2, 2, 3, 3))) for _ in range(2))).conv)
    assert (found.method, found.multiplications_after) == ("reducible", 72)


def test_exact_factors_are_given_where_they_save_nothing():
    rng = np.random.default_rng(0)
    outer = decompose(Conv(np.outer([1.0, 2], [3.0, 4])[None, None]))
    assert (outer.method, outer.multiplications_after) == ("separable", 4)
    both = compose(*(Conv(rng.normal(size=(1, 1, 3, 3))) for _ in range(2))).conv
    found = decompose(Conv(both.weight, stride=2))  # the first part runs at four positions for each output
    assert (found.method, found.multiplications_after) == ("reducible", 45)
    assert "which saves nothing" in found.reason
    near = Conv(np.array([[1.0, 2], [3, 6.1]])[None, None])
    assert decompose(near, tolerance=0.5).parts == ()


def test_two_layers_come_apart():
    rng = np.random.default_rng(3)
    first, second = (Conv(rng.normal(size=(1, 1, 3, 3))) for _ in range(2))
    for both in (compose(first, second).conv, compose(first, first).conv):
        found = decompose(both)
        assert (found.method, found.multiplications_after) == ("reducible", 18)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [((2, 2), (4, 4)), ((5, 5), (5, 5)), ((5, 4), (4, 5)), ((3, 3), (3, 3), (3, 3))])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(("dtype", "close"), [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_factors_of_every_size_are_found(sizes, groups, dtype, close):
    rng = np.random.default_rng(0)
    convs = [Conv(rng.normal(size=(groups, 1, *size)), groups=groups) for size in sizes]
    whole = Conv(composed(convs).weight.astype(dtype), groups=groups)
    found = decompose(whole)
    assert found.method == "reducible", found.reason
    assert found.relative <= close
    assert np.abs(composed(found.parts).weight - whole.weight).max() <= close * np.abs(whole.weight).max()


@pytest.mark.slow
def test_factors_of_large_kernels_are_found():
    """More equations than a handful, for which a damped search would never end."""
    rng = np.random.default_rng(0)
    whole = composed([Conv(rng.normal(size=(1, 1, n, n))) for n in (11, 12)])
    found = decompose(whole)
    assert (found.method, found.multiplications_after) == ("reducible", 11**2 + 12**2)


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize(
    ("channels", "first", "second"),
    [
        ((6, 2, 6), (3, 3), (3, 3)),
        ((3, 1, 3), (5, 5), (3, 3)),
        ((16, 4, 8), (3, 3), (3, 3)),
        ((4, 4, 32), (2, 3), (3, 1)),
        ((8, 3, 8), (5,), (5,)),
        ((6, 2, 6), (2, 2, 2), (2, 2, 2)),
    ],
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_two_layers_through_few_channels_come_apart(channels, first, second, dtype):
    rng = np.random.default_rng(0)
    into, hidden, out = channels
    halves = Conv(rng.normal(size=(hidden, into, *first))), Conv(rng.normal(size=(out, hidden, *second)))
    whole = Conv(compose(*halves).conv.weight.astype(dtype))
    found = decompose(whole)
    assert [part.weight.shape for part in found.parts] == [half.weight.shape for half in halves], found.reason
    assert found.relative <= (1e-10 if dtype is np.float64 else 1e-6)


def test_two_layers_through_few_channels_are_near():
    rng = np.random.default_rng(0)
    weight = compose(Conv(rng.normal(size=(2, 6, 3, 3))), Conv(rng.normal(size=(6, 2, 3, 3)))).conv.weight
    found = decompose(Conv(weight + 1e-3 * rng.normal(size=weight.shape)), tolerance=0.01)
    assert (found.method, found.multiplications_after) == ("reducible", 216)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_and_torch(dtype):
    column = torch.linspace(0.1, 1, 7, dtype=torch.float64).exp()
    kernel = torch.outer(column, column.flip(0)).to(dtype)[None, None]
    found = decompose(Conv(kernel.requires_grad_(), torch.ones(1, dtype=dtype)))
    assert [part.weight.dtype for part in found.parts] == [dtype] * 2
    assert not found.parts[0].weight.requires_grad
    assert found.relative <= 4 * torch.finfo(dtype).eps


def test_what_rounding_costs_is_said():
    found = decompose(Conv(np.random.default_rng(0).normal(size=(1, 1, 41)).astype(np.float32)))
    assert found.parts
    assert "rounding the parts to float32 costs" in found.reason


def test_rounding_that_costs_half_of_the_digits_is_no_decomposition():
    found = decompose(Conv(np.random.default_rng(0).normal(size=(1, 1, 63)).astype(np.float16)))
    assert found.parts == ()
    assert "does not decompose in float16: its parts, rounded, are" in found.reason


def test_tiny_huge_and_zero_kernels():
    for scale in (1e-200, 1e200, 0.0):
        kernel = scale * np.outer([1.0, 2, 3, 4, 5], [3.0, 1, 4, 1, 5])
        found = decompose(Conv(kernel[None, None]))
        assert found.method == "separable"
        assert found.relative <= 1e-14
        assert np.abs(composed(found.parts).weight[0, 0] - kernel).max() <= 1e-14 * np.abs(kernel).max()
    assert all(part.weight.max() == 0 for part in decompose(Conv(np.zeros((1, 1, 8)))).parts)


def test_parts_of_positive_kernels_are_positive():
    for weight in (np.outer([1.0, 2, 1], [1.0, 2, 1]), np.array([1.0, 4, 6, 4, 1])):
        assert all((part.weight > 0).all() for part in decompose(Conv(weight[None, None])).parts)


def test_what_is_small_already():
    one = decompose(Conv(np.ones((1, 1, 3))))
    assert one.parts == (one.conv,)
    assert "one piece of at most 3 taps already" in one.reason
    single = decompose(Conv(np.ones((1, 1, 1, 1))))
    assert single.parts == (single.conv,)


def test_the_table_of_methods():
    assert [name for name, _ in METHODS] == [
        "polynomial",
        "low rank",
        "depthwise",
        "tucker",
        "factors",
        "hidden channels",
        "reducible",
        "cp",
    ]


@pytest.mark.parametrize(
    ("conv", "options", "message"),
    [
        ("blur", {}, "conv is a str; expected a Conv, or its weights; pass Conv.from_module"),
        (Conv(np.ones((1, 1, 3))), {"tolerance": -0.1}, "tolerance is -0.1; expected a number of at least 0"),
        (Conv(np.ones((1, 1, 3))), {"tolerance": float("nan")}, "tolerance is nan"),
        (Conv(np.ones((1, 1, 3))), {"tolerance": float("inf")}, "tolerance is inf"),
        (Conv(np.ones((1, 1, 3))), {"tolerance": "much"}, "tolerance is 'much'"),
        (Conv(np.ones((1, 1, 3))), {"tolerance": True}, "tolerance is True"),
        (Conv(np.ones((1, 1, 3)), transposed=True), {}, "conv is transposed; .* parts transposed, the last first"),
        (Conv(np.ones((1, 1, 3), complex)), {}, "conv has complex128 weights; .* decompose the real and imaginary"),
        (Conv(np.ones((1, 1, 3), int)), {}, "conv has int64 weights, .* convert them to float64 first"),
        (Conv(np.full((1, 1, 3), np.nan)), {}, "conv has weights that are NaN or infinite"),
        (Conv(torch.ones(1, 1, 3, device="meta")), {}, "conv has weights on the meta device"),
    ],
)
def test_refusals(conv, options, message):
    with pytest.raises(ConvolithError, match=message):
        cl.decompose(conv, **options)


@pytest.mark.parametrize(("rank", "exact"), [(25, True), (12, False)])
def test_an_exact_chain_is_better_where_it_costs_hardly_more(rank, exact):
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(64, rank)))[0] for _ in range(2))
    sizes = np.append(np.ones(rank - 1), 1e-6)
    found = decompose(Conv((left * sizes @ right.T)[:, :, None, None]), tolerance=1e-3)
    assert (found.relative < 1e-10) == exact
    assert found.multiplications_after == 128 * (rank if exact else rank - 1)


def test_a_search_ends_when_its_time_is_over():
    conv = cl.Conv(np.random.default_rng(0).normal(size=(24, 24, 3, 3)))
    found = cl.decompose(conv, tolerance=0.5, budget_seconds=1e-9)
    assert "not tried within budget_seconds=1e-09: polynomial, low rank" in found.reason
    assert not found.parts
    whole = cl.decompose(conv, tolerance=0.9)
    assert "not tried" not in whole.reason
    assert whole.parts


@pytest.mark.parametrize("budget", [0, -1, float("nan"), "long", True])
def test_a_budget_must_be_seconds(budget):
    with pytest.raises(cl.ConvolithError, match="budget_seconds is"):
        cl.decompose(cl.Conv(np.ones((1, 1, 3, 3))), budget_seconds=budget)

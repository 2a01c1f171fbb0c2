"""The state behind a fit: every geometry against windows written out, sums of states, smaller kernels, files, refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import convolith as cl
from convolith import ConvolithError, Gram, correlate, fit
from convolith.fitting.data.polynomials import monomials, values
from convolith.fitting.moments import correlations, lagged_products, moments, weighted_lags, weighted_products
from convolith.fitting.moments.window_products import window_sums
from convolith.jit.target import host, widths


def written_out(x, y, kernel_size, stride, dilation, weights):
    """Z'WZ of [windows of x, 1, y], by loops over taps."""
    axes = len(kernel_size)
    columns = []
    for channel in range(x.shape[1]):
        for tap in np.ndindex(*kernel_size):
            index = [slice(t * d, t * d + s * (n - 1) + 1, s) for t, d, s, n in zip(tap, dilation, stride, y.shape[2:])]
            columns.append(x[(slice(None), channel, *index)].ravel())
    Z = np.stack([*columns, np.ones(weights.size), *np.moveaxis(y, 1, 0).reshape(y.shape[1], -1)], 1)
    assert axes == x.ndim - 2
    return Z.T @ (Z * weights.reshape(-1, 1)), np.sqrt((Z**2).sum(0))


@st.composite
def geometries(draw):
    axes = draw(st.integers(1, 3))

    def each(low, high):
        return draw(st.tuples(*[st.integers(low, high)] * axes))

    kernel_size, stride, dilation, output = each(1, 4), each(1, 3), each(1, 3), each(1, 6)
    size = tuple(
        (o - 1) * s + d * (k - 1) + 1 + draw(st.integers(0, s - 1))
        for o, s, d, k in zip(output, stride, dilation, kernel_size)
    )
    return kernel_size, stride, dilation, output, size


@pytest.mark.slow
@settings(max_examples=100)
@given(
    geometries(), st.integers(1, 2), st.integers(1, 3), st.integers(1, 2), st.sampled_from("1wm"), st.integers(0, 99)
)
def test_the_state_is_that_of_the_windows(geometry, batch, channels, outputs, kind, seed):
    kernel_size, stride, dilation, output, size = geometry
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(batch, channels, *size)) + 5, rng.normal(size=(batch, outputs, *output)) - 2
    options = {}
    weights = np.ones((batch, *output))
    if kind == "w":
        options["weights"] = weights = rng.uniform(size=weights.shape)
    if kind == "m":
        options["mask"] = rng.random(weights.shape) < 0.2
        weights = np.where(options["mask"], 0.0, 1.0)
    gram = Gram(kernel_size, channels, outputs, stride=stride, dilation=dilation).update(x, y, **options)
    expected, lengths = written_out(x, y, kernel_size, stride, dilation, weights)
    assert gram.equations == np.count_nonzero(weights)
    assert np.abs((gram.moments - expected) / lengths / lengths[:, None]).max() < 1e-12


@pytest.mark.parametrize("by", ["transforms", "products", *(f"lagged {width}" for width in widths())])
@pytest.mark.parametrize(("channels", "taps"), [(1, (5, 7)), (3, (3, 2)), (2, (9,)), (1, (2, 3, 2)), (4, (1, 1))])
def test_every_way_to_correlate(monkeypatch, by, channels, taps):
    way, *width = by.split()
    monkeypatch.setattr(correlations, "WAYS", {way: correlations.WAYS[way]})
    if width:
        monkeypatch.setattr(lagged_products, "host", lambda: host(*width))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, channels, *(k + 6 for k in taps)))
    y = rng.normal(size=(2, 3, *[7] * len(taps)))
    expected, lengths = written_out(x, y, taps, *[(1,) * len(taps)] * 2, np.ones((2, *[7] * len(taps))))
    products, targets = window_sums(torch.from_numpy(x), torch.from_numpy(y), taps)
    n = channels * int(np.prod(taps))
    scale = lengths[:n, None] * lengths[:n]
    assert np.abs((products.reshape(n, n).numpy() - expected[:n, :n]) / scale).max() < 1e-13
    np.testing.assert_allclose(targets.reshape(n, 3).numpy(), expected[:n, n + 1 :], atol=1e-11)
    again = window_sums(torch.from_numpy(x), torch.from_numpy(y), taps, products=False)[1]
    torch.testing.assert_close(again, targets, atol=1e-11, rtol=0)


def relative(gram, other):
    scale = np.sqrt(np.diag(other.moments))
    return np.abs((gram.moments - other.moments) / scale / scale[:, None]).max()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_sums_do_not_depend_on_threads(threads):
    planes = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 2, 130, 90)))
    line = lagged_products.Line(planes, (3, 4), (130, 90))
    expected = lagged_products.auto(line, (3, 4))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert torch.equal(lagged_products.auto(line, (3, 4)), expected)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(expected, expected.flip(2, 3).transpose(0, 1))  # to the last bit


@pytest.mark.slow
@settings(max_examples=60)
@given(
    st.integers(1, 4),
    st.integers(1, 2),
    st.integers(1, 3),
    st.lists(st.integers(1, 28), max_size=4, unique=True),
    st.integers(0, 9),
)
def test_any_split_gives_the_same_state(taps, stride, dilation, cuts, seed):
    """Rows of y are cut anywhere; a chunk of x reaches over its last row by the kernel."""
    rng = np.random.default_rng(seed)
    options = {"stride": stride, "dilation": dilation}
    extent = dilation * (taps - 1) + 1
    x, y = rng.normal(size=(2, 29 * stride + extent, 20)) + 100, rng.normal(size=(1, 30, (20 - extent) // stride + 1))
    whole = Gram((taps, taps), 2, 1, **options).update(x[:, : 29 * stride + extent], y)
    parts = []
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), 30]):
        rows = slice(start * stride, (stop - 1) * stride + extent)
        parts.append(Gram((taps, taps), 2, 1, **options).update(x[:, rows], y[:, start:stop]))
    joined = Gram((taps, taps), 2, 1, **options)
    for part in reversed(parts):
        joined.merge(part)
    assert joined.equations == whole.equations
    assert relative(joined, whole) < 1e-12
    if len(parts) > 1:
        first = slice(0, (sorted(cuts)[0] - 1) * stride + extent)
        joined.downdate(x[:, first], y[:, : sorted(cuts)[0]])
        assert joined.equations == whole.equations - parts[0].equations
        assert relative(joined.merge(parts[0]), whole) < 1e-11


def test_tiles_and_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 2, 40, 31)), rng.normal(size=(3, 1, 19, 29))
    weights = rng.uniform(size=(19, 29))
    options = {"stride": (2, 1), "dilation": (3, 1)}
    for given_weights in (None, weights):
        whole = Gram((2, 3), 2, 1, **options).update(x, y, weights=given_weights)
        monkeypatch.setattr(moments, "TILE", 300)
        monkeypatch.setattr(weighted_products, "CHUNK", 100)
        assert relative(Gram((2, 3), 2, 1, **options).update(x, y, weights=given_weights), whole) < 1e-13
        monkeypatch.undo()


@pytest.mark.filterwarnings("ignore:residuals")  # of data that no such kernel made
@pytest.mark.slow(quick=3)
@pytest.mark.parametrize("padding", ["valid", "same", "full", 1, ((0, 2), (1, 0))])
@pytest.mark.parametrize("offset", [False, True])
def test_a_state_gives_what_fit_gives(padding, offset):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(2, 3, 3, 4))
    x = rng.normal(size=(2, 3, 20, 22)) + 3
    clean = correlate(x, kernel, padding=padding)
    y = clean + 0.1 * rng.normal(size=clean.shape) + 1
    mask = rng.random(clean.shape[2:]) < 0.1
    gram = Gram((3, 4), 3, 2, padding=padding)
    for image in range(2):
        gram.update(x[image], y[image], mask=mask)
    for ridge in (0.0, 5.0):
        found, expected = (
            gram.solve(offset=offset, ridge=ridge),
            fit(x, y, kernel_size=(3, 4), padding=padding, mask=mask, offset=offset, ridge=ridge),
        )
        np.testing.assert_allclose(found.kernel, expected.kernel, atol=1e-11)
        np.testing.assert_allclose(found.stderr, expected.stderr, rtol=1e-9)
        assert found.residual_rms == pytest.approx(expected.residual_rms)
        assert found.loss[0] == pytest.approx(expected.loss[0])
        assert found.condition == pytest.approx(expected.condition)
        np.testing.assert_allclose(correlate(x, found.conv), correlate(x, expected.conv), atol=1e-9)
        if offset:
            np.testing.assert_allclose(found.offset, expected.offset, atol=1e-10)


@pytest.mark.slow(quick=5)
@pytest.mark.parametrize("size", [(5, 5), (3, 5), (1, 1), (4, 2)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_a_smaller_kernel_lies_in_the_middle(size, dilation):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1, 40, 41))
    extent = dilation * 4 + 1
    y = rng.normal(size=(1, 41 - extent, 42 - extent))
    small = Gram((5, 5), dilation=dilation).update(x, y).restricted_to(size)
    before = [(5 - k) // 2 * dilation for k in size]
    after = [(5 - k) * dilation - b for k, b in zip(size, before)]
    inner = x[:, before[0] : 40 - after[0], before[1] : 41 - after[1]]
    expected = Gram(size, dilation=dilation).update(inner, y)
    assert relative(small, expected) < 1e-12
    padded = Gram((5, 5), dilation=dilation, padding="same").update(x, rng.normal(size=(1, 40, 41))).restricted_to(size)
    assert correlate(x, padded.solve().conv).shape == (1, 40, 41)


def test_a_state_survives_a_file(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 20, 20)).astype("float32"), rng.normal(size=(3, 10, 19)).astype("float32")
    gram = Gram((3, 4), 2, 3, stride=(2, 1), padding=((1, 1), (0, 2))).update(x, y)
    gram.save(tmp_path / "state.npz")
    again = Gram.load(tmp_path / "state.npz")
    assert relative(again, gram) == 0
    assert relative(again.merge(gram), gram.merge(gram)) == 0
    assert vars(again).keys() == vars(gram).keys()
    assert [again.options, again.equations, again.dtypes] == [gram.options, gram.equations, gram.dtypes]
    content = (tmp_path / "state.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[:-200])
    with pytest.raises(ConvolithError, match="cut.npz, which cannot be read as a state .* is it complete"):
        Gram.load(tmp_path / "cut.npz")
    np.savez(tmp_path / "other.npz", about=np.array('{"kind": "convolith gram", "version": 99}'))
    with pytest.raises(ConvolithError, match="of version 99; expected a convolith gram of 2"):
        Gram.load(tmp_path / "other.npz")
    np.savez(tmp_path / "plain.npz", weight=x)
    with pytest.raises(ConvolithError, match="cannot be read as a state"):
        Gram.load(tmp_path / "plain.npz")
    with pytest.raises(ConvolithError, match="there is no such file"):
        Gram.load(tmp_path / "none.npz")
    with pytest.raises(ConvolithError, match="expected a name that ends in .npz"):
        gram.save(tmp_path / "state.pickle")
    with pytest.raises(ConvolithError, match="cannot be written"):
        gram.save(tmp_path / "folder" / "state.npz")


def test_what_does_not_belong_in_a_state_leaves_it_as_it_was():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(1, 12, 12)), rng.normal(size=(1, 10, 10))
    gram = Gram(3).update(x, y)
    before = gram.moments
    spotted = x.copy()
    spotted[0, 2, 3] = np.inf
    refusals = {
        "x has 2 channels, but this state is of 1": (np.stack([x[0]] * 2), y),
        "y has 2 channels, but this state is of 1": (x, np.stack([y[0]] * 2)),
        "come in float32 and float64, but this state began with float64 and float64": (x.astype("float32"), y),
        r"x has 1 non-finite value, the first at \(0, 0, 2, 3\)": (spotted, y),
        "kernel_size=\\(4, 4\\) would fit": (x, y[:, 1:, 1:]),
    }
    for message, pair in refusals.items():
        for change in (gram.update, gram.downdate):
            with pytest.raises(ConvolithError, match=message):
                change(*pair)
    with pytest.raises(ConvolithError, match="100 equations to take out of 0"):
        Gram(3).downdate(x, y)
    with pytest.raises(ConvolithError, match=r"other has kernel_size \(5, 5\), but this state \(3, 3\)"):
        gram.merge(Gram(5))
    with pytest.raises(ConvolithError, match="other has padding"):
        gram.merge(Gram(3, padding=1))
    with pytest.raises(ConvolithError, match="other come in float32"):
        gram.merge(Gram(3).update(x.astype("float32"), y.astype("float32")))
    with pytest.raises(ConvolithError, match="other is a ndarray"):
        gram.merge(x)
    with pytest.raises(ConvolithError, match="expected none larger than the state's"):
        gram.restricted_to(4)
    with pytest.raises(ConvolithError, match='padding "same" with a stride'):
        Gram(3, padding="same", stride=2).restricted_to(1)
    with pytest.raises(ConvolithError, match="the state holds no equations"):
        Gram(3).solve()
    with pytest.raises(ConvolithError, match="ridge is -1"):
        gram.solve(ridge=-1)
    with pytest.raises(ConvolithError, match="in_channels is 0; expected 1 or more"):
        Gram(3, 0)
    assert np.array_equal(gram.moments, before)


def test_a_photographs_kernel_is_that_of_a_dense_solver():
    """The normal matrix has a condition number of 1e7 and more; what it loses comes back from the data."""
    data = pytest.importorskip("skimage.data")
    photo = data.camera()[100:220, 100:230].astype(float)
    kernel = np.random.default_rng(0).uniform(size=(1, 1, 11, 11))
    y = correlate(photo[None], kernel) + np.random.default_rng(1).normal(size=(1, 110, 120))
    found = fit(photo[None], y, kernel_size=11)
    assert found.condition > 1e4
    A = np.lib.stride_tricks.sliding_window_view(photo, (11, 11)).reshape(-1, 121)
    expected = np.linalg.lstsq(A, y.ravel(), rcond=None)[0]
    np.testing.assert_allclose(found.kernel.ravel(), expected, atol=1e-11)
    assert cl.Gram is Gram


def test_the_earlier_name_of_restricted_to_warns_and_works():
    gram = Gram(3).update(np.ones((1, 8, 8)), np.ones((1, 6, 6)))
    with pytest.warns(DeprecationWarning, match="sub is called restricted_to now"):
        assert np.array_equal(gram.sub(1).matrix, gram.restricted_to(1).matrix)


@pytest.mark.parametrize("stretch", [64, 1024])
@pytest.mark.parametrize(
    ("images", "channels", "size", "taps", "degree"),
    [
        (1, 1, (16,), (3,), 0), (2, 2, (16,), (3,), 1), (1, 1, (300,), (4,), 2), (1, 1, (9, 10), (3, 3), 0),
        (1, 1, (9, 90), (3, 2), 2), (2, 2, (9, 10), (2, 3), 1), (1, 2, (5, 6, 7), (2, 2, 3), 2), (1, 1, (9, 9), (1, 1), 3),
    ],
)  # fmt: skip
def test_weighted_sums_lag_by_lag_are_those_of_formed_windows(
    images, channels, size, taps, degree, stretch, monkeypatch
):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(weighted_lags, "STRETCH", stretch)
    x = rng.normal(size=(images, channels, *size))
    lengths = [n - k + 1 for n, k in zip(size, taps)]
    weights, places = rng.normal(size=(images, *lengths)), [np.linspace(-1, 1, n)[None] for n in lengths]
    powers = monomials(len(taps), degree)
    found = weighted_lags.weighted_window_sums(x, weights, places, powers, taps)
    windows = np.lib.stride_tricks.sliding_window_view(x, taps, axis=tuple(range(2, 2 + len(taps))))
    rows = np.moveaxis(windows, 1, 1 + len(taps)).reshape(weights.size, -1)
    factors = (weights[:, None] * values(places, powers)).swapaxes(0, 1).reshape(len(powers), -1)
    expected = np.stack([(rows.T * factor) @ rows for factor in factors])
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("degree", [0, 1, 2])
@pytest.mark.parametrize("background", [None, 0, 3])
def test_formed_windows_and_lags_give_the_same_state(degree, background, monkeypatch):
    rng = np.random.default_rng(1)
    x, y, weights = rng.normal(size=(2, 20, 22)) + 3, rng.normal(size=(2, 9, 10)), rng.random((9, 10))
    options = {"kernel_size": (3, 2), "in_channels": 2, "out_channels": 2, "stride": 2, "dilation": (1, 3)}

    def state():
        options_of_degree = {"degree": degree, "background_degree": background or 0}
        return cl.VaryingGram(**options, **options_of_degree).update(x, y, weights=weights)

    by_lags = state()
    monkeypatch.setattr(weighted_products, "FORMED", 0.0)
    assert relative(state(), by_lags) < 1e-13

"""Recovered kernels: closed form and gradient descent, all options, statistics, refusals."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import convolith as cl
from convolith import Conv, ConvolithError, compose, convolve, correlate, fit
from tests.strategies import options


def textbook_problem(seed: int):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(1, 10, 10))
    both = compose(Conv(rng.normal(size=(1, 1, 2, 2))), Conv(rng.normal(size=(1, 1, 3, 3))))
    windows = np.lib.stride_tricks.sliding_window_view(x[0], (4, 4)).reshape(-1, 16)
    return x, both, 1 / np.linalg.norm(windows, 2) ** 2


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("seed", range(10))
def test_descent_and_least_squares_and_composition_agree(seed):
    x, both, largest = textbook_problem(seed)
    y = correlate(correlate(x, both.first), both.second)
    learn = {"kernel_size": 4, "method": "gd", "steps": 1000}
    if largest > 0.01:
        learned = fit(x, y, learning_rate=0.01, **learn)
    else:
        with pytest.raises(ConvolithError, match="learning_rate is 0.01: gradient descent diverges") as caught:
            fit(x, y, learning_rate=0.01, **learn)
        advised = float(str(caught.value).split("learning_rate=")[1].split()[0])
        assert advised < largest
        learned = fit(x, y, learning_rate=advised, **learn)
    assert len(learned.loss) == 1000
    assert learned.loss[-1] < 1e-6 * learned.loss[0]
    solved = fit(x, y, kernel_size=4)
    np.testing.assert_allclose(solved.kernel, both.conv.weight, atol=1e-9)
    np.testing.assert_allclose(learned.kernel, both.conv.weight, atol=1e-9)


@pytest.mark.slow
@settings(max_examples=100)
@given(st.data(), st.integers(1, 2), st.booleans(), st.integers(0, 99))
def test_any_geometry_is_recovered(data, axes, offset, seed):
    rng = np.random.default_rng(seed)
    chosen = data.draw(options(axes))
    kernel_size = data.draw(st.tuples(*[st.integers(1, 3)] * axes))
    size = {1: (80,), 2: (19, 21)}[axes]
    x = rng.normal(size=(2, 2, *size))
    kernel, constant = rng.normal(size=(3, 2, *kernel_size)), rng.normal(size=3) * offset
    y = correlate(x, kernel, constant, **chosen)
    assume(y[:, 0].size > 2 * (kernel[0].size + 1))
    found = fit(x, y, kernel_size=kernel_size, offset=offset, **chosen)
    np.testing.assert_allclose(found.kernel, kernel, atol=1e-9)
    assert found.residual_rms < 1e-10
    np.testing.assert_allclose(correlate(x, found.conv), y, atol=1e-9)
    if offset:
        np.testing.assert_allclose(found.offset, constant, atol=1e-9)
    else:
        assert found.offset is None


def test_three_axes_and_unbatched_and_torch():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 8, 9, 7)), rng.normal(size=(1, 2, 2, 1, 3))
    y = correlate(x, kernel)
    np.testing.assert_allclose(fit(x, y, kernel_size=(2, 1, 3)).kernel, kernel, atol=1e-10)
    batched = fit(torch.from_numpy(x)[None], torch.from_numpy(y)[None], kernel_size=(2, 1, 3))
    assert isinstance(batched.kernel, torch.Tensor)
    np.testing.assert_allclose(batched.kernel.numpy(), kernel, atol=1e-10)


def test_the_closed_form_is_numpys():
    """Weights, mask, ridge and offset against the normal equations written out."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(1, 20, 22)), rng.normal(size=(2, 18, 20))
    weights, mask = rng.uniform(0.5, 2, size=(18, 20)), rng.random((18, 20)) < 0.2
    found = fit(x, y, kernel_size=3, offset=True, weights=weights, mask=mask, ridge=0.7)
    rows = np.lib.stride_tricks.sliding_window_view(x[0], (3, 3)).reshape(-1, 9)
    A = np.column_stack([rows, np.ones(len(rows))])
    w = np.where(mask, 0, weights).ravel()
    penalty = 0.7 * np.diag([1.0] * 9 + [0.0])
    G = A.T @ (w[:, None] * A)
    expected = np.linalg.solve(G + penalty, A.T @ (w[:, None] * y.reshape(2, -1).T))
    np.testing.assert_allclose(found.kernel.reshape(2, 9).T, expected[:9], atol=1e-12)
    np.testing.assert_allclose(found.offset, expected[9], atol=1e-12)
    residual = y.reshape(2, -1).T - A @ expected
    paid = 0.7 * (expected[:9] ** 2).sum()
    assert found.loss[0] == pytest.approx((w[:, None] * residual**2).sum() + paid)
    assert found.residual_rms == pytest.approx(np.sqrt((w[:, None] * residual**2).sum() / (2 * w.sum())))
    inverse = np.linalg.inv(G + penalty)
    unpenalised = y.reshape(2, -1).T - A @ np.linalg.solve(G, A.T @ (w[:, None] * y.reshape(2, -1).T))
    sigma = (w[:, None] * unpenalised**2).sum(axis=0) / ((w > 0).sum() - 10)
    expected_stderr = np.sqrt(np.diag(inverse @ G @ inverse)[:9, None] * sigma)
    np.testing.assert_allclose(found.stderr.reshape(2, 9).T, expected_stderr, rtol=1e-9)


@pytest.mark.slow
def test_descent_minimises_the_same_sum():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(1, 16, 16)), rng.normal(size=(1, 14, 14))
    keywords = {
        "kernel_size": 3,
        "offset": True,
        "weights": rng.uniform(0.5, 2, size=(14, 14)),
        "mask": rng.random((14, 14)) < 0.2,
        "ridge": 3.0,
    }
    solved, learned = fit(x, y, **keywords), fit(x, y, method="gd", steps=2000, **keywords)
    np.testing.assert_allclose(learned.kernel, solved.kernel, atol=1e-9)
    np.testing.assert_allclose(learned.offset, solved.offset, atol=1e-9)
    assert learned.residual_rms == pytest.approx(solved.residual_rms)
    assert learned.loss[-1] == pytest.approx(solved.loss[0])
    assert learned.stderr is None


@pytest.mark.filterwarnings("ignore:residuals")  # of data that no such kernel made
@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize(("method", "steps"), [("momentum", 800), ("adam", 3000), ("lbfgs", 60)])
def test_every_optimiser_ends_where_the_closed_form_is(method, steps, offset):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 16, 16))
    y = correlate(x, rng.normal(size=(1, 1, 3, 3))) + rng.normal(size=(1, 14, 14)) + 1
    keywords = {"kernel_size": 3, "offset": offset, "ridge": 2.0, "weights": rng.uniform(0.5, 2, size=(14, 14))}
    learned = fit(x, y, method=method, steps=steps, **keywords)
    solved = fit(x, y, **keywords)
    np.testing.assert_allclose(learned.kernel, solved.kernel, atol=1e-4)
    assert len(learned.loss) == steps
    assert learned.loss[-1] == pytest.approx(solved.loss[0], rel=1e-6)
    assert learned.method == method


@pytest.mark.filterwarnings("ignore:.* has not converged")
def test_options_of_a_descent_and_of_a_loss_are_grouped_or_keywords():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 20, 20))
    y = cl.correlate(x, rng.normal(size=(1, 1, 3, 3)))
    options = {"learning_rate": 0.01, "steps": 20, "seed": 3}
    for loss, keywords in (
        ("squares", {}),
        (cl.Huber(0.1), {"loss": "huber", "huber_delta": 0.1}),
        (cl.Huber(), {"loss": "huber"}),
    ):
        grouped = fit(x, y, kernel_size=3, method=cl.Descent("adam", **options), loss=loss)
        np.testing.assert_array_equal(
            grouped.kernel, fit(x, y, kernel_size=3, method="adam", **options, **keywords).kernel
        )
        assert grouped.method == "adam"
    with pytest.raises(
        ConvolithError, match="steps was given together with a Descent; expected it as one of its fields"
    ):
        fit(x, y, kernel_size=3, method=cl.Descent("adam"), steps=3)
    with pytest.raises(ConvolithError, match="method is 'lstsq'; expected one of gd, momentum, adam, lbfgs"):
        cl.Descent("lstsq")
    with pytest.raises(ConvolithError, match="delta is -1; expected a positive number"):
        cl.Huber(-1)
    with pytest.raises(ConvolithError, match=r"loss is Huber\(delta=None\), which has no closed form"):
        fit(x, y, kernel_size=3, loss=cl.Huber())
    with pytest.raises(TypeError, match="unexpected keyword argument 'step'"):
        fit(x, y, kernel_size=3, method="gd", step=3)


def test_hubers_loss_does_not_mind_single_pixels():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(1, 30, 30)), rng.normal(size=(1, 1, 3, 3))
    y = correlate(x, kernel) + 0.01 * rng.normal(size=(1, 28, 28))
    y[0, rng.random((28, 28)) < 0.05] += 50.0
    robust = fit(x, y, kernel_size=3, method="lbfgs", loss="huber", huber_delta=0.02, steps=100)
    np.testing.assert_allclose(robust.kernel, kernel, atol=0.01)
    assert np.abs(fit(x, y, kernel_size=3).kernel - kernel).max() > 0.3
    unguided = fit(x, y, kernel_size=3, offset=True, method="lbfgs", loss="huber", steps=100)
    assert np.abs(unguided.kernel - kernel).max() < 0.3
    far = fit(x, y, kernel_size=3, method="lbfgs", loss="huber", huber_delta=1e6, steps=60)
    np.testing.assert_allclose(far.kernel, fit(x, y, kernel_size=3).kernel, atol=1e-6)


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("offset", [False, True])
def test_counts_are_most_likely_under_the_kernel_that_is_found(offset):
    rng = np.random.default_rng(0)
    x, kernel = rng.uniform(1, 50, size=(1, 60, 60)), rng.uniform(0.5, 1, size=(1, 1, 3, 3))
    y = rng.poisson(correlate(x, kernel) + 20 * offset).astype(float)
    found = fit(x, y, kernel_size=3, method="lbfgs", loss="poisson", offset=offset, steps=200)
    assert found.kernel.min() > 0
    np.testing.assert_allclose(found.kernel, kernel, atol=0.08)

    def negative(kernel):
        mean = correlate(x, kernel, found.offset)
        return (mean - y * np.log(mean)).sum()

    assert found.loss[-1] == pytest.approx(negative(found.kernel), rel=1e-9)
    for _ in range(20):
        step = 1e-3 * rng.normal(size=kernel.shape)
        assert negative(found.kernel + step) > negative(found.kernel)


@pytest.mark.filterwarnings("ignore:residuals")  # which such a fit leaves
@pytest.mark.slow
@pytest.mark.parametrize("ridge", [0.0, 30.0, 1e4])
def test_standard_errors_are_the_spread_of_the_kernels(ridge):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(1, 24, 24)), rng.normal(size=(1, 1, 3, 3))
    clean = correlate(x, kernel)
    fits = [fit(x, clean + 0.1 * rng.normal(size=clean.shape), kernel_size=3, ridge=ridge) for _ in range(300)]
    spread = np.std([found.kernel for found in fits], axis=0)
    claimed = np.mean([found.stderr for found in fits], axis=0)
    np.testing.assert_allclose(claimed, spread, rtol=0.15)


@pytest.mark.parametrize(
    ("x_dtype", "y_dtype", "expected"),
    [
        ("float32", "float32", "float32"),
        ("uint8", "float32", "float32"),
        ("uint8", "int64", "float64"),
        ("float16", "float32", "float16"),
    ],
)
def test_the_kernel_has_the_dtype_of_the_data(x_dtype, y_dtype, expected):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, size=(1, 12, 12)).astype(x_dtype)
    kernel = np.array([[[[1, 2], [-3, 4]]]])
    y = correlate(x.astype(int), kernel).astype(y_dtype)
    found = fit(x, y, kernel_size=2)
    assert found.kernel.dtype == expected
    np.testing.assert_allclose(found.kernel, kernel, atol=1e-2)


@pytest.mark.filterwarnings("ignore:gd has not converged")
def test_a_callback_sees_every_step_and_a_seed_fixes_the_start():
    x, both, _ = textbook_problem(0)
    seen = []
    learned = fit(
        x, both(x), kernel_size=4, method="gd", steps=7, callback=lambda *a: seen.append(a), seed=3, progress=True
    )
    assert [step for step, _, _ in seen] == list(range(7))
    assert tuple(loss for _, loss, _ in seen) == learned.loss
    np.testing.assert_array_equal(seen[-1][2], learned.kernel)
    assert fit(x, both(x), kernel_size=4, method="gd", steps=7, seed=3).loss == learned.loss
    assert fit(x, both(x), kernel_size=4, method="gd", steps=7, seed=4).loss != learned.loss


@pytest.mark.filterwarnings("ignore:gd has not converged")
def test_descent_needs_no_gradients_of_its_caller():
    x, both, _ = textbook_problem(0)
    expected = fit(x, both(x), kernel_size=4, method="gd", steps=3).loss
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert fit(x, both(x), kernel_size=4, method="gd", steps=3).loss == expected


def test_a_single_step_can_diverge():
    x, both, _ = textbook_problem(0)
    with pytest.raises(ConvolithError, match="gradient descent diverges"):
        fit(x, both(x), kernel_size=4, method="gd", steps=1, learning_rate=1e6)


def test_data_that_cannot_tell_say_so():
    with pytest.warns(RuntimeWarning, match="the data determine only 1 of 9 coefficients"):
        found = fit(np.ones((1, 9, 9)), np.full((1, 7, 7), 9.0), kernel_size=3)
    np.testing.assert_allclose(found.kernel, np.ones((1, 1, 3, 3)), atol=1e-12)
    assert found.condition == np.inf
    channel = np.random.default_rng(0).normal(size=(16, 16))
    with pytest.warns(RuntimeWarning, match="the smallest is given"):
        found = fit(np.stack([channel, 10 * channel]), 101 * channel[None], kernel_size=1)
    np.testing.assert_allclose(found.kernel.ravel(), [1, 10], atol=1e-9)
    noisy = np.stack([channel] * 2), (channel + np.random.default_rng(1).normal(size=(16, 16)))[None]
    with pytest.warns(RuntimeWarning, match="only 1 of 2"):
        twice = fit(*noisy, kernel_size=1)
    once = fit(channel[None], noisy[1], kernel_size=1)
    np.testing.assert_allclose(2 * twice.stderr[0, 0], once.stderr[0, 0])
    fit(np.ones((1, 9, 9)), np.full((1, 7, 7), 9.0), kernel_size=3, ridge=1e-3)


x, y = np.random.default_rng(0).normal(size=(1, 10, 10)), np.zeros((1, 8, 8))
spotted = x.copy()
spotted[0, 2, 3] = np.nan
REFUSED = {
    "non-finite x": (
        (spotted, y),
        {},
        r"x has 1 non-finite value, the first at \(0, 0, 2, 3\).*repair them, or pass nan='omit' or x_mask=, which leave out the 9 pixels of y that read them",
    ),
    "infinite weights": (
        (x, y),
        {"weights": np.full((8, 8), np.inf)},
        "weights has 64 non-finite .* give those pixels weight 0",
    ),
    "complex weights": ((x, y), {"weights": np.ones((8, 8), complex)}, "weights has dtype complex128; expected real"),
    "masked mask": ((x, y), {"mask": np.ma.masked_array(np.ones((8, 8), bool))}, "mask is a masked array itself"),
    "words": ((x, y), {"ridge": "a"}, "ridge is 'a'; expected a finite number"),
    "seed": ((x, y), {"method": "gd", "seed": 10**30}, "seed is .*; expected at most"),
    "non-finite y": ((x, y + np.inf), {}, r"y has 64 non-finite values, the first at \(0, 0, 0, 0\)"),
    "y of another size": (
        (x, np.zeros((1, 7, 7))),
        {},
        r"y has spatial size \(7, 7\) .* kernel_size=\(4, 4\) would fit",
    ),
    "y as large as x": (
        (x, x),
        {"stride": 2, "padding": 1},
        "y is as large as x: pass padding='same' with the padding_mode that y was made with, or padding='valid'",
    ),
    "y without a batch": ((x[None], y), {}, "y has shape"),
    "batches": ((np.stack([x, x]), y[None]), {}, "y has 1 images but x has 2"),
    "too few equations": (
        (x[:, :4, :4], y[:, :2, :2]),
        {},
        "y has 4 pixels to fit but each output channel has 9 unknowns",
    ),
    "kernel too large": (
        (x, y),
        {"kernel_size": 11},
        r"kernel_size is \(11, 11\), whose windows .* do not fit into x of spatial size \(10, 10\)",
    ),
    "complex": ((x + 0j, y), {}, "x has dtype complex128; fit works on real data"),
    "axes": ((x[0, 0], y[0]), {"kernel_size": (3, 3)}, "x has 1 axis but kernel_size \\(3, 3\\) means 2 spatial axes"),
    "method": ((x, y), {"method": "newton"}, "method is 'newton'; expected one of lstsq, gd, momentum, adam, lbfgs"),
    "loss": ((x, y), {"loss": "l1", "method": "gd"}, "loss is 'l1'; expected one of squares, huber, poisson"),
    "loss of lstsq": ((x, y), {"loss": "huber"}, 'loss is "huber", which has no closed form; pass method="lbfgs"'),
    "delta": (
        (x, y),
        {"loss": "huber", "method": "gd", "huber_delta": 0},
        "huber_delta is 0; expected a positive number",
    ),
    "delta of squares": ((x, y), {"method": "gd", "huber_delta": 1.0}, 'with loss="huber" only'),
    "counts": ((x, y), {"loss": "poisson", "method": "lbfgs"}, "x has a least value of .* is of counts, 0 or more"),
    "rate of counts": (
        (x**2, y),
        {"loss": "poisson", "method": "gd"},
        'learning_rate was not given, and method="gd" has none that suits loss="poisson"',
    ),
    "constraints of descent": ((x, y), {"method": "adam", "smoothness": 1.0}, "are solved in closed form"),
    "ridge": ((x, y), {"ridge": -1.0}, "ridge is -1.0; expected a finite number, 0 or more"),
    "steps": ((x, y), {"method": "gd", "steps": 0}, "steps is 0; expected 1 or more"),
    "learning rate": (
        (x, y),
        {"method": "gd", "learning_rate": -0.1},
        "learning_rate is -0.1; expected a positive number",
    ),
    "rate of lstsq": ((x, y), {"learning_rate": 0.1}, 'learning_rate was given, but method "lstsq" takes no steps'),
    "mask dtype": ((x, y), {"mask": np.zeros((8, 8))}, "mask has dtype float64; expected booleans"),
    "mask shape": ((x, y), {"mask": np.zeros((7, 8), bool)}, r"mask has shape \(7, 8\); expected \(8, 8\)"),
    "everything masked": ((x, y), {"mask": np.ones((8, 8), bool)}, "leave no pixel of y to fit"),
    "negative weights": ((x, y), {"weights": -np.ones((8, 8))}, "weights has a least value of -1; expected 0 or more"),
    "kinds": ((x, torch.from_numpy(y)), {}, "x is a NumPy array but y is a torch tensor"),
    "kernel size": ((x, y), {"kernel_size": 0}, "kernel_size is 0; expected 1 or more"),
    "kernel axes": ((x, y), {"kernel_size": (1, 1, 1, 1)}, "kernel_size has 4 entries"),
}


@pytest.mark.parametrize(("arguments", "keywords", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals(arguments, keywords, message):
    with pytest.raises(ConvolithError, match=message):
        fit(*arguments, **({"kernel_size": 3} | keywords))


def test_masked_pixels_may_be_anything():
    kernel = np.arange(9.0).reshape(1, 1, 3, 3)
    image = np.random.default_rng(0).normal(size=(1, 12, 12))
    spoiled = correlate(image, kernel)
    mask = np.zeros((10, 10), bool)
    spoiled[0, 3, 4], mask[3, 4] = np.nan, True
    np.testing.assert_allclose(cl.fit(image, spoiled, kernel_size=3, mask=mask).kernel, kernel, atol=1e-10)


@pytest.mark.parametrize(
    "geometry", [{}, {"stride": 2}, {"dilation": 2}, {"padding": "same", "padding_mode": "replicate"}]
)
def test_pixels_of_x_that_no_counted_pixel_reads_may_be_anything(geometry):
    kernel = np.arange(18.0).reshape(1, 2, 3, 3)
    image = np.random.default_rng(0).normal(size=(2, 22, 23))
    made = correlate(image, kernel, **geometry)
    image[1, 9, 8] = np.inf
    image[0, 0, 0] = np.nan
    spoiled = correlate(np.where(np.isfinite(image), 0.0, 1.0), np.ones_like(kernel), **geometry)[0] > 0.5
    found = cl.fit(image, made, kernel_size=3, mask=spoiled, **geometry)
    np.testing.assert_allclose(found.kernel, kernel, atol=1e-10)
    one_less = spoiled.copy()
    one_less[tuple(np.argwhere(spoiled)[0])] = False
    message = r"x has 2 non-finite values, the first at \(0, 0, 0, 0\).* the 1 pixels of y that read them"
    with pytest.raises(ConvolithError, match=message):
        cl.fit(image, made, kernel_size=3, mask=one_less, **geometry)


def test_the_kernel_of_a_convolution():
    rng = np.random.default_rng(21)
    room, dry = rng.normal(size=7) * 0.5 ** np.arange(7), rng.normal(size=(1, 500))
    wet = np.convolve(dry[0], room)[None, : dry.shape[1]]
    found = fit(dry, wet, kernel_size=(7,), padding=((6, 0),))
    np.testing.assert_allclose(found.impulse_response[0, 0], room, atol=1e-12)
    np.testing.assert_allclose(found.kernel[0, 0], room[::-1], atol=1e-12)
    turned = fit(dry, wet + 0.01 * rng.normal(size=wet.shape), kernel_size=(7,), padding=((6, 0),), flip=True)
    np.testing.assert_allclose(turned.kernel[0, 0], room, atol=0.01)
    np.testing.assert_array_equal(turned.psf, turned.kernel)
    np.testing.assert_allclose(correlate(dry, turned.conv), wet, atol=0.1)
    tensors = fit(torch.from_numpy(dry), torch.from_numpy(wet), kernel_size=(7,), padding=((6, 0),))
    np.testing.assert_allclose(tensors.psf.numpy(), found.psf, atol=1e-12)
    image = rng.normal(size=(1, 24, 25))
    kernel = rng.normal(size=(1, 1, 3, 5))
    noisy = convolve(image, kernel) + 0.1 * rng.normal(size=(1, 22, 21))
    one, other = (fit(image, noisy, kernel_size=(3, 5), flip=flip) for flip in (False, True))
    np.testing.assert_array_equal(one.psf, other.kernel)
    np.testing.assert_array_equal(np.flip(one.stderr, (2, 3)), other.stderr)

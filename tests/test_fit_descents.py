"""Fits by gradient descent: poor data, units, losses, and descents that have not converged."""

import warnings
from itertools import product

import numpy as np
import pytest

import convolith as cl
from convolith import ConvolithError, correlate, fit

K = np.outer([1, 2, 1], [1, 2, 3]) / 24
X = np.random.default_rng(0).random((1, 40, 41))
Y = correlate(X, K[None, None])
BLACK, FLAT = np.zeros((1, 40, 41)), np.ones((1, 40, 41))
METHODS, RATED = ("gd", "momentum", "adam", "lbfgs"), ("adam", "lbfgs")
"""Methods, and those that have a learning rate of their own for counts."""


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize(("method", "loss"), [*product(METHODS, ["squares", "huber"]), *product(RATED, ["poisson"])])
def test_poor_data_give_the_smallest_kernel_and_say_so(method, loss, offset):
    options = {"kernel_size": 3, "method": method, "loss": loss, "offset": offset, "steps": 60}
    with pytest.warns(RuntimeWarning, match=f"the data determine only {int(offset)} of {9 + offset} coefficients"):
        found = fit(BLACK, BLACK, **options)
    assert np.abs(found.kernel).max() < 1e-200
    if not offset:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* has not converged")
            with pytest.warns(RuntimeWarning, match="the data determine only 1 of 9 coefficients"):
                found = fit(FLAT, FLAT, **options)
        assert np.ptp(found.kernel) < 1e-12


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("loss", ["squares", "huber"])
@pytest.mark.parametrize("method", METHODS)
def test_a_black_target_gives_the_zero_kernel(method, loss):
    assert np.abs(fit(X, BLACK, kernel_size=3, method=method, loss=loss, steps=1000).kernel).max() < 1e-12


@pytest.mark.slow(quick=12)
@pytest.mark.parametrize("loss", ["squares", "huber"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("of_x", "of_y"), [(1.0, 1.0), (1e10, 1.0), (1e-10, 1e10)])
def test_exact_data_in_any_unit(method, loss, of_x, of_y):
    options = {"kernel_size": 3, "method": method, "loss": loss, "steps": 60 if method == "lbfgs" else 1000}
    found = fit(of_x * X, of_y * Y, **options)
    np.testing.assert_allclose(found.kernel[0, 0] * of_x / of_y, K, atol=1e-6)


@pytest.mark.parametrize("method", ["gd", "momentum"])
def test_plain_descents_with_an_offset_do_not_depend_on_the_unit(method):
    options = {"kernel_size": 3, "offset": True, "method": method, "steps": 300}
    expected = fit(X, Y + 0.1, **options)
    found = fit(1e10 * X, 1e-3 * (Y + 0.1), **options)
    np.testing.assert_allclose(found.kernel * 1e13, expected.kernel, rtol=1e-6)
    np.testing.assert_allclose(found.offset * 1e3, expected.offset, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"method": "gd", "steps": 10},
            'explains .* where the closed form explains 100.*; pass a larger steps=.*"lstsq"',
        ),
        ({"method": "adam", "steps": 50}, "adam has not converged in 50 steps"),
        ({"method": "adam", "loss": "huber", "steps": 20}, "adam has not converged in 20 steps"),
        ({"method": "gd", "loss": "huber", "huber_delta": 1e-3, "steps": 20}, "still changes"),
        ({"method": "adam", "loss": "poisson", "steps": 30}, "adam has not converged in 30 steps"),
    ],
)
def test_a_descent_that_has_not_converged_says_so(options, words):
    y = Y.copy()
    y[0, ::5, ::7] += 3
    with pytest.warns(RuntimeWarning, match=words):
        fit(X, y if "loss" in options else Y, kernel_size=3, **options)


def test_hubers_loss_begins_at_the_better_kernel():
    noisy = Y + 0.01 * np.random.default_rng(1).normal(size=Y.shape)
    closed = fit(X, noisy, kernel_size=3)
    found = fit(X, noisy, kernel_size=3, method="gd", loss="huber", steps=100)
    np.testing.assert_allclose(found.kernel, closed.kernel, atol=5e-3)
    assert found.explained > 0.98


def test_too_few_pixels_are_refused_as_by_the_closed_form():
    with pytest.raises(ConvolithError, match="y has 4 pixels to fit but each output channel has 9 unknowns"):
        cl.fit(X[:, :4, :4], Y[:, :2, :2], kernel_size=3, method="gd")

"""Standard errors of kernels: white noise, the jackknife for correlated noise, and noise in x."""

import numpy as np
import pytest

from convolith import Gram, correlate, filter_image, fit

STEPS = 500


def covered(x, kernel, noise, steps=STEPS, **options):
    """Return the fraction of weights, in some simulations, that lie within one standard error."""
    clean = correlate(x, kernel)
    inside, total = 0, np.zeros_like(kernel)
    for seed in range(steps):
        found = fit(x, clean + noise(np.random.default_rng(seed), clean.shape), kernel_size=kernel.shape[2:], **options)
        inside += int((np.abs(found.kernel - kernel) < found.stderr).sum())
        total += found.kernel
    return inside / kernel.size / steps


def white(rng, shape):
    return 0.1 * rng.normal(size=shape)


def correlated(rng, shape):
    """Return noise that is correlated between neighbouring pixels."""
    return filter_image(0.1 * rng.normal(size=shape[1:]), np.ones((3, 3)) / 3, padding_mode="circular")[None]


def smooth_field(size):
    return filter_image(np.random.default_rng(9).normal(size=size), np.ones((2, 2)), padding_mode="circular")[None]


@pytest.mark.slow
def test_two_thirds_of_the_weights_lie_within_a_standard_error():
    kernel = np.random.default_rng(1).normal(size=(1, 1, 3, 3))
    assert 0.65 <= covered(smooth_field((40, 40)), kernel, white) <= 0.71


@pytest.mark.filterwarnings("ignore:residuals", "ignore:the kernel goes on")  # as such a fit leaves them
@pytest.mark.slow
def test_the_jackknife_knows_correlated_noise():
    kernel = np.random.default_rng(1).normal(size=(1, 1, 3, 3))
    x = smooth_field((72, 72))
    assert 0.65 <= covered(x, kernel, correlated, 70, errors="jackknife") <= 0.71
    assert not 0.6 <= covered(x, kernel, correlated, 100) <= 0.75  # as if it were white


@pytest.mark.filterwarnings("ignore:residuals", "ignore:the kernel goes on")  # as such a fit leaves them
@pytest.mark.slow
def test_noise_in_x_no_longer_shrinks_the_kernel():
    kernel = np.random.default_rng(1).uniform(0.5, 1, size=(1, 1, 3, 3))
    clean = filter_image(np.random.default_rng(2).normal(size=(64, 64)), [[1, 0.4], [0.3, 0.1]])[None]
    y = correlate(clean, kernel)
    plain, corrected = np.zeros_like(kernel), np.zeros_like(kernel)
    for seed in range(200):
        noisy = clean + 0.4 * np.random.default_rng(seed).normal(size=clean.shape)
        plain += fit(noisy, y, kernel_size=3).kernel / 200
        corrected += fit(noisy, y, kernel_size=3, x_noise_variance=0.16).kernel / 200
    assert np.abs(plain / kernel - 1).max() > 0.05
    assert np.abs(corrected / kernel - 1).max() < 0.01
    state = Gram(3).update(noisy, y)
    expected = fit(noisy, y, kernel_size=3, x_noise_variance=[0.16]).kernel
    np.testing.assert_allclose(state.solve(x_noise_variance=0.16).kernel, expected, atol=1e-12)

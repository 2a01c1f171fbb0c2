"""`fit` says what its residual tells: a kernel that is cut off, a shift, errors that do not hold; and is silent otherwise."""

import warnings

import numpy as np
import pytest

import convolith as cl
from convolith import fit, kernels

RNG = np.random.default_rng(11)
SHARP = RNG.normal(size=(200, 220))
SMOOTH = cl.filter_image(RNG.normal(size=(200, 220)), kernels.gaussian(2.0), padding_mode="circular") * 10


def silent(*arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return fit(*arguments, **options)


@pytest.mark.parametrize("x", [SHARP, SMOOTH], ids=["sharp", "smooth"])
@pytest.mark.parametrize("noise", [0.0, 0.01, 1.0])
@pytest.mark.parametrize(
    "kernel", [kernels.box(5), kernels.gaussian(1.0, 5), kernels.motion(5, 45)], ids=["box", "gauss", "motion"]
)
def test_a_good_fit_is_silent(x, noise, kernel):
    y = cl.filter_image(x, kernel, padding_mode="symmetric") + noise * RNG.normal(size=x.shape)
    found = silent(x, y, kernel_size=kernel.shape)
    assert found.explained == pytest.approx(1 - noise**2 / y.var(), abs=0.02)
    silent(x, y, kernel_size=[n + 2 for n in kernel.shape], offset=True)
    silent(x.astype(np.float32), y.astype(np.float32), kernel_size=kernel.shape)


@pytest.mark.parametrize("x", [SHARP, SMOOTH], ids=["sharp", "smooth"])
def test_a_kernel_that_is_cut_off(x):
    y = cl.filter_image(x, kernels.disk(3.0), padding_mode="symmetric") + 0.001 * RNG.normal(size=x.shape)
    told = r"the kernel goes on beyond kernel_size \(3, 3\)" if x is SHARP else "99% of the kernel is in its outermost"
    with pytest.warns(RuntimeWarning, match=told + ".* larger kernel_size"):
        fit(x, y, kernel_size=3)
    aside = cl.filter_image(x, kernels.gaussian(0.8), padding_mode="symmetric", origin=(0, 2))
    where = (
        "its centre of mass lies .* from the middle" if x is SHARP else "outermost weights: try a larger kernel_size"
    )
    with pytest.warns(RuntimeWarning, match=where):
        fit(x, aside + 0.001 * RNG.normal(size=x.shape), kernel_size=5)


@pytest.mark.parametrize("shift", [(14, -15), (0, 40), (-6, 3)])
def test_pictures_that_are_shifted(shift):
    wide = RNG.normal(size=(300, 320))
    blurred = cl.filter_image(wide, kernels.gaussian(0.7, 5)) + 0.02 * RNG.normal(size=wide.shape)
    x, y = wide[50:250, 50:270], blurred[50 - shift[0] : 250 - shift[0], 50 - shift[1] : 270 - shift[1]]
    told = rf"y looks like x shifted by about \({shift[0]}, {shift[1]}\) pixels.*pass origin=\({shift[0]}, {shift[1]}\)"
    with pytest.warns(RuntimeWarning, match=told):
        found = fit(x, y, kernel_size=5)
    assert found.explained < 0.1
    found = fit(x, y, kernel_size=5, origin=shift)
    assert found.explained > 0.99
    np.testing.assert_allclose(found.kernel[0, 0], kernels.gaussian(0.7, 5), atol=0.01)


def test_noise_that_is_correlated_or_that_of_counts():
    y = cl.filter_image(SHARP, kernels.box(3), padding_mode="symmetric")
    correlated = cl.filter_image(RNG.normal(size=y.shape), kernels.gaussian(1.0), padding_mode="circular")
    with pytest.warns(
        RuntimeWarning, match=r'residuals of neighbouring pixels are correlated \(0\.\d+ .*errors="jackknife"'
    ):
        fit(SHARP, y + correlated, kernel_size=3)
    silent(SHARP, y + correlated, kernel_size=3, errors="jackknife")
    bright = 50 * np.exp(0.7 * SMOOTH)
    expected = cl.filter_image(bright, kernels.gaussian(1.0), padding_mode="symmetric")
    counts = RNG.poisson(expected).astype(float)
    with pytest.warns(RuntimeWarning, match="residuals vary .* as counts do.*weights=1/variance"):
        fit(bright, counts, kernel_size=9)
    silent(bright, counts, kernel_size=9, weights=1 / expected)


def test_nothing_to_explain():
    found = silent(SHARP, np.full_like(SHARP, 3.0), kernel_size=3, offset=True)
    assert np.isnan(found.explained)
    varying = cl.fit_varying(SHARP, 2 * SHARP, kernel_size=1, degree=1)
    assert varying.explained == pytest.approx(1.0)

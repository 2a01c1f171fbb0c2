"""Kernel size and ridge chosen by cross-validation over tiles, and the held-out error."""

import numpy as np
import pytest

import convolith as cl
from convolith import ConvolithError, correlate, filter_image, fit, fit_varying
from convolith.fitting.data.pixels import Pixels
from convolith.fitting.data.problem import read
from convolith.fitting.selection.tiles import states_of_tiles


def blur(kind, k):
    rng = np.random.default_rng(k)
    u = np.arange(k) - (k - 1) / 2
    r = np.hypot(u[:, None], u)
    kernel = {
        "disk": np.clip(k / 2 - r + 0.5, 0, 1),
        "random": rng.random((k, k)),
        "motion": np.clip(1 - np.abs(0.6 * u[:, None] - 0.8 * u), 0, 1) * (r <= k / 2),
    }[kind]
    return kernel / kernel.sum()


@pytest.mark.slow
@pytest.mark.parametrize("photo", ["camera", "coins", "brick", "moon"])
def test_the_size_of_a_blur_is_found_on_photographs(photo):
    """At 40 dB, within 2 taps in 9 of 10."""
    data = pytest.importorskip("skimage.data")
    image = getattr(data, photo)().astype(float)[:300, :300]
    near = []
    for number, (kind, k) in enumerate([("disk", 5), ("random", 9), ("motion", 13), ("random", 3), ("disk", 11)]):
        rng = np.random.default_rng(number)
        y = filter_image(image, blur(kind, k), padding_mode="reflect")
        y = y + 0.01 * y.std() * rng.normal(size=y.shape)
        found = fit(image[None], y[None], kernel_size="auto", max_size=21)
        near.append(abs(max(found.kernel.shape[2:]) - k) <= 2)
        assert len(found.selection) == 11
        assert (max(found.kernel.shape[2:]),) * 2 in [one.kernel_size for one in found.selection]
    assert sum(near) >= 0.9 * len(near)


@pytest.mark.filterwarnings("ignore:residuals")  # of models that are a little wrong
@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("wrong", ["vignette", "gamma", "rotation"])
def test_a_model_that_is_a_little_wrong_does_not_ask_for_ever_larger_kernels(wrong):
    image = pytest.importorskip("skimage.data").camera().astype(float)[:300, :300]
    transform = pytest.importorskip("skimage.transform")
    y = filter_image(image, blur("disk", 7), padding_mode="symmetric")
    rows, columns = np.mgrid[-1:1:300j, -1:1:300j]
    y = {
        "vignette": lambda: y * (1 - 0.3 * (rows**2 + columns**2)),
        "gamma": lambda: 255 * (y / 255) ** 0.8,
        "rotation": lambda: transform.rotate(y, 0.3, preserve_range=True, mode="symmetric"),
    }[wrong]()
    y = y + np.random.default_rng(0).normal(size=y.shape)
    found = fit(image, y, kernel_size="auto", max_size=21)
    assert 5 <= max(found.kernel.shape[2:]) <= 11
    assert fit(image, y, kernel_size="auto", max_size=21, size_tolerance=0.1).kernel.shape[2] <= 7


def test_each_axis_has_a_size_of_its_own():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(120, 130))
    kernel = np.outer([1.0], rng.uniform(0.5, 1, 9))
    y = filter_image(image, kernel) + 0.01 * rng.normal(size=image.shape)
    assert fit(image, y, kernel_size="auto", max_size=13).kernel.shape == (1, 1, 1, 9)
    assert fit(image, filter_image(image, kernel.T), kernel_size="auto", max_size=13).kernel.shape == (1, 1, 9, 1)


def test_a_size_at_the_limit_is_said():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(100, 100))
    y = filter_image(image, np.ones((9, 9)))
    with pytest.warns(RuntimeWarning) as said:
        fit(image, y, kernel_size="auto", max_size=5)
    assert "kernel_size (5, 5) reaches the largest that was tried" in str(said[0].message)


@pytest.mark.parametrize("x", [np.zeros((60, 60)), np.full((60, 60), 7.0)])
def test_a_flat_picture_has_no_size(x):
    with pytest.raises(ConvolithError, match="x is the same in all pixels that count"):
        fit(x, np.ones((60, 60)), kernel_size="auto")
    for wrong in (-0.1, 1, "half"):
        with pytest.raises(ConvolithError, match="size_tolerance is"):
            fit(x, x, kernel_size="auto", size_tolerance=wrong)


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_chosen_size_is_fitted_as_if_it_had_been_given(padding, axes):
    rng = np.random.default_rng(0)
    size = {1: (600,), 2: (60, 63), 3: (14, 15, 16)}[axes]
    batch = (1,) if axes == 3 else ()  # without a batch, three axes are channels and two of space
    x, kernel = rng.normal(size=(*batch, 2, *size)), rng.normal(size=(1, 2, *[3] * axes))
    y = correlate(x, kernel, np.array([2.0]), padding="same")
    y = y + 0.01 * rng.normal(size=y.shape)
    mask, weights = rng.random(size) < 0.1, rng.uniform(0.5, 1, size=size)
    largest = 7 if axes < 3 else 5
    options = {"offset": True, "padding": padding}
    found = fit(x, y, kernel_size="auto", max_size=largest, mask=mask, weights=weights, **options)
    assert found.kernel.shape == kernel.shape
    inner = (..., *[slice(1, -1)] * axes) if padding == "valid" else ...
    expected = fit(x, y[inner], kernel_size=(3,) * axes, mask=mask[inner], weights=weights[inner], **options)
    np.testing.assert_array_equal(found.kernel, expected.kernel)
    np.testing.assert_allclose(found.kernel, kernel, atol=0.01)
    rms = [one.rms for one in found.selection]
    assert rms[0] > 10 * rms[1]


@pytest.mark.slow
def test_cross_validation_is_leaving_tiles_out():
    """The error of a candidate is what kernels of the other tiles leave of each."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(25, 1, 9, 9))
    y = correlate(x, rng.normal(size=(1, 1, 3, 3))) + 0.5 * rng.normal(size=(25, 1, 7, 7))
    found = fit(x, y, kernel_size=3, ridge="auto")
    assert len(found.selection) == 11
    for one in found.selection[::3]:
        squares = 0.0
        for out in range(25):
            rest = np.arange(25) != out
            kernel = fit(x[rest], y[rest], kernel_size=3, ridge=max(one.ridge * 24 / 25, 0)).kernel
            squares += ((correlate(x[~rest], kernel) - y[~rest]) ** 2).sum()
        assert one.rms == pytest.approx(np.sqrt(squares / y.size), rel=1e-3)
    best = min(found.selection, key=lambda one: one.rms)
    np.testing.assert_allclose(found.kernel, fit(x, y, kernel_size=3, ridge=best.ridge).kernel, atol=1e-12)


def test_a_ridge_is_chosen_where_it_helps():
    rng = np.random.default_rng(0)
    x = filter_image(rng.normal(size=(40, 40)), np.ones((7, 7)) / 7)[None]
    kernel = np.ones((1, 1, 5, 5)) / 25
    y = correlate(x, kernel) + 0.1 * rng.normal(size=(1, 36, 36))
    chosen, plain = fit(x, y, kernel_size=5, ridge="auto"), fit(x, y, kernel_size=5)
    assert np.abs(chosen.kernel - kernel).max() < 0.3 * np.abs(plain.kernel - kernel).max()


x, y = np.random.default_rng(0).normal(size=(2, 1, 30, 30))


REFUSED = {
    "size": ({"kernel_size": "large"}, "kernel_size is 'large'; expected a number, one per axis, or \"auto\""),
    "largest": ({"kernel_size": "auto", "max_size": 31}, "max_size is 31; expected 1 to 30"),
    "largest of none": ({"kernel_size": 3, "max_size": 7}, "max_size was given together with a kernel_size"),
    "stride": ({"kernel_size": "auto", "stride": 2}, 'kernel_size="auto" goes with stride 1'),
    "padding": ({"kernel_size": "auto", "padding": 1}, 'padding "valid" or "same" alone'),
    "basis": ({"kernel_size": "auto", "basis": "gaussian-hermite"}, 'kernel_size is "auto", which is chosen for'),
    "constrained ridge": ({"ridge": "auto", "constraints": "simplex"}, 'ridge is "auto", which is chosen for kernels'),
    "descent": ({"kernel_size": "auto", "method": "gd"}, 'kernel_size="auto" was given, but method "gd"'),
    "errors of descent": ({"errors": "jackknife", "method": "gd"}, "errors='jackknife' was given, but method \"gd\""),
    "errors": ({"errors": "bootstrap"}, "errors is 'bootstrap'; expected one of white, jackknife"),
    "variance": ({"x_noise_variance": -1.0}, "x_noise_variance is -1.0; expected a finite number, 0 or more"),
    "variances": ({"x_noise_variance": [1.0, 2.0]}, "x_noise_variance has 2 numbers; expected one"),
    "too much noise": ({"x_noise_variance": 2.0}, "x_noise_variance is as much as x varies at all"),
    "padded noise": ({"x_noise_variance": 0.1, "padding": "same"}, "and its padding has no noise"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_choices_that_are_refused(options, message):
    target = y if options.get("kernel_size") == "auto" or options.get("padding") == "same" else y[:, 1:-1, 1:-1]
    with pytest.raises(ConvolithError, match=message):
        fit(x, target, **({"kernel_size": 3} | options))


def test_sizes_that_differ_and_tiles_that_are_too_few():
    with pytest.raises(ConvolithError, match='kernel_size="auto" expects both of one size'):
        fit(x, y[:, 1:], kernel_size="auto")
    mask = np.ones((28, 28), bool)
    mask[:10, :10] = False
    with pytest.raises(ConvolithError, match="y falls into 4 tiles with pixels that count; expected 8 or more"):
        fit(x, y[:, 1:-1, 1:-1], kernel_size=3, errors="jackknife", mask=mask)


@pytest.mark.filterwarnings("ignore:residuals")  # of data that no such kernel made
@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("offset", [False, True])
def test_the_held_out_error_is_that_of_the_tiles_left_out(offset):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 40, 41)) + 4
    y = cl.correlate(x, rng.normal(size=(1, 1, 3, 3))) + 2 + 0.3 * rng.normal(size=(1, 38, 39))
    found = cl.fit(x, y, kernel_size=3, offset=offset, errors="jackknife")
    rows = np.linspace(0, 38, 6).astype(int), np.linspace(0, 39, 6).astype(int)
    windows = np.lib.stride_tricks.sliding_window_view(x[0], (3, 3)).reshape(38, 39, 9)
    windows = np.concatenate([windows, np.ones((38, 39, int(offset)))], -1)
    squares = 0.0
    for top, bottom in zip(rows[0], rows[0][1:]):
        for left, right in zip(rows[1], rows[1][1:]):
            inside = np.zeros((38, 39), bool)
            inside[top:bottom, left:right] = True
            kernel = np.linalg.lstsq(windows[~inside], y[0][~inside], rcond=None)[0]
            squares += ((windows[inside] @ kernel - y[0][inside]) ** 2).sum()
    assert found.held_out_rms == pytest.approx(np.sqrt(squares / y.size), rel=1e-9)
    assert found.held_out_rms > found.residual_rms
    options = {"stride": 1, "padding": "valid", "dilation": 1, "padding_mode": "zeros", "pixels": Pixels()}
    assert len(states_of_tiles(read(x, y, kernel_size=3, offset=offset, **options), cl.Gram(3))) == 25
    assert cl.fit(x, y, kernel_size=3).held_out_rms is None
    chosen = cl.fit(x, y, kernel_size=3, ridge="auto", offset=offset)
    assert chosen.held_out_rms == min(one.rms for one in chosen.selection)
    varying = fit_varying(x, y, kernel_size=3, degree=0, background_degree=0 if offset else None, errors="jackknife")
    assert varying.held_out_rms == pytest.approx(found.held_out_rms, rel=1e-9)

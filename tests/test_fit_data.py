"""How `fit` reads its data: pictures and signals without axes for channels, borders, bad pixels of x and of y."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import convolith as cl
from convolith import ConvolithError, correlate, fit
from convolith.cli import main

RNG = np.random.default_rng(5)
KERNEL = RNG.normal(size=(5, 3))
PICTURE = RNG.normal(size=(60, 70))


def seen(x, kernel=KERNEL):
    """The picture that a kernel makes, without its border."""
    return correlate(x[None], kernel[None, None])[0]


def test_a_signal_of_audio_just_works():
    dry, room = RNG.normal(size=(1, 3000)), RNG.normal(size=40) * 0.9 ** np.arange(40)
    wet = np.convolve(dry[0], room)[None, :3000]
    found = fit(dry, wet[:, 39:], kernel_size=40, flip=True)
    np.testing.assert_allclose(found.impulse_response[0, 0], room, atol=1e-10)
    without_channels = fit(dry[0], wet[0, 39:], kernel_size=40, flip=True)
    np.testing.assert_array_equal(without_channels.kernel, found.kernel)
    stereo = RNG.normal(size=(2, 4000))
    kernel = RNG.normal(size=(3, 2, 20))
    np.testing.assert_allclose(fit(stereo, correlate(stereo, kernel), kernel_size=20).kernel, kernel, atol=1e-9)


def test_two_pictures_just_work():
    for x, y in ((PICTURE, seen(PICTURE)), (PICTURE[None], seen(PICTURE)), (PICTURE, seen(PICTURE)[None])):
        np.testing.assert_allclose(fit(x, y, kernel_size=(5, 3)).kernel[0, 0], KERNEL, atol=1e-10)
    square = RNG.normal(size=(5, 5))
    np.testing.assert_allclose(fit(PICTURE, seen(PICTURE, square), kernel_size=5).kernel[0, 0], square, atol=1e-10)
    volume, cube = RNG.normal(size=(20, 21, 22)), RNG.normal(size=(3, 3, 3))
    found = fit(volume, correlate(volume[None], cube[None, None])[0], kernel_size=(3, 3, 3))
    np.testing.assert_allclose(found.kernel[0, 0], cube, atol=1e-10)
    as_tensors = fit(torch.from_numpy(PICTURE), torch.from_numpy(seen(PICTURE)), kernel_size=(5, 3))
    np.testing.assert_allclose(as_tensors.kernel.numpy()[0, 0], KERNEL, atol=1e-10)


def test_what_may_be_a_picture_or_a_signal_is_refused_with_both_readings():
    x = RNG.normal(size=(8, 1000))
    with pytest.raises(ConvolithError, match=r"a signal of 8 channels \(pass kernel_size=\(5,\)\) or a picture of 8x1"):
        fit(x, x, kernel_size=5)
    assert fit(x, x, kernel_size=(5,)).kernel.shape == (8, 8, 5)
    assert fit(x, x, kernel_size=(5, 5)).kernel.shape == (1, 1, 5, 5)


@pytest.mark.parametrize("size", [(5, 3), (4, 6)])
def test_a_y_as_large_as_x_loses_its_border(size):
    kernel = RNG.normal(size=size)
    y = cl.filter_image(PICTURE, kernel, padding_mode="symmetric")
    mask = np.zeros(PICTURE.shape, bool)
    mask[30:34, 20] = True
    y[mask] = 1e5
    found = fit(PICTURE, y, kernel_size=size, mask=mask, weights=RNG.uniform(1, 2, PICTURE.shape))
    np.testing.assert_allclose(found.kernel[0, 0], kernel, atol=1e-9)
    same = cl.Gram(size).update(PICTURE, y, mask=mask).solve()
    np.testing.assert_allclose(same.kernel[0, 0], kernel, atol=1e-9)
    varying = cl.fit_varying(PICTURE, y, kernel_size=size, degree=1, mask=mask)
    np.testing.assert_allclose(varying.kernel.weight_at((0, 0))[0, 0], kernel, atol=1e-9)


@pytest.mark.parametrize("origin", [(0, 0), (1, -1), (14, -15), (-9, 3)])
def test_origin_follows_a_shift(origin):
    y = cl.filter_image(PICTURE, KERNEL, padding_mode="circular")
    y = np.roll(y, [-shift for shift in origin], (0, 1))  # y[p] reads x around p + shift
    found = fit(PICTURE, y, kernel_size=(5, 3), origin=[-shift for shift in origin])
    np.testing.assert_allclose(found.kernel[0, 0], KERNEL, atol=1e-9)
    if max(map(abs, origin)) <= 1:
        by_filter = cl.filter_image(PICTURE, KERNEL, origin=[-shift for shift in origin], padding_mode="circular")
        np.testing.assert_allclose(by_filter, y, atol=1e-12)


@pytest.mark.parametrize("geometry", [{}, {"stride": 2}, {"dilation": 2}, {"padding": 2, "padding_mode": "reflect"}])
@pytest.mark.parametrize("how", ["x_mask", "nan", "masked array", "saturation"])
def test_bad_pixels_of_x_take_the_pixels_with_them_that_read_them(geometry, how):
    y = correlate(PICTURE[None], KERNEL[None, None], **geometry)
    bad = RNG.random(PICTURE.shape) < 0.01
    x = np.where(bad, np.nan if how == "nan" else 1e6, PICTURE)
    options = {"x_mask": {"x_mask": bad}, "nan": {"nan": "omit"}, "saturation": {"saturation": 1e5}}.get(how, {})
    given = np.ma.MaskedArray(x, bad)[None] if how == "masked array" else x[None]
    if how == "masked array":
        y = np.ma.MaskedArray(y, np.zeros(y.shape, bool))
    found = fit(given, y, kernel_size=(5, 3), **geometry, **options)
    np.testing.assert_allclose(found.kernel[0, 0], KERNEL, atol=1e-8)
    left = fit(given, y, kernel_size=(5, 3), errors="white", **geometry, **options)
    expected = correlate(bad[None].astype(float), np.ones((1, 1, 5, 3)), **geometry)[0] > 0.5
    by_mask = fit(np.where(bad, 0, PICTURE)[None], y, kernel_size=(5, 3), mask=expected, **geometry)
    np.testing.assert_allclose(left.stderr, by_mask.stderr, rtol=1e-6, atol=1e-14)


def test_missing_and_saturated_pixels_of_y():
    y = seen(PICTURE)
    spoilt = y.copy()
    spoilt[3, 4:9], spoilt[20, 30] = np.nan, np.inf
    np.testing.assert_allclose(fit(PICTURE, spoilt, kernel_size=(5, 3), nan="omit").kernel[0, 0], KERNEL, atol=1e-9)
    level = float(np.quantile(y, 0.98))
    clipped = np.minimum(y, level)
    found = fit(PICTURE, clipped, kernel_size=(5, 3), saturation=(1e9, level))
    np.testing.assert_allclose(found.kernel[0, 0], KERNEL, atol=1e-9)
    masked = np.ma.MaskedArray(np.where(y > level, -50.0, y), y > level)
    np.testing.assert_allclose(fit(PICTURE, masked, kernel_size=(5, 3)).kernel[0, 0], KERNEL, atol=1e-9)


def test_varying_fits_and_grams_leave_bad_pixels_out_too():
    bad = RNG.random(PICTURE.shape) < 0.01
    x = np.where(bad, np.nan, PICTURE)
    found = cl.fit_varying(x, seen(PICTURE), kernel_size=(5, 3), degree=1, nan="omit")
    np.testing.assert_allclose(found.kernel.weight_at((0.2, -0.3))[0, 0], KERNEL, atol=1e-8)
    gram = cl.Gram((5, 3)).update(np.where(bad, 5.0, PICTURE), seen(PICTURE), x_mask=bad)
    np.testing.assert_allclose(gram.solve().kernel[0, 0], KERNEL, atol=1e-8)
    gram.downdate(np.where(bad, 7.0, PICTURE), seen(PICTURE), x_mask=bad)
    assert gram.equations == 0
    with pytest.raises(TypeError, match="unexpected keyword argument 'masks'"):
        gram.update(PICTURE, PICTURE, masks=bad)


def test_booleans_lists_and_complex_data():
    x = PICTURE > 0
    y = correlate(x[None].astype(float), KERNEL[None, None])[0]
    np.testing.assert_allclose(fit(x, y, kernel_size=(5, 3)).kernel[0, 0], KERNEL, atol=1e-9)
    np.testing.assert_allclose(fit([0.0, 1, 2, 1, 5], [1.0, 3, 3, 6], kernel_size=2).kernel[0, 0], [1, 1], atol=1e-9)
    with pytest.raises(ConvolithError, match="pass real and imaginary parts as channels"):
        fit(PICTURE * 1j, y, kernel_size=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x_mask": np.zeros((3, 3), bool)}, r"x_mask has shape \(3, 3\); expected \(60, 70\) \(the spatial size of x\)"),
        ({"x_mask": np.zeros((60, 70))}, "x_mask has dtype float64; expected booleans, True where x is bad; pass x_mask != 0"),
        ({"x_mask": np.ones((60, 70), bool)}, "leave no pixel of y to fit"),
        ({"mask": np.ones((60, 70), bool)}, "leave no pixel of y to fit"),
        ({"nan": "ignore"}, "nan is 'ignore'; expected"),
        ({"saturation": "high"}, "saturation is 'high'; expected a number, or one for x and one for y"),
        ({"saturation": (1, 2, 3)}, "saturation is"),
        ({"origin": (0, 80)}, "no window of kernel_size \\(5, 3\\) with origin \\(0, 80\\) lies inside x"),
        ({"origin": 1, "padding": "same"}, "origin is \\(1, 1\\) with a y .* it applies to a y as large as x"),
    ],
)  # fmt: skip
def test_bad_input(options, message):
    with pytest.raises(ConvolithError, match=message):
        fit(PICTURE, PICTURE, **{"kernel_size": (5, 3)} | options)


def test_the_command_leaves_out_what_it_is_told_in_its_own_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    y = cl.filter_image(PICTURE, KERNEL, padding_mode="symmetric")
    bad = np.zeros(PICTURE.shape, bool)
    bad[30, 40], bad[10, 11] = True, True
    np.save("x.npy", np.where(bad, np.nan, PICTURE))
    np.save("y.npy", y)
    np.save("bad.npy", bad)

    def run(*arguments):
        return CliRunner().invoke(main, ["fit", "x.npy", "y.npy", "--size", "5,3", "-o", "k.npz", *arguments])

    refused = run()
    assert refused.exit_code == 2
    assert "BEFORE has 2 non-finite values" in refused.output
    assert "--ignore-nan or --before-mask" in refused.output
    for options in (["--ignore-nan"], ["--before-mask", "bad.npy"]):
        assert run(*options).exit_code == 0
        np.testing.assert_allclose(np.load("k.npz")["weight"][0, 0], KERNEL, atol=1e-8)
    np.save("x.npy", np.where(bad, 1e6, PICTURE))
    assert run("--saturation", "1e5").exit_code == 0
    np.testing.assert_allclose(np.load("k.npz")["weight"][0, 0], KERNEL, atol=1e-8)
    assert run("--saturation", "high").exit_code == 2
    np.save("x.npy", PICTURE)
    for origin in ((2, 1), (-12, 9)):  # what was saved moves the picture as AFTER was moved
        np.save("y.npy", np.roll(y, origin, (0, 1)))
        assert run("--origin", ",".join(map(str, origin))).exit_code == 0
        applied = CliRunner().invoke(main, ["correlate", "x.npy", "k.npz", "-o", "again.npy"])
        assert applied.exit_code == 0, applied.output
        inner = (slice(16, -16),) * 2
        np.testing.assert_allclose(np.load("again.npy").squeeze()[inner], np.load("y.npy")[inner], atol=1e-8)


def test_lists_and_masked_counts_are_fitted():
    found = fit([[0.0, 1, 2, 1, 5]], [[1.0, 3, 3, 6]], kernel_size=2)
    assert isinstance(found.kernel, np.ndarray)
    x = RNG.poisson(50.0, (30, 30)).astype(float)
    y = cl.filter_image(x, np.ones((3, 3)) / 9, padding_mode="symmetric")
    bad = np.zeros(x.shape, bool)
    bad[4, 5] = True
    given = np.ma.MaskedArray(np.where(bad, -999.0, x), bad)
    learned = fit(given, y, kernel_size=3, method="lbfgs", loss="poisson", steps=60)
    np.testing.assert_allclose(learned.kernel, 1 / 9, atol=0.01)
    with pytest.raises(ConvolithError, match="x has a least value of -999"):
        fit(given.data, y, kernel_size=3, method="lbfgs", loss="poisson")


def test_a_chosen_ridge_reaches_long_kernels(monkeypatch):
    from convolith.fitting import long_kernels

    rng = np.random.default_rng(0)
    x = cl.filter_image(rng.normal(size=(60, 60)), cl.kernels.gaussian(1.5), padding_mode="circular")
    y = cl.filter_image(x, cl.kernels.box(3)) + 0.1 * rng.normal(size=x.shape)
    options = {"kernel_size": "auto", "ridge": "auto", "max_size": 7}
    closed = fit(x, y, **options)
    monkeypatch.setattr(long_kernels, "MANY", 1)
    iterated = fit(x, y, **options)
    assert iterated.stderr is None
    np.testing.assert_allclose(iterated.kernel, closed.kernel, atol=1e-8 * np.abs(closed.kernel).max())


def test_an_iteration_that_does_not_converge_says_so(monkeypatch):
    from convolith.fitting import long_kernels
    from convolith.fitting.solving import conjugate_gradients

    monkeypatch.setattr(long_kernels, "MANY", 1)
    monkeypatch.setattr(conjugate_gradients, "ITERATIONS", 1)
    x = np.cumsum(RNG.normal(size=(1, 500)), 1)
    y = correlate(x, RNG.normal(size=(1, 1, 30))) + RNG.normal(size=(1, 471))
    with pytest.warns(
        RuntimeWarning, match="the iteration for a kernel of 30 unknowns stopped with a relative residual"
    ):
        fit(x, y, kernel_size=(30,))


@pytest.mark.filterwarnings("ignore:residuals of neighbouring")  # without its constant, and with a ridge
@pytest.mark.parametrize("options", [{}, {"weights": np.linspace(0.5, 2, 471)[None]}, {"ridge": 3.0}, {"offset": True}])
def test_long_kernels_are_those_of_the_closed_form(options, monkeypatch):
    from convolith.fitting import long_kernels

    rng = np.random.default_rng(0)
    x = cl.filter_image(rng.normal(size=(2, 500)), [0.25, 0.5, 0.25], axes=1) + 2
    y = correlate(x, rng.normal(size=(3, 2, 30))) + 0.1 * rng.normal(size=(3, 471)) + 1
    closed = fit(x, y, kernel_size=(30,), **options)
    monkeypatch.setattr(long_kernels, "MANY", 1)
    iterated = fit(x, y, kernel_size=(30,), **options)
    np.testing.assert_allclose(iterated.kernel, closed.kernel, atol=1e-7 * np.abs(closed.kernel).max())
    assert iterated.residual_rms == pytest.approx(closed.residual_rms, rel=1e-9)


@pytest.mark.filterwarnings("ignore:the data determine only")
def test_a_single_star_is_enough_for_a_size():
    x = np.zeros((64, 64))
    x[30, 31] = 1.0
    assert fit(x, x, kernel_size="auto", max_size=5).kernel.shape == (1, 1, 1, 1)

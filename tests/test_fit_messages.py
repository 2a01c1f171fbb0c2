"""What `fit`, `fit_varying` and `Gram` say of data that they refuse or read with a doubt."""

import warnings

import numpy as np
import pytest

import convolith as cl
from convolith import ConvolithError, Gram, correlate, fit, fit_varying
from convolith.fitting.results import weights_table

nddata = pytest.importorskip("astropy.nddata")

RNG = np.random.default_rng(0)
P = RNG.random((40, 41))
K = np.outer([1, 2, 1], [1, 2, 3]) / 24
X = P[None]
Y = correlate(X, K[None, None])
FLAT, BLACK = np.ones((1, 40, 41)), np.zeros((1, 40, 41))


@pytest.mark.parametrize("call", [fit, fit_varying, lambda x, y, kernel_size: Gram(kernel_size).update(x, y)])
def test_units_that_differ_are_said(call):
    x, same, other, alike = (nddata.CCDData(P, unit=unit) for unit in ("adu", "adu", "electron", "mJy"))
    with pytest.warns(RuntimeWarning, match="x is in adu and y in electron; the kernel's sum converts them"):
        call(x, other, kernel_size=3)
    with pytest.warns(RuntimeWarning, match="x is in mJy and y in MJy"):
        call(alike, nddata.CCDData(P, unit="MJy"), kernel_size=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(x, same, kernel_size=3)


@pytest.mark.parametrize(("dtype", "of_x", "of_y"), [("f4", 1e-30, 1e30), ("f4", 1e30, 1e-30), ("f2", 1e-3, 1e4)])
def test_a_kernel_that_its_dtype_cannot_hold_is_in_float64(dtype, of_x, of_y):
    x, y = (of_x * X).astype(dtype), (of_y * Y).astype(dtype)
    with pytest.warns(RuntimeWarning, match="cannot hold; it is given in float64"):
        found = fit(x, y, kernel_size=3)
    assert found.kernel.dtype == np.float64
    np.testing.assert_allclose(found.kernel[0, 0] * of_x / of_y, K, rtol=0.02)
    with pytest.warns(RuntimeWarning, match="cannot hold"):
        varying = fit_varying(x, y, kernel_size=3, degree=0)
    np.testing.assert_allclose(varying.kernel.weights[0, 0, 0] * of_x / of_y, K, rtol=0.02)


def test_float16_pictures_are_fitted():
    x = RNG.integers(0, 9, (1, 20, 20)).astype("f2")
    y = correlate(x.astype(float), np.full((1, 1, 3, 3), 2.0)).astype("f2")
    assert fit_varying(x, y, kernel_size=3, degree=0).kernel.weights.dtype == np.float16
    np.testing.assert_allclose(Gram(3).update(x, y).solve().kernel, 2, atol=1e-6)
    assert fit(x, y, kernel_size=3, offset=True).offset.dtype == np.float16


@pytest.mark.parametrize("constraints", ["nonnegative", "simplex", "symmetric", "sum-to-one"])
@pytest.mark.parametrize("x", [BLACK, FLAT])
def test_poor_data_under_constraints_say_so(constraints, x):
    with pytest.warns(RuntimeWarning, match="the data determine only [01] of"):
        fit(x, x, kernel_size=3, constraints=constraints)
    with pytest.warns(RuntimeWarning, match="the data determine only [01] of"):
        Gram(3).update(x, x[:, 1:-1, 1:-1]).solve(constraints=constraints)


@pytest.mark.filterwarnings("ignore")
def test_no_weight_is_below_zero():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = 1000 * rng.random((1, 24, 24))
        y = correlate(x, np.maximum(rng.normal(size=(1, 1, 5, 5)), 0)) + rng.normal(size=(1, 20, 20))
        for constraints in ("nonnegative", "simplex"):
            assert (fit(x, y, kernel_size=5, constraints=constraints).kernel >= 0).all()
            assert (Gram(5).update(x, y).solve(constraints=constraints).kernel >= 0).all()


def test_a_kernel_of_zeros_has_nothing_in_its_outermost_weights():
    y = -1 - np.cumsum(np.cumsum(RNG.normal(size=(1, 40, 41)), 1), 2) ** 2
    with pytest.warns(RuntimeWarning) as said:
        found = fit(X, y, kernel_size=5, constraints="nonnegative")
    assert not found.kernel.any()
    assert not any("of the kernel is in its outermost" in str(one.message) for one in said)


REFUSED = {
    "mask of a cropped y": ((X, X), {"mask": np.zeros((5, 5), bool)}, r"expected \(40, 41\) \(the spatial size of y\)"),
    "weights of a cropped y": ((X, X), {"weights": np.ones((5, 5))}, r"expected \(40, 41\) \(the spatial size of y\)"),
    "kernel of 99": ((X, X), {"kernel_size": 99}, r"do not fit into x of spatial size \(40, 41\).*smaller kernel_size"),
    "audio": (
        (np.ones((20000, 2)),) * 2,
        {"kernel_size": (400,)},
        "channels come before the spatial axes.*x.T and y.T",
    ),
    "audio as a picture": ((np.ones((20000, 2)),) * 2, {"kernel_size": 400}, "channels come first.*pass x.T and y.T"),
    "RGB": ((np.ones((40, 41, 3)),) * 2, {"kernel_size": 5}, "channels come before the spatial axes.*moveaxis"),
    "RGB of few rows": (
        (np.ones((40, 41, 3)),) * 2,
        {},
        "fewer equations than unknowns; channels come before.*moveaxis",
    ),
    "one axis": ((np.ones((2, 2, 2, 3, 4)), X), {"kernel_size": (3,)}, "means 1 spatial axis; expected"),
    "tolerance": (
        (X, Y),
        {"size_tolerance": 0.5},
        'size_tolerance was given together with a kernel_size; .*"auto" only',
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    data, options, words = REFUSED[case]
    with pytest.raises(ConvolithError, match=words):
        fit(*data, **{"kernel_size": 3} | options)


def test_an_origin_that_is_wrong_is_said():
    with pytest.warns(
        RuntimeWarning, match=r"y looks not shifted against x, but origin is \(0, 5\); pass origin=\(0, 0\)"
    ):
        fit(P, P, kernel_size=3, origin=(0, 5))


def test_options_that_a_kernel_that_varies_does_not_have_are_refused_in_words():
    for name, value in (("origin", 1), ("flip", True), ("offset", True), ("loss", "huber")):
        with pytest.raises(ConvolithError, match=f"{name} is .*, which fit_varying does not take"):
            fit_varying(X, X, kernel_size=3, **{name: value})
    with pytest.raises(TypeError, match="unexpected keyword argument 'flp'"):
        fit_varying(X, X, kernel_size=3, flp=True)


@pytest.mark.filterwarnings("ignore:the kernel goes on")
def test_a_gram_takes_an_origin():
    shifted = np.roll(P, 1, 0)
    expected = fit(P, shifted, kernel_size=3, origin=(-1, 0))
    state = Gram(3).update(P, shifted, origin=(-1, 0))
    np.testing.assert_allclose(state.solve().kernel, expected.kernel, atol=1e-12)
    assert state.downdate(P, shifted, origin=(-1, 0)).equations == 0


def test_as_many_pixels_as_unknowns_give_no_standard_errors_and_say_so():
    with pytest.warns(RuntimeWarning, match="there are no standard errors"):
        assert np.isnan(fit(np.ones((1, 1, 1)), np.ones((1, 1, 1)), kernel_size=1).stderr).all()


@pytest.mark.parametrize("call", [fit, fit_varying])
def test_all_pixels_missing(call):
    none = np.full((1, 40, 41), np.nan)
    for x, y in ((none, X), (X, none)):
        with pytest.raises(ConvolithError, match="leave no pixel of y to fit"):
            call(x, y, kernel_size=3, nan="omit")
    with pytest.raises(ConvolithError, match="leave no pixel of y to fit"):
        fit(none, X, kernel_size="auto", nan="omit")
    with pytest.raises(ConvolithError, match="the state holds no equations"):
        Gram(3).update(none, X, nan="omit").solve()


@pytest.mark.parametrize("shape", [(1, 300), (20, 20, 20)])
def test_a_black_array_has_no_size(shape):
    size = {"kernel_size": "auto"}
    wide = (1, 1, *shape) if len(shape) == 3 else shape
    with pytest.raises(ConvolithError, match="x is the same in all pixels that count"):
        fit(np.zeros(wide), np.zeros(wide), **size)
    import torch

    with pytest.raises(ConvolithError, match="x is the same in all pixels that count"):
        fit(torch.zeros(wide), torch.zeros(wide), **size)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": 3, "constraints": "nonnegative"},
        {"kernel_size": 5, "basis": np.eye(25)[:2].reshape(2, 5, 5)},
        {"kernel_size": 60, "ridge": 1.0},
        {"kernel_size": "auto"},
        {"kernel_size": 3, "method": "lbfgs"},
    ],
)
def test_numbers_whose_squares_overflow_are_refused(options):
    x = RNG.random((1, 100, 100))
    with pytest.raises(ConvolithError, match="x has numbers up to .* leave the range of float64; divide"):
        cl.fit(1e154 * x, 1e154 * x, **options)


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_an_identity_has_the_smallest_size(scale):
    n = 96
    rows, columns = np.mgrid[-1 : 1 : n * 1j, -1 : 1 : n * 1j]
    image = scale * ((np.hypot(rows, columns) < 0.8) + 0.5 * (np.hypot(rows - 0.2, columns) < 0.4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for ridge in (0.0, "auto"):
            assert fit(image, image, kernel_size="auto", max_size=7, ridge=ridge).kernel.shape[2:] == (1, 1)


def test_a_printed_kernel_shows_what_matters_on_one_screen():
    x = np.random.default_rng(0).normal(size=(120, 120))
    k = np.zeros((15, 15))
    k[9:12, 8:11] = cl.kernels.gaussian(0.5, size=3)
    printed = str(cl.fit(x, cl.filter_image(x, k), kernel_size=15, padding="same"))
    assert "9x9 of 15x15 weights, around the largest; 0: less than 1e-12 of the largest" in printed
    assert max(map(len, printed.splitlines())) <= 120
    assert "e-1" not in printed.split("Kernel (rows")[1].split("largest\n", 1)[1]  # no rounding
    rows = printed.splitlines()[-9:]
    assert [row.split()[0] for row in rows] == [str(n) for n in range(6, 15)]
    small = str(cl.fit(x, cl.filter_image(x, k[9:12, 8:11]), kernel_size=3, padding="same"))
    assert "Kernel (rows and columns)\n" in small
    assert str(weights_table(np.zeros((3, 3))).rows[0]["0"]) == "0.0"
    assert len(weights_table(np.full((20, 3), np.nan)).rows) == 9

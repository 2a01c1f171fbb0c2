"""Penalties, bases and constraints of a fit against dense solvers, conditions of optimality, and known answers."""

import builtins
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import nnls

from convolith import ConvolithError, Descent, Gram, correlate, fit
from convolith.fitting import kernel_fit
from convolith.fitting.solving.bases import gaussian_hermite

HOTPANTS = Path(__file__).parents[2] / "shared" / "data" / "hotpants"


def problem(seed=0, channels=1, outputs=1, size=(20, 21), kernel_size=(3, 5)):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(channels, *size)) + 1
    kernel = np.maximum(rng.normal(size=(outputs, channels, *kernel_size)), -0.1)
    y = correlate(x, kernel)
    return x, y + 0.3 * rng.normal(size=y.shape) + 0.5


def rows(x, kernel_size):
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel_size, axis=(1, 2))
    return np.moveaxis(windows, 0, 2).reshape(-1, x.shape[0] * int(np.prod(kernel_size)))


def test_smoothness_is_a_penalty_on_differences():
    x, y = problem()
    A, b = rows(x, (3, 5)), y.ravel()
    D = [np.diff(np.eye(15).reshape(3, 5, 15), axis=axis).reshape(-1, 15) for axis in (0, 1)]
    more = np.concatenate([A, *(np.sqrt(7.0) * d for d in D), np.sqrt(2.0) * np.eye(15)])
    expected = np.linalg.lstsq(more, np.concatenate([b, np.zeros(len(more) - len(A))]), rcond=None)[0]
    found = fit(x, y, kernel_size=(3, 5), smoothness=7.0, ridge=2.0)
    np.testing.assert_allclose(found.kernel.ravel(), expected, atol=1e-12)
    paid = 7 * sum(((d @ expected) ** 2).sum() for d in D) + 2 * (expected**2).sum()
    assert found.loss[0] == pytest.approx(((A @ expected - b) ** 2).sum() + paid)


def test_no_negative_weights_is_scipys_answer():
    x, y = problem(outputs=2)
    found = fit(x, y, kernel_size=(3, 5), constraints="nonnegative")
    for kernel, target in zip(found.kernel, y):
        expected = nnls(rows(x, (3, 5)), target.ravel())[0]
        assert (expected == 0).any()
        np.testing.assert_allclose(kernel.ravel(), expected, atol=1e-10)
    assert (found.kernel >= 0).all()
    assert np.array_equal(found.stderr == 0, found.kernel == 0)


CASES = {
    "symmetric": {"constraints": "symmetric"},
    "sum": {"constraints": ["sum-to-one"]},
    "simplex": {"constraints": ("simplex",)},
    "symmetric simplex": {"constraints": ("symmetric", "simplex"), "smoothness": 0.5},
    "nonnegative and ridge": {"constraints": "nonnegative", "ridge": 3.0},
    "basis": {"basis": "arrays"},
    "basis and sum": {"basis": "arrays", "constraints": "sum-to-one"},
    "basis without negatives": {"basis": "arrays", "constraints": "nonnegative"},
    "symmetric basis": {"basis": "gaussian-hermite", "constraints": "symmetric", "kernel_size": (9, 9)},
}


@pytest.mark.filterwarnings("ignore:residuals")  # of data that no such kernel made
@pytest.mark.slow(quick=5)
@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_no_allowed_kernel_nearby_is_better(options, channels, offset):
    """The kernel is allowed, and steps into random directions that are allowed too raise what is minimised."""
    options = dict(options)
    kernel_size = options.pop("kernel_size", (3, 5))
    x, y = problem(channels=channels, outputs=2, kernel_size=kernel_size, size=(26, 27))
    names = options.get("constraints", ())
    names = [names] if isinstance(names, str) else names
    rng = np.random.default_rng(5)
    if options.get("basis") == "arrays":
        options["basis"] = np.abs(rng.normal(size=(6, *kernel_size)))
    weights = rng.uniform(size=y.shape[1:])
    found = fit(x, y, kernel_size=kernel_size, offset=offset, weights=weights, **options)
    state = Gram(kernel_size, channels, 2).update(x, y, weights=weights).solve(offset=offset, **options)
    np.testing.assert_allclose(state.kernel, found.kernel, atol=1e-9)
    directions = rng.normal(size=(300, channels, *kernel_size))
    if "basis" in options:
        basis = gaussian_hermite(kernel_size) if isinstance(options["basis"], str) else options["basis"]
        assert found.coefficients.shape == (2, channels, len(basis))
        np.testing.assert_allclose(np.tensordot(found.coefficients, basis, 1), found.kernel, atol=1e-9)
        directions = np.tensordot(rng.normal(size=(300, channels, len(basis))), basis, 1)
    else:
        assert found.coefficients is None
    if "symmetric" in names:
        np.testing.assert_allclose(found.kernel, np.flip(found.kernel, (2, 3)), atol=1e-9)
        directions = directions + np.flip(directions, (2, 3))
    if {"sum-to-one", "simplex"} & {*names}:
        np.testing.assert_allclose(found.kernel.sum((1, 2, 3)), 1, atol=1e-9)
        totals = directions.sum((1, 2, 3), keepdims=True)
        directions = directions[1:] * totals[:1] - directions[:1] * totals[1:]
    minimised = objective(rows(x, kernel_size), weights.ravel(), offset, (channels, *kernel_size), options)
    for kernel, target in zip(found.kernel, y):
        best = minimised(kernel, target.ravel())
        for direction in directions:
            step = 1e-3 * direction / np.abs(direction).max()
            if not {"nonnegative", "simplex"} & {*names}:
                assert minimised(kernel + step, target.ravel()) > best
                continue
            assert kernel.min() >= (0 if "basis" not in options else -1e-12)
            allowed = [signed for signed in (step, -step) if (kernel + signed >= 0).all()]
            assert all(minimised(kernel + signed, target.ravel()) > best for signed in allowed)


def objective(A, weights, offset, shape, options):
    """What a kernel has of residuals and penalties, the best offset taken off."""
    if offset:
        A = A - np.average(A, axis=0, weights=weights)

    def minimised(kernel, target):
        left = target - A @ kernel.ravel()
        if offset:
            left = left - np.average(left, weights=weights)
        differences = [np.diff(kernel.reshape(shape), axis=1 + axis) for axis in range(2)]
        total = (weights * left**2).sum() + options.get("ridge", 0) * (kernel**2).sum()
        return total + options.get("smoothness", 0) * sum((d**2).sum() for d in differences)

    return minimised


def test_a_constraint_that_holds_anyway_changes_nothing():
    rng = np.random.default_rng(0)
    kernel = rng.uniform(size=(1, 1, 5, 5))
    kernel += np.flip(kernel, (2, 3))
    kernel /= kernel.sum()
    x = rng.normal(size=(1, 30, 30))
    for names in ("symmetric", "sum-to-one", "nonnegative", "simplex", ("simplex", "symmetric")):
        found = fit(x, correlate(x, kernel), kernel_size=5, constraints=names)
        np.testing.assert_allclose(found.kernel, kernel, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("constraints", ["symmetric", "sum-to-one", "basis"])
def test_standard_errors_are_those_of_what_is_allowed(constraints):
    rng = np.random.default_rng(0)
    basis = gaussian_hermite((5, 5), [1.0], [2])
    options = {"basis": basis} if constraints == "basis" else {"constraints": constraints}
    kernel = basis[0][None, None]
    x = rng.normal(size=(1, 24, 24))
    clean = correlate(x, kernel)
    fits = [fit(x, clean + 0.1 * rng.normal(size=clean.shape), kernel_size=5, **options) for _ in range(300)]
    spread = np.std([found.kernel for found in fits], axis=0)
    claimed = np.mean([found.stderr for found in fits], axis=0)
    np.testing.assert_allclose(claimed, spread, rtol=0.2)


def hotpants_basis():
    """HOTPANTS's order: powers of x first."""
    powers = [(a, b) for a in range(4) for b in range(4 - a)]
    return gaussian_hermite((19, 19), [3.0], [3])[[powers.index((b, a)) for a, b in powers]]


@pytest.mark.skipif(not HOTPANTS.is_dir(), reason="needs the shared data")
@pytest.mark.parametrize("case", ["single", "four"])
def test_hotpants(case):
    """What the program printed, six decimals, for stamps of 31x31 equations: https://github.com/acbecker/hotpants."""
    expected = json.loads((HOTPANTS / "expected.json").read_text())[case]
    with np.load(HOTPANTS / "pair.npz") as arrays:
        template, science = (arrays[name].astype(float) for name in ("template", "science"))
    gram = Gram(19)
    for column, row in expected["stamps"]:
        inner = np.s_[row - 15 : row + 16, column - 15 : column + 16]
        gram.update(template[row - 24 : row + 25, column - 24 : column + 25][None], science[inner][None])
    found = gram.solve(offset=True, basis=hotpants_basis())
    np.testing.assert_allclose(np.abs(found.coefficients[0, 0]), np.abs(expected["coefficients"]), atol=1e-6)
    assert found.offset[0] == pytest.approx(expected["background"], abs=1e-6)


x, y = problem()
REFUSED = {
    "smoothness": ({"smoothness": -1}, "smoothness is -1; expected a finite number, 0 or more"),
    "name": ({"constraints": "positive"}, "constraints has 'positive'; expected some of symmetric, sum-to-one"),
    "basis name": ({"basis": "gauss"}, "basis is 'gauss'; expected arrays"),
    "basis shape": ({"basis": np.ones((2, 5, 3))}, r"basis has shape \(2, 5, 3\); expected \(count, \*kernel_size\)"),
    "basis twice": ({"basis": np.ones((2, 3, 5))}, "basis has 2 kernels of which 1 are independent"),
    "basis with NaN": ({"basis": np.full((1, 3, 5), np.nan)}, "basis has values that are not finite"),
    "nothing left": (
        {"basis": np.array([[[1, 0, 0, 0, -1]] * 3]), "constraints": "sum-to-one"},
        "basis and constraints leave no kernel",
    ),
    "no positive one": (
        {"basis": -np.ones((1, 3, 5)) + 2 * np.eye(3, 5), "constraints": "simplex"},
        "leave no kernel",
    ),
    "descent": ({"method": "gd", "constraints": "symmetric"}, "are solved in closed form; pass method="),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals(options, message):
    with pytest.raises(ConvolithError, match=message):
        fit(x, y, kernel_size=(3, 5), **options)


def test_the_solvers_extra_is_named_before_the_work(monkeypatch):
    plain = builtins.__import__

    def without(name, *args, **keywords):
        if name == "daqp":
            raise ImportError(name)
        return plain(name, *args, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConvolithError, match=r"convolith\[fit\]"):
        fit(x, y, kernel_size=(3, 5), constraints="nonnegative")


def satisfied(kernel, constraint):
    """Whether weights satisfy a constraint to rounding, in their own unit."""
    size = np.abs(kernel).max()
    if constraint in ("nonnegative", "simplex"):
        assert (kernel >= 0).all()
    if constraint in ("sum-to-one", "simplex"):
        assert abs(kernel.sum() - 1) < 1e-12 * max(size, 1) * kernel.size


@pytest.mark.filterwarnings("ignore:residuals")  # of data that no such kernel made
def test_the_best_nonnegative_kernel_may_be_zero():
    x = np.array([[[0.0, 1.0, 1.0, 0.0]]])
    found = fit(x[0], -2 * x[0, :, :-1], kernel_size=(2,), constraints="nonnegative")
    assert found.kernel.ravel().tolist() == [0.0, 0.0]
    rng = np.random.default_rng(0)
    image = rng.random((1, 30, 28))
    y = -correlate(image, rng.random((1, 1, 3, 3)))
    assert (fit(image, y, kernel_size=3, constraints="nonnegative").kernel == 0).all()


@pytest.mark.parametrize("constraint", ["nonnegative", "simplex", "sum-to-one"])
@pytest.mark.parametrize("unit", [1e-10, 1.0, 65535.0, 1e10])
def test_constraints_hold_in_any_unit(constraint, unit):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 65536, (1, 24, 24)) / 65535
    true = rng.normal(size=(1, 1, 3, 3))
    true /= true.sum()
    y = correlate(image, true) + 0.01 * rng.normal(size=(1, 22, 22))
    expected = fit(image, y, kernel_size=3, constraints=constraint).kernel
    satisfied(expected, constraint)
    for of_x, of_y in ((unit, unit), (unit, 1.0), (1.0, unit)):
        if constraint != "nonnegative" and of_x != of_y:
            continue  # a sum of one has the unit of both
        found = fit(of_x * image, of_y * y, kernel_size=3, constraints=constraint).kernel * (of_x / of_y)
        satisfied(found, constraint)
        np.testing.assert_allclose(found, expected, atol=1e-8 * np.abs(expected).max())


def test_nonnegative_kernels_are_those_of_scipy():
    rng = np.random.default_rng(2)
    for seed in range(20):
        image = rng.random((1, 14, 15)) * 10 ** rng.uniform(-4, 4)
        y = rng.normal(size=(1, 12, 13))
        found = fit(image, y, kernel_size=3, constraints="nonnegative").kernel.ravel()
        windows = np.lib.stride_tricks.sliding_window_view(image[0], (3, 3)).reshape(-1, 9)
        expected = nnls(windows, y.ravel())[0]
        np.testing.assert_allclose(found, expected, atol=1e-7 * max(expected.max(), 1e-300), err_msg=str(seed))


def test_data_that_determine_nothing_leave_the_smallest_kernel_and_a_warning():
    flat = np.full((1, 30, 30), 7.0)
    with pytest.warns(RuntimeWarning, match="the data determine only"):
        found = fit(flat[0, :1], flat[0, :1, :-1], kernel_size=(2,), constraints="sum-to-one")
    np.testing.assert_allclose(found.kernel.ravel(), [0.5, 0.5])
    for constraint in ("simplex", "sum-to-one"):
        with pytest.warns(RuntimeWarning, match="the data determine only"):
            found = fit(flat, flat[:, 4:, 4:], kernel_size=5, constraints=constraint)
        np.testing.assert_allclose(found.kernel, 1 / 25, rtol=1e-9)


def test_a_single_frequency_gives_weights_that_are_not_negative():
    x = np.sin(np.arange(200) / 7)[None]
    y = correlate(x, np.array([[[0.2, 0.5, 0.3, 0, 0]]]))
    with pytest.warns(RuntimeWarning, match="the data determine only"):
        found = fit(x, y, kernel_size=(5,), constraints="simplex")
    satisfied(found.kernel, "simplex")
    assert found.residual_rms < 1e-9


@pytest.mark.parametrize("method", ["adam", "lbfgs"])
def test_descents_do_not_depend_on_the_unit(method):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(1, 20, 20))
    y = correlate(x, rng.normal(size=(1, 1, 3, 3))) + 0.1
    y[0, 4, 5] += 30
    options = {"kernel_size": 3, "offset": True, "loss": "huber", "method": Descent(method, steps=60)}
    expected = fit(x, y, **options)
    for of_x, of_y in ((1e-9, 1e-9), (1e9, 1.0), (1.0, 1e-9)):
        found = fit(of_x * x, of_y * y, **options)
        np.testing.assert_allclose(found.kernel * of_x / of_y, expected.kernel, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(found.offset / of_y, expected.offset, rtol=1e-6, atol=1e-9)


def test_a_basis_of_few_kernels_on_a_wide_support_is_solved_in_the_basis():
    rng = np.random.default_rng(4)
    n = 21
    radius = np.hypot(*np.mgrid[-10:11, -10:11])
    rings = np.stack([(np.abs(radius - r) < 1.25).astype(float) for r in (0, 2.5, 5, 7.5)])
    x = rng.normal(size=(1, 120, 120))
    true = np.tensordot([1.0, 0.5, -0.2, 0.1], rings, 1)
    noise = 0.1 * rng.normal(size=(1, 120 - n + 1, 120 - n + 1))
    found = fit(x, correlate(x, true[None, None]) + noise, kernel_size=n, basis=rings)
    np.testing.assert_allclose(found.coefficients.ravel(), [1.0, 0.5, -0.2, 0.1], atol=0.01)
    windows = np.stack([correlate(x, ring[None, None])[0].ravel() for ring in rings], 1)
    inverse = np.linalg.inv(windows.T @ windows)
    covariance = np.einsum("ahw,ab,bhw->hw", rings, inverse, rings) * 0.01
    np.testing.assert_allclose(found.stderr[0, 0], np.sqrt(covariance), rtol=0.1)


@pytest.mark.parametrize(
    ("size", "taps", "options"),
    [
        ((60, 64), (9, 9), {}),
        ((400,), (25,), {"stride": 2, "offset": True}),
        ((60, 50), (9, 7), {"dilation": 2, "offset": True, "padding": "same"}),
        ((60, 50), (9, 9), {"offset": True, "weights": True}),
    ],
)
def test_few_kernels_are_fitted_to_filtered_pictures_as_to_windows(monkeypatch, size, taps, options):
    rng = np.random.default_rng(1)
    basis = rng.normal(size=(5, *taps))
    x, coefficients = rng.normal(size=(2, 2, *size)) + 3, rng.normal(size=(3, 2, 5))
    geometry = {name: options[name] for name in ("stride", "dilation", "padding") if name in options}
    y = correlate(x, np.tensordot(coefficients, basis, 1), **geometry)
    y = y + 0.1 * rng.normal(size=y.shape)
    if "weights" in options:
        options = options | {"weights": rng.random((2, *y.shape[2:]))}
    found = fit(x, y, kernel_size=taps, basis=basis, **options)
    monkeypatch.setattr(kernel_fit, "FEW", 10**9)
    expected = fit(x, y, kernel_size=taps, basis=basis, **options)
    for name in ("kernel", "stderr", "sum_stderr", "coefficients", "residual_rms", "condition", "explained"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-8, atol=1e-12)
    if options.get("offset"):
        np.testing.assert_allclose(found.offset, expected.offset, rtol=1e-8)


@pytest.mark.filterwarnings("ignore:residuals")
@pytest.mark.parametrize(
    "options",
    [
        {"constraints": "sum-to-one"},
        {"constraints": ("sum-to-one", "symmetric"), "offset": True},
        {"constraints": "symmetric", "ridge": 3.0},
        {"ridge": 5.0, "smoothness": 2.0},
        {"x_noise_variance": [0.1, 0.2]},
        {"errors": "jackknife"},
        {"errors": "jackknife", "constraints": "sum-to-one", "offset": True},
        {"constraints": "nonnegative"},
        {"constraints": ("simplex", "symmetric"), "offset": True, "ridge": 3.0},
        {"errors": "jackknife", "constraints": "nonnegative"},
    ],
)
def test_constraints_and_penalties_on_a_basis_are_solved_for_its_coefficients(monkeypatch, options):
    rng = np.random.default_rng(2)
    radius = np.hypot(*np.mgrid[-5:6, -5:6])
    rings = np.stack([(np.abs(radius - r) < 1.25).astype(float) for r in (0, 2.5, 5)])
    x = rng.normal(size=(2, 60, 62))
    y = correlate(x, np.tensordot([[[1, 0.5, -0.2], [0.3, 0.2, 0.1]]], rings, 1))
    y = y + 0.1 * rng.normal(size=y.shape)
    found = fit(x, y, kernel_size=11, basis=rings, **options)
    monkeypatch.setattr(kernel_fit, "FEW", 10**9)
    expected = fit(x, y, kernel_size=11, basis=rings, **options)
    for name in ("kernel", "stderr", "sum_stderr", "coefficients", "residual_rms", "condition", "explained", "loss"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-8, atol=1e-12)
    assert (found.held_out_rms is None) == ("errors" not in options)
    if {"nonnegative", "simplex"} & {*np.atleast_1d(options.get("constraints", ()))}:
        assert (found.kernel >= 0).all()
        np.testing.assert_array_equal(found.kernel == 0, expected.kernel == 0)


def test_constraints_on_a_wide_basis_form_no_matrix_of_all_taps(monkeypatch):
    rings = np.stack([np.full((63, 63), 1.0), np.eye(63)])
    x = np.random.default_rng(0).normal(size=(1, 80, 80))
    y = correlate(x, (0.3 * rings[0] - 0.1 * rings[1])[None, None])
    sizes = []
    own = kernel_fit.Gram.__init__

    def recorded(state, *arguments, **options):
        own(state, *arguments, **options)
        sizes.append(state.kernel_size)

    monkeypatch.setattr(kernel_fit.Gram, "__init__", recorded)
    restricted = {"constraints": "nonnegative"}
    for options in ({"constraints": "symmetric"}, {"ridge": 1e-9}, {"errors": "jackknife"}, restricted):
        found = fit(x, y, kernel_size=63, basis=rings, **options)
        np.testing.assert_allclose(found.coefficients.ravel(), [0.3, -0.1], atol=1e-6)
    assert set(sizes) == {(1, 1)}


@pytest.mark.parametrize("few", [kernel_fit.FEW, 10**9])
def test_faint_tails_of_a_basis_do_not_hold_its_kernel_at_zero(monkeypatch, few):
    monkeypatch.setattr(kernel_fit, "FEW", few)
    squares = (np.mgrid[-10:11, -10:11] ** 2).sum(0)
    x = np.random.default_rng(0).normal(size=(1, 50, 50))
    for width in (1.2, 2.0, 2.2):  # the corners are 7e-31, 1e-11 and 1e-9 of the peak
        gaussian = np.exp(-squares / (2 * width**2))
        found = fit(x, correlate(x, gaussian[None, None]), kernel_size=21, basis=[gaussian], constraints="nonnegative")
        assert found.coefficients.item() == pytest.approx(1.0)
        assert found.kernel.min() >= 0


@pytest.mark.filterwarnings("ignore:residuals")
@pytest.mark.parametrize("few", [0, 10**9])
def test_a_basis_that_rules_nonnegative_kernels_out_is_refused_and_one_that_rules_out_some_is_said(monkeypatch, few):
    monkeypatch.setattr(kernel_fit, "FEW", few)
    sobel, delta = np.outer([1, 2, 1], [1, 0, -1]), np.outer([0, 1, 0], [0, 1, 0])
    x = np.random.default_rng(0).normal(size=(2, 30, 30))
    y = correlate(x, np.broadcast_to(delta + 0.1 * sobel, (1, 2, 3, 3)))
    with pytest.raises(ConvolithError, match="the kernels of basis leave no kernel without negative weights"):
        fit(x, y, kernel_size=3, basis=[sobel], constraints="nonnegative")
    with pytest.warns(RuntimeWarning, match="some kernels of basis can take no part"):
        found = fit(x, y, kernel_size=3, basis=[delta, sobel], constraints="nonnegative")
    np.testing.assert_array_equal(found.kernel > 0, np.broadcast_to(delta, (1, 2, 3, 3)) > 0)
    assert fit(x, y, kernel_size=3, basis=[-delta], constraints="nonnegative").coefficients.max() < 0

"""Penalties, bases and constraints of a fit against dense solvers, conditions of optimality, and known answers."""

import builtins
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import nnls

from convolith import ConvolithError, Gram, correlate, fit
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

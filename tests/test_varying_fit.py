"""Kernels that vary with position against dense least squares, in every geometry and modulation, and known answers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from convolith import ConvolithError, Gram, VaryingGram, correlate, fit, fit_varying
from convolith.fitting.data.polynomials import monomials, moved, values
from convolith.fitting.solving.bases import gaussian_hermite

HOTPANTS = Path(__file__).parents[2] / "shared" / "data" / "hotpants"


def place(pixel, n):
    return (pixel - (n - 1) / 2) / ((n - 1) / 2 or 1)


def phi(z, powers):
    """(monomials,) of one position."""
    return np.array([np.prod([c**e for c, e in zip(z, exponents)]) for exponents in powers])


def design(
    x, kernel_size, degree, background, modulation, positions=None, stride=1, padding=0, dilation=1, mode="zeros"
):
    """Every row of the least-squares problem by loops: (N * pixels, terms * channels * taps + monomials)."""
    axes = len(kernel_size)
    size = x.shape[2:]
    pairs = ((0, 0), (0, 0), *((padding, padding),) * axes)
    padded = np.pad(x, pairs, mode={"zeros": "constant", "replicate": "edge", "reflect": "reflect"}[mode])
    extent = [dilation * (k - 1) + 1 for k in kernel_size]
    outputs = [(n + 2 * padding - e) // stride + 1 for n, e in zip(size, extent)]
    terms = monomials(axes, degree)
    known = () if background is None else monomials(axes, background)
    rows = []
    for n in range(len(x)):
        for p in np.ndindex(*outputs):
            middle = [place(i * stride - padding + (e - 1) / 2, m) for i, e, m in zip(p, extent, size)]
            middle = middle if positions is None else positions[n]
            window = np.zeros((len(terms), x.shape[1], *kernel_size))
            for u in np.ndindex(*kernel_size):
                q = [i * stride + t * dilation for i, t in zip(p, u)]
                z = [place(i - padding, m) for i, m in zip(q, size)] if modulation == "input" else middle
                window[(slice(None), slice(None), *u)] = np.outer(phi(z, terms), padded[(n, slice(None), *q)])
            rows.append(np.concatenate([window.ravel(), phi(middle, known)]))
    return np.array(rows)


CASES = {
    "output": {"modulation": "output"},
    "input": {"modulation": "input"},
    "update": {"modulation": "update"},
    "quadratic": {"modulation": "output", "degree": 2, "background": 0},
    "a steeper background": {"modulation": "input", "degree": 1, "background": 2},
    "a background alone": {"modulation": "output", "degree": 0, "background": 2},
    "no background": {"modulation": "output", "degree": 2, "background": None},
    "no background at the input": {"modulation": "input", "degree": 2, "background": None},
    "no background by updates": {"modulation": "update", "background": None},
    "a flat background by updates": {"modulation": "update", "background": 0},
    "two channels": {"modulation": "output", "channels": 2, "outputs": 3},
    "two channels at the input": {"modulation": "input", "channels": 2, "outputs": 2, "degree": 2, "background": 1},
    "stride": {"modulation": "output", "geometry": {"stride": 2}},
    "stride at the input": {"modulation": "input", "geometry": {"stride": 2}},
    "dilation": {"modulation": "output", "geometry": {"dilation": 2}, "kernel_size": (2, 3)},
    "stride and dilation": {"modulation": "input", "geometry": {"stride": 2, "dilation": 3}, "kernel_size": (2, 2)},
    "padding": {"modulation": "output", "geometry": {"padding": 1}},
    "padding at the input": {
        "modulation": "input",
        "geometry": {"padding": 2, "mode": "replicate"},
        "background": None,
    },
    "reflected": {"modulation": "output", "geometry": {"padding": 1, "mode": "reflect"}, "background": 0},
    "weights": {"modulation": "output", "weighted": True},
    "weights by updates": {"modulation": "update", "weighted": True},
    "a mask": {"modulation": "input", "masked": True, "degree": 2, "background": None},
    "one axis": {"modulation": "output", "kernel_size": (4,), "size": (40,), "degree": 2},
    "three axes": {"modulation": "input", "kernel_size": (2, 2, 2), "size": (6, 7, 6), "images": 2},
}


@pytest.mark.filterwarnings("ignore:residuals")  # which such a fit leaves
@pytest.mark.slow(quick=4)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_dense_least_squares_finds_the_same(case):
    case = {
        "degree": 1,
        "background": 1,
        "kernel_size": (3, 2),
        "size": (13, 12),
        "channels": 1,
        "outputs": 1,
        "images": 3,
    } | case
    geometry = case.get("geometry", {})
    rng = np.random.default_rng(0)
    x = rng.normal(size=(case["images"], case["channels"], *case["size"])) + 5
    positions = rng.uniform(-1, 1, size=(len(x), len(case["size"]))) if case["modulation"] == "update" else None
    if positions is not None and case["background"] == 1:
        x, positions = np.concatenate([x, x[:, ..., ::-1]]), np.concatenate([positions, -positions])
    kernel_size, degree, background = case["kernel_size"], case["degree"], case["background"]
    A = design(x, kernel_size, degree, background, case["modulation"], positions, **geometry)
    options = {("padding_mode" if name == "mode" else name): value for name, value in geometry.items()}
    shape = correlate(x, np.zeros((1, case["channels"], *kernel_size)), **options).shape[2:]
    y = rng.normal(size=(len(x), case["outputs"], *shape)) + 100
    wide = np.moveaxis(y, 1, -1).reshape(-1, case["outputs"])
    weights = mask = None
    roots = np.ones(len(A))
    if case.get("weighted"):
        weights = rng.uniform(size=(len(x), *shape))
        roots = np.sqrt(weights.ravel())
    if case.get("masked"):
        mask = rng.uniform(size=shape) < 0.2
        roots = np.broadcast_to(~mask, (len(x), *shape)).ravel().astype(float)
    expected = np.linalg.lstsq(A * roots[:, None], wide * roots[:, None], rcond=None)[0]
    found = fit_varying(
        x, y, kernel_size=kernel_size, degree=degree, background_degree=background, modulation=case["modulation"],
        positions=positions, weights=weights, mask=mask, **options,
    )  # fmt: skip
    terms = len(monomials(len(shape), degree))
    n = terms * case["channels"] * int(np.prod(kernel_size))
    by_rows = np.moveaxis(found.kernel.weights, 1, -1).reshape(n, -1)
    np.testing.assert_allclose(by_rows, expected[:n], atol=1e-9)
    if background is None:
        assert found.kernel.background is None
    else:
        np.testing.assert_allclose(found.kernel.background, expected[n:], atol=1e-7)
    left = (wide - A @ expected) * roots[:, None]
    assert found.loss == pytest.approx((left**2).sum(), rel=1e-9)
    if positions is None:  # and what it predicts is what the rows say
        predicted = np.moveaxis(found.kernel.apply(x), 1, -1).reshape(wide.shape)
        np.testing.assert_allclose(predicted, A @ expected, atol=1e-7)
    else:
        for one, z, rows in zip(x, positions, np.split(A @ expected, len(x))):
            made = found.kernel.apply(one, position=z)
            np.testing.assert_allclose(np.moveaxis(made, 0, -1).reshape(rows.shape), rows, atol=1e-7)
    state = VaryingGram(
        kernel_size, case["channels"], case["outputs"], degree=degree, modulation=case["modulation"],
        background_degree=background or 0, **options,
    )  # fmt: skip
    if positions is None:
        state.update(x, y, weights=weights, mask=mask)
    else:
        for n, z in enumerate(positions):
            state.update(x[n], y[n], position=z, weights=None if weights is None else weights[n])
    solved = state.solve(background_degree=background)
    np.testing.assert_allclose(solved.kernel.weights, found.kernel.weights, atol=1e-8)
    np.testing.assert_allclose(solved.stderr, found.stderr, rtol=1e-6)


@pytest.mark.skipif(not HOTPANTS.is_dir(), reason="needs the shared data")
def test_hotpants_of_spatial_order_one():
    """What the program printed, six decimals: the first coefficient the same everywhere, the others linear."""
    expected = json.loads((HOTPANTS / "expected.json").read_text())["four_varying"]
    with np.load(HOTPANTS / "pair.npz") as arrays:
        template, science = (arrays[name].astype(float) for name in ("template", "science"))
    powers = [(a, b) for a in range(4) for b in range(4 - a)]
    basis = gaussian_hermite((19, 19), [3.0], [3])[[powers.index((b, a)) for a, b in powers]]
    half = len(template) / 2
    gram = VaryingGram(19, degree=1, modulation="update")
    for column, row in expected["stamps"]:
        inner = np.s_[row - 15 : row + 16, column - 15 : column + 16]
        around = np.s_[row - 24 : row + 25, column - 24 : column + 25]
        position = ((row - half) / half, (column - half) / half)
        gram.update(template[around][None], science[inner][None], position=position)
    found = gram.solve(background_degree=0, basis=basis, constant=(0,))
    np.testing.assert_allclose(np.abs(found.coefficients[:, 0, 0].T), np.abs(expected["coefficients"]), atol=1e-6)
    assert found.kernel.background[0, 0] == pytest.approx(expected["background"], abs=1e-6)
    assert np.all(found.coefficients[1:, 0, 0, 0] == pytest.approx(0, abs=1e-12))


def varying(size=(40, 44), modulation="output", noise=0.0, kernel_size=(5, 4), degree=1, seed=0):
    """x, y and the kernel that made it, with a background."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(1, *size)) + 3
    start = fit_varying(
        x, rng.normal(size=(1, size[0] - kernel_size[0] + 1, size[1] - kernel_size[1] + 1)), kernel_size=kernel_size,
        degree=degree, modulation=modulation, background_degree=1,
    )  # fmt: skip
    y = start.kernel.apply(x)
    return x, y + noise * rng.normal(size=y.shape), start.kernel


@pytest.mark.parametrize("modulation", ["input", "output"])
def test_chunks_of_a_frame_are_the_whole(modulation):
    x, y, kernel = varying(modulation=modulation)
    options = {"degree": 1, "modulation": modulation, "background_degree": 1, "frame": (40, 44)}
    whole = VaryingGram((5, 4), **options).update(x, y)
    upper = VaryingGram((5, 4), **options).update(x[:, :20], y[:, :16], origin=(0, 0))
    lower = VaryingGram((5, 4), **options)
    for start, stop in ((16, 25), (25, 36)):
        lower.update(x[:, start : stop + 4], y[:, start:stop], origin=(start, 0))
    parts = upper.merge(lower)
    scale = np.sqrt(np.outer(np.diag(whole.moments), np.diag(whole.moments)))
    assert np.abs((parts.moments - whole.moments) / scale).max() < 1e-12
    found = parts.solve(background_degree=1)
    np.testing.assert_allclose(found.kernel.weights, kernel.weights, atol=1e-10)
    np.testing.assert_allclose(found.kernel.background, kernel.background, atol=1e-10)
    chunk = found.kernel.apply(x[:, 10:30], origin=(10, 0))
    np.testing.assert_allclose(chunk, y[:, 10:26], atol=1e-9)
    left = whole.downdate(x[:, :20], y[:, :16], origin=(0, 0))
    assert left.equations == lower.equations
    assert np.abs((left.moments - lower.moments) / scale).max() < 1e-12


@pytest.mark.parametrize("modulation", ["input", "output", "update"])
def test_a_state_survives_a_file_and_gives_smaller_kernels(tmp_path, modulation):
    x, y, _ = varying(noise=0.1)
    where = {"position": (0.3, -0.2)} if modulation == "update" else {}
    gram = VaryingGram((5, 4), degree=1, modulation=modulation, background_degree=2)
    gram.update(x, y, **where)
    gram.save(tmp_path / "state.npz")
    again = VaryingGram.load(tmp_path / "state.npz")
    assert again.geometry == gram.geometry
    np.testing.assert_array_equal(again.matrix, gram.matrix)
    small = VaryingGram((3, 2), degree=1, modulation=modulation, background_degree=2)
    if modulation == "update":
        small.update(x[:, 1:-1, 1:-1], y, **where)
    else:
        small = VaryingGram((3, 2), degree=1, modulation=modulation, background_degree=2, frame=(40, 44))
        small.update(x[:, 1:-1, 1:-1], y, origin=(1, 1))
    np.testing.assert_allclose(again.restricted_to((3, 2)).moments, small.moments, rtol=1e-9, atol=1e-9)
    if modulation != "update":
        expected = small.solve(background_degree=1)
        found = again.restricted_to((3, 2)).solve(background_degree=1)
        np.testing.assert_allclose(found.kernel.weights, expected.kernel.weights, atol=1e-9)
        np.testing.assert_allclose(found.kernel.apply(x[:, 1:-1, 1:-1], origin=(1, 1)),
                                   expected.kernel.apply(x[:, 1:-1, 1:-1], origin=(1, 1)), atol=1e-8)  # fmt: skip
    with pytest.raises(ConvolithError, match="a convolith varying gram of version 2; expected a convolith gram of 2"):
        Gram.load(tmp_path / "state.npz")


def test_degree_zero_is_fit():
    x, y, _ = varying(noise=0.1)
    found = fit_varying(x, y, kernel_size=(5, 4), degree=0, background_degree=0, ridge=2.0)
    expected = fit(x, y, kernel_size=(5, 4), offset=True, ridge=2.0)
    np.testing.assert_allclose(found.kernel.weights[0], expected.kernel, atol=1e-12)
    np.testing.assert_allclose(found.kernel.background[0], expected.offset, atol=1e-10)
    np.testing.assert_allclose(found.stderr[0], expected.stderr, rtol=1e-9)
    assert found.residual_rms == pytest.approx(expected.residual_rms)
    assert found.loss == pytest.approx(expected.loss[0])
    conv = found.kernel.at((0.1, 0.7))
    np.testing.assert_allclose(correlate(x, conv), correlate(x, expected.conv), atol=1e-10)


PENALTIES = {
    "ridge and smoothness": {"ridge": 3.0, "smoothness": 2.0},
    "basis": {"basis": gaussian_hermite((5, 5), [1.0], [2])},
    "constant": {"basis": gaussian_hermite((5, 5), [1.0], [2]), "constant": (0, 2)},
    "all constant": {"basis": gaussian_hermite((5, 5), [1.0], [1]), "constant": (0, 1, 2)},
    "sum": {"constraints": "sum-to-one"},
    "symmetric": {"constraints": ("symmetric", "sum-to-one"), "ridge": 1.0},
}


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("options", PENALTIES.values(), ids=PENALTIES)
@pytest.mark.parametrize("modulation", ["input", "output"])
def test_no_allowed_kernel_nearby_is_better(options, modulation):
    x, y, _ = varying(size=(18, 17), noise=0.5, kernel_size=(5, 5), modulation=modulation)
    found = fit_varying(x, y, kernel_size=5, degree=1, background_degree=1, modulation=modulation, **options)
    A = design(x[None], (5, 5), 1, 1, modulation)
    A, target = A[:, :75], y.ravel() - A[:, 75:] @ np.linalg.lstsq(A[:, 75:], y.ravel(), rcond=None)[0]
    known = design(x[None], (5, 5), 1, 1, modulation)[:, 75:]
    A = A - known @ np.linalg.lstsq(known, A, rcond=None)[0]

    def minimised(weights):
        flat = weights.reshape(3, 5, 5)
        rough = sum((np.diff(flat, axis=axis) ** 2).sum() for axis in (1, 2))
        total = ((target - A @ weights.ravel()) ** 2).sum() + options.get("ridge", 0) * (weights**2).sum()
        return total + options.get("smoothness", 0) * rough

    weights = found.kernel.weights
    assert found.loss == pytest.approx(minimised(weights))
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(200, 3, 5, 5))
    if "basis" in options:
        free = rng.normal(size=(200, 3, len(options["basis"])))
        free[:, 1:, list(options.get("constant", ()))] = 0
        directions = np.tensordot(free, options["basis"], 1)
        np.testing.assert_allclose(
            np.tensordot(found.coefficients[:, 0, 0], options["basis"], 1), weights[:, 0, 0], atol=1e-9
        )
        np.testing.assert_allclose(found.coefficients[1:, 0, 0, list(options.get("constant", ()))], 0, atol=1e-12)
    names = options.get("constraints", ())
    if "symmetric" in names:
        directions = directions + np.flip(directions, (2, 3))
        np.testing.assert_allclose(weights, np.flip(weights, (3, 4)), atol=1e-10)
    if "sum-to-one" in names:
        directions = directions - directions.mean((2, 3), keepdims=True)
        np.testing.assert_allclose(weights.sum((1, 2, 3, 4)), [1, 0, 0], atol=1e-10)
    for direction in directions:
        assert minimised(weights[:, 0, 0] + 1e-3 * direction) > minimised(weights)


@pytest.mark.filterwarnings("ignore:residuals")  # which such a fit leaves
@pytest.mark.slow
def test_noise_in_x_is_taken_off():
    """The kernel of many noisy images comes nearer with the variance than without."""
    rng = np.random.default_rng(1)
    for modulation in ("input", "output"):
        clean, _, kernel = varying(size=(120, 120), kernel_size=(3, 3), modulation=modulation)
        y = kernel.apply(clean)
        runs = []
        for variance in (0.0, 0.25):
            weights = [
                fit_varying(
                    clean + np.sqrt(0.25) * np.random.default_rng(n).normal(size=clean.shape), y, kernel_size=3,
                    degree=1, background_degree=1, modulation=modulation, x_noise_variance=variance,
                ).kernel.weights
                for n in range(12)
            ]  # fmt: skip
            runs.append(np.linalg.norm(np.mean(weights, 0) - kernel.weights) / np.linalg.norm(kernel.weights))
        assert runs[0] > 0.1
        assert runs[1] < 0.03
    del rng


@pytest.mark.slow
def test_error_bars_are_those_of_repeated_fits():
    x, y, _ = varying(size=(40, 40), kernel_size=(3, 3))
    fits = [
        fit_varying(x, y + 0.1 * np.random.default_rng(n).normal(size=y.shape), kernel_size=3, background_degree=1)
        for n in range(200)
    ]
    spread = np.std([found.kernel.weights for found in fits], axis=0)
    np.testing.assert_allclose(np.mean([found.stderr for found in fits], 0), spread, rtol=0.25)
    jackknifed = fit_varying(
        x, y + 0.1 * np.random.default_rng(0).normal(size=y.shape), kernel_size=3, background_degree=1,
        errors="jackknife",
    )  # fmt: skip
    np.testing.assert_allclose(jackknifed.kernel.weights, fits[0].kernel.weights, atol=1e-10)
    assert 0.7 < np.mean(jackknifed.stderr / spread) < 1.4


@pytest.mark.filterwarnings("ignore:residuals")  # of data that no such kernel made
@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("modulation", ["input", "output", "update"])
def test_applying_to_tensors_batches_and_dtypes(modulation):
    x, y, _ = varying()
    positions = [(0.2, 0.1)] if modulation == "update" else None
    x, y = (array[None].astype(np.float32) for array in (x, y))
    if modulation == "update":
        x, y = np.concatenate([x] * 3), np.concatenate([y] * 3)
        positions = [(0.2, 0.1), (-0.5, 0.3), (0.5, -0.9)]
    found = fit_varying(torch.from_numpy(x), torch.from_numpy(y), kernel_size=(5, 4), modulation=modulation,
                        background_degree=0, positions=positions)  # fmt: skip
    assert found.kernel.weights.dtype == torch.float32
    assert found.stderr.dtype == torch.float64
    again = fit_varying(x, y, kernel_size=(5, 4), modulation=modulation, background_degree=0, positions=positions)
    made = found.kernel.apply(torch.from_numpy(x))
    assert isinstance(made, torch.Tensor)
    np.testing.assert_allclose(made.numpy(), again.kernel.apply(x), rtol=1e-5)
    np.testing.assert_allclose(again.kernel.apply(x[0]), made[0].numpy(), rtol=1e-5)
    counts = (10 * x).astype(np.int32)
    np.testing.assert_allclose(again.kernel.apply(counts), again.kernel.apply(counts.astype(np.float32)), rtol=1e-5)


def test_moved_monomials():
    powers = monomials(2, 3)
    steps = np.array([[0.3, -0.2], [0.0, 0.0]])
    z = np.random.default_rng(0).uniform(-1, 1, size=(2, 7))
    for step, matrix in zip(steps, moved(powers, monomials(2, 4), steps)):
        there = [
            values([(z[0, i] + step[0])[None, None], (z[1, i] + step[1])[None, None]], powers).ravel() for i in range(7)
        ]
        here = [values([z[0, i][None, None], z[1, i][None, None]], monomials(2, 4)).ravel() for i in range(7)]
        np.testing.assert_allclose(np.array(there), np.array(here) @ matrix.T, atol=1e-12)


x, y, _ = varying()
REFUSED = {
    "modulation": ({"modulation": "pixel"}, "modulation is 'pixel'; expected one of output, input, update"),
    "no positions": ({"modulation": "update"}, 'no position was given with modulation "update"'),
    "positions": ({"positions": [(0, 0)]}, 'a position was given with modulation "output"'),
    "two positions": ({"modulation": "update", "positions": [(0, 0)] * 2}, "positions has 2 rows; expected one for each of 1"),
    "position": ({"modulation": "update", "positions": [(0, np.nan)]}, "expected a finite number for each of 2 axes"),
    "degree": ({"degree": -1}, "degree is -1; expected 0 or more"),
    "background": ({"background_degree": -1}, "background_degree is -1; expected 0 or more"),
    "constant without basis": ({"constant": (0,)}, "constant is .* without a basis"),
    "constant": ({"basis": "gaussian-hermite", "constant": (99,)}, "constant is .* expected numbers below 49"),
    "nonnegative": ({"constraints": "nonnegative"}, "weights that vary are not of one sign everywhere"),
    "errors": ({"errors": "boot"}, "errors is 'boot'"),
    "ridge": ({"ridge": "auto"}, "ridge is 'auto'; expected a finite number"),
    "few pixels": ({"degree": 12}, "y has 1476 pixels to fit but each output channel has 1820 unknowns"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals(options, message):
    with pytest.raises(ConvolithError, match=message):
        fit_varying(x, y, kernel_size=(5, 4), **options)


def test_a_state_refuses_other_states_and_places_and_stays_as_it_was():
    gram = VaryingGram((5, 4), frame=(40, 44)).update(x, y)
    before = gram.matrix.copy()
    for other, message in (
        (Gram((5, 4)), "other is a Gram; expected a VaryingGram"),
        (VaryingGram((5, 4), degree=2).update(x, y), "other has degree 2, but this state 1"),
        (VaryingGram((5, 4), modulation="input").update(x, y), "other has modulation input, but this state output"),
        (VaryingGram((5, 4), frame=(99, 44)).update(x, y, origin=(0, 0)), r"other has frame \(99, 44\)"),
    ):
        with pytest.raises(ConvolithError, match=message):
            gram.merge(other)
    with pytest.raises(ConvolithError, match="expected a Gram|expected a VaryingGram"):
        Gram((5, 4)).merge(gram)
    for options, message in (
        ({"origin": (1, 0)}, "leaves the frame"),
        ({"position": (0, 0)}, 'a position was given with modulation "output"'),
    ):
        with pytest.raises(ConvolithError, match=message):
            gram.update(x, y, **options)
    with pytest.raises(ConvolithError, match="pass origin="):
        gram.update(x[:, :20], y[:, :16])
    with pytest.raises(ConvolithError, match="there is no frame yet"):
        VaryingGram((5, 4)).update(x, y, origin=(1, 0))
    with pytest.raises(ConvolithError, match="differ by an even"):
        gram.restricted_to((4, 4))
    with pytest.raises(ConvolithError, match="background_degree is 2, but the state was made for 1 at most"):
        gram.solve(background_degree=2)
    with pytest.raises(ConvolithError, match="equations to take out"):
        VaryingGram((5, 4)).downdate(x, y)
    with pytest.raises(ConvolithError, match="whose positions are given; leave it out"):
        VaryingGram(3, modulation="update", frame=(9, 9))
    np.testing.assert_array_equal(gram.matrix, before)
    with pytest.raises(ConvolithError, match="position was given together with modulation"):
        gram.solve().kernel.apply(x, position=(0, 0))
    with pytest.raises(ConvolithError, match="the state holds no equations"):
        VaryingGram(3).solve()

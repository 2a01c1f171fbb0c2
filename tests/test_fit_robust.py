"""What data, states and arguments of a fit may be like, and what a user is told."""

import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from astropy.io import fits

from convolith import ConvolithError, Gram, VaryingGram, correlate, fit, fit_varying
from convolith.fitting.moments import correlations
from tests.test_cli import refused, run

rng = np.random.default_rng(0)
X = rng.normal(size=(1, 40, 40))
KERNEL = rng.normal(size=(1, 1, 3, 3))
Y = correlate(X, KERNEL)


@pytest.mark.parametrize("way", correlations.WAYS)
def test_another_default_device_changes_nothing(way, monkeypatch):
    monkeypatch.setattr(correlations, "WAYS", {way: correlations.WAYS[way]})
    mask = np.zeros(Y.shape[1:], bool)
    mask[3, 4] = True
    with torch.device("meta"):
        found = fit(X, Y, kernel_size=3, mask=mask, offset=True)
        varying = fit_varying(X, Y, kernel_size=3, degree=1)
    np.testing.assert_allclose(found.kernel, KERNEL, atol=1e-10)
    np.testing.assert_allclose(varying.kernel.weights[0], KERNEL, atol=1e-9)


@pytest.mark.parametrize("value", [1e8, 1e30, -1.6e30, 1e200, np.inf, np.nan])
@pytest.mark.parametrize("by", ["mask", "weights"])
def test_what_is_not_read_may_be_anything(value, by):
    x, mask = X.copy(), np.zeros(Y.shape[1:], bool)
    mask[10:13, 20:23] = True
    x[0, 12, 22] = value
    left_out = {"mask": mask} if by == "mask" else {"weights": np.where(mask, 0.0, 1.0)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(fit(x, Y, kernel_size=3, **left_out).kernel, KERNEL, atol=1e-12)
        np.testing.assert_allclose(Gram(3).update(x, Y, **left_out).solve().kernel, KERNEL, atol=1e-10)
        varying = fit_varying(x, Y, kernel_size=3, degree=1, background_degree=1, **left_out)
    np.testing.assert_allclose(varying.kernel.weights[0], KERNEL, atol=1e-10)
    strided = fit(x, correlate(X, KERNEL, stride=2), kernel_size=3, stride=2, mask=mask[::2, ::2])
    np.testing.assert_allclose(strided.kernel, KERNEL, atol=1e-10)


def test_an_update_without_equations_changes_nothing():
    for gram in (Gram(3), VaryingGram(3)):
        gram.update(
            np.full((1, 30, 30), 1e8, np.float32), np.zeros((1, 28, 28), np.float32), mask=np.ones((28, 28), bool)
        )
        assert not gram.dtypes
        assert not gram.equations
        gram.update(X, Y)
        found = gram.solve().kernel
        np.testing.assert_allclose(
            found if isinstance(gram, Gram) and type(gram) is Gram else found.weights[0], KERNEL, atol=1e-9
        )


def test_a_refused_merge_leaves_the_frame_and_empty_states_merge():
    state, other = VaryingGram(3, degree=1), VaryingGram(3, degree=2).update(X, Y)
    with pytest.raises(ConvolithError, match="other has degree 2"):
        state.merge(other)
    assert state.frame is None
    state.update(X[:, :30, :30], Y[:, :28, :28])
    before = state.matrix.copy()
    state.merge(VaryingGram(3)).subtract(VaryingGram(3))
    np.testing.assert_array_equal(state.matrix, before)
    assert VaryingGram(3).merge(state).frame == (30, 30)


def test_a_kernel_is_applied_within_its_frame():
    kernel = fit_varying(X, Y, kernel_size=3, degree=2).kernel
    with pytest.raises(ConvolithError, match=r"x has size \(80, 80\) in a frame of \(40, 40\); pass origin="):
        kernel.apply(np.ones((1, 80, 80)))
    with pytest.raises(ConvolithError, match="which leaves the frame"):
        kernel.apply(np.ones((1, 30, 30)), origin=(20, 0))
    whole = kernel.apply(X)
    np.testing.assert_allclose(kernel.apply(X[:, 10:25, 5:], origin=(10, 5)), whole[:, 10:23, 5:], atol=1e-10)
    given = fit_varying(np.stack([X, X]), np.stack([Y, Y]), kernel_size=3, degree=0, modulation="update",
                        positions=torch.zeros(2, 2, requires_grad=True)).kernel  # fmt: skip
    with pytest.raises(ConvolithError, match="there is no frame yet"):
        given.apply(X, origin=(1, 1))
    learned = replace(kernel, weights=torch.from_numpy(kernel.weights).requires_grad_())
    np.testing.assert_allclose(learned.apply(X), whole, atol=1e-12)
    assert learned.apply(torch.from_numpy(X)).requires_grad


def test_same_padding_with_a_stride_has_no_operator_but_applies(tmp_path):
    x = np.stack([X, X[:, ::-1], X[:, :, ::-1]])
    y = correlate(x, KERNEL, stride=2, padding="same")
    found = fit_varying(
        x, y, kernel_size=3, stride=2, padding="same", modulation="update", positions=[(0, 0), (1, 0.5), (-1, 0.7)]
    )
    np.testing.assert_allclose(found.kernel.apply(X, position=(0, 0)), y[0], atol=1e-10)
    with pytest.raises(ConvolithError, match="depends on the input size"):
        found.kernel.at((0, 0))
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", y[0])
    options = ("--size", 3, "--degree", 1, "--stride", 2, "--padding", "same")
    assert (
        "sum of kernel" in run("fit", tmp_path / "x.npy", tmp_path / "y.npy", *options, "-o", tmp_path / "k.npz").stdout
    )


def test_dtypes_of_files(tmp_path):
    np.save(tmp_path / "x.npy", X[0].astype(np.float32))
    np.save(tmp_path / "y.npy", Y[0].astype(np.float32))
    np.save(tmp_path / "wide.npy", X[0])
    np.save(tmp_path / "complex.npy", X[0] + 1j)
    run("fit", tmp_path / "x.npy", tmp_path / "y.npy", "--size", 3, "--degree", 1, "-o", tmp_path / "k.npz")
    run("correlate", tmp_path / "wide.npy", tmp_path / "k.npz", "-o", tmp_path / "made.npy")
    assert np.load(tmp_path / "made.npy").dtype == np.float64
    np.testing.assert_allclose(np.load(tmp_path / "made.npy"), Y[0], atol=1e-4)
    assert "complex" in refused("correlate", tmp_path / "complex.npy", tmp_path / "k.npz")
    np.save(tmp_path / "large.npy", np.ones((99, 99)))
    assert "in a frame of (40, 40)" in refused("correlate", tmp_path / "large.npy", tmp_path / "k.npz")
    arrays = dict(np.load(tmp_path / "k.npz"))
    for change, message in (
        ({"degree": np.array(5)}, "weights has shape"),
        ({"modulation": np.array("foo")}, "modulation is 'foo'"),
        ({"frame": np.array([3])}, "frame has 1 entries"),
    ):
        np.savez(tmp_path / "edited.npz", **(arrays | change))
        assert message in refused("correlate", tmp_path / "x.npy", tmp_path / "edited.npz")


def test_fits_files_that_are_only_unusual_are_read(tmp_path):
    image = fits.PrimaryHDU(X[0])
    image.header["BLANK"] = -1
    image.writeto(tmp_path / "blank.fits", output_verify="ignore")
    content = (tmp_path / "blank.fits").read_bytes()
    (tmp_path / "longer.fits").write_bytes(content + b"x" * 100)
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(X[0].astype(np.float32))]).writeto(tmp_path / "packed.fits.fz")
    for name in ("blank.fits", "longer.fits", "packed.fits.fz"):
        run("correlate", tmp_path / name, "[[1]]", "-o", tmp_path / "again.npy")
        np.testing.assert_allclose(np.load(tmp_path / "again.npy"), X[0], atol=0.2)
    assert "expected a name that ends in" in refused(
        "correlate", tmp_path / "blank.fits", "[[1]]", "-o", tmp_path / "o.fits.fz"
    )


def test_pairs_stand_in_the_order_of_their_numbers(tmp_path):
    for n in (1, 2, 10):
        x = np.random.default_rng(n).normal(size=(20, 20))
        np.save(tmp_path / f"b{n}.npy", x)
        fits.PrimaryHDU(correlate(x[None], KERNEL)[0]).writeto(tmp_path / f"a{n:02}.fits")
    shown = run("fit", tmp_path / "b*.npy", f"{tmp_path / 'a*.fits'}:0", "--size", 3, "--stride", "1,1", "--json")
    assert "3 pairs, from" in shown.stderr
    assert "b10.npy with" in shown.stderr.replace("\n", "")
    assert '"residual_rms": 0.3' not in shown.stdout
    assert "--steps is 7" in refused("fit", tmp_path / "b*.npy", tmp_path / "a*.fits", "--size", 3, "--steps", 7)


@pytest.mark.slow
def test_a_warning_points_to_the_callers_line(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np, convolith as cl\nx = np.ones((1, 9, 9))\ncl.fit(x, x[:, 1:-1, 1:-1], kernel_size=3)\n"
    )
    told = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True).stderr  # noqa: S603
    assert "script.py:3: RuntimeWarning: the data determine only" in told


ARGUMENTS = {
    "constant": (lambda: fit_varying(X, Y, kernel_size=3, constant=None), "constant is None; expected whole numbers"),
    "one constant": (lambda: fit_varying(X, Y, kernel_size=3, constant=0), "without a basis"),
    "constraints": (lambda: fit(X, Y, kernel_size=3, constraints=3), "constraints is 3; expected some of"),
    "ragged positions": (lambda: fit_varying(X, Y, kernel_size=3, modulation="update", positions=[[0, 0], [0]]), "positions is"),
    "ragged noise": (lambda: fit(X, Y, kernel_size=3, x_noise_variance=[[1], [2, 3]]), "x_noise_variance is"),
    "basis of words": (lambda: fit(X, Y, kernel_size=3, basis=["a"]), "basis is no array of numbers"),
    "auto": (lambda: fit_varying(X, Y, kernel_size="auto"), "kernel_size is 'auto'; expected a number"),
    "channels": (lambda: VaryingGram(3, 1.5), "in_channels is 1.5; expected a whole number"),
    "no channels": (lambda: Gram(3, 0), "in_channels is 0; expected 1 or more"),
    "background": (lambda: fit_varying(X, Y, kernel_size=3, background_degree=False), "background_degree is False"),
    "empty state": (lambda: VaryingGram(5, dilation=2).restricted_to(3).solve(x_noise_variance=1.0), "the state holds no equations"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "message"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments_that_are_refused(call, message):
    with pytest.raises(ConvolithError, match=message):
        call()


def test_states_in_files_are_checked(tmp_path):
    Gram(3, np.int64(1)).update(X, Y).save(tmp_path / "state.npz")
    assert Gram.load(tmp_path / "state.npz").equations == Y.size
    np.savez(tmp_path / "bare.npz", about=np.array('{"kind": "convolith gram", "version": 2}'))
    with pytest.raises(ConvolithError, match="which lacks parts of a state"):
        Gram.load(tmp_path / "bare.npz")


@pytest.mark.parametrize("scale", [1e154, 1e-160])
@pytest.mark.parametrize("which", ["x", "y", "weights"])
def test_numbers_whose_squares_leave_float64_are_refused_in_words(which, scale):
    x = np.random.default_rng(0).random((1, 20, 21))
    data = {"x": x, "y": x[:, 1:-1, 1:-1].copy(), "weights": np.ones((18, 19))}
    data[which] = data[which] * scale if which != "weights" else np.full((18, 19), 1e300 if scale > 1 else 1e-300)
    for compute in (
        lambda: fit(data["x"], data["y"], kernel_size=3, weights=data["weights"]),
        lambda: fit(data["x"], data["y"], kernel_size=3, weights=data["weights"], method="lbfgs"),
        lambda: fit_varying(data["x"], data["y"], kernel_size=3, degree=1, weights=data["weights"]),
        lambda: Gram(3).update(data["x"], data["y"], weights=data["weights"]),
    ):
        with pytest.raises(ConvolithError, match="whose sums of squares leave the range of float64") as refused:
            compute()
        assert ("divide" if scale > 1 else "multiply") in str(refused.value)


@pytest.mark.parametrize("scale", [1e-130, 1e130])
def test_numbers_far_from_one_are_fitted(scale):
    x = np.random.default_rng(0).random((1, 20, 21))
    kernel = np.random.default_rng(1).random((3, 3))
    y = correlate(x, kernel[None, None])
    np.testing.assert_allclose(fit(scale * x, scale * y, kernel_size=3).kernel[0, 0], kernel, rtol=1e-9)

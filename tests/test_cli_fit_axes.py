"""`convolith fit --axes`: one kernel along any axes of a stack, in the order and layout of the files."""

import numpy as np
import pytest
from scipy import ndimage

from tests.test_cli import refused, run

SHAPE = (4, 17, 3, 18)


def stack(axes, size=(3, 4)):
    """Return a stack, the stack filtered along some axes by a kernel (NaN is nowhere), and the kernel."""
    rng = np.random.default_rng(3)
    x, kernel = rng.random(SHAPE), rng.random(size[: len(axes)]) + 0.1
    y = np.empty_like(x)
    moved, result = (np.moveaxis(one, axes, range(-len(axes), 0)) for one in (x, y))
    for index in np.ndindex(moved.shape[: -len(axes)]):
        # SciPy's centre is k // 2, this library's (k - 1) // 2
        origin = [(k - 1) // 2 - k // 2 for k in kernel.shape]
        result[index] = ndimage.correlate(moved[index], kernel, mode="mirror", origin=origin)
    return x, y, kernel


@pytest.mark.parametrize("axes", [(1, 3), (3, 1), (0, 1), (2, 3), (1,), (3,), (-3, -1)])
def test_the_kernel_runs_along_any_axes(tmp_path, monkeypatch, axes):
    monkeypatch.chdir(tmp_path)
    x, y, kernel = stack(axes, (3, 2))
    y = y + 0.01 * np.random.default_rng(1).normal(size=SHAPE)
    mask = np.random.default_rng(2).random(SHAPE) < 0.05
    np.save("x.npy", x)
    np.save("y.npy", np.where(mask, 1e6, y))
    np.save("mask.npy", mask)
    np.save("variance.npy", np.full(SHAPE, 1e-4))
    pictures = [part for name in ("matched", "difference", "noise") for part in (f"--{name}", f"{name}.npy")]
    along = ",".join(map(str, axes))
    options = ("--size", 3 if len(axes) == 1 else "3,2", f"--axes={along}", "--mask", "mask.npy")
    run("fit", "x.npy", "y.npy", *options, "--variance", "variance.npy", *pictures, "-o", "k.npz")
    np.testing.assert_allclose(np.load("k.npz")["weight"][0, 0], kernel, atol=0.05)
    matched, difference, noise = (np.load(f"{name}.npy") for name in ("matched", "difference", "noise"))
    known = np.isfinite(matched)
    inner = np.zeros(SHAPE, bool)
    inner[tuple(slice(1, -1) if axis in np.array(axes) % 4 else slice(None) for axis in range(4))] = True
    assert (known >= inner).all()
    assert known.sum() < known.size
    np.testing.assert_allclose(matched[known], y[known], atol=0.1)
    np.testing.assert_array_equal(np.isfinite(difference), known & ~mask)
    np.testing.assert_allclose(difference[known & ~mask], (y - matched)[known & ~mask], atol=1e-5)
    np.testing.assert_allclose(noise[known & ~mask], 0.01, rtol=1e-6)


def test_axes_are_letters_where_the_files_name_them(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    monkeypatch.chdir(tmp_path)
    x, y, kernel = (one.astype(np.float32) for one in stack((0, 1), (3, 3)))
    for name, array in (("x", x), ("y", y)):
        planes = np.moveaxis(array[:, :, 0], -1, 0)
        tifffile.imwrite(f"{name}.tif", planes, imagej=True, metadata={"axes": "ZYX"})
        tifffile.imwrite(f"{name}t.tif", planes, imagej=True, metadata={"axes": "TYX"})
    run("fit", "x.tif", "y.tif", "--size", 3, "--axes", "yx", "-o", "k.npz", "--difference", "d.tif")
    np.testing.assert_allclose(np.load("k.npz")["weight"][0, 0], kernel, atol=1e-4)
    with tifffile.TiffFile("d.tif") as file:
        assert (file.series[0].axes, file.series[0].shape) == ("ZYX", (18, 4, 17))
    run("fit", "x.tif", "y.tif", "--size", 3, "--axes", "xy", "-o", "k.npz")
    np.testing.assert_allclose(np.load("k.npz")["weight"][0, 0], kernel.T, atol=1e-4)
    assert "BEFORE has the axes ZYX and AFTER TYX, which do not pair" in refused(
        "fit", "x.tif", "yt.tif", "--size", 3, "--axes", "yx"
    )
    assert "BEFORE has the axes Z (0), Y (1), X (2)" in refused("fit", "x.tif", "y.tif", "--size", 3, "--axes", "yq")


def test_stacks_that_may_be_read_otherwise_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y, _ = stack((0, 1))
    np.save("x.npy", x)
    np.save("y.npy", y)
    np.save("moved.npy", np.moveaxis(y, 2, 0))
    words = refused("fit", "x.npy", "y.npy", "--size", 3)
    assert "68 of 3x18 (pass --axes 2,3) or 72 of 17x3 (pass --axes 1,2), or 4 images with 17 channels" in words
    cases = {
        ("--axes", "0,1", "--size", "3,3,3"): "--size has 3 numbers and --axes 2",
        ("--axes", "0,4", "--size", 3): "expected different axes of BEFORE with 4 axes: -4 to 3",
        ("--axes", "1,-3", "--size", 3): "expected different axes of BEFORE with 4 axes",
        ("--axes", "yx", "--size", 3): "BEFORE has no names of axes",
        ("--axes", 1, "--size", "auto"): "--size is auto, which takes one signal, and --axes leaves 216",
        ("--axes", "1,3", "--size", 3, "--mix-channels"): "--mix-channels was given with --axes",
    }
    for options, expected in cases.items():
        assert expected in refused("fit", "x.npy", "y.npy", *options)
    assert "BEFORE has 4x3 images and AFTER 3x17" in refused("fit", "x.npy", "moved.npy", "--size", 3, "--axes", "1,3")


def test_the_size_of_one_signal_is_chosen_along_its_axis(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(3000, 1))
    np.save("x.npy", x)
    np.save("y.npy", ndimage.correlate1d(x, [1, 2, 4, 2, 0.5], axis=0))
    run("fit", "x.npy", "y.npy", "--size", "auto", "--axes", 0, "-o", "k.npz", "--matched", "m.npy")
    np.testing.assert_allclose(np.load("k.npz")["weight"][0, 0], [1, 2, 4, 2, 0.5], atol=1e-6)
    assert np.load("m.npy").shape == (3000, 1)

"""`convolith fit` of kernels that vary, of many pairs and of FITS files; its refusals, and what `correlate` makes of it."""

import json

import numpy as np
import pytest
from astropy.io import fits

import convolith as cl
from tests.test_cli import refused, run

SIZE = (40, 36)
INNER = (slice(1, -1), slice(1, -1))
K = np.random.default_rng(1).normal(size=(2, 3, 3))


def made(x, sky=0.0):
    """What a kernel that changes from left to right makes of x."""
    z = np.linspace(-1, 1, x.shape[1])
    return cl.filter_image(x, K[0]) + z * cl.filter_image(x, K[1]) + sky


@pytest.fixture
def pair(tmp_path):
    x = np.random.default_rng(0).normal(size=SIZE) + 10
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", made(x, 3.0))
    return tmp_path / "x.npy", tmp_path / "y.npy"


@pytest.mark.slow
def test_a_kernel_that_varies_is_written_and_applied(pair, tmp_path):
    options = ("--size", 3, "--degree", 1, "--background-degree", 0)
    shown = run("fit", *pair, *options, "-o", tmp_path / "k.npz", "--html", tmp_path / "k.html").stdout
    assert "Pixels of the frame along each axis" in shown
    page = (tmp_path / "k.html").read_text()
    assert all(words in page for words in ("Fit of a kernel that varies", "standard error", "What is left"))
    data = json.loads(run("fit", *pair, *options, "--json").stdout)
    np.testing.assert_allclose(np.array(data["weights"])[[0, 2], 0, 0], K, atol=1e-9)
    np.testing.assert_allclose(data["background"], [[3]], atol=1e-8)
    run("correlate", pair[0], tmp_path / "k.npz", "-o", tmp_path / "again.npy")
    np.testing.assert_allclose(np.load(tmp_path / "again.npy")[INNER], np.load(pair[1])[INNER], atol=1e-7)
    assert "padding was given" in refused("correlate", pair[0], tmp_path / "k.npz", "--padding", 1)
    assert "--flip was given, but the kernel varies" in refused("correlate", pair[0], tmp_path / "k.npz", "--flip")
    assert "`correlate` alone applies it" in refused("compose", tmp_path / "k.npz", tmp_path / "k.npz")


def test_channels_of_pictures_go_through_a_kernel_that_varies(tmp_path):
    x = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    y = np.stack([made(x[..., c].astype(float)) for c in range(3)], -1).astype(np.float32)
    import imageio.v3 as imageio

    imageio.imwrite(tmp_path / "x.png", x)
    imageio.imwrite(tmp_path / "y.tif", y)
    names = (tmp_path / "x.png", tmp_path / "y.tif")
    run("fit", *names, "--size", 3, "--degree", 1, "--modulation", "output", "-o", tmp_path / "k.npz")
    run("correlate", names[0], tmp_path / "k.npz", "-o", tmp_path / "again.tif")
    np.testing.assert_allclose(imageio.imread(tmp_path / "again.tif")[INNER], y[INNER], atol=2e-2)
    run("fit", *names, "--size", 3, "--degree", 1, "--mix-channels", "-o", tmp_path / "k.npz")
    run("correlate", names[0], tmp_path / "k.npz", "-o", tmp_path / "again.tif")
    np.testing.assert_allclose(imageio.imread(tmp_path / "again.tif")[INNER], y[INNER], atol=2e-2)


def test_many_pairs_are_one_fit(tmp_path):
    rng = np.random.default_rng(0)
    for n in range(3):
        x = rng.normal(size=(30 + n, 28))
        np.save(tmp_path / f"before{n}.npy", x)
        np.save(tmp_path / f"after{n}.npy", cl.filter_image(x, K[0]) + 0.1 * rng.normal(size=x.shape))
        np.save(tmp_path / f"mask{n}.npy", np.eye(30 + n, 28))
    patterns = tmp_path / "before*.npy", tmp_path / "after*.npy"
    shown = run("fit", *patterns, "--size", 3, "--background", "--json")
    gram = cl.Gram(3)
    for n in range(3):
        x, y = (np.load(tmp_path / f"{name}{n}.npy") for name in ("before", "after"))
        gram.update(x[None], y[None, 1:-1, 1:-1])
    np.testing.assert_allclose(json.loads(shown.stdout)["kernel"], gram.solve(offset=True).kernel, atol=1e-12)
    assert shown.stderr.count("its border is left out") == 1
    masked = json.loads(run("fit", *patterns, "--size", 3, "--mask", tmp_path / "mask*.npy", "--json").stdout)
    gram = cl.Gram(3)
    for n in range(3):
        x, y = (np.load(tmp_path / f"{name}{n}.npy") for name in ("before", "after"))
        gram.update(x[None], y[None, 1:-1, 1:-1], mask=np.load(tmp_path / f"mask{n}.npy")[1:-1, 1:-1] > 0)
    np.testing.assert_allclose(masked["kernel"], gram.solve().kernel, atol=1e-12)
    assert (
        "3  lstsq" in run("fit", *patterns, "--size", 3, "-o", tmp_path / "k.npz", "--html", tmp_path / "k.html").stdout
    )
    for options, message in {
        ("--size", "auto"): "--size is auto, which is chosen for a kernel of one pair",
        ("--size", 3, "--ridge", "auto"): "--ridge is auto",
        ("--size", 3, "--errors", "jackknife"): "--errors is jackknife; it applies to a constant kernel and one pair",
        ("--size", 3, "--method", "gd"): "--method is gd",
        ("--size", 3, "--mask", str(tmp_path / "before[01].npy")): "--mask matches 2 files; expected one, or one for",
    }.items():
        assert message in refused("fit", *patterns, *options)
    assert "BEFORE matches 3 files and AFTER 2" in refused("fit", patterns[0], tmp_path / "after[01].npy", "--size", 3)
    assert "which matches no file" in refused("fit", tmp_path / "none*.npy", patterns[1], "--size", 3)
    np.save(tmp_path / "before1.npy", np.full((31, 28), np.nan))
    assert "before1.npy and" in refused("fit", *patterns, "--size", 3)


def test_stamps_at_positions(tmp_path):
    rng = np.random.default_rng(0)
    positions = rng.uniform(-1, 1, size=(4, 2))
    for n, (row, column) in enumerate(positions):
        x = rng.normal(size=(20, 20))
        np.save(tmp_path / f"before{n}.npy", x)
        np.save(tmp_path / f"after{n}.npy", cl.filter_image(x, K[0] + column * K[1]) + row)
    np.save(tmp_path / "positions.npy", positions)
    patterns = tmp_path / "before*.npy", tmp_path / "after*.npy"
    options = ("--size", 3, "--degree", 1, "--background-degree", 1, "--positions", tmp_path / "positions.npy")
    data = json.loads(run("fit", *patterns, *options, "--json").stdout)
    np.testing.assert_allclose(np.array(data["weights"])[[0, 2], 0, 0], K, atol=1e-9)
    np.testing.assert_allclose(data["background"], [[0], [1], [0]], atol=1e-9)
    run("fit", *patterns, *options, "-o", tmp_path / "k.npz", "--html", tmp_path / "k.html")
    x = rng.normal(size=SIZE)
    np.save(tmp_path / "x.npy", x)
    run("correlate", tmp_path / "x.npy", tmp_path / "k.npz", "-o", tmp_path / "y.npy")
    expected = made(x, np.linspace(-1, 1, SIZE[0])[:, None])
    np.testing.assert_allclose(np.load(tmp_path / "y.npy")[INNER], expected[INNER], atol=1e-8)
    np.save(tmp_path / "positions.npy", positions[:2])
    assert "--positions has 2 rows; expected one for each of 4 pairs" in refused("fit", *patterns, *options)


def test_what_a_varying_kernel_refuses(pair):
    for options, message in {
        ("--modulation", "input"): "--modulation was given, but no --degree",
        ("--degree", 1, "--offset"): "pass --background-degree 0",
        ("--degree", 1, "--method", "gd"): "--method is gd",
        ("--degree", 1, "--ridge", "auto"): "--ridge is auto",
        ("--degree", 1, "--constant", 0): "without a basis",
        ("--degree", 1, "--nonnegative"): "not of one sign everywhere",
        ("--degree", 1, "--modulation", "update"): 'no position was given with modulation "update"',
    }.items():
        assert message in refused("fit", *pair, "--size", 3, *options)
    assert run("fit", *pair, "--size", 3, "--degree", 1, "--errors", "jackknife")


def test_fits_files_in_and_out(tmp_path):
    x = np.random.default_rng(0).normal(size=SIZE).astype(np.float32) + 10
    units = fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(x, name="SCI"), fits.ImageHDU(x + 1, name="OTHER")])
    units.writeto(tmp_path / "x.fits")
    run("correlate", tmp_path / "x.fits", json.dumps(K[0].tolist()), "-o", tmp_path / "y.fits")
    y = fits.getdata(tmp_path / "y.fits")
    expected = cl.filter_image(x, K[0].astype(np.float32), padding_mode="symmetric")
    np.testing.assert_allclose(y, expected, rtol=1e-5)
    found = json.loads(run("fit", tmp_path / "x.fits", tmp_path / "y.fits", "--size", 3, "--json").stdout)
    np.testing.assert_allclose(found["kernel"], K[None, :1], atol=1e-4)
    by_name = run("fit", f"{tmp_path / 'x.fits'}:sci", tmp_path / "y.fits", "--size", 3, "--json").stdout
    by_number = run("fit", f"{tmp_path / 'x.fits'}:1", tmp_path / "y.fits", "--size", 3, "--json").stdout
    assert json.loads(by_name)["kernel"] == json.loads(by_number)["kernel"] == found["kernel"]
    run("correlate", f"{tmp_path / 'x.fits'}:OTHER", "[[1]]", "-o", tmp_path / "other.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "other.npy"), x + 1)
    assert "but the file holds 1 (SCI), 2 (OTHER)" in refused("correlate", f"{tmp_path / 'x.fits'}:9", "[[1]]")
    content = (tmp_path / "x.fits").read_bytes()
    (tmp_path / "cut.fits").write_bytes(content[: len(content) // 2])
    assert "cut.fits, which cannot be read as FITS" in refused("correlate", tmp_path / "cut.fits", "[[1]]")
    fits.PrimaryHDU().writeto(tmp_path / "empty.fits")
    assert "but the file holds no array" in refused("correlate", tmp_path / "empty.fits", "[[1]]")
    counts = np.arange(12, dtype=np.uint16).reshape(3, 4)
    fits.PrimaryHDU(counts).writeto(tmp_path / "counts.fits")
    run("correlate", tmp_path / "counts.fits", "[[2]]", "-o", tmp_path / "twice.fits")
    np.testing.assert_array_equal(fits.getdata(tmp_path / "twice.fits"), 2 * counts)
    np.save(tmp_path / "complex.npy", np.ones((1, 3, 3), complex))
    np.save(tmp_path / "one.npy", np.ones((1, 1, 1, 1), complex))
    message = refused("correlate", tmp_path / "complex.npy", tmp_path / "one.npy", "-o", tmp_path / "complex.fits")
    assert "no FITS image holds" in message


def test_the_extra_for_fits_is_named(tmp_path, monkeypatch):
    import builtins

    fits.PrimaryHDU(np.ones((3, 3))).writeto(tmp_path / "x.fits")
    plain = builtins.__import__

    def without(name, *args, **keywords):
        if name.startswith("astropy"):
            raise ImportError(name)
        return plain(name, *args, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "convolith[fits]" in refused("correlate", tmp_path / "x.fits", "[[1]]")

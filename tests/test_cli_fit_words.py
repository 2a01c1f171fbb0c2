"""`convolith fit`: its refusals in its own words, its output files, its page, stacks and `--flip`."""

import re

import numpy as np
import pytest
from click.testing import CliRunner

import convolith as cl
from convolith.cli import main
from tests.test_cli import refused, run

K = np.random.default_rng(1).random((3, 4))
X = np.random.default_rng(0).random((40, 41)) + 1
PYTHON = re.compile(
    r"(?<![-\w/.*])(x|y|k|x_mask|weights=|kernel_size|max_size|size_tolerance|padding_mode|learning_rate|huber_delta|nan=|"
    r"(ridge|mask|origin|errors|offset|method|loss|padding|stride|dilation|basis|constraints|degree|positions)=)(?![\w.])"
)
"""Arguments of the library, as words or with a value."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    missing = X.copy()
    missing[3, 4] = np.nan
    files = {
        "x": X,
        "y": cl.filter_image(X, K, padding_mode="reflect"),
        "small": X[:30, :30],
        "missing": missing,
        "none": np.full(X.shape, np.nan),
        "flat": np.full(X.shape, 3.0),
        "black": np.zeros(X.shape),
        "huge": 1e154 * X,
        "one": np.ones((1, 1, 1)),
        "m5": np.zeros((5, 5)),
        "five": np.ones((2, 2, 2, 3, 4)),
        "sound": np.random.default_rng(0).random((2000, 2)),
        "stack": np.stack([X, 2 * X, X[::-1], X[:, ::-1], X.T[:40, :40].repeat(2, 1)[:, :41], X**2]),
    }
    for name, array in files.items():
        np.save(f"{name}.npy", array)
    return tmp_path


SAID = [
    "x small --size 3", "x small --size 3 --stride 2", "x x --size 3 --padding 0", "missing x --size 3",
    "x missing --size 3", "none x --size 3 --ignore-nan", "x none --size auto --ignore-nan", "x x --size 3 --mask m5.npy",
    "x x --size 3 --before-mask m5.npy", "x x --size 3 --saturation 0", "x x --size 3 --saturation nan", "x x --size 99",
    "x x --size 3 --origin 100", "x x --size 3 --origin 1,2,3", "x small --size 3 --origin 1", "five x --size 3",
    "five five --size 3", "x x --size 3,3,3,3", "x x --size auto --size-tolerance 2", "x x --size auto --max-size 99",
    "huge huge --size 3", "huge huge --size 5 --basis gaussian-hermite", "huge huge --size 3 --nonnegative",
    "huge huge --size 60,1 --ridge 1", "flat flat --size auto", "black black --size auto", "black black --size 3",
    "black black --size 3 --nonnegative", "black black --size 3 --method adam", "one one --size 1",
    "x x --size 3 --size-tolerance 2", "x x --size 3 --max-size 2", "x x --size 3 --loss huber",
    "x x --size 3 --method adam --ridge auto", "x x --size 3 --method gd --loss poisson",
    "x x --size 3 --offset --degree 1 --background-degree 1", "x x --size 3 --x-noise-variance 5",
    "x x --size 3 --smoothness -1", "x x --size 3 --ridge -1", "x x --size 3 --basis m5.npy",
    "x x --size 3 --method gd --learning-rate 100", "x x --size 3 --variance m5.npy", "x x --size 3 --method adam --steps 3",
    "x x --size auto --stride 2", "x small --size auto", "x x --size 3 --method adam --errors jackknife",
    "x x --size 3 --degree 1 --nonnegative", "x x --size 3 --degree 1 --flip", "x x --size 3 --degree 1 --positions m5.npy",
    "x x --size 3 --constant 1 --degree 1", "x x --size 3 --padding full", "x y --size 3 --origin 0,5",
    "x x --size 3 --huber-delta 1", "x x --size 3 --steps 3", "sound sound --size 400", "stack stack --size 3",
    "x x --size 3 --axes 2", "flat x --size 3",
]  # fmt: skip


@pytest.mark.parametrize("line", SAID)
def test_no_argument_of_the_library_is_named(folder, line):
    before, after, *rest = line.split()
    result = CliRunner().invoke(main, ["fit", f"{before}.npy", f"{after}.npy", *rest])
    assert result.exit_code in (0, 2), result.output
    said = [one for one in result.stderr.splitlines() if one.startswith(("Error", "warning"))]
    assert said
    assert not [match.group() for one in said for match in [PYTHON.search(one)] if match], said


def test_sentences_of_the_command(folder):
    assert "AFTER is as large as BEFORE: pass --padding same" in refused(
        "fit", "x.npy", "x.npy", "--size", 3, "--padding", 0
    )
    assert "with this padding --size 11,12 would fit" in refused("fit", "x.npy", "small.npy", "--size", 3)
    assert "BEFORE has 1 non-finite value, the first at row 3" in refused("fit", "missing.npy", "x.npy", "--size", 3)
    assert "expected that of AFTER, (40, 41)" in refused("fit", "x.npy", "x.npy", "--size", 3, "--variance", "m5.npy")
    told = refused("fit", "x.npy", "x.npy", "--size", 3, "--offset", "--degree", 1, "--background-degree", 1)
    assert told.strip().endswith("leave it out")


def test_pictures_of_other_channels_are_refused(folder):
    import imageio.v3 as imageio

    imageio.imwrite("grey.png", (80 * X).astype(np.uint8))
    imageio.imwrite("rgb.png", np.stack([80 * X] * 3, -1).astype(np.uint8))
    words = refused("fit", "grey.png", "rgb.png", "--size", 3)
    assert (
        "BEFORE is a picture of 1 channel and AFTER one of 3 channels; expected as many; pass --mix-channels" in words
    )


@pytest.mark.parametrize("options", [(), ("--degree", 1), ("--size", "auto", "--max-size", 5)])
def test_a_kernel_whose_fit_left_the_border_out_repeats_the_edge(folder, options):
    size = () if "--size" in options else ("--size", "3,4")
    run("fit", "x.npy", "y.npy", *size, *options, "-o", "k.npz", "--matched", "m.npy")
    run("correlate", "x.npy", "k.npz", "-o", "again.npy")
    again, matched, y = (np.load(f"{name}.npy") for name in ("again", "m", "y"))
    assert again.shape == y.shape
    known = np.isfinite(matched)
    np.testing.assert_allclose(again[known], matched[known], rtol=1e-5)
    edges = np.concatenate([again[0], again[-1], again[:, 0], again[:, -1]])
    assert edges.min() > 0.7 * y.min()  # zeros around the picture would make them dark


def test_flip_writes_and_prints_the_kernel_of_a_convolution(folder):
    run("fit", "x.npy", "y.npy", "--size", "3,4", "-o", "k.npz")
    run("fit", "x.npy", "y.npy", "--size", "3,4", "--flip", "-o", "flipped.npz", "--html", "page.html")
    np.testing.assert_allclose(np.load("flipped.npz")["weight"][0, 0], K[::-1, ::-1], atol=1e-9)
    assert "for which the convolution of the first picture" in (folder / "page.html").read_text()
    run("correlate", "x.npy", "k.npz", "-o", "one.npy")
    run("correlate", "x.npy", "flipped.npz", "--flip", "-o", "two.npy")
    np.testing.assert_allclose(np.load("two.npy"), np.load("one.npy"), rtol=1e-9)


def test_outputs_of_one_name_are_refused(folder):
    fit = ("fit", "x.npy", "x.npy", "--size", 3)
    for first, second, name in (
        ("-o", "--difference", "a.npz"),
        ("--difference", "--matched", "a.npy"),
        ("--matched", "--noise", "./a.npy"),
    ):
        assert "too; expected a name of its own" in refused(*fit, first, "a" + name[-4:], second, name)
    fits = pytest.importorskip("astropy.io.fits")
    fits.writeto("x.fits", X)
    assert "the input itself" in refused("fit", "x.fits:0", "x.npy", "--size", 3, "--matched", "x.fits")
    assert "the input itself" in refused("fit", "m[i]ssing.npy", "x.npy", "--size", 3, "--matched", "missing.npy")
    for output, name in (("--matched", "x.npy"), ("--difference", "m5.npy")):
        assert "the input itself" in refused(*fit, "--mask", "m5.npy", output, name)


def test_the_page_has_the_files_and_the_warnings(folder):
    run("fit", "black.npy", "black.npy", "--size", 3, "--html", "page.html")
    text = (folder / "page.html").read_text()
    assert "The first picture is black.npy, the second one black.npy." in text
    assert "the data determine only 0 of 9 coefficients" in text
    assert "AFTER is as large as BEFORE: its border is left out" in text
    run("fit", "flat.npy", "flat.npy", "--size", 3, "--degree", 1, "--html", "page.html")
    assert "the data determine only" in (folder / "page.html").read_text()


def test_units_are_compared_in_any_case(folder):
    from astropy.io import fits

    for name, unit in (("a", "adu"), ("b", "ADU"), ("c", "electron")):
        header = fits.Header()
        header["BUNIT"] = unit
        fits.writeto(f"{name}.fits", X.astype(np.float32), header)
    assert "is in adu" not in run("fit", "a.fits", "b.fits", "--size", 3).stderr
    assert "BEFORE is in adu and AFTER in electron" in run("fit", "a.fits", "c.fits", "--size", 3).stderr


def test_a_stack_is_pictures_or_channels_and_never_silently(folder):
    stack = np.load("stack.npy")
    kernel = np.random.default_rng(2).random((3, 3))
    np.save("after.npy", np.stack([cl.filter_image(one, kernel) for one in stack]))
    words = refused("fit", "stack.npy", "after.npy", "--size", 3)
    assert "6 of 40x41 (pass --axes 1,2) or" in words
    assert "or one image with 6 channels (pass --mix-channels)" in words
    run("fit", "stack.npy", "after.npy", "--size", 3, "--axes", "1,2", "-o", "k.npz", "--difference", "d.npy")
    np.testing.assert_allclose(np.load("k.npz")["weight"], kernel[None, None], atol=1e-9)
    assert np.load("d.npy").shape == stack.shape
    run("fit", "stack.npy", "after.npy", "--size", 3, "--axes", "1,2", "--degree", 1, "--html", "page.html")
    run("fit", "stack.npy", "after.npy", "--size", 3, "--mix-channels", "--ridge", 1)

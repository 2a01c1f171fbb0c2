"""Missing extras: each names itself and the line that installs it, in Python and on the command line."""

import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import convolith as cl
from convolith.cli import main
from convolith.cli.doctor import installation
from docs import __main__ as site

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LAPLACE = "[[0,1,0],[1,-4,1],[0,1,0]]"


@pytest.fixture
def without(monkeypatch):
    """Return a function that hides packages, as if they were not installed."""

    def hide(*packages):
        for name in list(sys.modules):
            if name.partition(".")[0] in packages:
                monkeypatch.delitem(sys.modules, name)
        for name in packages:
            monkeypatch.setitem(sys.modules, name, None)

    return hide


def refusal_of(call):
    """Return the words of a refusal."""
    with pytest.raises(cl.ConvolithError) as problem:
        call()
    return str(problem.value)


def refused_command(*arguments):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    return result.output


def image():
    return np.random.default_rng(0).normal(size=(16, 16))


def constrained():
    x = image()
    return cl.fit(x, cl.filter_image(x, -np.ones((3, 3))), kernel_size=3, constraints="nonnegative")


CALLS = {
    "image: deconvolve": (
        ("skimage",),
        lambda _: refusal_of(lambda: cl.deconvolve(image(), np.ones((3, 3)))),
        "scikit-image",
    ),
    "image: tour": (("skimage",), lambda _: refused_command("tour"), "scikit-image"),
    "image: pictures": (("imageio",), lambda tmp: refused_command("correlate", tmp / "x.png", LAPLACE), "imageio"),
    "image: TIFF": (
        ("tifffile",),
        lambda tmp: refused_command("correlate", tmp / "x.npy", LAPLACE, "-o", tmp / "y.tif"),
        "tifffile",
    ),
    "plot: fit": (
        ("matplotlib",),
        lambda _: refusal_of(lambda: cl.plan(cl.ConvSpec.of(image()[None], np.ones((1, 1, 3, 3)))).plot()),
        "matplotlib",
    ),
    "plot: page": (("matplotlib",), lambda tmp: refused_command("tour", "--html", tmp / "tour.html"), "matplotlib"),
    "fit": (("daqp",), lambda _: refusal_of(constrained), "daqp"),
    "fits": (("astropy",), lambda tmp: refused_command("correlate", tmp / "x.fits", LAPLACE), "astropy"),
    "big: zarr": (
        ("zarr",),
        lambda tmp: refusal_of(lambda: cl.big.plan(tmp / "x.npy", np.ones((3, 3)), tmp / "y.zarr").run()),
        "zarr",
    ),
    "big: TIFF": (
        ("tifffile",),
        lambda tmp: refusal_of(lambda: cl.big.plan(tmp / "x.npy", np.ones((3, 3)), tmp / "y.tif").run()),
        "tifffile",
    ),
    "remote": (("fsspec",), lambda _: refusal_of(lambda: cl.big.plan("s3://bucket/x.zarr", np.ones((3, 3)))), "fsspec"),
    "cluster: array": (
        ("dask",),
        lambda tmp: refusal_of(lambda: cl.big.correlate(tmp / "x.npy", np.ones((3, 3)))),
        "dask",
    ),
    "notebook": (
        ("anywidget",),
        lambda _: refusal_of(lambda: cl.widget.look(image()[:4, :4][None], np.ones((1, 1, 2, 2)))),
        "anywidget",
    ),
    "web": (("uvicorn",), lambda _: refused_command("serve", "--no-browser"), "uvicorn"),
}
"""What is hidden, the call that needs it, and the package that the refusal names, by extra."""


@pytest.mark.parametrize("case", CALLS)
def test_a_missing_extra_names_itself_and_its_line(case, without, tmp_path):
    np.save(tmp_path / "x.npy", image())
    for name in ("x.png", "x.fits"):
        (tmp_path / name).write_bytes(b"no picture")
    hidden, call, package = CALLS[case]
    without(*hidden)
    words = call(tmp_path)
    extra = case.partition(":")[0]
    assert package in words, words
    assert f"pip install 'convolith[{extra}]'" in " ".join(words.split()), words


def test_every_extra_of_users_is_looked_at():
    users = EXTRAS["all"][0].partition("[")[2].rstrip("]").split(",")
    assert {case.partition(":")[0] for case in CALLS} == {*users, "big"}


def test_the_site_names_the_packages_that_it_lacks_and_their_line(monkeypatch):
    """Those of the extra `docs` and those of the extras in it."""

    def installed(name):
        if name in ("sphinx", "jupytext", "astropy"):
            raise PackageNotFoundError(name)
        return "0.1" if name == "myst-nb" else "9999"

    monkeypatch.setattr(installation, "version", installed)
    monkeypatch.setattr(sys, "argv", ["docs"])
    with pytest.raises(SystemExit) as ended:
        site.main()
    assert "needs astropy, jupytext, myst-nb 1.3 or newer (now 0.1), sphinx; run:" in str(ended.value)
    assert "pip install -c constraints.txt -e '.[docs]'" in str(ended.value)


def test_the_site_without_convoliths_own_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "convolith.cli.doctor.installation", None)
    assert site.missing_packages() == ["convolith.cli.doctor.installation"]

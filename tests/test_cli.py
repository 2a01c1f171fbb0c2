"""The command line: every command, as text and JSON, its files, its refusals and exit codes."""

import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import convolith as cl
from convolith.cli import COMMANDS, main
from convolith.cli.io.files import ARRAYS, Output, conv_arrays
from convolith.engines.direct.engine import direct
from convolith.planner import choose

DOCUMENTED = (Path(__file__).parents[1] / "docs" / "command-line.md").read_text()
LAPLACE = "[[0,1,0],[1,-4,1],[0,1,0]]"


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def _completing(instruction: str, **variables: str) -> str:
    given = {"_CONVOLITH_COMPLETE": instruction, **variables}
    result = CliRunner().invoke(main, [], prog_name="convolith", env=given)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "picture.png"
    imageio.imwrite(path, np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8))
    return path


def test_help_imports_no_torch():
    script = (
        "import sys\nfrom click.testing import CliRunner\nfrom convolith.cli import main\n"
        "result = CliRunner().invoke(main, ['--help'])\nassert result.exit_code == 0\n"
        "assert 'tour' in result.output\nassert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)  # noqa: S603 - our own script


def test_python_dash_m():
    shown = subprocess.run(
        [sys.executable, "-m", "convolith", "--version"], check=True, capture_output=True, text=True
    ).stdout
    assert cl.__version__ in shown


@pytest.mark.parametrize(
    ("shell", "words"), [("bash", "complete"), ("zsh", "compdef"), ("fish", "complete --no-files")]
)
def test_shells_complete_commands(shell, words):
    """The lines of docs/command-line.md give a script, which asks for what fits."""
    assert f"_CONVOLITH_COMPLETE={shell}_source convolith" in DOCUMENTED
    assert words in _completing(f"{shell}_source")
    cursor = "c" if shell == "fish" else "1"
    found = _completing(f"{shell}_complete", COMP_WORDS="convolith c", COMP_CWORD=cursor)
    assert {name for name in COMMANDS if name in found} == {"compose", "correlate", "cost"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_json(command):
    shown = run(command, "--help").output
    assert "--json" in shown
    assert "Example" in shown or command in ("tour", "doctor")


def test_plan_and_cost():
    text = run("plan", "1,64,56,56", "64,64,3,3", "--padding", "1").output
    assert "115,605,504" in text
    assert "chosen" in text
    data = json.loads(run("plan", "1,64,56,56", "64,64,1,1", "--json").output)
    assert data["engine"] == data["candidates"][0]["engine"]
    assert {row["time"] for row in data["candidates"] if "time" in row} == {"estimated"}
    counted = json.loads(
        run(
            "cost",
            "1,64,56,56",
            "64,64,3,3",
            "--padding",
            "1",
            "--scale",
            "in_channels=2",
            "--scale",
            "out-channels=2",
            "--json",
        ).output
    )
    assert counted["forward"]["additions"] == 115_404_800
    assert counted["scaled"]["factors"]["forward multiplications"] == 4
    text = run("cost", "3,32,32", "8,3,3,3", "--bias", "--convention", "effective", "--no-input-gradient").output
    assert "without the padding's zeros; its bias counted" in text


@pytest.mark.parametrize("name", ["y.png", "y.tif", "y.tiff", "y.jpg", "y.jpeg", "y.npy", "y.npz"])
def test_correlate_writes_every_format(picture, tmp_path, name):
    output = tmp_path / name
    data = json.loads(run("correlate", picture, "[[0,0,0],[0,1,0],[0,0,0]]", "-o", output, "--json").output)
    assert data["output"] == [20, 24, 3]
    written = np.load(output) if name.endswith(("npy", "npz")) else imageio.imread(output)
    written = written["array"] if name.endswith("npz") else written
    if name.endswith(("jpg", "jpeg")):
        assert written.shape == (20, 24, 3)
    else:
        np.testing.assert_array_equal(written, imageio.imread(picture))
    assert data["clipped"] == 0


def test_clipping_is_said(picture, tmp_path):
    result = run("correlate", picture, LAPLACE, "-o", tmp_path / "edges.png")
    assert "values were clipped to the picture's range; a .tif or .npy keeps them" in result.stderr
    run("correlate", picture, LAPLACE, "-o", tmp_path / "edges.tif")
    expected = cl.filter_image(imageio.imread(picture), json.loads(LAPLACE), padding_mode="symmetric")
    np.testing.assert_array_equal(imageio.imread(tmp_path / "edges.tif"), expected)


def test_sixteen_bits_stay(tmp_path):
    image = np.arange(120, dtype=np.uint16).reshape(10, 12) * 500
    imageio.imwrite(tmp_path / "deep.png", image)
    run("correlate", tmp_path / "deep.png", "[[1]]", "-o", tmp_path / "same.png")
    np.testing.assert_array_equal(imageio.imread(tmp_path / "same.png"), image)


def test_arrays_and_options(tmp_path):
    rng = np.random.default_rng(0)
    x, k = rng.normal(size=(2, 4, 9, 9)), rng.normal(size=(6, 2, 3, 3))
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "k.npz", other=np.ones(3), kernel=k)
    run(
        "correlate", tmp_path / "x.npy", f"{tmp_path / 'k.npz'}:kernel", "--stride", "2,1", "--padding", "1:2,0:1",
        "--groups", 2, "--padding-mode", "circular", "--flip", "-o", tmp_path / "y.npy",
    )  # fmt: skip
    expected = cl.convolve(x, k, stride=(2, 1), padding=((1, 2), (0, 1)), groups=2, padding_mode="circular")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-12)


def test_compose_fit_and_correlate_understand_each_other(picture, tmp_path):
    both, found = tmp_path / "both.npz", tmp_path / "found.npz"
    shown = run("compose", "[[1,2],[3,4]]", LAPLACE, "--second-padding", "same", "-o", both).output
    assert "interior" in shown
    run("correlate", picture, both, "-o", tmp_path / "after.tif")
    grey = tmp_path / "grey.npy"
    np.save(grey, imageio.imread(picture)[..., 0])
    run("correlate", grey, both, "-o", tmp_path / "after.npy")
    data = json.loads(
        run(
            "fit", grey, tmp_path / "after.npy", "--size", 4, "--padding", "1:1,1:1", "--offset", "-o", found, "--json"
        ).output
    )
    np.testing.assert_allclose(data["kernel"], np.load(both)["weight"], atol=1e-9)
    assert data["residual_rms"] < 1e-9
    run("correlate", grey, found, "-o", tmp_path / "again.npy")
    np.testing.assert_allclose(np.load(tmp_path / "again.npy"), np.load(tmp_path / "after.npy"), atol=1e-8)
    assert (
        "Kernel"
        in run(
            "fit", grey, tmp_path / "after.npy", "--size", "4", "--padding", "1", "--method", "gd", "--steps", 5
        ).output
    )


@pytest.mark.slow
def test_decompose_writes_parts_that_are_read_again(picture, tmp_path):
    parts, whole = tmp_path / "parts.npz", tmp_path / "whole.npz"
    blur = "[[1,4,6,4,1],[4,16,24,16,4],[6,24,36,24,6],[4,16,24,16,4],[1,4,6,4,1]]"
    options = ("--padding", "same", "--padding-mode", "reflect")
    data = json.loads(run("decompose", blur, *options, "-o", parts, "--json").output)
    assert (data["method"], data["multiplications_after"], len(data["parts"])) == ("separable", 10, 2)
    run("compose", f"{parts}:0", f"{parts}:1", "-o", whole)
    both = np.load(whole)
    np.testing.assert_allclose(both["weight"][0, 0], json.loads(blur), atol=1e-12)
    assert both["padding"].tolist() == [[2, 2], [2, 2]]
    assert "separable" in run("decompose", whole).output
    assert "name one: " in refused("correlate", picture, parts)
    assert "but the file holds parts 0 and 1" in refused("correlate", picture, f"{parts}:7")
    assert "padding was given" in refused("decompose", whole, "--padding", "1")
    generic = tmp_path / "generic.npy"
    np.save(generic, np.random.default_rng(0).normal(size=(5, 5)))
    shown = run("decompose", generic, "-o", tmp_path / "none.npz", code=1).output
    assert "does not decompose: the nearest that does is" in shown
    assert not (tmp_path / "none.npz").exists()
    run("decompose", generic, "--tolerance", "0.9")
    assert "polynomial" in run("decompose", "[1,4,6,4,1]").output
    assert "tolerance is -1.0" in refused("decompose", generic, "--tolerance", "-1")


def test_fit_takes_the_channels_of_a_picture_together(picture, tmp_path):
    x = np.moveaxis(imageio.imread(picture), -1, 0)
    kernel = np.random.default_rng(1).normal(size=(1, 3, 2, 2))
    np.save(tmp_path / "y.npy", cl.correlate(x, kernel))
    data = json.loads(run("fit", picture, tmp_path / "y.npy", "--size", "2", "--json").output)
    np.testing.assert_allclose(data["kernel"], kernel, atol=1e-9)


@pytest.mark.slow
def test_fit_chooses_a_size_and_keeps_to_constraints(picture, tmp_path):
    x = imageio.imread(picture)[..., 0].astype(float)
    np.save(tmp_path / "x.npy", x)
    run("correlate", tmp_path / "x.npy", "[[1,2,1],[2,4,2],[1,2,1]]", "-o", tmp_path / "y.npy")
    noisy = np.load(tmp_path / "y.npy") + np.random.default_rng(0).normal(size=x.shape)
    np.save(tmp_path / "y.npy", noisy)
    arguments = ("fit", tmp_path / "x.npy", tmp_path / "y.npy", "--size")
    shown = run(*arguments, "auto", "--max-size", "7", "--background", "-o", tmp_path / "k.npz")
    assert "Cross-validation" in shown.stdout
    assert np.load(tmp_path / "k.npz")["weight"].shape == (1, 1, 3, 3)
    run("correlate", tmp_path / "x.npy", tmp_path / "k.npz", "-o", tmp_path / "again.npy")
    assert np.abs(np.load(tmp_path / "again.npy") - noisy)[1:-1, 1:-1].max() < 6
    data = json.loads(run(*arguments, "5", "--nonnegative", "--symmetric", "--errors", "jackknife", "--json").stdout)
    kernel = np.array(data["kernel"])
    assert kernel.min() >= 0
    np.testing.assert_allclose(kernel, np.flip(kernel, (2, 3)), atol=1e-9)
    data = json.loads(run(*arguments, "5", "--sum-to-one", "--ridge", "2", "--smoothness", "3", "--json").stdout)
    assert np.sum(data["kernel"]) == pytest.approx(1)
    data = json.loads(run(*arguments, "3", "--ridge", "auto", "--json").stdout)
    assert len(data["selection"]) == 11
    np.save(tmp_path / "basis.npy", np.ones((1, 3, 3)))
    data = json.loads(run(*arguments, "3", "--basis", tmp_path / "basis.npy", "--json").stdout)
    assert np.ptp(data["kernel"]) < 1e-12
    assert data["coefficients"][0][0][0] == pytest.approx(data["kernel"][0][0][0][0])
    assert np.shape(
        json.loads(run(*arguments, "9", "--basis", "gaussian-hermite", "--json").stdout)["coefficients"]
    ) == (1, 1, 49)
    assert "is not a whole number" in refused(*arguments, "many")
    assert "not a number, and not auto" in refused(*arguments, "3", "--ridge", "much")


@pytest.mark.slow
def test_the_page_of_a_fit(picture, tmp_path):
    x = imageio.imread(picture)[..., 0].astype(float)
    np.save(tmp_path / "x.npy", x)
    run("correlate", tmp_path / "x.npy", "[[1,2,1],[2,4,2],[1,2,1]]", "-o", tmp_path / "y.npy")
    for options, words in {
        ("--size", "auto", "--max-size", "5"): ["Which size", "The size that was taken is 3"],
        ("--size", "3", "--method", "gd", "--steps", "5"): ["Gradient descent", "away from the optimum"],
        ("--size", "3", "--offset"): ["The kernel", "What is left"],
        ("--size", "3", "--method", "lbfgs", "--loss", "poisson", "--steps", "5"): ["Descent", "it has no closed form"],
        ("--size", "3", "--method", "adam", "--loss", "huber", "--steps", "5"): ["Descent", "it has no closed form"],
    }.items():
        page = tmp_path / "fit.html"
        run("fit", tmp_path / "x.npy", tmp_path / "y.npy", *options, "--html", page)
        text = page.read_text()
        assert all(word in text for word in [*words, "data:image/png"])
        assert "What is left" in text
    assert "expected a name that ends in .html" in refused("fit", picture, picture, "--size", 3, "--html", "fit.txt")


def test_fit_of_pictures_leaves_the_border_out(picture, tmp_path):
    """Whoever made AFTER made its border in some way that the pictures do not tell."""
    x = imageio.imread(picture).astype(np.float32)
    kernel = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    imageio.imwrite(tmp_path / "after.tif", cl.filter_image(x, kernel, padding_mode="reflect"))
    shown = run("fit", picture, tmp_path / "after.tif", "--size", "3,5", "-o", tmp_path / "k.npz", "--json")
    assert "its border is left out" in shown.stderr
    np.testing.assert_allclose(json.loads(shown.stdout)["kernel"], kernel[None, None], atol=1e-4)
    run("correlate", picture, tmp_path / "k.npz", "-o", tmp_path / "again.npy")
    assert np.load(tmp_path / "again.npy").shape == x.shape
    mixed = json.loads(run("fit", picture, picture, "--size", "1", "--mix-channels", "--json").stdout)
    np.testing.assert_allclose(np.array(mixed["kernel"])[:, :, 0, 0], np.eye(3), atol=1e-9)
    mask = np.zeros((20, 24), np.uint8)
    mask[:4] = 1
    np.save(tmp_path / "mask.npy", mask)
    whole = run("fit", picture, tmp_path / "after.tif", "--size", "3,5", "--mask", tmp_path / "mask.npy", "--padding", "same",
                "--padding-mode", "reflect", "--json")  # fmt: skip
    np.testing.assert_allclose(json.loads(whole.stdout)["kernel"], kernel[None, None], atol=1e-4)
    inner = run("fit", picture, tmp_path / "after.tif", "--size", "3,5", "--mask", tmp_path / "mask.npy", "--json")
    np.testing.assert_allclose(json.loads(inner.stdout)["kernel"], kernel[None, None], atol=1e-4)


def test_pictures_that_would_be_misread(picture, tmp_path):
    cv2 = pytest.importorskip("cv2")

    cv2.imwrite(str(tmp_path / "deep.png"), np.full((8, 9, 3), 40_000, np.uint16))
    assert "16 bits and colour, which would be cut to 8" in refused("correlate", tmp_path / "deep.png", LAPLACE)
    assert "a picture; expected a .npy" in refused("correlate", picture, picture)
    assert "the input itself; choose another name" in refused("correlate", picture, LAPLACE, "-o", picture)
    np.save(tmp_path / "unit.npy", np.random.default_rng(0).random((8, 9)))
    message = refused("correlate", tmp_path / "unit.npy", LAPLACE, "-o", tmp_path / "y.png")
    assert "no picture's range to round to; write y.tif" in message
    imageio.imwrite(tmp_path / "grey.png", np.full((8, 9), 40_000, np.uint16))
    assert "16 bits, which no .jpg" in refused("correlate", tmp_path / "grey.png", LAPLACE, "-o", tmp_path / "y.jpg")
    imageio.imwrite(tmp_path / "alpha.png", np.zeros((8, 9, 4), np.uint8))
    assert "alpha channel is filtered" in run("correlate", tmp_path / "alpha.png", LAPLACE).stderr
    turned = Image.fromarray(np.zeros((8, 16, 3), np.uint8))
    turned.save(tmp_path / "turned.jpg", exif=_portrait())
    assert json.loads(run("correlate", tmp_path / "turned.jpg", LAPLACE, "--json").stdout)["input"] == [16, 8, 3]


def _portrait() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    return exif


@pytest.mark.slow
def test_doctor_finds_every_engine_good():
    data = json.loads(run("doctor", "--json").output)
    assert data["checks"]
    assert all(row["good"] for row in data["checks"])
    assert "reference" in run("doctor").output


def test_a_failed_check_exits_with_one(monkeypatch):
    monkeypatch.setattr(direct, "error_bound", lambda spec, kernel=None: 0.0)
    choose.estimated.cache_clear()
    run("doctor", code=1)
    choose.estimated.cache_clear()


def refused(*arguments: object) -> str:
    return run(*arguments, code=2).stderr


def test_damaged_files(picture, tmp_path):
    whole = picture.read_bytes()
    kernel = LAPLACE
    for name, content in {
        "cut.png": whole[: len(whole) // 2],
        "empty.png": b"",
        "text.jpg": b"no picture",
        "cut.npy": _npy(np.ones((30, 30)))[:200],
        "cut.npz": b"PK\x03\x04 broken",
        "empty.npy": b"",
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        message = refused("correlate", path, kernel)
        assert f"INPUT is {path}, which cannot be read" in message, message
        assert "is it complete?" in message
    for suffix in ("jpg", "tif"):
        path = tmp_path / f"photo.{suffix}"
        imageio.imwrite(path, np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
        path.write_bytes(path.read_bytes()[:-2000])
        assert "cannot be read as a picture" in refused("correlate", path, kernel)


def _npy(array: np.ndarray) -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_files_that_are_damaged_inside(tmp_path):
    header = b"\x93NUMPY\x01\x00v\x00"
    (tmp_path / "huge.npy").write_bytes(
        header + b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999, 99999999), }".ljust(117) + b"\n"
    )
    (tmp_path / "header.npy").write_bytes(header + b"{'descr': '<f8', 'fortran_order'".ljust(117) + b"\n")
    np.savez_compressed(tmp_path / "whole.npz", a=np.random.default_rng(0).normal(size=400))
    content = bytearray((tmp_path / "whole.npz").read_bytes())
    content[300:400] = bytes(100)
    (tmp_path / "inside.npz").write_bytes(content)
    for name in ("huge.npy", "header.npy", "inside.npz"):
        for arguments in ((tmp_path / name, LAPLACE), (tmp_path / "x.npy", tmp_path / name)):
            np.save(tmp_path / "x.npy", np.ones((9, 9)))
            assert "cannot be read" in refused("correlate", *arguments)
    np.savez(tmp_path / "none.npz")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("readme.txt", "no array")
    for name in ("none.npz", "other.npz"):
        assert "holds no array" in refused("correlate", tmp_path / name, LAPLACE)


def test_pictures_that_a_format_cannot_hold(tmp_path):
    rgba = np.random.default_rng(0).integers(0, 255, (8, 9, 4), dtype=np.uint8)
    imageio.imwrite(tmp_path / "rgba.png", rgba)
    assert "no .jpg holds; write y.png" in refused(
        "correlate", tmp_path / "rgba.png", "[[1]]", "-o", tmp_path / "y.jpg"
    )
    imageio.imwrite(tmp_path / "deep.tif", rgba[..., :3].astype(np.uint16))
    assert "write y.tif" in refused("correlate", tmp_path / "deep.tif", "[[1]]", "-o", tmp_path / "y.png")
    run("correlate", tmp_path / "rgba.png", "[[1]]", "-o", tmp_path / "same.png")
    np.testing.assert_array_equal(imageio.imread(tmp_path / "same.png"), rgba)


def test_a_stored_kernel_keeps_its_options(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 21))
    np.save(tmp_path / "x.npy", x)
    upward = cl.Conv(np.arange(9.0).reshape(1, 1, 3, 3), np.ones(1), stride=2, transposed=True)
    np.savez(tmp_path / "up.npz", **conv_arrays(upward))
    run("correlate", tmp_path / "x.npy", tmp_path / "up.npz", "-o", tmp_path / "y.npy")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), cl.correlate(x[None], upward)[0])
    run("correlate", tmp_path / "x.npy", "[[1,2],[3,4]]", "-o", tmp_path / "y.npy", "--padding", "valid")
    for offset in ((), ("--offset",)):  # fitted without padding, applied without padding
        run("fit", tmp_path / "x.npy", tmp_path / "y.npy", "--size", 2, *offset, "-o", tmp_path / "k.npz")
        run("correlate", tmp_path / "x.npy", tmp_path / "k.npz", "-o", tmp_path / "again.npy")
        np.testing.assert_allclose(np.load(tmp_path / "again.npy"), np.load(tmp_path / "y.npy"), atol=1e-9)
    np.save(tmp_path / "x32.npy", x.astype(np.float32))
    run("correlate", tmp_path / "x32.npy", tmp_path / "k.npz", "--accuracy", "double", "-o", tmp_path / "y.npy")
    assert np.load(tmp_path / "y.npy").dtype == np.float32
    run("correlate", tmp_path / "x.npy", "[[1,2],[3,4]]", "--stride", 2, "--padding", "same", "-o", tmp_path / "y.npy")
    assert np.load(tmp_path / "y.npy").shape == (10, 11)


def test_a_composition_that_is_no_number_fails_its_check():
    run("compose", "[[NaN]]", "[[1]]", code=1)
    assert "leave the range of float64" in refused("compose", "[[1e300]]", "[[1e300]]")


def test_wrong_inputs(picture, tmp_path):
    assert "there is no such file" in refused("correlate", tmp_path / "none.png", LAPLACE)
    assert "expected one of .png" in refused("correlate", __file__, LAPLACE)
    assert "expected a nested list such as" in refused("correlate", picture, "[[1,2")
    assert "expected a nested list" in refused("correlate", picture, "[[1,2],[3]]")
    assert "expected a nested list" in refused("correlate", picture, "[" * 100_000)
    assert "there is no such file" in refused("correlate", picture, "k" * 300)
    assert "cannot be written" in refused("correlate", picture, LAPLACE, "-o", tmp_path / ("y" * 300 + ".png"))
    assert "expected a name that ends in" in refused("correlate", picture, LAPLACE, "-o", "")
    assert "expected each name once" in refused("cost", "1,2,8,8", "8,2,3,3", "--scale", "size=2", "--scale", "size=3")
    np.savez(tmp_path / "two.npz", a=np.ones(2), b=np.ones(2))
    assert "which holds a, b; name one: " in refused("correlate", tmp_path / "two.npz", LAPLACE)
    run("compose", LAPLACE, LAPLACE, "-o", tmp_path / "both.npz")
    assert "stride was given, but" in refused("correlate", picture, tmp_path / "both.npz", "--stride", 2)
    assert "x has 64 channels" in refused("plan", "1,64,8,8", "8,63,3,3")
    assert "is one number; expected a shape" in refused("plan", "64", "8,63,3,3")
    assert "is not a whole number" in refused("cost", "1,2,x,8", "8,2,3,3")
    assert "none of same, valid, full" in refused("cost", "1,2,8,8", "8,2,3,3", "--padding", "1:2:3,1")
    assert "--dtype is float8" in refused("cost", "1,2,8,8", "8,2,3,3", "--dtype", "float8")
    assert "expected name=factor" in refused("cost", "1,2,8,8", "8,2,3,3", "--scale", "channels")
    assert "engine is 'magic'" in refused("plan", "1,2,8,8", "8,2,3,3", "--engine", "magic")
    assert "No such command" in refused("dance")
    assert "dilation has 3 entries" in refused("fit", picture, picture, "--size", 3, "--dilation", "1,2,3")
    assert "--size is 0" in refused("fit", picture, picture, "--size", 0)
    assert "--size has 4 entries" in refused("fit", picture, picture, "--size", "1,1,1,1")
    assert "there is no such file" in refused("correlate", "p" * 300 + ".png", LAPLACE, "-o", tmp_path / "y.npy")
    assert "second takes 1 channels but first gives 2" in refused("compose", "[[[[1]]],[[[1]]]]", LAPLACE)


def test_an_output_that_cannot_be_written_is_found_before_the_work(tmp_path):
    missing = tmp_path / "none.png"  # the input does not exist either: the output is looked at first
    assert "there is no folder" in refused("correlate", missing, LAPLACE, "-o", tmp_path / "no" / "y.png")
    assert "expected a name that ends in" in refused("correlate", missing, LAPLACE, "-o", tmp_path / "y.gif")
    (tmp_path / "folder.png").mkdir()
    assert "which is a folder" in refused("correlate", missing, LAPLACE, "-o", tmp_path / "folder.png")
    assert "expected a name that ends in .npz" in refused("fit", missing, missing, "--size", 3, "-o", "kernel.txt")
    assert "expected a name that ends in .html" in refused("tour", "--html", tmp_path / "tour.pdf")
    if os.geteuid():  # root may write anywhere
        locked = tmp_path / "locked"
        locked.mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
        assert "cannot be written" in refused("correlate", missing, LAPLACE, "-o", locked / "y.png")
    assert "cannot be written" in refused("correlate", missing, LAPLACE, "-o", "/proc/self/y.png")


def test_an_output_is_replaced_only_when_complete(picture, tmp_path, monkeypatch):
    output = tmp_path / "y.npy"
    output.write_bytes(b"what was there before")
    output.chmod(0o640)

    def fail(file, array):
        file.write(b"half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(np, "save", fail)
        with pytest.raises(KeyboardInterrupt):
            Output(str(output), ARRAYS).write_array(np.ones(3))
    assert output.read_bytes() == b"what was there before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["picture.png", "y.npy"]
    run("correlate", picture, LAPLACE, "-o", output)
    assert np.load(output).shape == (20, 24, 3)
    assert stat.S_IMODE(output.stat().st_mode) == 0o640


def test_a_result_that_is_no_picture(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((2, 3, 9, 9)))
    np.save(tmp_path / "k.npy", np.ones((2, 3, 2, 2)))
    message = refused("correlate", tmp_path / "x.npy", tmp_path / "k.npy", "-o", tmp_path / "y.png")
    assert "the result has shape (2, 2, 8, 8), which is no picture; write y.npy instead" in message


MODELS = """
import torch

def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 2, 1))

def talking():
    print("hello")
    return net()

class Asking(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.part = net()

    def forward(self, x):
        y = self.part(x)
        return y * 2 if y.sum() > 0 else y

def broken():
    raise RuntimeError("no weights here")

def number():
    return 3

plain = net().eval()
"""


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A folder with a module of models, and the current one."""
    (tmp_path / "some_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "some_models", raising=False)
    return tmp_path


@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")  # of torch.export.load, torch 2.10
@pytest.mark.parametrize("ending", [".pt", ".pt2"])
def test_fold_writes_a_model_that_torch_reads(models, ending):
    result = run("fold", "some_models:net", "--input", "1,3,12,12", "-o", f"folded{ending}", "--html", "report.html")
    assert "training mode" in result.stderr
    assert "Rewrites" in result.stdout
    page = (models / "report.html").read_text()
    assert "<table>" in page
    assert "2 convolutions are 1" in page
    if ending == ".pt":
        folded = torch.load(models / "folded.pt", weights_only=False)
    else:
        folded = torch.export.load(models / "folded.pt2").module()
    import some_models

    x = torch.randn(3, 3, 20, 9)
    assert torch.allclose(folded(x), some_models.net().eval()(x), atol=1e-5)


def test_fold_as_json_of_a_model_that_is_there(models):
    result = run("fold", "some_models:plain", "--input", "1,3,12,12", "--force", "--measure", "--json")
    report = json.loads(result.stdout)
    assert report["convolutions_after"] == 1
    assert report["rewrites"][0]["seconds_after"] > 0
    assert report["error"]["float64"] <= 1e-11


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["some_models:nothing", "--input", "1,3,8,8"], "has no attribute 'nothing'"),
        (["no_such_module:net", "--input", "1,3,8,8"], "No module named 'no_such_module'"),
        (["some_models", "--input", "1,3,8,8"], "expected package.module:factory"),
        (["some_models:broken", "--input", "1,3,8,8"], "no weights here"),
        (["some_models:number", "--input", "1,3,8,8"], "gives int; expected a torch.nn.Module"),
        (["some_models:net", "--input", "1,4,8,8"], "does not take example_input of shape (1, 4, 8, 8)"),
        (["some_models:net", "--input", "5"], "expected a shape"),
        (["some_models:net"], "Missing option '--input'"),
        (["some_models:net", "--input", "1,3,8,8", "-o", "model.onnx"], "ends in .pt, .pth, .pt2"),
        (["some_models:net", "--input", "1,3,8,8", "-o", "nowhere/model.pt"], "no folder"),
        (["some_models:net", "--input", "1,0,8,8"], "expected positive numbers"),
        (["some_models:net", "--input", "1,-3,8,8"], "expected positive numbers"),
    ],
)
def test_fold_refuses(models, arguments, message):
    result = run("fold", *arguments, code=2)
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_fold_of_models_that_print_or_ask(models):
    result = run("fold", "some_models:talking", "--input", "1,3,12,12", "--json")
    assert json.loads(result.stdout)["convolutions_after"] == 1
    assert "hello" in result.stderr
    result = run("fold", "some_models:Asking", "--input", "1,3,12,12", "-o", "asking.pt")
    assert "if y.sum() > 0" in result.stdout
    result = run("fold", "some_models:Asking", "--input", "1,3,12,12", "-o", "asking.pt2", code=2)
    assert "write asking.pt" in result.stderr

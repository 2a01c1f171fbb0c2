"""The command line's help and completion, which import no torch, and the examples of the documentation, which run."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

import convolith as cl
from convolith.cli import COMMANDS, main, options
from convolith.cli.cost import main as cost_options
from convolith.costing.model_cost import SORTS
from convolith.costing.peak import OPTIMIZERS
from convolith.fitting.selection.cross_validation import TOLERANCE
from convolith.geometry import CONV_MODES, PADDING_MODES
from convolith.planner import machine, wisdom
from convolith.planner.choose import ACCURACIES, BUDGET_SECONDS
from tests.test_cli import refused, run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CONTEXT = click.Context(main, info_name="convolith")


def command(name: str) -> click.Command:
    found = main.get_command(CONTEXT, name)
    assert found is not None, name
    return found


def option(name: str, of: str) -> click.Option:
    return next(one for one in command(of).params if one.name == name and isinstance(one, click.Option))


def examples(page: Path) -> list[str]:
    """The command lines of a page's blocks of shell, each in one line."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("convolith ")]


EXAMPLES = [line for page in PAGES for line in examples(page)]
RUN = examples(ROOT / "docs" / "command-line.md")
LEFT_OUT = {
    "convolith tour --html tour.html": "tests/test_tour.py walks through it",
    "convolith doctor": "tests/test_doctor.py runs it",
    "convolith doctor --calibrate": "it measures the machine",
}

LIGHT = """
import os, sys
from click.testing import CliRunner
from convolith.cli import COMMANDS, main

for name in COMMANDS:
    shown = CliRunner().invoke(main, [name, "--help"])
    assert shown.exit_code == 0 and "--json" in shown.output, (name, shown.output)
    words = {"_CONVOLITH_COMPLETE": "bash_complete", "COMP_WORDS": f"convolith {name} --js", "COMP_CWORD": "2"}
    assert "--json" in CliRunner().invoke(main, [], prog_name="convolith", env=words).output, name
    assert "torch" not in sys.modules, f"{name} imported torch"
"""


def test_help_and_completion_of_every_command_import_no_torch():
    subprocess.run([sys.executable, "-c", LIGHT], check=True)  # noqa: S603 - our own script


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help(name):
    for one in command(name).params:
        if isinstance(one, click.Option):
            assert one.help, one.opts
            assert not one.help.startswith("What"), one.opts


def test_options_have_the_values_of_the_library():
    """They are written again, so that the help imports no torch."""
    assert options.ACCURACIES == ACCURACIES
    assert cost_options.SORTS == SORTS
    assert tuple(OPTIMIZERS) == cost_options.OPTIMIZERS
    assert option("budget", "plan").default == BUDGET_SECONDS
    assert f"[default: {TOLERANCE}]" in option("size_tolerance", "fit").help


def test_a_constant_border_is_offered_where_its_value_is():
    for name in COMMANDS:
        for one in command(name).params:
            if one.name and one.name.endswith("padding_mode"):
                assert tuple(one.type.choices) == (PADDING_MODES if name == "correlate" else CONV_MODES), name
    assert "'constant' is not one of" in refused("plan", "1,1,8,8", "1,1,3,3", "--padding-mode", "constant")


def test_the_help_has_the_defaults_that_hold(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = " ".join(run("correlate", "--help").output.split())
    assert "[default: same for a kernel without channels, else 0]" in shown
    assert "[default: symmetric for a kernel without channels, else zeros]" in shown
    assert "unless --run or --verify is given" in " ".join(run("cost", "--help").output.split())
    assert "130 interrupted" in run("--help").output
    paragraphs = run("fit", "--help").output.split("\n\n")
    assert max(len(one.splitlines()) for one in paragraphs if not one.startswith("Options")) < 7


def test_outputs_are_refused_by_the_name_of_their_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.ones((9, 9)))
    (tmp_path / "few_models.py").write_text("import torch\nmodel = torch.nn.Conv2d(3, 4, 3)\n")
    model = ("cost", "few_models:model", "--input", "1,3,8,8")
    for line, said in (
        (("tour", "--html", "no/a.html"), "--html is no/a.html, but there is no folder"),
        (("correlate", "x.npy", "[[1]]", "-o", "a.gif"), "--output is a.gif; expected a name that ends in"),
        (("correlate", "x.npy", "[[1]]", "-o", "x.npy"), "--output is x.npy, the input itself"),
        (("fit", "x.npy", "x.npy", "--size", 3, "--html", "a.pdf"), "--html is a.pdf; expected a name"),
        (("fit", "x.npy", "x.npy", "--size", 3, "--matched", "a.gif"), "--matched is a.gif; expected a name"),
        ((*model, "--csv", "a.txt"), "--csv is a.txt; expected a name that ends in .csv"),
        ((*model, "--save-baseline", "a.txt"), "--save-baseline is a.txt; expected a name that ends in .json"),
        (("fold", "few_models:model", "--input", "1,3,8,8", "--html", "a"), "--html is a; expected a name"),
    ):
        assert said in refused(*line), line


def test_options_that_do_not_apply_are_to_be_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.ones((1, 9, 9)))
    run("compose", "[[1]]", "[[1]]", "-o", "both.npz")
    (tmp_path / "scan.zarr").mkdir()
    for line, said in (
        (("correlate", "x.npy", "both.npz", "--padding-mode", "reflect"), "--padding-mode was given, but both.npz"),
        (
            ("compose", "both.npz", "[[1]]", "--first-padding-mode", "zeros"),
            "--first-padding-mode was given, but both.npz",
        ),
        (("plan", "scan.zarr", "[[1]]", "--bias"), "--bias was given; it applies to shapes"),
        (("plan", "scan.zarr", "[[1]]", "--kernel-dtype", "float32"), "--kernel-dtype was given; it applies to shapes"),
        (("plan", "1,1,8,8", "1,1,3,3", "--axes", "0"), "--axes was given; it applies to a store"),
        (("cost", "1,3,8,8", "8,3,3,3", "--train"), "--train was given, but 1,3,8,8 is a layer"),
        (("fit", "x.npy", "x.npy", "--size", 3, "--nodata", 1), "--nodata was given; it applies to stores"),
    ):
        message = refused(*line)
        assert said in message, line
        assert re.search(r"; leave (it|--[\w-]+) out$", message.strip()), message
    assert "'4G' has a suffix; expected a number of MB" in refused("cost", "a:b", "--max-peak-mb", "4G")


@pytest.mark.parametrize("line", EXAMPLES)
def test_the_options_of_every_example_exist(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scan.zarr").mkdir()
    (tmp_path / "gaussian.npy").touch()
    _, name, *arguments = shlex.split(line)
    command(name).make_context(name, arguments, parent=CONTEXT)


MODELS = """
from torch import nn

def repvgg():
    layers = [[nn.Conv2d(n, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()] for n in (3, 8)]
    return nn.Sequential(*layers[0], *layers[1]).eval()
"""


@pytest.fixture
def files(tmp_path, monkeypatch) -> Iterator[Path]:
    """Small files of the names that the examples have, and a place for measurements, which other tests do not read."""
    import imageio.v3 as imageio
    from astropy.io import fits

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONVOLITH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(wisdom, "_known", {})
    monkeypatch.setattr(machine, "_limits", {})
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    rng = np.random.default_rng(0)
    blur = cl.kernels.gaussian(1.0)
    imageio.imwrite("photo.png", rng.integers(0, 255, (40, 50, 3), dtype=np.uint8))
    imageio.imwrite("stars.png", (rng.random((60, 60)) > 0.99).astype(np.uint8))
    np.save("stack.npy", rng.random((3, 20, 21)))
    np.savez("kernel.npz", kernel=blur)
    for number in ("", "2"):
        before = rng.integers(0, 255, (60, 60), dtype=np.uint8)
        imageio.imwrite(f"before{number}.png", before)
        imageio.imwrite(f"after{number}.png", cl.filter_image(before, blur, padding_mode="symmetric", dtype="uint8"))
    sky = 1000 * rng.random((70, 70))
    seen = cl.filter_image(sky, blur) + rng.normal(size=sky.shape)
    for name, picture in {"ref": sky, "sci": seen, "var": np.ones_like(sky), "reference": sky, "science": seen}.items():
        fits.writeto(f"{name}.fits", picture.astype(np.float32))
    Path("my_models.py").write_text(MODELS)
    yield tmp_path
    sys.modules.pop("my_models", None)
    cl.clear_caches()


@pytest.mark.slow
def test_the_examples_of_the_command_line_run(files):
    """One after another, since they read each other's files."""
    assert len(RUN) > 20
    assert set(LEFT_OUT) < set(RUN)
    for line in RUN:
        if line not in LEFT_OUT:
            result = CliRunner().invoke(main, shlex.split(line)[1:])
            assert result.exit_code == 0, f"{line}: {result.output}{result.exception!r}"
    written = {word for line in RUN for word in re.findall(r"(?:-o|--html|--difference) (\S+)", line)} - {"tour.html"}
    assert written <= {path.name for path in files.iterdir()}

"""Random command lines: exit code 0, 1 or 2, and never a traceback or a warning from inside."""

import gzip
import random
import traceback
import warnings
import zipfile
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from click.testing import CliRunner

from convolith.cli import main

CASES = 40
FOLDED_CASES = 12
"""Command lines for each command; `fold` takes the longest."""
MODELS = """
import torch
def ok(): return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval()
def linear(): return torch.nn.Linear(3, 4)
def ends(): raise SystemExit(0)
def breaks(): raise KeyError("x")
def nothing(): return None
def needs(a): return a
number = 3
"""
NUMBERS = (
    "0",
    "1",
    "2",
    "3",
    "1,2",
    "2,2",
    "-1",
    "1.5",
    "a",
    "",
    "1,",
    "99999999999",
    "nan",
    "inf",
    "1e400",
    "1:2",
    "²",
)
PADDINGS = (*NUMBERS, "same", "valid", "full", "1:1,1:1", "1:2:3", "1:", ":", "1000000")
SHAPES = ("1,3,8,8", "3,8,8", "4,3,3,3", "1,3,99999999999,8", "1", "0,3,8,8", "1,0,8,8", "-1,3,8,8", "a,b", "", "1,1,9")
LISTS = ("[[1,2],[3,4]]", "[1,4,6,4,1]", "[[0.5]]", "[]", "[[]]", '[["a"]]', "[[1,{}]]", "[[1],[2,3]]", "[[1e400]]")
LISTS += ("[[NaN]]", "[[null]]", "[[true]]", "[", "[[[[1]]]]", "[[[[[[1]]]]]]", "[99999999999999999999999]", "[[1,-1]]")
NAMES = ("", "zeros", "reflect", "circular", "float32", "int8", "float99", "default", "exact", "double", "auto", "fft")
SIZES = (*NUMBERS, "auto")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 5))
    np.save(place / "x.npy", x)
    np.save(place / "y.npy", x[1:-1, 1:-1] * 2)
    np.save(place / "stack.npy", rng.integers(0, 9, (2, 3, 12, 12)))
    np.save(place / "complex.npy", x + 1j)
    np.save(place / "booleans.npy", x > 0)
    np.save(place / "strings.npy", np.array(["a"]))
    np.save(place / "half.npy", x.astype(np.float16))
    np.save(place / "empty.npy", x[:0])
    np.save(place / "number.npy", np.array(1.0))
    np.save(place / "records.npy", np.zeros(3, [("a", "f4")]))
    np.save(place / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.savez(place / "two.npz", a=x, b=x)
    np.savez(place / "odd.npz", weight=x, stride=1)
    np.savez(place / "none.npz")
    np.savez(place / "kernel.npz", weight=np.ones((1, 1, 3, 3)), **_options())
    np.savez(place / "wrong.npz", weight=np.ones((1, 1, 3, 3)), **(_options() | {"stride": np.array("a")}))
    np.savez(place / "short.npz", weight=np.ones(3), **_options())
    imageio.imwrite(place / "grey.png", rng.integers(0, 255, (12, 13), np.uint8))
    imageio.imwrite(place / "colour.png", rng.integers(0, 255, (12, 13, 3), np.uint8))
    imageio.imwrite(place / "page.tif", x.astype(np.float32))
    (place / "nothing.npy").write_bytes(b"")
    (place / "text.npy").write_text("not an array")
    (place / "text.png").write_text("not a picture")
    (place / "cut.npy").write_bytes((place / "x.npy").read_bytes()[:-50])
    (place / "cut.png").write_bytes((place / "grey.png").read_bytes()[:60])
    (place / "text.fits.gz").write_bytes(gzip.compress(b"text"))
    (place / "text.json").write_text("[" * 5000)
    with zipfile.ZipFile(place / "text.npz", "w") as archive:
        archive.writestr("a.txt", "text")
    (place / "folder.npy").mkdir()
    (place / "fuzzed_models.py").write_text(MODELS)
    return place


def _options() -> dict[str, np.ndarray]:
    names = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1, "padding_mode": "zeros"}
    return {name: np.array(value) for name, value in (names | {"transposed": False, "output_padding": (0, 0)}).items()}


FILES = ("x.npy", "x.npy", "y.npy", "stack.npy", "complex.npy", "booleans.npy", "strings.npy", "half.npy", "empty.npy")
FILES += ("number.npy", "records.npy", "objects.npy", "two.npz", "two.npz:a", "two.npz:c", "odd.npz", "none.npz")
FILES += ("kernel.npz", "kernel.npz", "wrong.npz", "short.npz", "grey.png", "colour.png", "page.tif", "nothing.npy")
FILES += (
    "text.npy",
    "text.png",
    "cut.npy",
    "cut.png",
    "text.fits.gz",
    "text.npz",
    "folder.npy",
    "missing.npy",
    "",
    ":",
)
FILES += ("x.txt", "kernel.npz:0", "é" * 200 + ".npy", "*.npy", "[.npy")
KERNELS = (*LISTS, *LISTS, *FILES)
OUTPUTS = ("out.npy", "out.npz", "out.png", "out.tif", "out.jpg", "out.txt", "folder.npy", "no/out.npz", "", "x.npy")
FACTORIES = ("fuzzed_models:ok", "fuzzed_models:linear", "fuzzed_models:ends", "fuzzed_models:breaks", "fuzzed_models:")
FACTORIES += ("fuzzed_models:nothing", "fuzzed_models:needs", "fuzzed_models:number", "fuzzed_models:no", ":", "no:no")
MODES = ("zeros", "reflect", "replicate", "circular", "mirror")
LAYER = {
    "stride": NUMBERS,
    "padding": PADDINGS,
    "dilation": ("1", "1", "2", *NUMBERS),
    "groups": NUMBERS,
    "padding-mode": MODES,
}
ENGINE = {"engine": (*NAMES, "aten", "reference", "winograd"), "accuracy": NAMES}
COMMANDS = {
    "correlate": ((FILES, KERNELS), LAYER | ENGINE | {"output": OUTPUTS, "flip": (), "json": ()}),
    "plan": ((SHAPES, SHAPES), LAYER | ENGINE | {"dtype": NAMES, "kernel-dtype": NAMES, "bias": (), "json": ()}),
    "compose": (
        (KERNELS, KERNELS),
        {f"{which}-{name}": some for which in ("first", "second") for name, some in LAYER.items()}
        | {"output": OUTPUTS, "json": ()},
    ),
    "decompose": ((KERNELS,), LAYER | {"tolerance": ("0.1", *NUMBERS), "output": OUTPUTS, "json": ()}),
    "fit": (
        (FILES, FILES),
        LAYER
        | {
            "size": SIZES,
            "max-size": NUMBERS,
            "method": ("lstsq", "gd", "adam", "a"),
            "loss": ("squares", "huber", "a"),
        }
        | {"huber-delta": NUMBERS, "offset": (), "mask": FILES, "mix-channels": (), "ridge": (*NUMBERS, "auto")}
        | {"smoothness": NUMBERS, "basis": ("gaussian-hermite", *FILES), "nonnegative": (), "sum-to-one": ()}
        | {
            "symmetric": (),
            "x-noise-variance": NUMBERS,
            "errors": ("white", "jackknife"),
            "degree": ("0", "1", "a", "-1"),
        }
        | {"modulation": ("output", "input", "update"), "background-degree": ("0", "1", "-1"), "constant": NUMBERS}
        | {"positions": FILES, "learning-rate": NUMBERS, "steps": ("1", "5", "0", "a"), "output": OUTPUTS, "json": ()},
    ),
    "cost": (
        ((*SHAPES, *FACTORIES), ("", *SHAPES)),
        LAYER
        | {"dtype": NAMES, "bias": (), "convention": ("dense", "effective", "a"), "no-input-gradient": ()}
        | {
            "scale": ("in_channels=2", "a=2", "in_channels", "size=nan", "batch=-1"),
            "input": (*SHAPES, "1,3,8,8:int64"),
        }
        | {"train": (), "forward-only": (), "input-gradient": (), "strict": (), "depth": NUMBERS, "sort": ("macs", "a")}
        | {"top": NUMBERS, "peak": ("sgd", "a"), "law": ("batch", "a", ""), "max-macs": NUMBERS, "fits": ("16G", "a")}
        | {"baseline": (*FILES, "text.json"), "csv": OUTPUTS, "json": ()},
    ),
    "fold": ((FACTORIES,), {"input": SHAPES, "output": ("m.pt", "m.pt2", *OUTPUTS), "json": ()}),
}


def command_line(rng: random.Random, command: str) -> list[str]:
    """A command with arguments and options that mostly exist, and values that partly do."""
    arguments, options = COMMANDS[command]
    line = [rng.choice(some) for some in arguments[: rng.choice((len(arguments),) * 9 + (0,))]]
    for name in rng.sample(sorted(options), min(len(options), rng.choice((0, 1, 1, 2, 3)))):
        line += [f"--{name}", *([rng.choice(options[name])] if options[name] else [])]
    if command == "fit" and "--size" not in line:
        line += ["--size", "3"]
    if command in ("fold", "cost") and rng.random() < 0.7:
        line += ["--input", "1,3,8,8"]
    return [command, *line]


@pytest.mark.slow(quick=3)
@pytest.mark.parametrize("command", COMMANDS)
def test_random_command_lines(command, folder, monkeypatch):
    monkeypatch.chdir(folder)
    failures = []
    for seed in range(FOLDED_CASES if command == "fold" else CASES):
        line = command_line(random.Random(seed), command)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            result = CliRunner().invoke(main, line)
        error = result.exception
        if error is not None and not isinstance(error, SystemExit):
            failures.append(f"{seed}: {line}: {''.join(traceback.format_exception(error)[-6:])}")
        elif result.exit_code not in (0, 1, 2) or "Traceback" in result.output:
            failures.append(f"{seed}: {line}: exit {result.exit_code}: {result.output[-500:]}")
        failures += [f"{seed}: {line}: {one.filename}: {one.message}" for one in said if _from_inside(one.filename)]
    assert not failures, "\n".join(failures)


def _from_inside(filename: str) -> bool:
    """Whether a warning is not one that is said at the caller's line, which is here or in click."""
    return "click" not in Path(filename).parts and filename != __file__

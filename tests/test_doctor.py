"""`convolith doctor`: what it says where something is missing, too old, or cannot be kept."""

import json
import os
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from click.testing import CliRunner

from convolith.cli import main
from convolith.cli.doctor import engines, installation
from convolith.cli.doctor import main as doctor
from convolith.errors import ConvolithError
from convolith.jit import Target
from convolith.torch_private import OLDEST, check_version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINES = [
    "torch>=2.10",
    "numpy>=2.0",
    "astropy>=6; extra == 'fits'",
    'zarr>=3.1.6; extra == "big"',
    'tifffile>=2025.12; extra == "big"',
    'tifffile>=2024.1; extra == "image"',
    'convolith[big]; extra == "remote"',
    'fsspec>=2024.12; extra == "remote"',
    'convolith[big]; extra == "cluster"',
    'dask[array]>=2026.3; extra == "cluster"',
    'pytest>=8; extra == "test"',
]
INSTALLED = {
    "torch": "2.13.0",
    "numpy": "2.4.6",
    "zarr": "3.0.2",
    "tifffile": "2026.3.3",
    "fsspec": "2025.1",
    "dask": "2026.3",
}


@pytest.fixture
def machine(monkeypatch):
    """Return a function that sets what is installed, on a machine whose engines are all good."""
    target = Target("avx2", "", "a processor", "", 32, 16, fused=True, halves=True)
    good = engines.Engines(2, target, {"call_seconds": 1e-6}, True, [{"engine": "direct", "good": True}])
    monkeypatch.setattr(doctor, "_examined", lambda calibrating: good)
    monkeypatch.setattr(installation, "requires", lambda _: LINES)

    def install(packages=INSTALLED, examined=good):
        def version(name):
            if name not in packages:
                raise PackageNotFoundError(name)
            return packages[name]

        monkeypatch.setattr(installation, "version", version)
        if examined is not good:
            monkeypatch.setattr(doctor, "_examined", examined)

    install()
    return install


def run(code=0):
    result = CliRunner().invoke(main, ["doctor", "--json"])
    assert result.exit_code == code, result.output
    text = CliRunner().invoke(main, ["doctor"])
    assert text.exit_code == code
    return json.loads(result.stdout), text.stdout


def test_extras_with_what_they_lack_and_the_line_that_installs_it(machine):
    data, text = run()
    extras = {row["extra"]: row for row in data["extras"]}
    assert extras["fits"]["missing"] == "astropy"
    assert extras["fits"]["install"] == "pip install 'convolith[fits]'"
    assert extras["big"]["missing"] == "zarr 3.1.6 or newer (now 3.0.2)"
    assert extras["remote"]["missing"] == extras["big"]["missing"]
    assert "install" not in extras["image"]
    packages = {row["package"]: row for row in data["packages"]}
    assert packages["tifffile"] == {
        "package": "tifffile",
        "for": "image, big, remote, cluster",
        "version": "2026.3.3",
        "oldest": "2025.12",
    }
    assert packages["astropy"]["version"] == "not installed"
    assert "pytest" not in packages
    assert "pip install 'convolith[fits]'" in text
    assert "nothing: everything works" in text


def test_the_extras_are_those_of_the_project():
    extras = PROJECT["optional-dependencies"]
    users = extras["all"][0].partition("[")[2].rstrip("]").split(",")
    assert set(installation.EXTRAS) == {*users, "big"}


def test_every_requirement_of_the_project_is_read(monkeypatch):
    extras = PROJECT["optional-dependencies"].items()
    lines = [*PROJECT["dependencies"], *(f"{one}; extra == '{extra}'" for extra, needed in extras for one in needed)]
    monkeypatch.setattr(installation, "requires", lambda _: lines)
    found = {(one.package, one.extra, one.least) for one in installation.requirements()}
    assert ("torch", "core", ".".join(map(str, OLDEST))) in found
    named = set(PROJECT["dependencies"])
    assert {f"{package}>={least}" for package, extra, least in found if extra == "core"} == named
    assert {"zarr", "fsspec"} <= {package for package, extra, _ in found if extra == "remote"}


def test_an_old_torch(machine):
    def fails(calibrating):
        check_version("2.4.1")

    machine({**INSTALLED, "torch": "2.4.1"}, fails)
    data, text = run(code=1)
    assert "Convolith needs torch 2.10 or newer (now 2.4.1): pip install --upgrade 'torch>=2.10'" in data["advice"]
    assert "nothing can be computed: torch has version 2.4.1; expected 2.10 or newer" in text
    assert data["machine"]["vectors"] is None
    assert "checks" not in data


def test_without_torch(machine):
    def fails(calibrating):
        raise ImportError("No module named 'torch'")

    machine({name: value for name, value in INSTALLED.items() if name != "torch"}, fails)
    data, _ = run(code=1)
    assert data["advice"][0] == "Convolith needs torch: pip install --upgrade 'torch>=2.10'"
    assert data["advice"][1] == "nothing can be computed: No module named 'torch'"


@pytest.mark.parametrize("version", ["2.4.1", "1.13.1+cpu", "2.9.0"])
def test_an_old_torch_is_refused_at_once(version):
    with pytest.raises(ConvolithError, match=rf"torch has version {version.replace('+', '.')}; expected 2.10 or newer"):
        check_version(version)


@pytest.mark.parametrize("version", ["2.10.0", "2.13.0+cpu", "2.11.0a0+git1234", "3.0"])
def test_a_newer_torch_is_taken(version):
    check_version(version)


def test_a_folder_of_sources(machine, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(installation, "requires", missing)
    data, _ = run()
    assert data["extras"] == []
    assert "pip install -e ." in data["advice"][0]


def test_the_cache_that_is_used(machine, monkeypatch, tmp_path):
    monkeypatch.setenv("CONVOLITH_CACHE_DIR", str(tmp_path / "kept"))
    (tmp_path / "kept").mkdir(mode=0o700)
    (tmp_path / "kept" / "code.o").write_bytes(bytes(200_000))
    data, _ = run()
    kept = {"folder": str(tmp_path / "kept"), "state": "compiled code and measurements are kept here"}
    assert data["cache"] == kept | {"files": 1, "megabytes": 0.2}
    assert data["advice"] == []


@pytest.mark.parametrize("case", ["a file", "no home", "cannot be made", "others"])
def test_a_cache_that_is_not_used(case, machine, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    places = {"a file": "file", "cannot be made": "file/below", "others": "open"}
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if case == "no home":
        monkeypatch.delenv("CONVOLITH_CACHE_DIR", raising=False)
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    else:
        monkeypatch.setenv("CONVOLITH_CACHE_DIR", str(tmp_path / places[case]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("convolith.storage.warn_once", lambda _: None)
        data, text = run()
    words = {
        "a file": "is a file",
        "no home": "there is no home directory",
        "cannot be made": "cannot be made",
        "others": "others (chmod 700)",
    }
    assert words[case] in data["cache"]["state"]
    assert data["advice"][0].startswith("nothing is kept on disk, so that every process compiles its code again")
    assert "name a folder in CONVOLITH_CACHE_DIR" in text


def test_a_cache_that_is_switched_off(machine, monkeypatch):
    monkeypatch.setenv("CONVOLITH_CACHE_DIR", "")
    data, _ = run()
    assert data["cache"]["state"] == "switched off: CONVOLITH_CACHE_DIR is empty"
    assert data["advice"] == []


def test_narrow_vectors_and_failed_engines(machine):
    target = Target("sse2", "", "an old processor", "", 16, 16, fused=False, halves=False)
    checks = [{"engine": "fft", "good": False}, {"engine": "aten", "good": True}]
    found = engines.Engines(1, target, {}, False, checks)
    machine(INSTALLED, lambda calibrating: found)
    data, _ = run(code=1)
    assert data["machine"]["vectors"] == "sse2"
    assert "this processor has no AVX2" in data["advice"][0]
    assert "fft failed a check above: pass engine='aten'" in data["advice"][1]
    assert "convolith doctor --calibrate" in data["advice"][2]


OFFLINE = """
import socket, sys, warnings

def refuse(*_, **__):
    raise AssertionError("something wants a network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
"""
NO_AVX = """
import llvmlite.binding as llvm
real = llvm.get_host_cpu_features()
for name in list(real):
    if name.startswith("avx") or name in ("fma", "f16c"):
        real[name] = False
llvm.get_host_cpu_features = lambda: real
"""
USE = """
import numpy as np, torch
import convolith as cl
from click.testing import CliRunner
from convolith.cli import main

x = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
blurred = cl.filter_image(x, np.ones((3, 3), np.float32))
assert np.allclose(blurred[1:-1, 1:-1], sum(x[i:62 + i, j:62 + j] for i in range(3) for j in range(3)), atol=1e-4)
assert cl.fit(x, blurred, kernel_size=3).kernel.shape == (1, 1, 3, 3)
result = CliRunner().invoke(main, ["doctor"])
assert result.exit_code == 0, result.output
print(result.stdout)
"""


def used(script, environment=None):
    """Run a script in a process of its own, and return what it prints."""

    given = {**os.environ, **(environment or {})}
    given = {name: value for name, value in given.items() if value is not None}
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=given)  # noqa: S603 - our own script
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout, ended.stderr


@pytest.mark.slow
def test_nothing_needs_a_network_after_the_install():
    tour = 'result = CliRunner().invoke(main, ["tour"])\nassert result.exit_code == 0, result.output\n'
    assert "Engines against the oracle" in used(OFFLINE + USE + tour)[0]


@pytest.mark.slow
def test_a_machine_without_avx2(tmp_path):
    shown, _ = used(NO_AVX + USE, {"CONVOLITH_CACHE_DIR": str(tmp_path)})
    assert "sse2" in shown
    assert "this processor has no AVX2" in shown


@pytest.mark.slow
def test_without_a_home(tmp_path):
    (tmp_path / "file").write_text("")
    home = {"HOME": str(tmp_path / "file"), "CONVOLITH_CACHE_DIR": None, "XDG_CACHE_HOME": None}
    shown, warned = used(USE, home)
    assert "cannot be made" in shown
    assert "name a folder in CONVOLITH_CACHE_DIR" in shown
    assert "so nothing is kept" in warned

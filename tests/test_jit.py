"""Generated code: kept on disk, never believed when damaged or foreign, on torch's threads or others, after a fork."""

import os
import pickle
import re
import subprocess
import sys
import warnings
from dataclasses import replace

import llvmlite.binding as llvm
import numpy as np
import pytest
import torch

import convolith as cl
from convolith import ConvolithError, ConvSpec, storage
from convolith.engines.direct import emit
from convolith.engines.direct import engine as direct_engine
from convolith.engines.direct.engine import direct, recipe_of
from convolith.engines.winograd import engine as winograd
from convolith.jit import compile as compiling
from convolith.jit import host, threads
from convolith.jit.target import Target, widths
from tests.strategies import arrays_for

SPEC = ConvSpec(in_channels=1, out_channels=1, size=(700, 700), kernel_size=3, padding=1)
DEEP = ConvSpec(in_channels=16, out_channels=16, size=(30, 30), kernel_size=3, padding=1)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A cache directory of one's own, no code in this process, and warnings that are said again."""
    monkeypatch.setenv("CONVOLITH_CACHE_DIR", str(tmp_path / "cache"))
    forget()
    yield tmp_path / "cache"
    forget()


def forget():
    """Forget the code of this process, the layouts that refer to it, and which warnings were said."""
    compiling._routines.clear()
    direct_engine._ready.cache_clear()
    winograd._ready.cache_clear()
    storage.warn_once.cache_clear()


def run() -> torch.Tensor:
    x, kernel, _ = arrays_for(SPEC)
    return direct.apply(direct.prepare(SPEC, kernel), x, None)


def test_code_is_kept_for_the_owner_alone_and_found_again(fresh, monkeypatch):
    first = run()
    (kept,) = fresh.glob("*.o")
    assert fresh.stat().st_mode & 0o777 == 0o700
    forget()
    monkeypatch.setattr(compiling, "written", lambda *a: pytest.fail("compiled although it was kept"))
    assert torch.equal(run(), first)
    assert kept.exists()


@pytest.mark.slow
def test_a_damaged_object_costs_a_warning_and_a_compilation(fresh):
    first = run()
    (kept,) = fresh.glob("*.o")
    content = kept.read_bytes()
    for damaged in (content[: len(content) // 2], b"", content[:40] + bytes([content[40] ^ 1]) + content[41:]):
        kept.write_bytes(damaged)
        forget()
        with pytest.warns(RuntimeWarning, match="is damaged"):
            assert torch.equal(run(), first)
        assert kept.read_bytes() == content


def test_a_directory_that_others_may_write_is_not_used(fresh):
    fresh.mkdir(mode=0o777)
    fresh.chmod(0o777)
    with pytest.warns(RuntimeWarning, match="can be written by others"):
        run()
    assert not list(fresh.iterdir())


def test_a_directory_that_cannot_be_made_is_a_warning(fresh, monkeypatch):
    fresh.write_text("a file")
    monkeypatch.setenv("CONVOLITH_CACHE_DIR", str(fresh / "below"))
    with pytest.warns(RuntimeWarning, match="cannot be made"):
        run()


def test_an_empty_name_keeps_nothing(fresh, monkeypatch):
    monkeypatch.setenv("CONVOLITH_CACHE_DIR", "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run()
    assert storage.cache_directory() is None


def test_the_name_of_an_object_tells_everything_it_depends_on():
    nest, target = recipe_of(SPEC, host()), host()
    names = {
        compiling.name_of(emit.write, target, nest),
        compiling.name_of(emit.write, host(widths()[-1]), nest),
        compiling.name_of(emit.write, target, recipe_of(DEEP, target)),
        compiling.name_of(winograd.write, target, nest),
    }
    assert len(names) == 4


def test_an_unknown_width_is_refused():
    with pytest.raises(ConvolithError, match="width is 'mmx'; this processor has"):
        host("mmx")


GENERATED = [("direct", SPEC), ("winograd_4x4", DEEP), ("fft", SPEC), ("fft", DEEP)]


@pytest.mark.parametrize(("engine", "spec"), GENERATED)
def test_threads_of_python_serve_where_openmp_is_missing(engine, spec, monkeypatch):
    x, kernel, _ = arrays_for(spec)
    expected = cl.plan(spec, engine=engine)(x, kernel)
    monkeypatch.setattr(threads, "openmp", lambda: None)
    assert torch.equal(cl.plan(spec, engine=engine)(x, kernel), expected)


@pytest.mark.parametrize(("engine", "spec"), GENERATED)
def test_one_thread_gives_the_same(engine, spec):
    x, kernel, _ = arrays_for(spec)
    expected = cl.plan(spec, engine=engine)(x, kernel)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.testing.assert_close(cl.plan(spec, engine=engine)(x, kernel), expected, rtol=1e-5, atol=1e-5)
    finally:
        torch.set_num_threads(before)


FORK = """
import os, sys, torch, convolith as cl
x, k = torch.randn(1, 16, 60, 60), torch.randn(16, 16, 3, 3)
image, box = torch.randn(1, 1, 700, 700), torch.randn(1, 1, 5, 5)
single, last = torch.randn(32, 16, 1, 1), x.to(memory_format=torch.channels_last)
run = lambda: [
    cl.correlate(x, k, engine="winograd_4x4"),
    *(cl.correlate(given, single, engine="pointwise", stride=s) for given in (x, last) for s in (1, 2)),
    cl.correlate(image, box, engine="direct"),
    cl.correlate(image, box, engine="fft"),
    cl.correlate(x, k, engine="fft"),
]
expected = run()
child = os.fork()
if child == 0:
    found = run()
    torch.set_num_threads(1)  # torch's own operators hang in a child without it
    good = all(map(torch.equal, found, expected))
    good = good and torch.allclose(cl.correlate(x, k, engine="aten"), expected[0], atol=1e-3)
    os._exit(0 if good else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_computes_too():
    done = subprocess.run([sys.executable, "-c", FORK], timeout=120, capture_output=True, text=True)  # noqa: S603 - ours
    assert done.returncode == 0, done.stderr


def test_denormal_numbers_live_on_outside():
    """Generated code counts them as zero, and puts the caller's mode back."""
    tiny = np.float32(1e-40)
    run()
    assert tiny * np.float32(1) != 0
    x = torch.full((1, 1, 700, 700), 1e-40)
    assert not direct.apply(direct.prepare(SPEC, torch.ones(1, 1, 3, 3)), x, None).any()
    assert tiny * np.float32(1) != 0


def test_prepared_code_is_pickled_as_its_recipe():
    x, kernel, _ = arrays_for(SPEC)
    bound = cl.plan(SPEC, engine="direct").bind(kernel)
    again = pickle.loads(pickle.dumps(bound))  # noqa: S301 - our own bytes
    assert again.state.region is bound.state.region
    assert torch.equal(again(x), bound(x))


NEXT_PROCESS = """
import time, torch
from convolith import ConvSpec
from convolith.engines.direct.engine import direct
from convolith.jit import compile
written = compile.written
compile.written = lambda *a: print("compiled") or written(*a)
spec = ConvSpec(in_channels=1, out_channels=1, size=(64, 64), kernel_size=(3, 4))
direct.apply(direct.prepare(spec, torch.ones(1, 1, 3, 4)), torch.ones(1, 1, 64, 64), None)
"""


@pytest.mark.slow
def test_the_next_process_compiles_nothing(fresh):
    outputs = [
        subprocess.run(  # noqa: S603 - our own script
            [sys.executable, "-c", NEXT_PROCESS], capture_output=True, text=True, check=True, timeout=120
        ).stdout
        for _ in range(2)
    ]
    assert outputs == ["compiled\n", ""]


OTHERS = {
    "avx512": Target("avx512", "x86_64-unknown-linux-gnu", "skylake-avx512", "", 64, 32, fused=True, halves=True),
    "neon": Target("neon", "aarch64-unknown-linux-gnu", "neoverse-n1", "", 16, 32, fused=True, halves=True),
}
RECIPES = {
    "one channel": (emit.write, lambda t: recipe_of(SPEC, t)),
    "halves": (
        emit.write,
        lambda t: recipe_of(replace(DEEP, dtype="bfloat16", kernel_dtype="bfloat16"), t),
    ),
    "integers": (
        emit.write,
        lambda t: recipe_of(replace(DEEP, dtype="uint8", kernel_dtype="int16"), t),
    ),
    "winograd": (winograd.write, lambda t: winograd.WinogradRecipe(4, "float32")),
}


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("target", OTHERS)
def test_code_is_written_for_other_processors_too(target, recipe):
    """It compiles to their vectors, and calls nothing that would have to be found at run time."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    write, parameters = RECIPES[recipe]
    machine = OTHERS[target]
    module = llvm.parse_assembly(compiling.written(write, machine, parameters(machine)))
    module.verify()
    text = compiling._machine(machine).emit_assembly(module)
    assert {"avx512": "%zmm", "neon": ".4s"}[target] in text
    called = set(re.findall(r"^\s*(?:callq|bl|movabsq)[ \t]+\$?([A-Za-z_]\w*)", text, re.MULTILINE))
    assert called <= {"pack", "products1", "products2", "products3", "_GLOBAL_OFFSET_TABLE_"}


def test_a_cache_directory_that_is_a_link_to_nothing_is_one_warning(fresh, monkeypatch, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    monkeypatch.setenv("CONVOLITH_CACHE_DIR", str(tmp_path / "link"))
    with pytest.warns(RuntimeWarning, match="link cannot be made"):
        run()


def test_what_is_kept_belongs_to_the_user_alone(fresh):
    before = os.umask(0)
    try:
        run()
    finally:
        os.umask(before)
    kept = [path for path in fresh.iterdir() if path.suffix == ".o"]
    assert kept
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    path = tmp_path / "kernel.npz"
    for mode in (0o644, 0o640):
        with storage.replacing(path) as file:
            file.write(b"one")
        path.chmod(mode)
        with storage.replacing(path) as file:
            file.write(b"two")
        assert path.stat().st_mode & 0o777 == mode
    with pytest.raises(TypeError), storage.replacing(path) as file:
        file.write("no bytes")
    assert path.read_bytes() == b"two"
    assert [each.name for each in tmp_path.iterdir()] == ["kernel.npz"]

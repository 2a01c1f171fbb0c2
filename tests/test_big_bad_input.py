"""Bad input of runs between stores: named with argument, block or key, refused in time, and nothing is lost."""

import json
import signal
import subprocess
import sys
import time
import tomllib
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import convolith as cl
from convolith import big
from convolith.big import cluster
from convolith.big.layout import MOST_BLOCKS
from convolith.big.stores.places import LEAST, needed
from convolith.big.walk import walk
from tests.test_cli import refused, run

zarr = pytest.importorskip("zarr")
X = np.random.default_rng(0).normal(size=(80, 90)).astype(np.float32)
K = np.ones((5, 5)) / 25


@pytest.fixture
def folder(tmp_path):
    """A folder with a source, and with an earlier result that has to stay."""
    stored(tmp_path / "x.zarr", X)
    (tmp_path / "y.zarr").mkdir()
    (tmp_path / "y.zarr" / "old").write_text("old")
    return tmp_path


def stored(path, array=X, chunks=(16, 16), **options):
    made = zarr.create_array(str(path), shape=array.shape, chunks=chunks, dtype=array.dtype, **options)
    made[...] = array
    return made


def stays(folder, source="x.zarr", words="", command_words=None, kernel=K, resume=True, **options):
    """Assert that a run is refused with these words, here and as a command, and that the earlier result stays."""
    with pytest.raises(cl.ConvolithError, match=words):
        big.plan(folder / source, kernel, folder / "y.zarr", **options).run(progress=False, resume=resume)
    if command_words is not None:
        np.save(folder / "k.npy", kernel)
        given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        said = refused("correlate", folder / source, folder / "k.npy", "-o", folder / "y.zarr", *given)
        assert command_words in said, said
    assert [path.name for path in (folder / "y.zarr").iterdir()] == ["old"]
    assert not (folder / "y.zarr.lock").exists()


def edited(path, **changes):
    """Change the metadata of an array."""
    file = path / "zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# Kernels and memory.


def test_kernels_that_do_not_fit(folder):
    stays(folder, words="kernel_size is .201, 203., but axis 0 has 80 pixels", kernel=np.ones((201, 203)), padding="valid",
          command_words="axis 0 has 80 pixels")  # fmt: skip
    whole = big.plan(folder / "x.zarr", np.ones((201, 203)), folder / "z.zarr", block=(16, 16), padding_mode="circular")
    whole.run(progress=False)  # one that is larger than the image fits with padding
    expected = cl.filter_image(X.astype(float), np.ones((201, 203)), padding_mode="circular")
    np.testing.assert_allclose(zarr.open_array(str(folder / "z.zarr"))[...], expected, atol=1e-2)


def test_memory_that_is_too_small(folder):
    stays(folder, words="memory is 1 MB, .* pass at least", memory="1MB", command_words="--memory is 1 MB")
    big_kernel = np.ones((3001, 3001), np.float32)
    with pytest.raises(cl.ConvolithError, match="memory is 50 MB, .* pass at least"):
        big.plan(np.zeros((4000, 4000), np.float32), big_kernel, folder / "y.zarr", memory="50MB")


@pytest.mark.parametrize("chunks", [(1, 90), (80, 1), (80, 90)])
def test_chunks_of_a_row_a_column_or_an_image(chunks, folder):
    stored(folder / "odd.zarr", X, chunks)
    report = big.plan(folder / "odd.zarr", K, folder / "z.zarr", block=(16, 16)).run(progress=False)
    assert report.read_bytes == X.nbytes
    np.testing.assert_allclose(zarr.open_array(str(folder / "z.zarr"))[...], cl.filter_image(X, K), atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "chunks"), [((10**8, 10**7), (1024, 1024)), ((10**8, 10**7), (1, 1)), ((10**8, 10**7), (10**8, 10**7))]
)
def test_a_claim_of_more_pixels_than_there_are(shape, chunks, folder):
    zarr.create_array(str(folder / "bomb.zarr"), shape=shape, chunks=chunks, dtype="f4")
    words = f"blocks of 1024 x 1024; expected {MOST_BLOCKS:,} or fewer"
    stays(folder, "bomb.zarr", words, "INPUT gives a result of 100000000 x 10000000 pixels")
    with pytest.raises(cl.ConvolithError, match="expected"):
        big.correlate(folder / "bomb.zarr", K)
    with pytest.raises(cl.ConvolithError):
        big.fit(folder / "bomb.zarr", folder / "bomb.zarr", kernel_size=3)


# Sources.


def test_what_is_no_image(folder):
    fits = pytest.importorskip("astropy.io.fits")
    zarr.open_group(str(folder / "group.zarr"), mode="w").create_array("inner", shape=(3,), dtype="f4")
    stays(folder, "group.zarr", "is a group with inner in it; name one of its arrays", "name one of its arrays")
    zarr.create_array(str(folder / "words.zarr"), shape=(4, 4), dtype="S3", zarr_format=2)
    stays(folder, "words.zarr", "source has dtype .S3; expected real numbers", "INPUT has dtype |S3")
    with pytest.raises(cl.ConvolithError, match="expected real numbers"):
        big.plan(np.zeros((4, 4), [("a", "f4")]), K)
    fits.BinTableHDU.from_columns([fits.Column("a", "E", array=[1.0])]).writeto(folder / "table.fits")
    stays(folder, "table.fits", "has no image")
    np.save(folder / "objects.npy", np.array([{}], object))
    stays(folder, "objects.npy", "objects.npy', which cannot be read")
    stays(folder, "none.zarr", "source is .*none.zarr', which does not exist", "INPUT is")


def test_forms_of_zarr_that_are_not_known(folder):
    for name, changes, words in (
        ("codec", {"codecs": [{"name": "mystery", "configuration": {}}]}, "cannot be read: .*mystery"),
        (
            "grid",
            {"chunk_grid": {"name": "rectilinear", "configuration": {"chunk_shapes": [[16, 64], [90]]}}},
            "cannot be read: .*(rectilinear|chunk)",
        ),
    ):
        stored(folder / f"{name}.zarr")
        edited(folder / f"{name}.zarr", **changes)
        stays(folder, f"{name}.zarr", words, "which cannot be read")
    (folder / "grid.zarr" / "zarr.json").write_text("{")
    stays(folder, "grid.zarr", "cannot be read")


def test_axes_that_are_not_clear(folder):
    stored(folder / "cube.zarr", np.stack([X] * 3), (1, 16, 16))
    stays(folder, "cube.zarr", "pass axes=, those of source that the kernel slides along", "--axes 1,2")
    stays(folder, words="axes of source are not named", axes="yx", command_words="the axes of INPUT are not named")


def test_missing_pixels_that_cannot_be(folder):
    stored(folder / "u.zarr", np.zeros((20, 20), np.uint8))
    stays(
        folder, "u.zarr", "nodata is 300, which the source's dtype uint8", nodata=300, command_words="--nodata is 300"
    )
    edge = np.array([[1.0, -1.0]])
    stays(folder, words="missing is 'renormalise', but the kernel sums to zero", kernel=edge, missing="renormalise",
          command_words="--missing is renormalise")  # fmt: skip


def test_absent_chunks_are_the_fill_value_and_counted(folder):
    for name, options in (("v3", {}), ("v2", {"zarr_format": 2}), ("shards", {"shards": (32, 48)})):
        made = stored(folder / f"{name}.zarr", X, fill_value=7.0, **options)
        parts = [path for path in (folder / f"{name}.zarr").rglob("*") if path.is_file() and path.name[0].isdigit()]
        for path in sorted(parts)[:2]:
            path.unlink()
        report = big.plan(folder / f"{name}.zarr", K, folder / "z.zarr").run(progress=False)
        assert report.absent == 2
        expected = cl.filter_image(made[...], K)
        assert (made[...] == 7).any()
        np.testing.assert_allclose(zarr.open_array(str(folder / "z.zarr"))[...], expected, atol=1e-5)
    np.save(folder / "k.npy", K)
    said = run("correlate", folder / "v3.zarr", folder / "k.npy", "-o", folder / "z.zarr", "--json").stdout
    assert json.loads(said.splitlines()[-1])["absent"] == 2
    assert big.plan(X, K, folder / "z.zarr").run(progress=False).absent is None
    assert big.plan(folder / "x.zarr", K, folder / "z.zarr").run(progress=False).absent == 0


def test_chunks_that_are_damaged(folder):
    stored(folder / "short.zarr")
    file = folder / "short.zarr" / "c" / "1" / "1"
    file.write_bytes(file.read_bytes()[:20])
    words = r"short.zarr cannot be read for block \(0, 0\), pixels \[0:80, 0:90\]"
    stays(folder, "short.zarr", words, "--skip-bad, which leaves such blocks missing",
          padding_mode="symmetric")  # fmt: skip
    stored(folder / "sum.zarr", compressors=[zarr.codecs.Crc32cCodec()])
    file = folder / "sum.zarr" / "c" / "2" / "3"
    content = bytearray(file.read_bytes())
    content[7] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(cl.ConvolithError, match=r"sum.zarr cannot be read for block .*checksum"):
        big.plan(folder / "sum.zarr", K, folder / "z.zarr", block=(16, 16)).run(progress=False)


@pytest.mark.parametrize("form", [{}, {"zarr_format": 2}, {"shards": (32, 48)}])
def test_a_source_that_changed_since_the_journal(form, folder, monkeypatch):
    from convolith.big.blocks import Filter

    made = stored(folder / "s.zarr", **form)

    def failing(*_):
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(Filter, "compute", failing)
        with pytest.raises(ZeroDivisionError):
            big.plan(folder / "s.zarr", K, folder / "y.zarr").run(progress=False)
    time.sleep(0.02)
    made[0, 0] = 5
    stays(folder, "s.zarr", "is of another run: sample differ", "start anew with --anew")
    report = big.plan(folder / "s.zarr", K, folder / "y.zarr").run(progress=False, resume=False)
    assert report.resumed == 0


# Targets.


def test_targets_that_cannot_be(folder, monkeypatch):
    (folder / "file").write_text("mine")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_text("mine")
    before = sorted(path.name for path in folder.rglob("*"))
    for target, words in (
        (folder / "x.zarr", "holds the source"),
        (folder / "x.zarr" / "inner", "holds the source"),
        (folder, "holds the source"),
        (folder / "none" / "y.zarr", "there is no folder .*none; create it"),
        (folder / "file" / "y.zarr", "there is no folder"),
        (folder / "file", "is there and is no Zarr array"),
        (folder / "pictures", "is there and is no Zarr array"),
        (folder / "y.png", "expected a name that ends in"),
        (3, "target is 3; expected a name"),
        ([folder], "expected a name of a file"),
    ):
        with pytest.raises(cl.ConvolithError, match=words):
            big.plan(folder / "x.zarr", K, target)
    assert sorted(path.name for path in folder.rglob("*")) == before

    def failing(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", failing)
    stays(folder, words=r"y.zarr.lock cannot be written \(.*Permission denied")


def test_a_folder_that_may_be_replaced(folder):
    (folder / "empty").mkdir()
    stored(folder / "other", X)
    for name in ("empty", "other", "y.zarr"):
        big.plan(folder / "x.zarr", K, folder / name).run(progress=False)
        np.testing.assert_allclose(zarr.open_array(str(folder / name))[...], cl.filter_image(X, K), atol=1e-5)


# Versions, workers, interrupts.


def test_packages_that_are_too_old(monkeypatch):
    monkeypatch.setattr(zarr, "__version__", "3.0.10")
    with pytest.raises(
        cl.ConvolithError, match=r"zarr has version 3.0.10; expected 3.1.6 or later; pip install --upgrade"
    ):
        needed("zarr", "big")
    for version in ("3.1.6", "3.1.10", "3.2.0.dev5", "4.0", "unknown"):
        monkeypatch.setattr(zarr, "__version__", version)
        assert needed("zarr", "big") is zarr


def test_the_oldest_versions_are_those_of_the_extras():
    extras = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    said = [one for name in ("big", "remote", "cluster") for one in extras[name]]
    for package, version in LEAST.items():
        assert [one.partition(">=")[2] for one in said if one.startswith((f"{package}>", f"{package}["))] == [version]


class Client:
    """A client of a cluster whose workers have another Convolith, or none."""

    threads, versions = {"tcp://a": 2}, {}

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def nthreads(self):
        return self.threads

    def run(self, function, on_error):
        assert on_error == "return"
        return self.versions


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"threads": {}}, "scheduler is 'tcp://h:1', which has no workers"),
        ({"versions": {"tcp://a": "0.1"}}, "worker tcp://a does not have Convolith .* it has version 0.1; install it"),
        (
            {"versions": {"tcp://a": ModuleNotFoundError("No module named 'llvmlite'")}},
            "worker tcp://a does not .* importing it fails: No module named 'llvmlite'; install it there",
        ),
    ],
)
def test_workers_that_cannot_compute(changes, words, folder, monkeypatch):
    def client(*_, **__):
        made = Client()
        for name, value in changes.items():
            setattr(made, name, value)
        return made

    monkeypatch.setattr(cluster, "needed", lambda *_: SimpleNamespace(Client=client))
    with pytest.raises(cl.ConvolithError, match=words), cluster.connected("tcp://h:1"):
        pass
    np.save(folder / "k.npy", K)
    said = refused(
        "correlate", folder / "x.zarr", folder / "k.npy", "-o", folder / "y.zarr", "--scheduler", "tcp://h:1"
    )
    assert "worker" in said
    assert [path.name for path in (folder / "y.zarr").iterdir()] == ["old"]


class Interrupting:
    """An executor that is interrupted at some submissions, whose jobs end only when they are waited for."""

    def __init__(self, at):
        self.at, self.count = at, 0

    def submit(self, run, job):
        from concurrent.futures import Future

        self.count += 1
        if self.count in self.at:
            raise KeyboardInterrupt
        future = Future()
        future.set_result(run(job))
        return future


def test_an_interrupt_lets_what_is_in_flight_end():
    executor, seen = Interrupting({4}), []
    with pytest.raises(KeyboardInterrupt):
        deque((seen.append(job) for job, _ in walk(iter(range(9)), abs, executor, 3)), maxlen=0)
    assert executor.count == 4
    assert sorted(seen) == [0, 1, 2]


TWICE = """
import os, sys, time, numpy as np
from convolith import big
from convolith.big.blocks import Filter
def slow(*_):
    os.write(1, b"block\\n")
    while not os.path.exists(sys.argv[1] + "/go"):
        time.sleep(0.01)
    os.write(1, b"ended\\n")
    os._exit(7)
Filter.compute = slow
try:
    big.plan(sys.argv[1] + "/x.zarr", np.ones((5, 5)), sys.argv[1] + "/y.zarr", block=(16, 16)).run(progress=False)
except KeyboardInterrupt:
    os.write(1, b"interrupted\\n")
    os._exit(130)
"""


@pytest.mark.slow
def test_a_second_interrupt_does_not_wait(folder):
    command = [sys.executable, "-c", TWICE, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603
    assert process.stdout.readline() == "block\n"
    for _ in range(2):
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=20)  # although no block ends
    assert "interrupted" in said
    assert "ended" not in said
    assert process.returncode == 130
    assert [path.name for path in (folder / "y.zarr").iterdir()] == ["old"]

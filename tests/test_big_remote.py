"""Stores in object stores, without a network: in memory, and in a folder behind a file system without renames."""

import json
import multiprocessing
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from uuid import uuid4

import numpy as np
import pytest

import convolith as cl
from convolith import big
from convolith.big.blocks import Filter
from convolith.big.stores.places import RemotePath, place_of
from convolith.big.stores.sources import COMPLETE, open_source
from tests.test_cli import refused, run

zarr = pytest.importorskip("zarr")
fsspec = pytest.importorskip("fsspec")
RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((70, 90)).astype(np.float32)
KERNEL = RNG.standard_normal((5, 7)).astype(np.float32)
OPTIONS = {"padding_mode": "symmetric", "block": (16, 20)}

BUCKET = """
import fsspec
from fsspec.implementations.local import LocalFileSystem
class Bucket(LocalFileSystem):
    protocol = "bucket"
    local_file = False
    def __init__(self, **options):
        super().__init__(auto_mkdir=True, **options)
    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("bucket://"))
    def unstrip_protocol(self, name):
        return "bucket://" + str(name).removeprefix("bucket://")
    def mv(self, *_, **__):
        raise OSError("an object store has no renames")
    mv_file = mv
fsspec.register_implementation("bucket", Bucket, clobber=True)
"""
exec(BUCKET)  # noqa: S102 - ours, which child processes run too


@pytest.fixture(params=["memory", "bucket"])
def bucket(request, tmp_path):
    """URL of an empty place."""
    yield f"memory://{uuid4().hex}" if request.param == "memory" else f"bucket://{tmp_path}/bucket"
    fsspec.filesystem("memory").store.clear()


def stored(url, array=IMAGE, chunks=(16, 20), **options):
    made = zarr.create_array(url, shape=array.shape, chunks=chunks, dtype=array.dtype, **options)
    made[...] = array
    return url


def names(url):
    """Return the names of all objects of a place."""
    files, path = fsspec.core.url_to_fs(url)
    files.invalidate_cache()
    return sorted(name.removeprefix(path).lstrip("/") for name in files.find(path))


@pytest.mark.parametrize("form", [{}, {"zarr_format": 2}, {"shards": (32, 40)}])
def test_a_store_becomes_a_store(bucket, form):
    source = stored(f"{bucket}/x.zarr", **form)
    plan = big.plan(
        source,
        KERNEL,
        f"{bucket}/y.zarr",
        **(OPTIONS if not form.get("shards") else {"padding_mode": "symmetric", "block": (32, 40)}),
    )
    report = plan.run(progress=False)
    assert report.read_bytes == IMAGE.nbytes
    result = zarr.open_array(f"{bucket}/y.zarr", mode="r")
    np.testing.assert_allclose(result[...], cl.filter_image(IMAGE, KERNEL, padding_mode="symmetric"), atol=1e-4)
    assert result.attrs[COMPLETE] is True
    assert {name.partition("/")[0] for name in names(bucket)} == {"x.zarr", "y.zarr"}  # no journal, no lock
    np.testing.assert_array_equal(plan.target.result()[...], result[...])
    again = big.plan(f"{bucket}/y.zarr", KERNEL, f"{bucket}/z.zarr", **OPTIONS)
    again.run(progress=False)
    assert open_source(f"{bucket}/z.zarr").attributes[COMPLETE] is True


def test_a_copy_on_disk_has_no_mark(bucket, tmp_path):
    stored(f"{bucket}/x.zarr", attributes={COMPLETE: True, "author": "me"})
    big.plan(f"{bucket}/x.zarr", KERNEL, tmp_path / "y.zarr").run(progress=False)
    attributes = zarr.open_array(str(tmp_path / "y.zarr")).attrs
    assert COMPLETE not in attributes
    assert attributes["author"] == "me"


def test_an_ome_image_stays_one(bucket):
    scale = {"type": "scale", "scale": [0.5, 0.25]}
    axes = [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    level = {"path": "full", "coordinateTransformations": [scale]}
    image = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [level]}]}
    group = zarr.open_group(f"{bucket}/x.zarr", mode="w", attributes={"ome": image})
    group.create_array("full", data=IMAGE, chunks=(16, 20))
    plan = big.plan(f"{bucket}/x.zarr", np.ones((3, 5)), f"{bucket}/y.zarr", stride=2, padding=0)
    plan.run(progress=False)
    result = zarr.open_group(f"{bucket}/y.zarr", mode="r")
    assert result.attrs[COMPLETE] is True
    expected = cl.filter_image(IMAGE, np.ones((3, 5)), stride=2, padding=0)
    np.testing.assert_allclose(result["0"][...], expected, atol=1e-4)
    assert result.attrs["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"] == [1.0, 0.5]


# Nothing is lost.


class BrokenError(Exception):
    pass


def interrupted(plan, monkeypatch, count):
    """Run a plan whose computation fails at some block."""
    compute, calls = Filter.compute, []

    def failing(self, block):
        calls.append(block)
        if len(calls) == count:
            raise BrokenError
        return compute(self, block)

    with monkeypatch.context() as patched:
        patched.setattr(Filter, "compute", failing)
        with pytest.raises(BrokenError):
            plan.run(progress=False)


@pytest.mark.parametrize("damage", ["none", "a chunk", "a chunk is gone", "another journal object"])
def test_an_interrupted_run_goes_on(bucket, damage, monkeypatch):
    source = stored(f"{bucket}/x.zarr")
    plan = big.plan(source, KERNEL, f"{bucket}/y.zarr", **OPTIONS)
    interrupted(plan, monkeypatch, 10)
    interrupted(big.plan(source, KERNEL, f"{bucket}/y.zarr", **OPTIONS), monkeypatch, 5)
    journal = RemotePath(f"{bucket}/y.zarr.partial.journal")
    assert len(journal.names()) > 2
    lines = [line for name in journal.names() for line in (journal / name).read_text().splitlines()]
    recorded = len(lines) - 1
    assert recorded >= 9 + 4 - 2 * 3
    file = RemotePath(f"{bucket}/y.zarr") / next(iter(json.loads(lines[2])["files"]))
    if damage == "a chunk":
        file.write_text("nonsense")
    elif damage == "a chunk is gone":
        file.unlink()
    elif damage == "another journal object":
        (journal / "00000099").write_text("{cut off")
    with pytest.raises(cl.ConvolithError, match="unfinished result"):
        open_source(f"{bucket}/y.zarr")
    report = big.plan(source, KERNEL, f"{bucket}/y.zarr", **OPTIONS).run(progress=False)
    assert report.resumed == recorded - damage.startswith("a chunk")
    found = zarr.open_array(f"{bucket}/y.zarr", mode="r")[...]
    np.testing.assert_allclose(found, cl.filter_image(IMAGE, KERNEL, padding_mode="symmetric"), atol=1e-4)
    assert {name.partition("/")[0] for name in names(bucket)} == {"x.zarr", "y.zarr"}


def test_a_run_begins_again_where_it_is_wanted(bucket, monkeypatch):
    source = stored(f"{bucket}/x.zarr")
    interrupted(big.plan(source, KERNEL, f"{bucket}/y.zarr", **OPTIONS), monkeypatch, 10)
    other = big.plan(source, 2 * KERNEL, f"{bucket}/y.zarr", **OPTIONS)
    with pytest.raises(cl.ConvolithError, match="kernel differ"):
        other.run(progress=False)
    assert other.run(progress=False, resume=False).resumed == 0
    expected = cl.filter_image(IMAGE, 2 * KERNEL, padding_mode="symmetric")
    np.testing.assert_allclose(zarr.open_array(f"{bucket}/y.zarr")[...], expected, atol=1e-4)


def test_a_process_that_ends_after_the_mark_is_no_loss(bucket, monkeypatch):
    from convolith.big.stores.journal import ObjectLog

    source = stored(f"{bucket}/x.zarr")
    with monkeypatch.context() as patched:
        patched.setattr(ObjectLog, "remove", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            big.plan(source, KERNEL, f"{bucket}/y.zarr", **OPTIONS).run(progress=False)
    report = big.plan(source, KERNEL, f"{bucket}/y.zarr", **OPTIONS).run(progress=False)
    assert report.resumed == report.blocks == 25
    assert zarr.open_array(f"{bucket}/y.zarr").attrs[COMPLETE] is True


def test_what_is_there_stays(bucket):
    source = stored(f"{bucket}/x.zarr")
    stored(f"{bucket}/y.zarr", IMAGE + 1)
    RemotePath(f"{bucket}/z.zarr/notes.txt").write_text("mine")
    before = names(bucket)
    for name in ("y.zarr", "z.zarr"):
        for resume in (True, False):
            plan = big.plan(source, KERNEL, f"{bucket}/{name}", **OPTIONS)
            with pytest.raises(cl.ConvolithError, match="where something is already; an object store has no renames"):
                plan.run(progress=False, resume=resume)
    assert names(bucket) == before
    np.testing.assert_array_equal(zarr.open_array(f"{bucket}/y.zarr")[...], IMAGE + 1)


def test_two_runs_of_one_result_do_not_meet(bucket):
    import socket

    plan = big.plan(stored(f"{bucket}/x.zarr"), KERNEL, f"{bucket}/y.zarr", **OPTIONS)
    lock = RemotePath(f"{bucket}/y.zarr.lock")
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "since": "today"}))
    with pytest.raises(cl.ConvolithError, match="process 1 on elsewhere"):
        plan.run(progress=False)
    lock.write_text(json.dumps({"host": socket.gethostname(), "pid": 2**22 + 5, "since": "today"}))
    plan.run(progress=False)  # of a process that is gone
    assert not lock.exists()


KILLED = (
    BUCKET
    + """
import os, sys, time, numpy as np
from convolith import big
from convolith.big.blocks import Filter
url, most, begun, compute = sys.argv[1], int(sys.argv[2]), [], Filter.compute
def slow(*arguments):
    begun.append(1)
    os.write(1, b"block\\n")
    while len(begun) >= most and not os.path.exists(sys.argv[3]):
        time.sleep(0.01)
    return compute(*arguments)
Filter.compute = slow
big.plan(url + "/x.zarr", np.ones((5, 5)) / 25, url + "/y.zarr", block=(16, 20)).run(progress=False)
"""
)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_killed_goes_on(how, tmp_path):
    url = f"bucket://{tmp_path}/bucket"
    stored(f"{url}/x.zarr")
    command = [sys.executable, "-c", KILLED, url, "12", str(tmp_path / "go")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603
    assert [process.stdout.readline() for _ in range(12)] == ["block\n"] * 12
    if how == signal.SIGKILL:
        time.sleep(1.1)  # records are written every second
    process.send_signal(how)
    time.sleep(0.3)
    (tmp_path / "go").touch()
    process.communicate()
    plan = big.plan(f"{url}/x.zarr", np.ones((5, 5)) / 25, f"{url}/y.zarr", block=(16, 20))
    report = plan.run(progress=False)
    assert report.resumed >= (9 if how == signal.SIGINT else 1)
    expected = cl.filter_image(IMAGE, np.ones((5, 5)) / 25)
    np.testing.assert_allclose(zarr.open_array(f"{url}/y.zarr")[...], expected, atol=1e-4)


# What is refused, and the rest.


@pytest.mark.parametrize("compressed", [True, False])
def test_chunks_are_written_by_zarr_and_no_tiff_file_is(bucket, compressed):
    stored(f"{bucket}/x.zarr")
    planned = big.plan(f"{bucket}/x.zarr", KERNEL, f"{bucket}/y.zarr", compressed=compressed)
    planned.run(progress=False)
    assert planned.source.files is planned.target.chunk_files is None
    assert bool(planned.target.result().compressors) == compressed
    with pytest.raises(cl.ConvolithError, match="a TIFF file is renamed when it is complete"):
        big.plan(f"{bucket}/x.zarr", KERNEL, f"{bucket}/y.tif", compressed=compressed)


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("none", "y.zarr", "which does not exist"),
        ("plain.npy", "y.zarr", "expected the URL of a Zarr array"),
        ("x.zarr", "x.zarr", "holds the source"),
        ("x.zarr", "x.zarr/inner", "holds the source"),
        ("folder/inner.zarr", "folder", "holds the source"),
        ("x.zarr", "y.tif", "a TIFF file is renamed when it is complete"),
        ("x.zarr", "y.png", "expected a name that ends in"),
    ],
)
def test_bad_places_are_named(bucket, source, target, words):
    stored(f"{bucket}/x.zarr")
    stored(f"{bucket}/folder/inner.zarr")
    RemotePath(f"{bucket}/plain.npy").write_text("numbers")
    before = names(bucket)
    with pytest.raises(cl.ConvolithError, match=words):
        big.plan(f"{bucket}/{source}", KERNEL, f"{bucket}/{target}")
    assert names(bucket) == before


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nothing://bucket/x.zarr", "source is 'nothing://bucket/x.zarr', whose file system cannot be opened"),
        ("simplecache::nothing://x.zarr", "whose file system cannot be opened"),
    ],
)
def test_file_systems_that_are_not_there_are_named(url, words):
    with pytest.raises(cl.ConvolithError, match=words):
        big.plan(url, KERNEL)
    with pytest.raises(cl.ConvolithError, match=words.replace("source is", "target is")):
        big.plan(IMAGE, KERNEL, url)


def test_a_chain_of_file_systems_is_read_but_not_written(tmp_path):
    stored(f"bucket://{tmp_path}/bucket/x.zarr")
    chained = f"simplecache::bucket://{tmp_path}/bucket"
    source = open_source(f"{chained}/x.zarr")
    np.testing.assert_array_equal(source.array[3:5, 2:4], IMAGE[3:5, 2:4])
    with pytest.raises(cl.ConvolithError, match="goes through several file systems"):
        big.plan(IMAGE, KERNEL, f"{chained}/y.zarr")


def test_urls_need_fsspec(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(cl.ConvolithError, match=r"pip install 'convolith\[remote\]'"):
        big.plan("s3://bucket/x.zarr", KERNEL)


def test_urls_of_files_are_paths(tmp_path):
    stored(str(tmp_path / "x.zarr"))
    (tmp_path / "y.zarr").mkdir()  # which a folder replaces
    big.plan(f"file://{tmp_path}/x.zarr", KERNEL, f"file://{tmp_path}/y.zarr", **OPTIONS).run(progress=False)
    assert COMPLETE not in zarr.open_array(str(tmp_path / "y.zarr")).attrs
    assert place_of("local:///a/b", "x") == place_of("/a/b", "x")


def test_other_processes_do_not_see_this_ones_memory():
    url = f"memory://{uuid4().hex}"
    stored(f"{url}/x.zarr")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        for source, target, name in ((f"{url}/x.zarr", "y.zarr", "source"), (IMAGE, f"{url}/y.zarr", "target")):
            with pytest.raises(cl.ConvolithError, match=f"{name} is 'memory://.*in the memory of this process"):
                big.plan(source, KERNEL, target).run(executor, progress=False)
    with ThreadPoolExecutor(2) as executor:
        big.plan(f"{url}/x.zarr", KERNEL, f"{url}/y.zarr").run(executor, progress=False)


def test_other_processes_open_urls_themselves(tmp_path):
    source = open_source(stored(f"bucket://{tmp_path}/bucket/x.zarr"))
    sent = pickle.dumps(source)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent).array[...], IMAGE)  # noqa: S301 - our own
    path = RemotePath("memory://a/b") / "c"
    assert pickle.loads(pickle.dumps(path)) == path  # noqa: S301


def test_a_place_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def failing(*_, **__):
        raise PermissionError("Access Denied")

    source, url = stored(f"bucket://{tmp_path}/bucket/x.zarr"), f"bucket://{tmp_path}/bucket/y.zarr"
    monkeypatch.setattr(Bucket, "pipe_file", failing)  # noqa: F821 - of the text above
    with pytest.raises(cl.ConvolithError, match=r"y.zarr.lock cannot be written \(Access Denied\)"):
        big.plan(source, KERNEL, url, **OPTIONS).run(progress=False)


def test_stores_are_correlated_lazily_and_fitted(bucket):
    pytest.importorskip("dask.array")
    source = stored(f"{bucket}/x.zarr")
    expected = cl.filter_image(IMAGE, KERNEL, padding_mode="symmetric")
    np.testing.assert_allclose(big.correlate(source, KERNEL, **OPTIONS), expected, atol=1e-4)
    target = stored(f"{bucket}/y.zarr", expected)
    found = big.fit(source, target, kernel_size=(5, 7), memory="1GB", progress=False)
    np.testing.assert_allclose(found.kernel[0, 0], KERNEL, atol=1e-4)


def test_the_command_takes_urls(bucket, tmp_path):
    source = stored(f"{bucket}/x.zarr")
    np.save(tmp_path / "k.npy", KERNEL)
    assert "70 x 90 float32" in run("plan", source, tmp_path / "k.npy").stdout
    run("correlate", source, tmp_path / "k.npy", "-o", f"{bucket}/y.zarr")
    expected = cl.filter_image(IMAGE, KERNEL, padding_mode="symmetric")
    np.testing.assert_allclose(zarr.open_array(f"{bucket}/y.zarr")[...], expected, atol=1e-4)
    assert "--output is" in refused("correlate", source, tmp_path / "k.npy", "-o", f"{bucket}/y.zarr")
    assert "--output is" in refused("correlate", source, tmp_path / "k.npy", "-o", f"{bucket}/y.tif")
    assert "INPUT is" in refused("correlate", f"{bucket}/none.zarr", tmp_path / "k.npy", "-o", f"{bucket}/z.zarr")
    run("fit", source, f"{bucket}/y.zarr", "--size", "5,7", "-o", tmp_path / "found.npy")
    np.testing.assert_allclose(np.load(tmp_path / "found.npy")[0, 0], KERNEL, atol=1e-4)

"""Blocks in worker processes, and on Dask: the same results, lazily or on an executor of any kind."""

import multiprocessing
import os
import pickle
import sys
from concurrent.futures import Executor, Future, ProcessPoolExecutor

import numpy as np
import pytest
from click.testing import CliRunner

import convolith as cl
from convolith import big
from convolith.big.cluster import connected
from convolith.big.fitting.run import in_order
from convolith.big.stores.sources import open_source
from convolith.big.walk import ATTEMPTS, walk
from convolith.cli import main
from convolith.planner import BoundPlan

zarr = pytest.importorskip("zarr")
RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((70, 90)).astype(np.float32)
KERNEL = RNG.standard_normal((5, 7)).astype(np.float32)


@pytest.fixture
def scan(tmp_path):
    made = zarr.create_array(str(tmp_path / "x.zarr"), shape=IMAGE.shape, chunks=(16, 20), dtype="f4")
    made[...] = IMAGE
    return str(tmp_path / "x.zarr")


def test_worker_processes_give_the_same_result(scan, tmp_path):
    options = {"padding_mode": "symmetric", "block": (16, 20)}
    big.plan(scan, KERNEL, tmp_path / "here.zarr", **options).run(progress=False)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as executor:
        report = big.plan(scan, KERNEL, tmp_path / "there.zarr", **options).run(executor, progress=False)
    assert report.blocks == 25
    assert report.read_bytes >= IMAGE.nbytes
    assert 0 < report.measured_bytes <= report.predicted_bytes
    expected = cl.filter_image(IMAGE, KERNEL, padding_mode="symmetric")
    np.testing.assert_allclose(zarr.open(str(tmp_path / "there.zarr"))[...], expected, atol=1e-4)
    np.testing.assert_array_equal(
        zarr.open(str(tmp_path / "there.zarr"))[...], zarr.open(str(tmp_path / "here.zarr"))[...]
    )


@pytest.mark.parametrize("kind", ["npy", "tif", "fits"])
def test_other_processes_open_files_themselves(kind, tmp_path):
    path = tmp_path / f"x.{kind}"
    if kind == "npy":
        np.save(path, IMAGE)
    elif kind == "tif":
        pytest.importorskip("tifffile").imwrite(path, IMAGE, tile=(16, 16))
    else:
        pytest.importorskip("astropy.io.fits").PrimaryHDU(IMAGE).writeto(path)
    source = open_source(path)
    sent = pickle.dumps(source)
    assert len(sent) < IMAGE.nbytes / 10
    part = np.s_[10:40, 20:30]
    np.testing.assert_array_equal(pickle.loads(sent).array[part], IMAGE[part])  # noqa: S301 - our own


class KilledWorker(Exception):  # noqa: N818 - the name that distributed gives it
    pass


class Losing:
    """An executor that loses the worker of a job some times."""

    def __init__(self, times):
        self.times, self.submitted = times, []

    def submit(self, function, job):
        self.submitted.append(job)
        future = Future()
        if job == 3 and self.submitted.count(3) <= self.times:
            future.set_exception(KilledWorker("gone"))
        else:
            future.set_result(function(job))
        return future


def test_a_job_whose_worker_is_lost_is_submitted_again():
    executor = Losing(2)
    assert {job: future.result() for job, future in walk(range(6), lambda n: n * n, executor, 2)} == {
        n: n * n for n in range(6)
    }
    assert executor.submitted.count(3) == 3
    executor = Losing(ATTEMPTS)
    ended = dict(walk(range(6), lambda n: n, executor, 2))
    with pytest.raises(KilledWorker):
        ended[3].result()
    assert executor.submitted.count(3) == ATTEMPTS


class Deserted(Executor):
    """A cluster without workers until somebody is told so."""

    def __init__(self):
        self._client = self.scheduler = self
        self.address, self.given = "tcp://here:1", []

    def nthreads(self):
        """Return no workers, and let what was submitted be computed from now on."""
        for future, value in self.given:
            future.set_result(value)
        return {}

    def submit(self, function, job):
        future = Future()
        self.given.append((future, function(job)))
        return future


@pytest.mark.parametrize("submit", [walk, in_order])
def test_a_run_says_that_it_waits_for_workers(submit, monkeypatch):
    monkeypatch.setattr("convolith.big.walk.QUIET_SECONDS", 0.05)
    with pytest.warns(RuntimeWarning, match=r"cluster at tcp://here:1 has no workers;.*`dask worker tcp://here:1`"):
        found = [job for job, _ in submit(range(2), abs, Deserted(), 2)]
    assert (sorted(found) if submit is walk else found) == [0, 1]  # a walk gives results as they come


def test_edge_blocks_share_the_prepared_kernel(scan, tmp_path, monkeypatch):
    kernel = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
    x = RNG.standard_normal((3, 70, 90)).astype(np.float32)
    shared = []
    resized = BoundPlan.resized
    monkeypatch.setattr(BoundPlan, "resized", lambda self, other: shared.append(resized(self, other)) or shared[-1])
    plan = big.plan(x, kernel, tmp_path / "y.zarr", padding="same", engine="direct", block=(4, 32, 32))
    plan.run(progress=False)
    assert len([one for one in shared if one is not None]) >= 3
    assert len(plan.filter.plans) == 2
    expected = cl.correlate(x, kernel, padding="same")
    np.testing.assert_allclose(zarr.open(str(tmp_path / "y.zarr"))[...], expected, atol=1e-4)


# Lazily, with Dask.

da = pytest.importorskip("dask.array")
CHUNKS = [(16, 20), (1, 90), ((3, 30, 37), (1, 89))]


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular", "symmetric"])
@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_a_dask_array_is_correlated_lazily(mode, chunks):
    y = big.correlate(da.from_array(IMAGE, chunks=chunks), KERNEL, padding_mode=mode)
    assert isinstance(y, da.Array)
    assert (y.shape, y.dtype) == (IMAGE.shape, IMAGE.dtype)
    np.testing.assert_allclose(y, cl.filter_image(IMAGE, KERNEL, padding_mode=mode), atol=1e-4)


def test_every_block_of_a_store_is_one_task(scan):
    for x in (scan, zarr.open_array(scan)):
        y = big.correlate(x, KERNEL, block=(16, 20))
        assert len(y.__dask_graph__()) == y.npartitions == 25
        np.testing.assert_allclose(y, cl.filter_image(IMAGE, KERNEL), atol=1e-4)
        part = y[10:13, 5:80].compute()
        np.testing.assert_allclose(part, cl.filter_image(IMAGE, KERNEL)[10:13, 5:80], atol=1e-4)
    assert big.correlate(scan, KERNEL).name == big.correlate(scan, KERNEL).name
    assert big.correlate(scan, KERNEL).name != big.correlate(scan, 2 * KERNEL).name


@pytest.mark.parametrize(
    ("options", "kernel"),
    [
        ({"stride": 2, "dilation": 2, "padding": 3}, (5, 4)),
        ({"padding": "valid"}, (70, 3)),
        ({"axes": (1, 2), "padding": "same"}, (4, 3, 3, 3)),
        ({"axes": (1, 2), "stride": 3, "groups": 3, "bias": [1, 2, 3]}, (3, 1, 2, 2)),
    ],
    ids=str,
)
def test_every_option_is_taken_lazily(options, kernel):
    channels = len(kernel) == 4
    x = RNG.standard_normal((3, 33, 40) if channels else (75, 40)).astype(np.float32)
    k = RNG.standard_normal(kernel).astype(np.float32)
    y = big.correlate(da.from_array(x, chunks=(2, 7, 40) if channels else (9, 11)), k, **options)
    others = {name: value for name, value in options.items() if name != "axes"}
    if "bias" in others:
        others["bias"] = np.asarray(others["bias"], np.float32)
    expected = cl.correlate(x, k, **others) if channels else cl.filter_image(x, k, **others)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, atol=1e-4)


def test_holes_and_dtypes_are_taken_lazily():
    x = RNG.integers(0, 255, (40, 50)).astype(np.uint8)
    y = big.correlate(da.from_array(x, chunks=20), np.ones((3, 3)) / 9, nodata=0, missing="renormalise", dtype="same")
    assert y.dtype == np.uint8
    found = cl.filter_image(x, np.ones((3, 3), np.float32) / 9, mask=x == 0, nan="omit")
    np.testing.assert_array_equal(y, np.where(np.isnan(found), 0, np.rint(found)).astype(np.uint8))


def test_a_result_without_dask_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask.array", None)
    with pytest.raises(cl.ConvolithError, match=r"pip install 'convolith\[cluster\]'"):
        big.correlate(IMAGE, KERNEL)


# On a cluster.


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs="CRITICAL"
    ) as made:
        yield made


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of distributed's own sockets and event loops
def test_a_cluster_gives_the_same_result_although_workers_are_killed(cluster, scan, tmp_path):
    expected = cl.filter_image(IMAGE, KERNEL)
    with connected(cluster.scheduler_address) as (executor, in_flight):
        assert in_flight == 4
        for kills in (0, 1, 3):
            plan = big.plan(scan, KERNEL, tmp_path / "y.zarr", block=(16, 20))
            killing = Killing(executor, kills)
            report = plan.run(killing, in_flight=in_flight, resume=False, progress=False)
            assert report.blocks == 25
            assert killing.left == 0
            np.testing.assert_allclose(zarr.open(str(tmp_path / "y.zarr"))[...], expected, atol=1e-4)


class Killing:
    """An executor whose workers are killed, now and then, while they write a block."""

    def __init__(self, executor, kills):
        self.executor, self.left, self.count = executor, kills, 0

    def submit(self, function, job):
        self.count += 1
        if self.left and self.count % 5 == 0:
            self.left -= 1
            self.executor.submit(killed_in_a_write, function, job)
        return self.executor.submit(function, job)


def killed_in_a_write(function, job):
    """End this process while a block is half written; the second time, compute it."""
    place = function.layout.place(job)
    partial = function.target.partial / "c"
    partial.mkdir(parents=True, exist_ok=True)
    mark = partial / f"killed-{place[0].start}-{place[1].start}"
    if mark.exists():
        return
    mark.write_bytes(b"half")
    os._exit(1)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_command_runs_on_a_cluster(cluster, scan, tmp_path):
    np.save(tmp_path / "k.npy", KERNEL)
    arguments = ["correlate", scan, tmp_path / "k.npy", "-o", tmp_path / "z.zarr", "--scheduler"]
    ended = CliRunner().invoke(main, [*map(str, arguments), cluster.scheduler_address])
    assert ended.exit_code == 0, ended.output
    expected = cl.filter_image(IMAGE, KERNEL, padding_mode="symmetric")
    np.testing.assert_allclose(zarr.open(str(tmp_path / "z.zarr"))[...], expected, atol=1e-4)


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("convolith.big.cluster.CONNECT_SECONDS", 1)
    with (
        pytest.raises(cl.ConvolithError, match="which does not answer within 1 seconds"),
        connected("tcp://127.0.0.1:9"),
    ):
        pass

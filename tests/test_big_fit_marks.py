"""Fits between stores with masks and weights, in worker processes, and what the command says of them."""

import json
import multiprocessing
import os
import re
from concurrent.futures import Future, ProcessPoolExecutor

import numpy as np
import pytest
from click.testing import CliRunner

import convolith as cl
from convolith import big
from convolith.big.fitting.jobs import GROUP
from convolith.big.fitting.run import in_order
from convolith.big.walk import ATTEMPTS
from convolith.cli import main
from tests.test_big_fit import OF_RESIDUALS, QUIET, RNG, X, Y, in_memory, same, stored
from tests.test_big_workers import KilledWorker
from tests.test_cli import refused, run
from tests.test_cli_fit_words import PYTHON

zarr = pytest.importorskip("zarr")
pytestmark = [pytest.mark.filterwarnings(one) for one in OF_RESIDUALS]
MASK = RNG.random(X.shape) < 0.05
X_MASK = RNG.random(X.shape) < 0.002
WEIGHTS = RNG.random(X.shape) + 0.1

# Masks and weights.

MARKS = {
    "mask": {"mask": MASK},
    "mask of one image": {"mask": MASK[0]},
    "mask of x": {"x_mask": X_MASK},
    "mask of x, one image": {"x_mask": X_MASK[0]},
    "weights": {"weights": WEIGHTS},
    "weights of one image": {"weights": WEIGHTS[0]},
    "all": {"mask": MASK, "x_mask": X_MASK[1], "weights": WEIGHTS},
}


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("name", MARKS)
def test_masks_and_weights_are_those_of_the_fit_in_memory(name, padding):
    options = {"kernel_size": 5, "offset": True, "padding": padding} | MARKS[name]
    expected = in_memory(X[:, None], Y[:, None], **options)
    same(big.fit(X, Y, block=(17, 20), **options, **QUIET), expected)
    same(big.fit(X, Y, block=50, passes=2, **options, **QUIET), expected)


@pytest.mark.slow
def test_masks_and_weights_go_with_the_jackknife():
    options = {"kernel_size": 5, "offset": True, "errors": "jackknife"} | MARKS["all"]
    same(big.fit(X, Y, folds=25, **options, **QUIET), in_memory(X[:, None], Y[:, None], **options))


def test_masks_may_have_channels_and_any_order_of_axes():
    x = RNG.normal(size=(4, 3, 20, 24))
    y = cl.correlate(x, RNG.normal(size=(2, 3, 3, 3))) + RNG.normal(size=(4, 2, 18, 22))
    of_x, of_y = RNG.random(x.shape) < 0.01, RNG.random(y.shape) < 0.05
    expected = in_memory(x, y, kernel_size=3, mask=of_y.any(1), x_mask=of_x)
    options = {"kernel_size": 3, "channel_axis": 1, "block": 9, **QUIET}
    same(big.fit(x, y, mask=of_y, x_mask=of_x, **options), expected)
    same(big.fit(x, y, mask=of_y.any(1), x_mask=of_x.any(1), **options), expected)
    moved = [np.moveaxis(part, 1, -1) for part in (x, y, of_y, of_x)]
    last = options | {"channel_axis": -1, "axes": (1, 2)}
    same(big.fit(*moved[:2], mask=moved[2], x_mask=moved[3], **last), expected)
    turned = big.fit(
        x[:, 0].swapaxes(1, 2), y[:, 0].swapaxes(1, 2), kernel_size=3, axes=(2, 1), mask=of_y[0, 0].T, **QUIET
    )
    same(turned, in_memory(x[:, :1], y[:, :1], kernel_size=3, mask=of_y[0, 0]))


def test_masks_of_integers_in_stores_and_lists(tmp_path):
    names = {}
    for name, array in (("x", X), ("y", Y), ("mask", MASK.astype(np.uint8) * 255), ("x_mask", X_MASK)):
        stored(tmp_path / f"{name}.zarr", array, (1, 16, 32))
        names[name] = tmp_path / f"{name}.zarr"
    options = {"kernel_size": 5, "offset": True}
    expected = in_memory(X[:, None], Y[:, None], mask=MASK, x_mask=X_MASK, **options)
    found = big.fit(**names, block=16, **options, **QUIET)
    same(found, expected)
    assert found.read_bytes == X.nbytes + Y.nbytes + MASK.nbytes + X_MASK.nbytes  # every chunk is decoded once
    lists = {name: [part, part] for name, part in names.items()}
    same(
        big.fit(**lists, **options, **QUIET),
        in_memory(
            *(np.tile(a[:, None], (2, 1, 1, 1)) for a in (X, Y)),
            mask=np.tile(MASK, (2, 1, 1)),
            x_mask=np.tile(X_MASK, (2, 1, 1)),
            **options,
        ),
    )
    one = big.fit(**(lists | {"mask": MASK[0], "x_mask": None}), **options, **QUIET)
    same(one, in_memory(*(np.tile(a[:, None], (2, 1, 1, 1)) for a in (X, Y)), mask=MASK[0], **options))


def test_a_checkpoint_knows_its_masks(tmp_path, monkeypatch):
    from convolith.big.fitting.stacks import Stack

    kept, options = tmp_path / "kept.npz", {"kernel_size": 3, "block": 16, **QUIET}
    read, calls = Stack.problem, []
    monkeypatch.setattr(
        Stack, "problem", lambda *a, **o: read(*a, **o) if calls.append(1) or len(calls) < 12 else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        big.fit(X, Y, mask=MASK, checkpoint=kept, **options)
    monkeypatch.undo()
    for changes, words in (
        ({"mask": ~MASK}, "mask differ"),
        ({}, "mask differ"),
        ({"mask": MASK, "nan": "refuse"}, "nan"),
    ):
        with pytest.raises(cl.ConvolithError, match=words):
            big.fit(X, Y, checkpoint=kept, **(options | changes))
    found = big.fit(X, Y, mask=MASK, checkpoint=kept, **options)
    assert 0 < found.resumed < 12
    np.testing.assert_array_equal(found.kernel, big.fit(X, Y, mask=MASK, **options).kernel)


def test_missing_pixels_are_refused_where_they_are_not_expected():
    x, y = X.copy(), Y.copy()
    x[1, 20, 21] = np.nan
    options = {"kernel_size": 5, "block": (17, 20), "nan": "refuse", **QUIET}
    with pytest.raises(cl.ConvolithError, match=r"x has 1 non-finite value, .*x_mask=.* \(positions count from pixel"):
        big.fit(x, y, **options)
    same(big.fit(x, y, x_mask=np.isnan(x), **options), in_memory(x[:, None], y[:, None], kernel_size=5, nan="omit"))
    y[2, 3, 3] = np.inf
    with pytest.raises(cl.ConvolithError, match="y has 1 non-finite value"):
        big.fit(X, y, **options)
    marked = np.where(np.isnan(x), -1.0, x)
    for nodata, part in ((-1.0, marked), ((np.nan, None), x)):  # a number that is named is expected
        same(big.fit(part, Y, nodata=nodata, **options), in_memory(x[:, None], Y[:, None], kernel_size=5, nan="omit"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mask": MASK[:2]}, r"mask has shape \(2, 44, 53\), but y \(3, 44, 53\); expected"),
        ({"x_mask": X_MASK[:, 1:]}, "x_mask has shape"),
        ({"weights": WEIGHTS[:, :, :5]}, "weights has shape"),
        ({"mask": WEIGHTS}, "mask has dtype float64; expected booleans or integers"),
        ({"x_mask": "none.zarr"}, "x_mask is 'none.zarr', which does not exist"),
        ({"weights": -WEIGHTS}, "weights has a least value of -"),
        ({"weights": np.full_like(WEIGHTS, np.nan)}, "weights has .* non-finite values"),
        ({"weights": 0 * WEIGHTS}, "no pixel of y is left"),
        ({"mask": np.ones_like(MASK)}, "no pixel of y is left"),
        ({"nan": "drop"}, "nan is 'drop'"),
        ({"mask": MASK * 1j}, "mask has dtype complex128; expected real"),
    ],
)  # fmt: skip
def test_bad_masks_are_named(changes, words):
    with pytest.raises(cl.ConvolithError, match=words):
        big.fit(X, Y, **({"kernel_size": 5} | QUIET | changes))


def test_lists_of_masks_are_as_long_as_those_of_sources():
    with pytest.raises(cl.ConvolithError, match="mask is 1 sources; expected one, or one for each of 2"):
        big.fit([X, X], [Y, Y], mask=[MASK], kernel_size=5, **QUIET)
    weights = WEIGHTS[:, None].repeat(2, 1)
    with pytest.raises(cl.ConvolithError, match="weights has shape"):
        big.fit(X[:, None], Y[:, None].repeat(2, 1), channel_axis=1, weights=weights, kernel_size=5, **QUIET)


# Worker processes.


@pytest.fixture
def stores(tmp_path):
    for name, array in (("x", X), ("y", Y), ("mask", MASK)):
        stored(tmp_path / f"{name}.zarr", array, (1, 16, 16))
    return {name: str(tmp_path / f"{name}.zarr") for name in ("x", "y", "mask")}


@pytest.mark.slow
@pytest.mark.parametrize("passes", [1, 2])
def test_workers_give_the_same_result_whatever_their_number(passes, stores, tmp_path):
    options = {"kernel_size": 5, "block": 16, "offset": True, "errors": "jackknife", "passes": passes, **QUIET}
    expected = big.fit(**stores, **options)
    found = []
    for count in (1, 3):
        with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
            found.append(big.fit(**stores, executor=pool, in_flight=2 * count, **options))
    for one in found:
        same(one, expected, 1e-12)
        assert (one.blocks, one.missing, one.images) == (expected.blocks, expected.missing, 3)
        assert one.read_bytes >= passes * (X.nbytes + Y.nbytes + MASK.nbytes)
        assert 0 < one.measured_bytes < one.predicted_bytes
    np.testing.assert_array_equal(found[0].kernel, found[1].kernel)
    np.testing.assert_array_equal(found[0].stderr, found[1].stderr)


class Elsewhere:
    """An executor that is none of threads, and computes at once what it would send."""

    def __init__(self, losing=()):
        self.units, self.losing = [], list(losing)

    def submit(self, run, unit):
        import pickle

        self.units.append(len(unit.blocks))
        future = Future()
        if len(self.units) in self.losing:
            future.set_exception(KilledWorker("gone"))
        else:
            run, unit = pickle.loads(pickle.dumps((run, unit)))  # noqa: S301 - our own
            future.set_result(run(unit))
        return future


def test_jobs_are_groups_and_are_submitted_again_where_a_worker_is_lost(stores):
    options = {"kernel_size": 5, "block": 16, "offset": True, **QUIET}
    expected = big.fit(**stores, **options)
    executor = Elsewhere(losing=(2, 3))
    found = big.fit(**stores, executor=executor, in_flight=3, **options)
    np.testing.assert_array_equal(found.kernel, expected.kernel)  # one process has as many threads as here
    assert max(executor.units) == GROUP
    assert sum(executor.units) == expected.blocks + sum(executor.units[1:3])
    with pytest.raises(KilledWorker):
        big.fit(**stores, executor=Elsewhere(losing=range(2, 50)), in_flight=3, **options)


def test_a_job_of_a_fit_is_given_up_after_some_attempts():
    class Losing:
        count = 0

        def submit(self, run, job):
            self.count += 1
            future = Future()
            future.set_exception(KilledWorker("gone"))
            return future

    executor = Losing()
    with pytest.raises(KilledWorker):
        list(in_order([1], abs, executor, 1))
    assert executor.count == ATTEMPTS


def test_memory_is_per_process(stores):
    options = {"kernel_size": 5, "block": 16, "progress": False}
    with pytest.raises(cl.ConvolithError, match="pass at least") as problem:
        big.fit(**stores, executor=Elsewhere(), in_flight=100, memory="1MB", **options)
    least = re.search(r"at least (\d+MB)", str(problem.value)).group(1)
    big.fit(**stores, executor=Elsewhere(), in_flight=100, memory=least, **options)


# The command.


def test_the_command_takes_masks(stores, tmp_path):
    expected = big.fit(**stores, kernel_size=5, **QUIET)
    command = ("fit", stores["x"], stores["y"], "--size", 5, "--mask", stores["mask"])
    data = json.loads(run(*command, "--refuse-nan", "--json").stdout.splitlines()[-1])
    np.testing.assert_allclose(data["kernel"], expected.kernel, rtol=1e-12)
    assert data["missing"] == expected.missing
    stored(tmp_path / "bad.zarr", X_MASK.astype(np.uint8), (3, 44, 53))
    data = json.loads(run(*command, "--before-mask", tmp_path / "bad.zarr", "--json").stdout.splitlines()[-1])
    expected = big.fit(**stores, x_mask=X_MASK, kernel_size=5, **QUIET)
    np.testing.assert_allclose(data["kernel"], expected.kernel, rtol=1e-12)


def test_a_scheduler_is_for_stores_alone(tmp_path):
    np.save(tmp_path / "x.npy", X[0])
    x = tmp_path / "x.npy"
    assert "--scheduler was given; it applies to stores" in refused(
        "fit", x, x, "--size", 3, "--scheduler", "tcp://a:1"
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of distributed's own sockets and event loops
def test_the_command_fits_on_a_cluster(stores):
    distributed = pytest.importorskip("distributed")
    expected = big.fit(**stores, kernel_size=5, block=None, **QUIET)
    arguments = ["fit", stores["x"], stores["y"], "--size", "5", "--mask", stores["mask"], "--json", "--scheduler"]
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs="CRITICAL"
    ) as cluster:
        ended = CliRunner().invoke(main, [*arguments, cluster.scheduler_address])
    assert ended.exit_code == 0, ended.output
    np.testing.assert_allclose(json.loads(ended.stdout.splitlines()[-1])["kernel"], expected.kernel, rtol=1e-10)


SAID = [
    "x y --memory 1MB", "x y --size 60", "x y --size 3,3,3,3", "x y --axes yx", "x y --axes 1,1", "x y --axes 1,9",
    "x y --channel-axis 2", "x y --pair-axis 1", "u u --nodata -1", "x y --passes 0",
    "x y --errors jackknife --folds 2", "x y --errors jackknife --folds 3", "x y --checkpoint k.txt",
    "x y --checkpoint none/k.npz", "x none", "none y", "x small", "x y --stride 2", "x small --origin 1",
    "x one", "one x", "x y --mask tiny.zarr", "x y --before-mask tiny.zarr", "x y --mask x.zarr",
    "x y --mask none.zarr", "holes y --refuse-nan", "x holes --refuse-nan", "empty y", "x y --ridge -1",
    "x y --smoothness -1", "x y --saturation nan", "x y --saturation 0", "x y --size auto --max-size 99",
    "x y --size auto --size-tolerance 2", "x y --size auto --stride 2", "x y --size auto --nonnegative",
    "x small --size auto", "flat y --size auto", "flat flat", "x y --basis m.npy", "x y --x-noise-variance 1 --padding same",
    "x y --scheduler nowhere", "x y --degree 1", "x y --method adam", "x y --loss huber", "x y --max-size 3",
    "x y --size auto --max-size 3", "smooth smooth --size 9", "x y --origin 100", "x y --padding full", "group y",
    "complex y", "small small --size 5 --offset", "x y --size auto --max-size 3 --folds 9",
]  # fmt: skip


@pytest.mark.parametrize("line", SAID)
def test_no_argument_of_the_library_is_named(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("convolith.big.cluster.CONNECT_SECONDS", 0.2)
    holes = X.copy()
    holes[1, 20, 20] = np.nan
    blurred = cl.filter_image(RNG.normal(size=(1, 60, 60)), cl.kernels.gaussian(3.0), axes=(1, 2))
    arrays = {"x": X, "y": Y, "small": X[:, :6, :6], "one": X[0, 0], "holes": holes, "empty": np.full_like(X, np.nan)}
    arrays |= {
        "tiny": np.zeros((5, 5), "u1"),
        "flat": np.ones_like(X),
        "u": X.astype(np.uint8),
        "smooth": blurred,
        "complex": X * 1j,
    }
    for name in {word.removesuffix(".zarr") for word in line.split()} & set(arrays):
        stored(tmp_path / f"{name}.zarr", arrays[name], arrays[name].shape)
    zarr.open_group("group.zarr", mode="w").create_array("a", shape=(3,), dtype="f4")
    np.save("m.npy", np.ones((5, 5)))
    before, after, *rest = line.split()
    size = () if "--size" in rest else ("--size", "3")
    result = CliRunner().invoke(main, ["fit", f"{before}.zarr", f"{after}.zarr", *size, *rest])
    assert result.exit_code in (0, 2), (result.output, result.exception)
    said = [one for one in result.stderr.splitlines() if one.startswith(("Error", "warning"))]
    assert said, line
    assert not [match.group() for one in said for match in [ARGUMENTS.search(one)] if match], said


ARGUMENTS = re.compile(
    rf"{PYTHON.pattern}|(?<![-\w])(channel_axis|pair_axis|(memory|axes|folds|passes|nodata|block|checkpoint|scheduler)=)"
)
"""Arguments of the library, those of `big.fit` too."""


def test_a_fit_says_how_far_it_is():
    said = []
    big.fit(X, Y, kernel_size=5, block=(17, 20), listener=said.append, **QUIET)
    assert [one.done for one in said] == list(range(1, 28))
    assert {(one.phase, one.total) for one in said} == {("fitting", 27)}
    assert said[-1].bytes > 0
    assert os.getpid() > 0


# Variances.

VARIANCE = RNG.random(X.shape) + 0.5
VARIANCE[RNG.random(X.shape) < 0.02] = 0
VARIANCE[RNG.random(X.shape) < 0.02] = -3
VARIANCE[RNG.random(X.shape) < 0.02] = np.nan
VARIANCE[RNG.random(X.shape) < 0.02] = np.inf


def test_variances_are_inverse_weights_and_others_are_left_out():
    known = np.isfinite(VARIANCE) & (VARIANCE > 0)
    weights = np.where(known, 1 / np.where(known, VARIANCE, 1), 0)
    options = {"kernel_size": 5, "offset": True}
    expected = in_memory(X[:, None], Y[:, None], weights=weights, **options)
    for nan in ("omit", "refuse"):
        found = big.fit(X, Y, variance=VARIANCE, block=(17, 20), nan=nan, **options, **QUIET)
        same(found, expected)
    same(big.fit(X, Y, variance=VARIANCE[0], **options, **QUIET),
         in_memory(X[:, None], Y[:, None], weights=weights[0], **options))  # fmt: skip
    with pytest.raises(cl.ConvolithError, match="weights was given together with variance"):
        big.fit(X, Y, variance=VARIANCE, weights=weights, **options, **QUIET)


def test_the_nodata_of_a_variance_leaves_pixels_out(tmp_path):
    known = np.isfinite(VARIANCE) & (VARIANCE > 0)
    stored(tmp_path / "v.zarr", np.where(known, VARIANCE, 1e20), (1, 16, 16)).attrs["_FillValue"] = 1e20
    weights = np.where(known, 1 / np.where(known, VARIANCE, 1), 0)
    found = big.fit(X, Y, variance=tmp_path / "v.zarr", kernel_size=5, **QUIET)
    same(found, in_memory(X[:, None], Y[:, None], weights=weights, kernel_size=5))


@pytest.mark.parametrize("kind", ["v.zarr", "v.npy", "v.tif"])
def test_the_command_takes_variances_as_it_does_in_memory(kind, stores, tmp_path):
    if kind == "v.npy":
        np.save(tmp_path / kind, VARIANCE)
    elif kind == "v.tif":
        pytest.importorskip("tifffile").imwrite(tmp_path / kind, VARIANCE, photometric="minisblack")
    else:
        stored(tmp_path / kind, VARIANCE, (1, 16, 16))
    for name, array in (("x", X), ("y", Y), ("w", VARIANCE)):
        np.save(tmp_path / f"{name}.npy", array)
    inside = run(
        "fit", tmp_path / "x.npy", tmp_path / "y.npy", "--size", "5,5", "--axes", "1,2", "--json",
        "--variance", tmp_path / "w.npy",
    )  # fmt: skip
    command = ("fit", stores["x"], stores["y"], "--size", 5, "--variance", tmp_path / kind, "--json")
    found = json.loads(run(*command).stdout.splitlines()[-1])
    np.testing.assert_allclose(found["kernel"], json.loads(inside.stdout)["kernel"], rtol=1e-6)


@pytest.mark.parametrize(
    ("variance", "words"),
    [
        (VARIANCE[:2], "--variance has shape (2, 44, 53), but AFTER (3, 44, 53); expected"),
        (-np.ones(X.shape), "no pixel of AFTER is left to fit: all of them are masked, missing (NaN or nodata)"),
        (None, "--variance is"),
    ],
)
def test_variances_that_do_not_fit_are_named(variance, words, stores, tmp_path):
    if variance is not None:
        stored(tmp_path / "v.zarr", variance, (1, 16, 16))
    said = refused("fit", stores["x"], stores["y"], "--size", 5, "--variance", tmp_path / "v.zarr")
    assert words in said.replace("\n", " ")
    assert "--before-variance was given; it applies to pictures and arrays that fit into memory" in refused(
        "fit", stores["x"], stores["y"], "--size", 5, "--before-variance", stores["x"]
    )


# The plan.


def test_a_plan_of_a_fit_has_the_form_of_a_correlations(stores, tmp_path):
    ended = run("fit", stores["x"], stores["y"], "--size", 5, "--mask", stores["mask"], "--passes", 2, "--json")
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    plan, done = events[0], events[-1]
    other = run("correlate", stores["x"], "[[1,2]]", "--axes", "1,2", "-o", tmp_path / "z.zarr", "--json")
    names = set(json.loads(other.stdout.splitlines()[0])) - {"engine"}
    assert names <= set(plan)
    assert plan["event"] == "plan"
    assert plan["shape"] == list(Y.shape)
    assert plan["block"] == [3, 40, 49]  # without the border
    for name in ("blocks", "images", "passes", "predicted_bytes"):
        assert plan[name] == done[name] > 0, name
    assert plan["read_bytes"] == done["read_bytes"] == 2 * (X.nbytes + Y.nbytes + MASK.nbytes)
    assert plan["written_bytes"] == 0
    said = []
    big.fit(X, Y, kernel_size=5, block=(17, 20), on_plan=said.append, **QUIET)
    assert [one.blocks for one in said] == [27]

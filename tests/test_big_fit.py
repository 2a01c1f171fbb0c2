"""Fits between stores: block by block equals the whole; memory, order, threads and interruptions change nothing."""

import json
import os
import re
import signal
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import convolith as cl
from convolith import big
from convolith.big.fitting import run as passes_over_blocks
from convolith.big.fitting.checkpoint import Checkpoint
from convolith.big.fitting.jobs import GROUP
from convolith.big.fitting.opening import SourceOptions, stacks_of
from convolith.big.fitting.stacks import Stack
from tests.test_cli import refused, run

zarr = pytest.importorskip("zarr")
OF_RESIDUALS = ("ignore:the (kernel goes on|residuals have|fit explains)", "ignore:residuals ")
"""Warnings of what the residual tells, as filters."""
pytestmark = [pytest.mark.filterwarnings(one) for one in OF_RESIDUALS]
RNG = np.random.default_rng(0)
K = np.random.default_rng(1).normal(size=(5, 5))
QUIET = {"progress": False, "memory": "1GB"}


def pair(shape=(3, 44, 53), noise=0.3, seed=0):
    """Pictures, and what a kernel makes of them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) + 3
    y = cl.filter_image(x, K, axes=(-2, -1), padding_mode="symmetric") + noise * rng.normal(size=shape)
    return x, y + 2


X, Y = pair()


def in_memory(*data, **options):
    """Fit in memory, without the warnings of what the residual tells."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return cl.fit(*data, **options)


def stored(path, array, chunks):
    made = zarr.create_array(str(path), shape=array.shape, chunks=chunks, dtype=array.dtype)
    made[...] = array
    return made


def same(found, expected, tolerance=1e-9):
    """Assert that two fits are equal to rounding."""
    for name in ("kernel", "offset", "stderr", "residual_rms", "explained", "held_out_rms", "condition"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours is None) == (theirs is None), name
        if theirs is not None:
            rtol = 0.05 if name == "condition" else 0
            scale = np.abs(np.asarray(theirs)).max()
            np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=tolerance * scale, err_msg=name)


# Against the fit in memory.

OPTIONS = {
    "plain": {},
    "offset": {"offset": True},
    "even": {"kernel_size": (4, 3), "offset": True},
    "ridge": {"ridge": 30.0, "offset": True},
    "smoothness": {"smoothness": 3.0},
    "symmetric": {"constraints": ("symmetric", "sum-to-one")},
    "nonnegative": {"constraints": "nonnegative"},
    "basis": {"basis": "gaussian-hermite", "offset": True},
    "noise": {"x_noise_variance": 0.01, "offset": True},
    "jackknife": {"errors": "jackknife", "offset": True},
    "ridge by cross-validation": {"ridge": "auto", "offset": True},
    "same": {"padding": "same", "padding_mode": "symmetric", "offset": True},
    "circular": {"padding": "same", "padding_mode": "circular"},
    "saturation": {"saturation": (5.0, 20.0), "offset": True},
    "origin": {"origin": (1, -2), "offset": True},
    "flip": {"flip": True},
}


@pytest.mark.slow(quick=8)
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_that_of_the_fit_in_memory(name):
    if name == "nonnegative":
        pytest.importorskip("daqp")
    options = {"kernel_size": 5} | OPTIONS[name]
    expected = in_memory(X[:, None], Y[:, None], nan="omit", **options)
    found = big.fit(X, Y, block=(17, 20), folds=25, **options, **QUIET)
    assert found.images == 3
    assert found.blocks > 12
    same(found, expected)
    same(big.fit(X, Y, block=50, folds=25, passes=2, **options, **QUIET), expected)


@pytest.mark.parametrize(
    "geometry",
    [{"stride": 2, "dilation": (1, 2)}, {"padding": ((1, 0), (2, 3)), "padding_mode": "reflect"}, {"padding": "full"}],
)
def test_strides_dilations_and_padding(geometry):
    geometry = {"padding": "valid"} | geometry
    y = cl.correlate(X[:, None], K[None, None], **geometry)[:, 0]
    found = big.fit(X, y, kernel_size=5, block=(7, 11), **geometry, **QUIET)
    np.testing.assert_allclose(found.kernel[0, 0], K, atol=1e-10)
    noisy = y + RNG.normal(size=y.shape)
    expected = in_memory(X[:, None], noisy[:, None], kernel_size=5, offset=True, **geometry)
    same(big.fit(X, noisy, kernel_size=5, offset=True, block=(7, 11), **geometry, **QUIET), expected)


def test_signals_and_volumes():
    signal = RNG.normal(size=3000)
    heard = np.convolve(signal, K[0], "valid")
    found = big.fit(signal, heard, kernel_size=5, block=999, **QUIET)
    np.testing.assert_allclose(found.found.impulse_response[0, 0], K[0], atol=1e-10)
    several = big.fit(np.stack([signal, signal]), np.stack([heard, heard]), kernel_size=(5,), **QUIET)
    assert several.images == 2
    volume, kernel = RNG.normal(size=(9, 14, 12)), RNG.normal(size=(3, 2, 3))
    solid = cl.filter_image(volume, kernel, axes=(0, 1, 2), padding="valid")
    found = big.fit(volume, solid, kernel_size=(3, 2, 3), block=4, **QUIET)
    np.testing.assert_allclose(found.kernel[0, 0], kernel, atol=1e-10)


def test_channels_are_mixed_and_may_be_absent_on_one_side():
    kernel = RNG.normal(size=(2, 3, 3, 3))
    x = RNG.normal(size=(4, 3, 20, 24))
    y = cl.correlate(x, kernel)
    noisy = y + RNG.normal(size=y.shape)
    for options in ({"channel_axis": 1}, {"pair_axis": 0}, {"channel_axis": -3, "axes": (2, 3)}):
        found = big.fit(x, y, kernel_size=3, block=9, **options, **QUIET)
        np.testing.assert_allclose(found.kernel, kernel, atol=1e-10)
        same(big.fit(x, noisy, kernel_size=3, block=9, **options, **QUIET), in_memory(x, noisy, kernel_size=3))
    last = big.fit(np.moveaxis(x, 1, -1), np.moveaxis(y, 1, -1), kernel_size=3, channel_axis=-1, axes=(1, 2), **QUIET)
    np.testing.assert_allclose(last.kernel, kernel, atol=1e-10)
    one = big.fit(x, y[:, 0], kernel_size=3, channel_axis=1, **QUIET)
    np.testing.assert_allclose(one.kernel, kernel[:1], atol=1e-10)
    wide = cl.correlate(x[:, :1], kernel[:, :1])
    many = big.fit(x[:, 0], wide, kernel_size=3, channel_axis=1, **QUIET)
    np.testing.assert_allclose(many.kernel, kernel[:, :1], atol=1e-10)


def test_blocks_of_many_channels_are_smaller():
    x = np.broadcast_to(np.float32(1), (64, 600, 600))
    (stack,) = stacks_of(x, x[:1], 3, SourceOptions(None, 0, None, None, 0), {"padding": "valid"})
    assert stack.block_size(None) == (256, 256)


def test_lists_of_sources_are_one_fit(tmp_path):
    sizes = ((40, 30), (25, 50), (33, 33))
    data = [pair(size, seed=n) for n, size in enumerate(sizes)]
    gram = cl.Gram(5)
    for n, (x, y) in enumerate(data):
        gram.update(x, y)
        np.save(tmp_path / f"x{n}.npy", x)
        np.save(tmp_path / f"y{n}.npy", y)
    names = [[tmp_path / f"{name}{n}.npy" for n in range(3)] for name in "xy"]
    found = big.fit(*names, kernel_size=5, offset=True, block=13, **QUIET)
    np.testing.assert_allclose(found.kernel, gram.solve(offset=True).kernel, atol=1e-10)
    assert found.images == 3
    held = big.fit(*names, kernel_size=5, offset=True, errors="jackknife", **QUIET)
    assert np.abs(held.stderr / found.stderr - 1).max() < 1


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_the_size_is_chosen_in_one_pass(padding):
    x, y = pair((1, 60, 66))
    options = {"kernel_size": "auto", "max_size": 9, "padding": padding, "padding_mode": "symmetric"}
    expected = in_memory(x, y, **options)
    found = big.fit(x, y, block=25, folds=16, **options, **QUIET)
    assert found.kernel.shape == expected.kernel.shape == (1, 1, 5, 5)
    assert [one.kernel_size for one in found.selection] == [(n, n) for n in (1, 3, 5, 7, 9)]
    np.testing.assert_allclose([one.rms for one in found.selection], [one.rms for one in expected.selection], rtol=1e-9)
    np.testing.assert_allclose(found.kernel, expected.kernel, atol=1e-9 if padding == "same" else 0.1)
    refined = big.fit(x, y, block=25, folds=16, passes=2, **options, **QUIET)
    np.testing.assert_allclose(refined.kernel, found.kernel, atol=1e-9)
    both = big.fit(x, y, ridge="auto", folds=16, **options, **QUIET)
    assert len(both.selection) == 5 * 11


def test_a_second_pass_refines_what_the_condition_costs():
    noise = np.random.default_rng(5).normal(size=(80, 80))
    x = cl.filter_image(noise, cl.kernels.gaussian(3.0), padding_mode="symmetric")
    y = cl.filter_image(x, K, padding="valid")
    with pytest.warns(RuntimeWarning, match="passes=2"):
        rough = big.fit(x, y, kernel_size=5, **QUIET)
    errors = [np.abs(rough.kernel[0, 0] - K).max()]
    assert rough.accuracy == pytest.approx(rough.condition * np.finfo(float).eps)
    for passes in (2, 3):
        fine = big.fit(x, y, kernel_size=5, passes=passes, block=31, **QUIET)
        errors.append(np.abs(fine.kernel[0, 0] - K).max())
        assert fine.blocks == passes * 9
    assert errors[1] < errors[0] / 30
    assert errors[2] <= 2 * errors[1]


# Missing pixels.


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_missing_pixels_are_left_out_with_the_reach_of_the_kernel(padding):
    x, y = X.copy(), Y.copy()
    x[0, 10:14, 20], x[2, 0, 0], y[1, 5:30, 7], y[2, -1, -1] = np.nan, np.inf, np.nan, np.nan
    options = {"kernel_size": 5, "offset": True, "padding": padding}
    expected = in_memory(x[:, None], y[:, None], nan="omit", **options)
    found = big.fit(x, y, block=(15, 16), **options, **QUIET)
    same(found, expected)
    same(big.fit(x, y, block=(15, 16), passes=2, **options, **QUIET), expected)
    known = cl.Gram(5, padding=padding).update(x[:, None], y[:, None], nan="omit").equations
    everything = cl.Gram(5, padding=padding).update(X[:, None], Y[:, None]).equations
    assert found.missing == everything - known > 0
    marked = [np.where(np.isfinite(part), part, -999.0) for part in (x, y)]
    same(big.fit(*marked, nodata=-999.0, block=(15, 16), **options, **QUIET), expected)
    mixed = np.where(np.isfinite(y), y, -1.0)
    same(big.fit(marked[0], mixed, nodata=(-999.0, -1.0), block=(15, 16), **options, **QUIET), expected)


def test_a_store_brings_its_own_nodata_and_names_of_axes(tmp_path):
    x = RNG.integers(0, 200, (2, 30, 40)).astype(np.uint8)
    y = cl.filter_image(x.astype(np.float32), np.ones((3, 3)), axes=(1, 2))
    marked = x.copy()
    marked[1, 4, 5] = 255
    made = zarr.create_array(
        str(tmp_path / "x.zarr"), shape=x.shape, chunks=(1, 16, 16), dtype="u1", dimension_names=("t", "y", "x")
    )
    made[...], made.attrs["nodata"] = marked, 255
    found = big.fit(tmp_path / "x.zarr", y, kernel_size=3, axes="yx", **QUIET)
    assert found.missing == 9
    assert found.kernel.dtype == np.float32
    np.testing.assert_allclose(found.kernel, np.ones((1, 1, 3, 3)), atol=1e-5)


# Memory, order, threads, interruptions.


class Slow:
    """An array whose parts take unequal times to read."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.reads = array, array.shape, array.dtype, 0

    def __getitem__(self, slices):
        import time

        self.reads += 1
        time.sleep(0.01 * (self.reads % 3))
        return self.array[slices]


def test_memory_threads_and_order_of_reading_change_no_bit(tmp_path):
    x, y = (stored(tmp_path / f"{n}.zarr", a.astype(np.float32), (1, 16, 16)) for n, a in (("x", X), ("y", Y)))
    options = {"kernel_size": 5, "block": 16, "offset": True, "progress": False}
    first = big.fit(x, y, memory="4GB", **options)
    least = least_memory(x, y, **options)
    small = big.fit(x, y, memory=least, **options)
    assert small.predicted_bytes <= int(least.removesuffix("MB")) << 20
    with ThreadPoolExecutor(4) as pool:
        third = big.fit(Slow(X.astype(np.float32)), y, executor=pool, memory="4GB", **options)
    for other in (small, third):
        np.testing.assert_array_equal(other.kernel, first.kernel)
        np.testing.assert_array_equal(other.stderr, first.stderr)
    assert first.read_bytes == x.nbytes + y.nbytes  # every chunk is decoded once
    assert first.measured_bytes is None or first.measured_bytes < first.predicted_bytes


def least_memory(x, y, **options):
    with pytest.raises(cl.ConvolithError, match="pass at least") as found:
        big.fit(x, y, memory="1MB", **options)
    return re.search(r"at least (\d+MB)", str(found.value)).group(1)


def test_small_images_are_read_together_and_large_ones_in_tiles():
    x = RNG.normal(size=(5, 40, 10, 12))
    y = cl.filter_image(x, np.ones((3, 3)), axes=(2, 3))
    found = big.fit(x, y, kernel_size=3, **QUIET)
    assert (found.images, found.blocks) == (200, 5)
    held = big.fit(x, y, kernel_size=3, errors="jackknife", folds=8, **QUIET)
    assert held.blocks == 12  # no block is of two folds
    np.testing.assert_allclose(held.kernel, np.ones((1, 1, 3, 3)), atol=1e-10)
    np.testing.assert_allclose(found.kernel, held.kernel, atol=1e-12)


class BrokenError(Exception):
    pass


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("problem", [BrokenError, KeyboardInterrupt])
def test_an_interrupted_fit_goes_on_from_its_checkpoint(problem, passes, tmp_path, monkeypatch):
    options = {"kernel_size": 5, "block": 16, "errors": "jackknife", "passes": passes, "offset": True, **QUIET}
    expected = big.fit(X, Y, **options)
    kept, read, calls = tmp_path / "kept.npz", Stack.problem, []
    each = expected.blocks // passes

    def failing(self, *arguments, **others):
        calls.append(1)
        if len(calls) == each * (passes - 1) + 30:
            raise problem
        return read(self, *arguments, **others)

    monkeypatch.setattr(Stack, "problem", failing)
    with pytest.raises(problem):
        big.fit(X, Y, checkpoint=kept, **options)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["kept.npz"]
    found = big.fit(X, Y, checkpoint=kept, **options)
    assert found.resumed == 28  # whole groups of blocks
    np.testing.assert_array_equal(found.kernel, expected.kernel)
    np.testing.assert_array_equal(found.stderr, expected.stderr)
    assert found.missing == expected.missing
    assert not list(tmp_path.iterdir())


def test_after_an_interrupt_what_is_in_flight_is_merged(tmp_path, monkeypatch):
    options = {"kernel_size": 3, "block": 16, "checkpoint": tmp_path / "kept.npz", **QUIET}
    read, calls = Stack.problem, []

    def interrupted(self, *arguments, **others):
        calls.append(1)
        if len(calls) == 10:
            os.kill(os.getpid(), signal.SIGINT)
        return read(self, *arguments, **others)

    monkeypatch.setattr(Stack, "problem", interrupted)
    with pytest.raises(KeyboardInterrupt):
        big.fit(X, Y, **options)
    monkeypatch.undo()
    found = big.fit(X, Y, **options)
    assert 0 <= len(calls) - found.resumed < GROUP
    np.testing.assert_allclose(found.kernel, big.fit(X, Y, kernel_size=3, **QUIET).kernel, atol=1e-10)


def test_a_checkpoint_is_written_again_and_again(tmp_path, monkeypatch):
    saved, save = [], Checkpoint.save
    monkeypatch.setattr(passes_over_blocks, "SECONDS", 0.0)
    monkeypatch.setattr(Checkpoint, "save", lambda self, reached: (saved.append(reached.done), save(self, reached)))
    found = big.fit(X, Y, kernel_size=3, block=30, checkpoint=tmp_path / "kept.npz", **QUIET)
    assert saved == [*range(GROUP, found.blocks + 1, GROUP), 0]
    assert not list(tmp_path.iterdir())


def test_sums_of_a_complete_pass_are_solved_again_with_other_options(tmp_path, monkeypatch):
    kept = tmp_path / "kept.npz"
    y = np.stack([Y[0], np.full_like(Y[0], np.nan)])
    with pytest.raises(cl.ConvolithError, match="unknowns"):
        big.fit(X[:2, :9, :9], y[:, :9, :9], kernel_size=(6, 5), checkpoint=kept, **QUIET)

    def failing(*_, **__):
        raise BrokenError

    monkeypatch.setattr(Stack, "problem", failing)
    found = big.fit(X[:2, :9, :9], y[:, :9, :9], kernel_size=(6, 5), ridge=1.0, checkpoint=kept, **QUIET)
    assert found.resumed == 0
    assert found.read_bytes == 0
    monkeypatch.undo()
    expected = in_memory(X[:1, None, :9, :9], Y[:1, None, :9, :9], kernel_size=(6, 5), ridge=1.0)
    np.testing.assert_allclose(found.kernel, expected.kernel, atol=1e-9)


def test_a_checkpoint_of_another_fit_is_refused(tmp_path, monkeypatch):
    kept = tmp_path / "kept.npz"
    options = {"checkpoint": kept, "block": 16, **QUIET}

    def failing(*_, **__):
        raise BrokenError

    monkeypatch.setattr(Stack, "problem", failing)
    with pytest.raises(BrokenError):
        big.fit(X, Y, kernel_size=5, **options)
    monkeypatch.undo()
    content = kept.read_bytes()
    for x, changes, words in (
        (X, {"kernel_size": 3}, "kernel_size differ"),
        (X, {"kernel_size": 5, "block": 8}, "block differ"),
        (X + 1, {"kernel_size": 5}, "x differ"),
    ):
        with pytest.raises(cl.ConvolithError, match=f"is of another run: {words}"):
            big.fit(x, Y, **(options | changes))
    assert kept.read_bytes() == content
    kept.write_bytes(content[:-100])
    with pytest.raises(cl.ConvolithError, match="is it complete"):
        big.fit(X, Y, kernel_size=5, **options)
    for name, words in (("kept.zip", "ends in .npz"), ("none/kept.npz", "no folder")):
        with pytest.raises(cl.ConvolithError, match=words):
            big.fit(X, Y, kernel_size=5, **(options | {"checkpoint": tmp_path / name}))


# Bad input.


@pytest.mark.parametrize(
    ("x", "y", "options", "words"),
    [
        (X, Y[:2], {}, "same number of pairs"),
        (X, Y[:, :30], {}, r"y has spatial size \(30, 53\) but x \(44, 53\)"),
        (X, Y[0, 0], {}, "as many axes"),
        (X[0], Y, {}, "channel_axis="),
        (X, Y, {"kernel_size": 60}, "spans 60 elements"),
        (X, Y, {"kernel_size": (5, 5, 5, 5)}, "kernel_size has 4 entries"),
        (X, Y, {"kernel_size": "large"}, "kernel_size is 'large'"),
        (X, Y, {"kernel_size": 0}, "kernel_size"),
        (X, np.full_like(Y, np.nan), {}, "no pixel of y is left"),
        (np.full_like(X, np.nan), Y, {}, "no pixel of y is left"),
        (X * 1j, Y, {}, "x has dtype complex128; expected real"),
        (X, Y * 1j, {}, "y has dtype complex128; expected real"),
        ("none.zarr", Y, {}, "x is 'none.zarr', which does not exist"),
        (X, "none.zarr", {}, "y is 'none.zarr', which does not exist"),
        ([X, X], [Y], {}, "x is 2 sources but y 1 sources"),
        ([X], Y, {}, "y one source"),
        ([], [], {}, "empty list"),
        ([X[:, None], X[:, None].repeat(2, 1)], [Y, Y], {"channel_axis": 1}, "1 -> 1 channels and 2 -> 1 channels"),
        (X, Y, {"memory": "10MB"}, "pass at least"),
        (np.zeros((700, 700)), np.zeros((700, 700)), {"kernel_size": 301}, "1 state of 61.* GB"),
        (X, Y, {"memory": "much"}, "memory is 'much'"),
        (X, Y, {"axes": (1, 1)}, "different axes"),
        (X, Y, {"axes": "yx"}, "not named"),
        (X, Y, {"axes": (1, 3)}, "3 axes"),
        (X, Y, {"axes": (1,), "kernel_size": (5, 5)}, "an axis for each entry"),
        (X, Y, {"channel_axis": 2}, "along which the kernel slides"),
        (X, Y, {"pair_axis": 1}, "all others but that of the channels"),
        (X, Y, {"nodata": "none"}, "nodata is 'none'"),
        (X, Y, {"nodata": (1, 2, 3)}, "one for x and one for y"),
        (X.astype(np.uint8), Y, {"nodata": -1}, "does not hold"),
        (X, Y, {"ridge": -1}, "ridge is -1"),
        (X, Y, {"ridge": "some"}, "ridge is 'some'"),
        (X, Y, {"errors": "many"}, "errors is 'many'"),
        (X, Y, {"errors": "jackknife", "folds": 3}, "folds"),
        (X, Y, {"passes": 0}, "passes"),
        (X, Y, {"block": 0}, "block"),
        (X, Y, {"max_size": 9}, "max_size was given"),
        (X, Y, {"kernel_size": "auto", "stride": 2}, "stride 1"),
        (X, Y, {"kernel_size": "auto", "smoothness": 1.0}, "is chosen for kernels without"),
        (X, Y[:, 2:-2, 2:-2], {"kernel_size": "auto"}, "expects both of one size"),
        (X, Y[:, 2:-2, 2:-2], {"origin": 1}, "origin is"),
        (X, Y, {"size_tolerance": 2}, "size_tolerance is 2"),
        (X[:, :6, :6], Y[:, :6, :6], {"kernel_size": 5, "offset": True}, "12 pixels to fit|unknowns"),
    ],
)
def test_bad_input_is_named(x, y, options, words):
    with pytest.raises(cl.ConvolithError, match=words):
        big.fit(x, y, **({"kernel_size": 5} | QUIET | options))


class Endless:
    """An array that claims more pixels than any disk holds."""

    shape, dtype, chunks = (1 << 30, 1 << 30), np.dtype("u1"), (16, 16)

    def __getitem__(self, slices):
        raise AssertionError


def test_more_blocks_than_can_be_listed_are_refused():
    with pytest.raises(cl.ConvolithError, match="blocks; expected 10,000,000 or fewer"):
        big.fit(Endless(), Endless(), kernel_size=3, **QUIET)


def test_a_source_that_cannot_be_read_is_named_with_the_place(tmp_path):
    stored(tmp_path / "x.zarr", X, (1, 16, 16))
    (tmp_path / "x.zarr" / "c" / "1" / "1" / "1").write_bytes(b"nonsense")
    with pytest.raises(cl.ConvolithError, match=r"x.zarr cannot be read at \[1:2, "):
        big.fit(tmp_path / "x.zarr", Y, kernel_size=3, block=16, **QUIET)


def test_a_result_is_tables():
    found = big.fit(X, Y, kernel_size=3, **QUIET)
    assert isinstance(found, big.BigFit)
    assert "share of updates" in str(found)
    assert "kernel accurate to" in str(found)
    assert "<table" in found._repr_html_()
    assert repr(found).startswith("BigFit(Fit(kernel of (1, 1, 3, 3)")
    assert set(found.seconds) == {"in all", "read", "update", "solve"}
    np.testing.assert_array_equal(found.conv.weight, found.kernel)


# The command.


@pytest.fixture
def stores(tmp_path):
    x, y = X.copy(), Y.copy()
    y[1, 20, 20] = np.nan
    stored(tmp_path / "x.zarr", x, (1, 32, 32))
    stored(tmp_path / "y.zarr", y, (1, 32, 32))
    return tmp_path / "x.zarr", tmp_path / "y.zarr"


def test_the_command_fits_stores_without_a_flag(stores, tmp_path):
    expected = big.fit(*stores, kernel_size=5, offset=True, **QUIET)
    options = ("--size", 5, "--background", "--memory", "500MB", "--checkpoint", tmp_path / "kept.npz")
    shown = run("fit", *stores, *options, "-o", tmp_path / "k.npy")
    assert "share of updates" in shown.stdout
    assert "its border is left out" in shown.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "k.npy"), expected.kernel)
    *said, data = map(json.loads, run("fit", *stores, *options, "--json", "-o", tmp_path / "k.npz").stdout.splitlines())
    assert [one["event"] for one in (said[0], said[-1], data)] == ["plan", "progress", "done"]
    assert (said[-1]["phase"], said[-1]["done"]) == ("fitting", said[-1]["total"])
    assert said[-1]["bytes"] == data["read_bytes"]
    assert (data["images"], data["missing"]) == (3, 1)
    np.testing.assert_allclose(data["kernel"], expected.kernel, rtol=1e-12)
    run("correlate", stores[0], tmp_path / "k.npy", "--axes", "1,2", "-o", tmp_path / "again.zarr")
    again = zarr.open_array(str(tmp_path / "again.zarr"), mode="r")[0]
    inner = (slice(2, -2), slice(2, -2))
    np.testing.assert_allclose(again[inner].std(), Y[0][inner].std(), rtol=0.02)
    patterns = tmp_path / "x*.zarr", tmp_path / "y*.zarr"
    chosen = ("--size", "auto", "--max-size", 7, "--folds", 9, "--passes", 2)
    assert "Cross-validation" in run("fit", *patterns, *chosen).stdout


def test_the_command_says_what_is_wrong_in_its_own_words(stores, tmp_path):
    size = ("--size", 5)
    for arguments, words in (
        ((*stores, *size, "--memory", "1MB"), "pass at least --memory "),
        ((*stores, "--size", 60), "the kernel spans 60 elements"),
        ((stores[0], tmp_path / "none.zarr", *size), "AFTER is '"),
        ((*stores, *size, "--mask", "m.npy"), "--mask is 'm.npy', which does not exist"),
        ((*stores, *size, "--variance", "m.npy"), "--variance is 'm.npy', which does not exist"),
        ((*stores, *size, "--before-variance", "m.npy"), "--before-variance was given; it applies to pictures"),
        ((*stores, *size, "--refuse-nan"), "AFTER has 1 non-finite value, the first at"),
        ((*stores, *size, "--method", "gd"), "--method is gd"),
        ((*stores, *size, "--degree", 1), "--degree was given"),
        ((*stores, *size, "--checkpoint", "kept.txt"), "--checkpoint is 'kept.txt'"),
        ((*stores, *size, "--nodata", "x"), "--nodata"),
        ((*stores, *size, "--errors", "jackknife", "--folds", 2), "--folds is 2"),
        ((*stores, *size, "-o", "k.png"), "ends in .npz, .npy"),
        (("x.npy", "y.npy", *size, "--memory", "1GB"), "--memory was given; it applies to stores"),
    ):
        assert words in refused("fit", *arguments), arguments


def test_an_interrupt_of_the_command_says_how_to_go_on(stores, tmp_path, monkeypatch):
    def failing(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Stack, "problem", failing)
    shown = run("fit", *stores, "--size", 5, "--checkpoint", tmp_path / "kept.npz", code=130)
    assert "give the same command again to go on" in shown.stderr
    assert (tmp_path / "kept.npz").exists()
    monkeypatch.undo()
    run("fit", *stores, "--size", 5, "--checkpoint", tmp_path / "kept.npz")
    assert not (tmp_path / "kept.npz").exists()

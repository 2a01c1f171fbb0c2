"""Arrays larger than memory: block by block equals the whole, at every size, chunk, border and hole; nothing is lost."""

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import convolith as cl
from convolith import big
from convolith.big.blocks import Filter
from convolith.big.layout import bytes_of
from convolith.big.stores.cache import Chunks
from convolith.big.stores.sources import open_source
from convolith.big.windows import geometry_of, span_of

zarr = pytest.importorskip("zarr")
MODES = ("zeros", "reflect", "symmetric", "replicate", "circular")
RNG = np.random.default_rng(0)


def stored(path, array, chunks, **options):
    made = zarr.create_array(str(path), shape=array.shape, chunks=chunks, dtype=array.dtype, **options)
    made[...] = array
    return made


# Windows.


@given(
    st.integers(1, 40),
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(0, 15),
    st.integers(0, 15),
    st.sampled_from(MODES),
    st.data(),
)
def test_a_window_is_the_same_part_of_the_padded_whole(size, reach, stride, before, after, mode, data):
    length = (size + before + after - reach) // stride + 1
    if length < 1:
        return
    x = np.arange(1.0, size + 1)
    padding = {"zeros": "constant", "replicate": "edge", "circular": "wrap"}.get(mode, mode)
    single = mode == "reflect" and size == 1  # which numpy.pad refuses
    whole = np.ones(size + before + after) if single else np.pad(x, (before, after), padding)
    first = data.draw(st.integers(0, length - 1))
    count = data.draw(st.integers(1, length - first))
    window = big.Window((slice(first, first + count),), (span_of(first, count, size, reach, stride, before, mode),))
    read = window.read(x)
    assert len(window.spans[0].ranges) <= 3
    assert len(read) <= size
    np.testing.assert_array_equal(window.padded(read), whole[first * stride : (first + count - 1) * stride + reach])


def test_windows_refuse_what_does_not_fit():
    for arguments in (((5, 5), (3, 3), (2,)), ((5, 5), (3,), (2, 2), [0, 1]), ((5, 5), (3, 3), (0, 2))):
        shape, kernel, block, *axes = arguments
        with pytest.raises(cl.ConvolithError):
            list(big.windows(shape, kernel, block, axes=axes[0] if axes else None))
    with pytest.raises(cl.ConvolithError, match="fits"):
        list(big.windows((5, 5), (7, 7), (2, 2), padding="valid"))


# Blocks against the whole.


@pytest.mark.parametrize("engine", ["fft", "separable", "winograd_4x4", "auto"])
def test_engines_stay_within_their_bounds(engine, tmp_path):
    x = RNG.standard_normal((150, 130)).astype(np.float32)
    kernel = (
        np.outer([1, 2, 1], [1, 3, 1]) / 20 if engine == "winograd_4x4" else np.outer(np.hanning(13), np.hanning(11))
    )
    big.plan(stored(tmp_path / "x.zarr", x, (40, 50)), kernel, tmp_path / "y.zarr", engine=engine).run(progress=False)
    expected = cl.filter_image(x.astype(np.float64), kernel)
    np.testing.assert_allclose(zarr.open(tmp_path / "y.zarr")[...], expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("groups", [1, 2])
def test_a_kernel_with_channels_mixes_them(groups, tmp_path):
    x = RNG.standard_normal((3, 4, 40, 50)).astype(np.float32)
    kernel, bias = RNG.standard_normal((6, 4 // groups, 3, 5)).astype(np.float32), RNG.standard_normal(6)
    conv = cl.Conv(kernel, bias.astype(np.float32), padding=2, groups=groups, padding_mode="reflect")
    source = stored(tmp_path / "x.zarr", x, (1, 2, 16, 16))
    report = big.plan(source, conv, tmp_path / "y.zarr", axes=(2, 3), engine="direct").run(progress=False)
    assert report.blocks == 3
    expected = cl.correlate(x, conv, engine="direct")
    np.testing.assert_allclose(zarr.open(tmp_path / "y.zarr")[...], expected, atol=1e-5)
    swapped = stored(tmp_path / "last.zarr", np.moveaxis(x, 1, -1).copy(), (1, 16, 16, 4))
    big.plan(swapped, conv, tmp_path / "z.zarr", axes=(1, 2), channel_axis=3).run(progress=False)
    np.testing.assert_allclose(np.moveaxis(zarr.open(tmp_path / "z.zarr")[...], -1, 1), expected, atol=1e-4)


# Kinds of sources.


def test_every_kind_of_file_is_read(tmp_path):
    tifffile, fits = pytest.importorskip("tifffile"), pytest.importorskip("astropy.io.fits")
    x, kernel = RNG.integers(0, 1000, (3, 60, 70)).astype(np.uint16), np.ones((5, 5)) / 25
    expected = cl.filter_image(x.astype(np.float32), kernel.astype(np.float32), axes=(1, 2))
    np.save(tmp_path / "x.npy", x)
    tifffile.imwrite(tmp_path / "x.tif", x, tile=(32, 32), photometric="minisblack", metadata={"axes": "ZYX"})
    fits.writeto(tmp_path / "x.fits", x.astype(">f4"))
    stored(tmp_path / "x.zarr", x, (1, 32, 32))
    stored(tmp_path / "old.zarr", x, (1, 32, 32), zarr_format=2)
    stored(tmp_path / "sharded.zarr", x, (1, 16, 16), shards=(1, 32, 32))
    for name in ("x.npy", "x.tif", "x.fits", "x.zarr", "old.zarr", "sharded.zarr"):
        big.plan(tmp_path / name, kernel, tmp_path / "y.zarr", axes=(1, 2)).run(progress=False)
        found = zarr.open(tmp_path / "y.zarr")[...]
        np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=name)


def test_an_open_dask_array_is_a_source(tmp_path):
    dask = pytest.importorskip("dask.array")
    x = RNG.standard_normal((60, 70)).astype(np.float32)
    big.plan(dask.from_array(x, chunks=(20, 30)), np.ones((3, 3)), tmp_path / "y.zarr").run(progress=False)
    np.testing.assert_allclose(
        zarr.open(tmp_path / "y.zarr")[...], cl.filter_image(x, np.ones((3, 3))), rtol=1e-5, atol=1e-5
    )


def test_names_of_axes_say_where_the_kernel_slides(tmp_path):
    x = RNG.standard_normal((2, 3, 40, 50)).astype(np.float32)
    named = stored(tmp_path / "x.zarr", x, (1, 1, 40, 50), dimension_names=("t", "c", "y", "x"))
    planned = big.plan(named, np.ones((3, 3)))
    assert planned.filter.geometry.axes == (2, 3)
    assert big.plan(named, np.ones((3, 3)), axes="xy").filter.geometry.axes == (3, 2)
    assert big.plan(named, np.ones((5, 3, 3, 3))).filter.channels == 1
    assert big.plan(named, np.ones(3), axes=["t"]).filter.geometry.axes == (0,)
    with pytest.raises(cl.ConvolithError, match="axes of source are t c y x"):
        big.plan(named, np.ones((3, 3)), axes="yz")


def test_an_ome_image_stays_one(tmp_path):
    scale = {"type": "scale", "scale": [1.0, 0.5, 0.25]}
    image = {
        "version": "0.4",
        "axes": [{"name": "c", "type": "channel"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}],
        "datasets": [{"path": "full", "coordinateTransformations": [scale]}, {"path": "half"}],
    }
    group = zarr.open_group(str(tmp_path / "x.zarr"), mode="w", attributes={"multiscales": [image], "omero": {"id": 1}})
    x = RNG.standard_normal((2, 40, 50)).astype(np.float32)
    group.create_array("full", data=x, chunks=(1, 20, 20))
    big.plan(tmp_path / "x.zarr", np.ones((3, 5)), tmp_path / "y.zarr", stride=2, padding=0).run(progress=False)
    result = zarr.open_group(str(tmp_path / "y.zarr"), mode="r")
    expected = cl.filter_image(x, np.ones((3, 5)), axes=(1, 2), stride=2, padding=0)
    np.testing.assert_allclose(result["0"][...], expected, rtol=1e-4, atol=1e-4)
    (described,) = result.attrs["multiscales"]
    (level,) = described["datasets"]
    assert level["path"] == "0"
    assert level["coordinateTransformations"] == [
        {"type": "scale", "scale": [1.0, 1.0, 0.5]},
        {"type": "translation", "translation": [0.0, 0.5, 0.5]},
    ]
    assert result.attrs["omero"] == {"id": 1}


# Holes.


@pytest.mark.parametrize("nodata", [None, -9999.0])
def test_holes_propagate_are_left_out_or_filled(nodata, tmp_path):
    x = RNG.standard_normal((50, 60)).astype(np.float32)
    holes = np.zeros(x.shape, bool)
    holes[10:20, 30:45], holes[48, 1] = True, True
    x[holes] = np.nan if nodata is None else nodata
    clean, kernel = np.where(holes, np.nan, x).astype(np.float32), np.ones((5, 5), np.float32) / 25
    source = stored(tmp_path / "x.zarr", x, (16, 16))
    for missing, expected in (
        ("propagate", cl.filter_image(clean, kernel)),
        ("renormalise", cl.filter_image(clean, kernel, nan="omit")),
        (7.0, cl.filter_image(np.where(holes, np.float32(7), x), kernel)),
    ):
        planned = big.plan(source, kernel, tmp_path / "y.zarr", missing=missing, nodata=nodata)
        report = planned.run(progress=False)
        found = zarr.open(tmp_path / "y.zarr")[...]
        if nodata is not None:
            expected = np.where(np.isnan(expected), np.float32(nodata), expected)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert report.missing == int((np.isnan(found) if nodata is None else found == nodata).sum())


def test_a_hole_reaches_just_the_results_that_read_it_with_any_engine(tmp_path):
    """Fourier transforms would spread it over a tile."""
    x = RNG.random((300, 300)).astype(np.float32)
    clean, kernel = x.copy(), RNG.random((41, 41)).astype(np.float32)
    x[150, 140] = np.nan
    expected = cl.filter_image(clean, kernel)
    for engine in ("fft", "auto"):
        report = big.plan(x, kernel, tmp_path / "y.zarr", engine=engine).run(progress=False)
        found = zarr.open(tmp_path / "y.zarr")[...]
        assert np.isnan(found[130:171, 120:161]).all()
        assert report.missing == 41 * 41
        there = ~np.isnan(found)
        np.testing.assert_allclose(found[there], expected[there], rtol=1e-5)


def test_an_infinity_beside_a_hole_reaches_just_the_results_that_read_it(tmp_path):
    x, kernel = RNG.random((120, 130)).astype(np.float32), RNG.random((15, 15)).astype(np.float32)
    x[60, 50], x[20, 100] = np.nan, np.inf
    big.plan(x, kernel, tmp_path / "y.zarr", engine="fft").run(progress=False)
    found, expected = zarr.open(tmp_path / "y.zarr")[...], cl.filter_image(x, kernel, engine="reference")
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(found), np.isinf(expected))


def test_integers_are_rounded_and_clipped_and_keep_their_nodata(tmp_path):
    x = RNG.integers(0, 256, (40, 50)).astype(np.uint8)
    x[x == 255], x[5, 7] = 254, 255
    source = stored(tmp_path / "x.zarr", x, (16, 16))
    report = big.plan(source, np.full((3, 3), 0.3), tmp_path / "y.zarr", nodata=255, dtype="same").run(progress=False)
    found = zarr.open(tmp_path / "y.zarr")[...]
    wide = np.where(x == 255, np.nan, x).astype(np.float32)
    expected = cl.filter_image(wide, np.full((3, 3), 0.3, np.float32))
    rounded = np.where(np.isnan(expected), 255, np.rint(expected).clip(0, 255))
    np.testing.assert_array_equal(found, rounded)
    assert report.clipped == int((np.rint(expected) > 255).sum()) > 0
    assert report.missing == 9


# Memory and reads.


class Counted:
    """An array that counts how often each of its chunks is read."""

    def __init__(self, array, chunks):
        self.array, self.chunks, self.shape, self.dtype, self.reads = array, chunks, array.shape, array.dtype, {}

    def __getitem__(self, slices):
        key = tuple(part.start for part in slices)
        self.reads[key] = self.reads.get(key, 0) + 1
        return self.array[slices]


@pytest.mark.parametrize("chunks", [(32, 32), (16, 200), (200, 16), (50, 70)])
def test_every_chunk_is_read_once(chunks, tmp_path):
    x = Counted(RNG.standard_normal((200, 300)).astype(np.float32), chunks)
    report = big.plan(x, np.ones((9, 9)), tmp_path / "y.zarr", block=(32, 64)).run(progress=False)
    counts = [-(-n // c) for n, c in zip(x.shape, chunks, strict=True)]
    assert sorted(x.reads.values()) == [1] * (counts[0] * counts[1])
    assert report.read_bytes == x.array.nbytes
    assert isinstance(open_source(x).chunks, tuple)


def test_the_copies_of_a_block_with_holes_are_part_of_its_memory():
    """Two windows more, and two results (holes that an engine would spread) or four (holes that are left out)."""
    x, kernel, size = np.zeros((1000, 1000), np.float32), RNG.random((41, 41)), 4 * 1000**2
    planned = {
        name: big.plan(x, kernel, missing=missing, engine=engine)
        for name, missing, engine in (
            ("filled", 0.0, "fft"),
            ("direct", "propagate", "direct"),
            ("spread", "propagate", "fft"),
            ("left out", "renormalise", "fft"),
        )
    }
    job = {name: plan.filter.job_bytes(x.dtype, (1040, 1040), (1000, 1000)) for name, plan in planned.items()}
    assert job["filled"] == job["direct"]
    assert job["spread"] - job["filled"] > 4 * size
    assert job["left out"] - job["filled"] > 6 * size


def test_little_memory_makes_panels_and_too_little_is_refused(tmp_path):
    x = Counted(np.zeros((600, 40_000), np.float32), (200, 1000))
    least = big.plan(x, np.ones((9, 9)), memory="1GB", block=(200, 1000))
    small = big.plan(x, np.ones((9, 9)), memory=least.layout.predicted_bytes - (8 << 20), block=(200, 1000))
    assert small.layout.panel[1] < least.layout.panel[1] == 40
    assert 1 < small.layout.amplification < 1.5
    assert small.layout.predicted_bytes <= small.memory
    with pytest.raises(cl.ConvolithError, match="pass at least (\\d+)MB") as refused:
        big.plan(x, np.ones((9, 9)), memory="1MB", block=(200, 1000))
    named = str(refused.value).split("at least ")[1].split("MB")[0]
    big.plan(x, np.ones((9, 9)), memory=f"{named}MB", block=(200, 1000))


@pytest.mark.parametrize(
    ("text", "expected"), [("1KB", 1024), ("1.5 MB", 3 << 19), ("2GiB", 2 << 30), (5, 5), ("7", 7)]
)
def test_memory_is_a_number_or_a_text(text, expected):
    assert bytes_of(text) == expected


@pytest.mark.parametrize("text", ["", "many", "-1GB", 0, "GB", None])
def test_other_memory_is_refused(text):
    with pytest.raises(cl.ConvolithError, match="memory is"):
        bytes_of(text)


def test_a_chunk_that_fails_is_asked_for_again():
    class Failing(Counted):
        def __getitem__(self, slices):
            value = super().__getitem__(slices)
            if self.reads[tuple(part.start for part in slices)] == 1:
                raise OSError("disk")
            return value

    x = Failing(np.arange(64.0).reshape(8, 8), (4, 4))
    parts = Chunks(open_source(x), 1 << 20)
    whole = (slice(0, 8), slice(0, 8))
    for _ in range(4):
        with pytest.raises(OSError, match="disk"):
            parts.part(whole)
    np.testing.assert_array_equal(parts.part(whole)[0], x.array)


# Nothing is lost.


def plan_of(folder, kernel=None, **options):
    kernel = np.ones((5, 5)) / 25 if kernel is None else kernel
    return big.plan(folder / "x.zarr", kernel, folder / "y.zarr", block=(16, 16), **options)


@pytest.mark.parametrize("compressors", ["auto", None])
def test_a_result_is_compressed_as_its_source(compressors, tmp_path):
    about = {"shape": (40, 50), "chunks": (16, 16), "dtype": "f4", "compressors": compressors}
    zarr.create_array(str(tmp_path / "x.zarr"), **about)[...] = 1
    plan_of(tmp_path).run(progress=False)
    assert bool(zarr.open_array(str(tmp_path / "y.zarr")).compressors) == (compressors == "auto")


@pytest.mark.parametrize("engine", ["direct", "reference", "aten"])
def test_a_kernel_of_one_tap_is_flipped(engine, tmp_path):
    x = RNG.standard_normal((20, 25)).astype(np.float32)
    big.plan(x, np.full((1, 1), 2.0), tmp_path / "y.zarr", flip=True, engine=engine).run(progress=False)
    np.testing.assert_array_equal(zarr.open(str(tmp_path / "y.zarr"))[...], 2 * x)


def test_a_conv_of_one_channel_filters_every_picture(tmp_path):
    x = RNG.standard_normal((3, 20, 25)).astype(np.float32)
    conv = cl.Conv(RNG.standard_normal((1, 1, 3, 4)), [0.5], padding="same", stride=1)
    big.plan(x, conv, tmp_path / "y.zarr", axes=(1, 2)).run(progress=False)
    expected = np.stack([conv(one[None].astype(float))[0] for one in x])
    np.testing.assert_allclose(zarr.open(str(tmp_path / "y.zarr"))[...], expected, atol=1e-5)


def test_a_finished_result_replaces_the_one_before_and_leaves_nothing_else(tmp_path):
    x = stored(tmp_path / "x.zarr", RNG.standard_normal((40, 50)).astype(np.float32), (16, 16))
    (tmp_path / "y.zarr").mkdir()
    (tmp_path / "y.zarr" / "old").write_text("old")
    plan_of(tmp_path).run(progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.zarr", "y.zarr"]
    expected = cl.filter_image(x[...], np.ones((5, 5)) / 25)
    np.testing.assert_allclose(zarr.open(tmp_path / "y.zarr")[...], expected, atol=1e-6)


class BrokenError(Exception):
    pass


@pytest.mark.parametrize("damage", ["none", "a file is cut off", "a file is gone", "the journal is cut off"])
def test_an_interrupted_run_goes_on(damage, tmp_path, monkeypatch):
    stored(tmp_path / "x.zarr", RNG.standard_normal((80, 90)).astype(np.float32), (16, 16))
    plan_of(tmp_path).run(progress=False)
    expected = zarr.open(tmp_path / "y.zarr")[...]
    (tmp_path / "kept").mkdir()
    os.rename(tmp_path / "y.zarr", tmp_path / "kept" / "y.zarr")
    compute, calls = Filter.compute, []

    def failing(self, block):
        calls.append(block)
        if len(calls) == 12:
            raise BrokenError
        return compute(self, block)

    monkeypatch.setattr(Filter, "compute", failing)
    with pytest.raises(BrokenError):
        plan_of(tmp_path).run(progress=False)
    assert not (tmp_path / "y.zarr").exists()
    journal = tmp_path / "y.zarr.partial.journal"
    lines = journal.read_text().splitlines()
    record = json.loads(lines[3])
    file = tmp_path / "y.zarr.partial" / next(iter(record["files"]))
    if damage == "a file is cut off":
        file.write_bytes(file.read_bytes()[:-5])
    elif damage == "a file is gone":
        file.unlink()
    elif damage == "the journal is cut off":
        journal.write_text("\n".join(lines)[:-7])
    calls.clear()
    monkeypatch.setattr(Filter, "compute", lambda *a: (calls.append(a[1]), compute(*a))[1])
    report = plan_of(tmp_path).run(progress=False)
    redone = 1 if damage != "none" else 0
    assert report.resumed == len(lines) - 1 - redone
    assert len(calls) == report.blocks - report.resumed
    np.testing.assert_array_equal(zarr.open(tmp_path / "y.zarr")[...], expected)


def test_a_journal_of_another_run_is_refused(tmp_path, monkeypatch):
    stored(tmp_path / "x.zarr", np.zeros((80, 90), np.float32), (16, 16))

    def failing(*_):
        raise BrokenError

    monkeypatch.setattr(Filter, "compute", failing)
    with pytest.raises(BrokenError):
        plan_of(tmp_path).run(progress=False)
    monkeypatch.undo()
    with pytest.raises(cl.ConvolithError, match="kernel differ"):
        plan_of(tmp_path, np.ones((3, 3))).run(progress=False)
    with pytest.raises(cl.ConvolithError, match="padding_value differ"):
        plan_of(tmp_path, padding_value=1.0).run(progress=False)
    plan_of(tmp_path, np.ones((3, 3))).run(progress=False, resume=False)


def test_a_journal_takes_little_memory_and_leaves_odd_lines_out(tmp_path):
    from convolith.big.stores.journal import Journal

    def record(row, column):
        return {"files": {f"c/{row}/{column}": [70_000, 10**9 + row]}, "clipped": 1, "missing": 2, "bad": None}

    blocks = [(row, column) for row in range(50) for column in range(40)]
    journal = Journal(tmp_path / "journal", {"kernel": "k"}, (50, 40))
    journal.begin()
    tracemalloc.start()
    for block in blocks:
        journal.add(block, record(*block))
    journal.close()
    again = Journal(tmp_path / "journal", {"kernel": "k"}, (50, 40))
    again.check()
    held = []
    again.begin(lambda block, found: held.append(found["clipped"]) or block[0] != 7)
    again.close()
    assert tracemalloc.get_traced_memory()[1] < 300_000, "a record takes a kilobyte"
    tracemalloc.stop()
    assert (len(journal), len(again), len(held)) == (2000, 1960, 2000)
    assert (again.clipped, again.missing) == (1960, 3920)
    assert (6, 39) in again
    assert (7, 0) not in again
    with (tmp_path / "journal").open("ab") as file:
        for line in (
            b'{"block": [50, 0]}',
            b'{"block": [-1, 0]}',
            b'{"block": [7]}',
            b'{"block": 7}',
            b'{"bl\xff',
            b"[]",
            b'{"block": ["7", 0]}',
        ):
            file.write(line + b"\n")
        file.write(json.dumps({"block": [6, 0], **record(6, 0)}).encode() + b"\n" + b'{"block": [7, 0], "clipp')
    last = Journal(tmp_path / "journal", {"kernel": "k"}, (50, 40))
    last.check()
    last.begin(lambda *_: True)
    last.close()
    assert (len(last), last.clipped) == (1960, 1960)
    assert len((tmp_path / "journal").read_text().splitlines()) == 1961
    with pytest.raises(cl.ConvolithError, match="kernel differ"):
        Journal(tmp_path / "journal", {"kernel": "other"}, (50, 40)).check()


def test_two_runs_of_one_result_do_not_meet(tmp_path):
    stored(tmp_path / "x.zarr", np.zeros((80, 90), np.float32), (16, 16))
    lock = tmp_path / "y.zarr.lock"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "since": "today"}))
    with pytest.raises(cl.ConvolithError, match="process 1 on elsewhere"):
        plan_of(tmp_path).run(progress=False)
    import socket

    lock.write_text(json.dumps({"host": socket.gethostname(), "pid": 2**22 + 5, "since": "today"}))
    plan_of(tmp_path).run(progress=False)  # of a process that is gone


def test_blocks_that_cannot_be_read_are_named_or_skipped(tmp_path):
    x = stored(tmp_path / "x.zarr", np.ones((48, 48), np.float32), (16, 16))
    (tmp_path / "x.zarr" / "c" / "1" / "1").write_bytes(b"nonsense")
    with pytest.raises(cl.ConvolithError, match="cannot be read for block"):
        plan_of(tmp_path).run(progress=False)
    report = plan_of(tmp_path).run(progress=False, skip_bad=True)
    assert len(report.bad) == 9  # the block, and its neighbours that read it
    assert np.isnan(zarr.open(tmp_path / "y.zarr")[...]).all()
    assert x.shape == (48, 48)


SLOW = """
import os, sys, time, numpy as np
from convolith import big
from convolith.big.blocks import Filter
folder, most, begun, compute = sys.argv[1], int(sys.argv[2]), [], Filter.compute
def slow(*arguments):
    begun.append(1)
    os.write(1, b"block\\n")
    while len(begun) >= most and not os.path.exists(folder + "/go"):
        time.sleep(0.01)
    return compute(*arguments)
Filter.compute = slow
big.plan(folder + "/x.zarr", np.ones((5, 5)) / 25, folder + "/y.zarr", block=(16, 16)).run(progress=False)
"""
"""A run that waits, from some block on, until a file is there."""


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize(
    ("how", "counts"), [(signal.SIGKILL, [8]), (signal.SIGKILL, [5, 3, 8]), (signal.SIGINT, [5, 3, 8])]
)
def test_a_run_that_is_killed_goes_on(how, counts, tmp_path):
    stored(tmp_path / "x.zarr", RNG.standard_normal((80, 90)).astype(np.float32), (16, 16))
    plan_of(tmp_path).run(progress=False)
    expected, go, least = zarr.open(tmp_path / "y.zarr")[...], tmp_path / "go", 0
    journal = tmp_path / "y.zarr.partial.journal"
    for count in counts:
        command = [sys.executable, "-c", SLOW, str(tmp_path), str(count)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603
        assert [process.stdout.readline() for _ in range(count)] == ["block\n"] * count
        least += count - 3  # those in flight are computed again
        for _ in range(3000):
            if (
                journal.exists() and len(journal.read_text().splitlines()) > least
            ):  # one for the run, one for each block
                break
            time.sleep(0.01)
        process.send_signal(how)
        time.sleep(0.3)
        go.touch()  # what is in flight ends
        process.communicate()
        go.unlink()
    report = plan_of(tmp_path).run(progress=False)
    assert report.resumed >= least
    np.testing.assert_array_equal(zarr.open(tmp_path / "y.zarr")[...], expected)


# Bad input.


def test_bad_input_is_named(tmp_path):
    x = stored(tmp_path / "x.zarr", RNG.standard_normal((3, 40, 50)).astype(np.float32), (1, 16, 16))
    zarr.open_group(str(tmp_path / "group.zarr"), mode="w").create_array("a", shape=(3,), dtype="f4")
    stored(tmp_path / "complex.zarr", np.zeros((4, 4), np.complex64), (4, 4))
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "bad.tif").write_bytes(b"II*\0nonsense")
    kernel, axes = np.ones((3, 3)), (1, 2)
    for source, options, words in (
        (tmp_path / "none.zarr", {}, "does not exist"),
        (tmp_path / "text.txt", {}, "expected a Zarr array"),
        (tmp_path / "bad.tif", {}, "cannot be read"),
        (tmp_path / "group.zarr", {}, "name one of its arrays"),
        (tmp_path / "complex.zarr", {}, "expected real numbers"),
        (x, {}, "pass axes="),
        (x, {"axes": (1, 1)}, "different axes"),
        (x, {"axes": (1, 5)}, "3 axes"),
        (x, {"axes": (1,)}, "one axis for each"),
        (x, {"axes": axes, "channel_axis": 0}, "mixes no channels"),
        (x, {"axes": axes, "missing": "drop"}, "missing is 'drop'"),
        (x, {"axes": axes, "dtype": "complex64"}, "real dtype"),
        (x, {"axes": axes, "dtype": "nonsense"}, "expected a NumPy dtype"),
        (x, {"axes": axes, "dtype": "uint8", "nodata": 300}, "does not hold"),
        (x, {"axes": axes, "padding": "valid", "dilation": 30}, "fits"),
        (x, {"axes": axes, "engine": "quick"}, "engine"),
        (x, {"axes": axes, "block": (1, 2)}, "block"),
    ):
        with pytest.raises(cl.ConvolithError, match=words):
            big.plan(source, kernel, tmp_path / "y.zarr", **options)
    with pytest.raises(cl.ConvolithError, match="sums to zero"):
        big.plan(x, np.array([[1.0, -1.0]]), axes=axes, missing="renormalise")
    for target in (tmp_path / "x.zarr", tmp_path / "x.zarr" / "inside"):
        with pytest.raises(cl.ConvolithError, match="holds the source"):
            big.plan(tmp_path / "x.zarr", kernel, target, axes=axes)
    with pytest.raises(cl.ConvolithError, match="no target"):
        big.plan(x, kernel, axes=axes).run()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.tif", "complex.zarr", "group.zarr", "text.txt", "x.zarr"]


def test_a_plan_and_a_report_are_tables(tmp_path):
    stored(tmp_path / "x.zarr", np.zeros((80, 90), np.float32), (16, 16))
    planned = plan_of(tmp_path)
    assert "30 of 16 x 16" in repr(planned)
    assert "<table" in planned._repr_html_()
    report = planned.run(progress=False)
    assert "30" in str(report)
    assert "<table" in report._repr_html_()


@pytest.mark.slow
def test_no_dask_is_imported_for_a_local_run(tmp_path):
    stored(tmp_path / "x.zarr", np.zeros((40, 50), np.float32), (16, 16))
    code = (
        f"import sys, numpy as np\nfrom convolith import big\n"
        f"big.plan({str(tmp_path / 'x.zarr')!r}, np.ones((3, 3)), {str(tmp_path / 'y.zarr')!r}).run(progress=False)\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('dask', 'distributed')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip() == "[]"


def test_orders_cover_every_block_once():
    geometry = geometry_of((50, 60), (3, 3), (0, 1))
    assert geometry.output_shape == (50, 60)
    layout = big.plan(Counted(np.zeros((50, 60)), (10, 10)), np.ones((3, 3)), block=(7, 9)).layout
    assert sorted(layout.order()) == sorted(product(range(8), range(7)))

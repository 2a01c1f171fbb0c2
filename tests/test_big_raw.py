"""Pixels in files, read and written where they are: TIFF files without compression, and the chunks of Zarr arrays."""

import errno
import pickle
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

import convolith as cl
from convolith import big
from convolith.big.layout import WAITING
from convolith.big.stores.chunk_files import ChunkFiles, chunk_files
from convolith.big.stores.raw_tiff import RawTiff
from convolith.big.stores.sources import open_source
from convolith.big.stores.tiff_target import RawTiffTarget, TiffTarget
from convolith.big.walk import walk

zarr, tifffile = pytest.importorskip("zarr"), pytest.importorskip("tifffile")
RNG = np.random.default_rng(0)
KERNEL = np.array([[1.0, 2, 1], [2, 5, 3], [0, 2, 1]])


def whole_numbers(shape, dtype="float32", most=100):
    """Return pixels whose sums are exact in any order."""
    return RNG.integers(0, most, shape).astype(dtype)


def expected_of(x, axes=(0, 1)):
    return cl.filter_image(x, KERNEL.astype(np.float32), axes=axes)


# TIFF files: parts of them.


@pytest.mark.parametrize("stored", [{}, {"tile": (16, 32)}, {"rowsperstrip": 7}, {"rowsperstrip": 1}])
@pytest.mark.parametrize("dtype", ["uint8", "<u2", ">u2", "<f4", ">f8", "int32"])
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((41, 53), {}),
        ((1, 53), {}),
        ((3, 41, 53), {}),
        ((2, 3, 41, 53), {}),
        ((41, 53, 3), {"photometric": "rgb"}),
        ((3, 41, 53), {"photometric": "rgb", "planarconfig": "separate"}),
        ((2, 41, 53, 3), {"photometric": "rgb"}),
    ],
)
def test_any_part_of_a_file_is_read_alone(shape, options, dtype, stored, tmp_path):
    x = RNG.integers(0, 200, shape).astype(dtype)
    about = {"photometric": "minisblack", **options, **stored}
    tifffile.imwrite(tmp_path / "x.tif", x, byteorder=">" if dtype[0] == ">" else "<", **about)
    source = open_source(tmp_path / "x.tif")
    assert isinstance(source.array, RawTiff)
    assert source.dtype.isnative
    assert source.decoded_chunks is None
    for _ in range(5):
        ends = [sorted(RNG.integers(0, n + 1, 2)) for n in source.shape]
        part = tuple(slice(int(low), max(int(high), int(low) + 1)) for low, high in ends)
        part = tuple(slice(min(one.start, n - 1), one.stop) for one, n in zip(part, source.shape, strict=True))
        part = tuple(slice(one.start, min(one.stop, n)) for one, n in zip(part, source.shape, strict=True))
        np.testing.assert_array_equal(source.array[part], x.reshape(source.shape)[part])


def test_the_chunks_of_a_file_are_those_of_its_zarr_view(tmp_path):
    for stored in ({}, {"tile": (16, 32)}, {"rowsperstrip": 7}):
        tifffile.imwrite(tmp_path / "x.tif", whole_numbers((3, 41, 53)), photometric="minisblack", **stored)
        view = zarr.open(tifffile.imread(tmp_path / "x.tif", aszarr=True, level=0), mode="r")
        assert open_source(tmp_path / "x.tif").chunks == view.chunks


def test_files_of_other_kinds_are_decoded(tmp_path):
    x = whole_numbers((64, 80), "uint16")
    kinds = {
        "deflate": lambda path: tifffile.imwrite(path, x, compression="zlib"),
        "differences": lambda path: tifffile.imwrite(path, x, compression="zlib", predictor=True),
        "one column": lambda path: tifffile.imwrite(path, x[:, :1], tile=(16, 16)),
    }
    for name, write in kinds.items():
        write(tmp_path / f"{name}.tif")
        source = open_source(tmp_path / f"{name}.tif")
        assert not isinstance(source.array, RawTiff) or name == "one column"
        np.testing.assert_array_equal(source.array[tuple(slice(0, n) for n in source.shape)], x[:, : source.shape[-1]])
    tifffile.imwrite(tmp_path / "cut.tif", x, tile=(16, 16))
    content = (tmp_path / "cut.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(content[:-3000])
    assert not isinstance(open_source(tmp_path / "cut.tif").array, RawTiff)


@pytest.mark.filterwarnings("ignore:.*in which 0 is white")
@pytest.mark.parametrize("orientation", [3, 6])
def test_pictures_that_lie_on_their_side_are_read_at_their_places_too(orientation, tmp_path):
    x = whole_numbers((40, 50), "uint8")
    tag = [(0x0112, 3, 1, orientation, True)]
    tifffile.imwrite(tmp_path / "x.tif", x, tile=(16, 32), photometric="miniswhite", metadata=None, extratags=tag)
    source = open_source(tmp_path / "x.tif")
    assert isinstance(source.array.array, RawTiff)
    assert source.decoded_chunks is None
    assert source.chunks == ((16, 32) if orientation == 3 else (32, 16))
    big.plan(tmp_path / "x.tif", KERNEL, tmp_path / "y.tif", block=(16, 16)).run(progress=False)
    upright = np.rot90(x, 2) if orientation == 3 else np.rot90(x, -1)
    with tifffile.TiffFile(tmp_path / "y.tif") as file:
        np.testing.assert_array_equal(file.asarray(), expected_of(upright.astype(np.float32)))
        assert (file.pages[0].compression, file.pages[0].photometric.name) == (1, "MINISWHITE")


@pytest.mark.parametrize("kind", ["x", "y"])
def test_a_fit_reads_files_at_their_places(kind, tmp_path):
    x = whole_numbers((64, 72))
    y = expected_of(x)
    for name, pixels in (("x", x), ("y", y)):
        compression = "zlib" if name == kind else None
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, tile=(16, 32), compression=compression)
    found = big.fit(tmp_path / "x.tif", tmp_path / "y.tif", kernel_size=3, progress=False)
    np.testing.assert_allclose(np.squeeze(found.kernel), KERNEL, atol=1e-4)


# TIFF files: results.


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((70, 90), {"block": (32, 48)}),
        ((50, 70), {"block": (20, 25)}),  # which are no multiples of 16
        ((40, 50), {"block": (40, 7)}),
        ((7, 9), {}),
        ((40, 1), {}),
        ((3, 30, 40), {"axes": (1, 2), "block": (1, 32, 32)}),
        ((2, 2, 20, 30), {"axes": (2, 3), "block": (1, 2, 16, 32)}),
        ((40, 50, 3), {"axes": (0, 1), "block": (32, 32, 1)}),
        ((40, 50, 1), {"axes": (0, 1), "block": (32, 32, 1)}),
    ],
)
def test_blocks_are_written_at_their_places(shape, options, tmp_path):
    x = whole_numbers(shape)
    planned = big.plan(x, KERNEL, tmp_path / "y.tif", compressed=False, **options)
    assert isinstance(planned.target, RawTiffTarget)
    planned.run(progress=False)
    expected = expected_of(x, options.get("axes", (0, 1)))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "y.tif", squeeze=False).reshape(shape), expected)
    np.testing.assert_array_equal(np.reshape(planned.target.result()[...], shape), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["y.tif"]
    big.plan(x, KERNEL, tmp_path / "z.tif", **options).run(progress=False)
    with tifffile.TiffFile(tmp_path / "y.tif") as file, tifffile.TiffFile(tmp_path / "z.tif") as other:
        assert (file.pages[0].compression, other.pages[0].compression.name) == (1, "ADOBE_DEFLATE")
        assert (file.series[0].axes, file.pages[0].tile) == (other.series[0].axes, other.pages[0].tile)


@pytest.mark.parametrize("axes", ["CYX", "YXS", "SYX", "ZCYX"])
def test_a_result_is_compressed_as_its_source(axes, tmp_path):
    shape = {"CYX": (5, 40, 50), "YXS": (40, 50, 3), "SYX": (3, 40, 50), "ZCYX": (2, 3, 40, 50)}[axes]
    x = whole_numbers(shape, "uint8", 256)
    about = {"photometric": "rgb"} if "S" in axes else {"photometric": "minisblack"}
    about |= {"planarconfig": "separate"} if axes == "SYX" else {}
    for compression in (None, "zlib"):
        tifffile.imwrite(
            tmp_path / "x.ome.tif" if axes == "ZCYX" else tmp_path / "x.tif",
            x,
            tile=(16, 16),
            compression=compression,
            metadata={"axes": axes},
            **about,
        )
        source = next(tmp_path.glob("x*"))
        big.plan(source, KERNEL / 8, tmp_path / "y.tif", dtype="same").run(progress=False)
        space = tuple(axes.index(name) for name in "YX")
        expected = np.rint(cl.filter_image(x.astype(np.float32), KERNEL.astype(np.float32) / 8, axes=space))
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "y.tif"), expected.clip(0, 255))
        with tifffile.TiffFile(tmp_path / "y.tif") as file:
            assert (file.pages[0].compression == 1) == (compression is None)
            assert file.series[0].axes == axes


@pytest.mark.parametrize("target", ["y.zarr", "y.tif"])
@pytest.mark.parametrize("compressed", [True, False])
def test_compression_can_be_asked_for(compressed, target, tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", whole_numbers((40, 50)), compression=None if compressed else "zlib")
    big.plan(tmp_path / "x.tif", KERNEL, tmp_path / target, compressed=compressed).run(progress=False)
    if target == "y.zarr":
        assert bool(zarr.open_array(tmp_path / target).compressors) == compressed
    else:
        with tifffile.TiffFile(tmp_path / target) as file:
            assert (file.pages[0].compression != 1) == compressed


@pytest.mark.slow
def test_worker_processes_write_into_one_file(tmp_path):
    x = whole_numbers((90, 100))
    tifffile.imwrite(tmp_path / "x.tif", x, tile=(16, 16))
    planned = big.plan(tmp_path / "x.tif", KERNEL, tmp_path / "y.tif", block=(20, 32))
    with ProcessPoolExecutor(2, get_context("spawn")) as executor:
        planned.run(executor, progress=False)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "y.tif"), expected_of(x))


# TIFF files: nothing is lost.


@pytest.fixture
def folder(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", whole_numbers((80, 90)), tile=(32, 32))
    tifffile.imwrite(tmp_path / "y.tif", np.zeros((2, 2), np.uint8))
    return tmp_path


def plan_of(folder, **options):
    return big.plan(folder / "x.tif", KERNEL, folder / "y.tif", block=(32, 32), **options)


def stopped_after(count, problem, monkeypatch):
    """Let the disk fail after some blocks."""
    write, done = RawTiff.write, []

    def failing(self, place, pixels):
        done.append(1)
        if len(done) > count:
            raise problem
        write(self, place, pixels)

    monkeypatch.setattr(RawTiff, "write", failing)


def test_a_run_goes_on_after_a_full_disk(folder, monkeypatch):
    before = (folder / "y.tif").read_bytes()
    stopped_after(4, OSError(errno.ENOSPC, "No space left on device"), monkeypatch)
    with pytest.raises(cl.ConvolithError, match=r"pixels \[.*No space left.*make room"):
        plan_of(folder).run(progress=False, in_flight=1)
    monkeypatch.undo()
    assert (folder / "y.tif").read_bytes() == before
    planned = plan_of(folder)
    assert planned.run(progress=False).resumed == 4
    np.testing.assert_array_equal(tifffile.imread(folder / "y.tif"), expected_of(tifffile.imread(folder / "x.tif")))
    assert sorted(path.name for path in folder.iterdir()) == ["x.tif", "y.tif"]


def test_a_block_that_was_damaged_is_computed_again(folder, monkeypatch):
    stopped_after(4, KeyboardInterrupt(), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        plan_of(folder).run(progress=False, in_flight=1)
    monkeypatch.undo()
    planned = plan_of(folder)
    planned.target.reopen()
    array = planned.target.array
    array.write(np.s_[3:4, 5:6], array[np.s_[3:4, 5:6]] + 1)
    assert planned.run(progress=False).resumed == 3
    np.testing.assert_array_equal(tifffile.imread(folder / "y.tif"), expected_of(tifffile.imread(folder / "x.tif")))


def test_another_unfinished_file_is_refused(folder, monkeypatch):
    stopped_after(4, KeyboardInterrupt(), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        plan_of(folder).run(progress=False)
    monkeypatch.undo()
    with pytest.raises(cl.ConvolithError, match="compressed differ"):
        plan_of(folder, compressed=True).run(progress=False)
    tifffile.imwrite(folder / "y.tif.partial", np.zeros((80, 90), np.float64))
    with pytest.raises(cl.ConvolithError, match="cannot be opened.*--anew"):
        plan_of(folder).run(progress=False)
    (folder / "y.tif.partial").unlink()
    with pytest.raises(cl.ConvolithError, match="cannot be opened.*--anew"):
        plan_of(folder).run(progress=False)
    assert plan_of(folder).run(progress=False, resume=False).resumed == 0


@pytest.mark.parametrize("compressed", [True, False])
def test_an_unfinished_result_of_the_other_kind_is_replaced(compressed, folder, monkeypatch):
    ended = RawTiffTarget if compressed else TiffTarget
    monkeypatch.setattr(ended, "finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        plan_of(folder, compressed=not compressed).run(progress=False)
    monkeypatch.undo()
    assert (folder / "y.tif.partial").is_file() == compressed
    assert plan_of(folder, compressed=compressed).run(progress=False, resume=False).resumed == 0
    np.testing.assert_array_equal(tifffile.imread(folder / "y.tif"), expected_of(tifffile.imread(folder / "x.tif")))
    assert sorted(path.name for path in folder.iterdir()) == ["x.tif", "y.tif"]


def test_a_process_that_ends_before_the_file_has_its_name_leaves_a_call_that_ends(folder, monkeypatch):
    before, replace = (folder / "y.tif").read_bytes(), Path.replace

    def ending(self, target):
        if self.name.endswith(".partial"):
            raise SystemExit
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", ending)
    with pytest.raises(SystemExit):
        plan_of(folder).run(progress=False)
    monkeypatch.undo()
    assert (folder / "y.tif").read_bytes() == before
    plan_of(folder).run(progress=False)
    np.testing.assert_array_equal(tifffile.imread(folder / "y.tif"), expected_of(tifffile.imread(folder / "x.tif")))
    assert sorted(path.name for path in folder.iterdir()) == ["x.tif", "y.tif"]


# Chunks of Zarr arrays.


KINDS = {
    "zstd": {},
    "raw": {"compressors": None},
    "gzip": {"compressors": zarr.codecs.GzipCodec(level=1)},
    "format 2": {"zarr_format": 2},
    "format 2, raw": {"zarr_format": 2, "compressors": None},
    "blosc": {"compressors": zarr.codecs.BloscCodec()},
    "shards": {"shards": (32, 32)},
    "checksums": {"compressors": [zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]},
}


@pytest.mark.parametrize("dtype", ["uint8", "<f4", ">i2"])
@pytest.mark.parametrize("kind", KINDS)
def test_chunks_are_read_and_written_as_zarr_does(kind, dtype, tmp_path):
    x = whole_numbers((50, 70), dtype)
    about = {"shape": x.shape, "chunks": (16, 16), "dtype": dtype, "fill_value": 3, **KINDS[kind]}
    ours, theirs = (
        zarr.create_array(str(tmp_path / name), config={"write_empty_chunks": True}, **about) for name in "ab"
    )
    theirs[...] = x
    files, others = chunk_files(ours), chunk_files(theirs)
    assert (files is None) == (kind in ("blosc", "shards", "checksums"))
    if files is None:
        return
    files = pickle.loads(pickle.dumps(files))  # noqa: S301 - our own
    for numbers in np.ndindex(4, 5):
        place = tuple(slice(16 * i, min(16 * i + 16, n)) for i, n in zip(numbers, x.shape, strict=True))
        np.testing.assert_array_equal(files.read(numbers), np.full_like(x[place], 3))  # not written yet
        files.write(numbers, x[place])
        mine, his = (written.path(numbers).read_bytes() for written in (files, others))
        if mine.startswith(b"\x1f\x8b"):  # gzip writes the time, in seconds
            mine, his = mine[:4] + mine[8:], his[:4] + his[8:]
        assert mine == his
        np.testing.assert_array_equal(others.read(numbers), x[place])


def test_a_chunk_that_is_damaged_is_named(tmp_path):
    made = zarr.create_array(str(tmp_path / "x.zarr"), shape=(40, 40), chunks=(20, 20), dtype="f4", compressors=None)
    made[...] = 1
    (tmp_path / "x.zarr" / "c" / "1" / "0").write_bytes(b"short")
    with pytest.raises(cl.ConvolithError, match=r"cannot be read for block \(1, 0\)"):
        big.plan(tmp_path / "x.zarr", np.ones((1, 1)), tmp_path / "y.zarr", block=(20, 20)).run(progress=False)


def test_a_walk_keeps_two_rows_of_chunks(tmp_path):
    zarr.create_array(str(tmp_path / "x.zarr"), shape=(1 << 14, 1 << 14), chunks=(1024, 1024), dtype="f4")
    planned = big.plan(tmp_path / "x.zarr", np.ones((31, 31)) / 961)
    ahead = planned.layout.in_flight + WAITING + 2
    assert planned.layout.cache_bytes == (2 * 16 + ahead) * 1024 * 1024 * 4
    assert isinstance(planned.source.files, ChunkFiles)


class Held(Executor):
    """An executor whose first job ends last."""

    def __init__(self):
        self.started, self.first = [], Future()

    def submit(self, function, job):
        self.started.append(job)
        if job == 0:
            return self.first
        future = Future()
        future.set_result(function(job))
        return future


class AtOnce(Executor):
    """An executor whose jobs have ended when they are submitted."""

    def submit(self, function, job):
        future = Future()
        try:
            future.set_result(function(job))
        except ZeroDivisionError as problem:
            future.set_exception(problem)
        return future


def test_jobs_that_end_together_with_one_that_fails_come_first():
    *before, last = [job for job, _ in walk(range(-3, 9), lambda n: 1 / n, AtOnce(), 12)]
    assert last == 0
    assert len(before) == 11


def test_jobs_in_step_wait_for_the_one_that_is_far_behind():
    executor = Held()
    coming = walk(range(20), lambda n: n, executor, 4, in_step=True)
    assert sorted(next(coming)[0] for _ in range(3)) == [1, 2, 3]
    assert executor.started == [0, 1, 2, 3]
    executor.first.set_result(0)
    assert sorted(job for job, _ in coming) == [0, *range(4, 20)]

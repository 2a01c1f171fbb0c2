"""Tiled TIFF files as results: the numbers of the whole, in the order of the file, and nothing is lost on the way."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

import convolith as cl
from convolith import big
from convolith.big.blocks import Filter
from convolith.big.stores.chunk_files import ChunkFiles
from convolith.big.stores.targets import ZarrTarget
from convolith.big.stores.tiff_form import CLASSIC_BYTES, TiffForm, letters_of
from convolith.big.stores.tiff_target import TiffTarget
from tests.test_cli import refused, run

zarr, tifffile = pytest.importorskip("zarr"), pytest.importorskip("tifffile")
RNG = np.random.default_rng(0)
KERNEL = np.array([[1.0, 2, 1], [2, 5, 3], [0, 2, 1]])


def stored(path, array, chunks, **options):
    made = zarr.create_array(str(path), shape=array.shape, chunks=chunks, dtype=array.dtype, **options)
    made[...] = array
    return made


def whole_numbers(shape, dtype="float32", most=100):
    """Return pixels whose sums are exact in any order."""
    return RNG.integers(0, most, shape).astype(dtype)


def left(folder):
    return sorted(path.name for path in folder.iterdir())


# The numbers of the whole.


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((70, 90), {"block": (32, 48)}),
        ((50, 70), {"block": (20, 25)}),  # which are no multiples of 16
        ((40, 50), {"block": (40, 7)}),
        ((7, 9), {}),  # smaller than a tile
        ((1, 40), {"padding": 1}),
        ((71, 93), {"stride": 2, "padding": 1, "block": (32, 32)}),
        ((71, 93), {"padding": "valid", "block": (48, 48), "dilation": 2}),
        ((3, 30, 40), {"axes": (1, 2), "block": (1, 32, 32)}),
        ((2, 2, 20, 30), {"axes": (2, 3), "block": (1, 2, 16, 32)}),
        ((40, 50, 3), {"axes": (0, 1), "block": (32, 32, 1)}),
        ((40, 50, 4), {"axes": (0, 1), "padding_mode": "reflect"}),
    ],
)
def test_a_file_has_the_numbers_of_the_whole(shape, options, tmp_path):
    x = whole_numbers(shape)
    planned = big.plan(x, KERNEL, tmp_path / "y.tif", **options)
    planned.run(progress=False)
    options.pop("block", None)
    axes = options.pop("axes", (0, 1))
    expected = cl.filter_image(x, KERNEL.astype(np.float32), axes=axes, **options)
    found = tifffile.imread(tmp_path / "y.tif", squeeze=False)
    np.testing.assert_array_equal(found.reshape(expected.shape), expected)
    np.testing.assert_array_equal(np.reshape(planned.target.result()[...], expected.shape), expected)
    with tifffile.TiffFile(tmp_path / "y.tif") as file:
        page = file.pages[0]
        assert page.is_tiled
        assert all(side % 16 == 0 for side in page.tile)
        assert page.compression.name == "ADOBE_DEFLATE"
    assert left(tmp_path) == ["y.tif"]


@pytest.mark.parametrize("axes", ["CYX", "YXS", "SYX", "ZCYX"])
def test_a_tiff_gives_a_tiff_of_the_same_form(axes, tmp_path):
    shape = {"CYX": (5, 40, 50), "YXS": (40, 50, 3), "SYX": (3, 40, 50), "ZCYX": (2, 3, 40, 50)}[axes]
    x = whole_numbers(shape, "uint16", 65536)
    photometric = {"photometric": "rgb"} if "S" in axes else {"photometric": "minisblack"}
    more = {"planarconfig": "separate"} if axes == "SYX" else {}
    tifffile.imwrite(tmp_path / "x.tif", x, tile=(16, 16), metadata={"axes": axes}, **photometric, **more)
    report = big.plan(tmp_path / "x.tif", KERNEL / 8, tmp_path / "y.tiff", dtype="same").run(progress=False)
    space = tuple(axes.index(name) for name in "YX")
    expected = np.rint(cl.filter_image(x.astype(np.float32), KERNEL.astype(np.float32) / 8, axes=space))
    found = tifffile.imread(tmp_path / "y.tiff")
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, expected.clip(0, 65535))
    assert report.clipped == int((expected > 65535).sum()) > 0
    with tifffile.TiffFile(tmp_path / "y.tiff") as file, tifffile.TiffFile(tmp_path / "x.tif") as source:
        assert file.series[0].axes == axes
        assert file.pages[0].photometric == source.pages[0].photometric
        assert file.pages[0].planarconfig == source.pages[0].planarconfig
        assert len(file.pages) == len(source.pages)


@pytest.mark.parametrize("out_channels", [1, 2, 5])
def test_a_kernel_mixes_the_samples_of_a_picture(out_channels, tmp_path):
    x = whole_numbers((40, 50, 3), "uint8")
    kernel = RNG.integers(-3, 4, (out_channels, 3, 3, 3)).astype(np.float32)
    tifffile.imwrite(tmp_path / "x.tif", x, photometric="rgb")
    big.plan(tmp_path / "x.tif", kernel, tmp_path / "y.tif", padding=1, block=(16, 16, 5)).run(progress=False)
    expected = np.moveaxis(cl.correlate(np.moveaxis(x, -1, 0).astype(np.float32), kernel, padding=1), 0, -1)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "y.tif", squeeze=False).reshape(expected.shape), expected)


def test_a_file_of_many_bytes_is_a_big_one(tmp_path, monkeypatch):
    x = whole_numbers((40, 50))
    assert CLASSIC_BYTES < 1 << 32
    for most, expected in ((x.nbytes, False), (x.nbytes - 1, True)):
        monkeypatch.setattr("convolith.big.stores.tiff_form.CLASSIC_BYTES", most)
        big.plan(x, KERNEL, tmp_path / "y.tif").run(progress=False)
        with tifffile.TiffFile(tmp_path / "y.tif") as file:
            assert file.is_bigtiff == expected


def test_tiles_are_near_the_blocks_and_read_few_at_a_time(tmp_path):
    def target(shape, block, dtype="f4", axes="YX"):
        return TiffTarget(tmp_path / "y.tif", TiffForm(shape, block, np.dtype(dtype), axes, None))

    assert target((5000, 5000), (512, 256)).form.tile == (512, 256)
    assert target((5000, 5000), (500, 1000)).form.tile == (496, 992)
    assert target((5000, 5000), (4096, 3000)).form.tile == (1024, 1024)
    assert target((5000, 5000), (1, 5000)).form.tile == (16, 1024)
    assert target((7, 9), (7, 9)).form.tile == (16, 16)
    many = target((5000, 5000, 100), (1024, 1024, 1), axes="YXS")
    assert np.prod(many.form.tile) * 400 <= 16 << 20
    wide = target((1024, 1 << 20), (1024, 1024))
    assert wide.finish_bytes < 20 * 1024 * 1024 * 4  # not with the width of the picture
    assert ZarrTarget(tmp_path / "y.zarr", (4, 4), (4, 4), np.dtype("f4")).finish_bytes == 0


def test_a_plan_counts_the_memory_of_the_file(tmp_path):
    x = np.zeros((40, 50, 500), np.uint8)
    planned = big.plan(x, KERNEL, tmp_path / "y.tif", axes=(0, 1), block=(16, 16, 1))
    assert planned.layout.predicted_bytes > planned.target.finish_bytes
    assert planned.layout.job_bytes >= planned.target.finish_bytes > 1 << 20
    with pytest.raises(cl.ConvolithError, match="pass at least"):
        big.plan(x, KERNEL, tmp_path / "y.tif", axes=(0, 1), block=(16, 16, 1), memory="41MB")


# Axes.


@pytest.mark.parametrize(
    ("names", "slid", "shape", "letters"),
    [
        (None, (0, 1), (4, 5), "YX"),
        (None, (0, 1), (4, 5, 3), "YXS"),
        (None, (1, 2), (3, 4, 5), "QYX"),
        (None, (2,), (3, 4, 5), "QYX"),
        (("t", "c", "z", "y", "x"), (3, 4), (1, 1, 1, 4, 5), "TCZYX"),
        (("time", "band", "y", "x"), (2, 3), (1, 1, 4, 5), "TQYX"),
        (("s", "y", "x"), (1, 2), (3, 4, 5), "SYX"),
        (("y", "x", "c"), (0, 1), (4, 5, 3), "YXS"),
        (("q", "r", "y", "x"), (2, 3), (2, 2, 4, 5), "QQYX"),
    ],
)
def test_letters_of_axes(names, slid, shape, letters):
    assert letters_of(names, slid, shape) == letters


@pytest.mark.parametrize(
    ("names", "shape"),
    [(None, (5,)), (("x", "y"), (5, 4)), (("y", "x", "c", "t"), (4, 5, 1, 1)), (("y", "c", "x"), (4, 1, 5))],
)
def test_axes_that_a_tiff_does_not_have_are_refused(names, shape):
    with pytest.raises(cl.ConvolithError, match="rows and columns"):
        letters_of(names, (0,), shape)


def test_other_endings_and_places_are_refused(tmp_path):
    x = np.zeros((20, 30), np.float32)
    with pytest.raises(cl.ConvolithError, match=r"ends in .zarr, .tif, .tiff"):
        big.plan(x, KERNEL, tmp_path / "y.png")
    (tmp_path / "y.tif").mkdir()
    with pytest.raises(cl.ConvolithError, match="is a folder"):
        big.plan(x, KERNEL, tmp_path / "y.tif")
    tifffile.imwrite(tmp_path / "x.tif", x)
    with pytest.raises(cl.ConvolithError, match="holds the source"):
        big.plan(tmp_path / "x.tif", KERNEL, tmp_path / "x.tif")


# Nothing is lost.


def plan_of(folder, **options):
    return big.plan(folder / "x.zarr", KERNEL, folder / "y.tif", block=(32, 32), **options)


@pytest.fixture
def folder(tmp_path):
    stored(tmp_path / "x.zarr", whole_numbers((80, 90)), (32, 32))
    tifffile.imwrite(tmp_path / "y.tif", np.zeros((2, 2), np.uint8))
    return tmp_path


def expected_of(folder):
    return cl.filter_image(zarr.open(folder / "x.zarr")[...], KERNEL.astype(np.float32))


@pytest.mark.parametrize("problem", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_file_that_cannot_be_completed_is_written_again_from_the_blocks(problem, folder, monkeypatch):
    before, tiles, computed = (folder / "y.tif").read_bytes(), TiffTarget.tiles, []

    def failing(self):
        for number, tile in enumerate(tiles(self)):
            if number == 5:
                raise problem
            yield tile

    monkeypatch.setattr(TiffTarget, "tiles", failing)
    expected = cl.ConvolithError if isinstance(problem, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left.*same call" if isinstance(problem, OSError) else None):
        plan_of(folder).run(progress=False)
    assert (folder / "y.tif").read_bytes() == before
    assert left(folder) == ["x.zarr", "y.tif", "y.tif.partial", "y.tif.partial.journal"]
    monkeypatch.undo()
    compute = Filter.compute
    monkeypatch.setattr(Filter, "compute", lambda *a: (computed.append(1), compute(*a))[1])
    report = plan_of(folder).run(progress=False)
    assert report.resumed == report.blocks == 9
    assert not computed
    np.testing.assert_array_equal(tifffile.imread(folder / "y.tif"), expected_of(folder))
    assert left(folder) == ["x.zarr", "y.tif"]


def test_a_full_disk_while_a_block_is_written_is_named(folder, monkeypatch):
    before, write, count = (folder / "y.tif").read_bytes(), ChunkFiles.write, []

    def failing(self, numbers, pixels):
        count.append(1)
        if len(count) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, numbers, pixels)

    monkeypatch.setattr(ChunkFiles, "write", failing)
    with pytest.raises(cl.ConvolithError, match=r"pixels \[.*No space left.*make room"):
        plan_of(folder).run(progress=False)
    monkeypatch.undo()
    assert (folder / "y.tif").read_bytes() == before
    report = plan_of(folder).run(progress=False)
    assert 0 < report.resumed < report.blocks
    np.testing.assert_array_equal(tifffile.imread(folder / "y.tif"), expected_of(folder))


def test_a_crash_after_the_file_is_in_place_leaves_a_call_that_ends(folder, monkeypatch):
    monkeypatch.setattr("convolith.big.stores.tiff_target.remove", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        plan_of(folder).run(progress=False)
    monkeypatch.undo()
    np.testing.assert_array_equal(tifffile.imread(folder / "y.tif"), expected_of(folder))
    (folder / "y.tif.part").write_bytes(b"of a process that was killed")
    plan_of(folder).run(progress=False)
    assert left(folder) == ["x.zarr", "y.tif"]


@pytest.mark.skipif(os.name == "nt", reason="permissions of another kind")
def test_a_file_that_is_replaced_keeps_its_permissions(folder):
    (folder / "y.tif").chmod(0o640)
    plan_of(folder).run(progress=False)
    assert (folder / "y.tif").stat().st_mode & 0o777 == 0o640


# An earlier Zarr array between the two renames.


@pytest.fixture
def zarrs(tmp_path):
    stored(tmp_path / "x.zarr", whole_numbers((80, 90)), (32, 32))
    (tmp_path / "y.zarr").mkdir()
    (tmp_path / "y.zarr" / "old").write_text("old")
    return tmp_path


def zarr_plan(folder, **options):
    return big.plan(folder / "x.zarr", KERNEL, folder / "y.zarr", block=(32, 32), **options)


def ends_at(monkeypatch, name, suffix):
    """Let the process end when something with a suffix is renamed or removed."""
    original = getattr(Path, name)

    def ending(self, *arguments):
        if self.name.endswith(suffix):
            raise SystemExit
        return original(self, *arguments)

    monkeypatch.setattr(f"pathlib.Path.{name}", ending)


@pytest.mark.parametrize("resume", [True, False])
def test_an_earlier_result_is_put_back_after_a_crash_between_two_renames(resume, zarrs, monkeypatch):
    ends_at(monkeypatch, "rename", ".partial")
    with pytest.raises(SystemExit):
        zarr_plan(zarrs).run(progress=False)
    monkeypatch.undo()
    assert left(zarrs) == ["x.zarr", "y.zarr.before", "y.zarr.partial", "y.zarr.partial.journal"]

    def failing(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(Filter, "compute", failing)
    monkeypatch.setattr(ZarrTarget, "finish", failing)
    with pytest.raises(ZeroDivisionError):
        zarr_plan(zarrs).run(progress=False, resume=resume)
    monkeypatch.undo()
    assert (zarrs / "y.zarr" / "old").read_text() == "old"
    assert zarr_plan(zarrs).run(progress=False).resumed == (9 if resume else 0)
    np.testing.assert_array_equal(zarr.open(zarrs / "y.zarr")[...], expected_of(zarrs))
    assert left(zarrs) == ["x.zarr", "y.zarr"]


@pytest.mark.parametrize("resume", [True, False])
def test_an_earlier_result_is_removed_after_a_crash_behind_the_second_rename(resume, zarrs, monkeypatch):
    monkeypatch.setattr("convolith.big.stores.publication.remove", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        zarr_plan(zarrs).run(progress=False)
    monkeypatch.undo()
    assert left(zarrs) == ["x.zarr", "y.zarr", "y.zarr.before", "y.zarr.partial.journal"]
    assert zarr_plan(zarrs).run(progress=False, resume=resume).resumed == (9 if resume else 0)
    np.testing.assert_array_equal(zarr.open(zarrs / "y.zarr")[...], expected_of(zarrs))
    assert left(zarrs) == ["x.zarr", "y.zarr"]


def test_a_journal_without_blocks_does_not_take_another_result_for_its_own(zarrs, monkeypatch):
    monkeypatch.setattr(ZarrTarget, "finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        zarr_plan(zarrs).run(progress=False)
    monkeypatch.undo()
    (zarrs / "y.zarr.partial").rename(zarrs / "elsewhere")
    with pytest.raises(cl.ConvolithError, match="cannot be opened"):
        zarr_plan(zarrs).run(progress=False)
    assert (zarrs / "y.zarr" / "old").read_text() == "old"


def test_a_folder_of_another_origin_is_not_touched(zarrs):
    (zarrs / "y.zarr.before").mkdir()
    with pytest.raises(cl.ConvolithError, match="rename or remove it"):
        zarr_plan(zarrs).run(progress=False)
    assert left(zarrs) == ["x.zarr", "y.zarr", "y.zarr.before"]


# Shards.


def test_blocks_of_a_source_in_shards_are_shards(tmp_path):
    x = whole_numbers((96, 80))
    stored(tmp_path / "x.zarr", x, (8, 16), shards=(48, 32))
    for block, sharded in (((32, 32), True), ((20, 32), False)):
        planned = big.plan(tmp_path / "x.zarr", KERNEL, tmp_path / "y.zarr", block=block)
        planned.run(progress=False)
        found = zarr.open(tmp_path / "y.zarr")
        assert (found.shards, found.chunks) == ((block, (8, 16)) if sharded else (None, block))
        np.testing.assert_array_equal(found[...], cl.filter_image(x, KERNEL.astype(np.float32)))


def test_a_run_into_shards_goes_on(tmp_path, monkeypatch):
    x = whole_numbers((96, 80))
    stored(tmp_path / "x.zarr", x, (8, 16), shards=(48, 32))
    planned = big.plan(tmp_path / "x.zarr", KERNEL, tmp_path / "y.zarr", block=(32, 32))
    monkeypatch.setattr(ZarrTarget, "finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        planned.run(progress=False)
    monkeypatch.undo()
    (tmp_path / "y.zarr.partial" / "c" / "1" / "1").write_bytes(b"cut off")
    assert planned.run(progress=False).resumed == planned.layout.blocks - 1
    np.testing.assert_array_equal(zarr.open(tmp_path / "y.zarr")[...], cl.filter_image(x, KERNEL.astype(np.float32)))


# Command line.


def test_a_store_is_correlated_to_a_file(tmp_path):
    x = whole_numbers((60, 70))
    stored(tmp_path / "x.zarr", x, (20, 30))
    run("correlate", str(tmp_path / "x.zarr"), "[[1,2,1]]", "-o", str(tmp_path / "y.tif"))
    expected = cl.filter_image(x, np.array([[1, 2, 1]], np.float32), padding_mode="symmetric")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "y.tif"), expected)


@pytest.mark.parametrize("kind", [".tif", ".npy", ".fits"])
def test_with_memory_a_file_is_correlated_block_by_block(kind, tmp_path):
    x = whole_numbers((60, 70))
    name = str(tmp_path / f"x{kind}")
    if kind == ".tif":
        tifffile.imwrite(name, x, tile=(16, 16))
    elif kind == ".npy":
        np.save(name, x)
    else:
        pytest.importorskip("astropy.io.fits").writeto(name, x)
    for target in ("y.tif", "y.zarr") if kind == ".npy" else ("y.tif",):
        arguments = (name, "[[1,2,1]]", "-o", str(tmp_path / target), "--memory", "200MB", "--json")
        assert json.loads(run("correlate", *arguments).stdout.splitlines()[-1])["blocks"] == 1
    expected = cl.filter_image(x, np.array([[1, 2, 1]], np.float32), padding_mode="symmetric")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "y.tif"), expected)
    if kind == ".npy":
        np.testing.assert_array_equal(zarr.open(tmp_path / "y.zarr")[...], expected)
    run("correlate", name, "[[1,2,1]]", "-o", str(tmp_path / "z.tif"))  # in memory
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "z.tif"), expected)
    assert "--memory was given" in refused("correlate", name, "[[1]]", "-o", str(tmp_path / "y.npy"), "--memory", "1GB")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("shape", "axes"), [((50, 37), "YX"), ((2, 50, 37), "ZYX"), ((50, 37, 3), "YXS")])
def test_pictures_are_read_upright_in_blocks_too(tmp_path, orientation, shape, axes):
    x = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    options = {"photometric": "rgb"} if "S" in axes else {"photometric": "minisblack"}
    tag = [(0x0112, 3, 1, orientation, True)]
    tifffile.imwrite(
        tmp_path / "x.tif", x, tile=(16, 32), metadata=None, extratags=tag, resolution=(300, 150), **options
    )
    turns = {1: lambda a: a, 2: np.fliplr, 3: lambda a: a[::-1, ::-1], 4: np.flipud, 5: lambda a: a.swapaxes(0, 1)}
    turns |= {6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: np.rot90}
    rows = axes.index("Y")
    upright = np.moveaxis(turns[orientation](np.moveaxis(x, (rows, rows + 1), (0, 1))), (0, 1), (rows, rows + 1))
    kernel = np.array([[0, 1, 2], [3, 4, 5], [1, 0, 0]], np.float32)
    expected = cl.filter_image(upright, kernel, axes=(rows, rows + 1), padding_mode="symmetric")
    plan = cl.big.plan(
        tmp_path / "x.tif", kernel, tmp_path / "y.tif", axes=(rows, rows + 1), padding_mode="symmetric", block=16
    )
    plan.run()
    with tifffile.TiffFile(tmp_path / "y.tif") as file:
        np.testing.assert_allclose(file.asarray(), expected, rtol=1e-5)
        turned = file.pages[0].tags["XResolution"].value[0] / file.pages[0].tags["XResolution"].value[1]
        assert turned == (150 if orientation > 4 else 300)


def test_a_place_on_the_earth_that_lies_on_its_side_is_refused(tmp_path):
    tags = [(0x0112, 3, 1, 6, True), (33550, 12, 3, (1.0, 1.0, 0.0), True)]
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((20, 30), np.uint8), tile=(16, 16), metadata=None, extratags=tags)
    with pytest.raises(cl.ConvolithError, match="a place on the earth and an Orientation tag that is not 1"):
        cl.big.plan(tmp_path / "x.tif", np.ones((3, 3)), tmp_path / "y.tif")

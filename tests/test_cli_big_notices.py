"""What `correlate` says of its input and of its results: the same in memory and block by block; selectors of arrays."""

import json

import numpy as np
import pytest

import convolith as cl
from convolith import big
from tests.test_cli import refused, run

zarr = pytest.importorskip("zarr")
tifffile = pytest.importorskip("tifffile")
RNG = np.random.default_rng(0)
BLUR = "[[0.25,0.25],[0.25,0.25]]"


def said(result):
    """Return the warnings of a command."""
    return [line for line in result.stderr.splitlines() if line.startswith("warning")]


def both_ways(folder, source, kernel, *options):
    """Return the warnings and the results of a correlation in memory and block by block."""
    inside = run("correlate", source, kernel, "-o", folder / "inside.npy", *options)
    blocks = run("correlate", source, kernel, "-o", folder / "blocks.zarr", "--memory", "300MB", "--anew", *options)
    return (
        (said(inside), np.load(folder / "inside.npy")),
        (said(blocks), zarr.open_array(str(folder / "blocks.zarr"))[...]),
    )


def as_tiff(array, **options):
    return lambda path: tifffile.imwrite(path, array, **options)


def two_sizes(path):
    with tifffile.TiffWriter(path) as file:
        file.write(np.ones((30, 40), np.uint8))
        file.write(np.ones((8, 9), np.uint8))


PALETTE = np.arange(3 * 256, dtype=np.uint16).reshape(3, 256) * 80
GREY = RNG.integers(0, 200, (30, 40)).astype(np.uint8)
INPUTS = {
    "zero is white": ("x.tif", as_tiff(GREY, photometric="miniswhite"), ()),
    "black and white": ("x.tif", as_tiff(GREY > 99, photometric="minisblack"), ()),
    "black and white, zero is white": ("x.tif", as_tiff(GREY > 99, photometric="miniswhite"), ()),
    "black and white, compressed": ("x.tif", as_tiff(GREY > 99, photometric="minisblack", compression="zlib"), ()),
    "a palette": ("x.tif", as_tiff(GREY, photometric="palette", colormap=PALETTE), ("--axes", "0,1")),
    "a palette in tiles": (
        "x.tif",
        as_tiff(GREY, photometric="palette", colormap=PALETTE, tile=(16, 16), compression="zlib"),
        ("--axes", "0,1"),
    ),
    "two sizes": ("x.tif", two_sizes, ()),
    "alpha": (
        "x.tif",
        as_tiff(RNG.integers(0, 9, (30, 40, 4)).astype(np.uint8), photometric="rgb", extrasamples=[2]),
        ("--axes", "0,1"),
    ),
    "sums beyond float32": ("x.npy", lambda path: np.save(path, np.full((30, 40), 3e38, np.float32)), ()),
    "sums of both signs": (
        "x.npy",
        lambda path: np.save(path, np.where(np.arange(40) % 2, 3e38, -3e38)[None].repeat(30, 0).astype(np.float32)),
        (),
    ),
    "sums beyond float16": ("x.npy", lambda path: np.save(path, np.full((30, 40), 6e4, np.float16)), ()),
    "infinities": ("x.npy", lambda path: np.save(path, np.where(GREY > 190, np.inf, 1.0)), ()),
    "clipped": ("x.npy", lambda path: np.save(path, GREY), ("--dtype", "int8")),
    "clipped, with holes": (
        "x.npy",
        lambda path: np.save(path, np.where(GREY > 190, np.nan, GREY.astype(np.float32))),
        ("--dtype", "int8"),
    ),
    "all missing": ("x.npy", lambda path: np.save(path, np.full((30, 40), np.nan)), ()),
    "nothing to say": ("x.npy", lambda path: np.save(path, GREY), ()),
}


@pytest.mark.parametrize("name", INPUTS)
def test_both_ways_say_the_same_and_give_the_same(name, tmp_path):
    file, write, options = INPUTS[name]
    write(tmp_path / file)
    kernel = BLUR if "beyond" not in name and "signs" not in name else "[[1,1],[1,1]]"
    (inside, expected), (blocks, found) = both_ways(tmp_path, tmp_path / file, kernel, *options)
    assert inside == blocks
    assert bool(inside) == (
        name not in ("nothing to say", "infinities") and not name.startswith(("black", "a palette"))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, equal_nan=True)


def test_weights_that_are_not_finite(tmp_path):
    np.save(tmp_path / "x.npy", GREY.astype(np.float32))
    np.save(tmp_path / "k.npy", np.array([[1.0, np.nan]]))
    (inside, _), (blocks, _) = both_ways(tmp_path, tmp_path / "x.npy", tmp_path / "k.npy")
    assert inside == blocks == ["warning: weights of KERNEL are NaN or infinite (1), and so are results"]
    np.save(tmp_path / "k.npy", np.array([[1.0, 1e300]]))
    command = ("correlate", tmp_path / "x.npy", tmp_path / "k.npy", "-o", tmp_path / "z.zarr")
    assert "KERNEL has weights beyond float32, the dtype of the computation; pass --dtype float64" in refused(*command)
    run(*command, "--dtype", "float64")


def test_overflow_is_counted(tmp_path):
    x = np.full((30, 40), 1e38, np.float32)
    x[10:12, 5] = 3e38
    report = big.plan(x, np.ones((2, 2)) * 0.7, tmp_path / "y.zarr", block=8).run(progress=False)
    expected = cl.filter_image(x, np.ones((2, 2)) * 0.7)
    assert report.overflowed == np.isinf(expected).sum() > 0
    assert f"{report.overflowed}" in str(report)
    np.save(tmp_path / "x.npy", x)
    result = run("correlate", tmp_path / "x.npy", "[[0.7,0.7],[0.7,0.7]]", "-o", tmp_path / "y.zarr", "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert events[-1]["overflowed"] > 0
    assert "results are not finite, since sums lie beyond float32" in events[-2]["message"]


@pytest.mark.parametrize("kind", ["separated", "cielab"])
def test_colours_that_are_no_light_are_refused_both_ways(kind, tmp_path):
    colours = {"separated": 4, "cielab": 3}[kind]
    tifffile.imwrite(tmp_path / "x.tif", np.ones((8, 9, colours), np.uint8), photometric=kind)
    for output, options in (("y.npy", ()), ("y.zarr", ("--memory", "300MB"))):
        assert "convert it to RGB first" in refused(
            "correlate", tmp_path / "x.tif", BLUR, "-o", tmp_path / output, "--axes", "0,1", *options
        )


def test_wrong_coordinates_of_a_fits_file(tmp_path):
    fits = pytest.importorskip("astropy.io.fits")
    image = fits.ImageHDU(GREY.astype(np.float32), name="SCI")
    image.header["CTYPE1"], image.header["CRPIX1"] = "RA---TAN", "here"
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(tmp_path / "x.fits")
    inside = run("correlate", tmp_path / "x.fits", BLUR, "-o", tmp_path / "y.fits")
    blocks = run("correlate", tmp_path / "x.fits", BLUR, "-o", tmp_path / "y.zarr", "--memory", "300MB")
    assert said(inside) == said(blocks) == [said(inside)[0]]
    assert "CRPIX1 is 'here', not a number" in said(inside)[0]


# Selectors.


@pytest.fixture
def several(tmp_path):
    """Files with several arrays, and the arrays."""
    fits = pytest.importorskip("astropy.io.fits")
    first, second = (RNG.normal(size=(30, 40)).astype(np.float32) for _ in range(2))
    primary = fits.PrimaryHDU()
    primary.header["OBSERVER"] = "Henrietta"
    units = [primary, fits.ImageHDU(first, name="SCI"), fits.ImageHDU(second, name="ERR"),
             fits.ImageHDU(GREY.astype(np.int16), name="DQ")]  # fmt: skip
    fits.HDUList(units).writeto(tmp_path / "x.fits")
    np.savez(tmp_path / "x.npz", first=first, second=np.asfortranarray(second))
    np.savez(tmp_path / "one.npz", only=second)
    return tmp_path, first, second


@pytest.mark.parametrize(
    "name", ["x.fits", "x.fits:SCI", "x.fits:err", "x.fits:2", "x.fits:3", "x.npz:first", "x.npz:second", "one.npz"]
)
def test_an_array_of_a_file_is_selected_both_ways(name, several):
    folder, first, second = several
    (_, expected), (_, found) = both_ways(folder, folder / name, BLUR)
    x = {"ER": second, ":2": second, "nd": second, "npz": second, ":3": GREY}.get(name[-2:], first)
    x = second if name.endswith(("err", "second", "one.npz", ":2")) else GREY if name.endswith(":3") else first
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(
        found, cl.filter_image(x.astype(np.float32), json.loads(BLUR), padding_mode="symmetric"), atol=1e-5
    )
    if name.startswith("x.fits"):
        assert "Henrietta" in zarr.open_array(str(folder / "blocks.zarr")).attrs["fits_header"]


def test_a_journal_knows_which_array_was_selected(several, monkeypatch):
    from convolith.big.blocks import Filter

    folder, *_ = several
    for file, one, other in (("x.fits", "SCI", "ERR"), ("x.npz", "first", "second")):
        with monkeypatch.context() as patched:
            patched.setattr(Filter, "compute", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                big.plan(f"{folder / file}:{one}", np.ones((3, 3)), folder / "z.zarr").run(progress=False)
        with pytest.raises(cl.ConvolithError, match="is of another run: source"):
            big.plan(f"{folder / file}:{other}", np.ones((3, 3)), folder / "z.zarr").run(progress=False)
        big.plan(f"{folder / file}:{one}", np.ones((3, 3)), folder / "z.zarr").run(progress=False)


def test_other_processes_open_the_selected_array(several):
    import pickle

    from convolith.big.stores.sources import open_source

    folder, _, second = several
    for name in ("x.fits:ERR", "x.npz:second"):
        again = pickle.loads(pickle.dumps(open_source(f"{folder / name}")))  # noqa: S301 - our own
        np.testing.assert_array_equal(again.array[3:9, 4:20], second[3:9, 4:20])


def test_a_fit_takes_selected_arrays(several):
    folder, first, _ = several
    y = cl.filter_image(first, np.ones((3, 3)) / 9)
    zarr.create_array(str(folder / "y.zarr"), shape=y.shape, chunks=(16, 16), dtype=y.dtype)[...] = y
    command = ("fit", f"{folder / 'x.fits'}:SCI", folder / "y.zarr", "--size", 3, "--json")
    found = json.loads(run(*command).stdout.splitlines()[-1])
    np.testing.assert_allclose(found["kernel"][0][0], np.ones((3, 3)) / 9, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x.fits:WHT", "which has no image; it holds 1 (SCI), 2 (ERR), 3 (DQ)"),
        ("x.fits:0", "which has no image; it holds 1 (SCI), 2 (ERR), 3 (DQ)"),
        ("x.npz", "which holds first, second; name one: "),
        ("x.npz:third", "which holds first, second and no third; name one: "),
        ("packed.npz:a", "cannot be read block by block: it is compressed; store its array by numpy.save"),
        ("x.fits.gz", "cannot be read block by block: it is compressed as a whole; decompress it first"),
        ("x.fits.gz:1", "cannot be read block by block: it is compressed as a whole; decompress it first"),
        ("x.fits.fz", "cannot be read block by block: it is compressed; decompress it first, as funpack does"),
        ("p.png", "cannot be read block by block: it is decoded as a whole; store it as a .tif or .npy file"),
        ("none.fits:1", "does not exist"),
        ("broken.npz", "cannot be read: "),
    ],
)  # fmt: skip
def test_arrays_that_cannot_be_selected_or_mapped(name, words, several):
    import gzip

    folder, first, _ = several
    np.savez_compressed(folder / "packed.npz", a=first)
    (folder / "x.fits.gz").write_bytes(gzip.compress((folder / "x.fits").read_bytes()))
    (folder / "x.fits.fz").write_bytes(b"SIMPLE")
    (folder / "p.png").write_bytes(b"\x89PNG")
    (folder / "broken.npz").write_bytes(b"PK\x03\x04")
    for memory in ((), ("--memory", "300MB")):
        said = refused("correlate", folder / name, BLUR, "-o", folder / "y.zarr", *memory)
        assert words in said.replace("\n", " ")
    with pytest.raises(cl.ConvolithError):
        big.plan(folder / name, np.ones((3, 3)))
    if name in ("x.fits.gz", "x.fits.fz", "p.png"):
        said = refused("correlate", folder / name, BLUR, "-o", folder / "y.tif", "--memory", "300MB")
        assert "--memory was given, but INPUT is" in said
        assert "or leave --memory out" in said
    assert not (folder / "y.zarr").exists()


# Fits.


def stack_of(folder, name, array):
    zarr.create_array(str(folder / name), shape=array.shape, chunks=array.shape, dtype=array.dtype)[...] = array
    return folder / name


def pair_of(kind):
    """Return two pictures of which a fit has something to say."""
    rng = np.random.default_rng(1)
    x = cl.filter_image(rng.normal(size=(120, 130)), cl.kernels.gaussian(1.0))
    y = cl.filter_image(x, cl.kernels.gaussian(1.0)[:5, :5]) + 0.01 * rng.normal(size=x.shape)
    if kind == "constant":
        return x, y + 9
    if kind == "cut off":
        return x, cl.filter_image(x, cl.kernels.gaussian(3.0)) + 0.001 * rng.normal(size=x.shape)
    if kind == "shifted":
        return x, np.roll(y, (14, -9), (0, 1))
    if kind == "correlated":
        return x, y + cl.filter_image(rng.normal(size=x.shape), np.ones((3, 3)))
    if kind == "counts":
        return x, y + rng.normal(size=x.shape) * np.where(y > 0, 0.3, 0.01) * y.std()
    assert kind == "wide"
    return x.astype(np.float32) * np.float32(1e-30), y.astype(np.float64) * 1e30


@pytest.mark.parametrize("kind", ["constant", "cut off", "shifted", "correlated", "counts", "wide"])
def test_a_fit_between_stores_says_what_one_in_memory_says(kind, tmp_path):
    x, y = pair_of(kind)
    for name, array in (("x", x), ("y", y)):
        np.save(tmp_path / f"{name}.npy", array)
    inside = run("fit", tmp_path / "x.npy", tmp_path / "y.npy", "--size", 5)
    blocks = run("fit", stack_of(tmp_path, "x.zarr", x), stack_of(tmp_path, "y.zarr", y), "--size", 5)
    assert said(inside)
    assert said(blocks) == said(inside)


def test_units_of_a_fit(tmp_path):
    fits = pytest.importorskip("astropy.io.fits")
    for name, unit in (("x", "adu"), ("y", "electron")):
        fits.PrimaryHDU(RNG.normal(size=(30, 40)), fits.Header({"BUNIT": unit})).writeto(tmp_path / f"{name}.fits")
    inside = run("fit", tmp_path / "x.fits", tmp_path / "y.fits", "--size", 3)
    with pytest.warns(RuntimeWarning, match="x is in adu and y in electron"):
        big.fit(tmp_path / "x.fits", tmp_path / "y.fits", kernel_size=3, progress=False)
    assert "warning: BEFORE is in adu and AFTER in electron; the kernel's sum converts them" in said(inside)

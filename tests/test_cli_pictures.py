"""Pictures as people have them through `convolith correlate` and `fit`: stacks of pages, inks, black and white, cubes."""

import json

import numpy as np
import pytest
import tifffile
from astropy.io import fits
from astropy.wcs import WCS
from click.testing import CliRunner
from PIL import Image
from scipy import ndimage

import convolith as cl
from convolith.cli import main

RNG = np.random.default_rng(5)
KERNEL = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 10.0]]
K = json.dumps(KERNEL)


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exit_code == code, result.output
    return result


def refused(*arguments):
    return run(*arguments, code=2).stderr


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def filtered(picture):
    return ndimage.correlate(np.asarray(picture, float), np.array(KERNEL))  # whose "reflect" is a mirror with the edge


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("writer", ["tifffile", "pillow"])
def test_pages_are_a_stack(dtype, writer):
    pages = (100 * RNG.random((6, 20, 31))).astype(dtype)
    if writer == "tifffile":
        tifffile.imwrite("pages.tif", pages, photometric="minisblack")
    else:
        first, *others = map(Image.fromarray, pages)
        first.save("pages.tif", save_all=True, append_images=others)
    assert "pass --axes 1,2" in refused("correlate", "pages.tif", K)
    for name in ("y.npy", "y.tif", "y.fits"):
        run("correlate", "pages.tif", K, "--axes", "1,2", "-o", name)
    expected = np.stack([filtered(page) for page in pages])
    np.testing.assert_allclose(np.load("y.npy"), expected, rtol=1e-5)
    assert tifffile.imread("y.tif").dtype == np.float32
    np.testing.assert_allclose(tifffile.imread("y.tif"), expected, rtol=1e-5)
    np.testing.assert_allclose(fits.getdata("y.fits"), expected, rtol=1e-5)
    assert "write y.npy or .tif instead" in refused("correlate", "pages.tif", K, "--axes", "1,2", "-o", "y.png")


def test_colours_one_after_another_are_a_picture():
    colours = RNG.integers(0, 255, (3, 20, 31), dtype=np.uint8)
    tifffile.imwrite("planar.tif", colours, photometric="rgb", planarconfig="separate")
    run("correlate", "planar.tif", K, "-o", "y.npy")
    expected = np.stack([filtered(one) for one in colours], -1)
    np.testing.assert_allclose(np.load("y.npy"), expected, rtol=1e-5)
    run("correlate", "planar.tif", K, "-o", "y.fits")
    assert fits.getdata("y.fits").shape == (3, 20, 31)  # as FITS viewers expect colours


def test_black_and_white():
    drawing = RNG.random((20, 31)) < 0.5
    Image.fromarray(drawing).save("drawing.tif")
    Image.fromarray(drawing).save("drawing.png")
    np.save("drawing.npy", drawing)
    blur = json.dumps(np.full((3, 3), 1 / 9).tolist())
    for name in ("drawing.tif", "drawing.png", "drawing.npy"):
        run("correlate", name, blur, "-o", "y.png")
        found = np.asarray(Image.open("y.png"), float)
        np.testing.assert_allclose(found, ndimage.uniform_filter(drawing * 255.0, 3), atol=0.51)


def test_inks_are_refused():
    Image.fromarray(RNG.integers(0, 255, (9, 8, 4), dtype=np.uint8), "CMYK").save("inks.jpg")
    Image.fromarray(RNG.integers(0, 255, (9, 8, 4), dtype=np.uint8), "CMYK").save("inks.tif")
    for name in ("inks.jpg", "inks.tif"):
        assert "amounts of four inks (CMYK); convert it to RGB first" in refused("correlate", name, K)


@pytest.mark.parametrize("shape", [(1, 20, 31), (1, 1, 20, 31)])
def test_a_cube_of_one_picture_is_that_picture(shape):
    picture = RNG.normal(size=shape)
    fits.PrimaryHDU(picture).writeto("cube.fits")
    run("correlate", "cube.fits", K, "-o", "y.fits")
    np.testing.assert_allclose(fits.getdata("y.fits"), filtered(picture.reshape(20, 31)).reshape(shape), atol=1e-9)


def test_complex_pictures_continue_in_a_mirror():
    picture = RNG.normal(size=(20, 31)) + 1j * RNG.normal(size=(20, 31))
    np.save("x.npy", picture)
    run("correlate", "x.npy", K, "-o", "y.npy")
    np.testing.assert_allclose(np.load("y.npy"), filtered(picture.real) + 1j * filtered(picture.imag), atol=1e-9)


def test_kernels_along_three_axes():
    volume, kernel = RNG.normal(size=(8, 9, 10)), RNG.normal(size=(3, 3, 3))
    np.save("x.npy", volume)
    np.save("k.npy", kernel)
    assert "pass --axes 0,1,2" in refused("correlate", "x.npy", "k.npy")
    run("correlate", "x.npy", "k.npy", "--axes", "0,1,2", "-o", "y.npy")
    np.testing.assert_allclose(np.load("y.npy"), ndimage.correlate(volume, kernel), atol=1e-9)


def test_a_fitted_kernel_filters_a_stack():
    picture = RNG.normal(size=(40, 41))
    np.save("a.npy", picture)
    np.save("b.npy", filtered(picture) + 7.0)
    run("fit", "a.npy", "b.npy", "--size", "3", "--background", "-o", "k.npz")
    stack = RNG.normal(size=(4, 20, 21))
    np.save("stack.npy", stack)
    run("correlate", "stack.npy", "k.npz", "--axes", "1,2", "-o", "y.npy")
    expected = np.stack([filtered(one) for one in stack]) + 7.0
    np.testing.assert_allclose(np.load("y.npy")[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=1e-8)
    run("correlate", "stack.npy", "k.npz", "--axes", "1,2", "--dtype", "int16", "-o", "y.npy")
    found = np.load("y.npy")[:, 1:-1, 1:-1]
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, np.rint(expected[:, 1:-1, 1:-1]))  # the constant is added before rounding
    mask = np.zeros((20, 21), bool)
    mask[5, 6] = True
    np.save("mask.npy", mask)
    run("correlate", "stack.npy", "k.npz", "--axes", "1,2", "--mask", "mask.npy", "-o", "y.npy")
    assert np.isnan(np.load("y.npy")).sum() == 4 * 9
    assert "--origin was given" in refused("correlate", "stack.npy", "k.npz", "--axes", "1,2", "--origin", "1")


def test_the_dtype_of_the_file():
    picture = RNG.integers(0, 255, (20, 31), dtype=np.uint8)
    Image.fromarray(picture).save("x.png")
    run("correlate", "x.png", "[[300]]", "--dtype", "uint16", "-o", "y.png")
    np.testing.assert_array_equal(np.asarray(Image.open("y.png")), np.minimum(picture.astype(int) * 300, 65535))
    for dtype in ("int16", "int32", "float64", "float32", "uint8"):
        run("correlate", "x.png", "[[1]]", "--dtype", dtype, "-o", "y.tif")
        assert tifffile.imread("y.tif").dtype == dtype
    np.save("unit.npy", 255 * RNG.random((20, 31)))
    run("correlate", "unit.npy", "[[1]]", "--dtype", "uint8", "-o", "y.png")
    result = run("correlate", "x.png", "[[-1,0,1]]", "--dtype", "uint8", "-o", "y.png")
    assert result.stderr.startswith("warning: ")
    assert "results lie outside uint8" in result.stderr
    assert ".py" not in result.stderr
    assert "which NumPy does not have" in refused("correlate", "x.png", K, "--dtype", "bfloat16")


def sky():
    header = fits.Header()
    for name, value in {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.1, "CRVAL2": 2.2, "CRPIX1": 33.5, "CRPIX2": 20.0,
        "CDELT1": -1e-4, "CDELT2": 1e-4,
    }.items():  # fmt: skip
        header[name] = value
    return header


@pytest.mark.parametrize("size", [(64, 64), (41, 65), (40, 37)])
@pytest.mark.parametrize("taps", [1, 2, 3, 5])
@pytest.mark.parametrize("options", [["--stride", "2"], ["--stride", "3"], ["--origin", "0,1"], ["--stride", "2,3"]])
def test_a_star_keeps_its_coordinates(size, taps, options):
    if taps == 1 and "--origin" in options:
        pytest.skip("a kernel of one tap has one centre")
    star = (20, 24)
    picture = np.zeros(size)
    picture[star] = 1.0
    fits.PrimaryHDU(picture, sky()).writeto("a.fits")
    kernel = np.zeros((taps, taps))
    kernel[(taps - 1) // 2, (taps - 1) // 2] = 1.0
    kernel += 1e-3
    run("correlate", "a.fits", json.dumps(kernel.tolist()), "-o", "b.fits", *options)
    after = fits.getdata("b.fits")
    rows, columns = np.mgrid[: after.shape[0], : after.shape[1]]
    reads = WCS(sky()).world_to_pixel_values(*WCS(fits.getheader("b.fits")).pixel_to_world_values(columns, rows))
    column, row = (np.round(one).astype(int) for one in reads)
    shows = (row == star[0]) & (column == star[1])
    np.testing.assert_array_equal(after > 0.5, shows)


def test_cards_of_the_primary_unit_are_kept():
    first, second = fits.PrimaryHDU(), fits.ImageHDU(RNG.normal(size=(20, 31)), name="SCI")
    first.header["TELESCOP"], first.header["EXPTIME"], second.header["EXPTIME"] = "HST", 30.0, 31.0
    fits.HDUList([first, second]).writeto("two.fits")
    run("correlate", "two.fits", K, "-o", "y.fits")
    header = fits.getheader("y.fits")
    assert (header["TELESCOP"], header["EXPTIME"], header["NAXIS"]) == ("HST", 31.0, 2)


def test_missing_pixels_are_left_out_of_the_summary():
    picture = RNG.normal(size=(20, 31))
    picture[3, 4] = np.nan
    np.save("x.npy", picture)
    data = json.loads(run("correlate", "x.npy", K, "--json").stdout)
    assert np.isfinite([data["least"], data["mean"], data["greatest"]]).all()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["correlate", "x.npy", K, "--padding-value", "5"], "--padding-mode constant"),
        (["correlate", "x.npy", K, "--dtype", "u8"], "--dtype is u8"),
        (["correlate", "x.npy", K, "--axes", "0,7"], "Error: --axes is 0, 7; expected"),
        (["correlate", "x.npy", K, "--origin", "5"], "Error: --origin is 5"),
        (["fit", "x.npy", "y.npy", "--size", "3", "--steps", "10"], "--steps was given, but --method lstsq takes no steps"),
        (["fit", "x.npy", "y.npy", "--size", "3", "--loss", "huber"], "pass --method lbfgs"),
        (["fit", "x.npy", "hole.npy", "--size", "3"], "the first at row 5, column 6"),
        (["fit", "x.npy", "y.npy", "--size", "3", "--mask", "other.npy"], "--mask has shape (9, 9); expected that of AFTER"),
        (["compose", K, "x.npy"], None),
    ],
)  # fmt: skip
def test_messages_name_options_and_files(command, said):
    picture = RNG.normal(size=(40, 41))
    np.save("x.npy", picture)
    np.save("y.npy", filtered(picture))
    hole = filtered(picture)
    hole[5, 6] = np.nan
    np.save("hole.npy", hole)
    np.save("other.npy", np.zeros((9, 9)))
    if said is None:
        np.save("x.npy", RNG.normal(size=(3, 3)).astype(np.float32))
        run(*command)
    else:
        assert said in refused(*command)


def test_a_shift_and_a_constant_are_named():
    picture = ndimage.gaussian_filter(RNG.normal(size=(90, 91)), 1) * 50
    np.save("x.npy", picture)
    np.save("bright.npy", filtered(picture) / 50 + 2000 + RNG.normal(size=picture.shape))
    said = run("fit", "x.npy", "bright.npy", "--size", "3").stderr
    assert "AFTER has a constant that the kernel does not give; pass --background" in said
    np.save("aside.npy", np.roll(picture, (2, -2), (0, 1)) + 0.01 * RNG.normal(size=picture.shape))
    said = run("fit", "x.npy", "aside.npy", "--size", "3").stderr
    if "--origin" in said:
        rows, columns = said.partition("--origin ")[2].split()[0].strip(",)").split(",")
        assert (int(rows) > 0, int(columns) < 0) == (True, True)
    assert cl.fit(picture, np.roll(picture, (2, -2), (0, 1)), kernel_size=3, origin=(2, -2)).explained > 0.99


def test_shapes_of_a_picture_without_channels():
    for command in ("plan", "cost"):
        said = refused(command, "512,512", "5,5")
        assert "pass 1,1,HEIGHT,WIDTH 1,1,height,width" in said
        assert "filter_image" not in said

"""Pictures as people have them through `convolith correlate` and `fit`: stacks of pages, inks, black and white, cubes."""

import json
from pathlib import Path

import click
import numpy as np
import pytest
import tifffile
from astropy.io import fits
from astropy.wcs import WCS
from click.testing import CliRunner
from PIL import Image
from scipy import ndimage

import convolith as cl
from convolith import ConvolithError
from convolith.cli import main
from convolith.cli.io.files import Output

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
    assert tifffile.imread("y.tif").dtype == np.load("y.npy").dtype
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


def info(name):
    with tifffile.TiffFile(name) as opened:
        page = opened.series[0].keyframe
        colours = page.photometric.name, tuple(map(int, page.extrasamples)), len(opened.pages)
        return opened.series[0].axes, opened.series[0].shape, *colours


@pytest.mark.parametrize(
    ("channels", "photometric", "extra"),
    [(1, "MINISBLACK", ()), (2, "MINISBLACK", (2,)), (3, "RGB", ()), (4, "RGB", (2,))],
)
def test_colours_stay_in_their_pixels_in_a_tiff(channels, photometric, extra):
    colours = RNG.integers(0, 255, (20, 31, channels), dtype=np.uint8)
    Image.fromarray(colours if channels > 1 else colours[..., 0]).save("x.png")
    run("correlate", "x.png", K, "-o", "y.tif")
    shape = (20, 31, channels)[: 2 + (channels > 1)]
    assert info("y.tif") == ("YXS"[: len(shape)], shape, photometric, extra, 1)
    run("correlate", "y.tif", "[[1]]", "-o", "z.tif")  # and can be read again
    assert info("z.tif") == info("y.tif")
    np.testing.assert_array_equal(tifffile.imread("z.tif"), tifffile.imread("y.tif"))
    for picture, name in ((np.stack([colours] * 5), "stack.npy"), (colours, "one.npy")):
        np.save(name, picture)
        places = f"{picture.ndim - 3},{picture.ndim - 2}"
        run("correlate", name, K, "--axes", places, "-o", "y.tif")
        if channels > 1:
            assert info("y.tif")[1:] == (picture.shape, photometric, extra, 5 if picture.ndim == 4 else 1)


def test_pages_of_colours_stay_so():
    pages = RNG.integers(0, 255, (5, 20, 31, 3), dtype=np.uint8)
    tifffile.imwrite("pages.tif", pages, photometric="rgb")
    run("correlate", "pages.tif", K, "--axes", "1,2", "-o", "y.tif")
    assert info("y.tif")[1:] == (pages.shape, "RGB", (), 5)


def test_a_tiff_holds_what_the_table_says():
    whole = np.array([[2**24 + 1, -(2**24) - 1, 7], [1, 2, 3]])
    for values, dtype in (
        (whole, "int32"),
        (whole + 2**31, "uint32"),
        (whole * 2**20, "float64"),
        (whole * 2**38 + 1, "int64"),
    ):
        np.save("x.npy", values)
        said = json.loads(run("correlate", "x.npy", "[[1]]", "-o", "y.tif", "--json").stdout)
        assert said.get("dtype_in_the_file", said["dtype"]) == dtype
        found = tifffile.imread("y.tif")
        assert found.dtype == dtype
        np.testing.assert_array_equal(found.astype(np.int64), values)
    floats = RNG.normal(size=(20, 31))
    np.save("x.npy", floats)
    run("correlate", "x.npy", "[[1]]", "-o", "y.tif")
    np.testing.assert_array_equal(tifffile.imread("y.tif"), floats)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_and_keep_their_notes(orientation):
    from PIL import ImageCms, ImageOps

    picture = Image.fromarray(ndimage.zoom(RNG.integers(0, 255, (5, 7, 3)), (8, 8, 1), order=1).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "Camera"
    for tag, note, value in ((0x8769, 0x829A, 0.25), (0x8825, 0x0001, "N")):  # time of exposure, hemisphere
        exif.get_ifd(tag)[note] = value
        exif[tag] = exif.get_ifd(tag)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name in ("x.jpg", "x.png", "x.tif", "x.webp"):
        lossless = {"lossless": True} if name.endswith("webp") else {}
        picture.save(name, exif=exif, icc_profile=profile, dpi=(300, 300), **lossless)
        with Image.open(name) as opened:
            expected = np.asarray(ImageOps.exif_transpose(opened))
        for output in ("y.png", "y.jpg", "y.tif"):
            run("correlate", name, "[[1]]", "--dtype", "uint8", "-o", output)
            with Image.open(output) as found:
                assert_notes(found, expected, profile, None if name == "x.webp" else 300)
    run("correlate", "x.jpg", "[[1]]", "--stride", "1,2", "-o", "y.png")
    with Image.open("y.png") as found:
        np.testing.assert_allclose(found.info["dpi"], (150, 300), atol=0.1)


def test_pictures_in_which_zero_is_white_keep_their_values_and_their_look():
    grey = np.arange(40, dtype=np.uint8).reshape(5, 8) * 6
    two = grey % 4 == 0
    deep = {"grey": grey, "deep": grey.astype(np.uint16) * 200, "floats": grey.astype(np.float32)}
    for name, values in deep.items():
        tifffile.imwrite("x.tif", values, photometric="miniswhite")
        said = run("correlate", "x.tif", "[[1]]", "-o", "y.tif")
        assert "INPUT is x.tif, in which 0 is white (MINISWHITE); its values are read as they are stored" in said.stderr
        with tifffile.TiffFile("y.tif") as found:
            assert found.pages[0].photometric.name == "MINISWHITE"
            np.testing.assert_array_equal(found.asarray(), values)
        if name != "floats":
            run("correlate", "x.tif", "[[1]]", "-o", "y.png")
            np.testing.assert_array_equal(np.asarray(Image.open("y.png")), np.iinfo(values.dtype).max - values)
    tifffile.imwrite("x.tif", two, photometric="miniswhite")
    assert "MINISWHITE" not in run("correlate", "x.tif", "[[1]]", "-o", "y.npy").stderr
    np.testing.assert_array_equal(np.load("y.npy"), np.where(two, 0, 255))  # as Pillow and OpenCV read it
    np.testing.assert_array_equal(np.load("y.npy") > 0, np.asarray(Image.open("x.tif")))


def assert_notes(found, expected, profile, dpi):
    assert found.size == expected.shape[1::-1]
    if found.format != "JPEG":
        np.testing.assert_array_equal(np.asarray(found), expected)
    notes = found.getexif()
    assert (notes.get(0x0112, 1), notes[0x010F]) == (1, "Camera")
    assert float(notes.get_ifd(0x8769)[0x829A]) == 0.25
    assert notes.get_ifd(0x8825)[0x0001] == "N"
    assert found.info["icc_profile"] == profile
    if dpi is not None:
        np.testing.assert_allclose(np.array(found.info["dpi"], float), dpi, atol=0.1)


def test_axes_and_sizes_of_microscopes_are_kept():
    stack = RNG.integers(0, 9999, (4, 2, 20, 31)).astype(np.uint16)
    sizes = {"PhysicalSizeX": 0.1, "PhysicalSizeY": 0.2, "PhysicalSizeZ": 0.5, "Channel": {"Name": ["a", "b"]}}
    tifffile.imwrite("x.ome.tif", stack, metadata={"axes": "ZCYX", **sizes})
    tifffile.imwrite(
        "x.tif", stack, imagej=True, metadata={"axes": "ZCYX", "spacing": 0.5, "unit": "um"}, resolution=(10, 5)
    )
    run("correlate", "x.ome.tif", K, "--axes", "yx", "--stride", "1,2", "--dtype", "uint16", "-o", "y.ome.tif")
    with tifffile.TiffFile("y.ome.tif") as opened:
        assert (opened.is_ome, opened.series[0].axes) == (True, "ZCYX")
        pixels = tifffile.xml2dict(opened.ome_metadata)["OME"]["Image"]["Pixels"]
    assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeY"], pixels["PhysicalSizeZ"]) == (0.2, 0.2, 0.5)
    assert [one["Name"] for one in pixels["Channel"]] == ["a", "b"]
    run("correlate", "x.tif", K, "--axes", "yx", "--stride", "1,2", "--dtype", "uint16", "-o", "y.tif")
    with tifffile.TiffFile("y.tif") as opened:
        assert (opened.is_imagej, opened.series[0].axes) == (True, "ZCYX")
        assert (opened.imagej_metadata["spacing"], opened.imagej_metadata["unit"]) == (0.5, "um")
        assert opened.pages[0].get_resolution() == (5, 5)
    run("correlate", "x.tif", K, "--axes", "yx", "-o", "wide.tif")  # whole numbers of 32 bits, which ImageJ has not
    with tifffile.TiffFile("wide.tif") as opened:
        assert (opened.is_ome, opened.series[0].axes) == (True, "ZCYX")
        assert tifffile.xml2dict(opened.ome_metadata)["OME"]["Image"]["Pixels"]["PhysicalSizeY"] == 0.2
    assert "--axes is 'yq'; INPUT has the axes Z (0), C (1), Y (2), X (3)" in refused(
        "correlate", "x.tif", K, "--axes", "yq"
    )
    np.save("x.npy", stack)
    assert "INPUT has no names of axes" in refused("correlate", "x.npy", K, "--axes", "yx")
    fits.PrimaryHDU(stack[:, 0].astype(float)).writeto("x.fits")
    run("correlate", "x.fits", K, "--axes", "yx", "-o", "y.fits")
    np.testing.assert_allclose(fits.getdata("y.fits")[2], filtered(stack[2, 0]), rtol=1e-9)


def test_transparent_colours_are_an_alpha_channel():
    Image.fromarray(RNG.integers(0, 3, (9, 8), dtype=np.uint8)).save("grey.png", transparency=1)
    palette = Image.fromarray(RNG.integers(0, 255, (9, 8, 3), dtype=np.uint8)).quantize(4)
    palette.save("palette.png", transparency=1)
    Image.fromarray(RNG.integers(0, 2, (9, 8, 3), dtype=np.uint8)).save("rgb.png", transparency=(1, 1, 0))
    for name, mode in (("grey.png", "LA"), ("palette.png", "RGBA"), ("rgb.png", "RGBA")):
        result = run("correlate", name, "[[1]]", "-o", "y.png")
        assert "alpha channel is filtered like a colour" in result.stderr
        with Image.open(name) as opened, Image.open("y.png") as found:
            np.testing.assert_array_equal(np.asarray(found), np.asarray(opened.convert(mode)))


def test_colours_that_are_no_light_are_refused():
    Image.fromarray(RNG.integers(0, 255, (9, 8, 3), dtype=np.uint8)).convert("LAB").save("lab.tif")
    assert "CIELAB values, not amounts of light; convert it to RGB first" in refused("correlate", "lab.tif", K)


def test_a_palette_is_read_as_its_colours():
    palette = Image.fromarray(RNG.integers(0, 255, (9, 8, 3), dtype=np.uint8)).quantize(16)
    palette.save("palette.tif")
    run("correlate", "palette.tif", "[[1]]", "-o", "y.png")
    np.testing.assert_array_equal(np.asarray(Image.open("y.png")), np.asarray(palette.convert("RGB")))


def test_frames_of_an_animation_are_a_stack():
    frames = RNG.integers(0, 255, (3, 20, 31), dtype=np.uint8)
    first, *others = map(Image.fromarray, frames)
    first.save("x.png", save_all=True, append_images=others)
    assert "pass --axes 1,2" in refused("correlate", "x.png", K)
    run("correlate", "x.png", K, "--axes", "yx", "-o", "y.npy")
    np.testing.assert_allclose(np.load("y.npy"), [filtered(one) for one in frames])


def test_other_pictures_are_read_and_others_say_how_to_convert():
    picture = RNG.integers(0, 255, (9, 8, 3), dtype=np.uint8)
    Image.fromarray(picture).save("x.bmp")
    Image.fromarray(picture).save("x.webp", lossless=True)
    for name in ("x.bmp", "x.webp"):
        run("correlate", name, "[[1]]", "-o", "y.npy")
        np.testing.assert_array_equal(np.load("y.npy"), picture)
    for name, remedy in (("x.wav", "scipy.io.wavfile.read"), ("x.gif", "PIL.Image.open"), ("x.csv", "numpy.loadtxt")):
        Path(name).write_bytes(b"some")
        assert remedy in refused("correlate", name, K)


def test_missing_and_infinite_results_are_counted():
    picture = RNG.normal(size=(20, 31))
    picture[3, 4], picture[10, 12] = np.nan, np.inf
    np.save("x.npy", picture)
    said = run("correlate", "x.npy", "[[1,2,3]]", "--json")
    found = json.loads(said.stdout)
    assert (found["missing"], found["missing_results"], found["infinite_results"]) == (1, 3, 3)
    assert np.isfinite([found["least"], found["mean"], found["greatest"]]).all()
    assert "infinite results" in run("correlate", "x.npy", "[[1,2,3]]").stdout
    np.save("none.npy", np.full((9, 9), np.nan))
    for options in ([], ["--nan", "omit"], ["--nan", "interpolate"]):
        said = run("correlate", "none.npy", K, "--json", *options)
        assert "warning: all pixels of INPUT are missing" in said.stderr
        assert json.loads(said.stdout)["missing_results"] == 81


def test_booleans_written_as_a_picture_are_said():
    np.save("x.npy", RNG.random((9, 8)) < 0.5)
    assert "1 is written as white, 255" in run("correlate", "x.npy", "[[1]]", "-o", "y.png").stderr


@pytest.mark.parametrize(
    ("cards", "said"),
    [
        ({"CRPIX1": "abc"}, "CRPIX1 is 'abc', not a number"),
        ({"CD1_1": 0.0, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.0}, "singular"),
        ({"WCSAXES": 1}, "WCSAXES is 1"),
    ],
)
def test_coordinates_that_make_no_sense_are_said(cards, said):
    header = sky()
    for name, value in cards.items():
        header[name] = value
    fits.PrimaryHDU(RNG.normal(size=(20, 31)), header).writeto("x.fits")
    assert said in run("correlate", "x.fits", K, "-o", "y.fits").stderr.lower().replace("crpix", "CRPIX").replace(
        "wcsaxes", "WCSAXES"
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"BITPIX  =                  -64", b"BITPIX  =                  -32", "declare 5,760 bytes, and 8,640 are there"),
        (b"BITPIX  =                  -64", b"BITPIX  =                   17", "declares BITPIX 17; expected one of 8"),
        (b"NAXIS1  =                   31", b"NAXIS1  =                 3100", "declares 3100 x 20 values with BITPIX -64"),
        (b"NAXIS   =                    2", b"NAXIS   =                    3", "declares 3 axes and NAXIS3 None"),
        (b"NAXIS   =                    2", b"NAXIS   =                   -2", "declares NAXIS -2"),
        (b"SIMPLE", b"SAMPLE", "it begins with b'SAMPLE"),
        (b"END     ", b"END____ ", "has no END card"),
    ],
)  # fmt: skip
def test_a_header_that_contradicts_the_data(old, new, said):
    fits.PrimaryHDU(RNG.normal(size=(20, 31))).writeto("x.fits")
    content = Path("x.fits").read_bytes()
    assert old in content
    Path("x.fits").write_bytes(content.replace(old, new))
    message = refused("correlate", "x.fits", K)
    assert said in message
    assert "cannot be read as FITS" in message


def test_a_compressed_fits_file_is_written():
    fits.PrimaryHDU(RNG.normal(size=(20, 31)), sky()).writeto("x.fits")
    run("correlate", "x.fits", K, "-o", "y.fits.gz")
    np.testing.assert_allclose(fits.getdata("y.fits.gz"), filtered(fits.getdata("x.fits")), rtol=1e-9)
    run("correlate", "y.fits.gz", "[[1]]", "-o", "z.fits")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["correlate", "hole.npy", "[[0,1,0],[1,-4,1],[0,1,0]]", "--nan", "omit"], "KERNEL sums to 0, so that --nan omit has no weights to divide by; pass --nan interpolate"),
        (["correlate", "x.npy", K, "--origin", "5"], "--origin is 5"),
        (["correlate", "x.npy", K, "--origin", "1", "--padding", "valid"], "give --padding as before:after"),
        (["correlate", "x.npy", K, "--dtype", "foo"], "--dtype is foo"),
        (["correlate", "complex.npy", K, "--dtype", "float32"], "--dtype is float32 but the result is complex128"),
        (["correlate", "complex.npy", K, "--dtype", "uint8"], "--dtype is uint8 but the result is complex128"),
        (["correlate", "four.npy", K], "for a stack of 6 pictures pass --axes 2,3"),
        (["correlate", "colours.npy", K], "for a stack of 2 pictures pass --axes 1,2"),
        (["correlate", "x.npy", "[1,2,1]"], "KERNEL has one axis; pass the axis of INPUT that it runs along, such as --axes 0"),
        (["correlate", "x.npy", "[[1,2],[3,nan]]"], "of numbers that are finite"),
        (["correlate", "none.npy", K], "INPUT has shape (0, 5); expected"),
        (["correlate", "scalar.npy", K], "INPUT has shape (); expected"),
        (["correlate", "records.npy", K], "which holds records of a; expected numbers; store one field, such as array['a']"),
        (["correlate", "words.npy", K], "which holds values of dtype str32; expected numbers"),
        (["correlate", "objects.npy", K], "which holds Python objects; expected numbers"),
        (["correlate", "text.npy", K], "it begins with b'hello'"),
        (["correlate", "x.npy", K, "--mask", "other.npy"], "--mask has shape (9, 9); expected that of INPUT"),
    ],
)  # fmt: skip
def test_messages_of_correlate(command, said):
    picture = RNG.normal(size=(20, 31))
    np.save("x.npy", picture)
    np.save("hole.npy", np.where(picture > 2, np.nan, picture))
    np.save("complex.npy", picture * 1j)
    np.save("four.npy", RNG.normal(size=(2, 3, 20, 31)))
    np.save("colours.npy", RNG.normal(size=(2, 20, 31, 3)))
    np.save("none.npy", np.zeros((0, 5)))
    np.save("scalar.npy", np.array(3.0))
    np.save("records.npy", np.zeros((4, 4), [("a", "f4")]))
    np.save("words.npy", np.array([["1"]]))
    np.save("objects.npy", np.array([[1, "a"]], object))
    np.save("other.npy", np.zeros((9, 9)))
    Path("text.npy").write_text("hello")
    assert said in refused(*command)


def test_signals_with_a_kernel_of_one_axis():
    signal = RNG.normal(size=50)
    np.save("x.npy", signal)
    run("correlate", "x.npy", "[1,2,3]", "-o", "y.npy")
    np.testing.assert_allclose(np.load("y.npy"), ndimage.correlate1d(signal, [1, 2, 3]))
    assert json.loads(run("compose", "[1,2]", "[1,3]", "--json").stdout)["weight"] == [[[1, 5, 6]]]
    np.save("real.npy", np.ones((2, 2), np.float32))
    np.save("complex.npy", 1j * np.ones((2, 2)))
    run("compose", "real.npy", "complex.npy")


def test_values_beyond_the_dtype_are_said():
    np.save("x.npy", np.full((9, 8), 1e300))
    said = run("correlate", "x.npy", "[[1]]", "--dtype", "float32").stderr
    assert "72 of 72 results are not finite, since INPUT has values beyond float32" in said
    assert "pass --dtype float64" in said
    np.save("half.npy", np.ones((9, 8), np.float16))
    said = run("correlate", "half.npy", "[[100000]]").stderr
    assert said.count("warning") == 1
    assert "72 of 72 results are not finite, since KERNEL has values beyond float16" in said
    np.save("whole.npy", np.full((9, 8), 2**63 + 5, np.uint64))
    assert (
        "72 of 72 results lie outside int64 and wrap around; pass --dtype uint64"
        in run("correlate", "whole.npy", "[[1]]").stderr
    )
    run("correlate", "whole.npy", "[[1]]", "--dtype", "uint64", "-o", "y.npy")
    np.testing.assert_array_equal(np.load("y.npy"), np.load("whole.npy"))


def test_a_check_of_a_composition_without_a_result_is_said():
    np.save("x.npy", np.full((3, 3), np.nan))
    assert "FIRST has weights that are not finite" in run("compose", "x.npy", "[[1]]", code=1).stderr


def test_two_outputs_of_one_name_are_refused(folder):
    for other in ("y.npz", "./y.npz", str(folder / "y.npz")):
        with click.Context(main):
            Output("y.npz", (".npz",))
            Output("z.npz", (".npz",))
            with pytest.raises(ConvolithError, match="--matched is .*, which --output names too; give each output"):
                Output(other, (".npz",), "--matched")
    np.save("x.npy", RNG.normal(size=(20, 31)))
    refused("fit", "x.npy", "x.npy", "--size", "3", "-o", "y.npz", "--matched", "./y.npz")


def test_sums_beyond_their_own_dtype_are_said():
    box = "[[1,1,1],[1,1,1],[1,1,1]]"
    for dtype, value, remedy in (
        (np.float32, 1e38, "pass --dtype float64"),
        (np.float64, 1e308, "scale INPUT down"),
        (np.float16, 6e4, "pass --dtype float64"),
    ):
        x = np.full((8, 9), value, dtype)
        np.save("x.npy", x)
        said = run("correlate", "x.npy", box).stderr
        assert said.count("results are not finite") == 1
        assert f"72 of 72 results are not finite, since sums lie beyond {x.dtype}" in said
        assert remedy in said
        x[0, 0] = np.nan  # whose 4 results are missing for another reason
        np.save("x.npy", x)
        assert dtype == np.float16 or "68 of 72 results are not finite" in run("correlate", "x.npy", box).stderr
        x[0, 0] = np.inf
        np.save("x.npy", x)
        assert "not finite" not in run("correlate", "x.npy", box).stderr
    np.save("x.npy", np.full((8, 9), 1e38, np.float32))
    assert not run("correlate", "x.npy", box, "--dtype", "float64").stderr
    np.save("m.npy", np.eye(8, 9))
    said = run("correlate", "x.npy", box, "--mask", "m.npy", "--nan", "omit").stderr
    assert "72 of 72 results are not finite, since sums lie beyond float32" in said


def test_what_is_odd_about_an_input_is_said_in_words_of_the_command(folder):
    picture = np.arange(42, dtype=np.uint8).reshape(6, 7)
    Image.fromarray(picture).save("x.png")
    np.save("kernel.npy", np.array([[1.0, np.nan]]))
    np.save("booleans.npy", np.eye(3) > 0)
    assert "weights of KERNEL are NaN or infinite (1)" in run("correlate", "x.png", "kernel.npy").stderr
    run("decompose", "booleans.npy", code=1)
    assert f"INPUT is {folder}, a folder; name a file in it" in refused("correlate", folder, "[[1]]")
    assert "--stride is 0" in refused("correlate", "x.png", "[[1]]", "--stride", 0)
    around = ("--padding-mode", "constant", "--padding-value", "nan")
    assert "pass --dtype float32" in refused("correlate", "x.png", "[[1,1,1]]", *around)
    assert "not finite" not in run("correlate", "x.png", "[[1,1,1]]", *around, "--dtype", "float32").stderr


def test_a_few_pages_are_not_taken_for_channels_by_fit():
    pages = RNG.integers(0, 255, (2, 30, 31), np.uint8)
    tifffile.imwrite("pages.tif", pages, photometric="minisblack")
    assert "one image with 2 channels (pass --mix-channels)" in refused("fit", "pages.tif", "pages.tif", "--size", 3)
    run("fit", "pages.tif", "pages.tif", "--size", 3, "--axes", "1,2")
    run("fit", "pages.tif", "pages.tif", "--size", 3, "--mix-channels")

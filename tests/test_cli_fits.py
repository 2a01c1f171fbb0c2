"""FITS pictures through the command line: headers, coordinates and units are carried; differences, their noise, masks."""

import json

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from click.testing import CliRunner

import convolith as cl
from convolith import kernels
from convolith.cli import main

RNG = np.random.default_rng(3)
pytestmark = pytest.mark.filterwarnings("ignore:residuals", "ignore:the kernel goes on")  # new stars are not in BEFORE


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exit_code == code, result.output
    return result


def header():
    made = fits.Header()
    cards = {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.1, "CRVAL2": 2.2, "CRPIX1": 33.5, "CRPIX2": 20.0,
        "CD1_1": -1e-4, "CD1_2": 1e-5, "CD2_1": 1e-5, "CD2_2": 1e-4, "BUNIT": "adu", "EXPTIME": 30.0, "FILTER": "r",
    }  # fmt: skip
    for name, value in cards.items():
        made[name] = value
    made.add_history("taken by night")
    return made


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "pixel"),
    [
        ([], lambda p: p),
        (["--padding", "0"], lambda p: p + 2),
        (["--padding", "3"], lambda p: p - 1),
        (["--padding", "same", "--stride", "2"], lambda p: 2 * p),
        (["--padding", "0", "--stride", "3"], lambda p: 3 * p + 2),
    ],
)
def test_coordinates_follow_the_pixels(folder, options, pixel):
    fits.PrimaryHDU(RNG.normal(size=(41, 65)).astype(np.float32), header()).writeto("a.fits")
    run("correlate", "a.fits", json.dumps(np.ones((5, 5)).tolist()), "-o", "b.fits", *options)
    with fits.open("b.fits") as units:
        after = units[0].header
    assert (after["BUNIT"], after["EXPTIME"], after["FILTER"]) == ("adu", 30.0, "r")
    assert "taken by night" in str(after["HISTORY"])
    assert "correlate a.fits" in str(after["HISTORY"])
    before, moved = WCS(header()), WCS(after)
    for row, column in ((0, 0), (3, 7)):
        expected = before.pixel_to_world_values(pixel(column), pixel(row))
        np.testing.assert_allclose(moved.pixel_to_world_values(column, row), expected, rtol=0, atol=1e-9)


def test_a_cube_keeps_its_axes_and_integers_lose_their_scaling(folder):
    cube = header()
    cube["CTYPE3"], cube["CRPIX3"], cube["CDELT3"], cube["CRVAL3"] = "FREQ", 1.0, 2.0, 5.0
    cube["BLANK"] = -5
    data = RNG.integers(0, 60000, size=(4, 20, 30)).astype(np.uint16)
    fits.PrimaryHDU(data, cube).writeto("cube.fits", output_verify="ignore")
    run("correlate", "cube.fits", "[[1,1,1],[1,1,1],[1,1,1]]", "--axes", "1,2", "--padding", "0", "-o", "o.fits")
    with fits.open("o.fits") as units:
        after = units[0].header
        expected = sum(np.roll(data.astype(float), (a, b), (1, 2)) for a in (-1, 0, 1) for b in (-1, 0, 1))
        np.testing.assert_allclose(units[0].data, expected[:, 1:-1, 1:-1])
    assert (after["CRPIX1"], after["CRPIX2"], after["CRPIX3"]) == (32.5, 19.0, 1.0)
    assert "BLANK" not in after
    assert "BZERO" not in after


def scene(folder, n=120):
    """A reference, and a science picture with another blur, brightness, sky and a new star; variances and a mask."""
    stars = np.zeros((n, n))
    stars[RNG.integers(8, n - 8, 150), RNG.integers(8, n - 8, 150)] = RNG.uniform(500, 5000, 150)
    before = cl.filter_image(stars, kernels.gaussian(1.2)) + 20
    truth = 1.7 * cl.filter_image(before, kernels.gaussian(1.0, 7)) + 50
    new = np.zeros((n, n))
    new[60, 61] = 3000.0
    truth = truth + cl.filter_image(new, kernels.gaussian(1.6))
    variance = truth / 4 + 9
    after = truth + RNG.normal(size=truth.shape) * np.sqrt(variance)
    fits.PrimaryHDU(before.astype(np.float32), header()).writeto("ref.fits")
    science = header()
    science["BUNIT"] = "electron"
    fits.PrimaryHDU(after.astype(np.float32), science).writeto("sci.fits")
    fits.PrimaryHDU(variance.astype(np.float32)).writeto("var.fits")
    return before, after, variance


def test_the_difference_of_two_pictures_and_its_noise(folder):
    _before, after, _variance = scene(folder)
    mask = np.zeros(after.shape, np.uint8)
    mask[54:68, 54:68] = 1
    np.save("new.npy", mask)
    said = run(
        "fit", "ref.fits", "sci.fits", "--size", 7, "--background", "--variance", "var.fits", "--mask", "new.npy",
        "--difference", "d.fits", "--matched", "m.fits", "--noise", "n.fits", "--json", "-o", "k.npz",
    )  # fmt: skip
    found = json.loads(said.stdout)
    assert "warning: BEFORE is in adu and AFTER in electron" in said.stderr
    assert abs(np.sum(found["kernel"]) - 1.7) < 5 * found["sum_stderr"][0][0] < 0.05
    with fits.open("d.fits") as units:
        difference, about = units[0].data, units[0].header
    noise, matched = fits.getdata("n.fits"), fits.getdata("m.fits")
    assert difference.shape == after.shape
    assert (about["BUNIT"], about["CRPIX1"]) == ("electron", 33.5)
    assert np.isnan(difference[:3]).all()
    assert np.isnan(difference[54:68, 54:68]).all()
    assert np.isfinite(matched[54:68, 54:68]).all()
    pulls = (difference / noise)[np.isfinite(difference)]
    assert abs(pulls.std() - 1) < 0.05
    unmasked = run(
        "fit", "ref.fits", "sci.fits", "--size", 7, "--background", "--mask", "new.npy", "--matched", "m.fits"
    )
    assert "sum of kernel" in unmasked.output
    assert after[60, 61] - fits.getdata("m.fits")[60, 61] > 100  # the new star is what is left


def test_saturated_and_missing_pixels_grow_in_the_difference(folder):
    before, _after, _variance = scene(folder)
    spoilt = before.copy()
    spoilt[30, 40], spoilt[80, 20] = np.nan, 1e6
    fits.PrimaryHDU(spoilt.astype(np.float32)).writeto("spoilt.fits")
    told = ["fit", "spoilt.fits", "sci.fits", "--size", 7, "--background", "--difference", "d.fits"]
    assert "--ignore-nan" in run(*told, code=2).output
    run(*told, "--ignore-nan", "--saturation", "1e5")
    gaps = np.isnan(fits.getdata("d.fits"))
    for row, column in ((30, 40), (80, 20)):
        assert gaps[row - 3 : row + 4, column - 3 : column + 4].all()
        assert not gaps[row - 5, column]
    varied = [one for one in told if one != "--background"]
    run(*varied, "--ignore-nan", "--saturation", "1e5", "--degree", "1", "--background-degree", "0")
    varying = np.isnan(fits.getdata("d.fits"))
    assert varying[30, 40]
    assert varying[27:34, 37:44].all()
    assert varying.mean() < 0.2


def test_noise_through_the_kernel(folder):
    before, _after, variance = scene(folder)
    fits.PrimaryHDU(np.full(before.shape, 25.0)).writeto("bv.fits")
    run(
        "fit", "ref.fits", "sci.fits", "--size", 7, "--background", "--variance", "var.fits", "--before-variance",
        "bv.fits", "--noise", "n.fits", "-o", "k.npz",
    )  # fmt: skip
    weight = np.load("k.npz")["weight"]
    expected = np.sqrt(variance + 25 * (weight**2).sum())
    np.testing.assert_allclose(fits.getdata("n.fits")[10:-10, 10:-10], expected[10:-10, 10:-10], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--noise", "n.fits"], "--noise was given without --variance"),
        (["--variance", "zero.fits"], "--variance has no positive value"),
        (["--variance", "small.fits"], "--variance has shape"),
        (["--difference", "d.txt"], "expected a name that ends in"),
        (["--difference", "nowhere/d.fits"], "there is no folder"),
    ],
)
def test_what_is_refused(folder, options, message):
    scene(folder)
    fits.PrimaryHDU(np.zeros((120, 120))).writeto("zero.fits")
    fits.PrimaryHDU(np.ones((3, 3))).writeto("small.fits")
    assert message in run("fit", "ref.fits", "sci.fits", "--size", 7, *options, code=2).output


def test_many_pairs_have_no_difference_but_variances(folder):
    scene(folder)
    fits.PrimaryHDU(fits.getdata("ref.fits")).writeto("ref2.fits")
    fits.PrimaryHDU(fits.getdata("sci.fits")).writeto("sci2.fits")
    pair = ["fit", "ref*.fits", "sci*.fits", "--size", 7, "--background", "--variance", "var.fits"]
    assert "it is made of one pair" in run(*pair, "--difference", "d.fits", code=2).output
    one = json.loads(run("fit", "ref.fits", "sci.fits", *pair[3:], "--json").stdout)
    both = json.loads(run(*pair, "--json").stdout)
    np.testing.assert_allclose(both["kernel"], one["kernel"], atol=1e-6)


def test_warnings_are_in_the_words_of_the_command(folder):
    wide = RNG.normal(size=(200, 200))
    np.save("x.npy", wide[50:150, 50:150])
    np.save("y.npy", wide[36:136, 65:165] + 0.1 * RNG.normal(size=(100, 100)))
    said = run("fit", "x.npy", "y.npy", "--size", 3).stderr
    assert "warning: the fit explains 0% of the variance of AFTER, and AFTER looks like BEFORE shifted" in said
    assert "--origin 14,-15" in said
    assert ".py:" not in said
    assert "explained" in run("fit", "x.npy", "y.npy", "--size", 3, "--origin", "14,-15").stdout


def test_pictures_in_colour_keep_their_layout(folder):
    photo = RNG.integers(20, 200, size=(40, 44, 3)).astype(np.uint8)
    soft = cl.filter_image(photo, kernels.box(3), padding_mode="symmetric")
    np.save("x.npy", photo)
    from imageio import v3

    v3.imwrite("x.png", photo)
    v3.imwrite("y.tif", soft.astype(np.float32))
    run("fit", "x.png", "y.tif", "--size", 3, "--difference", "d.npy")
    difference = np.load("d.npy")
    assert difference.shape == photo.shape
    assert np.abs(difference[1:-1, 1:-1]).max() < 1e-3
    assert np.isnan(difference[0]).all()


def ccd(data, **options):
    from astropy.nddata import CCDData

    return CCDData(data, unit="adu", wcs=WCS(header()), **options)


def test_ccddata_is_filtered_with_its_mask_uncertainty_and_coordinates():
    from astropy.nddata import StdDevUncertainty

    data = RNG.normal(size=(41, 65))
    sigma = RNG.uniform(1, 2, data.shape)
    picture = ccd(data, uncertainty=StdDevUncertainty(sigma), meta={"EXPTIME": 30.0})
    kernel = RNG.normal(size=(5, 5))
    found = cl.filter_image(picture, kernel, padding=0)
    assert type(found) is type(picture)
    assert (found.unit, found.meta["EXPTIME"]) == (picture.unit, 30.0)
    np.testing.assert_allclose(found.data, cl.filter_image(data, kernel, padding=0))
    expected = np.sqrt(cl.filter_image(sigma**2, kernel**2, padding=0))
    np.testing.assert_allclose(found.uncertainty.array, expected, rtol=1e-9)
    at = found.wcs.pixel_to_world_values(0, 0)
    np.testing.assert_allclose(at, picture.wcs.pixel_to_world_values(2, 2), rtol=0, atol=1e-10)
    again = cl.filter_image(picture, kernel, padding=0, stride=2).wcs.pixel_to_world_values(1, 1)
    np.testing.assert_allclose(again, picture.wcs.pixel_to_world_values(4, 4), rtol=0, atol=1e-10)
    mask = np.zeros(data.shape, bool)
    mask[20, 30] = True
    whole = cl.filter_image(ccd(np.where(mask, 1e9, data), mask=mask), np.abs(kernel), nan="omit")
    assert whole.mask is None
    assert np.abs(whole.data).max() < 1e3


def test_ccddata_is_fitted_with_its_mask_and_uncertainty():
    from astropy.nddata import StdDevUncertainty

    x, kernel = RNG.normal(size=(50, 60)), RNG.normal(size=(3, 3))
    y = cl.filter_image(x, kernel)
    bad = RNG.random(x.shape) < 0.02
    sigma = RNG.uniform(0.1, 1, x.shape)
    noisy = np.where(bad, 1e6, y + sigma * RNG.normal(size=x.shape))
    first = ccd(np.where(bad, np.nan, x), mask=bad)
    second = ccd(noisy, mask=bad, uncertainty=StdDevUncertainty(sigma))
    found = cl.fit(first, second, kernel_size=3)
    assert isinstance(found.kernel, np.ndarray)
    grown = cl.fit(np.where(bad, 0, x), noisy, kernel_size=3, x_mask=bad, mask=bad, weights=1 / sigma**2)
    np.testing.assert_allclose(found.kernel, grown.kernel, atol=1e-12)
    gram = cl.Gram(3).update(first, second)
    np.testing.assert_allclose(gram.solve().kernel, grown.kernel, atol=1e-9)
    varying = cl.fit_varying(first, second, kernel_size=3, degree=0)
    np.testing.assert_allclose(varying.kernel.weights[0], grown.kernel, atol=1e-9)


def test_uncertainties_are_dropped_where_pixels_are_left_out_and_padding_is_exact():
    from astropy.nddata import StdDevUncertainty, VarianceUncertainty

    data, kernel = RNG.normal(size=(30, 32)), np.abs(RNG.normal(size=(3, 3)))
    mask = np.zeros(data.shape, bool)
    mask[10:18, 10:18] = True
    with pytest.warns(RuntimeWarning, match="the result has no uncertainty"):
        found = cl.filter_image(
            ccd(data, mask=mask, uncertainty=StdDevUncertainty(np.ones(data.shape))), kernel, nan="omit"
        )
    assert found.uncertainty is None
    assert found.mask[13, 13]
    padded = cl.filter_image(
        ccd(data, uncertainty=VarianceUncertainty(np.ones(data.shape))),
        kernel,
        padding_mode="constant",
        padding_value=1e3,
    )
    assert padded.uncertainty.array.max() <= (kernel**2).sum() * (1 + 1e-9)


def test_a_page_of_a_padded_fit_and_files_that_are_not_replaced(folder):
    scene(folder)
    told = ["fit", "ref.fits", "sci.fits", "--background", "--size"]
    run(*told, "5", "--ridge", "auto", "--padding", "same", "--html", "page.html")
    assert "difference" in (folder / "page.html").read_text()
    assert "the input itself" in run(*told, 7, "--matched", "ref.fits", code=2).output
    assert "expected a name that ends in" in run(*told, 7, "--difference", "d.png", code=2).output


def test_stacks_of_pairs_have_masks_of_their_own(folder):
    x = RNG.normal(size=(3, 1, 40, 42))
    y = cl.correlate(x, np.ones((1, 1, 3, 3)) / 9, padding="same", padding_mode="symmetric")
    mask = np.zeros((3, 40, 42), bool)
    mask[1, 20, 20] = True
    for name, array in (("x", x), ("y", y), ("m", mask), ("v", np.ones((3, 40, 42)))):
        np.save(f"{name}.npy", array)
    run(
        "fit", "x.npy", "y.npy", "--size", 3, "--mask", "m.npy", "--variance", "v.npy", "--difference", "d.npy", "--noise",
        "n.npy",
    )  # fmt: skip
    difference = np.load("d.npy")
    assert difference.shape == y.shape
    assert np.isnan(difference[1, 0, 20, 20])
    assert np.isfinite(difference[0, 0, 20, 20])
    assert np.load("n.npy").shape == y.shape

"""`deconvolve` undoes what `filter_image` did; its steps are those of scikit-image, and borders and gaps do not leak."""

import numpy as np
import pytest
import torch
from scipy import ndimage

import convolith as cl
from convolith import ConvolithError, kernels

RNG = np.random.default_rng(0)


def picture(n=64):
    """Bright squares and points on a faint sky."""
    image = np.full((n, n), 2.0)
    image[20:30, 12:40] += 50
    image[RNG.integers(0, n, 20), RNG.integers(0, n, 20)] += 300
    return image


def test_richardson_lucy_far_from_borders_is_that_of_scikit_image():
    restoration = pytest.importorskip("skimage.restoration")
    image = np.zeros((64, 64))
    image[24:40, 28:33] = 1.0
    psf = kernels.motion(5, 30)
    blurred = cl.filter_image(image, psf, flip=True)
    ours = cl.deconvolve(blurred, psf, method="richardson_lucy", flip=True, iterations=5)
    start = np.full_like(blurred, blurred.mean())
    theirs = start
    for _ in range(5):
        ratio = blurred / np.maximum(cl.filter_image(theirs, psf, flip=True), 1e-12)
        theirs = theirs * cl.filter_image(ratio, psf)
    np.testing.assert_allclose(ours[16:48, 16:48], theirs[16:48, 16:48], rtol=1e-9, atol=1e-9)
    known = restoration.richardson_lucy(blurred, psf, num_iter=60, clip=False)
    many = cl.deconvolve(blurred, psf, method="richardson_lucy", flip=True, iterations=60)
    assert np.abs(many - known)[16:48, 16:48].max() < 0.1


@pytest.mark.parametrize("shape", [(5, 5), (4, 4), (3, 6)])
@pytest.mark.parametrize("method", ["wiener", "richardson_lucy"])
@pytest.mark.parametrize("flip", [False, True])
def test_what_a_lopsided_kernel_moved_comes_back_to_its_place(shape, method, flip):
    kernel = RNG.random(shape)
    image = np.zeros((48, 48))
    image[20, 24] = 100.0
    blurred = cl.filter_image(image, kernel / kernel.sum(), flip=flip)
    if method == "wiener":
        pytest.importorskip("skimage")
    found = cl.deconvolve(blurred, kernel / kernel.sum(), method=method, flip=flip, balance=1e-4)
    assert np.unravel_index(found.argmax(), found.shape) == (20, 24)
    assert found.max() > 2 * blurred.max()


def test_light_that_left_the_frame_does_not_disturb_richardson_lucy():
    wide, psf = picture(), kernels.gaussian(2.0)
    reach = len(psf) // 2
    blurred = cl.filter_image(wide, psf)[reach:-reach, reach:-reach]  # the sky goes on beyond the frame
    found = cl.deconvolve(blurred, psf, method="richardson_lucy", iterations=40)
    predicted = cl.filter_image(found, psf)
    inner = (slice(reach, -reach),) * 2
    assert np.abs(predicted - blurred)[inner].max() < 0.1 * np.ptp(blurred)
    assert abs(found[inner].sum() / wide[reach:-reach, reach:-reach][inner].sum() - 1) < 0.02


def test_missing_pixels_have_no_say():
    image, psf = picture(), kernels.gaussian(1.5)
    blurred = cl.filter_image(image, psf, padding_mode="symmetric")
    mask = np.zeros(image.shape, bool)
    mask[:, 33] = mask[5, 5] = True
    spoilt = np.where(mask, 1e6, blurred)
    by_mask = cl.deconvolve(spoilt, psf, method="richardson_lucy", mask=mask)
    by_nan = cl.deconvolve(np.where(mask, np.nan, blurred), psf, method="richardson_lucy")
    by_masked = cl.deconvolve(np.ma.MaskedArray(spoilt, mask), psf, method="richardson_lucy")
    np.testing.assert_allclose(by_mask, by_nan, rtol=1e-9)
    np.testing.assert_allclose(by_mask, by_masked, rtol=1e-9)
    whole = cl.deconvolve(blurred, psf, method="richardson_lucy")
    assert np.abs(by_mask - whole)[10:-10, 10:25].max() < 1.0
    assert np.abs(by_mask - whole)[:, 33].mean() < 10


def test_a_found_kernel_is_undone():
    sharp = RNG.random((1, 80, 80)) * 100
    psf = kernels.motion(7, 20)
    reach = [n - 1 for n in psf.shape]
    blurred = cl.convolve(sharp, psf[None, None])
    found = cl.fit(sharp, blurred, kernel_size=psf.shape)
    np.testing.assert_allclose(found.psf[0, 0], psf, atol=1e-9)
    again = cl.deconvolve(blurred[0], found, method="richardson_lucy", iterations=200)
    shift = [k // 2 for k in psf.shape]
    target = sharp[0, reach[0] - shift[0] : reach[0] - shift[0] + again.shape[0], reach[1] - shift[1] :][
        :, : again.shape[1]
    ]
    inner = (slice(10, -10),) * 2
    assert np.abs(again - target)[inner].mean() < 0.5 * np.abs(blurred[0] - target)[inner].mean()


def test_layouts_and_dtypes():
    psf = kernels.gaussian(1.0)
    stack = RNG.random((3, 40, 32)).astype(np.float32)
    found = cl.deconvolve(stack, psf, method="richardson_lucy", axes=(1, 2), iterations=3)
    assert found.dtype == np.float32
    each = cl.deconvolve(stack[1], psf, method="richardson_lucy", iterations=3)
    np.testing.assert_allclose(found[1], each, rtol=0.2)  # the planes share their first level only
    colours = cl.deconvolve(RNG.integers(0, 256, (20, 22, 3), np.uint8), psf, method="richardson_lucy")
    assert colours.shape == (20, 22, 3)
    assert colours.dtype == np.float64
    tensor = cl.deconvolve(torch.rand(16, 16), psf, method="richardson_lucy")
    assert tensor.dtype == torch.float32
    signal = cl.deconvolve(RNG.random(100), [0.25, 0.5, 0.25], method="richardson_lucy")
    assert signal.shape == (100,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "van_cittert"}, "method is 'van_cittert'; expected"),
        ({"method": "richardson_lucy", "image": -np.ones((8, 8))}, "least value of -1"),
        ({"method": "richardson_lucy", "kernel": [[1.0, -1.0]]}, "least value of -1"),
        ({"kernel": np.zeros((3, 3))}, "finite weights that are not all zero"),
        ({"balance": 0}, "balance is 0; expected a positive number"),
        ({"mask": np.zeros((8, 8), bool)}, 'method "wiener" takes none'),
        ({"image": np.full((8, 8), np.nan)}, "not finite"),
        ({"method": "richardson_lucy", "image": np.full((8, 8), np.inf)}, "infinite values"),
        ({"method": "richardson_lucy", "iterations": 0}, "iterations is 0"),
        ({"method": "richardson_lucy", "mask": np.zeros((3, 3), bool)}, "mask has shape"),
        ({"image": np.ones((2, 8, 8))}, "axes=\\(1, 2\\)"),
        ({"image": np.ones((8, 8)) * 1j}, "complex"),
    ],
)
def test_bad_input(arguments, message):
    given = {"image": np.ones((8, 8)), "kernel": kernels.box(3)} | arguments
    with pytest.raises(ConvolithError, match=message):
        cl.deconvolve(given.pop("image"), given.pop("kernel"), **given)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_kernel_that_sums_to_zero_leaves_a_constant_open(axes):
    rng = np.random.default_rng(9)
    kernel = np.zeros((3,) * axes)
    kernel[(1,) * axes] = -2.0 * axes
    for axis in range(axes):
        for place in (0, 2):
            kernel[tuple(place if other == axis else 1 for other in range(axes))] = 1.0
    picture = ndimage.gaussian_filter(rng.random((24,) * axes), 2)
    edges = cl.filter_image(picture, kernel, padding_mode="symmetric")
    with pytest.warns(RuntimeWarning, match="kernel sums to 0, so that image holds nothing of the picture's mean"):
        found = cl.deconvolve(edges, kernel, balance=1e-9)
    assert np.isfinite(found).all()
    assert np.corrcoef(found.ravel(), picture.ravel())[0, 1] > 0.7


def test_planes_without_any_pixel_are_missing():
    stack = np.random.default_rng(10).random((3, 20, 21))
    stack[1] = np.nan
    with pytest.warns(RuntimeWarning, match="all pixels of image are missing in 1 of 3 planes"):
        found = cl.deconvolve(stack, np.ones((3, 3)), method="richardson_lucy", axes=(1, 2))
    assert np.isnan(found).all((1, 2)).tolist() == [False, True, False]
    with pytest.warns(RuntimeWarning, match="all pixels of image are missing; so are those of the result"):
        assert np.isnan(cl.deconvolve(stack[1], np.ones((3, 3)), method="richardson_lucy")).all()

"""Each kernel has the properties that its docstring states, and known programs give the same."""

import numpy as np
import pytest

import convolith as cl
from convolith import ConvolithError, kernels

BLURS = {
    "gaussian": kernels.gaussian(1.7),
    "gaussian of two widths": kernels.gaussian((1.0, 2.5)),
    "box": kernels.box((3, 4)),
    "disk": kernels.disk(3.4),
    "motion": kernels.motion(9, 25),
    "moffat": kernels.moffat(3.0, 3.2),
    "airy": kernels.airy(4.0),
}


@pytest.mark.parametrize("name", BLURS)
def test_blurs_sum_to_one_are_never_negative_and_centred(name):
    kernel = BLURS[name]
    assert kernel.dtype == np.float64
    assert kernel.min() >= 0
    assert abs(kernel.sum() - 1) < 1e-12
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-15)


def test_gaussian_is_that_of_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    impulse = np.zeros((31, 31))
    impulse[15, 15] = 1
    np.testing.assert_allclose(
        cl.filter_image(impulse, kernels.gaussian((1.5, 2.5))), ndimage.gaussian_filter(impulse, (1.5, 2.5)), atol=1e-15
    )
    assert kernels.gaussian((1.0,)).shape == (9,)
    assert kernels.gaussian((1.0, 1.0, 2.0)).shape == (9, 9, 17)


def test_moffat_and_airy_are_those_of_astropy():
    convolution = pytest.importorskip("astropy.convolution")
    known = convolution.AiryDisk2DKernel(4.0, x_size=33, y_size=33).array
    np.testing.assert_allclose(kernels.airy(4.0, 33), known / known.sum(), atol=1e-8)
    gamma = 3.0 / (2 * np.sqrt(2 ** (1 / 3.2) - 1))
    known = convolution.Moffat2DKernel(gamma, 3.2, x_size=25, y_size=25).array
    np.testing.assert_allclose(kernels.moffat(3.0, 3.2, 25), known / known.sum(), atol=1e-12)


def test_disk_has_the_area_of_a_disk_in_each_pixel():
    kernel = kernels.disk(5.0)
    assert kernel.shape == (11, 11)
    assert abs(1 / kernel[5, 5] - np.pi * 25) < 0.5
    assert kernel[0, 0] == 0
    assert 0 < kernel[0, 5] < kernel[5, 5]


def test_sobel_and_laplacian_measure_what_they_say():
    rows, columns = np.mgrid[:40, :40].astype(float)
    inner = (slice(12, -12),) * 2
    slope = 2.0 * rows - 3.0 * columns
    np.testing.assert_allclose(cl.filter_image(slope, kernels.sobel(0))[inner], 2.0)
    np.testing.assert_allclose(cl.filter_image(slope, kernels.sobel(1))[inner], -3.0)
    kernel = kernels.laplacian_of_gaussian(2.0)
    bowl = 0.5 * (3 * rows**2 - 5 * columns**2)
    np.testing.assert_allclose(cl.filter_image(bowl, kernel)[inner], -2.0, atol=1e-8)
    assert abs(kernel.sum()) < 1e-12


def test_gabor_answers_to_its_own_wave_alone():
    kernel = kernels.gabor(8.0, angle=30)
    assert abs(kernel.sum()) < 1e-12
    assert abs(np.abs(kernel).sum() - 1) < 1e-12
    rows, columns = np.mgrid[:81, :81].astype(float)

    def answer(angle):
        turn = np.radians(angle)
        wave = np.cos(2 * np.pi * (columns * np.cos(turn) + rows * np.sin(turn)) / 8)
        return np.abs(cl.filter_image(wave, kernel)[30:-30, 30:-30]).max()

    assert answer(30) > 0.5
    assert answer(120) < 0.05
    odd = kernels.gabor(8.0, phase=90)
    np.testing.assert_allclose(odd, -odd[:, ::-1], atol=1e-15)


@pytest.mark.parametrize(("angle", "shape"), [(0, (1, 9)), (90, (9, 1)), (180, (1, 9)), (45, (7, 7))])
def test_motion_runs_in_its_direction(angle, shape):
    kernel = kernels.motion(9, angle)
    assert kernel.shape == shape
    if angle == 45:
        assert kernel[0, 0] > 0
        assert kernel[0, -1] == 0
    assert kernels.motion(1, angle).tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernels.gaussian(0), "sigma is 0; expected a positive number"),
        (lambda: kernels.gaussian((1, -1)), "sigma is \\(1, -1\\); expected a positive number, or one per axis"),
        (lambda: kernels.gaussian("wide"), "sigma is 'wide'"),
        (lambda: kernels.gaussian(1.0, (3, 3, 3)), "size is \\(3, 3, 3\\); expected one number, or one for each of 2"),
        (lambda: kernels.gaussian(1.0, 0), "size is 0; expected 1 or more"),
        (lambda: kernels.box((3, 3, 3, 3)), "size is"),
        (lambda: kernels.disk(-1), "radius is -1"),
        (lambda: kernels.disk((1, 2)), "radius is \\(1, 2\\); expected a positive number"),
        (lambda: kernels.sobel(2), "axis is 2; expected 0 or 1"),
        (lambda: kernels.laplacian_of_gaussian(1.0, 1), "size is 1; expected 3 or more"),
        (lambda: kernels.gabor(1.0), "wavelength is 1.0; expected 2 pixels"),
        (lambda: kernels.motion(0.5), "length is 0.5; expected 1 pixel"),
        (lambda: kernels.moffat(3.0, 1.0), "beta is 1.0; expected more than 1"),
        (lambda: kernels.airy(float("nan")), "radius is nan"),
        (lambda: kernels.gabor(2.0, phase=90), "no pixel of the kernel has any weight"),
        (lambda: kernels.gabor(4.0, size=1), "no pixel of the kernel has any weight"),
        (lambda: kernels.gaussian(0.01, 2), "no pixel of the kernel has any weight"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ConvolithError, match=message):
        call()

"""`filter_image` on plain pictures of every real dtype."""

import numpy as np
import pytest
import torch

import convolith as cl
from convolith import ConvolithError
from convolith.dtypes import COMPLEX, ITEMSIZE

REAL = [name for name in ITEMSIZE if name not in COMPLEX]


@pytest.mark.slow(quick=7)
@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 3)])
def test_every_real_dtype(dtype, shape):
    image = torch.arange(float(np.prod(shape))).reshape(shape).to(getattr(torch, dtype))
    kernel = [[0, 1, 0], [1, -4, 1], [0, 1, 0]]
    y = cl.filter_image(image, kernel, padding_mode="replicate")
    assert y.shape == image.shape
    assert y.dtype == (image.dtype if image.dtype.is_floating_point else torch.int64)
    planes = image.double().reshape(9, 7, -1)
    inner = y.double().reshape(9, 7, -1)[1:-1, 1:-1]
    expected = planes[:-2, 1:-1] + planes[2:, 1:-1] + planes[1:-1, :-2] + planes[1:-1, 2:] - 4 * planes[1:-1, 1:-1]
    torch.testing.assert_close(inner, expected, rtol=1e-2, atol=2.0 if dtype == "bfloat16" else 0.5)
    if dtype != "bfloat16":
        np.testing.assert_array_equal(cl.filter_image(image.numpy(), kernel, padding_mode="replicate"), y.numpy())


def test_booleans_count_as_zero_and_one():
    mask = np.eye(4, dtype=bool)
    counts = cl.filter_image(mask, np.ones((3, 3), int))
    assert counts.dtype == np.int64
    assert counts[1, 1] == 3
    assert torch.equal(cl.filter_image(torch.from_numpy(mask), np.ones((3, 3), int)), torch.from_numpy(counts))


def test_a_float_image_keeps_its_dtype_beside_a_float64_kernel():
    image = np.ones((5, 5), np.float32)
    assert cl.filter_image(image, np.ones((3, 3)) / 9).dtype == np.float32
    assert cl.filter_image(image.astype(np.uint8), np.ones((3, 3)) / 9).dtype == np.float64


def test_options_reach_through():
    rng = np.random.default_rng(0)
    image, kernel = rng.normal(size=(12, 10)), rng.normal(size=(3, 2))
    for options in (
        {"padding": "valid"},
        {"stride": 2},
        {"dilation": (2, 1), "padding": "full"},
        {"flip": True},
        {"engine": "reference"},
        {"accuracy": "double"},
    ):
        expected = cl.correlate(image[None], kernel[None, None], **({"padding": "same"} | options))[0]
        np.testing.assert_allclose(cl.filter_image(image, kernel, **options), expected, atol=1e-12)


def test_images_and_kernels_that_are_refused():
    for image, kernel, message in [
        ([[1, 2]], [[1]], "image is a list"),
        (np.ones((2, 2, 2, 2)), [[1]], r"image has shape \(2, 2, 2, 2\); expected \(H, W\) or \(H, W, channels\)"),
        (np.ones((4, 4)), [1, 2], r"kernel has shape \(2,\); expected \(height, width\)"),
        (np.ones((4, 4), complex), [[1]], "image or kernel is complex"),
        (np.ma.masked_array(np.ones((4, 4))), [[1]], "image is a masked array"),
    ]:
        with pytest.raises(ConvolithError, match=message):
            cl.filter_image(image, kernel)

"""`filter_image` on plain pictures of every real dtype."""

import warnings

import numpy as np
import pytest
import torch

import convolith as cl
from convolith import ConvolithError
from convolith.correlation.result_dtypes import convert
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


def test_stacks_signals_and_volumes():
    rng = np.random.default_rng(1)
    stack, kernel, line = rng.normal(size=(5, 12, 10)), rng.normal(size=(3, 3)), rng.normal(size=5)
    each = np.stack([cl.filter_image(picture, kernel) for picture in stack])
    np.testing.assert_allclose(cl.filter_image(stack, kernel, axes=(1, 2)), each, atol=1e-12)
    np.testing.assert_allclose(cl.filter_image(stack, kernel, channel_axis=0), each, atol=1e-12)
    turned = cl.filter_image(stack.transpose(1, 2, 0), kernel, channel_axis=-1)
    np.testing.assert_allclose(turned, each.transpose(1, 2, 0), atol=1e-12)
    np.testing.assert_allclose(
        cl.filter_image(stack, kernel.T, axes=(2, 1)), cl.filter_image(stack, kernel, axes=(1, 2)), atol=1e-12
    )
    signal = cl.filter_image(stack, line, axes=1)
    for place in np.ndindex(5, 10):
        one = cl.filter_image(stack[place[0], :, place[1]], line)
        np.testing.assert_allclose(signal[place[0], :, place[1]], one, atol=1e-12)
    volume = rng.normal(size=(3, 3, 3))
    whole = cl.correlate(stack[None], volume[None, None], padding="same")[0]
    np.testing.assert_allclose(cl.filter_image(stack, volume), whole, atol=1e-12)
    movie = cl.filter_image(np.stack([stack, 2 * stack]), volume, axes=(1, 2, 3))
    np.testing.assert_allclose(movie, np.stack([whole, 2 * whole]), atol=1e-12)


def test_axes_that_can_be_read_in_two_ways_are_refused():
    stack, kernel = np.ones((20, 64, 80)), np.ones((3, 3))
    both = r"20 pictures of 64x80 \(pass axes=\(1, 2\)\) or one of 20x64 with 80 channels \(pass channel_axis=-1\)"
    for options, message in [
        ({}, both),
        ({"axes": (0, 1), "channel_axis": 2}, r"axes is \(0, 1\) and channel_axis is 2; give one of them"),
        ({"axes": 1}, "axes is 1 but kernel has 2; expected one for each axis of the kernel"),
        ({"axes": (1, 1)}, r"axes is \(1, 1\); expected different axes of an image with 3 axes: -3 to 2"),
        ({"axes": (1, 3)}, r"axes is \(1, 3\); expected different axes"),
        ({"axes": "ab"}, "axes is .*expected a whole number"),
        ({"channel_axis": 5}, "channel_axis is 5; expected different axes"),
    ]:
        with pytest.raises(ConvolithError, match=message):
            cl.filter_image(stack, kernel, **options)


def test_images_and_kernels_that_are_refused():
    for image, kernel, message in [
        ("photo.png", [[1]], "image is a str; expected a NumPy array"),
        (np.ones((2, 2, 2, 2)), [[1]], r"image has shape \(2, 2, 2, 2\) and kernel 2 axes; pass the axes of image"),
        (
            np.ones((4, 4)),
            [1, 2],
            "pass the axis of image that the kernel runs along, such as axes=(-1,)".replace("(", r"\(").replace(
                ")", r"\)"
            ),
        ),
        (np.ones(4), [[1]], "expected an image with as many, or more"),
        (np.ones((4, 4)), 3.0, r"kernel has shape \(\); expected 1 to 3 axes"),
        (np.ones((4, 4), complex), [[1]], "image or kernel is complex"),
        (np.ma.masked_array(np.ones((4, 4))), [[1]], "image is a masked array; say what"),
    ]:
        with pytest.raises(ConvolithError, match=message):
            cl.filter_image(image, kernel)


@pytest.mark.parametrize("floats", [np.float32, np.float64])
@pytest.mark.parametrize("integers", ["uint8", "int8", "uint16", "int16", "int32"])
@pytest.mark.parametrize("count", [0, 1, 7, 9, 1000, 300_001])
def test_results_are_rounded_half_to_even_and_clipped_with_a_count(floats, integers, count):
    values = (np.random.default_rng(count).normal(size=count) * 40_000).astype(floats)
    if count > 5:
        values[:5] = 3.5, np.nan, np.inf, -np.inf, 2.5
    limits, rounded = np.iinfo(integers), np.rint(values)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = convert(torch.from_numpy(values), integers).numpy()
    high = rounded >= float(limits.max) + 1
    low = rounded < limits.min
    inside = np.where(np.isnan(values) | low | high, 0, rounded).astype(integers)
    np.testing.assert_array_equal(found, np.where(low, limits.min, np.where(high, limits.max, inside)))
    counts = [int((low | high).sum()), int(np.isnan(values).sum())]
    told = [int(str(one.message).partition(" of")[0].replace(",", "")) for one in said]
    assert told == [number for number in counts if number]


def called_often(picture, kernels, **options):
    """Filter with each kernel in turn, several times, and compare with the reference."""
    for turn in range(4):
        for kernel in kernels:
            found = cl.filter_image(picture, kernel, **options)
            expected = cl.filter_image(picture, kernel, **options, engine="reference")
            assert found.dtype == expected.dtype
            assert found.shape == expected.shape
            wrong = np.abs(np.asarray(found, float) - np.asarray(expected, float))
            assert np.nanmax(wrong) <= (1 if found.dtype.kind in "iu" else 1e-4), (turn, np.nanmax(wrong))
            np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))


LINE = np.hanning(9)[1:-1].astype(np.float32)
KERNELS = [np.outer(LINE, LINE) / 16, np.random.default_rng(1).normal(size=(7, 7)).astype(np.float32) / 49]


@pytest.mark.slow(quick=28)
@pytest.mark.parametrize("shape", [(50, 60), (50, 60, 3), (130, 140, 4), (5, 40, 30)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int16"])
@pytest.mark.parametrize("options", [{}, {"dtype": np.uint8}, {"flip": True, "stride": 2}, {"padding_mode": "mirror"}])
@pytest.mark.filterwarnings("ignore:.*lie outside")
def test_repeated_calls_are_as_the_first(shape, dtype, options):
    picture = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    if len(shape) == 3 and shape[0] == 5:
        options = options | {"axes": (1, 2)}
    called_often(picture, KERNELS, **options)


def test_repeated_calls_see_missing_pixels_and_other_kinds_of_options():
    picture = np.random.default_rng(2).normal(size=(300, 300)).astype(np.float32)
    kernel = np.random.default_rng(3).normal(size=(41, 41)).astype(np.float32) / 41
    for _ in range(3):
        assert not np.isnan(cl.filter_image(picture, kernel)).any()
    picture[100, 120] = np.nan
    holes = np.isnan(cl.filter_image(picture, kernel))
    assert holes.sum() == 41 * 41
    assert holes[80:121, 100:141].all()
    for _ in range(2):
        cl.filter_image(picture, kernel, stride=1)
    with pytest.raises(ConvolithError, match="stride"):
        cl.filter_image(picture, kernel, stride=1.0)
    tensor = torch.from_numpy(picture[:20, :20]).requires_grad_()
    for _ in range(3):
        cl.filter_image(tensor, torch.ones(3, 3)).sum().backward()
    assert float(tensor.grad[5, 5]) == 27
    assert isinstance(cl.filter_image(tensor.detach(), torch.ones(3, 3)), torch.Tensor)
    for _ in range(3):
        assert isinstance(cl.filter_image(picture[:20, :20], np.ones((3, 3), np.float32)), np.ndarray)
        assert cl.filter_image(picture[::-1, ::-2], np.ones((3, 3), np.float32)).shape == (300, 150)


@pytest.mark.parametrize("size", [3, 9, 21])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_repeated_calls_see_kernels_that_were_written_to(size, dtype):
    rng = np.random.default_rng(4)
    picture = rng.integers(0, 200, (64, 70)).astype(dtype)
    kernel = rng.normal(size=(size, size)).astype(np.float32) / size
    first, copy = cl.filter_image(picture, kernel), kernel.copy()
    for _ in range(4):
        np.testing.assert_allclose(cl.filter_image(picture, kernel), first, rtol=1e-4, atol=1e-2)
    kernel *= 2
    np.testing.assert_allclose(cl.filter_image(picture, kernel), 2 * first, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(cl.filter_image(picture, copy), first, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(cl.filter_image(picture, copy.T.copy().T), first, rtol=1e-4, atol=1e-2)
    cl.clear_caches()
    np.testing.assert_allclose(cl.filter_image(picture, copy), first, rtol=1e-4, atol=1e-2)


def test_options_in_tensors_are_read_anew():
    picture, amount = np.arange(30.0).reshape(5, 6), torch.tensor([1, 1])
    for _ in range(3):
        assert cl.filter_image(picture, np.ones((3, 3)), padding=amount).shape == (5, 6)
    amount += 1
    assert cl.filter_image(picture, np.ones((3, 3)), padding=amount).shape == (7, 8)


def test_empty_stacks_and_other_default_devices():
    kernel = np.outer(LINE, LINE)
    for _ in range(3):
        assert cl.filter_image(np.zeros((0, 20, 20), np.float32), kernel, axes=(1, 2)).shape == (0, 20, 20)
    picture = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    expected = cl.filter_image(picture, kernel)
    with torch.device("meta"):
        for _ in range(3):
            np.testing.assert_allclose(cl.filter_image(picture, kernel), expected, atol=1e-5)


BEYOND = np.full((6, 7), 2**63 + 5, np.uint64)


@pytest.mark.parametrize("kernel", [[[1]], np.array([[1]]), np.array([[1]], np.int8), np.array([[0, 0, 1]])])
def test_whole_numbers_that_wrap_around_are_counted(kernel):
    for _ in range(3):  # the second call is found in the cache, the third with a prepared kernel
        with pytest.warns(RuntimeWarning, match=r"results lie outside int64 and wrap around; pass dtype=numpy.uint64"):
            cl.filter_image(BEYOND, kernel)
        y = cl.filter_image(BEYOND, kernel, dtype=np.uint64)
        shift = np.asarray(kernel).shape[1] // 2
        np.testing.assert_array_equal(y[:, : 7 - shift], BEYOND[:, shift:])


def test_whole_numbers_beyond_a_named_dtype_are_clipped():
    with pytest.warns(RuntimeWarning, match="42 of 42 results lie outside int64 .*: clipped"):
        assert (cl.filter_image(BEYOND, [[1]], dtype=np.int64) == 2**63 - 1).all()
    with pytest.warns(RuntimeWarning, match="42 of 42 results lie outside uint64 .*: clipped"):
        assert (cl.filter_image(BEYOND, np.array([[2]], np.uint64), dtype=np.uint64) == 2**64 - 1).all()
    with pytest.warns(RuntimeWarning, match="42 of 42 results lie outside int8 .*: clipped"):
        assert (cl.filter_image(BEYOND, [[-1]], dtype=np.int8) == -128).all()
    line = np.full((1, 5), 2**62)
    with pytest.warns(RuntimeWarning, match="5 of 5 results lie outside int64 and wrap around"):
        cl.filter_image(line, [[1, 1, 1]])
    with pytest.warns(RuntimeWarning, match="1 of 5 results lie outside int64 .*pass dtype=numpy.float64"):
        cl.filter_image(np.array([[2**62, 2**62, 0, 0, -1]]), [[1, 1]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cl.filter_image(np.array([[2**62, 2**62 - 1]]), [[1, 1]])[0, 0] == 2**63 - 1  # the last that fits
        cl.filter_image(line, [[1, -1]])  # whose bound is exceeded, but no result


@pytest.mark.parametrize(
    ("image", "kernel", "options", "message"),
    [
        (np.float32, 1e300, {}, "30 of 30 results are not finite, since kernel has values beyond float32"),
        (np.float64, 1.0, {"dtype": np.float32}, "30 of 30 results are not finite, since image has values beyond float32"),
        (np.float16, 1e5, {}, "30 of 30 results are not finite, since kernel has values beyond float16"),
        (np.float16, 6e4, {}, "30 of 30 results are not finite, since sums lie beyond float16"),
    ],
)  # fmt: skip
def test_floats_beyond_a_dtype_are_counted_once(image, kernel, options, message):
    picture = np.full((5, 6), 1e154 if image is np.float64 else 2.0, image)
    for _ in range(3):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            cl.filter_image(picture, np.full((3, 3), kernel), **options)
        assert [message in str(one.message) for one in said] == [True]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cl.filter_image(np.full((5, 6), np.inf, image), np.ones((3, 3)), **options)  # infinite before


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ConvolithError, match=r"mask has shape \(4, 5\); expected that of image, \(5, 6\)"):
        cl.filter_image(np.ones((5, 6)), np.ones((3, 3)), mask=np.zeros((4, 5), bool))

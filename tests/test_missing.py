"""Missing elements: NaN and masks, left out, filled in, or spread over just the windows that read them."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage

import convolith as cl
from convolith import ConvolithError


def holed(shape, seed=0, share=0.1, dtype=float):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape).astype(dtype)
    x[rng.random(shape) < share] = np.nan
    return x


def omitted(x, k, valid_outside=True):
    """The normalised convolution, from its definition, with zeros around that count as being there."""
    total, reach = k.sum(), [n // 2 for n in k.shape]
    values = np.pad(np.nan_to_num(x), [(n, n) for n in reach])
    there = np.pad((~np.isnan(x)).astype(float), [(n, n) for n in reach], constant_values=float(valid_outside))
    y = np.empty_like(x)
    for place in np.ndindex(*x.shape):
        window = tuple(slice(p, p + n) for p, n in zip(place, k.shape, strict=True))
        met = (k * there[window]).sum()
        y[place] = total * (k * values[window]).sum() / met if met else np.nan
    return y


@pytest.mark.parametrize("kernel_size", [(3, 3), (5, 7), (21, 21)])
def test_omit_is_the_normalised_convolution(kernel_size):
    x, k = holed((31, 26)), np.random.default_rng(1).random(kernel_size)
    np.testing.assert_allclose(cl.filter_image(x, k, nan="omit"), omitted(x, k), atol=1e-9)
    np.testing.assert_allclose(
        cl.correlate(x[None], k[None, None], padding="same", nan="omit")[0], omitted(x, k), atol=1e-9
    )


@pytest.mark.parametrize("boundary", ["fill", "extend", "wrap"])
def test_omit_agrees_with_astropy(boundary):
    convolution = pytest.importorskip("astropy.convolution")
    x, k = holed((40, 37), seed=2), np.outer(*[np.hanning(9)[1:-1]] * 2)
    mode = {"fill": "zeros", "extend": "replicate", "wrap": "circular"}[boundary]
    expected = convolution.convolve(x, k, boundary=boundary, fill_value=0.0, nan_treatment="interpolate")
    found = cl.filter_image(x, k / k.sum(), padding_mode=mode, nan="omit", flip=True)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_masks_and_masked_arrays_are_as_nan():
    same = partial(np.testing.assert_allclose, rtol=0, atol=1e-13)  # a kernel that recurs may change the engine
    x, k = holed((20, 30), seed=3), np.ones((3, 3)) / 9
    mask = np.isnan(x)
    filled = np.where(mask, 1e9, x)
    for choice in ("omit", "interpolate", "propagate"):
        expected = cl.filter_image(x, k, nan=choice)
        same(cl.filter_image(filled, k, nan=choice, mask=mask), expected)
        if choice != "propagate":
            same(cl.filter_image(np.ma.masked_array(filled, mask), k, nan=choice), expected)
            columns = cl.correlate(np.ma.masked_array(filled, mask)[None], k[None, None], padding="same", nan=choice)[0]
            same(columns, expected)
    tensor = cl.filter_image(torch.from_numpy(filled), k, nan="omit", mask=torch.from_numpy(mask))
    same(tensor.numpy(), cl.filter_image(x, k, nan="omit"))
    whole = np.arange(30).reshape(5, 6)
    np.testing.assert_allclose(
        cl.filter_image(whole, k, nan="omit", mask=whole == 7), omitted(np.where(whole == 7, np.nan, whole), k)
    )


def test_a_mask_of_one_picture_broadcasts_over_its_channels():
    x = np.random.default_rng(4).random((12, 9, 3))
    mask = np.zeros((12, 9, 1), bool)
    mask[3:5, 2] = True
    y = cl.filter_image(x, np.ones((3, 3)), nan="omit", mask=mask)
    for channel in range(3):
        one = cl.filter_image(x[..., channel], np.ones((3, 3)), nan="omit", mask=mask[..., 0])
        np.testing.assert_allclose(y[..., channel], one)


def test_channels_with_their_own_holes():
    x, k = holed((2, 4, 11, 9), seed=5), np.random.default_rng(6).random((6, 2, 3, 3))
    bias = np.arange(6.0)
    y = cl.correlate(x, k, bias, padding=1, groups=2, stride=2, nan="omit")
    there = (~np.isnan(x)).astype(float)
    options = {"groups": 2, "stride": 2}
    plain = cl.correlate(np.pad(np.nan_to_num(x), [(0, 0), (0, 0), (1, 1), (1, 1)]), k, **options)
    met = cl.correlate(np.pad(there, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=1), k, **options)
    expected = plain * k.sum((1, 2, 3))[:, None, None] / met + bias[:, None, None]
    np.testing.assert_allclose(y, expected, atol=1e-9)


def test_interpolate_fills_only_what_is_missing():
    x = np.random.default_rng(7).random((16, 17))
    gap = x.copy()
    gap[4, 5] = np.nan
    k = np.array([[0, 1, 0], [1, -4.0, 1], [0, 1, 0]])  # sums to zero: no weights to divide by
    filled = gap.copy()
    around = [x[3, 5], x[5, 5], x[4, 4], x[4, 6]]
    filled[4, 5] = np.mean(around)
    y = cl.filter_image(gap, k, nan="interpolate", padding_mode="symmetric")
    np.testing.assert_allclose(y, cl.filter_image(filled, k, padding_mode="symmetric"), atol=1e-12)
    with pytest.raises(ConvolithError, match='kernel sums to 0, so that nan="omit" has no weights to divide by'):
        cl.filter_image(gap, k, nan="omit")


def test_pictures_without_any_element_are_nan():
    x = np.full((9, 9), np.nan)
    for choice in ("omit", "interpolate"):
        for mode in ("replicate", "zeros"):  # zeros around count as being there, but say nothing of the picture
            with pytest.warns(RuntimeWarning, match="all pixels of image are missing; so are the results"):
                y = cl.filter_image(x, np.ones((3, 3)), nan=choice, padding_mode=mode)
            assert np.isnan(y).all()
    whole, every = np.ones((9, 9)), np.ones((9, 9), bool)
    for options in ({"nan": "omit"}, {"nan": "interpolate"}, {}):
        with pytest.warns(RuntimeWarning, match="all pixels of image are missing"):
            assert np.isnan(cl.filter_image(whole, np.ones((3, 3)), mask=every, **options)).all()
    with pytest.warns(RuntimeWarning, match="all pixels of image are missing"):
        cl.filter_image(np.ma.masked_array(whole, every), np.ones((3, 3)), nan="omit")
    with pytest.warns(RuntimeWarning, match="all pixels of image are missing in 1 of 3 pictures"):
        y = cl.filter_image(np.stack([whole, x, whole]), np.ones((3, 3)), axes=(1, 2), nan="omit")
    assert np.isnan(y).all((1, 2)).tolist() == [False, True, False]
    with pytest.warns(RuntimeWarning, match="all pixels of x are missing in 1 of 2 pictures"):
        y = cl.correlate(np.stack([whole, x]), np.ones((4, 1, 3, 3)), padding=1, groups=2, nan="omit")
    assert np.isnan(y).all((1, 2)).tolist() == [False, False, True, True]


def test_windows_without_any_element_are_nan():
    x = np.full((9, 9), np.nan)
    x[0, 0] = 1.0
    y = cl.filter_image(x, np.ones((3, 3)), nan="omit")  # zeros around count
    assert np.isnan(y[2:-1, 2:-1]).all()
    assert (y[-1] == 0).all()


def test_half_types_under_omit_and_interpolate():
    x = np.random.default_rng(20).random((20, 30)).astype(np.float16)
    x[4, 5] = np.nan
    for choice in ("omit", "interpolate"):
        k = np.full((3, 3), 20000.0 / 9)  # whose sums of products are within float16, unlike those of |k|
        wide = cl.filter_image(x.astype(float), 3 * k, nan=choice, padding_mode="symmetric")
        for image in (x, torch.from_numpy(x), torch.from_numpy(x).to(torch.bfloat16)):
            y = cl.filter_image(image, 3 * k, nan=choice, padding_mode="symmetric")
            assert y.dtype == image.dtype
            np.testing.assert_allclose(np.asarray(torch.as_tensor(y).double()), wide, rtol=0.02)
    big = np.full((3, 3), 20000.0)
    y = cl.filter_image(x / np.float16(4), big, nan="omit")
    assert np.isfinite(y).all()


def test_a_kernel_without_weights_leaves_no_holes():
    x = holed((12, 13), seed=21)
    np.testing.assert_array_equal(cl.filter_image(x, np.zeros((3, 3)), nan="interpolate"), np.zeros((12, 13)))


def test_a_mask_of_one_picture_for_several_channels_is_explained():
    with pytest.raises(ConvolithError, match=r"mask has shape \(12, 9\).*pass mask\[\.\.\., None\]"):
        cl.filter_image(np.ones((12, 9, 3)), np.ones((3, 3)), mask=np.zeros((12, 9), bool))


def test_complex_results_have_no_real_dtype():
    x = np.ones((1, 5)) * 1j
    for dtype in ("float32", "float64", "uint8"):
        with pytest.raises(ConvolithError, match=f"dtype is {dtype} but the result is complex128"):
            cl.correlate(x, np.ones((1, 1, 3), complex), dtype=dtype)
    with pytest.raises(ConvolithError, match="dtype is float32 but the result is complex128"):
        cl.correlate(x.real, np.ones((1, 1, 3)) * 1j, dtype="float32")


@pytest.mark.parametrize("size", [3, 9, 31, 63])
@pytest.mark.parametrize("mode", ["zeros", "symmetric", "circular"])
def test_by_default_nan_reaches_what_scipy_lets_it_reach(size, mode):
    x = np.random.default_rng(8).normal(size=(120, 140)).astype(np.float32)
    x[:, 50] = np.nan
    x[7, 8] = np.nan
    k = np.random.default_rng(9).normal(size=(size, size)).astype(np.float32)
    theirs = {"zeros": "constant", "symmetric": "reflect", "circular": "wrap"}[mode]
    for kernel in (k, np.outer(k[0], k[1])):  # by tiles, and by columns and rows
        expected = ndimage.correlate(x.astype(float), kernel.astype(float), mode=theirs)
        for y in (
            cl.filter_image(x, kernel, padding_mode=mode),
            cl.correlate(x[None], kernel[None, None], padding="same", padding_mode=mode)[0],
        ):
            np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
            np.testing.assert_allclose(y, expected, atol=1e-5 * np.abs(k).sum(), rtol=1e-4)


@pytest.mark.parametrize("engine", ["fft", "winograd_2x2", "winograd_4x4", "direct", "aten"])
def test_nan_stays_in_its_windows_by_engines_given_by_name(engine):
    rng = np.random.default_rng(13)
    x, k = rng.normal(size=(1, 4, 40, 41)), rng.normal(size=(6, 4, 3, 3))
    x[0, 1, 20, 20] = np.nan
    y = cl.correlate(x, k, padding="same", engine=engine, accuracy="fast")
    expected = cl.correlate(x, k, padding="same", engine="reference")
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
    np.testing.assert_allclose(y, expected, atol=1e-10)
    assert np.isnan(cl.filter_image(x[0, 1], k[0, 0], engine=engine, accuracy="fast")).sum() == 9


def test_infinity_beside_nan_stays_in_its_windows():
    x = np.random.default_rng(10).normal(size=(80, 90))
    x[20, 30], x[60, 70] = np.inf, np.nan
    k = np.abs(np.random.default_rng(11).normal(size=(41, 41)))
    y = cl.filter_image(x, k)
    expected = ndimage.correlate(x, k, mode="constant")
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(y), np.isinf(expected))


def test_gradients_pass_by_the_missing_elements():
    x = torch.from_numpy(holed((1, 1, 9, 8), seed=12))
    k = torch.rand(1, 1, 3, 3, dtype=torch.float64).requires_grad_()
    y = cl.correlate(x, k, padding=1, nan="omit")
    y.nansum().backward()
    assert k.grad.isfinite().all()


def test_what_is_refused():
    x, k = np.ones((1, 5, 5)), np.ones((1, 1, 3, 3))
    for options, message in [
        ({"nan": "skip"}, "nan is 'skip'; expected one of propagate, omit, interpolate"),
        ({"mask": np.ones((1, 4, 5), bool)}, r"mask has shape \(1, 4, 5\); expected that of x, \(1, 5, 5\)"),
        ({"mask": np.ones((1, 5, 5))}, "mask has dtype float64; expected booleans"),
    ]:
        with pytest.raises(ConvolithError, match=message):
            cl.correlate(x, k, **options)
    with pytest.raises(ConvolithError, match="x is a masked array; say what its masked elements do"):
        cl.correlate(np.ma.masked_array(x), k)


def test_dtype_rounds_half_to_even_and_clips_with_a_count():
    x = np.array([[0, 1, 3, 200, 255]], np.uint8)
    with pytest.warns(RuntimeWarning, match=r"2 of 5 results lie outside uint8 \(0 to 255\): clipped"):
        y = cl.correlate(x, np.full((1, 1, 1), 1.5), dtype=np.uint8)
    assert y.dtype == np.uint8
    assert y.tolist() == [[0, 2, 4, 255, 255]]
    half = cl.correlate(x, np.full((1, 1, 1), 0.5), dtype="uint8")
    assert half.tolist() == [[0, 0, 2, 100, 128]]
    with pytest.warns(RuntimeWarning, match="results are NaN, which int16 does not have: 0 instead"):
        assert cl.correlate(np.array([[np.nan, 2.5]]), np.ones((1, 1, 1)), dtype="int16").tolist() == [[0, 2]]
    assert cl.correlate(x, np.ones((1, 1, 1), int), dtype=np.float32).dtype == np.float32
    wide = cl.correlate(np.float32([[1e-9, 1]]), np.float32([[[1, 1]]]), dtype="float64")
    assert wide.dtype == np.float64
    assert wide[0, 0] == 1 + np.float64(np.float32(1e-9))
    big = np.array([[2**62, -(2**62)]])
    with pytest.warns(RuntimeWarning, match="2 of 2 results lie outside uint8"):
        assert cl.correlate(big, np.ones((1, 1, 1), int), dtype="uint8").tolist() == [[255, 0]]


def test_out_is_written_in_place():
    image, kernel = np.random.default_rng(13).integers(0, 255, (20, 30, 3)).astype(np.uint8), np.ones((5, 5)) / 25
    out = np.zeros_like(image)
    assert cl.filter_image(image, kernel, out=out, padding_mode="symmetric") is out
    expected = ndimage.correlate(image.astype(float), kernel[..., None], mode="reflect")
    np.testing.assert_allclose(out, expected, atol=0.5 + 1e-9)
    for target, message in [
        (np.zeros((20, 30)), r"out has shape \(20, 30\)"),
        (image, "out shares memory with"),
        (np.zeros((20, 30, 3), complex), "complex"),
    ]:
        with pytest.raises(ConvolithError, match=message):
            cl.filter_image(image, kernel, out=target)


def test_nan_stays_in_its_windows_into_out_and_into_another_dtype():
    x = np.random.default_rng(14).normal(size=(1, 90, 91))
    x[0, 40, 41] = np.nan
    k = np.random.default_rng(15).normal(size=(1, 1, 35, 35))
    expected = cl.correlate(x, k, padding="same", engine="reference")
    out = np.empty_like(expected)
    assert cl.correlate(x, k, padding="same", out=out) is out
    narrow = cl.correlate(x, k, padding="same", dtype=np.float32)
    for found in (out, narrow, cl.correlate(x, cl.Conv(k, padding="same"))):
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32", "uint32", "int64"])
def test_results_at_the_limits_of_integer_dtypes(dtype):
    limits = np.iinfo(dtype)
    inside = [limits.min, limits.max, 0.5, 1.5, 2.5, limits.max - 0.5] if limits.bits <= 16 else [0.5, 1.5, 2.5]
    x = np.array([inside], float)
    expected = np.clip(np.rint(x), limits.min, limits.max).astype(dtype)
    np.testing.assert_array_equal(cl.correlate(x, np.ones((1, 1, 1)), dtype=dtype), expected)
    for beyond in (2.0 * limits.max + 2, 2.0 * limits.min - 2, 1e30):
        with pytest.warns(RuntimeWarning, match=f"1 of 2 results lie outside {dtype}"):
            y = cl.correlate(np.array([[beyond, 1.0]]), np.ones((1, 1, 1)), dtype=dtype)
        assert y[0, 0] == (limits.min if beyond < 0 else limits.max)

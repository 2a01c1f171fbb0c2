"""Arguments of correlate and convolve that are refused: the argument, what came, what was expected, what to do."""

import re

import numpy as np
import pytest
import torch

import convolith as cl
from convolith import Conv, ConvolithError

x, k = np.ones((1, 3, 8, 8)), np.ones((2, 3, 3, 3))


t, w = torch.ones(1, 3, 8, 8), torch.ones(2, 3, 3, 3)


CORRELATE = {
    "channels": (
        (np.ones((1, 4, 8, 8)), k),
        {},
        r"x has 4 channels \(shape \(1, 4, 8, 8\)\) but k expects 3 \(k.shape\[1\] \* groups\)",
    ),
    "a small x and k swapped": ((k, np.ones((1, 3, 8, 8))), {}, r"k spans 8 elements .* did you swap x and k\?"),
    "a signal and k swapped": ((np.ones((2, 3, 4)), np.ones((1, 3, 12))), {}, r"k spans 12 .* did you swap x and k\?"),
    "x and k swapped": ((k, np.ones((1, 3, 64, 64))), {}, r"k spans 64 elements .* did you swap x and k\?"),
    "one kernel without an axis": (
        (np.ones((3, 5, 5)), np.ones((3, 3, 3))),
        {},
        r"one kernel for its channels, pass k\[None\]",
    ),
    "a kernel with an axis less": ((x, np.ones((3, 3, 3))), {}, r"if k lacks an axis, add it with k\[None\]"),
    "channels last": ((np.ones((1, 8, 8, 3)), k), {}, r"is x channels-last\? pass x.movedim\(-1, -3\)"),
    "channels last, one axis": ((np.ones((8, 2)), np.ones((1, 2, 3))), {}, r"movedim\(-1, -2\)"),
    "kernel too large": (
        (np.ones((1, 3, 2, 2)), k),
        {},
        r"k spans 3 elements on spatial axis 0 .* the padded input has 2; use a larger padding",
    ),
    "dilated kernel too large": ((x, k), {"dilation": 5}, r"k spans 11 elements .* dilation 5"),
    "zero stride": ((x, k), {"stride": 0}, "stride is 0; expected 1 or more on every axis"),
    "negative stride": ((x, k), {"stride": (1, -1)}, r"stride is \(1, -1\); expected 1 or more"),
    "stride per axis": ((x, k), {"stride": (1, 1, 1)}, r"stride has 3 entries; expected one number, or 2"),
    "fractional stride": ((x, k), {"stride": 1.5}, "stride is 1.5; expected a whole number"),
    "groups of input": (
        (np.ones((1, 4, 8, 8)), np.ones((3, 2, 3, 3))),
        {"groups": 2},
        "groups is 2, which does not divide out_channels = 3",
    ),
    "zero groups": ((x, k), {"groups": 0}, "groups is 0; expected 1 or more"),
    "negative padding": ((x, k), {"padding": -1}, "padding is -1; expected 0 or more; to crop, slice x"),
    "padding name": ((x, k), {"padding": "SAME"}, "padding is 'SAME'; expected numbers or one of same, valid, full"),
    "padding per axis": ((x, k), {"padding": (1, 2, 3)}, "padding has 3 entries; expected one number, or 2"),
    "a pair on one axis": (
        (np.ones((1, 9)), np.ones((1, 1, 3))),
        {"padding": (1, 2)},
        r"a pair for the one axis is written \(\(1, 2\),\)",
    ),
    "padding of strings": ((x, k), {"padding": ("a", "b")}, "expected a whole number, one per axis"),
    "padding mode": (
        (x, k),
        {"padding_mode": "mirror"},
        "padding_mode is 'mirror', a word of another library; pass 'reflect'",
    ),
    "two float dtypes": (
        (x, k.astype(np.float32)),
        {},
        "x has dtype float64 but k has dtype float32: two different float dtypes; convert",
    ),
    "float and complex": ((x, k.astype(complex)), {}, "two different float dtypes"),
    "kinds": ((x, w), {}, "x is a NumPy array but k is a torch tensor; pass both of one kind"),
    "devices": ((t, w.to("meta")), {}, "x is on cpu but k is on meta; move one of them"),
    "masked array": (
        (np.ma.masked_array(x), k),
        {},
        "x is a masked array; say what its masked elements do: nan='omit'",
    ),
    "a string": (
        ("photo.png", k),
        {},
        r"x is a str; expected a NumPy array or a torch tensor; pass numpy.asarray\(x\)",
    ),
    "rows of different lengths": (([[1, 2], [3]], k), {}, "x is .*; expected rows of equal length"),
    "a list of strings": (([["a"]], k), {}, "x is .*; expected nested lists of numbers"),
    "booleans": ((x > 0, k), {}, "x has dtype bool; expected one of .*; convert it, for example to uint8"),
    "strings": ((np.array(["a"]), k), {}, "x has dtype str"),
    "empty channels": (
        (np.ones((1, 0, 8, 8)), k),
        {},
        r"x has shape \(1, 0, 8, 8\); expected no empty channel or spatial axis \(only N may be 0\)",
    ),
    "empty axis": ((np.ones((1, 3, 0, 8)), k), {}, "expected no empty channel or spatial axis"),
    "empty kernel": ((x, np.ones((0, 3, 3, 3))), {}, "k has shape .*; expected no empty axis"),
    "axes of x": (
        (np.ones((8, 8)), k),
        {},
        r"x has shape \(8, 8\); expected \(N, in_channels, \*size\) or .* 2 spatial axes",
    ),
    "axes of k": ((x, np.ones((3, 3))), {}, r"k has shape \(3, 3\); expected \(out_channels, in_channels/groups"),
    "bias shape": ((x, k, np.ones(3)), {}, r"bias has shape \(3,\); expected \(2,\), one per output channel"),
    "bias dtype": ((x, k, np.ones(2, np.float32)), {}, "bias has dtype float32 but the result has float64"),
    "float bias of integers": (
        (x.astype(int), k.astype(int), np.ones(2)),
        {},
        "bias has dtype float64 but the result has int64",
    ),
    "engine": ((x, k), {"engine": "cudnn"}, "engine is 'cudnn'; expected auto or one of pointwise, direct"),
    "engine refuses": (
        (x, k),
        {"engine": "pointwise"},
        "engine 'pointwise' cannot compute this: kernel_size 3x3 is not 1; use engine='auto'",
    ),
    "accuracy": ((x, k), {"accuracy": "best"}, "accuracy is 'best'; expected one of exact, default, fast, double"),
    "sparse": ((t.to_sparse(), w), {}, r"x is a torch.sparse_coo tensor; expected a dense one; pass x.to_dense\(\)"),
}


@pytest.mark.parametrize(("arguments", "options", "message"), CORRELATE.values(), ids=CORRELATE)
def test_arguments_that_are_refused(arguments, options, message):
    with pytest.raises(ConvolithError, match=message):
        cl.correlate(*arguments, **options)


def test_an_error_is_a_value_error():
    assert issubclass(ConvolithError, ValueError)


def test_convolve_always_flips():
    with pytest.raises(ConvolithError, match="flip is False; convolve always flips"):
        cl.convolve(x, k, flip=False)


def test_messages_are_sentences_without_line_breaks():
    for arguments, options, _ in CORRELATE.values():
        with pytest.raises(ConvolithError) as caught:
            cl.correlate(*arguments, **options)
        assert not re.search(r"\n|  ", str(caught.value))


def test_things_of_another_kind():
    for call, message in [
        (lambda: Conv.from_module(torch.nn.Linear(2, 2)), "module is a Linear; expected a torch convolution"),
        (lambda: cl.filter_image(np.ones((4, 4)), [[1, 2], [3]]), "kernel is .*; expected rows of equal length"),
        (lambda: cl.cost(Conv(k), input_shape=5), "input_shape is 5; expected a shape such as"),
        (lambda: cl.cost(Conv(k), input_shape="abc"), "input_shape is 'abc'; expected a shape"),
        (lambda: cl.cost(Conv(k), input_shape=(1, 3, -8, 8)), "expected no negative numbers"),
        (lambda: cl.correlate(x, k, engine=[]), r"engine is \[\]; expected auto or one of"),
    ]:
        with pytest.raises(ConvolithError, match=message):
            call()


@pytest.mark.parametrize("stride", [2.0, (2, 2.0), np.float32(2), "2"])
def test_options_are_refused_whatever_was_called_before(stride):
    """2.0 equals 2 and has its hash, so that a cache of calls would take one for the other."""
    x, k = torch.ones(1, 1, 5, 5), torch.ones(1, 1, 3, 3)
    for _ in range(2):
        cl.correlate(x, k, stride=2)
        cl.correlate(x, k, stride=(2, 2))
        with pytest.raises(cl.ConvolithError, match=r"stride is .*; expected a whole number"):
            cl.correlate(x, k, stride=stride)


def test_true_is_one_as_an_option():
    x, k = torch.ones(1, 1, 5, 5), torch.ones(1, 1, 3, 3)
    for _ in range(2):
        assert cl.correlate(x, k, stride=True, groups=True, padding=True).shape == (1, 1, 5, 5)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("options", [{}, {"flip": True}, {"accuracy": "double"}, {"padding": "same", "padding_mode": "reflect"}, {"engine": "reference", "stride": 2}], ids=str)  # fmt: skip
@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_a_result_is_written_into_out(convert, options, batched):
    rng = np.random.default_rng(0)
    image, kernel, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 3, 8, 9), (4, 3, 3, 3), (4,)))
    image, kernel, bias = convert(image if batched else image[0]), convert(kernel), convert(bias)
    expected = cl.correlate(image, kernel, bias, **options)
    out = convert(np.full(expected.shape, np.nan, np.float32))
    assert cl.correlate(image, kernel, bias, **options, out=out) is out
    np.testing.assert_allclose(np.asarray(out), np.asarray(expected), rtol=1e-5, atol=1e-5)
    plane = convert(np.full((2, *expected.shape), np.nan, np.float32))[0]  # a part of something larger
    cl.correlate(image, kernel, bias, **options, out=plane)
    np.testing.assert_allclose(np.asarray(plane), np.asarray(expected), rtol=1e-5, atol=1e-5)


def test_integers_transposed_and_complex_results_are_written_too():
    for conv, image in (
        (Conv(np.ones((2, 1, 3, 3), np.int64)), np.arange(25).reshape(1, 1, 5, 5)),
        (Conv(np.ones((1, 2, 3, 3)), stride=2, transposed=True), np.ones((1, 1, 5, 5))),
        (Conv(np.full((2, 1, 3, 3), 1j)), np.ones((1, 1, 5, 5)) + 0j),
    ):
        expected = conv(image)
        out = np.zeros_like(expected)
        assert conv(image, out=out) is out
        np.testing.assert_array_equal(out, expected)


LOCKED = np.empty((1, 2, 6, 6))
LOCKED.setflags(write=False)
OUT = {
    "shape": (lambda: cl.correlate(x, k, out=np.empty((1, 2, 5, 6))), r"out has shape \(1, 2, 5, 6\) .* the result has"),
    "dtype": (lambda: cl.correlate(x, k, out=np.empty((1, 2, 6, 6), np.float32)), "dtype float32; the result has"),
    "kind": (lambda: cl.correlate(x, k, out=torch.empty(1, 2, 6, 6)), "x is a NumPy array but out is a torch tensor"),
    "locked": (lambda: cl.correlate(x, k, out=LOCKED), "out is read-only"),
    "overlap": (lambda: cl.correlate(t, torch.ones(3, 3, 1, 1), out=t), "out shares memory with x"),
    "gradients": (lambda: cl.correlate(t, w.clone().requires_grad_(), out=torch.empty(1, 2, 6, 6)), "together with gradients"),
    "a list": (lambda: cl.correlate(x, k, out=[1.0]), "out is a list"),
}  # fmt: skip


@pytest.mark.parametrize("name", OUT)
def test_places_for_a_result_that_are_refused(name):
    call, message = OUT[name]
    with pytest.raises(ConvolithError, match=message):
        call()


def test_lists_are_taken_wherever_arrays_are():
    x, k = [[1, 2, 3, 4]], [[[1, 10]]]
    assert cl.correlate(x, k).tolist() == [[21, 32, 43]]
    assert cl.correlate(np.float32(x), k, [0.5]).dtype == np.float32
    tensor = cl.correlate(torch.tensor(x, dtype=torch.float32), k, [1])
    assert tensor.tolist() == [[22, 33, 44]]
    assert cl.convolve(x, k, dtype="float32").tolist() == [[12, 23, 34]]
    edge = cl.Conv([[-1, 0, 1]], padding="same")
    assert edge.weight.shape == (1, 1, 1, 3)
    assert edge([[[1, 2, 4]]]).tolist() == [[[2, 3, -2]]]
    assert cl.compose(cl.Conv([[1, 2, 1]]), cl.Conv([[1], [2], [1]])).conv.kernel_size == (3, 3)
    assert cl.filter_image([[0, 1, 0]], [[1, 2, 3]]).tolist() == [[3, 2, 1]]

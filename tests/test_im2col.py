"""Layers as products of gathered rows: strides, dilations and borders at the edges of tiles, and the planner's choice."""

import pytest
import torch

from convolith import ConvolithError, ConvSpec, plan
from convolith.engines.im2col.engine import im2col
from convolith.jit.target import host, widths
from tests.oracle import compare
from tests.strategies import arrays_for

WIDTHS = [pytest.param(width, id=width) for width in widths()]


def check(width: str, number: int, **options) -> None:
    spec = ConvSpec(**options)
    x, kernel, bias = arrays_for(spec, number)
    compare(im2col, spec, im2col.prepare_for(host(width), spec, kernel), x, kernel, bias)


@pytest.mark.slow(quick=9)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("width", WIDTHS)
def test_rows_of_any_length(width, stride, dtype):
    """Positions of a vector lie in one row, or in several: short rows, rows around a vector, long ones."""
    for number, length in enumerate((1, 2, 7, 8, 9, 14, 23, 24, 25, 31, 70)):
        size = (9, (length - 1) * stride + 3)
        options = {"in_channels": 3, "out_channels": 13, "kernel_size": 3, "stride": stride, "size": size}
        check(width, number, batch=1 + number % 2, dtype=dtype, **options)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "options",
    [
        {"size": (40,), "kernel_size": (5,), "stride": (2,), "padding": (2,)},
        {"size": (33, 33), "kernel_size": (3, 3), "padding": (6, 6), "dilation": (6, 6)},
        {"size": (20, 21), "kernel_size": (3, 2), "padding": ((1, 2), (0, 1)), "stride": (1, 2), "groups": 2},
        {"size": (20, 21), "kernel_size": (3, 3), "padding": (2, 2), "padding_mode": "reflect", "stride": (2, 2)},
        {"size": (6, 7, 8), "kernel_size": (2, 3, 3), "padding": (1, 1, 1), "stride": (2, 1, 2)},
        {"size": (32, 32), "kernel_size": (8, 8), "stride": (8, 8)},
        {"size": (9, 10, 3), "kernel_size": (3, 3, 1), "padding": (1, 1, 0)},
        {"size": (9, 10, 3), "kernel_size": (3, 3, 1), "padding": (1, 1, 0), "padding_mode": "reflect"},
        {"size": (4, 4, 3), "kernel_size": (1, 2, 1), "stride": (1, 1, 2)},
        {"size": (5, 6, 5), "kernel_size": (1, 2, 1), "stride": (1, 1, 2)},
    ],
)
def test_every_geometry(width, options):
    for number, outs in enumerate((8, 16, 34)):
        check(width, number, batch=2, in_channels=4, out_channels=outs, **options)


def test_inputs_in_any_layout():
    spec = ConvSpec(in_channels=16, out_channels=32, size=(20, 20), kernel_size=3, stride=2, padding=1)
    x, k = torch.randn(spec.input_shape), torch.randn(spec.kernel_shape)
    run = plan(spec, engine="im2col")
    expected = torch.nn.functional.conv2d(x, k, stride=2, padding=1)
    for given in (x, x.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(run(given, k), expected, atol=1e-4, rtol=0)
    apart = torch.randn(1, 16, 20, 40)[..., ::2]
    torch.testing.assert_close(
        run(apart, k), torch.nn.functional.conv2d(apart, k, stride=2, padding=1), atol=1e-4, rtol=0
    )
    out = torch.empty(spec.output_shape)
    im2col.apply(im2col.prepare(spec, k), x, None, out)
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=0)


def test_what_it_leaves_to_other_engines():
    spec = ConvSpec(in_channels=4, out_channels=4, size=(9, 9), kernel_size=3)
    with pytest.raises(ConvolithError, match="fewer than 8 output channels per group"):
        plan(spec, engine="im2col")
    with pytest.raises(ConvolithError, match="a single tap"):
        plan(ConvSpec(in_channels=4, out_channels=8, size=(9, 9), kernel_size=1), engine="im2col")


def test_patches_are_gathered():
    spec = ConvSpec(in_channels=3, out_channels=384, size=(224, 224), kernel_size=16, stride=16)
    assert plan(spec).engine == "im2col"


def test_rows_that_would_leave_every_cache_are_refused():
    spec = ConvSpec(in_channels=512, out_channels=8, size=(128, 128), kernel_size=64)
    with pytest.raises(ConvolithError, match="the inputs of a few outputs take"):
        plan(spec, engine="im2col")
    small = ConvSpec(in_channels=64, out_channels=64, size=(20, 20), kernel_size=3)
    assert im2col.work(small).memory.forward.workspace >= 576 * 3 * 4 * 4

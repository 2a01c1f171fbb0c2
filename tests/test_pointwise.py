"""The generated matrix product at the edges of its tiles and panels, on narrower vectors, and on every layout."""

import numpy as np
import pytest
import torch

from convolith import ConvSpec
from convolith.engines.pointwise.engine import pointwise
from convolith.engines.pointwise.tiling import PointwiseRecipe, channel_tile, panel_rows
from convolith.jit.target import Target, host, widths
from tests.oracle import compare
from tests.strategies import arrays_for
from tests.test_direct import LAYOUTS

WIDTHS = [pytest.param(width, id=width) for width in widths()]
DTYPES = ["float32", "float64"]


def layer(ins: int, outs: int, size: tuple[int, ...], **options) -> ConvSpec:
    return ConvSpec(in_channels=ins, out_channels=outs, size=size, kernel_size=1, **options)


def last(x: torch.Tensor) -> torch.Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def check(spec: ConvSpec, target: Target, seed: int = 0) -> None:
    """Both layouts, with a bias and without."""
    x, kernel, _ = arrays_for(spec, seed)
    bias = torch.randn(spec.out_channels, dtype=x.dtype)
    state = pointwise.prepare_for(target, spec, kernel)
    for given in (x, last(x)):
        for added in (None, bias):
            compare(pointwise, spec, state, given, kernel, added)


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_positions_around_the_tiles(width, dtype):
    """One compiled nest for all of them: sizes are arguments of the code."""
    target = host(width)
    lanes = PointwiseRecipe(dtype, 1).lanes(target)
    sizes = {k * lanes + n for k in range(9) for n in (-1, 0, 1, lanes // 2, lanes * 5 // 8)} | {500}
    for number, size in enumerate(sorted(sizes - {-1, 0})):
        check(layer(5, 11, (size,), batch=1 + number % 3, dtype=dtype), target, number)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_output_channels_around_the_panels(width, dtype):
    target = host(width)
    rows, shape = panel_rows(target), channel_tile(target, PointwiseRecipe(dtype, 1).lanes(target))
    outs = {k * rows + n for k in (0, 1, 2, shape.panels) for n in range(-1, rows)} - {-1, 0}
    for number, out in enumerate(sorted(outs)):
        check(layer(3, out, (2, 37), batch=2, dtype=dtype), target, number)


@pytest.mark.parametrize("ins", [1, 2, 3, 4, 5, 7, 8, 33, 300])
def test_input_channels_around_the_loop(ins):
    check(layer(ins, 20, (9, 10)), host())


@pytest.mark.parametrize("images", [1, 2, 7, 8, 9, 40])
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (7, 7)])
def test_small_images_share_tiles(images, size):
    check(layer(6, 35, size, batch=images), host())


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_any_number_of_threads(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check(layer(70, 130, (14, 14)), host())
        check(layer(64, 100, (40, 41), batch=3), host())
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "spec",
    [
        layer(6, 10, (31, 44), stride=2, batch=2),
        layer(4, 3, (31, 44), stride=(1, 3)),
        layer(5, 9, (64,), stride=5),
        layer(4, 7, (5, 9, 21), stride=(2, 1, 2), batch=2),
        layer(12, 18, (13, 14), groups=2, batch=2),
        layer(12, 4, (13, 14), groups=4, stride=2),
        layer(5, 5, (20, 20), groups=5),
    ],
    ids=["stride 2", "columns", "signal", "volume", "groups", "groups and stride", "a channel a group"],
)
def test_strides_and_groups(spec, width):
    check(spec, host(width))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(19, 40), (4, 2)])
def test_layouts(layout, size):
    spec = layer(3, 20, size, batch=2)
    x, kernel, bias = arrays_for(spec)
    compare(pointwise, spec, pointwise.prepare(spec, kernel), LAYOUTS[layout](x), kernel, bias)


@pytest.mark.parametrize("given", [lambda x: x, last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("size", [(9, 21), (7, 7), (1, 3)])
def test_nothing_is_read_or_written_beyond_the_arrays(size, given):
    """Guards of NaN around x stay out of y, and guards around y stay as they are."""
    spec = layer(5, 43, size, batch=2)
    x, kernel, _ = arrays_for(spec)
    guarded = torch.full((x.numel() + 2000,), torch.nan)
    inner = guarded[1000:-1000].as_strided(x.shape, given(x).stride(), 1000)
    inner.copy_(x)
    goal = torch.full((int(np.prod(spec.output_shape)) + 2000,), 7.0)
    strides = given(torch.empty(spec.output_shape)).stride()
    out = goal.as_strided(spec.output_shape, strides, 1000)
    assert pointwise.apply(pointwise.prepare(spec, kernel), inner, None, out) is out
    assert out.isfinite().all()
    assert (goal[:1000] == 7).all()
    assert (goal[-1000:] == 7).all()


@pytest.mark.parametrize("given", [lambda x: x, last], ids=["contiguous", "channels_last"])
def test_results_come_in_the_layout_of_x_and_fill_an_output_of_any(given):
    spec = layer(5, 12, (9, 10), batch=2)
    x, kernel, _ = arrays_for(spec)
    state = pointwise.prepare(spec, kernel)
    expected = pointwise.apply(state, given(x), None)
    assert expected.stride() == given(torch.empty(spec.output_shape)).stride()
    for layout in (lambda y: y, last, lambda y: y.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)):
        out = layout(torch.empty(spec.output_shape))
        assert pointwise.apply(state, given(x), None, out) is out
        torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("given", [lambda x: x, last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_value_that_is_not_finite_stays_at_its_position(given, value):
    spec = layer(6, 21, (7, 11))
    x, kernel, _ = arrays_for(spec)
    for place in (0, 40, 76):
        hurt = x.clone()
        hurt.view(6, -1)[3, place] = value
        y = pointwise.apply(pointwise.prepare(spec, kernel), given(hurt), None).reshape(21, -1)
        assert (~y.isfinite()).any(0).nonzero().flatten().tolist() == [place]
    kernel[20, 2] = value
    y = pointwise.apply(pointwise.prepare(spec, kernel), given(x), None).reshape(21, -1)
    assert (~y.isfinite()).any(1).nonzero().flatten().tolist() == [20]


def test_a_changed_size_compiles_nothing():
    specs = [layer(ins, outs, (n, n)) for ins, outs, n in ((3, 8, 7), (64, 64, 56), (1024, 256, 14))]
    states = [pointwise.prepare(spec, arrays_for(spec)[1]) for spec in specs]
    assert len({id(state.region) for state in states}) == 1


def test_every_task_is_done_by_some_thread():
    """Many tasks, which two threads divide and then take from each other."""
    spec = ConvSpec(batch=5, in_channels=40, out_channels=70, size=(56, 57), kernel_size=1)
    x, kernel, bias = arrays_for(spec)
    compare(pointwise, spec, pointwise.prepare(spec, kernel), x, kernel, bias)

"""The tiled engines at the edges of tiles, blocks and batches, on narrower vectors, odd layouts and many threads."""

import math
from dataclasses import replace

import pytest
import torch

from convolith import ConvSpec
from convolith.engines.error_bounds import error_scale
from convolith.engines.fft import engine as fft_engine
from convolith.engines.fft import tiling
from convolith.engines.fft.emit_transforms import passes
from convolith.engines.fft.engine import fft
from convolith.engines.fft.tiling import LENGTHS, Tiling
from convolith.engines.reference import reference
from convolith.engines.winograd.engine import winograd_2x2, winograd_4x4, winograd_6x6
from convolith.jit.target import host, widths
from tests.oracle import compare
from tests.strategies import arrays_for
from tests.test_direct import LAYOUTS

TILES = [pytest.param(engine, id=engine.name) for engine in (winograd_2x2, winograd_4x4, winograd_6x6)]


def layer(batch: int, ins: int, outs: int, size: tuple[int, int], **options) -> ConvSpec:
    return ConvSpec(batch=batch, in_channels=ins, out_channels=outs, size=size, kernel_size=3, **options)


SHAPES = {
    "one tile": (1, 2, 3, (4, 4)),
    "less than a tile": (1, 2, 3, (2, 2)),
    "a vector of tiles and one more": (1, 2, 3, (4, 36)),
    "rows of tiles that end in vectors": (3, 5, 9, (13, 31)),
    "tiles that run on over images": (9, 4, 4, (5, 5)),
    "channels by chunks and panels": (1, 130, 75, (9, 10)),
    "many blocks": (1, 3, 17, (120, 150)),
    "wide": (1, 2, 2, (3, 1000)),
    "tall": (1, 2, 2, (1000, 3)),
}


@pytest.mark.parametrize("padding", [0, 1, 2, ((0, 2), (1, 0)), ((3, 0), (0, 4))])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("engine", TILES)
def test_winograd_around_its_tiles_and_blocks(engine, shape, padding):
    grown = (2, 2) if padding == 0 else (0, 0)
    spec = layer(*shape[:3], tuple(n + g for n, g in zip(shape[3], grown)), padding=padding or 0)
    x, kernel, _ = arrays_for(spec)
    bias = torch.randn(spec.out_channels)
    compare(engine, spec, engine.prepare(spec, kernel), x, kernel, bias)


VOLUMES = {
    "padded": ((9, 13, 17), 3, {"padding": 1}),
    "unpadded": ((5, 11, 12), 3, {}),
    "one tap deep": ((4, 9, 20), (1, 3, 3), {"padding": (0, 1, 1)}),
    "stride and dilation along the depth": (
        (12, 9, 8),
        (3, 3, 3),
        {"stride": (2, 1, 1), "dilation": (3, 1, 1), "padding": ((4, 2), (1, 1), (0, 2))},
    ),
    "more padding than planes": ((2, 7, 9), (5, 3, 3), {"padding": (4, 1, 1)}),
    "a mirror": ((5, 7, 9), 3, {"padding": 1, "padding_mode": "reflect"}),
}


@pytest.mark.parametrize("case", VOLUMES)
@pytest.mark.parametrize("engine", TILES)
def test_winograd_of_volumes(engine, case):
    size, kernel_size, options = VOLUMES[case]
    spec = ConvSpec(batch=2, in_channels=5, out_channels=11, size=size, kernel_size=kernel_size, **options)
    x, kernel, _ = arrays_for(spec)
    bias = torch.randn(spec.out_channels)
    compare(engine, spec, engine.prepare(spec, kernel), x, kernel, bias)
    wide = torch.empty(2, 5, size[0], size[1], size[2] + 3)[..., 1:-2].copy_(x)
    compare(engine, spec, engine.prepare(spec, kernel), wide, kernel, bias)


@pytest.mark.parametrize("engine", TILES)
def test_winograd_computes_the_gradient_of_volumes(engine):
    x = torch.randn(1, 4, 5, 7, 8, requires_grad=True, dtype=torch.float64)
    k = torch.randn(6, 4, 3, 3, 3, dtype=torch.float64)
    torch.nn.functional.conv3d(x, k, padding=1).sum().backward()
    spec = ConvSpec(in_channels=6, out_channels=4, size=(5, 7, 8), kernel_size=3, padding=1, dtype="float64")
    state = engine.prepare(spec, k, adjoint=True)
    torch.testing.assert_close(engine.apply(state, torch.ones(1, 6, 5, 7, 8, dtype=torch.float64), None), x.grad)


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("width", widths())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("engine", TILES)
def test_winograd_on_every_vector_width(engine, dtype, width):
    for size in ((11, 13), (28, 28), (60, 50)):
        spec = layer(2, 9, 10, size, padding=1, dtype=dtype)
        x, kernel, bias = arrays_for(spec)
        compare(engine, spec, engine.prepare_for(host(width), spec, kernel), x, kernel, bias)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("engine", TILES)
def test_winograd_shared_by_any_number_of_threads(engine, threads):
    """In one stage for each block or in two for all, and by one thread alone where it is soon done."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for batch, ins, outs, size in ((1, 16, 16, 14), (3, 150, 9, 14), (1, 24, 40, 31), (2, 100, 70, 7)):
            spec = layer(batch, ins, outs, (size, size), padding=1)
            x, kernel, bias = arrays_for(spec)
            compare(engine, spec, engine.prepare(spec, kernel), x, kernel, bias)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("engine", [*TILES, pytest.param(fft, id="fft")])
def test_layouts(engine, layout):
    spec = layer(2, 3, 4, (19, 40), padding=1)
    x, kernel, bias = arrays_for(spec)
    compare(engine, spec, engine.prepare(spec, kernel), LAYOUTS[layout](x), kernel, bias)


@pytest.mark.parametrize("room", [1, 20_000, 100_000, tiling.WORKSPACE_BYTES])
@pytest.mark.parametrize(
    "spec",
    [
        ConvSpec(batch=3, in_channels=1, out_channels=1, size=(150, 170), kernel_size=(9, 11), padding=(4, 5)),
        ConvSpec(
            batch=2, in_channels=6, out_channels=4, groups=2, size=(40, 45), kernel_size=5, padding=((0, 3), (9, 1))
        ),
        ConvSpec(batch=2, in_channels=2, out_channels=3, size=3000, kernel_size=31, dilation=3, padding=45),
        ConvSpec(batch=1, in_channels=2, out_channels=2, size=(14, 15, 16), kernel_size=(3, 5, 4), padding=2),
        ConvSpec(
            batch=1, in_channels=1, out_channels=5, size=(70, 60), kernel_size=8, padding_mode="reflect", padding=3
        ),
    ],
    ids=["images", "groups", "signals", "volumes", "one to many"],
)
def test_fft_in_batches_of_any_size(spec, room, monkeypatch):
    monkeypatch.setattr(tiling, "WORKSPACE_BYTES", room)
    x, kernel, _ = arrays_for(spec)
    compare(fft, spec, fft.prepare(spec, kernel), x, kernel, torch.randn(spec.out_channels))


def test_fft_fills_an_output_of_any_layout():
    spec = ConvSpec(batch=2, in_channels=1, out_channels=2, size=(50, 40), kernel_size=7)
    x, kernel, _ = arrays_for(spec)
    state = fft.prepare(spec, kernel)
    expected = fft.apply(state, x, None)
    for out in (torch.empty(spec.output_shape), torch.empty(spec.output_shape[::-1]).permute(3, 2, 1, 0)):
        assert fft.apply(state, x, None, out) is out
        assert torch.equal(out, expected)


FOURIER = {
    "image": ConvSpec(
        batch=2, in_channels=1, out_channels=1, size=(61, 83), kernel_size=(9, 6), padding=((4, 0), (7, 3))
    ),
    "one to many": ConvSpec(in_channels=2, out_channels=6, size=(40, 33), kernel_size=7, groups=2, padding=3),
    "channels meet": ConvSpec(batch=2, in_channels=6, out_channels=10, size=(37, 20), kernel_size=5, groups=2),
    "signal": ConvSpec(batch=2, in_channels=1, out_channels=2, size=1000, kernel_size=40, padding=((30, 50),)),
    "signals meet": ConvSpec(in_channels=3, out_channels=4, size=300, kernel_size=21, dilation=2),
    "volume": ConvSpec(
        in_channels=2, out_channels=3, size=(9, 20, 18), kernel_size=(3, 4, 5), padding=2, dilation=(2, 1, 1)
    ),
}


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("width", widths())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("spec", FOURIER.values(), ids=FOURIER)
def test_fft_on_every_vector_width(spec, dtype, width):
    spec = replace(spec, dtype=dtype, kernel_dtype=dtype)
    x, kernel, _ = arrays_for(spec)
    bias = torch.randn(spec.out_channels, dtype=x.dtype)
    compare(fft, spec, fft.prepare_for(host(width), spec, kernel), x, kernel, bias)


@pytest.mark.parametrize("length", [n for n in LENGTHS if n <= 768])
def test_every_length_of_a_tile(length, monkeypatch):
    """Rows of one length and columns of another, and signals of both."""
    other = 16 if length > 256 else 48
    for rows, columns in ((length, other), (other, length)):
        spec = ConvSpec(in_channels=1, out_channels=1, size=(rows + 5, columns + 3), kernel_size=(5, 4), padding=2)
        steps = rows - 4, columns - 3
        check_tiles(monkeypatch, spec, Tiling(rows, columns, *steps, *map(pieces, spec.output_size, steps)))
        spec = ConvSpec(in_channels=1, out_channels=1, size=rows * columns + 70, kernel_size=17, padding=8)
        step = (rows * columns - 16) // columns
        down = pieces(pieces(spec.output_size[0], columns), step)
        check_tiles(monkeypatch, spec, Tiling(rows, columns, step, columns, down, 1))


def pieces(size: int, of: int) -> int:
    return math.ceil(size / of)


def check_tiles(monkeypatch, spec: ConvSpec, tiling: Tiling) -> None:
    monkeypatch.setattr(fft_engine, "tiling_of", lambda _: tiling)
    x, kernel, bias = arrays_for(spec)
    compare(fft, spec, fft.prepare(spec, kernel), x, kernel, bias)


def test_lengths_without_fast_passes_are_not_used():
    assert passes(7 * 16) is None
    assert passes(12) is None
    assert all(n % 16 == 0 for n in LENGTHS)


def test_signals_that_begin_and_end_anywhere_in_a_row():
    for size in (1, 5, 15, 16, 17, 31, 240, 241, 255, 256, 257, 1023):
        for before, after in ((0, 0), (1, 0), (0, 1), (15, 17), (16, 16), (40, 3)):
            taps = min(13, size + before + after)
            spec = ConvSpec(in_channels=1, out_channels=1, size=size, kernel_size=taps, padding=((before, after),))
            if taps > 1:
                x, kernel, bias = arrays_for(spec)
                compare(fft, spec, fft.prepare(spec, kernel), x, kernel, bias)


def test_an_image_does_not_touch_the_other_ones_of_its_batch():
    """Two tiles share a transform, but only tiles of one image: a dark image beside a bright one keeps its digits."""
    spec = ConvSpec(batch=2, in_channels=1, out_channels=1, size=(30, 30), kernel_size=9, padding=4)
    x, kernel, _ = arrays_for(spec)
    alone = fft.apply(fft.prepare(spec, kernel), x, None)
    x[0] *= 1e20
    x[0, 0, 3, 3] = float("nan")
    assert torch.equal(fft.apply(fft.prepare(spec, kernel), x, None)[1], alone[1])


def test_kernels_that_transforms_do_not_take_are_refused():
    huge = ConvSpec(in_channels=1, out_channels=1, size=(10_000, 2), kernel_size=(9000, 2))
    assert "larger than the largest tile" in fft.refuse(huge)
    many = ConvSpec(in_channels=512, out_channels=512, size=(40, 40), kernel_size=15)
    assert "the transformed kernel takes" in fft.refuse(many)


@pytest.mark.parametrize(("of_x", "of_k"), [(1e10, 1e-34), (1e-20, 1e-9), (1e25, 1e-30), (1e-30, 1e30), (1.0, 1e30)])
@pytest.mark.parametrize("channels", [1, 3])
def test_fft_keeps_its_bound_with_tiny_and_with_huge_kernels(of_x, of_k, channels):
    spec = ConvSpec(in_channels=channels, out_channels=2, size=(90, 80), kernel_size=15)
    x, kernel, _ = arrays_for(spec)
    x, kernel = x * of_x, kernel * of_k
    y = fft.apply(fft.prepare(spec, kernel), x, None)
    wide = replace(spec, dtype="float64", kernel_dtype="float64")
    expected = reference.apply(reference.prepare(wide, kernel.double()), x.double(), None)
    error = float((y.double() - expected).abs().max())
    assert error <= fft.error_bound(spec) * error_scale(spec, x, kernel)


def test_a_kernel_of_zeros_and_one_that_is_not_finite():
    spec = ConvSpec(in_channels=1, out_channels=1, size=(30, 30), kernel_size=5)
    x, kernel, _ = arrays_for(spec)
    assert not fft.apply(fft.prepare(spec, kernel * 0), x, None).any()
    kernel[0, 0, 2, 2] = float("inf")
    assert not fft.apply(fft.prepare(spec, kernel), x, None).isfinite().any()


@pytest.mark.parametrize(
    ("size", "kernel_size"),
    [((1, 700), (1, 41)), ((700, 1), (41, 1)), ((1, 60, 50), (1, 7, 9)), ((40, 1, 1), (5, 1, 1))],
)
def test_axes_with_one_place_are_left_out(size, kernel_size):
    spec = ConvSpec(batch=2, in_channels=2, out_channels=3, size=size, kernel_size=kernel_size)
    x, kernel, _ = arrays_for(spec)
    compare(fft, spec, fft.prepare(spec, kernel), x, kernel, torch.randn(3))
    many = [axis for axis, n in enumerate(size) if n > 1]
    less = replace(
        spec,
        **{
            name: tuple(getattr(spec, name)[axis] for axis in many)
            for name in ("size", "kernel_size", "stride", "padding", "dilation", "output_padding")
        },
    )
    assert fft.note(spec) == fft.note(less)


@pytest.mark.parametrize("engine", [pytest.param(fft, id="fft"), *TILES])
def test_threads_may_change_after_the_preparation(engine):
    spec = layer(4, 3, 5, (40, 41), padding=1)
    x, kernel, bias = arrays_for(spec)
    state, before = engine.prepare(spec, kernel), torch.get_num_threads()
    expected = engine.apply(state, x, bias)
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            assert torch.equal(engine.apply(state, x, bias), expected)
    finally:
        torch.set_num_threads(before)


def test_what_fft_cannot_hold_is_named():
    spec = ConvSpec(in_channels=1, out_channels=1, size=(256, 256), kernel_size=31, padding=15)
    named = float(fft.note(spec).split()[-1])
    x, kernel = torch.full(spec.input_shape, named / 4), torch.full(spec.kernel_shape, 1 / 961)
    assert fft.apply(fft.prepare(spec, kernel), x, None).isfinite().all()
    assert not fft.apply(fft.prepare(spec, kernel), x * 8, None).isfinite().all()

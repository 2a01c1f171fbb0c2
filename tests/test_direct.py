"""The generated direct sums at the edges of their tiles and blocks, on narrower vectors, and on odd layouts."""

from dataclasses import replace
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convolith import ConvSpec
from convolith.engines.direct import tiling
from convolith.engines.direct.engine import direct, recipe_of
from convolith.engines.error_bounds import error_scale
from convolith.jit.target import host, widths
from tests.oracle import compare
from tests.strategies import arrays_for

TARGETS = {width: host(width) for width in widths()}
TARGETS |= {f"{w}, rolling under masks": replace(t, vector_registers=32, masked_bytes=1) for w, t in TARGETS.items()}
LAYERS = {
    "3x3 on one channel": {"in_channels": 1, "out_channels": 1, "kernel_size": 3, "padding": 1},
    "depthwise, tall": {"in_channels": 3, "out_channels": 3, "groups": 3, "kernel_size": (11, 2), "padding": (5, 1)},
    "sums that roll": {"in_channels": 2, "out_channels": 2, "groups": 2, "kernel_size": (4, 7), "padding": (2, 3)},
    "sums that roll, dilated": {
        "in_channels": 1,
        "out_channels": 1,
        "kernel_size": (7, 4),
        "padding": 6,
        "dilation": (1, 3),
    },
    "several channels": {"in_channels": 3, "out_channels": 7, "kernel_size": (2, 5), "padding": (1, 2)},
    "depthwise, every second column": {
        "in_channels": 3,
        "out_channels": 3,
        "groups": 3,
        "kernel_size": 3,
        "stride": 2,
        "padding": 1,
    },
    "depthwise, every second column, many taps": {
        "in_channels": 2,
        "out_channels": 2,
        "groups": 2,
        "kernel_size": (5, 7),
        "stride": (1, 2),
        "dilation": (1, 3),
        "padding": (2, 9),
    },
    "strides and dilation": {
        "in_channels": 2,
        "out_channels": 2,
        "kernel_size": 3,
        "stride": (3, 2),
        "dilation": 2,
        "padding": 2,
    },
}


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_every_width_and_height_around_the_tiles(layer, target):
    """One compiled nest for all of them: sizes are arguments of the code."""
    lanes = target.lanes(4)
    sizes = sorted({n for k in range(1, 8) for n in (k * lanes - 1, k * lanes, k * lanes + 1)} | {5, 130, 1601})
    for number, size in enumerate(sizes):
        spec = ConvSpec(batch=1 + number % 2, size=(11 + number % 13, size), **LAYERS[layer])
        x, kernel, bias = arrays_for(spec, number)
        compare(direct, spec, direct.prepare_for(target, spec, kernel), x, kernel, bias)


@pytest.mark.slow
@pytest.mark.parametrize("height", [1, 2, 3, 7, 8, 63, 64, 65, 129])
def test_heights_around_the_blocks(height):
    spec = ConvSpec(in_channels=1, out_channels=1, size=(height, 150), kernel_size=3, padding=1)
    x, kernel, bias = arrays_for(spec, height)
    compare(direct, spec, direct.prepare(spec, kernel), x, kernel, bias)


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("misaligned", [0, 1])
@pytest.mark.parametrize("kernel_size", [2, 3, 5, 7])
def test_large_results_pass_the_caches_by_wherever_they_lie(kernel_size, misaligned):
    padding = (((kernel_size - 1) // 2, kernel_size // 2),) * 2
    spec = ConvSpec(in_channels=1, out_channels=1, size=(2050, 2048), kernel_size=kernel_size, padding=padding)
    count = prod(spec.output_shape)
    assert 4 * count >= tiling.LARGE_BYTES
    x, kernel, bias = arrays_for(spec, kernel_size)
    room = torch.full((count + 32,), torch.nan)
    out = room[-(room.data_ptr() // 4) % 16 + misaligned :][:count].view(spec.output_shape)
    direct.apply(direct.prepare(spec, kernel), x, bias, out)
    expected = torch.nn.functional.conv2d(torch.nn.functional.pad(x, padding[1] + padding[0]), kernel, bias)
    assert float((out - expected).abs().max()) < direct.error_bound(spec) * float(error_scale(spec, x, kernel) + 1)


VOLUMES = {
    "planes of zeros alone": {"kernel_size": (1, 4, 3), "padding": ((2, 1), (1, 2), (1, 6))},
    "planes beside the volume": {"kernel_size": (3, 3, 5), "padding": ((3, 4), (1, 1), (2, 2))},
    "planes apart": {"kernel_size": (3, 2, 2), "padding": (3, 1, 1), "dilation": (3, 1, 1), "stride": (2, 1, 1)},
}


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("layer", VOLUMES)
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_volumes_whose_sums_may_roll(layer, target):
    for number, size in enumerate([(1, 5, 9), (4, 17, 40), (7, 9, 130)]):
        spec = ConvSpec(in_channels=2, out_channels=2, groups=2, size=size, **VOLUMES[layer])
        assert recipe_of(spec, target).rolled is (target.vector_registers > 16)
        x, kernel, bias = arrays_for(spec, number)
        compare(direct, spec, direct.prepare_for(target, spec, kernel), x, kernel, bias)


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("size", [1, 2, 9, 95, 96, 97, 103, 104, 105, 1000, 5000])
@pytest.mark.parametrize("channels", [(1, 1), (3, 2)])
def test_signals_around_the_tiles(size, channels):
    spec = ConvSpec(in_channels=channels[0], out_channels=channels[1], size=size, kernel_size=9, padding=4)
    x, kernel, bias = arrays_for(spec, size)
    compare(direct, spec, direct.prepare(spec, kernel), x, kernel, bias)


BORDERS = {
    "wider than the kernel": ((5, 7), (9, 4)),
    "wider than a vector": ((1, 1), (40, 70)),
    "before only": ((2, 0), (2, 0)),
    "behind only": ((0, 3), (0, 3)),
}


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int16"])
@pytest.mark.parametrize("padding", BORDERS)
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_borders_of_every_shape(target, padding, dtype):
    """Read in place under masks or copied first, as the processor and the dtype have it."""
    for number, size in enumerate([(1, 1), (2, 3), (7, 15), (15, 16), (14, 33), (30, 100)]):
        spec = ConvSpec(
            in_channels=2,
            out_channels=2,
            groups=1 + number % 2,
            size=size,
            kernel_size=(3, 1 + 2 * (number % 2)),
            dilation=(1, 1 + number // 3),
            padding=BORDERS[padding],
            dtype=dtype,
            kernel_dtype="float32" if "int" in dtype else dtype,
        )
        x, kernel, bias = arrays_for(spec, number)
        compare(direct, spec, direct.prepare_for(target, spec, kernel), x, kernel, bias)


LAYOUTS = {
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "every second column": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "rows of a larger image": lambda x: torch.cat([x, x], 3)[..., : x.shape[3]],
    "every second channel": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "one image for all": lambda x: x[:1].expand(x.shape),
    "one row for all": lambda x: x[:, :, :1].expand(x.shape),
    "misaligned": lambda x: torch.cat([torch.zeros(1), x.flatten()])[1:].view(x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    spec = ConvSpec(batch=2, in_channels=3, out_channels=4, size=(19, 40), kernel_size=3, padding=1)
    x, kernel, bias = arrays_for(spec)
    x = LAYOUTS[layout](x)
    compare(direct, spec, direct.prepare(spec, kernel), x, kernel, bias)


def test_nothing_is_read_or_written_beyond_the_arrays():
    """Guards of NaN around x stay out of y, and guards around y stay as they are."""
    spec = ConvSpec(batch=1, in_channels=2, out_channels=3, size=(9, 21), kernel_size=3, padding=1)
    x, kernel, _ = arrays_for(spec)
    guarded = torch.full((x.numel() + 2000,), torch.nan)
    inner = guarded[1000:-1000].view(x.shape)
    inner.copy_(x)
    target = torch.full((int(np.prod(spec.output_shape)) + 2000,), 7.0)
    out = target[1000:-1000].view(spec.output_shape)
    direct.apply(direct.prepare(spec, kernel), inner, None, out)
    assert out.isfinite().all()
    assert (target[:1000] == 7).all()
    assert (target[-1000:] == 7).all()


def test_all_image_sizes_share_the_code_for_narrow_ones_and_that_for_wide_ones():
    """They are one where masks cost nothing (AVX-512), or where there are none."""
    specs = [
        ConvSpec(in_channels=c, out_channels=c, groups=c, size=(n, n), kernel_size=3, padding=1)
        for c, n in ((1, 4096), (1, 1000), (64, 7), (3, 40))
    ]
    assert len({recipe_of(spec, host()) for spec in specs}) == 1 + (1 < host().masked_bytes <= 4)


def test_long_steps_are_refused_with_a_reason():
    one = {"in_channels": 1, "out_channels": 1}
    assert direct.refuse(ConvSpec(**one, size=500, kernel_size=3, stride=17)) == "stride 17 is over 16"
    assert direct.refuse(ConvSpec(**one, size=500, kernel_size=3, stride=10**6)) is None  # one output: never taken
    far = ConvSpec(**one, size=2_000_000, kernel_size=3, dilation=900_000)
    assert direct.refuse(far).startswith("a block of inputs takes")


@pytest.mark.slow(quick=4)
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize(
    ("size", "kernel_size"),
    [((1, 700), (1, 41)), ((700, 1), (41, 1)), ((1, 30, 50), (1, 3, 9)), ((40, 1, 1), (5, 1, 1))],
)
def test_axes_with_one_place_are_left_out(size, kernel_size, dtype):
    spec = ConvSpec(
        batch=2, in_channels=2, out_channels=3, size=size, kernel_size=kernel_size, dtype=dtype, kernel_dtype="float32"
    )
    x, kernel, _ = arrays_for(spec)
    for array in (
        x,
        x.transpose(0, 1).contiguous().transpose(0, 1),
        x.transpose(-1, -2).contiguous().transpose(-1, -2),
    ):
        compare(direct, spec, direct.prepare(spec, kernel), array, kernel, torch.randn(3))


@pytest.mark.slow(quick=6)
@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("kernel_size", [5, 7])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
def test_columns_that_a_stride_splits(stride, kernel_size, dtype):
    spec = ConvSpec(
        in_channels=1, out_channels=1, size=70, kernel_size=kernel_size, stride=stride, padding=((3, 1),), dtype=dtype
    )
    x, kernel, _ = arrays_for(spec)
    compare(direct, spec, direct.prepare(spec, kernel), x, kernel, None)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_sums_are_rounded_clipped_and_counted_where_they_are_stored(data):
    draw = data.draw
    x_dtype = draw(st.sampled_from(["uint8", "int16", "uint16", "float32", "float64"]))
    k_dtype = x_dtype if x_dtype in ("float32", "float64") else draw(st.sampled_from(["float32", "float64"]))
    wanted = draw(st.sampled_from(["uint8", "int8", "uint16", "int16"]))
    size = tuple(draw(st.integers(1, 90)) for _ in range(draw(st.sampled_from([1, 2, 2, 2, 3]))))
    size = tuple(min(n, 12) for n in size) if len(size) == 3 else size
    kernel_size = tuple(draw(st.integers(1, min(n, 11))) for n in size)
    channels, batch = draw(st.sampled_from([(1, 1), (3, 2)]))
    mode = draw(st.sampled_from(["zeros", "replicate", "symmetric"]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    x = (200 * torch.randn(batch, channels, *size, generator=generator)).abs().to(getattr(torch, x_dtype))
    k = (2 * torch.randn(channels, 1, *kernel_size, generator=generator)).to(getattr(torch, k_dtype))
    options = {"padding": draw(st.sampled_from(["same", "valid"])), "padding_mode": mode, "groups": channels}
    if draw(st.booleans()):
        options |= {"stride": draw(st.integers(1, 3)), "padding": "valid", "padding_mode": "zeros"}
    if x.is_floating_point() and draw(st.booleans()):
        x.view(-1)[draw(st.integers(0, x.numel() - 1))] = torch.nan
    spec = ConvSpec.of(x, k, **options)
    state = direct.prepare_for(TARGETS[draw(st.sampled_from(sorted(TARGETS)))], spec, k)
    y = torch.empty(spec.output_shape, dtype=getattr(torch, wanted))
    floats = direct.apply(state, x, None)
    changed = direct.apply_rounded(state, x, y)
    limits, near = torch.iinfo(y.dtype), floats.round()
    clipped = (near < limits.min) | (near > limits.max)
    assert changed == (int(clipped.sum()), int(floats.isnan().sum()))
    assert torch.equal(y.to(torch.int64), near.clamp(limits.min, limits.max).nan_to_num(0).to(torch.int64))


def test_engines_that_do_not_round_say_so():
    x, k = torch.ones(1, 1, 9, 9), torch.ones(4, 1, 3, 3)  # four outputs of one input
    state, y = direct.prepare(ConvSpec.of(x, k), k), torch.empty(1, 4, 7, 7, dtype=torch.uint8)
    assert direct.apply_rounded(state, x, y) is None
    state = direct.prepare(ConvSpec.of(x, k[:1]), k[:1])
    assert direct.apply_rounded(state, x, y[:, :1].mT) is None

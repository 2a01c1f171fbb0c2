"""Kernels of low rank: found by their values, computed by the separable engine, or refused with the reason."""

import pytest
import torch

import convolith as cl
from convolith import ConvolithError, ConvSpec, correlate, geometry, jit, plan
from convolith.correlation.caches import clear_caches
from convolith.engines.separable.engine import factors, separable
from convolith.network.execution.compiled import Compiled
from convolith.planner import prepared_kernels


def gaussian(size: int) -> torch.Tensor:
    line = torch.exp(-((torch.arange(size) - size // 2) ** 2) / size)
    return (line[:, None] * line)[None, None] / line.sum() ** 2


def test_a_separable_kernel_is_found_by_its_values():
    k = gaussian(15)
    spec = ConvSpec(in_channels=1, out_channels=1, size=(400, 500), kernel_size=15, padding=7)
    assert "depends on the kernel's values" in cl.plan(spec).explain()
    assert cl.plan(spec, k).engine == "separable"
    assert cl.plan(spec, torch.randn(1, 1, 15, 15)).engine != "separable"
    x = torch.randn(1, 1, 400, 500)
    y = cl.correlate(x, k, padding=7)
    expected = cl.correlate(x.double(), k.double(), padding=7, engine="reference")
    assert float((y - expected).abs().max()) < separable.error_bound(spec, k) * float(x.abs().max() * k.sum())
    k.copy_(torch.randn(1, 1, 15, 15))  # the same memory, another kernel, another engine
    torch.testing.assert_close(
        cl.correlate(x, k, padding=7), torch.nn.functional.conv2d(x, k, padding=7), atol=1e-3, rtol=0
    )


def of_rank(rank: int, size: int, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rank)
    down = torch.randn(channels, 1, size, rank, generator=generator, dtype=torch.float64)
    across = torch.randn(channels, 1, rank, size, generator=generator, dtype=torch.float64)
    return (down @ across / size).float()


def test_a_plan_counts_and_estimates_with_the_rank_of_its_kernel():
    spec = ConvSpec(in_channels=1, out_channels=1, size=(1024, 1024), kernel_size=31, padding=15)
    found = {}
    for rank in (1, 2, 4, 8, 14):
        planned = cl.plan(spec, of_rank(rank, 31))
        one = next(c for c in planned.candidates if c.engine == "separable")
        assert one.note.startswith(f"rank {rank}: ")
        assert one.work.forward.multiplications == 1024 * 1024 * rank * 62
        assert one.work.memory.forward.prepared == 4 * rank * 62
        found[rank] = planned, one
    for rank in (4, 8, 14):  # transforms are three times as fast
        planned, one = found[rank]
        assert planned.engine == "fft"
        assert 0.8 * rank < one.seconds / found[1][1].seconds < 1.2 * rank  # estimates of a plan: nothing is timed here
    assert separable.note(spec).startswith("rows")  # the engine itself knows no kernel


def test_a_call_that_comes_back_runs_the_engine_of_its_kernels_rank():
    x = torch.randn(1, 1, 256, 256)
    for rank, engine in ((1, "separable"), (12, "fft")):
        k = of_rank(rank, 31)
        clear_caches()
        for _ in range(3):
            y = cl.correlate(x, k, padding=15)
        (entry,) = [e for e in prepared_kernels._kept.values() if isinstance(e, prepared_kernels.PreparedKernel)]
        assert entry.plan.engine == engine
        expected = cl.correlate(x.double(), k.double(), padding=15)
        torch.testing.assert_close(y.double(), expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


def test_the_rank_is_the_least_whose_error_is_below_rounding():
    for rank in (1, 2, 5, 7):
        assert factors(of_rank(rank, 7, channels=6)).rank == rank
    assert factors(torch.zeros(2, 1, 5, 5)).rank == 1
    mixed = torch.cat([of_rank(1, 9), of_rank(3, 9), torch.zeros(1, 1, 9, 9)])
    assert factors(mixed).rank == 3


def test_choices_of_a_network_are_remembered_for_the_rank_of_its_kernels():
    def key(kernel: torch.Tensor) -> str:
        layer = torch.nn.Conv2d(4, 4, 9, groups=4, bias=False).eval()
        layer.weight.data = kernel
        return Compiled(layer, (torch.randn(1, 4, 40, 40),), "default").key

    assert key(of_rank(1, 9, 4)) == key(2 * of_rank(1, 9, 4))
    assert len({key(of_rank(rank, 9, 4)) for rank in (1, 2, 3, 9)}) == 4


KERNELS = {
    "box": lambda: torch.full((1, 1, 31, 31), 1 / 961),
    "gaussian": lambda: gaussian(31),
    "alternating": lambda: (1 - 2 * (torch.arange(31) % 2)).float().repeat(31, 1)[None, None] / 961,
}


IMAGES = {
    "constant": lambda: torch.full((1, 1, 90, 95), 0.1),
    "ramp": lambda: torch.linspace(-1, 1, 90 * 95).reshape(1, 1, 90, 95),
    "random": lambda: torch.randn(1, 1, 90, 95, generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_separable_on_data_that_hurts(kernel, image):
    x, k = IMAGES[image](), KERNELS[kernel]()
    spec = ConvSpec.of(x, k)
    error = cl.plan(spec, k, engine="separable")(x, k) - cl.correlate(x.double(), k.double(), engine="reference")
    assert float(error.abs().max()) < separable.error_bound(spec, k) * float(x.abs().max() * k.abs().sum())


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ranks_strides_and_channels(rank, dtype):
    generator = torch.Generator().manual_seed(rank)
    k = sum(
        torch.randn(4, 1, 9, 1, generator=generator, dtype=dtype)
        * torch.randn(4, 1, 1, 11, generator=generator, dtype=dtype)
        for _ in range(rank)
    )
    x, bias = torch.randn(2, 4, 31, 37, dtype=dtype), torch.randn(4, dtype=dtype)
    options = {"stride": (2, 1), "padding": (4, 3), "dilation": (1, 2), "groups": 4}
    spec = ConvSpec.of(x, k, bias, **options)
    run = cl.plan(spec, k, engine="separable")
    expected = cl.correlate(x.double(), k.double(), bias.double(), engine="reference", **options)
    limit = (separable.error_bound(spec, k) + 1e-7 * (dtype is torch.float32)) * float(
        x.abs().max() * k.abs().sum((1, 2, 3)).max() + bias.abs().max()
    )
    assert float((run(x, k, bias) - expected).abs().max()) < limit


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(0)), "rank 5: no fewer products"),
        (torch.full((1, 1, 5, 5), 2.0**127), "rank 5: no fewer products"),
        (torch.full((1, 1, 5, 5), torch.nan), "a kernel with NaN or infinity has no factors"),
    ],
)
def test_kernels_that_are_not_separable_say_why(kernel, reason):
    spec = ConvSpec(in_channels=1, out_channels=1, size=(20, 20), kernel_size=5)
    with pytest.raises(ConvolithError, match=reason):
        cl.plan(spec, kernel, engine="separable")
    with pytest.raises(ConvolithError, match="depends on the kernel's values"):
        cl.plan(spec, engine="separable")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", ["zeros", "symmetric", "circular"])
def test_integer_pictures_under_float_kernels(dtype, kind, mode):
    x = torch.randint(0, 100, (2, 1, 41, 37), generator=torch.Generator().manual_seed(0)).to(dtype)
    k = torch.outer(torch.hann_window(11, dtype=kind), torch.hann_window(9, dtype=kind))[None, None]
    spec = ConvSpec.of(x, k, padding="same", padding_mode=mode)
    chosen = plan(spec, k, engine="separable")
    found = chosen(x, k)
    expected = correlate(x.double(), k.double(), padding="same", padding_mode=mode, engine="reference")
    assert found.dtype == kind
    limit = separable.error_bound(spec, k) * 100 * float(k.abs().sum())
    assert float((found.double() - expected).abs().max()) <= limit
    assert plan(ConvSpec.of(x.repeat(1, 1, 20, 20), k, padding="same", padding_mode=mode), k).engine == "separable"


@pytest.mark.parametrize("size", [(5, 3), (9, 70), (67, 300), (300, 67)])
@pytest.mark.parametrize(
    ("mode", "value"), [("zeros", 0.0), ("constant", 3.0), ("reflect", 0.0), ("replicate", 0.0), ("circular", 0.0)]
)
def test_every_border_at_every_width(size, mode, value):
    x = torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(1))
    k = gaussian(5)[..., :4]
    options = {"padding": ((2, 1), (1, 2)), "padding_mode": mode, "padding_value": value or geometry.NO_VALUE}
    chosen = plan(ConvSpec.of(x, k, **options), k, engine="separable")
    expected = correlate(x.double(), k.double(), engine="reference", **options)
    torch.testing.assert_close(chosen(x, k), expected.float(), atol=2e-5, rtol=0)


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 1), (5, 4)])
@pytest.mark.parametrize("dilation", [(1, 1), (3, 2)])
def test_strides_and_dilations_of_tall_pictures(stride, dilation):
    x = torch.randn(1, 2, 211, 83, generator=torch.Generator().manual_seed(2))
    k = gaussian(7)[:, :, 1:6].repeat(2, 1, 1, 1)
    options = {"stride": stride, "dilation": dilation, "padding": (3, 2), "groups": 2}
    chosen = plan(ConvSpec.of(x, k, **options), k, engine="separable")
    expected = correlate(x.double(), k.double(), engine="reference", **options)
    torch.testing.assert_close(chosen(x, k), expected.float(), atol=2e-5, rtol=0)


def test_pixels_with_channels_in_place_and_rows_apart():
    x = torch.randn(3, 1, 90, 61, 3, generator=torch.Generator().manual_seed(3))
    k = gaussian(9)[..., None]
    spec = ConvSpec.of(x, k, padding=(4, 4, 0), padding_mode="symmetric")
    assert spec.interleaved == 3
    expected = correlate(x.double(), k.double(), padding=(4, 4, 0), padding_mode="symmetric", engine="reference")
    found = plan(spec, k, engine="separable")(x, k)
    torch.testing.assert_close(found, expected.float(), atol=2e-5, rtol=0)
    every_other = torch.randn(3, 1, 180, 61, generator=torch.Generator().manual_seed(4))[:, :, ::2]
    k = gaussian(9)
    expected = correlate(every_other.double(), k.double(), engine="reference")
    found = plan(ConvSpec.of(every_other, k), k, engine="separable")(every_other, k)
    torch.testing.assert_close(found, expected.float(), atol=2e-5, rtol=0)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize("size", [(40, 5), (64, 200)])
def test_sums_are_rounded_clipped_and_counted_where_they_are_stored(dtype, size):
    x = 40 * torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(5))
    x[0, 0, 3, 2] = torch.nan
    k = (4000 if "16" in dtype else 20) * gaussian(5)
    spec = ConvSpec.of(x, k, padding=2)
    state = separable.prepare(spec, k)
    y = torch.empty(spec.output_shape, dtype=getattr(torch, dtype))
    changed = separable.apply_rounded(state, x, y)
    floats = separable.apply(state, x, None)
    limits = torch.iinfo(y.dtype)
    near = floats.round()
    outside = (near < limits.min) | (near > limits.max)
    assert changed == (int(outside.sum()), int(floats.isnan().sum()))
    assert changed.clipped
    assert changed.missing > 5
    expected = near.clamp(limits.min, limits.max).nan_to_num(0).to(torch.int64)
    assert torch.equal(y.to(torch.int64), expected)


@pytest.mark.parametrize("width", ["avx512", "avx2", "sse2"])
def test_processors_with_other_vectors_round_alike(width):
    try:
        target = jit.host(width)
    except ConvolithError:
        pytest.skip(f"this processor has no {width}")
    x = torch.randint(0, 255, (1, 1, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(6))
    k = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    k = torch.outer(k, k)[None, None]  # sums are exact in float32
    spec = ConvSpec.of(x, k, padding=2)
    state, y = separable.prepare_for(target, spec, k), torch.empty(spec.output_shape, dtype=torch.uint8)
    assert separable.apply_rounded(state, x, y) == (0, 0)
    expected = torch.nn.functional.conv2d(x.double(), k.double(), padding=2).round()
    assert torch.equal(y.double(), expected)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
@pytest.mark.parametrize("width", [0.5, 2.0, 6.0])
def test_gaussians_with_tails_of_any_size(scale, width):
    line = torch.exp(-0.5 * ((torch.arange(41) - 20) / width) ** 2)
    k = scale * (line[:, None] * line)[None, None]
    x = torch.randn(1, 1, 60, 60, generator=torch.Generator().manual_seed(7))
    spec = ConvSpec.of(x, k, padding=20)
    found = plan(spec, k, engine="separable")(x, k)
    expected = correlate(x.double(), k.double(), padding=20, engine="reference")
    limit = separable.error_bound(spec, k) * float(x.abs().max() * k.double().abs().sum())
    assert float((found - expected).abs().max()) <= limit


def test_whole_numbers_stay_whole():
    k = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])[None, None]
    x = torch.randint(0, 255, (1, 1, 20, 30), generator=torch.Generator().manual_seed(8)).float()
    found = plan(ConvSpec.of(x, k), k, engine="separable")(x, k)
    assert torch.equal(found, torch.nn.functional.conv2d(x, k))


def test_strides_over_the_kernel_are_left_to_other_engines():
    spec = ConvSpec(in_channels=1, out_channels=1, size=(40, 40), kernel_size=5, stride=(6, 1))
    with pytest.raises(ConvolithError, match="stride 6 is over the size of the kernel"):
        plan(spec, gaussian(5), engine="separable")


def test_an_empty_batch():
    spec = ConvSpec(batch=0, in_channels=1, out_channels=1, size=(20, 20), kernel_size=5)
    for _ in range(3):
        assert correlate(torch.zeros(0, 1, 20, 20), gaussian(5)).shape == (0, 1, 16, 16)
    assert plan(spec, gaussian(5))(torch.zeros(0, 1, 20, 20), gaussian(5)).shape == (0, 1, 16, 16)


def test_large_numbers_do_not_overflow_on_the_way():
    x, k = torch.full((1, 1, 40, 40), 3e37), torch.full((1, 1, 31, 31), 1 / 961)
    found = plan(ConvSpec.of(x, k), k, engine="separable")(x, k)
    torch.testing.assert_close(found, torch.full_like(found, 3e37), rtol=1e-5, atol=0)


def test_sums_of_integers_that_overflow_are_counted_as_nan():
    x = torch.full((1, 1, 9, 9), 255, dtype=torch.uint8)
    k = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])[None, None] * 2e38
    state, y = separable.prepare(ConvSpec.of(x, k), k), torch.empty(1, 1, 8, 8, dtype=torch.uint8)
    floats = separable.apply(state, x, None)
    changed = separable.apply_rounded(state, x, y)
    assert changed.missing == int(floats.isnan().sum())


def test_another_default_device():
    with torch.device("meta"):
        kernel = gaussian(9).to("meta")
    assert kernel.is_meta
    k, spec = gaussian(9), ConvSpec(in_channels=1, out_channels=1, size=(400, 400), kernel_size=9)
    with torch.device("meta"):
        assert plan(spec, k).engine == "separable"

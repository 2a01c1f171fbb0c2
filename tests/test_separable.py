"""Kernels of low rank: found by their values, computed by the separable engine, or refused with the reason."""

import pytest
import torch

import convolith as cl
from convolith import ConvolithError, ConvSpec, correlate, plan
from convolith.engines.separable import separable


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

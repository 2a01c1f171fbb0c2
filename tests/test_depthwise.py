"""The depthwise engine: every vector width, padding mode and tail, against float64."""

import copy
import re

import numpy as np
import pytest
import torch
from torch import nn

import convolith as cl
from convolith import ConvSpec
from convolith.engines.depthwise.engine import depthwise
from convolith.engines.error_bounds import error_scale
from convolith.jit import host
from convolith.jit.target import widths
from convolith.network.execution.compiled import Compiled

CASES = {
    "narrow": ((40, 7, 7), 3, {"padding": 1}),
    "strided": ((33, 29, 30), 5, {"stride": 2, "padding": 2}),
    "strided unequally": ((16, 29, 30), (3, 2), {"stride": (1, 3), "padding": ((0, 2), (3, 1))}),
    "stride beyond the kernel": ((17, 40, 41), 2, {"stride": 3}),
    "dilated": ((24, 25, 31), 3, {"dilation": (4, 6), "padding": (4, 6)}),
    "long rows of taps": ((16, 5, 60), (1, 23), {"padding": (0, 11)}),
    "tall": ((16, 300, 9), (7, 1), {"padding": (3, 0)}),
    "signals": ((50, 101), 9, {"stride": 2, "padding": 4}),
    "one pixel": ((16, 1, 1), 3, {"padding": 1}),
}
MODES = ("zeros", "constant", "reflect", "replicate", "circular", "symmetric")


def case(name, mode, dtype=torch.float32, batch=2):
    size, kernel, options = CASES[name]
    generator = torch.Generator().manual_seed(1)
    axes = len(size) - 1
    kernel = (kernel,) * axes if isinstance(kernel, int) else kernel
    x = torch.randn(batch, *size, generator=generator, dtype=dtype)
    k = torch.randn(size[0], 1, *kernel, generator=generator, dtype=dtype)
    bias = torch.randn(size[0], generator=generator, dtype=dtype)
    value = {"padding_value": 1.5} if mode == "constant" else {}
    return x, k, bias, options | {"groups": size[0], "padding_mode": mode} | value


@pytest.mark.slow(quick=20)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", widths())
@pytest.mark.parametrize("name", CASES)
def test_every_vector_width(name, width, dtype, mode):
    if name == "one pixel" and mode == "reflect":
        pytest.skip("a single pixel has no neighbour to reflect")
    x, k, bias, options = case(name, mode, dtype)
    spec = ConvSpec.of(x, k, bias, **options)
    y = depthwise.apply(depthwise.prepare_for(host(width), spec, k), x, bias)
    expected = cl.correlate(x.double(), k.double(), bias.double(), engine="reference", **options)
    scale = error_scale(spec, x, k) + bias.abs().reshape(-1, *[1] * (x.ndim - 2))
    assert bool(((y - expected).abs() <= depthwise.error_bound(spec) * scale).all())


def test_gradients_and_images_that_are_not_contiguous():
    x, k, bias, options = case("strided", "zeros")
    wide = torch.zeros(2, 2 * x.shape[1], *x.shape[2:])
    wide[:, 5 : 5 + x.shape[1]] = x
    for given in (wide[:, 5 : 5 + x.shape[1]], x.contiguous(memory_format=torch.channels_last), x.transpose(2, 3)):
        spec = ConvSpec.of(given, k, bias, **options)
        expected = torch.nn.functional.conv2d(given, k, bias, stride=2, padding=2, groups=33)
        torch.testing.assert_close(cl.plan(spec, engine="depthwise")(given, k, bias), expected, atol=1e-4, rtol=1e-4)
    a, b = (t.clone().requires_grad_() for t in (x, k))
    c, d = (t.clone().requires_grad_() for t in (x, k))
    cl.correlate(a, b, engine="depthwise", **options).square().sum().backward()
    torch.nn.functional.conv2d(c, d, stride=2, padding=2, groups=33).square().sum().backward()
    torch.testing.assert_close(a.grad, c.grad, atol=1e-2, rtol=1e-4)
    torch.testing.assert_close(b.grad, d.grad, atol=1e-2, rtol=1e-4)


def test_nan_stays_in_the_windows_that_read_it():
    x, k, _, options = case("narrow", "zeros")
    x[0, 20, 3, 3] = torch.nan
    missing = torch.isnan(cl.correlate(x, k, engine="depthwise", **options))
    assert int(missing.sum()) == 9
    assert bool(missing[0, 20, 2:5, 2:5].all())


LAYER = {"in_channels": 32, "out_channels": 32, "groups": 32, "size": (9, 9), "kernel_size": 3, "padding": 1}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"groups": 1}, "each output sums 32 channels, not one"),
        ({"out_channels": 64}, "several output channels for an input channel"),
        ({"transposed": True}, "not for transposed layers"),
        ({"dtype": "int8"}, "no code for int8"),
        ({"size": (8, 8, 8)}, "for one or two axes alone"),
        ({"size": (9, 100_000)}, "a thread's rows take "),
        ({"in_channels": 3, "out_channels": 3, "groups": 3}, r"needs \d+ channels or more"),
    ],
)
def test_layers_that_are_refused(changes, reason):
    assert depthwise.refuse(ConvSpec(**LAYER)) is None
    assert re.match(reason, depthwise.refuse(ConvSpec(**LAYER | changes)))


class Block(nn.Module):
    """A depthwise layer with an activation, perhaps after a sum with its own input."""

    def __init__(self, then, channels, stride, *, adds):
        super().__init__()
        self.layer = nn.Conv2d(channels, channels, 5, stride, 2, groups=channels)
        self.then, self.adds = then, adds

    def forward(self, x):
        y = self.layer(x)
        return self.then(y + x if self.adds else y)


@pytest.mark.parametrize("channels", [16, 41])
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize(
    "then", [nn.Identity(), nn.ReLU6(), nn.SiLU(), nn.PReLU(41), nn.GELU()], ids=lambda m: type(m).__name__
)
@torch.no_grad()
def test_steps_of_networks_with_tails_and_residuals(then, adds, channels):
    if isinstance(then, nn.PReLU):
        then = nn.PReLU(channels)
        then.weight.copy_(torch.linspace(-1, 1, channels))
    model = Block(then, channels, 1 if adds else 2, adds=adds).eval()
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((3, channels, 27, 21)).astype(np.float32))
    compiled = Compiled(model, (x,), "default", ["depthwise"])
    ways = [compiled.way(n) for n, node in enumerate(compiled.nodes) if node.kind == "convolve"]
    assert [(way.engine, way.call) for way in ways] == [("depthwise", None)]
    expected = copy.deepcopy(model).double()(x.double())
    for _ in range(2):
        assert float((compiled((x,)) - expected).abs().max()) <= 1e-5 * float(expected.abs().max())

"""`optimize`: networks as programs give what torch gives, at every size, from every kind of node, and say what they do."""

import copy
import dataclasses
import pickle
import threading
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional

import convolith as cl
from bench.networks import NETWORKS
from bench.networks.deployed import UNet, shufflenet_v2, super_resolution, wavenet
from convolith.network.graph.trace import trace

ACTIVATIONS = {
    "relu": nn.ReLU(),
    "relu6": nn.ReLU6(),
    "leaky": nn.LeakyReLU(0.2),
    "prelu": nn.PReLU(6),
    "silu": nn.SiLU(),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "mish": nn.Mish(),
    "elu": nn.ELU(0.7),
    "hardswish": nn.Hardswish(),
    "hardsigmoid": nn.Hardsigmoid(),
    "hardtanh": nn.Hardtanh(-0.3, 0.4),
}
LAYERS = {
    "pointwise": (nn.Conv2d(5, 6, 1), (5, 9, 13)),
    "pointwise, few positions": (nn.Conv2d(5, 6, 1), (5, 1, 3)),
    "direct": (nn.Conv2d(2, 6, 3, padding=1), (2, 9, 37)),
    "depthwise": (nn.Conv2d(6, 6, 3, padding=1, groups=6), (6, 20, 21)),
    "depthwise, strided": (nn.Conv2d(6, 6, 5, 2, padding=2, groups=6), (6, 20, 23)),
    "winograd": (nn.Conv2d(48, 6, 3, padding=1), (48, 17, 19)),
    "im2col": (nn.Conv2d(24, 6, 3, 2, padding=1), (24, 17, 19)),
    "grouped": (nn.Conv2d(8, 6, 3, padding=1, groups=2), (8, 17, 19)),
    "groups one by one": (nn.Conv2d(144, 6, 3, padding=1, groups=3), (144, 17, 19)),
    "dilated": (nn.Conv2d(8, 6, 3, padding=2, dilation=2), (8, 17, 19)),
}


def close(actual, expected, tolerance=2e-5):
    scale = float(expected.abs().max()) or 1.0
    worst = float((actual - expected).abs().max())
    assert actual.shape == expected.shape
    assert worst <= tolerance * scale, worst / scale


def check(model, *shapes, measure=False, islands=None, dtype=torch.float32, tolerance=2e-5):
    """Optimise on random inputs of the first shape; compare at all shapes; return the report."""
    model = copy.deepcopy(model).to(dtype).eval()
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    found = cl.optimize(model, inputs[0], measure=measure)
    for x in [*inputs, *inputs[:1]]:
        for _ in range(2):  # the first call of a new size is torch's
            with torch.no_grad():
                close(found.model(x), model(x), tolerance)
    if islands is not None:
        assert found.report.islands == islands, found.report
    return found


def _every_layer_and_activation_first():
    """Return all pairs of a layer and an activation; each layer and each activation is among the first ones."""
    layers, activations = list(LAYERS), list(ACTIVATIONS)
    first = [(layers[n % len(layers)], activation) for n, activation in enumerate(activations)]
    return first + [pair for pair in product(layers, activations) if pair not in first]


@pytest.mark.slow(quick=len(ACTIVATIONS))
@pytest.mark.parametrize(("layer", "activation"), _every_layer_and_activation_first())
def test_an_activation_is_computed_in_the_last_step_of_every_engine(layer, activation):
    conv, shape = LAYERS[layer]
    found = check(nn.Sequential(conv, ACTIVATIONS[activation]), (1, *shape), (2, *shape), islands={})
    assert len(found.report.steps) == 1
    assert found.report.steps[0].tail


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_residual_is_added_in_the_last_step_of_every_engine(layer):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.other = LAYERS[layer][0], copy.deepcopy(LAYERS[layer][0])

        def forward(self, x):
            return functional.relu(self.conv(x) + functional.silu(self.other(x)))

    shape = LAYERS[layer][1]
    found = check(Residual(), (1, *shape), (3, *shape), islands={})
    assert len(found.report.steps) == 2


class Joined(nn.Module):
    def __init__(self, *parts):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x):
        return torch.cat([part(x) for part in self.parts], 1)


@pytest.mark.parametrize("batch", [1, 3])
def test_joins_are_made_where_they_lie(batch):
    inner = Joined(nn.Conv2d(4, 5, 1), nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU()), nn.MaxPool2d(3, 1, 1))
    model = nn.Sequential(Joined(inner, nn.Conv2d(4, 7, 3, padding=1)), nn.Conv2d(22, 8, 3, padding=1), nn.ReLU())
    found = check(model, (batch, 4, 15, 17), islands={})
    assert "copy" not in {step.engine for step in found.report.steps}


def test_what_cannot_lie_in_a_join_is_copied():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            y = self.conv(x)
            return torch.cat([x, y, y], 1) + 1

    check(Twice(), (2, 4, 9, 9), islands={})


@pytest.mark.slow(quick=12)
@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(3, 1, 1),
        nn.MaxPool2d((2, 3), (3, 1)),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, 2, 1),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(5, 3, 2, ceil_mode=True, count_include_pad=False),
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveAvgPool2d((4, 5)),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(20, 25), (8, 40)])
def test_pooling(pool, size):
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.pool = nn.Conv2d(3, 4, 1), pool

        def forward(self, x):
            return self.pool(torch.tanh(self.conv(x))) * 2

    check(Pooled(), (2, 3, *size), (1, 3, *size), islands={})


def test_pooling_keeps_nan_and_infinity():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(3, 2, 1)).eval()
    x = torch.randn(1, 1, 9, 20)
    x[0, 0, 3, 4], x[0, 0, 6, 9], x[0, 0, 0, 0] = float("nan"), float("inf"), -float("inf")
    found = cl.optimize(model, torch.randn(1, 1, 9, 20), measure=False)
    with torch.no_grad():
        torch.testing.assert_close(found.model(x), model(x), equal_nan=True)


MOVES = {
    "pixel shuffle": nn.PixelShuffle(2),
    "pixel unshuffle": nn.PixelUnshuffle(3),
    "nearest": nn.Upsample(scale_factor=2),
    "nearest, by axis": nn.Upsample(size=(12, 36)),
    "channel shuffle": nn.ChannelShuffle(3),
    "transposed 2x2": nn.ConvTranspose2d(12, 5, 2, 2),
    "transposed 4x4": nn.ConvTranspose2d(12, 5, 4, 2, 1),
    "transposed 3x3": nn.ConvTranspose2d(12, 5, 3, 2, 1, 1),
    "transposed, groups": nn.ConvTranspose2d(12, 6, (3, 2), (3, 2), groups=3),
    "transposed, stride 1": nn.ConvTranspose2d(12, 5, 3, padding=1),
    "group norm": nn.GroupNorm(4, 12),
    "one group": nn.GroupNorm(1, 12),
}


@pytest.mark.parametrize("move", MOVES)
def test_moves_and_norms_are_generated_code(move):
    class Moved(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.move = nn.Conv2d(3, 12, 3, padding=1), MOVES[move]

        def forward(self, x):
            return functional.relu(self.move(torch.tanh(self.conv(x)))) + 1

    whole = not move.startswith("transposed") or move in ("transposed 2x2", "transposed, groups")
    check(Moved(), (1, 3, 12, 18), (2, 3, 12, 18), islands={} if whole else None)


@pytest.mark.slow(quick=10)
@pytest.mark.parametrize(
    "how",
    [{"scale_factor": 2}, {"scale_factor": 1.7}, {"scale_factor": 0.6}, {"size": (25, 41)}, {"size": (5, 90)}],
    ids=str,
)
@pytest.mark.parametrize(
    ("mode", "corners"), [("bilinear", True), ("bicubic", False), ("bilinear", False), ("bicubic", True)]
)
def test_interpolation_is_generated_code(mode, corners, how):
    class Resized(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 1)

        def forward(self, x):
            return functional.interpolate(self.conv(x), mode=mode, align_corners=corners, **how) * 2

    check(Resized(), (1, 2, 13, 21), (2, 2, 13, 21), islands={})


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1)])
def test_pooling_on_other_axes(axes, kernel, stride, padding):
    conv, most, mean = (getattr(nn, f"{name}{axes}d") for name in ("Conv", "MaxPool", "AvgPool"))

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.most, self.mean = (
                conv(2, 4, 1),
                most(kernel, stride, padding),
                mean(kernel, stride, padding),
            )

        def forward(self, x):
            y = torch.tanh(self.conv(x))
            return self.most(y) + self.mean(y)

    check(Both(), (1, 2, *(9, 8, 11)[-axes:]), (2, 2, *(9, 8, 11)[-axes:]), islands={})


class Turned(nn.Module):
    """A block of ConvNeXt: depthwise, then norm and two linear layers with channels last, a scale, and back."""

    def __init__(self, channels=12, *, ends=True):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale, self.ends = nn.Parameter(torch.rand(channels)), ends

    def forward(self, x):
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(functional.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2) if self.ends else y


def test_layers_with_channels_last_stay_planes():
    found = check(nn.Sequential(Turned(), Turned()), (1, 12, 9, 10), (2, 12, 9, 10), islands={})
    assert {step.engine for step in found.report.steps} & {"copy", "torch"} == set()


def test_channels_last_is_made_where_it_is_returned_or_read_by_torch():
    check(Turned(ends=False), (2, 12, 9, 10), islands={})

    class Sorted(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Turned(ends=False)

        def forward(self, x):
            y = self.inner(x)
            return torch.sort(y, 2).values.flatten(1, 2).transpose(1, 2), y.mean((1, 2))

    model = Sorted().eval()
    x = torch.randn(2, 12, 9, 10)
    found = cl.optimize(model, x, measure=False)
    with torch.no_grad():
        for actual, expected in zip(found.model(x), model(x), strict=True):
            close(actual, expected)


def test_tokens_keep_their_planes():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.linear = nn.Conv2d(3, 16, 4, 4), nn.LayerNorm(16), nn.Linear(16, 24)
            self.attention = nn.Linear(24, 16)

        def forward(self, x):
            y = self.conv(x).flatten(2).transpose(1, 2)
            y = functional.gelu(self.linear(self.norm(y)))
            weights = torch.softmax(y @ y.transpose(1, 2), 2)
            return self.attention(weights @ y).transpose(1, 2).reshape(len(x), 16, *[4, 5])

    check(Tokens(), (1, 3, 16, 20), (3, 3, 16, 20), tolerance=1e-4)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_constant_as_large_as_an_image(batch):
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.places = nn.Conv2d(3, 8, 3, padding=1), nn.Parameter(torch.randn(1, 8, 11, 12))
            self.register_buffer("window", torch.rand(8, 11, 12))

        def forward(self, x):
            return torch.tanh(self.conv(x) + self.places) * self.window

    check(Positions(), (batch, 3, 11, 12), islands={})


class Excited(nn.Module):
    """Squeeze and excitation after a depthwise convolution."""

    def __init__(self):
        super().__init__()
        self.conv, self.down, self.up = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

    def forward(self, x):
        y = functional.silu(self.conv(x))
        return y * torch.sigmoid(self.up(functional.silu(self.down(y.mean((2, 3), keepdim=True))))) + x


def test_squeeze_and_excitation_is_generated_code():
    check(Excited(), (1, 8, 14, 15), (3, 8, 14, 15), islands={})


def test_a_linear_layer_and_a_batch_norm_that_stays():
    model = nn.Sequential(
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.Flatten(),
        nn.Linear(6 * 5 * 5, 10),
        nn.ReLU(),
        nn.Linear(10, 3),
    )
    model[0].running_mean.normal_()
    model[0].running_var.uniform_(0.5, 2)
    check(model, (1, 4, 7, 7), (5, 4, 7, 7), islands={})


class Islands(nn.Module):
    """What has no generated code: between two programs, at the start, at the end, and with a view that outlives it."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        y = functional.relu(self.a(torch.sort(x, 3).values))
        turned = y.transpose(2, 3)
        y = self.b(torch.cumsum(y, 2))
        z = functional.relu(self.b(y))
        return (z + torch.flip(y, (2,)) * turned.transpose(2, 3)).transpose(1, 2)


def test_islands_are_computed_by_torch_and_named():
    found = check(Islands(), (2, 3, 12, 12), (1, 3, 12, 12), tolerance=1e-4)
    assert {"sort.default", "cumsum.default", "flip.default"} <= set(found.report.islands)
    assert "Computed by torch" in str(found.report)


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("network", ["mobileone_small", "ecbsr", "acnet", "repvgg_grouped", "replknet", "fastvit"])
def test_networks_of_the_bench(network):
    row = NETWORKS[network]
    check(row.factory(), row.input_shape, (2, *row.input_shape[1:]), measure=network == "mobileone_small")


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mobilenet_v2", "resnet18", "resnet50", "repvgg_a0", "vae_decoder", "depth_neck"])
def test_larger_networks_of_the_bench(network):
    row = NETWORKS[network]
    found = check(row.factory(), row.input_shape, (3, *row.input_shape[1:]), measure=True)
    assert found.report.reason is None or "ms" in found.report.reason


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize(
    ("factory", "shape"),
    [
        (super_resolution, (1, 3, 24, 32)),
        (lambda: UNet(3, 1, 4, 2, 2), (1, 1, 16, 16, 16)),
        (lambda: UNet(2, 3, 8, 2, 2), (1, 3, 32, 32)),
        (wavenet, (1, 1, 700)),
        (shufflenet_v2, (1, 3, 64, 64)),
    ],
)
def test_other_kinds_of_networks(factory, shape):
    torch.manual_seed(0)
    check(factory(), shape, (2, *shape[1:]), tolerance=5e-5)


def test_float64():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.MaxPool2d(2))
    check(model, (1, 3, 20, 20), dtype=torch.float64, tolerance=1e-13, islands={})


def test_other_memory_formats_and_views_of_inputs():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()).eval()
    found = cl.optimize(model, torch.randn(1, 3, 16, 16), measure=False)
    wide = torch.randn(2, 5, 16, 32)
    for x in (torch.randn(2, 3, 16, 16).to(memory_format=torch.channels_last), wide[:, 1:4, :, ::2]):
        for _ in range(2):
            with torch.no_grad():
                close(found.model(x), model(x))


def test_an_input_and_a_constant_may_be_results():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)

        def forward(self, x):
            y = self.conv(x)
            return {"x": x, "y": (y, y[:, :1]), "weight": self.conv.weight * 2, "again": y.view(-1)}

    model = Odd().eval()
    x = torch.randn(1, 2, 5, 5)
    found = cl.optimize(model, x, measure=False)
    with torch.no_grad():
        expected, actual = model(x), found.model(x)
        close(actual["y"][1], expected["y"][1])
        close(actual["again"], expected["again"])
        close(actual["weight"], expected["weight"])
        actual["x"].zero_()
    assert float(x.abs().max()) > 0


def test_results_are_not_overwritten_by_the_next_call():
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU()).eval()
    found = cl.optimize(model, torch.randn(1, 2, 9, 9), measure=False)
    a, b = torch.randn(1, 2, 9, 9), torch.randn(1, 2, 9, 9)
    first = found.model(a)
    found.model(b)
    with torch.no_grad():
        close(first, model(a))


def test_several_threads_may_call_one_model():
    model = NETWORKS["mobileone_small"].factory()
    found = cl.optimize(model, torch.randn(1, 3, 64, 64), measure=False)
    inputs = [torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(n)) for n in range(4)]
    with torch.no_grad():
        expected = [model(x) for x in inputs]
    wrong = []

    def call(x, y):
        for _ in range(10):
            if float((found.model(x) - y).abs().max()) > 1e-4 * float(y.abs().max()):
                wrong.append(x)

    threads = [threading.Thread(target=call, args=pair) for pair in zip(inputs, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_weights_that_change_are_noticed():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()).eval()
    x = torch.randn(1, 2, 9, 9)
    found = cl.optimize(model, x, measure=False)
    with torch.no_grad():
        found.model.plain.get_parameter("_0.weight" if hasattr(found.model.plain, "_0") else "0.weight").mul_(2)
        expected = found.model.plain(x)
        for _ in range(3):
            close(found.model(x), expected)


def test_a_step_that_differs_from_torch_is_replaced_and_named(monkeypatch):
    from convolith.network.execution import schedule

    steps = schedule.maps.steps

    def wrong(expression, *rest):
        return steps(("add", expression, 1.0) if expression[0] == "tanh" else expression, *rest)

    monkeypatch.setattr(schedule.maps, "steps", wrong)

    class Doubled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 3)

        def forward(self, x):
            y = self.conv(x)
            return y, torch.tanh(y)

    model = Doubled().eval()
    found = cl.optimize(model, torch.randn(1, 2, 9, 9), measure=False)
    assert any("by map differs from torch" in sentence for sentence in found.report.replaced)
    assert "Replaced" in str(found.report)
    x = torch.randn(1, 2, 9, 9)
    with torch.no_grad():
        for actual, expected in zip(found.model(x), model(x), strict=True):
            close(actual, expected)


def test_a_state_dict_and_another_dtype_are_noticed():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()).eval()
    x = torch.randn(1, 2, 9, 9)
    fast = cl.optimize(model, x, measure=False).model
    other = {name: torch.randn_like(tensor) for name, tensor in fast.state_dict().items()}
    with torch.no_grad():
        for assign in (False, True):
            fast.load_state_dict({name: (2 + assign) * tensor for name, tensor in other.items()}, assign=assign)
            expected = fast.plain(x)
            for _ in range(3):
                close(fast(x), expected)
        fast.double()
        for _ in range(3):
            close(fast(x.double()), fast.plain(x.double()), 1e-13)


def test_gradients_and_other_dtypes_go_to_the_plain_model():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()).eval()
    x = torch.randn(1, 2, 9, 9, requires_grad=True)
    found = cl.optimize(model, x.detach(), measure=False)
    found.model(x).sum().backward()
    other = x.detach().clone().requires_grad_()
    model(other).sum().backward()
    torch.testing.assert_close(x.grad, other.grad)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert found.model(x.detach()).dtype == model(x.detach()).dtype


def test_copies_and_pickles_work():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()).eval()
    x = torch.randn(1, 2, 9, 9)
    found = cl.optimize(model, x, measure=False).model
    for other in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):  # noqa: S301 - our own
        for _ in range(2):
            torch.testing.assert_close(other(x), found(x))


def test_fewer_threads_than_it_was_made_for():
    model = NETWORKS["mobileone_small"].factory()
    x = torch.randn(1, 3, 64, 64)
    found = cl.optimize(model, x, measure=False)
    before = torch.get_num_threads()
    with torch.no_grad():
        expected = model(x)
        try:
            for threads in (1, before, 3):
                torch.set_num_threads(threads)
                for _ in range(2):
                    close(found.model(x), expected, 1e-4)
        finally:
            torch.set_num_threads(before)


def test_a_number_of_threads():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU()).eval()
    x = torch.randn(1, 3, 64, 64)
    fast = cl.optimize(model, x, threads=1, measure=False).model
    with torch.no_grad():
        close(fast(x), model(x), 1e-4)
    (compiled,) = fast._sizes.values()
    assert compiled.threads == 1
    with pytest.raises(cl.ConvolithError, match="threads is 0"):
        cl.optimize(model, x, threads=0)


def test_training_mode_is_refused():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU())
    with pytest.raises(cl.ConvolithError, match=r"call model.eval\(\) first"):
        cl.optimize(model, torch.randn(1, 2, 9, 9))
    found = cl.optimize(model.eval(), torch.randn(1, 2, 9, 9), measure=False)
    with pytest.raises(cl.ConvolithError, match="train the original model"):
        found.model.train()
    assert found.model.eval() is found.model


@pytest.mark.parametrize("budget", [0, -1, None, "long"])
def test_a_budget_must_be_seconds(budget):
    with pytest.raises(cl.ConvolithError, match="budget_seconds is"):
        cl.optimize(nn.Conv2d(1, 1, 1).eval(), torch.randn(1, 1, 4, 4), budget_seconds=budget)


def test_a_model_that_cannot_be_one_graph_stays_as_it_is():
    class Valued(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)

        def forward(self, x):
            return self.conv(x) if float(x.sum()) > 0 else -self.conv(x)

    model = Valued().eval()
    found = cl.optimize(model, torch.ones(1, 2, 4, 4), measure=False)
    assert "reads values" in found.report.reason
    for sign in (1, -1):
        x = sign * torch.ones(1, 2, 4, 4)
        with torch.no_grad():
            torch.testing.assert_close(found.model(x), model(x))


def test_the_given_model_is_not_changed():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True)).eval()
    before = copy.deepcopy(model.state_dict())
    cl.optimize(model, torch.randn(1, 2, 9, 9), measure=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


# Edges of what is read, placed and proved.


class Function(nn.Module):
    """A convolution of each input, and a function of the results."""

    def __init__(self, function, channels=(3,), outs=6):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c, outs, 3, padding=1) for c in channels)
        self.function = function

    def forward(self, *inputs):
        return self.function(*(conv(x) for conv, x in zip(self.convs, inputs, strict=True)))


def random(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def same_after(model, example, *calls, tolerance=2e-5):
    """Optimise on an example, and compare calls with other inputs, each made twice."""
    model = model.eval()
    fast = cl.optimize(model, example, measure=False).model
    for inputs in [example, *calls]:
        inputs = [inputs] if isinstance(inputs, torch.Tensor) else inputs
        for _ in range(2):
            with torch.no_grad():
                actual, expected = fast(*inputs), model(*inputs)
            assert type(actual) is type(expected)
            for a, b in zip(
                torch.utils._pytree.tree_leaves(actual), torch.utils._pytree.tree_leaves(expected), strict=True
            ):
                close(a, b, tolerance)
    return fast


def test_one_tensor_given_twice():
    (z,), (a, b) = random((1, 3, 8, 8)), random((1, 3, 8, 8), (1, 3, 8, 8), seed=1)
    same_after(Function(lambda x, y: x - 2 * y, (3, 3)), [z, z], [a, b])


def test_results_of_other_types():
    from collections import OrderedDict

    for made in (lambda y: OrderedDict(a=y, b=[y * 2]), lambda y: (y, {"c": y + 1}), lambda y: [y]):
        same_after(Function(made), random((2, 3, 8, 8))[0], random((2, 3, 8, 8), seed=1)[0])

    @dataclasses.dataclass
    class Out:
        y: torch.Tensor

    x, other = random((1, 3, 8, 8), (1, 3, 8, 8))
    model = Function(lambda y: Out(y)).eval()
    fast = cl.optimize(model, x, measure=False).model
    with torch.no_grad():
        close(fast(other).y, model(other).y)
        close(fast(other).y, model(other).y)


def test_shapes_that_depend_on_values():
    model = Function(lambda y: y[y > 0])
    same_after(model, random((1, 3, 8, 8))[0], *random((1, 3, 8, 8), (1, 3, 8, 8), seed=1))


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("batches", [(1, 4), (4, 1), (8, 2)])
def test_batches_that_differ(batches):
    shapes = [(batches[0], 3, 96, 96), (batches[1], 3, 128, 128)]
    model = Function(lambda z, x: (functional.relu(x).mean((2, 3)), functional.relu(z)), (3, 3), 24)
    same_after(model, random(*shapes), random(*shapes, seed=1))


def test_means_of_equal_windows_without_a_batch():
    same_after(Function(lambda y: functional.adaptive_avg_pool2d(y.mean(1), 7)), random((2, 3, 28, 28))[0])
    same_after(Function(lambda y: functional.adaptive_avg_pool2d(y.mean(1), (4, 1))), random((2, 3, 28, 28))[0])


class Guard(nn.Module):
    def forward(self, x):
        return x / 100 if float(x.abs().max()) > 50 else x


class Flat(nn.Module):
    def forward(self, x):
        return x.flatten(1) if float(x.sum()) < 1e9 else x


def test_modules_that_return_what_they_are_given():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Guard(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1))
    x = random((1, 3, 12, 12))[0]
    same_after(model, x, 1000 * x)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Flat(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 3))
    same_after(model, x, 2 * x)


CASES = {
    "numbers per plane that are slices": lambda y: (
        y * y.mean((2, 3), keepdim=True)[:, 1:2].expand(-1, 6, -1, -1)
        + torch.cat([y, y], 1).mean((2, 3), keepdim=True).chunk(2, 1)[1] * y
    ),
    "a slice in other shapes": lambda y: functional.relu(y[:, 2:5].reshape(y.shape[0] * 3, 8, 9)) * 2,
    "a slice, flattened": lambda y: y[:, :2].flatten(0, 1) + 1,
    "a slice, copied": lambda y: functional.relu(y[:, :3].contiguous() + y[:, 3:]),
    "rows with channels last": lambda y: torch.softmax(y.permute(0, 2, 3, 1).reshape(-1, 6), 1),
    "rows with channels last, returned": lambda y: y.permute(0, 2, 3, 1).reshape(-1, 6),
    "one of two numbers per image": lambda y: torch.sigmoid(y.mean((2, 3)).chunk(6, 1)[4].squeeze(1)),
    "a slice from before the start": lambda y: functional.relu(y[:, -10:3]) * 3,
    "joined dtypes": lambda y: torch.cat([y, y.double()], 1) * 2,
    "a view that is returned": lambda y: (y[:, 0], y[:, 0].sigmoid(), functional.relu(functional.relu(y * 2).mean(1))),
    "a number of the whole": lambda y: y / (y.std() + 1e-5),
    "logarithms": lambda y: torch.log(y - 1e-6) * 0.5,
    "exponentials": lambda y: torch.exp(y * 60),
    "a written sum of another dtype": lambda y: (y * 1).add_(y.double()),
}


@pytest.mark.slow(quick=len(CASES))
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch", [3, 1])
def test_edges_of_what_is_read(case, batch):
    model = Function(CASES[case]).eval()
    first, other, larger = (
        random((batch, 3, 8, 9), (batch, 3, 8, 9), (4, 3, 11, 9))
        if "shapes" not in case
        else (*random((batch, 3, 8, 9), (batch, 3, 8, 9)), random((4, 3, 8, 9))[0])
    )
    fast = cl.optimize(model, first, measure=False).model
    for x in (first, other, larger):
        for _ in range(2):
            with torch.no_grad():
                actual, expected = fast(x), model(x)
            pairs = zip(actual, expected, strict=True) if isinstance(expected, tuple) else [(actual, expected)]
            for a, b in pairs:
                torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-3, equal_nan=True)


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.calls, self.window = nn.Conv2d(3, 4, 3), 0, 8

    def forward(self, x):
        self.calls += 1
        self.window = min(self.window, x.shape[-1])
        return self.conv(x)


def test_attributes_of_the_given_model_are_not_changed():
    model = Counter().eval()
    cl.optimize(model, random((1, 3, 16, 16))[0], measure=False)
    assert (model.calls, model.window) == (0, 8)


CANCELLING = {
    "the mean of what has none": (lambda y: (y - y.mean((2, 3), keepdim=True)).mean((2, 3)), lambda x: x),
    "a norm of a constant": (lambda y: functional.group_norm(y * 0 + 3, 2), lambda x: x),
    "a norm of ones": (lambda y: functional.group_norm(y, 6), torch.ones_like),
}


@pytest.mark.parametrize("case", CANCELLING)
def test_where_numbers_cancel_a_model_is_not_refused(case):
    function, made = CANCELLING[case]
    x = made(random((1, 3, 12, 12))[0])
    model = Function(function).eval()
    found = cl.optimize(model, x, measure=False)
    assert found.report.reason is None, found.report.reason


@pytest.mark.parametrize("layout", ["channels last", "turned"])
def test_an_example_of_another_layout(layout):
    x = random((1, 3, 16, 16))[0]
    x = x.to(memory_format=torch.channels_last) if layout == "channels last" else x.transpose(2, 3)
    found = check(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()), (1, 3, 16, 16))
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()).eval()
    found = cl.optimize(model, x, measure=False)
    assert found.report.islands == {}
    with torch.no_grad():
        close(found.model(x), model(x))


def test_powers_written_as_operators():
    found = check(Function(lambda y: y**2 + 2**y), (1, 3, 8, 8))
    assert found.report.reason is None


@pytest.mark.parametrize("batch", [1, 3])
def test_instance_norms(batch):
    layers = [nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.ReLU(True), nn.Conv2d(8, 8, 1)]
    found = check(nn.Sequential(*layers, nn.InstanceNorm2d(8), nn.ReLU()), (batch, 3, 12, 13), islands={})
    assert found.report.reason is None


def test_a_model_that_draws_random_numbers():
    model = Function(lambda y: y + 1e-3 * torch.randn_like(y)).eval()
    x = random((1, 3, 8, 8))[0]
    fast = cl.optimize(model, x, measure=False).model
    with torch.no_grad():
        assert not torch.equal(fast(x), fast(x))
        assert float((fast(x) - model(x)).abs().max()) < 0.02


def test_float64_with_a_float32_constant():
    scale = torch.tensor([0.2, 0.3, 0.4, 1, 2, 3]).view(1, 6, 1, 1)
    model = Function(lambda y: functional.relu(y * scale)).double()
    x = random((2, 3, 8, 8))[0].double()
    same_after(model, x, 2 * x, tolerance=1e-12)


def test_double_accuracy_is_computed_in_float64():
    model = Function(functional.relu, (64,)).eval()
    x = random((1, 64, 16, 16))[0]
    fast = cl.optimize(model, x, accuracy="double", measure=False).model
    with torch.no_grad():
        fast(x)
        exact = copy.deepcopy(model).double()(x.double())
        assert float((fast(x).double() - exact).abs().max()) <= 1e-7 * float(exact.abs().max())


def test_inference_mode_and_back():
    model = Function(lambda y: torch.flip(functional.relu(y), (2,)) + y)
    x, other = random((1, 3, 8, 8), (2, 3, 9, 8))
    fast = cl.optimize(model.eval(), x, measure=False).model
    for y in (x, other):
        with torch.inference_mode():
            fast(y), fast(y)
        with torch.no_grad():
            close(fast(y), model(y))


# Models with code of their own.


class OwnCode(nn.Module):
    """A network whose code decides; `how` is a function of the module, its input and its first result."""

    def __init__(self, how):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.scale, self.calls, self.known = nn.Parameter(torch.tensor(1.5)), 0, {}
        self.how = how

    def forward(self, x):
        return self.how(self, x, functional.relu(self.b(self.a(x))))


def _counted(m, x, y):
    m.calls += 1
    return m.c(y) * 2 if y.shape[2] % 4 else m.c(y)


def _with_a_written_part(m, x, y):
    y[:, 0] = 0.5
    return m.c(y) if y.shape[2] % 4 else m.c(y) * 2


def _with_a_written_diagonal(m, x, y):
    y.diagonal(0, 2, 3).fill_(0.5)
    return m.c(y) if y.shape[2] % 4 else m.c(y) * 2


def _ramp(m, x, y):
    key = x.shape[3]
    if key not in m.known:
        m.known[key] = torch.arange(key).float()
    return m.c(y) + m.known[key]


TRACED_CODE = {
    "sizes": lambda m, x, y: m.c(functional.pad(y, (0, 4 - y.shape[3] % 4)) if y.shape[3] % 4 else y),
    "a parameter's value": lambda m, x, y: m.c(y) * m.scale.item() if y.shape[3] % 4 else m.c(y),
    "tensors made from sizes": lambda m, x, y: m.c(y) * torch.linspace(-1, 1, x.shape[3]) if y.shape[3] % 4 else y,
    "a table of tensors": _ramp,
    "steps in place": lambda m, x, y: m.c(functional.leaky_relu_(y.view(1, -1, *y.shape[2:]) + 1, 0.1).view(y.shape)),
    "a part written in place": _with_a_written_part,
    "constants in place": lambda m, x, y: m.c(y) * torch.arange(float(x.shape[3])).sub_(3).relu_(),
}
KEPT_CODE = {
    "values": (lambda m, x, y: m.c(y) if y.mean() > 0 else y, "reads values"),
    "values through NumPy": (lambda m, x, y: m.c(y) * float(y.numpy().max()) if y.shape[3] % 4 else y, "reads values"),
    "values as a list": (lambda m, x, y: m.c(y) * y[0, 0, 0].tolist()[0] if y.shape[3] % 4 else y, "reads values"),
    "a count of its calls": (_counted, "changes its attributes"),
    "a diagonal written in place": (_with_a_written_diagonal, "writes through aten.diagonal"),
}


def _with_statistics(model):
    generator = torch.Generator().manual_seed(0)
    for norm in [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]:
        norm.running_mean.normal_(generator=generator)
        norm.running_var.uniform_(0.5, 2, generator=generator)
    return model.eval()


def _checked_at_sizes(model, fast):
    for shape in ((1, 3, 18, 18), (2, 3, 16, 24), (1, 3, 33, 21)):
        for _ in range(2):
            x = torch.randn(shape)
            with torch.no_grad():
                expected = model(x)
            torch.testing.assert_close(fast(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow(quick=len(TRACED_CODE))
@pytest.mark.parametrize("name", TRACED_CODE)
@pytest.mark.parametrize("inside", [False, True])
def test_code_that_depends_on_sizes_is_traced_at_each_size(name, inside):
    model = _with_statistics(OwnCode(TRACED_CODE[name]))
    if inside:
        model = nn.Sequential(model, nn.Conv2d(8, 4, 1), nn.SiLU()).eval()
    found = cl.optimize(model, torch.randn(1, 3, 18, 18), measure=False)
    assert found.report.reason is None
    assert sum(step.kind == "convolve" for step in found.report.steps) >= 2
    _checked_at_sizes(model, found.model)


@pytest.mark.slow(quick=len(KEPT_CODE))
@pytest.mark.parametrize("name", KEPT_CODE)
@pytest.mark.parametrize("inside", [True, False])
def test_code_that_depends_on_values_stays_with_torch(name, inside):
    how, reason = KEPT_CODE[name]
    model = _with_statistics(OwnCode(how))
    if inside:
        model = nn.Sequential(model, nn.Conv2d(8, 4, 1), nn.SiLU()).eval()
    found = cl.optimize(model, torch.randn(1, 3, 18, 18), measure=False)
    if not inside:
        assert reason in found.report.reason
    else:
        assert len(found.report.islands) == 1
        assert reason in next(iter(found.report.kept.values()))
        assert "Called as a whole" in str(found.report)
    _checked_at_sizes(model, found.model)


def test_hooks_inside_code_of_ones_own_are_called():
    seen = []
    model = _with_statistics(OwnCode(TRACED_CODE["sizes"]))
    model.c.register_forward_hook(lambda *_: seen.append(1))
    found = cl.optimize(model, torch.randn(1, 3, 18, 18), measure=False)
    seen.clear()
    found.model(torch.randn(1, 3, 18, 18))
    assert seen == [1]


def test_a_module_that_is_tried_in_vain_is_called_once():
    model = _with_statistics(OwnCode(KEPT_CODE["a count of its calls"][0]))
    graph = torch.fx.Graph()
    graph.output(graph.call_module("inner", (graph.placeholder("x"),)))
    found, _ = trace(torch.fx.GraphModule({"inner": model}, graph), (torch.randn(1, 3, 18, 18),))
    assert "changes its attributes" in found.kept["inner"]
    assert model.calls == 1

"""Steps of a network's program: engines that the planner would not choose, softmax, norms; and networks without weights."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import convolith as cl
from convolith.network.execution.compiled import Compiled
from tests.test_network import check


def separable(channels, size, stride=1, padding=0):
    """A depthwise layer whose kernels are of rank one, two in every other channel."""
    layer = nn.Conv2d(channels, channels, size, stride, padding, groups=channels)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for c in range(channels):
            terms = [np.outer(rng.standard_normal(size), rng.standard_normal(size)) for _ in range(1 + c % 2)]
            layer.weight[c, 0] = torch.from_numpy(sum(terms)).float()
    return layer


LAYERS = {
    "fft, one channel": ("fft", nn.Conv2d(1, 3, 21, padding=10), (1, 40, 57)),
    "fft, channels summed": ("fft", nn.Conv2d(3, 4, (11, 15)), (3, 31, 70)),
    "fft, depthwise": ("fft", nn.Conv2d(4, 4, 13, padding=6, groups=4), (4, 33, 29)),
    "fft, groups": ("fft", nn.Conv2d(4, 6, 13, padding=(3, 9), groups=2), (4, 33, 29)),
    "fft, dilated": ("fft", nn.Conv2d(2, 2, 7, padding=9, dilation=3), (2, 40, 41)),
    "fft, signals": ("fft", nn.Conv1d(2, 3, 101, padding=50), (2, 900)),
    "fft, volumes": ("fft", nn.Conv3d(2, 3, 5, padding=2), (2, 7, 18, 19)),
    "fft, an axis of one": ("fft", nn.Conv2d(2, 3, (1, 61), padding=(0, 30)), (2, 1, 700)),
    "fft, many tiles": ("fft", nn.Conv2d(16, 16, 9), (16, 120, 130)),
    "separable": ("separable", separable(4, 9, padding=4), (4, 40, 57)),
    "separable, strided": ("separable", separable(3, 7, stride=2, padding=1), (3, 40, 57)),
    "separable, one channel": ("separable", separable(1, 15), (1, 40, 57)),
}


class Sum(nn.Module):
    """A layer, whose result is added to another one's and scaled, as an engine without tails does not do itself."""

    def __init__(self, layer, then):
        super().__init__()
        self.layer, self.other, self.then = layer, copy.deepcopy(layer), then
        with torch.no_grad():
            self.other.weight.mul_(0.5)

    def forward(self, x):
        return self.then(self.layer(x) + self.other(x)) * 0.25


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("then", [nn.Identity(), nn.ReLU(), nn.SiLU()], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_engines_without_tails_are_steps_too(name, then, batch):
    engine, layer, size = LAYERS[name]
    model = Sum(layer, then).eval()
    x = torch.randn(batch, *size, generator=torch.Generator().manual_seed(2))
    compiled = Compiled(model, (x,), "default", [engine] * 2)
    layers = [
        way
        for n, way in enumerate(map(compiled.way, range(len(compiled.nodes))))
        if compiled.nodes[n].kind == "convolve"
    ]
    assert [(way.engine, way.call) for way in layers] == [(engine, None)] * 2
    expected = copy.deepcopy(model).double()(x.double())
    for _ in range(2):  # the second call reuses the memory of the first
        assert float((compiled((x,)) - expected).abs().max()) <= 2e-5 * float(expected.abs().max())


@torch.no_grad()
def test_an_engine_without_tails_writes_into_a_concatenation():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = (
                nn.Conv2d(2, 3, 15, padding=7),
                separable(2, 9, padding=4),
                nn.Conv2d(2, 1, 1),
            )

        def forward(self, x):
            return torch.cat([self.three(x), torch.relu(self.one(x)), self.two(x)], 1)

    model, x = Joined().eval(), torch.randn(2, 2, 40, 41)
    compiled = Compiled(model, (x,), "default", ["pointwise", "fft", "separable"])
    expected = copy.deepcopy(model).double()(x.double())
    assert float((compiled((x,)) - expected).abs().max()) <= 2e-5 * float(expected.abs().max())


# Softmax, norms of rows, and interpolation of volumes.


class Softmax(nn.Module):
    """A softmax between two layers, of numbers that are far from one another."""

    def __init__(self, axis, shape):
        super().__init__()
        self.conv, self.axis, self.shape = nn.Conv2d(3, 5, 1), axis, shape

    def forward(self, x):
        y = (30 * self.conv(x)).reshape(len(x), *self.shape)
        return torch.softmax(y, self.axis) * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("axis", "shape"),
    [(1, (5, 6, 7)), (-1, (5, 6, 7)), (3, (5, 6, 7)), (1, (5 * 42,)), (-1, (1, 210)), (2, (42, 5)), (1, (210, 1))],
)
def test_softmax_is_generated_code(axis, shape, dtype):
    check(Softmax(axis, shape), (1, 3, 6, 7), (4, 3, 6, 7), islands={}, dtype=dtype, tolerance=1e-5)


def test_softmax_with_channels_last_is_generated_code():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

        def forward(self, x):
            return torch.softmax(self.linear(self.conv(x).permute(0, 2, 3, 1)), -1).permute(0, 3, 1, 2) + 1

    check(Head(), (1, 3, 9, 8), (2, 3, 9, 8), islands={})


@torch.no_grad()
def test_softmax_of_extreme_numbers_is_torchs():
    x = torch.tensor([[0.0, 200.0, -300.0], [-1e30, -1e30, 1e30], [float("nan"), 0, 1], [float("inf"), 0, 1]])
    x = torch.cat([x, torch.full((1, 3), float("-inf"))])
    model = nn.Sequential(nn.Identity(), nn.Softmax(1)).eval()
    compiled = Compiled(model, (x,), "default")
    assert not compiled.islands
    torch.testing.assert_close(compiled((x,)), model(x), equal_nan=True)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_norms_of_rows_are_generated_code(count, affine):
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 1)
            self.norm = nn.LayerNorm((5, 6, 7)[-count:], elementwise_affine=affine)
            for parameter in self.norm.parameters():
                nn.init.normal_(parameter)

        def forward(self, x):
            return self.norm(self.conv(x) + 100) * 2

    check(Rows(), (1, 3, 6, 7), (3, 3, 6, 7), islands={}, tolerance=1e-4)  # of the mean, 100, seven digits are left


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("how", [{"scale_factor": 2}, {"scale_factor": 1.7}, {"size": (3, 17, 5)}], ids=str)
def test_interpolation_of_volumes_is_generated_code(corners, how):
    class Resized(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(2, 3, 1)

        def forward(self, x):
            return nn.functional.interpolate(self.conv(x), mode="trilinear", align_corners=corners, **how) * 2

    check(Resized(), (1, 2, 5, 9, 7), (2, 2, 5, 9, 7), islands={})


# Networks without their weights.


def network():
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Hardswish(), nn.Conv2d(16, 8, 1)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5), nn.Softmax(1)),
    ).eval()


@torch.no_grad()
def test_weights_are_dropped_and_results_stay():
    model, x = network(), torch.randn(2, 3, 24, 25)
    found = cl.optimize(model, x, measure=False, drop_weights=True)
    held = [layer.weight for layer in found.model._compiled.layers]
    assert all(weight.is_meta for weight in held)
    assert found.report.weight_bytes == 0 < found.report.prepared_bytes
    for _ in range(3):
        y = torch.randn_like(x)
        torch.testing.assert_close(found.model(y), model(y))
    assert found.model.eval() is found.model


CALLS = {
    "shape": lambda model, x: model(x[:1]),
    "dtype": lambda model, x: model(x.double()),
    "gradients": lambda model, x: model(x.requires_grad_()),
    "autocast": lambda model, x: _under_autocast(model, x),
    "state_dict": lambda model, _: model.state_dict(),
    "within another module": lambda model, _: nn.Sequential(model).state_dict(),
    "load_state_dict": lambda model, _: model.load_state_dict({}),
    "training": lambda model, _: model.train(),
    "pickle": lambda model, _: pickle.dumps(model),
    "copy": lambda model, _: copy.deepcopy(model),
}


def _under_autocast(model, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return model(x)


@pytest.mark.parametrize("name", CALLS)
def test_what_needs_dropped_weights_is_refused(name):
    x = torch.randn(2, 3, 24, 25)
    model = cl.optimize(network(), x, measure=False, drop_weights=True).model
    with pytest.raises(cl.ConvolithError, match="weights as given, which optimize\\(drop_weights=True\\) dropped"):
        CALLS[name](model, x)


def test_a_network_without_weights_is_not_saved(tmp_path):
    found = cl.optimize(network(), torch.randn(2, 3, 24, 25), measure=False, drop_weights=True)
    with pytest.raises(cl.ConvolithError, match="drop_weights"):
        found.save(tmp_path / "net.zip")
    assert not list(tmp_path.iterdir())


def test_a_model_that_torch_computes_keeps_its_weights():
    class Random(nn.Module):
        def forward(self, x):
            return x * float(x.mean())  # a value, so that no program is possible

    x = torch.randn(1, 3, 8, 8)
    found = cl.optimize(Random().eval(), x, measure=False, drop_weights=True)
    torch.testing.assert_close(found.model(x), Random()(x))


@pytest.mark.parametrize("accuracy", ["default", "fast"])
@torch.no_grad()
def test_the_largest_tiles_of_winograd_are_tried_with_accuracy_fast_alone(accuracy):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()).eval()
    x = torch.randn(1, 3, 120, 180)
    compiled = Compiled(cl.fold(model, x).model, (x,), accuracy, tried=3)
    names = {way.engine for ways in compiled.ways for way in ways}
    assert ("winograd_6x6" in names) == (accuracy == "fast")
    compiled.chosen = [len(ways) - 1 for ways in compiled.ways]
    for number, ways in enumerate(compiled.ways):
        for way, found in enumerate(ways):
            if found.engine == "winograd_6x6":
                compiled.chosen[number] = way
    expected = model.double()(x.double()).detach()
    error = (compiled((x,)) - expected).abs().max() / expected.abs().max()
    assert error < (1e-4 if accuracy == "fast" else 1e-5)


class Attention(nn.Module):
    """Self-attention between linear layers, as in vision transformers; `how` computes it from (N, heads, positions, d)."""

    def __init__(self, how, channels=24, heads=3):
        super().__init__()
        self.heads, self.how = heads, how
        self.before, self.to_three = nn.Conv2d(3, channels, 4, 4), nn.Linear(channels, 3 * channels)
        self.after = nn.Linear(channels, channels)
        self.mask = nn.Parameter(torch.randn(heads, 1, 1))

    def forward(self, x):
        x = self.before(x).flatten(2).transpose(1, 2)
        batch, positions, channels = x.shape
        three = self.to_three(x).reshape(batch, positions, 3, self.heads, channels // self.heads)
        found = self.how(self, *three.permute(2, 0, 3, 1, 4).unbind(0))
        return x + self.after(found.transpose(1, 2).reshape(x.shape))


def _written_out(_, q, k, v):
    return ((q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5).softmax(-1) @ v


def _einsum(_, q, k, v):
    scores = torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1)
    return torch.einsum("bhij,bhjd->bhid", scores, v)


scaled = functional.scaled_dot_product_attention


def _with_positions_left_out(_, q, k, v):
    mask = torch.ones(q.shape[-2], k.shape[-2], dtype=q.dtype).triu(1) * -1e4
    mask = mask.masked_fill(mask < 0, -torch.inf)
    mask[2] = -torch.inf  # a position that reads nothing
    return scaled(q, k, v, attn_mask=mask)


ATTENTIONS = {
    "written out": (_written_out, set()),
    "einsum": (_einsum, {"permute.default"}),
    "torch's": (lambda _, q, k, v: scaled(q, k, v), set()),
    "torch's, with a scale": (lambda _, q, k, v: scaled(q, k, v, scale=0.3), set()),
    "torch's, with a mask": (lambda m, q, k, v: scaled(q, k, v, attn_mask=m.mask), {"expand.default"}),
    "torch's, with positions left out": (_with_positions_left_out, {"expand.default"}),
    "torch's, causal": (
        lambda _, q, k, v: scaled(q, k, v, is_causal=True),
        {"_scaled_dot_product_flash_attention_for_cpu.default", "permute.default", "select.int"},
    ),
    "across": (lambda _, q, k, v: scaled(q[..., :4], k[:, :, ::2, :4], v[:, :, ::2]), set()),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_is_products_and_a_softmax(name, dtype):
    how, islands = ATTENTIONS[name]
    found = check(Attention(how), (1, 3, 28, 36), (3, 3, 28, 36), (2, 3, 20, 8), dtype=dtype)
    assert set(found.report.islands) <= islands
    if "causal" not in name:
        assert sum(step.kind == "product" for step in found.report.steps) == 2


def test_attention_of_many_positions_stays_with_torch():
    found = check(Attention(ATTENTIONS["torch's"][0]), (1, 3, 160, 176))
    assert "_scaled_dot_product_flash_attention_for_cpu.default" in found.report.islands


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_a_safe_softmax_of_nothing_is_zero(axis, dtype):
    class Safe(nn.Module):
        def forward(self, x):
            return torch.ops.aten._safe_softmax(x * 1.5, axis) + 1

    x = torch.randn(2, 21, 37, dtype=dtype)
    x[0, :, 3] = x[0, 4] = x[1, 5, 6] = -torch.inf
    x[1, :, 8] = x[1, 7] = -2e38
    compiled = Compiled(Safe().eval(), (x,), "default")
    assert "softmax" in [node.kind for node in compiled.nodes]
    torch.testing.assert_close(compiled((x,)), Safe()(x), rtol=1e-6, atol=1e-6)


class NonLocal(nn.Module):
    """Attention between images of different sizes, as in SAGAN and non-local networks; channels are the vectors."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1), nn.Conv2d(8, 4, 1)
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(4, 8, 1)

    def forward(self, x):
        x = torch.relu(self.first(x))
        q, k, v = self.q(x).flatten(2), *(nn.functional.max_pool2d(f(x), 2).flatten(2) for f in (self.k, self.v))
        shares = torch.softmax(torch.bmm(q.transpose(1, 2), k), -1)
        found = torch.bmm(v, shares.transpose(1, 2)).view(len(x), 4, *x.shape[2:])
        return x + 0.5 * self.last(found)


def test_attention_over_channels():
    found = check(NonLocal(), (1, 3, 14, 18), (3, 3, 14, 18), (1, 3, 8, 30), islands={})
    assert sum(step.kind == "product" for step in found.report.steps) == 2


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (1, 5, 7, 3), (3, 8, 64, 16), (2, 33, 1, 50), (4, 1, 300, 17), (2, 64, 65, 196)]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@torch.no_grad()
def test_products_of_any_size(shape, dtype):
    class Both(nn.Module):
        def forward(self, a, b):
            return torch.bmm(a * 1.5, b.sigmoid()) + 1

    batch, rows, inner, columns = shape
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(batch, rows, inner, generator=generator).to(getattr(torch, dtype))
    b = torch.randn(batch, inner, columns, generator=generator).to(a.dtype)
    compiled = Compiled(Both().eval(), (a, b), "default")
    assert "product" in [node.kind for node in compiled.nodes]
    expected = torch.bmm(a.double() * 1.5, b.double().sigmoid()) + 1
    for _ in range(2):
        error = (compiled((a, b)).double() - expected).abs().max() / expected.abs().max()
        assert error < (1e-6 if dtype == "float32" else 1e-14)

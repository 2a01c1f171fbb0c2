"""Whole models counted by their operators: known totals, single operators by hand, what autograd keeps, refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.nn import functional as F  # noqa: N812

from bench.networks.classics import PRODUCTS, classic
from bench.networks.patterns import PATTERNS, SHAPE, Function, Residual, conv, kept_bytes
from convolith import ConvolithError, cost
from convolith.nn import convert
from convolith.work import layer_work
from tests.strategies import specs


@pytest.mark.slow
@pytest.mark.parametrize("name", PRODUCTS)
def test_known_networks(name):
    """Forward to the last product; backward twice that, but for the gradient of the picture."""
    pytest.importorskip("transformers")
    model = classic(name)
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    counted = cost(model, input_shape=(1, 3, 224, 224))
    size = 224 // first.stride[0] if first.padding[0] else (224 - first.kernel_size[0]) // first.stride[0] + 1
    size = 55 if name == "alexnet" else size
    unneeded = first.weight.numel() * size * size
    assert counted.forward.macs == PRODUCTS[name]
    assert counted.backward.macs == 2 * PRODUCTS[name] - unneeded
    assert counted.coverage == 1
    assert not counted.unknown
    whole = cost(model, input_shape=(1, 3, 224, 224), input_gradient=True)
    assert whole.backward.macs == 2 * PRODUCTS[name]
    assert counted.parameters == sum(p.numel() for p in model.parameters())
    assert all(p.grad is None for p in model.parameters())


MODULES = {1: (nn.Conv1d, nn.ConvTranspose1d), 2: (nn.Conv2d, nn.ConvTranspose2d), 3: (nn.Conv3d, nn.ConvTranspose3d)}


@pytest.mark.slow
@settings(max_examples=100)
@given(spec=specs(max_axes=3))
def test_a_layer_inside_a_model_counts_as_by_itself(spec):
    changes = {"dtype": "float32", "kernel_dtype": "float32", "batch": max(spec.batch, 1)}
    if spec.padding_mode != "zeros" or any(before != after for before, after in spec.padding):
        changes |= {"padding_mode": "zeros", "padding": 0, "size": tuple(n + 9 for n in spec.size)}
    spec = replace(spec, **changes)
    options = {"stride": spec.stride, "padding": tuple(a for a, _ in spec.padding), "dilation": spec.dilation}
    options |= {"groups": spec.groups, "bias": spec.bias}
    kind = MODULES[len(spec.size)][spec.transposed]
    extra = {"output_padding": spec.output_padding} if spec.transposed else {}
    layer = kind(spec.in_channels, spec.out_channels, spec.kernel_size, **options, **extra)
    for convention in ("dense", "effective"):
        model = cost(nn.Sequential(layer), input_shape=spec.input_shape, convention=convention, input_gradient=True)
        alone = layer_work(spec, convention)
        assert model.forward == alone.forward.__class__(**{**vars(alone.forward), "bytes": model.forward.bytes})
        for part in ("input_gradient", "weight_gradient", "bias_gradient"):
            assert getattr(model.backward, part) == getattr(alone.backward, part)
        assert model.backward.rest.macs == 0


def counts(function, *shapes, **parameters):
    counted = cost(Function(function, **parameters), input_shape=shapes, backward=False)
    assert not counted.unknown
    return counted.forward.macs, counted.forward.additions, counted.forward.others


OPERATORS = {
    "linear": (lambda m, x: F.linear(x, m.w, m.b), [(5, 7)], {"w": (3, 7), "b": (3,)}, (105, 105, 0)),
    "linear without bias": (lambda m, x: F.linear(x, m.w), [(5, 7)], {"w": (3, 7)}, (105, 90, 0)),
    "linear of three axes": (lambda m, x: F.linear(x, m.w, m.b), [(2, 5, 7)], {"w": (3, 7), "b": (3,)}, (210, 210, 0)),
    "einsum": (lambda m, x, y: torch.einsum("bij,bkj->bik", x, y), [(2, 3, 4), (2, 5, 4)], {}, (120, 90, 0)),
    "matmul": (lambda m, x, y: x @ y, [(2, 3, 4), (4, 5)], {}, (120, 90, 0)),
    "vector": (lambda m, x, y: x @ y, [(3, 4), (4,)], {}, (12, 9, 0)),
    "functional convolution": (lambda m, x: F.conv2d(x, m.w, padding="same"), [(1, 2, 5, 5)], {"w": (3, 2, 3, 3)}, (1350, 1275, 0)),
    "same and even": (lambda m, x: F.conv2d(x, m.w, padding="same"), [(1, 2, 5, 5)], {"w": (3, 2, 2, 2)}, (600, 525, 0)),
    "unbatched": (lambda m, x: F.conv1d(x, m.w), [(2, 9)], {"w": (4, 2, 3)}, (168, 140, 0)),
    "transposed": (lambda m, x: F.conv_transpose2d(x, m.w), [(1, 2, 4, 4)], {"w": (2, 3, 2, 2)}, (384, 309, 0)),
    "relu": (lambda m, x: F.relu(x), [(4, 5)], {}, (0, 0, 20)),
    "in place": (lambda m, x: (x + 1).relu_(), [(4, 5)], {}, (0, 20, 20)),
    "sum": (lambda m, x: x.sum(1), [(4, 5)], {}, (0, 16, 0)),
    "mean": (lambda m, x: x.mean(), [(4, 5)], {}, (0, 19, 1)),
    "softmax": (lambda m, x: x.softmax(1), [(4, 5)], {}, (0, 36, 56)),
    "max pooling": (lambda m, x: F.max_pool2d(x, 2), [(1, 3, 4, 4)], {}, (0, 0, 36)),
    "average pooling": (lambda m, x: F.avg_pool2d(x, 2), [(1, 3, 4, 4)], {}, (0, 36, 12)),
    "adaptive pooling": (lambda m, x: F.adaptive_avg_pool2d(x, 2), [(1, 1, 5, 5)], {}, (0, 32, 4)),
    "views": (lambda m, x: x.reshape(-1).view(2, 10).t()[1:].contiguous(), [(4, 5)], {}, (0, 0, 0)),
    "concatenation": (lambda m, x, y: torch.cat([x, y]), [(4, 5), (3, 5)], {}, (0, 0, 0)),
    "bilinear": (lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear"), [(1, 1, 3, 3)], {}, (0, 108, 0)),
    "nearest": (lambda m, x: F.interpolate(x, scale_factor=2), [(1, 1, 3, 3)], {}, (0, 0, 0)),
    "batch norm": (lambda m, x: F.batch_norm(x, None, None, m.a, m.b, training=True), [(2, 3, 4)], {"a": (3,), "b": (3,)}, (0, 90, 9)),
    "attention": (lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v), [(1, 2, 4, 8), (1, 2, 6, 8), (1, 2, 6, 8)], {}, (768, 744, 136)),
    "fft": (lambda m, x: torch.fft.fft(x.to(torch.complex64)).real, [(16,)], {}, (0, 192, 0)),
    "one of many": (lambda m, x: torch.special.i0(x), [(4, 5)], {}, (0, 0, 20)),
}  # fmt: skip


@pytest.mark.slow(quick=8)
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")  # torch's own, of the model as of its count
@pytest.mark.parametrize(("function", "shapes", "parameters", "expected"), OPERATORS.values(), ids=OPERATORS)
def test_operators_by_hand(function, shapes, parameters, expected):
    assert counts(function, *shapes, **parameters) == expected


def test_recurrent_layers_count_their_matrix_products():
    model = nn.LSTM(5, 7, batch_first=True)
    counted = cost(model, input_shape=(2, 3, 5))
    assert counted.forward.macs == 2 * 3 * (5 + 7) * 4 * 7
    assert not counted.unknown
    gru = cost(nn.GRU(5, 7), input_shape=(3, 2, 5))
    assert gru.forward.macs == 2 * 3 * (5 + 7) * 3 * 7


def test_frozen_parts_shared_modules_and_first_layers():
    shared = nn.Conv2d(4, 4, 3, padding=1, bias=False)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    counted = cost(model, input_shape=(1, 4, 6, 6))
    each = 4 * 4 * 9 * 36
    assert counted.forward.macs == 2 * each
    assert (counted.backward.input_gradient.macs, counted.backward.weight_gradient.macs) == (each, 2 * each)
    assert [row.forward.macs for row in counted.rows] == [2 * each, each, 0, each]
    for p in shared.parameters():
        p.requires_grad_(False)
    frozen = cost(nn.Sequential(shared, nn.Conv2d(4, 2, 1, bias=False)), input_shape=(1, 4, 6, 6))
    assert frozen.backward.input_gradient.macs == 0
    assert frozen.backward.weight_gradient.macs == 8 * 36
    assert cost(model, input_shape=(1, 4, 6, 6)).backward.macs == 0
    assert cost(model, input_shape=(1, 4, 6, 6), input_gradient=True).backward.input_gradient.macs == 2 * each


def test_the_tree_of_modules():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), nn.Flatten(), nn.Linear(64, 5))
    counted = cost(model, input_shape=(2, 3, 6, 6))
    names = [row.name for row in counted.rows]
    assert names == ["", "0", "0.0", "0.1", "1", "2"]
    by_name = dict(zip(names, counted.rows))
    assert by_name["0"].forward == by_name["0.0"].forward + by_name["0.1"].forward
    assert by_name[""].forward == counted.forward
    assert by_name[""].backward == counted.backward
    assert by_name["2"].backward.rest.macs == 2 * 2 * 64 * 5
    assert by_name["0.0"].backward.weight_gradient.macs == by_name["0.0"].forward.macs
    assert by_name["0"].parameters == 3 * 4 * 9 + 4 + 8
    text = str(counted)
    assert "training" in text
    assert "    0" in text
    assert "<table>" in counted._repr_html_()
    table = counted.table(depth=None, sort="macs", top=2)
    assert [row["module"] for row in table.rows] == ["Sequential", "0"]
    assert json.loads(json.dumps(counted.as_dict()))["modules"][2]["name"] == "0.0"
    for options, message in (
        ({"sort": "size"}, "sort is 'size'"),
        ({"depth": -1}, "depth is -1"),
        ({"top": 0}, "top is 0"),
    ):
        with pytest.raises(ConvolithError, match=message):
            counted.table(**options)


FIELDS = {
    "alexnet": ((1, 3, 224, 224), "12", "195x195 by 32x32"),
    "vgg16": ((1, 3, 224, 224), "30", "212x212 by 32x32"),
    "resnet50": ((1, 3, 224, 224), "resnet.encoder.stages.3.layers.2.layer.2.convolution", "427x427 by 32x32"),
    "mobilenet_v2": ((1, 3, 224, 224), "mobilenet_v2.conv_1x1.convolution", "491x491 by 32x32"),
}


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("name", FIELDS)
def test_receptive_fields_of_known_networks(name):
    """As published for them by Araujo, Norris and Sim 2019 (ResNet-50 with its strides in the 3x3)."""
    shape, module, expected = FIELDS[name]
    rows = {row.name: row for row in cost(classic(name), input_shape=shape, backward=False).rows}
    assert str(rows[module].field) == expected


def test_receptive_fields_are_where_gradients_go():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, dilation=2), nn.ReLU(), nn.AvgPool2d(2), Residual(nn.Conv2d(2, 2, (5, 3), padding=(2, 1))),
        nn.ConvTranspose2d(2, 2, 4, stride=2), nn.Conv2d(2, 1, 3, stride=3),
    ).double()  # fmt: skip
    row = cost(model, input_shape=(1, 1, 64, 64), backward=False).rows[-1]
    x = torch.rand(1, 1, 64, 64, dtype=torch.float64, requires_grad=True)
    middle = [n // 2 for n in model(x).shape[2:]]
    reached = 0
    for at in range(2):  # of neighbours, since an upsampled pixel may see less
        (slope,) = torch.autograd.grad(model(x)[0, 0, middle[0] + at, middle[1] + at], x)
        seen = slope[0, 0].abs() > 0
        sides = [int(seen.any(1 - axis).sum()) for axis in range(2)]
        reached = max(reached, *sides)
        spans = [int(seen.any(1 - axis).nonzero().max() - seen.any(1 - axis).nonzero().min()) + 1 for axis in range(2)]
        assert all(span <= n for span, n in zip(spans, row.field.size))
        assert all(span >= n - 4 for span, n in zip(spans, row.field.size))
    assert row.field.stride == (3, 3)
    everything = cost(nn.Sequential(conv(), nn.AdaptiveAvgPool2d(1)), input_shape=(1, 4, 8, 8)).rows[-1]
    assert everything.field.size is None


def test_the_least_time_is_that_of_products_or_of_bytes():
    from convolith.planner.machine import limits

    counted = cost(nn.Sequential(nn.Linear(2000, 2000), nn.ReLU()), input_shape=(2000, 2000), backward=False)
    products, moved = counted.rows[1], counted.rows[2]
    assert products.seconds == pytest.approx(8e9 / limits().products_per_second("float32"))
    assert moved.seconds == pytest.approx(limits().moving_seconds(2 * 4 * 2000 * 2000))
    assert counted.rows[0].seconds == pytest.approx(products.seconds + moved.seconds)
    assert products.intensity == pytest.approx(8e9 / counted.rows[1].forward.bytes)
    assert counted.table().rows[0]["ms at least"] == pytest.approx(1e3 * counted.rows[0].seconds)


def test_a_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.random.get_rng_state()
    for run in (False, True):
        cost(model, example_input=torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), run=run)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert model.training
    assert torch.equal(random, torch.random.get_rng_state())


# What autograd keeps ---------------------------------------------------------------------------------------------------


@pytest.mark.slow(quick=23)
@pytest.mark.parametrize("make", PATTERNS.values(), ids=PATTERNS)
def test_saved_bytes_are_those_that_autograd_keeps(make):
    model = make()
    found = cost(model, input_shape=SHAPE).memory.backward.saved_activations
    assert found == kept_bytes(model, torch.randn(SHAPE))


def test_memory_by_term():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))
    memory = cost(model, input_shape=(2, 3, 10, 10)).memory
    assert memory.forward.input == 4 * 2 * 3 * 100
    assert memory.forward.parameters == 4 * (8 * 27 + 4 * 8) + 8
    assert memory.forward.output == 4 * 2 * 8 * 64
    assert memory.backward.parameter_gradients == 4 * (8 * 27 + 16)
    assert memory.backward.output_gradient == memory.forward.output
    assert memory.backward.input_gradient == 0
    assert cost(model, input_shape=(2, 3, 10, 10), input_gradient=True).memory.backward.input_gradient == 4 * 600
    assert cost(model, input_shape=(2, 3, 10, 10), backward=False).memory.backward.bytes == 0


# What cannot be counted -------------------------------------------------------------------------------------------------


def test_an_operator_without_a_rule_makes_a_lower_bound():
    model = Function(lambda m, x: torch.linalg.svdvals(x) @ m.w, w=(4, 2))
    counted = cost(model, input_shape=(3, 5, 4), backward=False)
    assert counted.unknown == {"_linalg_svd": 1}
    assert 0 < counted.coverage < 1
    assert "LOWER BOUNDS" in str(counted)
    assert "_linalg_svd" in str(counted)
    assert counted.as_dict()["lower_bound"]


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 3), Function(lambda m, x: x * 2 if x.sum() > 0 else x))

    def forward(self, x):
        return self.inner(x)


def test_values_that_decide_are_named_and_counted_for_an_example():
    with pytest.raises(ConvolithError, match=r"module inner\.1, given \(2, 3\), decides by values.*pass run=True"):
        cost(Branching(), input_shape=(2, 3))
    with pytest.raises(
        ConvolithError, match=r"a number is read .*\(test_model_cost.py, line \d+: `.*if x.sum\(\) > 0"
    ) as said:
        cost(Branching(), input_shape=(2, 3))
    assert "aten" not in str(said.value)
    with pytest.raises(
        ConvolithError, match=r"the size of a result depends on values, as in .*test_model_cost.py, line"
    ):
        cost(Function(lambda m, x: x[x > 0]), input_shape=(2, 3))
    counted = cost(Branching(), example_input=torch.ones(2, 3), run=True)
    assert counted.forward.macs == 18
    with pytest.raises(ConvolithError, match="run is True without an example_input"):
        cost(Branching(), input_shape=(2, 3), run=True)


REFUSED = {
    "shape": (nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.ReLU()), {"input_shape": (1, 2, 8, 8)}, r"module 0\.0 refuses \(1, 2, 8, 8\): .*pass inputs of the shapes"),
    "neither": (nn.ReLU(), {}, "neither of input_shape and example_input were given"),
    "both": (nn.ReLU(), {"input_shape": (1,), "example_input": torch.ones(1)}, "both of input_shape and example_input"),
    "negative": (nn.ReLU(), {"input_shape": (1, -2)}, "input_shape .* is -2; expected 0 or more"),
    "number": (nn.ReLU(), {"input_shape": 5}, "input_shape is 5; expected a shape such as"),
    "none": (nn.ReLU(), {"input_shape": (None, 3)}, r"input_shape is \(None, 3\); expected a shape"),
    "fraction": (nn.ReLU(), {"input_shape": (1.0, 3)}, r"input_shape is \(1.0, 3\); expected a shape"),
    "word": (nn.ReLU(), {"input_shape": "abc"}, "input_shape"),
    "lazy": (nn.Sequential(nn.LazyLinear(3)), {"input_shape": (2, 3)}, "model has the lazy parameter 0.weight"),
    "convention": (nn.ReLU(), {"input_shape": (1,), "convention": "sparse"}, "convention is 'sparse'"),
    "layer": (nn.Conv2d(3, 4, 3), {"input_shape": (1, 3, 8, 8), "backward": False}, "backward=False was given for a layer"),
}  # fmt: skip


@pytest.mark.parametrize(("model", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals(model, options, message):
    with pytest.raises(ConvolithError, match=message):
        cost(model, **options)


def test_contexts_and_kinds_of_models_change_nothing():
    def plain():
        return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU())

    expected = 216 * 36
    for context in (torch.no_grad, torch.inference_mode, lambda: torch.device("meta")):
        model = plain()
        with context():
            counted = cost(model, input_shape=(1, 3, 8, 8), optimizer="sgd")
        assert (counted.forward.macs, counted.backward.macs) == (expected, expected)
        assert counted.peak.bytes > counted.memory.backward.saved_activations
    example = torch.ones(1, 3, 8, 8)
    normed = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3, bias=False)))
    models = [
        plain().to("meta"),
        torch.export.export(plain(), (example,)).module(),
        normed,
    ]
    for model in models:
        assert cost(model, input_shape=(1, 3, 8, 8)).forward.macs == expected
    spectral = nn.Sequential(torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 8, 3, bias=False)))
    assert cost(spectral, input_shape=(1, 3, 8, 8)).forward.macs > expected


def test_other_inputs():
    tokens = torch.zeros(2, 5, dtype=torch.int64)
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 3))
    assert cost(model, example_input=tokens).forward.macs == 2 * 5 * 12
    assert cost(model, example_input=tokens.numpy()).forward.macs == 2 * 5 * 12
    two = Function(lambda m, x, y: {"sum": x @ y})
    assert cost(two, input_shape=((2, 3), (3, 4))).forward.macs == 24
    assert cost(two, example_input=(torch.ones(2, 3), torch.ones(3, 4))).output_shapes == ((2, 4),)

    class Named(nn.Module):
        def forward(self, x, scale):
            return x * scale

    assert cost(Named(), example_input={"x": torch.ones(3), "scale": 2.0}).forward.multiplications == 3
    half = nn.Linear(3, 2).to(torch.bfloat16)
    assert cost(half, input_shape=(1, 3)).memory.forward.output == 4
    assert np.isfinite(cost(half, input_shape=(1, 3)).coverage)


@pytest.mark.parametrize(
    "given", [{"input_shape": (2, 3, 32, 32)}, {"example_input": torch.zeros(2, 3, 32, 32), "run": True}]
)
@pytest.mark.parametrize("backward", [True, False])
def test_converted_models_count_as_torchs_own(given, backward):
    def model():
        return nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), nn.Conv2d(8, 4, 3, stride=2, groups=4))  # fmt: skip

    theirs = cost(model(), backward=backward, **given)
    ours = cost(convert(model()), backward=backward, **given)
    assert not ours.unknown
    assert (ours.forward.macs, ours.forward.additions) == (theirs.forward.macs, theirs.forward.additions)
    assert ours.backward.macs == theirs.backward.macs
    assert [row.field for row in ours.rows] == [row.field for row in theirs.rows]

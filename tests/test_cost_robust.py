"""Counting odd models: what they cache, catch, checkpoint, alias and return, and that they are left as they were."""

import copy
import dataclasses
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

import convolith as cl
from convolith import ConvolithError, cost
from tests.networks.patterns import Of, kept_bytes


def row(*layers):
    return nn.Sequential(*layers)


def perceptron():
    return {"a": nn.Linear(64, 64), "b": row(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64)), "c": nn.Linear(64, 4)}


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_leave_products_with_their_modules(reentrant):
    plain = Of(lambda s, x: s.c(s.b(s.a(x))), **perceptron())
    again = Of(lambda s, x: s.c(checkpoint(s.b, s.a(x), use_reentrant=reentrant)), **perceptron())
    expected, found = (cost(model, input_shape=(32, 64)) for model in (plain, again))
    alike = {r.name: r.backward.total.macs for r in expected.rows}
    for r in found.rows:
        more = expected.modules.get(r.name)
        assert r.backward.total.macs >= alike[r.name]
        if r.name in ("a", "c"):
            assert r.backward.total.macs == alike[r.name]
    again_in_b = 32 * 64 * 64 * (2 if reentrant else 1)  # what is not needed again is not computed again
    assert alike["b"] < found.rows[2].backward.total.macs <= alike["b"] + 2 * again_in_b
    assert more is None or found.memory.backward.saved_activations < expected.memory.backward.saved_activations


def test_the_peak_of_a_checkpointed_step():
    model = Of(lambda s, x: s.c(checkpoint(s.b, s.a(x), use_reentrant=False)), **perceptron())
    found = cost(model, input_shape=(4096, 64), backward=False, optimizer="sgd", verify=True).peak
    assert found.bytes == pytest.approx(found.measured, rel=0.02)


def test_what_a_model_catches_is_no_refusal():
    def forward(s, x):
        try:
            s.a(x)
        except RuntimeError:
            x = F.pad(x, (0, 1))
        return F.linear(s.b(x), s.b.weight)

    counted = cost(Of(forward, a=nn.Linear(5, 5), b=nn.Linear(4, 4)), input_shape=(2, 3))
    assert {name: tally.forward.macs for name, tally in counted.modules.items()} == {"": 32, "a": 0, "b": 32}
    with pytest.raises(ConvolithError, match=r"module 1\.a refuses \(2, 5\)"):
        cost(
            row(nn.Linear(3, 5), Of(lambda s, x: s.a(x=x) if False else s.a(x), a=nn.Linear(4, 4))), input_shape=(2, 3)
        )
    named = Of(lambda s, x: s.a(x=x), a=Of(lambda s, x: x @ x))
    with pytest.raises(ConvolithError, match=r"module a refuses \(2, 3\)"):
        cost(named, input_shape=(2, 3))


class Cache(nn.Module):
    """It makes what it needs in its first call."""

    def __init__(self):
        super().__init__()
        self.layer, self.ramp, self.calls = nn.Conv2d(3, 3, 3), None, torch.zeros(())
        self.by_size, self.seen, self.inner = {}, [], {"deep": [torch.ones(3, 1, 1)]}
        self.register_buffer("ones", None)

    def forward(self, x):
        y = self.layer(x)
        if self.ramp is None:
            self.ramp = torch.arange(y.shape[3], dtype=y.dtype)
        if self.ones is None:
            self.ones = torch.ones(3, 1, 1)
        self.by_size.setdefault(y.shape, torch.zeros(y.shape[1:]))
        self.seen.append(y)
        self.calls += 1
        self.extra = nn.Parameter(torch.ones(1))
        return y * self.ones * self.inner["deep"][0] + self.ramp + self.by_size[y.shape]


@pytest.mark.parametrize(
    "given", [{"input_shape": (1, 3, 10, 10)}, {"example_input": torch.ones(1, 3, 10, 10), "run": True}]
)
def test_a_model_is_left_as_it_was(given):
    model = Cache()
    before = copy.deepcopy(vars(model))
    for optimizer in (None, "sgd") if "run" not in given else (None,):
        cost(model, optimizer=optimizer, **given)
    assert vars(model).keys() == before.keys()
    assert model.ramp is None
    assert model.ones is None
    assert model.by_size == {}
    assert model.seen == []
    assert model.calls.item() == 0
    assert "extra" not in model._parameters
    assert type(model.inner["deep"][0]) is torch.Tensor
    assert model(torch.zeros(1, 3, 10, 10)).sum().item() is not None


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
@pytest.mark.filterwarnings("ignore")
def test_weights_that_are_computed_stay_real(norm):
    model = row(norm(nn.Conv2d(3, 4, 3)))
    model(torch.zeros(1, 3, 8, 8))
    counted = cost(model, input_shape=(1, 3, 8, 8))
    assert counted.forward.macs >= 4 * 27 * 36
    assert not counted.unknown
    assert model[0].weight.sum().item() is not None
    with pytest.raises(ConvolithError, match="module 0, a Conv2d, computes its weight from other parameters"):
        counted.scaled(kernel_size=3)


def test_running_changes_neither_inputs_nor_parameters():
    def forward(s, x):
        s.layer.weight.data.clamp_(min=7)
        return s.layer(F.relu(x, inplace=True))

    model, x = Of(forward, layer=nn.Linear(3, 3)), torch.full((1, 3), -1.0)
    weight = model.layer.weight.detach().clone()
    cost(model, example_input=x, run=True)
    assert torch.equal(x, torch.full((1, 3), -1.0))
    assert torch.equal(model.layer.weight, weight)


@dataclasses.dataclass
class Answer:
    logits: torch.Tensor
    other: dict


def test_what_objects_hold_comes_out_and_goes_in():
    model = Of(lambda s, x: Answer(s.layer(x), {"twice": [x * 2]}), layer=nn.Linear(4, 4))
    counted = cost(model, input_shape=(2, 4))
    assert counted.backward.macs == 32
    assert counted.output_shapes == ((2, 4), (2, 4))
    held = Answer(torch.ones(2, 4), {"a": torch.ones(3)})
    model = Of(lambda s, given: s.layer(given.logits) * given.other["a"].sum(), layer=nn.Linear(4, 4))
    counted = cost(model, example_input=(held,))
    assert counted.memory.forward.input == 4 * 8 + 4 * 3
    assert counted.forward.macs == 32
    assert type(held.logits) is torch.Tensor


@pytest.mark.filterwarnings("ignore")
def test_caches_that_are_given_are_copied():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=50
    )
    model, cache = transformers.LlamaForCausalLM(config).eval(), transformers.DynamicCache()
    ids = torch.zeros(1, 12, dtype=torch.int64)
    with torch.no_grad():
        model(ids, past_key_values=cache, use_cache=True)
    given = {"input_ids": ids[:, :1], "past_key_values": cache}
    first, second = (cost(model, example_input=given, backward=False) for _ in range(2))
    assert first.counts() == second.counts()
    assert cache.get_seq_length() == 12
    assert first.memory.forward.input == 8 + 2 * 2 * 4 * 12 * 32


def test_a_weight_that_is_held_twice_has_its_gradient():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(10, 4)
            self.held = {"weight": self.embed.weight}

        def forward(self, words):
            return F.linear(self.embed(words), self.held["weight"])

    counted = cost(Tied(), input_shape=(2, 3), input_dtype="int64")
    assert counted.forward.macs == 240
    assert counted.backward.macs == 480
    assert counted.parameters == 40


def test_memory_that_parameters_share_is_held_once():
    model = row(nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False))
    model[1].weight.data = model[0].weight.data.t()
    counted = cost(model, input_shape=(2, 10))
    assert counted.memory.forward.parameters == 400
    assert counted.parameters == 200
    assert counted.backward.macs == 3 * 200


def test_parts_in_inference_mode_are_counted():
    def forward(s, x):
        with torch.inference_mode():
            y = s.a(x)
        return s.b(y.clone())

    counted = cost(Of(forward, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 4, 3)), input_shape=(1, 3, 8, 8), backward=False)
    assert not counted.unknown
    assert counted.forward.macs == 36 * 108 + 16 * 144


def test_gradients_of_views_are_as_large_as_they():
    counted = cost(Of(lambda s, x: s.layer(x)[:, 0], layer=nn.Linear(4, 4)), input_shape=(2, 100, 4))
    assert counted.memory.backward.output_gradient == 32


def test_the_same_tensor_twice_is_held_once():
    x = torch.ones(2, 4)
    counted = cost(Of(lambda s, a, b: s.layer(a) + b, layer=nn.Linear(4, 4)), example_input=(x, x))
    assert counted.memory.forward.input == 32


def test_sparse_gradients():
    model, words = nn.Embedding(10, 4, sparse=True), torch.arange(6).reshape(2, 3)
    counted = cost(model, example_input=words, run=True)
    assert counted.memory.backward.parameter_gradients == 6 * 4 * 4 + 6 * 8
    with pytest.raises(ConvolithError, match="sparse tensors or gradients, .*pass run=True with an example_input"):
        cost(model, example_input=words)
    with pytest.raises(ConvolithError, match="sparse tensors or gradients, .*the peak of a step is not known"):
        cost(model, example_input=words, backward=False, optimizer="sgd")


def test_lstms_save_what_autograd_keeps():
    for inputs, units in ((8, 16), (40, 96), (300, 256)):
        model, x = nn.LSTM(inputs, units, 2, bidirectional=True), torch.randn(5, 2, inputs)
        found = cost(model, input_shape=(5, 2, inputs)).memory.backward.saved_activations
        assert found == kept_bytes(model, x)


def test_norms_of_one_number_begin_with_a_batch_of_two():
    model = row(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8)).train()
    counted = cost(model, input_shape=(4, 3, 16, 16), optimizer="sgd")
    batch = counted.largest_batch(1e6)
    assert batch > 2
    assert counted.peak_at(batch).bytes <= 1e6 < counted.peak_at(batch + 1).bytes
    assert counted.largest_batch(10) == 0
    for memory in (None, "x", float("nan"), float("inf"), -1):
        with pytest.raises(ConvolithError, match="memory is .*; expected a finite number of bytes"):
            counted.largest_batch(memory)


def test_whole_numbers_can_be_measured():
    model = Of(lambda s, words: s.layer(s.embed(words)), embed=nn.Embedding(50, 16), layer=nn.Linear(16, 50))
    found = cost(model, input_shape=(8, 32), input_dtype="int64", optimizer="sgd", verify=True).peak
    assert found.bytes == pytest.approx(found.measured, rel=0.02)


LAYERS = {
    "reflected": ({"padding": 1, "padding_mode": "reflect"}, True),
    "replicated": ({"padding": 1, "padding_mode": "replicate"}, True),
    "circular": ({"padding": 1, "padding_mode": "circular"}, True),
    "circular, first": ({"padding": 1, "padding_mode": "circular"}, False),
    "reflected, first": ({"padding": 1, "padding_mode": "reflect"}, False),
    "same, even": ({"kernel_size": 4, "padding": "same"}, True),
    "same, odd": ({"padding": "same"}, True),
    "plain": ({"padding": 2, "stride": 2}, True),
}


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")  # torch's own, of the model as of its count
@pytest.mark.parametrize(("options", "gradient"), LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("convention", ["dense", "effective"])
def test_layers_and_models_agree(options, gradient, convention):
    layer = nn.Conv2d(4, 8, **({"kernel_size": 3} | options))
    both = [
        cost(module, input_shape=(2, 4, 11, 9), input_gradient=gradient, convention=convention)
        for module in (layer, row(layer))
    ]
    kept = [(c.memory.backward.saved_activations, c.memory.backward.parameter_gradients) for c in both]
    assert kept[0] == kept[1]
    assert both[0].forward.multiplications == both[1].forward.multiplications
    for part in ("input_gradient", "weight_gradient"):
        one, other = (getattr(c.backward, part) for c in both)
        assert one.multiplications == other.multiplications
        if "padding_mode" not in options or part == "weight_gradient":  # a model's padding has a gradient by itself
            assert one.additions == other.additions


def test_layers_that_compute_something_else_are_models():
    class Rectified(nn.Conv2d):
        def forward(self, x):
            return super().forward(x).relu()

    assert cost(Rectified(3, 4, 3), input_shape=(1, 3, 8, 8)).forward.others == 4 * 36
    assert cost(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), input_shape=(1, 3, 8, 8)).forward.others > 0
    assert isinstance(
        cost(cl.nn.Conv2d(3, 4, 3), input_shape=(1, 3, 8, 8)), type(cost(nn.Conv2d(3, 4, 3), input_shape=(1, 3, 8, 8)))
    )
    frozen = cost(nn.Conv2d(3, 4, 3).requires_grad_(False), input_shape=(1, 3, 8, 8))
    assert frozen.backward.weight_gradient.multiplications == frozen.memory.backward.parameter_gradients == 0
    assert frozen.backward.input_gradient.multiplications == frozen.forward.multiplications


N = 1000
OPERATORS = {
    "cumsum": (lambda x: x.cumsum(0), (0, N - 1, 0)),
    "cumprod": (lambda x: x.cumprod(0), (N - 1, 0, 0)),
    "sort": (lambda x: x.sort()[0], (0, 0, 10 * N)),
    "topk": (lambda x: x.topk(3)[0], (0, 0, 10 * N)),
    "squared error": (lambda x: F.mse_loss(x, x * 1), (N + N, 2 * N - 1, 1)),
    "errors apart": (lambda x: F.mse_loss(x, x, reduction="none"), (N, N, 0)),
    "summed error": (lambda x: F.mse_loss(x, x, reduction="sum"), (N, 2 * N - 1, 0)),
    "huber": (lambda x: F.huber_loss(x, x), (2 * N, 3 * N - 1, N + 1)),
    "cross entropy of logits": (lambda x: F.binary_cross_entropy_with_logits(x, x), (N, 4 * N - 1, 4 * N + 1)),
    "cross entropy": (lambda x: F.binary_cross_entropy(x, x, reduction="sum"), (2 * N, 4 * N - 1, 2 * N)),
    "norm": (lambda x: x.norm(), (N, N - 1, 1)),
    "norm of sizes": (lambda x: x.norm(p=1), (0, N - 1, N)),
    "largest size": (lambda x: x.norm(p=float("inf")), (0, 0, 2 * N - 1)),
    "variance": (lambda x: x.var(), (N, 3 * N - 2, 2)),
    "cube": (lambda x: x**3.0, (2 * N, 0, 0)),
    "power of tensors": (lambda x: x**x, (0, 0, N)),
    "power of a number": (lambda x: 2**x, (0, 0, N)),
    "added into places": (lambda x: x.scatter(0, torch.zeros(N, dtype=torch.int64), x, reduce="add"), (0, N, 0)),
    "put into places": (lambda x: x.scatter(0, torch.zeros(N, dtype=torch.int64), x), (0, 0, 0)),
    "a product alone": (lambda x: torch.addmm(x[None], x[:, None].T, x[:, None] * x, beta=0), (N * N + N * N, N * N - N, 0)),
}  # fmt: skip


@pytest.mark.parametrize(("function", "expected"), OPERATORS.values(), ids=OPERATORS)
def test_operators_that_bring_numbers_together(function, expected):
    found = cost(Of(lambda s, x: function(x)), input_shape=(N,), backward=False)
    assert not found.unknown
    assert (found.forward.multiplications, found.forward.additions, found.forward.others) == expected
    assert all(isinstance(n, int) for n in (found.forward.multiplications, found.forward.macs))


MODELS = {
    "GRU": (lambda: nn.GRU(8, 16, 2), (5, 2, 8)),
    "a step of an LSTM": (lambda: Of(lambda s, x: s.cell(x)[0], cell=nn.LSTMCell(8, 16)), (2, 8)),
    "LSTM in double precision": (lambda: nn.LSTM(8, 16).double(), (5, 2, 8)),
    "encoder": (lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), (2, 5, 16)),
    "generalised means": (lambda: Of(lambda s, x: x.clamp(min=1e-6).pow(s.p).mean((2, 3)), p=nn.Parameter(torch.ones(1) * 3)), (1, 3, 8, 8)),
    "gated": (lambda: row(nn.Conv2d(3, 8, 1), nn.GLU(1)), (1, 3, 8, 8)),
    "bilinear": (lambda: Of(lambda s, x: s.both(x, x), both=nn.Bilinear(4, 4, 3)), (2, 4)),
}  # fmt: skip


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("make", "shape"), MODELS.values(), ids=MODELS)
def test_models_all_of_whose_operators_have_a_rule(make, shape, training):
    counted = cost(make().train(training), input_shape=shape)
    assert counted.unknown == {}
    assert counted.coverage == 1


def test_bytes_are_moved_once():
    layer = nn.Conv2d(8, 8, 3, padding=1, bias=False)
    assert (
        cost(row(layer), input_shape=(1, 8, 16, 16)).forward.bytes
        == cost(layer, input_shape=(1, 8, 16, 16)).forward.bytes
    )


@pytest.mark.filterwarnings("ignore")
def test_quantised_models_are_counted_for_an_example():
    q = torch.ao.quantization
    for layer, x in (
        (nn.Conv2d(4, 8, 3, groups=2, stride=2, padding=1), torch.randn(2, 4, 9, 9)),
        (nn.Conv1d(4, 8, 3, padding=1, dilation=2), torch.randn(2, 4, 9)),
        (nn.Conv3d(4, 8, 3), torch.randn(2, 4, 5, 5, 5)),
        (nn.Linear(8, 5), torch.randn(3, 8)),
    ):
        model = row(q.QuantStub(), layer, q.DeQuantStub()).eval()
        model.qconfig = q.get_default_qconfig(torch.backends.quantized.engine)
        made = q.prepare(model)
        made(x)
        model = q.convert(made)
        plain = cost(row(layer), example_input=x, backward=False)
        counted = cost(model, example_input=x, run=True)
        assert not counted.unknown
        assert counted.forward.macs == plain.forward.macs
        assert counted.parameters == plain.parameters
        with pytest.raises(ConvolithError, match="pass run=True with an example_input"):
            cost(model, input_shape=tuple(x.shape))


class Refuses(torch.autograd.Function):
    """It has no gradient."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, slope):
        raise ValueError("there is no slope")


REFUSED = {
    "a gradient": (lambda s, x: Refuses.apply(s.layer(x)), "the backward pass of the model refuses: there is no slope; pass backward=False"),
    "a parameter changed": (lambda s, x: s.layer(x) + s.layer.weight.mul_(2), r"refuses \(3, 3\): a leaf Variable .*; pass backward=False"),
    "values in NumPy": (lambda s, x: s.layer(x) * float(x.numpy().sum()), "needs values in memory, not shapes alone: .*; pass run=True with an example_input"),
    "values that decide": (lambda s, x: s.layer(x)[: int(x.sum())], "decides by values .*; pass run=True with an example_input"),
    "an exit": (lambda s, x: sys.exit(0), r"calls sys\.exit\(0\); take the call out"),
    "arguments": (lambda s, x: F.conv2d(s.layer(x), x, stride="a"), "TypeError: .*got \\(Tensor, Tensor.*; pass inputs of the shapes"),
    "another shape": (lambda s, x: s.layer(x[:, 1:]), r"module layer refuses \(3, 2\): .*; pass inputs of the shapes"),
}  # fmt: skip


@pytest.mark.parametrize(("function", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals_say_what_helps(function, message):
    model = Of(function, layer=nn.Linear(3, 3))
    with pytest.raises(ConvolithError, match=message):
        cost(model, input_shape=(3, 3))
    example = torch.ones(3, 3)
    if "backward=False" in message:
        assert cost(model, input_shape=(3, 3), backward=False).forward.macs == 27
    elif "run=True" in message:
        assert cost(model, example_input=example, run=True).forward.macs == 27


def test_marks_for_a_profiler_are_no_operators():
    def forward(s, x):
        with torch.profiler.record_function("first"), torch.autograd.profiler.record_function("second", "of two"):
            torch._check(x.shape[0] == 2)
            return s.layer(x)

    for given in ({"input_shape": (2, 3)}, {"example_input": torch.ones(2, 3), "run": True}):
        counted = cost(Of(forward, layer=nn.Linear(3, 3)), **given)
        assert counted.unknown == {}
        assert (counted.coverage, counted.forward.macs) == (1, 18)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_pools_are_undone(axes):
    pool, unpool = getattr(nn, f"MaxPool{axes}d")(2, return_indices=True), getattr(nn, f"MaxUnpool{axes}d")(2)
    model = Of(
        lambda s, x: s.unpool(*s.pool(x * s.weight)), pool=pool, unpool=unpool, weight=nn.Parameter(torch.ones(()))
    )
    counted = cost(model, input_shape=(1, 3, *(8,) * axes), optimizer="sgd", verify=True)
    assert counted.unknown == {}
    assert counted.forward.others == 3 * 4**axes * (2**axes - 1)
    assert counted.peak.bytes == pytest.approx(counted.peak.measured, rel=0.02)


LAYER_LAWS = {
    "dense": (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 8, 8), "216*H*N*W", "13824*k**2*m**2"),
    "depthwise": (nn.Conv2d(8, 8, 3, groups=8, stride=2, padding=1), (2, 8, 16, 16), "18*H*N*W", "9216*k**2*m"),
    "in groups": (nn.Conv2d(4, 8, 3, groups=2, padding="same"), (1, 4, 8, 8), "144*H*N*W", "9216*k**2*m**2"),
    "one axis": (nn.Conv1d(4, 6, 5, dilation=2), (1, 4, 40), "120*L*N - 960*N", "3840*k*m**2"),
    "three axes": (nn.Conv3d(4, 6, 3, padding=1), (1, 4, 8, 8, 8), "648*D*H*N*W", "331776*k**3*m**2"),
    "transposed": (nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1), (1, 4, 8, 8), "384*H*N*W", "24576*k**2*m**2"),
}


@pytest.mark.parametrize(("layer", "shape", "by_size", "by_channels"), LAYER_LAWS.values(), ids=LAYER_LAWS)
def test_laws_of_single_layers(layer, shape, by_size, by_channels):
    counted = cost(layer, input_shape=shape)
    law = counted.law()
    assert str(law.expressions["forward multiplications"]) == by_size
    assert str(counted.law("channels", "kernel_size").expressions["forward macs"]) == by_channels
    larger = tuple(3 * n for n in shape[2:])
    found = cost(layer, input_shape=(5, shape[1], *larger)).counts()
    assert {name: n for name, n in law.at(5, larger).items() if "macs" not in name} == found


def test_a_layer_of_twice_the_channels():
    """The exercise of the chapter: four times the products, and twice as many where each channel is by itself."""
    layer = cost(nn.Conv2d(3, 8, 3, padding=1), input_shape=(1, 3, 8, 8))
    assert layer.scaled(channels=2).factor == layer.scaled(in_channels=2, out_channels=2).factor == 4
    assert "a layer's both" not in str(layer.scaled(channels=2))
    assert cost(nn.Conv2d(8, 8, 3, groups=8), input_shape=(1, 8, 8, 8)).scaled(channels=2).factor == 2
    assert layer.law("channels").at(channels=2)["forward macs"] == 4 * layer.forward.macs
    with pytest.raises(ConvolithError, match="width is not a dimension of a layer; expected one of .*channels"):
        layer.scaled(width=2)
    with pytest.raises(ConvolithError, match="law was called with 'width'"):
        layer.law("width")


def test_refusals():
    layer = nn.Conv2d(3, 4, 3)
    for model, options, message in (
        (layer, {"input_shape": (1, 3, 8, 8), "optimizer": "sgd"}, "leave it out, or pass torch.nn.Sequential"),
        (row(layer), {"example_input": torch.ones(1, 3, 8, 8), "run": True, "optimizer": "sgd"}, "optimizer was given together with run=True"),
        (nn.LazyConv2d(4, 3), {"input_shape": (1, 3, 8, 8)}, "lazy parameter weight"),
        (row(layer), {"input_shape": (1, -3, 8, 8)}, r"an entry of input_shape \(1, -3, 8, 8\) is -3"),
        (Of(lambda s, a, b: a + b), {"input_shape": ((1, 3), (1, 3)), "input_dtype": ["float32"]}, "expected one for all inputs, or one for each of 2"),
        (Of(lambda s, x: x.shape.missing), {"input_shape": (1, 3)}, "AttributeError: .*pass inputs of the shapes and dtypes"),
    ):  # fmt: skip
        with pytest.raises(ConvolithError, match=message):
            cost(model, **options)
    counted = cost(
        Of(lambda s, x: F.conv2d(x, s.w, padding=1), w=nn.Parameter(torch.zeros(4, 3, 3, 3))),
        input_shape=(1, 3, 16, 16),
    )
    with pytest.raises(ConvolithError, match=r"has w \(4, 3, 3, 3\); how they grow with kernel_size is not known"):
        counted.scaled(kernel_size=3)


class Shared(nn.Module):
    """Two modules that hand each other what they found through one dict."""

    def __init__(self):
        super().__init__()
        held = {}
        self.one, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
        self.one.held = self.other.held = held
        held["itself"] = held
        self.names = self.same = []
        self.hidden = [nn.Conv2d(4, 4, 1)]

    def forward(self, x):
        self.one.held["found"] = self.one(x)
        self.names.append("one")
        return self.hidden[0](self.other(x=None) if False else self.other(self.other.held["found"])) * len(self.same)


def test_containers_stay_shared():
    model = Shared()
    assert cost(model, input_shape=(1, 3, 8, 8)).forward.macs == 36 * (4 * 27 + 16 + 16)
    assert model.names == []
    assert set(model.one.held) == {"itself"}
    assert model.hidden[0].weight.grad is None
    assert type(model.hidden[0].weight) is nn.Parameter


def test_caches_of_words_are_followed():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=16)
    counted = cost(transformers.GPT2LMHeadModel(config), input_shape=(2, 8), input_dtype=torch.int64)
    assert not counted.unknown
    assert counted.forward.macs > 16 * 2 * 12 * 32 * 32


def test_scripted_parts_are_counted():
    model = row(nn.Conv2d(3, 4, 3), torch.jit.script(nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1))))
    assert cost(model, input_shape=(1, 3, 8, 8)).forward.macs == 36 * (4 * 27 + 16)


def test_gradients_of_gradients_are_counted():
    def forward(s, x):
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(s.layer(x).square().sum(), x, create_graph=True)
        return slope.square().mean()

    ours, theirs = (
        cost(Of(forward, layer=kind(1, 2, 3)), input_shape=(1, 1, 8, 8)) for kind in (cl.nn.Conv2d, nn.Conv2d)
    )
    assert ours.forward.macs == theirs.forward.macs > 0


EDGES = {
    "cropped": (lambda x: F.pad(x, (1,) * 4)[..., 1:-1, 1:-1], 144),
    "shifted": (lambda x: F.pad(x, (2,) * 4)[..., :-2, :-2], 9 * 36),
    "changed": (lambda x: F.pad(x, (1,) * 4).add_(1), 324),
    "turned": (lambda x: F.pad(x, (2, 0, 0, 0)).transpose(2, 3), 9 * 24),
    "twice": (lambda x: F.pad(F.pad(x, (1, 0, 1, 0)), (0, 1, 0, 1)), 256),
    "once": (lambda x: F.pad(x, (1,) * 4), 256),
}


@pytest.mark.parametrize(("around", "products"), EDGES.values(), ids=EDGES)
def test_what_is_padding_and_what_is_not(around, products):
    """Zeros are left out where they are known to be there; what was cut, changed or turned counts as numbers."""
    model = Of(lambda s, x: s.layer(around(x)), layer=nn.Conv2d(1, 1, 3, bias=False))
    assert cost(model, input_shape=(1, 1, 6, 6), convention="effective").forward.macs == products


def test_interpolation_is_no_layer():
    for mode, products in (("nearest", 0), ("bilinear", 4), ("bicubic", 16)):
        model = Of(lambda s, x, g, mode=mode: F.grid_sample(x, g, mode=mode, align_corners=False))
        counted = cost(model, input_shape=((1, 3, 8, 8), (1, 4, 4, 2)), backward=False)
        assert counted.forward.macs == 0
        assert counted.forward.multiplications == 48 * products
    assert cost(nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear")), input_shape=(1, 3, 8, 8)).forward.macs == 0


def test_arguments_that_cannot_be_copied():
    given = (torch.ones(1, 3), (n for n in range(3)))
    with pytest.raises(ConvolithError, match="example_input has something that cannot be copied"):
        cost(Of(lambda s, x, numbers: s.layer(x), layer=nn.Linear(3, 3)), example_input=given)


def test_shapes_that_no_tensor_has():
    with pytest.raises(
        ConvolithError, match=r"input_shape is \(1, 3, 1000000000, 1000000000\), of which there is no tensor"
    ):
        cost(row(nn.Conv2d(3, 4, 3)), input_shape=(1, 3, 10**9, 10**9))
    with pytest.raises(ConvolithError, match="model is on meta, but verify measures a step on the CPU"):
        cost(row(nn.Linear(3, 4)).to("meta"), input_shape=(1, 3), optimizer="sgd", verify=True)

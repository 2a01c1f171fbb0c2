"""Counting leaves models, parameters, inputs and caches as they were."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from bench.networks.patterns import Of
from bench.networks.trained import row
from convolith import ConvolithError, cost


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


@pytest.mark.slow
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


def test_caches_of_words_are_followed():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=16)
    counted = cost(transformers.GPT2LMHeadModel(config), input_shape=(2, 8), input_dtype=torch.int64)
    assert not counted.unknown
    assert counted.forward.macs > 16 * 2 * 12 * 32 * 32


def test_arguments_that_cannot_be_copied():
    given = (torch.ones(1, 3), (n for n in range(3)))
    with pytest.raises(ConvolithError, match="example_input has something that cannot be copied"):
        cost(Of(lambda s, x, numbers: s.layer(x), layer=nn.Linear(3, 3)), example_input=given)

"""Memory of a training step: checkpoints, shared and aliased tensors, gradients of views and sparse ones, LSTMs."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.torch_version import __version__ as TORCH  # noqa: N812
from torch.utils.checkpoint import checkpoint

import convolith as cl
from bench.networks.patterns import Of, kept_bytes
from bench.networks.trained import row
from convolith import ConvolithError, cost


def perceptron():
    return {"a": nn.Linear(64, 64), "b": row(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64)), "c": nn.Linear(64, 4)}


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_leave_products_with_their_modules(reentrant):
    plain = Of(lambda s, x: s.c(s.b(s.a(x))), **perceptron())
    again = Of(lambda s, x: s.c(checkpoint(s.b, s.a(x), use_reentrant=reentrant)), **perceptron())
    expected, found = (cost(model, input_shape=(32, 64)) for model in (plain, again))
    alike = {r.name: r.backward.total.macs for r in expected.rows}
    for r in found.rows:
        assert r.backward.total.macs >= alike[r.name]
        if r.name in ("a", "c"):
            assert r.backward.total.macs == alike[r.name]
    again_in_b = 32 * 64 * 64 * (2 if reentrant else 1)  # what is not needed again is not computed again
    assert alike["b"] < found.rows[2].backward.total.macs <= alike["b"] + 2 * again_in_b
    assert found.memory.backward.saved_activations < expected.memory.backward.saved_activations


def test_the_peak_of_a_checkpointed_step():
    model = Of(lambda s, x: s.c(checkpoint(s.b, s.a(x), use_reentrant=False)), **perceptron())
    found = cost(model, input_shape=(4096, 64), backward=False, optimizer="sgd", verify=True).peak
    assert found.bytes == pytest.approx(found.measured, rel=0.02)


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


@pytest.mark.skipif(TORCH < "2.13", reason="what is modelled is the LSTM of oneDNN 3.12")
def test_lstms_save_what_autograd_keeps():
    for inputs, units in ((8, 16), (40, 96), (300, 256)):
        model, x = nn.LSTM(inputs, units, 2, bidirectional=True), torch.randn(5, 2, inputs)
        found = cost(model, input_shape=(5, 2, inputs)).memory.backward.saved_activations
        assert found == kept_bytes(model, x)


def test_bytes_are_moved_once():
    layer = nn.Conv2d(8, 8, 3, padding=1, bias=False)
    assert (
        cost(row(layer), input_shape=(1, 8, 16, 16)).forward.bytes
        == cost(layer, input_shape=(1, 8, 16, 16)).forward.bytes
    )


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


def test_gradients_of_gradients_are_counted():
    def forward(s, x):
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(s.layer(x).square().sum(), x, create_graph=True)
        return slope.square().mean()

    ours, theirs = (
        cost(Of(forward, layer=kind(1, 2, 3)), input_shape=(1, 1, 8, 8)) for kind in (cl.nn.Conv2d, nn.Conv2d)
    )
    assert ours.forward.macs == theirs.forward.macs > 0

"""Counting while other threads use the model: results are those of one thread, and nothing of the process changes."""

import logging
import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils import _python_dispatch as modes

from bench.networks.patterns import Of
from convolith import ConvolithError, cost
from convolith.nn import convert

SECONDS = 120
"""After which a thread that hangs fails its test."""


class Everything(nn.Module):
    """Norms, attention, a cache that the first call fills, a hidden module, a tied weight and a computed weight."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1))
        self.attend = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.hidden, self.by_size = [nn.Linear(8, 8)], {}
        self.last = nn.Linear(8, 8, bias=False)
        self.last.weight = self.hidden[0].weight

    def forward(self, x):
        y = self.normed(self.stem(x)).flatten(2).transpose(1, 2)
        if y.shape not in self.by_size:
            self.by_size[y.shape] = torch.ones(y.shape[1:])
        return self.last(self.hidden[0](self.attend(y * self.by_size[y.shape])))


def network():
    torch.manual_seed(0)
    return Everything().eval()


def in_threads(calls):
    """Results of functions that run at once, each in a thread of its own."""
    ready = threading.Barrier(len(calls))

    def together(call):
        ready.wait(SECONDS)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(SECONDS) for future in [pool.submit(together, call) for call in calls]]


def numbers(counted):
    """What must be the same in every thread."""
    rows = [(row.name, row.forward, row.backward, row.parameters) for row in counted.rows]
    peak = None if counted.peak is None else counted.peak.bytes
    return counted.counts(), counted.memory, rows, peak


OPTIONS = {
    "both passes": {"input_shape": (2, 3, 8, 8)},
    "the forward pass": {"input_shape": (2, 3, 8, 8), "backward": False},
    "peak": {"input_shape": (2, 3, 8, 8), "optimizer": "adam"},
    "run": {"example_input": torch.ones(2, 3, 8, 8), "run": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("change", [lambda model: model, convert], ids=["torch", "converted"])
def test_many_counts_at_once_are_those_of_one_thread(options, change):
    model = change(network())
    expected = numbers(cost(model, **options))
    found = in_threads([lambda: [numbers(cost(model, **options)) for _ in range(2)]] * 3)
    assert all(each == expected for several in found for each in several)
    assert model.by_size == {}
    assert all(type(p) is nn.Parameter and p.grad is None for p in model.parameters())


@pytest.mark.slow
def test_counts_of_different_kinds_at_once():
    model = network()
    calls = [lambda options=options: numbers(cost(model, **options)) for options in OPTIONS.values()]
    calls.append(lambda: str(cost(model, input_shape=(2, 3, 8, 8)).law("size").expressions["forward macs"]))
    calls.append(lambda: cost(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 3)), input_shape=(1, 3, 8, 8)).scaled(channels=2).factor)  # fmt: skip
    expected = [call() for call in calls]
    assert in_threads(calls) == expected


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_inference_beside_a_count_is_undisturbed(options):
    model, x = network(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = model(x)
    alone = numbers(cost(model, **options))
    done, calls = threading.Event(), []

    def infer():
        with torch.no_grad():
            while not done.is_set() or len(calls) < 3:
                y = model(x)
                assert type(y) is torch.Tensor
                torch.testing.assert_close(y, expected)
                calls.append(1)

    def count():
        try:
            return [numbers(cost(model, **options)) for _ in range(3)]
        finally:
            done.set()

    counted, _ = in_threads([count, infer])
    assert len(calls) >= 3
    assert counted == [alone] * 3


def test_training_beside_a_count_is_undisturbed():
    """Gradients and statistics of a model that learns in one thread are those that it has without a count."""

    def trained(model):
        learns = torch.optim.SGD(model.parameters(), lr=0.1)
        generator = torch.Generator().manual_seed(1)
        for _ in range(12):
            learns.zero_grad()
            model(torch.randn(2, 3, 8, 8, generator=generator)).square().mean().backward()
            learns.step()
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def model():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Linear(144, 2))

    expected, shared = trained(model()), model()
    _, found = in_threads(
        [lambda: [cost(shared, input_shape=(2, 3, 8, 8), optimizer="sgd") for _ in range(5)], lambda: trained(shared)]
    )
    assert all(torch.equal(expected[name], tensor) for name, tensor in found.items())


def test_a_refusal_in_one_thread_leaves_the_other_alone():
    model = network()
    expected = numbers(cost(model, input_shape=(2, 3, 8, 8)))

    def refused():
        for _ in range(5):
            with pytest.raises(ConvolithError, match=r"module stem\.0 refuses"):
                cost(model, input_shape=(2, 4, 8, 8))
        return True

    assert in_threads([refused, lambda: numbers(cost(model, input_shape=(2, 3, 8, 8)))]) == [True, expected]


FLAGS = [name for name in vars(modes) if name.startswith("_is_in_")]


def state_of_the_process():
    return {
        "environment": dict(os.environ),
        "filters": list(warnings.filters),
        "levels": {name: logging.getLogger(name).level for name in ("", "torch", "torch._subclasses.fake_tensor")},
        "disabled": logging.root.manager.disable,
        "attention": torch.backends.mha.get_fastpath_enabled(),
    }


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("options", [*OPTIONS.values(), {"input_shape": (2, 3, 8, 8), "optimizer": "sgd", "verify": True}])  # fmt: skip
def test_nothing_of_the_process_changes_while_a_model_is_counted(options):
    """Seen while it is counted, from another thread."""
    model = nn.Sequential(network().train(), Of(lambda s, x: (STATES.append(elsewhere(state_of_the_process)), x)[1]))
    cost(model, **options)  # what is imported for the first count may change the environment
    before = elsewhere(state_of_the_process)
    STATES.clear()
    cost(model, **options)
    assert len(STATES) >= 1
    assert all(state == before for state in STATES)
    assert elsewhere(state_of_the_process) == before
    assert not any(getattr(modes, name) for name in FLAGS)


STATES = []
"""A global, which a copy shares with the model."""


def elsewhere(call):
    (found,) = in_threads([call])
    return found


def test_the_short_cuts_of_attention_stay_on_for_others(monkeypatch):
    def refuse(value):
        raise AssertionError("a switch of the whole process was thrown")

    monkeypatch.setattr(torch.backends.mha, "set_fastpath_enabled", refuse)
    monkeypatch.setattr(warnings, "catch_warnings", refuse)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    products = 5 * (4 * 16 * 16 + 2 * 16 * 32) + 2 * 5 * 5 * 16
    mask = torch.zeros(1, 5, dtype=torch.bool)
    attention = Of(lambda s, x: s.layer(x, x, x)[0], layer=nn.MultiheadAttention(16, 2, batch_first=True)).eval()
    several = nn.TransformerEncoder(layer, 2).eval()
    masked = Of(lambda s, x: s.layers(x, src_key_padding_mask=mask), layers=several).eval()
    with torch.no_grad():
        for model, expected in ((layer, products), (several, 2 * products), (masked, 2 * products), (attention, 5 * 4 * 16 * 16 + 2 * 5 * 5 * 16)):  # fmt: skip
            for given in ({"input_shape": (1, 5, 16)}, {"example_input": torch.ones(1, 5, 16), "run": True}):
                counted = cost(model, backward=False, **given)
                assert not counted.unknown
                assert counted.forward.macs == expected


def test_refusals_are_not_logged(caplog):
    with pytest.raises(ConvolithError, match="refuses"):
        cost(nn.Sequential(nn.Linear(3, 4)), input_shape=(2, 5))
    with pytest.raises(ConvolithError, match="refuses"):
        cost(Of(lambda s, x: F.conv2d(x, x, stride="a")), input_shape=(1, 1, 2, 2))
    assert caplog.records == []


def test_modes_that_overlap_leave_no_flag_set():
    """Torch keeps for the whole process whether a thread is in a mode; its compiler would compile nothing after that."""
    before = [getattr(modes, name) for name in FLAGS]
    inside, leave = threading.Event(), threading.Event()

    def first(s, x):
        inside.set()
        assert leave.wait(SECONDS)
        return x * 2

    def overlapping():
        assert inside.wait(SECONDS)
        return cost(Of(lambda s, x: (leave.set(), x * 3)[1]), input_shape=(2,), backward=False).forward.multiplications

    model = Of(first)
    calls = [lambda: cost(model, input_shape=(2,), backward=False).forward.multiplications, overlapping]
    assert in_threads(calls) == [2, 2]
    assert [getattr(modes, name) for name in FLAGS] == before


def test_random_numbers_are_not_torchs_own(monkeypatch):
    """The generator that all threads share is neither drawn from nor put back."""

    def forward(s, x):
        noise = (
            torch.rand(3) + torch.randn(3) + torch.randperm(3) + torch.randint(0, 2, (3,)) + torch.bernoulli(x * 0.5)
        )
        y = F.dropout(s.layer(x + noise.uniform_()), 0.5) + F.rrelu(x, training=True) + torch.normal(0.0, 1.0, (3,))
        return y if bool((F.dropout(torch.ones(1000), 0.25) > 1).float().mean() > 0.6) else y * 2

    def refuse(*_, **__):
        raise AssertionError("torch's own generator was put back")

    model = Of(forward, layer=nn.Linear(3, 3)).train()
    before = torch.random.get_rng_state()
    monkeypatch.setattr(torch, "set_rng_state", refuse)
    monkeypatch.setattr(torch.random, "fork_rng", refuse)
    counted = [numbers(cost(model, example_input=torch.ones(3), run=True)) for _ in range(2)]
    assert counted[0] == counted[1]
    assert torch.equal(before, torch.random.get_rng_state())

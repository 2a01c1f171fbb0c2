"""The most memory of a training step, predicted on fake tensors, against the allocator's own account of a real one."""

import copy

import pytest
import torch
from torch import nn

from convolith import ConvolithError, cost
from convolith.costing.peak import largest_batch
from convolith.nn import convert
from tests.networks.trained import CONVERTED, NETWORKS, row


class Detached(nn.Module):
    def forward(self, x):
        return x.detach()


@pytest.mark.skipif(not torch._C._has_mkldnn, reason="what is modelled is torch's build with oneDNN")
@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize(("make", "shape"), NETWORKS.values(), ids=NETWORKS)
def test_the_prediction_is_what_a_step_takes(make, shape, onednn, monkeypatch):
    """2% where oneDNN computes (on the processors whose blocks are modelled), 5% where torch itself does."""
    if onednn and torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("the blocks of other vectors are others")
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", onednn)
    torch.manual_seed(0)
    model = make().train()
    found = cost(model, input_shape=shape, backward=False, optimizer="sgd", verify=True).peak
    assert found.measured > 0
    assert found.bytes == pytest.approx(found.measured, rel=0.02 if onednn else 0.05)
    assert found.phase in ("forward", "backward", "optimizer")


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="the blocks of other vectors are others"
)
@pytest.mark.parametrize(("make", "shape"), CONVERTED.values(), ids=CONVERTED)
def test_the_prediction_knows_convoliths_own_engines(make, shape):
    """Scratch, transformed kernels and copies that are kept: more than torch's own kernels hold."""
    torch.manual_seed(0)
    theirs = cost(make().train(), input_shape=shape, backward=False, optimizer="sgd").peak
    found = cost(convert(make().train()), input_shape=shape, backward=False, optimizer="sgd", verify=True).peak
    assert found.bytes == pytest.approx(found.measured, rel=0.05)
    assert found.bytes > theirs.bytes


def test_optimizers_have_their_state():
    model = row(nn.Flatten(), nn.Linear(256, 256, bias=False), nn.Linear(256, 2, bias=False))
    weights = 4 * (256 * 256 + 512)
    before = copy.deepcopy(model.state_dict())
    peaks = {
        name: cost(model, input_shape=(1, 4, 8, 8), optimizer=name, verify=True).peak
        for name in ("sgd", "momentum", "adam")
    }
    assert peaks["sgd"].bytes == pytest.approx(2 * weights, rel=0.05)
    assert peaks["momentum"].bytes == pytest.approx(3 * weights, rel=0.05)
    assert peaks["adam"].bytes >= 4 * weights
    for peak in peaks.values():
        assert peak.bytes == pytest.approx(peak.measured, rel=0.02)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_the_largest_batch():
    model = row(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    counted = cost(model, input_shape=(1, 3, 32, 32), optimizer="adam")
    batch = counted.largest_batch(5e6)
    assert counted.peak_at(batch).bytes <= 5e6 < counted.peak_at(batch + 1).bytes
    assert counted.largest_batch(counted.peak.bytes - 1) == 0
    for growth in (lambda n: 100 + 7 * n, lambda n: 100 + 7 * n + n % 5, lambda n: 10 * n, lambda n: 100 + n * n):
        for memory in (50, 107, 114, 115, 1000, 12345):
            expected = max(n for n in range(2000) if n == 0 or growth(n) <= memory)
            assert largest_batch(growth, memory) == expected


def test_refusals():
    model = row(nn.Conv2d(3, 4, 3))
    for options, message in (
        ({"optimizer": "lion"}, "optimizer is 'lion'; expected one of sgd, momentum, adam"),
        ({"verify": True}, "verify is True without an optimizer"),
    ):
        with pytest.raises(ConvolithError, match=message):
            cost(model, input_shape=(1, 3, 8, 8), **options)
    with pytest.raises(ConvolithError, match="module 0 refuses"):
        cost(model, input_shape=(1, 2, 8, 8), backward=False, optimizer="sgd")
    with pytest.raises(ConvolithError, match="pass optimizer= to cost"):
        cost(model, input_shape=(1, 3, 8, 8)).largest_batch(1e9)
    with pytest.raises(ConvolithError, match="given by shape alone"):
        cost(model, example_input=torch.ones(1, 3, 8, 8), optimizer="sgd").largest_batch(1e9)
    with pytest.raises(ConvolithError, match="gives nothing that depends on its parameters"):
        cost(nn.Sequential(nn.Linear(3, 3), nn.Flatten(), Detached()), input_shape=(1, 3), optimizer="sgd")
    with pytest.raises(ConvolithError, match="has no parameter"):
        cost(nn.Sequential(nn.ReLU()), input_shape=(1, 3), optimizer="sgd")
    with pytest.raises(ConvolithError, match="optimizer was given for a layer"):
        cost(nn.Conv2d(3, 4, 3), input_shape=(1, 3, 8, 8), optimizer="sgd")

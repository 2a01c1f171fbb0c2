"""The most memory of a training step, predicted on fake tensors, against the allocator's own account of a real one."""

import copy

import pytest
import torch
from torch import nn

from convolith import ConvolithError, cost
from convolith.costing.peak import largest_batch
from convolith.nn import convert
from tests.networks.classics import classic


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.inner, self.out = self.block(1, 16), self.block(16, 32), nn.Conv2d(32, 2, 1)
        self.up, self.last = nn.ConvTranspose2d(32, 16, 2, stride=2), self.block(32, 32)

    @staticmethod
    def block(inputs, outputs):
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))

    def forward(self, x):
        wide = self.down(x)
        deep = self.inner(nn.functional.max_pool2d(wide, 2))
        return self.out(self.last(torch.cat([self.up(deep), wide], 1)))


class Detached(nn.Module):
    def forward(self, x):
        return x.detach()


def row(*layers):
    return nn.Sequential(*layers)


NETWORKS = {
    "resnet18": (lambda: classic("resnet18"), (4, 3, 64, 64)),
    "resnet18 channels last": (lambda: classic("resnet18").to(memory_format=torch.channels_last), (4, 3, 64, 64)),
    "mobilenet_v3": (lambda: classic("mobilenet_v3_large"), (4, 3, 64, 64)),
    "efficientnet": (lambda: classic("efficientnet_b0"), (4, 3, 64, 64)),
    "convnext": (lambda: classic("convnext_tiny"), (2, 3, 64, 64)),
    "u-net": (UNet, (2, 1, 64, 64)),
    "denoiser": (lambda: row(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), *[row(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()) for _ in range(4)], nn.Conv2d(32, 3, 3, padding=1)), (2, 3, 64, 64)),
    "strided": (lambda: row(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)), (8, 3, 48, 48)),
    "transformer": (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 256, batch_first=True), 2, enable_nested_tensor=False), (4, 32, 64)),
    "signals": (lambda: row(nn.Conv1d(4, 32, 9, padding=4), nn.ReLU(), nn.Conv1d(32, 32, 9, padding=4), nn.ReLU(), nn.Conv1d(32, 4, 9, padding=4)), (8, 4, 1024)),
    "volumes": (lambda: row(nn.Conv3d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv3d(16, 32, 3, padding=1), nn.ReLU(), nn.Conv3d(32, 1, 1)), (2, 1, 16, 16, 16)),
    "perceptron": (lambda: row(nn.Flatten(), nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 512), nn.Tanh(), nn.Linear(512, 3)), (64, 4, 8, 8)),
}  # fmt: skip


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


CONVERTED = {
    "winograd": (lambda: row(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 3, 3, padding=1)), (4, 3, 96, 96)),
    "circular": (lambda: row(nn.Conv2d(3, 16, 3, padding=1, padding_mode="circular"), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular")), (4, 3, 96, 96)),
    "single taps": (lambda: row(nn.Conv2d(16, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.ReLU(), nn.Conv2d(64, 16, 1)), (4, 16, 96, 96)),
    "resnet18": (lambda: classic("resnet18"), (4, 3, 64, 64)),
    "mobilenet_v3": (lambda: classic("mobilenet_v3_large"), (4, 3, 64, 64)),
}  # fmt: skip


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

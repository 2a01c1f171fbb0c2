"""The most memory of a training step, predicted on fake tensors, against the allocator's own account of a real one."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.torch_version import __version__ as TORCH  # noqa: N812

from bench.networks.patterns import Of
from bench.networks.trained import CONVERTED, NETWORKS, row
from convolith import ConvolithError, cost
from convolith.costing.peak import largest_batch
from convolith.costing.workspace.onednn import FLOAT32_LANES
from convolith.nn import convert

CAPABILITY = torch.backends.cpu.get_cpu_capability()
SHARED_IMAGES = "oneDNN's AVX2 code for 15x15 kernels shares images between threads at some batches only"


class Detached(nn.Module):
    def forward(self, x):
        return x.detach()


@pytest.mark.slow(quick=1)
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")  # torch's own, of the model as of its count
@pytest.mark.skipif(not torch._C._has_mkldnn, reason="what is modelled is torch's build with oneDNN")
@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_prediction_is_what_a_step_takes(name, onednn, monkeypatch):
    """Within 2% where oneDNN computes, on the processors whose blocks are modelled; 5% where torch itself does."""
    make, shape = NETWORKS[name]
    if onednn and CAPABILITY not in FLOAT32_LANES:
        pytest.skip("the blocks of other vectors are others")
    if onednn and CAPABILITY == "AVX2" and name == "large kernels":
        pytest.skip(SHARED_IMAGES)
    if onednn and TORCH < "2.13" and name == "recurrent":
        pytest.skip("what is modelled is the LSTM of oneDNN 3.12")
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", onednn)
    torch.manual_seed(0)
    model = make().train()
    found = cost(model, input_shape=shape, backward=False, optimizer="sgd", verify=True).peak
    assert found.measured > 0
    assert found.bytes == pytest.approx(found.measured, rel=0.02 if onednn else 0.05)
    assert found.phase in ("forward", "backward", "optimizer")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.skipif(CAPABILITY not in FLOAT32_LANES, reason="the blocks of other vectors are others")
@pytest.mark.parametrize("name", CONVERTED)
def test_the_prediction_knows_convoliths_own_engines(name):
    """Scratch, transformed kernels and copies that are kept: more than torch's own kernels hold.

    Steps of single taps may go to torch's operator.
    """
    make, shape = CONVERTED[name]
    if CAPABILITY == "AVX2" and name == "large kernels":
        pytest.skip(SHARED_IMAGES)
    torch.manual_seed(0)
    theirs = cost(make().train(), input_shape=shape, backward=False, optimizer="sgd").peak
    found = cost(convert(make().train()), input_shape=shape, backward=False, optimizer="sgd", verify=True).peak
    assert found.bytes == pytest.approx(found.measured, rel=0.05)
    assert found.bytes > theirs.bytes or (name == "single taps" and found.bytes == theirs.bytes)


def loss_of(name):
    return lambda x: getattr(F, name)(x, x.detach() * 2)


def labels(x):
    return torch.zeros(x.shape[0], *x.shape[2:], dtype=torch.int64)


COPIED = {
    **{
        name: getattr(F, name)
        for name in ("gelu", "silu", "elu", "mish", "softplus", "hardswish", "logsigmoid", "relu")
    },
    "gelu, approximate": lambda x: F.gelu(x, approximate="tanh"),
    "gelu, then a mean": lambda x: F.gelu(x).mean((2, 3)),
    "gelu, expanded": lambda x: F.gelu(x).mean((2, 3), keepdim=True).expand(*x.shape[:2], 9, 9),
    "gelu, a mean of all": lambda x: F.gelu(x).mean(),
    "gelu, of a permuted gradient": lambda x: F.gelu(x).permute(3, 2, 1, 0) * torch.ones(x.shape[::-1]),
    "softmax": lambda x: x.softmax(1),
    "softmax of its logarithm": lambda x: x.log_softmax(-1),
    "layer norm": lambda x: F.layer_norm(x, x.shape[3:]),
    "group norm": lambda x: F.group_norm(x, 4),
    "pool": lambda x: F.max_pool2d(x, 2),
    "mean pool": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "adaptive pool": lambda x: F.adaptive_avg_pool2d(x, 12),
    "adaptive maximum": lambda x: F.adaptive_max_pool2d(x, 12),
    "unpool": lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "nearest, large": lambda x: F.interpolate(x, scale_factor=3),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bicubic": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "smoothed": lambda x: F.interpolate(x, size=(12, 12), mode="bilinear", antialias=True),
    "trilinear": lambda x: F.interpolate(x[None], scale_factor=2, mode="trilinear"),
    "shuffle": lambda x: F.pixel_shuffle(x, 2),
    "reflect": lambda x: F.pad(x, (1,) * 4, mode="reflect"),
    "replicate": lambda x: F.pad(x, (1,) * 4, mode="replicate"),
    "windows": lambda x: F.unfold(x, 3),
    "sampled": lambda x: F.grid_sample(x, torch.zeros(8, 10, 10, 2), align_corners=False),
    "masked maxima": lambda x: x.amax(1),
    "squared error": loss_of("mse_loss"),
    "smooth error": loss_of("smooth_l1_loss"),
    "huber": loss_of("huber_loss"),
    "squared errors": lambda x: F.mse_loss(x, x.detach() * 2, reduction="none"),
    "cross entropy": lambda x: F.cross_entropy(x, labels(x)),
    "cross entropies": lambda x: F.cross_entropy(x, labels(x), reduction="none"),
}


@pytest.mark.slow(quick=10)
@pytest.mark.skipif(not torch._C._has_mkldnn, reason="what is modelled is torch's build with oneDNN")
@pytest.mark.parametrize("function", COPIED.values(), ids=COPIED)
def test_the_last_operator_copies_what_it_cannot_read(function):
    """The gradient of the sum of what comes out is one number, expanded: many kernels of the backward pass copy it."""
    torch.manual_seed(0)
    model = Of(lambda s, x: function(s.layer(x)), layer=nn.Linear(24, 24, bias=False))
    found = cost(model, input_shape=(8, 16, 24, 24), backward=False, optimizer="sgd", verify=True).peak
    assert found.bytes == pytest.approx(found.measured, rel=0.01)


CHANNELS_LAST = ("gelu", "softmax", "layer norm", "group norm", "pool", "mean pool", "adaptive pool", "adaptive maximum", "nearest", "bilinear", "bicubic", "shuffle", "reflect")  # fmt: skip


@pytest.mark.parametrize("name", CHANNELS_LAST)
def test_kernels_copy_what_lies_otherwise_in_memory(name):
    def forward(s, x):
        return COPIED[name]((x * s.weight).contiguous(memory_format=torch.channels_last))

    model = Of(forward, weight=nn.Parameter(torch.ones(16, 1, 1)))
    found = cost(model, input_shape=(8, 16, 24, 24), backward=False, optimizer="sgd", verify=True).peak
    assert found.bytes == pytest.approx(found.measured, rel=0.01)


def test_the_gradient_of_a_sum_is_copied():
    found = cost(row(nn.Linear(64, 64), nn.GELU()), input_shape=(1000, 64), optimizer="sgd", verify=True).peak
    assert found.bytes == found.measured


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

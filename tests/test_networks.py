"""The networks that folding is tried on: what their table says of them, and that the merges it counts exist."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from bench.networks import NETWORKS, Network
from bench.networks.acnet import AsymmetricBlock
from bench.networks.dbb import DiverseBranchBlock, PooledBranchBlock
from bench.networks.depth import reassembled
from bench.networks.ecb import EdgeBlock
from bench.networks.expandnet import expanded_kernel, expanded_layer
from bench.networks.fastvit import LargeKernelEmbedding, RepMixer
from bench.networks.mobileone import MobileOneBlock
from bench.networks.randomise import randomised
from bench.networks.replknet import LargeKernel
from bench.networks.repvgg import RepVGGBlock
from bench.networks.vae import Upsample

SINGLE = 2e-5  # relative to the largest value: ten times the worst seen, of the depth neck
DOUBLE = 1e-12  # relative to the largest value
ALIKE = {
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "rtdetr_backbone",
    "vae_decoder",
    "vae_decoder_quantised",
}  # as many convolutions once deployed


def built(network: Network) -> nn.Module:
    if network.requires:
        pytest.importorskip(network.requires)
    return network.factory()


def outputs(model: nn.Module, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    with torch.no_grad():
        y = model(torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype))
    return y if isinstance(y, tuple) else (y,)


class Convolutions(TorchDispatchMode):
    """Counts the convolutions that are computed, by modules or by calls."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten.convolution.default
        return function(*args, **(kwargs or {}))


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_what_the_table_says(name):
    """In eval mode, the same twice, of moderate values, of any batch, size and dtype, with more convolutions than deployed."""
    network = NETWORKS[name]
    model, again = built(network), built(network)
    assert not any(module.training for module in model.modules())
    state = again.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())

    with Convolutions() as computed:
        first = outputs(model, network.input_shape)
    assert computed.count >= network.deployed_convolutions
    assert (computed.count == network.deployed_convolutions) is (name in ALIKE)
    assert all(1e-2 < float(y.std()) < 1e3 for y in first)

    _, channels, height, width = network.input_shape
    for batch, taller, wider in [(2, 0, 32), (3, 32, 0)]:
        other = outputs(model, (batch, channels, height + taller, width + wider))
        assert len(other) == len(first)
        assert all(y.shape[0] == batch and y.isfinite().all() for y in other)

    for single, double in zip(first, outputs(model.double(), network.input_shape, torch.float64)):
        assert (single - double).abs().max() <= SINGLE * double.abs().max()


def test_statistics_are_not_those_of_a_fresh_norm():
    norms = [m for m in NETWORKS["repvgg_a0"].factory().modules() if isinstance(m, nn.BatchNorm2d)]
    joined = lambda name: torch.cat([getattr(norm, name).detach() for norm in norms])
    assert 0.28 < float(joined("running_mean").std()) < 0.32
    assert 0.28 < float(joined("bias").std()) < 0.32
    assert joined("running_var").aminmax() == pytest.approx((0.5, 2.0), abs=0.01)
    assert joined("weight").abs().aminmax() == pytest.approx((0.5, 1.5), abs=0.01)
    assert 0.05 < float((joined("weight") < 0).double().mean()) < 0.15


def test_another_seed_is_another_model():
    kernels = [randomised(nn.Conv2d(2, 2, 3), seed=seed).weight for seed in (0, 0, 1)]
    assert torch.equal(kernels[0], kernels[1])
    assert not torch.equal(kernels[0], kernels[2])


class Merge(NamedTuple):
    """A block that is one convolution: of this size, with half of it (rounded down) as padding."""

    block: Callable[[], nn.Module]
    in_channels: int
    kernel_size: int
    stride: int = 1
    exact_borders: bool = True


MERGES = {
    "repvgg": Merge(lambda: RepVGGBlock(4, 4), 4, 3),
    "repvgg_stride": Merge(lambda: RepVGGBlock(4, 6, stride=2, groups=2), 4, 3, 2),
    "mobileone": Merge(lambda: MobileOneBlock(4, 4, 3, groups=4, branches=3), 4, 3),
    "mobileone_pointwise": Merge(lambda: MobileOneBlock(4, 4, 1, branches=3), 4, 1),
    "dbb": Merge(lambda: DiverseBranchBlock(4, 6, 3), 4, 3),
    "dbb_stride": Merge(lambda: DiverseBranchBlock(4, 6, 5, stride=2, groups=2), 4, 5, 2),
    "dbb_assigned": Merge(lambda: DiverseBranchBlock(4, 6, 3, assigned=True), 4, 3),
    "dbb_pooled": Merge(lambda: PooledBranchBlock(4, 3), 4, 3),
    "acnet": Merge(lambda: AsymmetricBlock(4, 6, 5), 4, 5),
    "acnet_stride": Merge(lambda: AsymmetricBlock(4, 6, stride=2), 4, 3, 2),
    "ecb": Merge(lambda: EdgeBlock(4, 4), 4, 3),
    "ecb_zeros_between": Merge(lambda: EdgeBlock(4, 4, padded_first=False), 4, 3, exact_borders=False),
    "expandnet": Merge(lambda: expanded_layer(4, 6, 3, stride=2), 4, 3, 2),
    "expandnet_zeros_between": Merge(lambda: expanded_layer(4, 6, 3, padded_first=False), 4, 3, exact_borders=False),
    "expandnet_kernels": Merge(lambda: expanded_kernel(4, 6, 7, stride=2), 4, 7, 2),
    "replknet": Merge(lambda: LargeKernel(2), 2, 13),
    "repmixer": Merge(lambda: RepMixer(4), 4, 3),
    "fastvit_embedding": Merge(lambda: LargeKernelEmbedding(4, 8), 4, 7, 2),
    "post_quantisation": Merge(
        lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 8, 3, padding=1)), 4, 3, 1, False
    ),
    "depth_last_level": Merge(lambda: reassembled(4, 4, 6, 0.5)[:2], 4, 3, 2, exact_borders=False),
}
UPSAMPLES = {
    "vae": Merge(lambda: Upsample(4), 4, 4, 2),
    "depth_x2": Merge(lambda: reassembled(5, 4, 6, 2)[1:], 4, 4, 2, exact_borders=False),
    "depth_x4": Merge(lambda: reassembled(5, 4, 6, 4)[1:], 4, 6, 4, exact_borders=False),
}


def held(found: Tensor, expected: Tensor, border: tuple[int, int], merge: Merge) -> None:
    """Equal in the interior always; at the borders too where it is said, and there only (so that it is not said in vain)."""
    assert found.shape == expected.shape
    error = (found - expected).abs() / expected.abs().max()
    before, after = border
    assert error[..., before : error.shape[-2] - after, before : error.shape[-1] - after].max() <= DOUBLE
    assert bool(error.max() <= DOUBLE) is merge.exact_borders


@pytest.mark.parametrize("name", MERGES)
def test_a_block_is_one_convolution(name):
    """Its kernel is the response to impulses less the response to zero, which is the bias, both in the interior.

    The response at output m to an impulse at input i is K[i - stride m + padding], so the impulses are moved over one
    output's window: the image is large enough for it to be far from the borders.
    """
    merge = MERGES[name]
    block = randomised(merge.block()).double()
    k, stride, channels = merge.kernel_size, merge.stride, merge.in_channels
    padding, n = k // 2, 2 * k + 9
    m = n // 2 // stride
    start = m * stride - padding
    impulses = torch.zeros(channels * k * k, channels, n, n, dtype=torch.float64)
    impulses[:, :, start : start + k, start : start + k] = torch.eye(channels * k * k).view(-1, channels, k, k)
    with torch.no_grad():
        bias = block(torch.zeros(1, channels, n, n, dtype=torch.float64))[0, :, m, m]
        kernel = (block(impulses)[:, :, m, m] - bias).T.reshape(-1, channels, k, k)
        x = torch.randn(2, channels, n + 3, n, dtype=torch.float64)
        expected = block(x)
        found = functional.conv2d(x, kernel, bias, stride, padding)
    reach = -(-padding // stride)  # outputs whose window leaves the image
    held(found, expected, (reach, reach), merge)


@pytest.mark.parametrize("name", UPSAMPLES)
def test_an_enlargement_is_one_transposed_convolution(name):
    """The response to one impulse at i is the kernel, beginning at output stride i - 1."""
    merge = UPSAMPLES[name]
    block = randomised(merge.block()).double()
    k, stride, channels, n = merge.kernel_size, merge.stride, merge.in_channels, 9
    impulses = torch.zeros(channels, channels, n, n, dtype=torch.float64)
    impulses[:, :, 4, 4] = torch.eye(channels)
    start = 4 * stride - 1
    with torch.no_grad():
        zero = block(torch.zeros(1, channels, n, n, dtype=torch.float64))
        kernel = (block(impulses) - zero)[:, :, start : start + k, start : start + k]
        x = torch.randn(2, channels, n + 3, n, dtype=torch.float64)
        expected = block(x)
        found = functional.conv_transpose2d(x, kernel, zero[0, :, start, start], stride, 1)
    held(found, expected, (1, 1), merge)

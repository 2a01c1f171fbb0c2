"""Closed forms of whole models in batch and size, against counts at other values, and what scaling the input brings."""

import pytest
import sympy
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from bench.networks.classics import classic
from convolith import ConvolithError, cost
from convolith.costing.growth.laws import Variable, axis, through

N, H, W, D, L = sympy.symbols("N H W D L")


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 3, padding=1, bias=False)

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        return F.scaled_dot_product_attention(tokens, tokens, tokens)


MODELS = {
    "one convolution": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False)), (1, 3, 9, 7), 216 * H * N * W, (1, 1)),
    "valid": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3, bias=False)), (1, 3, 9, 7), 216 * N * (H - 2) * (W - 2), (1, 1)),
    "attention": (Attention, (1, 3, 6, 5), 216 * H * N * W + 16 * N * H**2 * W**2, (1, 1)),
    "strided signal": (lambda: nn.Sequential(nn.Conv1d(3, 8, 5, stride=3, bias=False)), (1, 3, 50), 40 * N * (L - 2), (3,)),
    "a volume": (lambda: nn.Sequential(nn.Conv3d(1, 2, 1, stride=2, bias=False)), (1, 1, 6, 6, 6), N * D * H * W / 4, (2, 2, 2)),
    "a head": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)), (1, 3, 8, 8), 216 * H * N * W + 80 * N, (1, 1)),
}  # fmt: skip


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize(("make", "shape", "expected", "period"), MODELS.values(), ids=MODELS)
def test_laws_by_hand(make, shape, expected, period):
    model = make()
    law = cost(model, input_shape=shape).law()
    assert sympy.expand(law.expressions["forward macs"] - expected) == 0
    assert law.period == period
    for batch, times in ((3, 5), (7, 2)):
        size = tuple(n + p * times for n, p in zip(shape[2:], period))
        assert law.at(batch, size) == cost(model, input_shape=(batch, shape[1], *size)).counts()
    if max(period) > 1:
        with pytest.raises(ConvolithError, match="the law holds for"):
            law.at(1, tuple(n + 1 for n in shape[2:]))


@pytest.mark.slow
def test_the_law_of_a_network():
    parts = list(classic("mobilenet_v3_large").children())
    model = nn.Sequential(*parts[:3], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 1000))
    counted = cost(model, input_shape=(1, 3, 32, 32), backward=False)
    law = counted.law()
    assert law.at(1, (32, 32)) == counted.counts()
    assert law.at(5, (256, 96)) == cost(model, input_shape=(5, 3, 256, 96), backward=False).counts()
    assert law.period == (4, 4)
    assert law.checked == 2
    assert "H = 0 mod 4 and W = 0 mod 4" in law.table().title


def test_windows_that_adapt_have_a_law_of_their_number():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), nn.AdaptiveAvgPool2d(7))
    law = cost(model, input_shape=(1, 3, 32, 32)).law()
    assert law.period == (14, 14)
    for size in (32 + 14 * 6, 32 + 14 * 97):
        assert law.at(2, (size, 32)) == cost(model, input_shape=(2, 3, size, 32)).counts()


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("stride", [5, 7, 9, 11, 13, 14, 50])
def test_the_period_is_that_of_the_strides(stride):
    model = nn.Sequential(nn.Conv1d(3, 8, 3, stride=stride), nn.ReLU())
    law = cost(model, input_shape=(1, 3, 100)).law()
    assert law.period == (stride,)
    for n in (1, 7, 97, 1000):
        size = 100 + stride * n
        assert law.at(3, (size,)) == cost(model, input_shape=(3, 3, size)).counts()


class Patches(nn.Module):
    """Pixels of every patch as channels, cut out without windows."""

    def forward(self, x):
        return torch.cat([x[:, :, i::3, j::3] for i in range(3) for j in range(3)], 1).square()


@pytest.mark.slow
def test_a_division_that_is_no_window_is_found():
    law = cost(nn.Sequential(Patches()), input_shape=(1, 1, 30, 30)).law()
    assert law.period == (3, 3)


class Roots(nn.Module):
    """As many numbers are added as the root of the height."""

    def forward(self, x):
        return x[:, :, : round(x.shape[2] ** 0.5)] + 1.0


@pytest.mark.slow
def test_macs_have_a_law_where_other_counts_have_none():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), Roots())
    law = cost(model, input_shape=(1, 3, 32, 32)).law()
    assert set(law.expressions) == {"forward macs", "backward macs"}


@pytest.mark.slow
def test_a_law_of_everything():
    """Times as many channels, in kernels times as large, at any batch and size: as models that are built so."""
    m, k = sympy.symbols("m k")

    def built(channels, taps):
        return nn.Sequential(
            nn.Conv2d(3, channels, taps, padding=taps // 2, bias=False), nn.ReLU(),
            nn.Conv2d(channels, channels, taps, padding=taps // 2, stride=2, groups=channels, bias=False),
            nn.Conv2d(channels, 5, 1, bias=False),
        )  # fmt: skip

    law = cost(built(8, 3), input_shape=(1, 3, 16, 16)).law("batch", "size", "channels", "kernel_size")
    expected = 216 * H * N * W * k**2 * m + 18 * H * N * W * k**2 * m + 10 * H * N * W * m
    assert sympy.expand(law.expressions["forward macs"] - expected) == 0
    for batch, size, channels, kernel_size in ((3, (18, 40), 4, 3), (2, (16, 22), 7, 9)):
        again = cost(built(8 * channels, 3 * kernel_size), input_shape=(batch, 3, *size))
        assert law.at(batch, size, channels=channels, kernel_size=kernel_size) == again.counts()
    assert law.at() == cost(built(8, 3), input_shape=(1, 3, 16, 16)).counts()
    assert "k = 1 mod 2" in law.table().title
    with pytest.raises(ConvolithError, match="k = 2 was requested; the law holds for"):
        law.at(1, (16, 16), kernel_size=2)
    for wrong, message in (
        ({"size": 16}, "size is 16; expected 2 numbers"),
        ({"size": (-5, 5)}, "H is -5; expected 0 or more"),
        ({"batch": -1}, "N is -1"),
        ({"depth": 3}, "depth is given; the law is of"),
    ):
        with pytest.raises(ConvolithError, match=message):
            law.at(**wrong)
    with pytest.raises(ConvolithError, match="m is given; the law is of k"):
        cost(built(8, 3), input_shape=(1, 3, 16, 16)).law("kernel_size").at(channels=2)
    with pytest.raises(ConvolithError, match="law was called with 'width'; expected some of batch"):
        cost(built(8, 3), input_shape=(1, 3, 16, 16)).law("width")


@pytest.mark.slow
def test_laws_hold_down_to_where_they_were_checked():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=18, dilation=18), nn.Conv2d(8, 8, 3, padding=1))
    law = cost(model, input_shape=(1, 3, 40, 40), convention="effective").law("size")
    held = 0
    for size in ((55, 16), (40, 37), (36, 41), (100, 39)):
        try:
            found = law.at(size=size)
        except ConvolithError:
            continue
        held += 1
        assert found == cost(model, input_shape=(1, 3, *size), convention="effective").counts()
    assert held >= 2
    law = cost(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)), input_shape=(1, 3, 16, 16)).law("size")
    assert "any H from 5 on" in law.table().title
    for size in ((1, 4), (2, 2), (0, 0)):
        with pytest.raises(ConvolithError, match="the law holds for any H from 5 on and any W from 5 on"):
            law.at(size=size)


class Cropped(nn.Module):
    """No more than 400 pixels."""

    def forward(self, x):
        return x[:, :, :400].square()


def test_a_law_is_held_against_sizes_far_away():
    law = cost(nn.Sequential(Cropped()), input_shape=(1, 1, 300, 8)).law()
    assert set(law.expressions) == {"forward macs", "backward macs"}


def test_scaling_again_scales_what_was_scaled():
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1)]
    counted = cost(nn.Sequential(*layers), input_shape=(1, 3, 16, 16))
    twice = counted.scaled(channels=2).after.scaled(channels=2, size=2).after
    assert twice.counts() == counted.scaled(channels=4, size=2).after.counts()


def test_a_model_of_one_size_has_a_law_of_its_batch(capfd):
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(4 * 36, 5, bias=False))
    law = cost(model, input_shape=(2, 1, 6, 6)).law()
    assert law.expressions["forward macs"] == (36 * 36 + 720) * N
    assert law.period == (0, 0)
    assert "for H = 6 and W = 6" in law.table().title
    assert law.at(7, (6, 6)) == cost(model, input_shape=(7, 1, 6, 6)).counts()
    with pytest.raises(ConvolithError, match="the law holds for H = 6 and W = 6"):
        law.at(1, (6, 7))
    assert capfd.readouterr() == ("", "")  # torch logs every refusal by itself


@pytest.mark.slow
def test_what_if():
    model = classic("mobilenet_v3_large")
    counted = cost(model, input_shape=(2, 3, 64, 64))
    twice = counted.scaled(batch=2)
    assert twice.factors["forward macs"] == 2
    larger = counted.scaled(size=2)
    assert 3 < larger.factors["forward macs"] < 4
    assert "What if: size x 2" in str(larger)
    assert counted.scaled(height=0.5).after.input_shape == (2, 3, 32, 64)
    for factors, message in (
        ({"depth": 2}, "depth is scaled; expected batch, size, height, width"),
        ({"height": 0.3}, "height = 64 times 0.3 is 19.2; expected a whole number"),
    ):
        with pytest.raises(ConvolithError, match=message):
            counted.scaled(**factors)


@pytest.mark.slow
def test_twice_the_channels_is_not_quite_four_times():
    """The stem and the head grow on one side alone."""
    counted = cost(classic("resnet50"), input_shape=(1, 3, 224, 224), backward=False)
    twice = counted.scaled(channels=2)
    assert round(twice.factors["forward macs"], 2) == 3.94
    assert "channels x 2 (a layer's both: 4x; here, with the stem and the head: 3.94x)" in str(twice)
    stem, head = 64 * 147 * 112 * 112, 2048 * 1000
    assert twice.after.forward.macs == 4 * (counted.forward.macs - stem - head) + 2 * (stem + head)
    law = counted.law("channels").expressions["forward macs"]
    m = sympy.Symbol("m")
    assert sympy.expand(law - (counted.forward.macs - stem - head) * m**2 - (stem + head) * m) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["alexnet", "vgg16", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "convnext_tiny"]
)
def test_networks_of_every_kind_grow(name):
    model = classic(name)
    before = {key: (tensor.shape, tensor.dtype) for key, tensor in model.state_dict().items()}
    counted = cost(model, input_shape=(1, 3, 224, 224), backward=False)
    twice = counted.scaled(channels=2)
    assert 3.5 < twice.factors["forward macs"] < 4
    assert 2 < twice.factors["parameters"] < 4
    assert {key: (tensor.shape, tensor.dtype) for key, tensor in model.state_dict().items()} == before
    assert cost(model, input_shape=(1, 3, 224, 224), backward=False).counts() == counted.counts()


def wide(channels, taps=3, groups=1):
    return nn.Sequential(
        nn.Conv2d(3, channels, taps, padding=taps // 2), nn.BatchNorm2d(channels), nn.PReLU(channels),
        nn.Conv2d(channels, channels, taps, padding=taps // 2, groups=channels, padding_mode="circular"), nn.ReLU(),
        nn.Conv2d(channels, 2 * channels, 1, groups=groups), nn.GroupNorm(2, 2 * channels), nn.ConvTranspose2d(2 * channels, channels, 2, stride=2),
        nn.Conv2d(channels, 5, taps, stride=2, padding=taps // 2), nn.BatchNorm2d(5),
    )  # fmt: skip


@pytest.mark.slow
def test_a_grown_model_counts_as_one_that_was_built_so():
    counted = cost(wide(8, groups=2), input_shape=(2, 3, 12, 12))
    assert counted.scaled(channels=2).after.counts() == cost(wide(16, groups=2), input_shape=(2, 3, 12, 12)).counts()
    assert counted.scaled(channels=0.5).after.counts() == cost(wide(4, groups=2), input_shape=(2, 3, 12, 12)).counts()
    larger = cost(wide(8), input_shape=(2, 3, 12, 12)).scaled(kernel_size=3, height=2)
    expected = cost(wide(8, taps=9), input_shape=(2, 3, 24, 12))
    assert larger.after.counts()["parameters"] > expected.parameters  # the transposed kernel of 2x2 grew too
    frozen = wide(8, groups=2)
    frozen.requires_grad_(False)
    assert (
        cost(frozen, input_shape=(2, 3, 12, 12)).scaled(channels=2).after.forward
        == counted.scaled(channels=2).after.forward
    )
    assert not any(p.requires_grad for p in frozen.parameters())


class Strange(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(4, 4))

    def forward(self, x):
        return x @ self.table


def test_depthwise_heads_and_norms_of_images_grow():
    def built(channels):
        return nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1), nn.InstanceNorm2d(channels, affine=True),
            nn.Conv2d(channels, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8),
        )  # fmt: skip

    counted = cost(built(8), input_shape=(1, 3, 8, 8))
    assert counted.scaled(channels=3).after.counts() == cost(built(24), input_shape=(1, 3, 8, 8)).counts()


class Stacks(nn.Module):
    """It hands its input on beside its own result."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(11, 4, 1)

    def forward(self, x):
        return self.other(torch.cat([x, self.one(x)], 1))


def test_a_refusal_of_a_grown_model_says_how_it_was_grown():
    with pytest.raises(
        ConvolithError, match="with 2 times the channels and 1 times the kernels' size, module other refuses"
    ):
        cost(Stacks(), input_shape=(1, 3, 8, 8)).scaled(channels=2)


def test_what_does_not_grow():
    for model, factors, message in (
        (
            nn.Sequential(Strange()),
            {"channels": 2},
            "module 0, a Strange, has table .*how they grow with channels is not known",
        ),
        (
            nn.Sequential(nn.Conv1d(4, 6, 1), nn.Conv1d(6, 4, 1)),
            {"channels": 0.25},
            "a size of module 0 = 6 times 0.25 is 1.5; expected a whole",
        ),
        (nn.Sequential(nn.Conv1d(4, 6, 3)), {"kernel_size": 4 / 3}, "which cannot grow evenly"),
    ):
        with pytest.raises(ConvolithError, match=message):
            cost(model, input_shape=(1, 4, 4), backward=False).scaled(**factors)


def test_what_has_no_law():
    two = cost(nn.Bilinear(3, 4, 5), input_shape=((2, 3), (2, 4)))
    with pytest.raises(ConvolithError, match="a law is of one input"):
        two.law()
    with pytest.raises(ConvolithError, match="scaled is of one input"):
        two.scaled(batch=2)
    with pytest.raises(ConvolithError, match="a law is of one input"):
        cost(nn.Sequential(nn.Linear(3, 4)), input_shape=(2, 3)).law()
    with pytest.raises(ConvolithError, match="a law is of one input"):
        cost(nn.Sequential(nn.ReLU()), example_input=torch.ones(1, 3, 8, 8)).law()
    with pytest.raises(ConvolithError, match="no polynomials of L"):
        axis("L", 3, 1, lambda n: {"macs": 2**n})
    with pytest.raises(ConvolithError, match="are not what those of smaller ones lead to"):
        through(lambda N: {"macs": N + (N > 2)}, [Variable("N", 1, 1, 1)])

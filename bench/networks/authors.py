"""Reparameterisable blocks in the manner of their authors' own files: written in place, functional, kept in lists.

What the blocks compute is what `mobileone`, `repvgg`, `dbb` and `ecb` of this folder compute; what differs is how: sums
begin at 0 and grow by `+=`, branches stand in lists or under names that may be missing, borders are overwritten
after padding, weights are read by functions, and activations overwrite their inputs.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.networks.randomise import randomised


class Authors(NamedTuple):
    """A network, the size it is made for, and its convolutions as it is trained and as it is deployed."""

    factory: Callable[[], nn.Module]
    input_shape: tuple[int, int, int, int]
    trained_convolutions: int
    deployed_convolutions: int
    source: str


def conv_bn(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0, groups: int = 1):
    """The pair under its usual names."""
    pair = nn.Sequential()
    pair.add_module(
        "conv", nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
    )
    pair.add_module("bn", nn.BatchNorm2d(num_features=out_channels))
    return pair


class MobileOneUnit(nn.Module):
    """Skip and scale branches that may be 0, then `+=` in a loop over a list."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, groups: int, branches: int):
        super().__init__()
        padding = kernel_size // 2
        self.num_branches = branches
        self.act = nn.ReLU(inplace=True)
        self.gate = nn.Identity()
        self.skip = nn.BatchNorm2d(in_channels) if out_channels == in_channels and stride == 1 else None
        self.convs = nn.ModuleList(
            [conv_bn(in_channels, out_channels, kernel_size, stride, padding, groups) for _ in range(branches)]
        )
        self.scale = conv_bn(in_channels, out_channels, 1, stride, 0, groups) if kernel_size > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        identity = 0
        if self.skip is not None:
            identity = self.skip(x)
        scaled = 0
        if self.scale is not None:
            scaled = self.scale(x)
        out = scaled + identity
        for index in range(self.num_branches):
            out += self.convs[index](x)
        return self.act(self.gate(out))


class MobileOneNet(nn.Module):
    """A stem of one branch, stages made by a loop, pooling, a view and a linear layer."""

    def __init__(self, depths, widths, strides, branches: int, classes: int = 1000) -> None:
        super().__init__()
        self.planes = widths[0]
        self.stage0 = MobileOneUnit(3, self.planes, 3, 2, 1, 1)
        for index, (depth, width, stride) in enumerate(zip(depths, widths, strides), 1):
            setattr(self, f"stage{index}", self._stage(width, depth, stride, branches))
        self.stages = len(depths)
        self.gap = nn.AdaptiveAvgPool2d(output_size=1)
        self.linear = nn.Linear(self.planes, classes)

    def _stage(self, width: int, depth: int, stride: int, branches: int) -> nn.Sequential:
        blocks = []
        for step in [stride] + [1] * (depth - 1):
            blocks.append(MobileOneUnit(self.planes, self.planes, 3, step, self.planes, branches))
            blocks.append(MobileOneUnit(self.planes, width, 1, 1, 1, branches))
            self.planes = width
        return nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage0(x)
        for index in range(1, self.stages + 1):
            x = getattr(self, f"stage{index}")(x)
        x = self.gap(x)
        x = x.view(x.size(0), -1)
        return self.linear(x)


def mobileone_s0() -> nn.Module:
    depths, widths, strides = (2, 8, 5, 5, 1), (48, 128, 256, 256, 1024), (2, 2, 2, 1, 2)
    return randomised(MobileOneNet(depths, widths, strides, branches=4), gain=0.5)


class RepVGGUnit(nn.Module):
    """A sum whose third term may be the number 0, under an attention that may be the identity."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.nonlinearity = nn.ReLU()
        self.attention = nn.Identity()
        self.identity = (
            nn.BatchNorm2d(num_features=in_channels) if in_channels == out_channels and stride == 1 else None
        )
        self.dense = conv_bn(in_channels, out_channels, 3, stride, 1, groups)
        self.pointwise = conv_bn(in_channels, out_channels, 1, stride, 0, groups)

    def forward(self, inputs: Tensor) -> Tensor:
        if hasattr(self, "reparam"):
            return self.nonlinearity(self.attention(self.reparam(inputs)))
        identity = 0 if self.identity is None else self.identity(inputs)
        return self.nonlinearity(self.attention(self.dense(inputs) + self.pointwise(inputs) + identity))


class RepVGGNet(nn.Module):
    """Stages as lists that the forward function walks through."""

    def __init__(self, depths, widths, use_checkpoint: bool = False) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.planes = widths[0]
        self.stages = nn.ModuleList()
        for index, (depth, width) in enumerate(zip(depths, widths)):
            blocks = nn.ModuleList()
            for step in [2] + [1] * (depth - 1):
                blocks.append(RepVGGUnit(3 if index == 0 else self.planes, width, step))
                self.planes = width
            self.stages.append(blocks)
        self.gap = nn.AdaptiveAvgPool2d(output_size=1)
        self.linear = nn.Linear(self.planes, 1000)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for stage in self.stages:
            for block in stage:
                if self.use_checkpoint:
                    out = torch.utils.checkpoint.checkpoint(block, out, use_reentrant=False)
                else:
                    out = block(out)
        out = self.gap(out)
        out = out.view(out.size(0), -1)
        return self.linear(out)


def repvgg_a0() -> nn.Module:
    return randomised(RepVGGNet((1, 2, 4, 14, 1), (48, 48, 96, 192, 1280)), gain=0.7)


class IdentityBased1x1(nn.Conv2d):
    """A 1x1 whose kernel is a learned difference to the identity, a tensor that is no buffer."""

    def __init__(self, channels: int, groups: int = 1) -> None:
        super().__init__(channels, channels, 1, groups=groups, bias=False)
        width = channels // groups
        self.id_tensor = torch.eye(width).repeat(groups, 1)[:, :, None, None]
        nn.init.zeros_(self.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        kernel = self.weight + self.id_tensor.to(self.weight.device).type_as(self.weight)
        return functional.conv2d(inputs, kernel, None, stride=1, padding=0, dilation=self.dilation, groups=self.groups)


class NormAndPad(nn.Module):
    """BatchNorm, zeros around, then the border overwritten with what the norm gives for 0."""

    def __init__(self, pad_pixels: int, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.pad_pixels = pad_pixels

    def forward(self, inputs: Tensor) -> Tensor:
        output, p = self.bn(inputs), self.pad_pixels
        if p > 0:
            sigma = torch.sqrt(self.bn.running_var + self.bn.eps)
            if self.bn.affine:
                values = self.bn.bias.detach() - self.bn.running_mean * self.bn.weight.detach() / sigma
            else:
                values = -self.bn.running_mean / sigma
            output = functional.pad(output, [p] * 4)
            values = values.view(1, -1, 1, 1)
            output[:, :, 0:p, :] = values
            output[:, :, -p:, :] = values
            output[:, :, :, 0:p] = values
            output[:, :, :, -p:] = values
        return output


class DiverseBranch(nn.Module):
    """Four branches under names, added in place."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1):
        super().__init__()
        padding = kernel_size // 2
        self.nonlinear = nn.ReLU()
        self.origin = conv_bn(in_channels, out_channels, kernel_size, stride, padding, groups)
        self.average = nn.Sequential()
        if groups < out_channels:
            self.average.add_module("conv", nn.Conv2d(in_channels, out_channels, 1, groups=groups, bias=False))
            self.average.add_module("bn", NormAndPad(padding, out_channels))
            self.average.add_module("avg", nn.AvgPool2d(kernel_size, stride, padding=0))
            self.pointwise = conv_bn(in_channels, out_channels, 1, stride, 0, groups)
        else:
            self.average.add_module("avg", nn.AvgPool2d(kernel_size, stride, padding=padding))
        self.average.add_module("avgbn", nn.BatchNorm2d(out_channels))
        self.expanded = nn.Sequential()
        if in_channels == out_channels:
            self.expanded.add_module("idconv1", IdentityBased1x1(in_channels, groups))
        else:
            self.expanded.add_module("conv1", nn.Conv2d(in_channels, in_channels, 1, groups=groups, bias=False))
        self.expanded.add_module("bn1", NormAndPad(padding, in_channels))
        self.expanded.add_module(
            "conv2", nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=0, groups=groups, bias=False)
        )
        self.expanded.add_module("bn2", nn.BatchNorm2d(out_channels))

    def forward(self, inputs: Tensor) -> Tensor:
        out = self.origin(inputs)
        if hasattr(self, "pointwise"):
            out += self.pointwise(inputs)
        out += self.average(inputs)
        out += self.expanded(inputs)
        return self.nonlinear(out)


def diverse_branches() -> nn.Module:
    blocks = OrderedDict(first=DiverseBranch(3, 16, 3, stride=2), second=DiverseBranch(16, 16, 5))
    return randomised(nn.Sequential(blocks))


class SequentialEdge(nn.Module):
    """A 1x1 and a 3x3 (learned, or a scaled mask) as functions of plain parameters; the border is the first's bias."""

    def __init__(self, kind: str, in_channels: int, out_channels: int, multiplier: int = 2) -> None:
        super().__init__()
        self.kind, self.out_channels = kind, out_channels
        hidden = int(out_channels * multiplier) if kind == "conv3x3" else out_channels
        first = nn.Conv2d(in_channels, hidden, kernel_size=1, padding=0)
        self.k0, self.b0 = first.weight, first.bias
        if kind == "conv3x3":
            second = nn.Conv2d(hidden, out_channels, kernel_size=3)
            self.k1, self.b1 = second.weight, second.bias
            return
        self.scale = nn.Parameter(torch.randn(out_channels, 1, 1, 1) * 1e-3)
        self.bias = nn.Parameter(torch.randn(out_channels) * 1e-3)
        mask = torch.zeros((out_channels, 1, 3, 3), dtype=torch.float32)
        for channel in range(out_channels):
            if kind == "sobelx":
                mask[channel, 0, :, 0] = torch.tensor([1.0, 2.0, 1.0])
                mask[channel, 0, :, 2] = torch.tensor([-1.0, -2.0, -1.0])
            elif kind == "sobely":
                mask[channel, 0, 0] = torch.tensor([1.0, 2.0, 1.0])
                mask[channel, 0, 2] = torch.tensor([-1.0, -2.0, -1.0])
            else:
                mask[channel, 0] = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
        self.mask = nn.Parameter(data=mask, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        y0 = functional.conv2d(input=x, weight=self.k0, bias=self.b0, stride=1)
        y0 = functional.pad(y0, (1, 1, 1, 1), "constant", 0)
        border = self.b0.view(1, -1, 1, 1)
        y0[:, :, 0:1, :] = border
        y0[:, :, -1:, :] = border
        y0[:, :, :, 0:1] = border
        y0[:, :, :, -1:] = border
        if self.kind == "conv3x3":
            return functional.conv2d(input=y0, weight=self.k1, bias=self.b1, stride=1)
        return functional.conv2d(
            input=y0, weight=self.scale * self.mask, bias=self.bias, stride=1, groups=self.out_channels
        )


class EdgeUnit(nn.Module):
    """Five convolution branches, and `y += x`."""

    def __init__(self, in_channels: int, out_channels: int, act: str = "prelu", with_idt: bool = False) -> None:
        super().__init__()
        self.with_idt = with_idt and in_channels == out_channels
        self.act_type = act
        self.conv3x3 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.conv1x1_3x3 = SequentialEdge("conv3x3", in_channels, out_channels)
        self.conv1x1_sbx = SequentialEdge("sobelx", in_channels, out_channels)
        self.conv1x1_sby = SequentialEdge("sobely", in_channels, out_channels)
        self.conv1x1_lpl = SequentialEdge("laplacian", in_channels, out_channels)
        self.act = nn.PReLU(num_parameters=out_channels) if act == "prelu" else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3x3(x)
        y = y + self.conv1x1_3x3(x) + self.conv1x1_sbx(x) + self.conv1x1_sby(x) + self.conv1x1_lpl(x)
        if self.with_idt:
            y += x
        if self.act_type != "linear":
            y = self.act(y)
        return y


class EdgeNet(nn.Module):
    """A list of blocks unpacked into a sequence, the image added, then a shuffle."""

    def __init__(self, blocks: int, channels: int, scale: int, *, with_idt: bool = False) -> None:
        super().__init__()
        backbone = []
        backbone += [EdgeUnit(1, channels, with_idt=with_idt)]
        for _ in range(blocks):
            backbone += [EdgeUnit(channels, channels, with_idt=with_idt)]
        backbone += [EdgeUnit(channels, scale * scale, act="linear", with_idt=with_idt)]
        self.backbone = nn.Sequential(*backbone)
        self.upsampler = nn.PixelShuffle(scale)

    def forward(self, x: Tensor) -> Tensor:
        y = self.backbone(x) + x
        return self.upsampler(y)


def ecbsr_m4c16() -> nn.Module:
    return randomised(EdgeNet(4, 16, 2, with_idt=True), gain=0.2)


AUTHORS: dict[str, Authors] = {
    # Trained: a stem of 1 + 1, and 21 pairs of (4 + 1) + 4.
    "mobileone_s0": Authors(mobileone_s0, (1, 3, 224, 224), 191, 43, "Vasu et al., MobileOne, CVPR 2023"),
    "repvgg_a0": Authors(repvgg_a0, (1, 3, 224, 224), 44, 22, "Ding et al., RepVGG, CVPR 2021"),
    "diverse_branches": Authors(
        diverse_branches, (1, 3, 64, 64), 10, 2, "Ding et al., Diverse Branch Block, CVPR 2021"
    ),
    # Nine for each of the six blocks.
    "ecbsr_m4c16": Authors(ecbsr_m4c16, (1, 1, 64, 64), 54, 6, "Zhang, Zeng, Zhang, ECBSR, ACM MM 2021"),
}
"""Networks by name."""

# %% [markdown]
# # Where ResNet-50 spends its multiplications
#
# Which layers of a network cost most, and which hold the memory? `cost` counts every module before anything runs, and
# without weights: the network below is made on torch's `meta` device, which has shapes but no memory.

# %%
import numpy as np
import torch
from matplotlib import pyplot
from torch import nn

import convolith as cl

# %% [markdown]
# ResNet-50 (He et al. 2016) in the form that torchvision has: the 3x3 convolution of a block takes the stride.


# %%
def convolution(in_channels, out_channels, kernel_size=1, stride=1):
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out_channels))


class Bottleneck(nn.Module):
    def __init__(self, in_channels, channels, stride):
        super().__init__()
        self.reduce = convolution(in_channels, channels)
        self.middle = convolution(channels, channels, 3, stride)
        self.expand = convolution(channels, 4 * channels)
        changed = stride > 1 or in_channels != 4 * channels
        self.shortcut = convolution(in_channels, 4 * channels, 1, stride) if changed else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.middle(self.relu(self.reduce(x))))
        return self.relu(self.expand(y) + self.shortcut(x))


def stage(in_channels, channels, depth, stride):
    blocks = [Bottleneck(4 * channels if n else in_channels, channels, 1 if n else stride) for n in range(depth)]
    return nn.Sequential(*blocks)


with torch.device("meta"):
    network = nn.Sequential()
    network.stem = nn.Sequential(*convolution(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))
    network.stage1 = stage(64, 64, 3, 1)
    network.stage2 = stage(256, 128, 4, 2)
    network.stage3 = stage(512, 256, 6, 2)
    network.stage4 = stage(1024, 512, 3, 2)
    network.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))

# %% [markdown]
# One photograph of 224x224 pixels takes 4,089,184,256 multiply-accumulates. Torchvision lists 4.09 billion for this
# model; the paper has 3.8 billion, for blocks whose first 1x1 convolution takes the stride.

# %%
counted = cl.cost(network, input_shape=(1, 3, 224, 224))
for row in counted.rows:
    if row.depth <= 1:
        print(f"{row.name or 'network':8} {row.forward.macs:13,} multiplications, {row.parameters:10,} weights")
assert counted.forward.macs == 4_089_184_256
assert counted.parameters == 25_557_032

# %% [markdown]
# Memory is distributed differently. Each part of the network is counted on its own, and its input is the output of the
# part before it. A training step keeps some results of each part (the activations) for its backward pass.

# %%
shape, parts = (1, 3, 224, 224), {}
for name, part in network.named_children():
    parts[name] = cl.cost(part, input_shape=shape)
    (shape,) = parts[name].output_shapes
shares = {
    "activations": [part.memory.backward.saved_activations / 1e6 for part in parts.values()],
    "weights": [part.parameters * 4 / 1e6 for part in parts.values()],
}
for name, megabytes in shares.items():
    print(f"MB of {name}:", dict(zip(parts, np.round(megabytes, 1).tolist(), strict=True)))
early, late = slice(0, 3), slice(4, 6)
assert sum(part.forward.macs for part in parts.values()) == counted.forward.macs
assert sum(shares["activations"][early]) > 0.6 * sum(shares["activations"])
assert sum(shares["weights"][late]) > 0.6 * sum(shares["weights"])

# %% [markdown]
# Above, every box is as wide as its share of the multiplications: stages, below them their blocks, and below those the
# convolutions of each block. The two bars at the bottom divide the same stages by memory. Early stages hold the
# activations, late ones the weights, and the third stage does the most work.

# %%
COLORS = dict(zip(parts, ("#777777", "#56B4E9", "#0072B2", "#009E73", "#E69F00", "#D55E00"), strict=True))
figure, (tree, bars) = pyplot.subplots(2, 1, figsize=(7, 5.6), height_ratios=(3, 2), dpi=150, layout="constrained")
places = {"": 0.0}  # where the next part of each module begins
for row in counted.rows[1:]:
    if row.depth <= 3 and row.forward.macs and row.name.count(".") <= 2:
        share, parent = row.forward.macs / counted.forward.macs, row.name.rpartition(".")[0]
        left = places[row.name] = places[parent]
        places[parent] += share
        color = COLORS[row.name.partition(".")[0]]
        tree.barh(row.depth, share, 0.95, left, color=color, edgecolor="white", alpha=1.2 - 0.25 * row.depth)
        if row.depth == 1 and share > 0.1:
            words = f"{row.name}\n{share:.0%}"
            tree.text(left + share / 2, 1, words, ha="center", va="center", fontsize=14, weight="bold")
tree.set_title("ResNet-50: 4.09 billion multiplications", fontsize=16)
tree.set_yticks([1, 2, 3], ["stages", "blocks", "layers"], fontsize=13)

for place, megabytes in enumerate(shares.values()):
    left = 0.0
    for part, amount in zip(parts, megabytes, strict=True):
        share = amount / sum(megabytes)
        bars.barh(place, share, 0.8, left, color=COLORS[part], edgecolor="white")
        left += share
bars.set_yticks([0, 1], [f"{name}\n{sum(megabytes):.0f} MB" for name, megabytes in shares.items()], fontsize=13)
for axis in (tree, bars):
    axis.invert_yaxis()
    axis.set(xlim=(0, 1), xticks=[])
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)

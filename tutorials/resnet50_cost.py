# %% [markdown]
# # Where ResNet-50 spends its multiplications
#
# Which layers of a network cost most, and which hold the memory? `cost` counts every module before anything runs, and
# without weights: the network below is made on torch's `meta` device, which has shapes but no memory.

# %%
import matplotlib.pyplot as plt
import torch
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
# One photograph of 224x224 pixels takes 4.09 billion multiplications, the number that torchvision lists for this model.

# %%
counted = cl.cost(network, input_shape=(1, 3, 224, 224))
print(counted.table(depth=1))
assert counted.forward.macs == 4_089_184_256
assert counted.parameters == 25_557_032

# %% [markdown]
# Memory goes another way. Each part is counted on its own, with the output shape of the part before it as its input.

# %%
shape, parts = (1, 3, 224, 224), {}
for name, part in network.named_children():
    parts[name] = cl.cost(part, input_shape=shape)
    (shape,) = parts[name].output_shapes
amounts = {
    "multiplications": [part.forward.macs for part in parts.values()],
    "kept for backward": [part.memory.backward.saved_activations for part in parts.values()],
    "weights": [part.parameters for part in parts.values()],
}
assert sum(amounts["multiplications"]) == counted.forward.macs
first, last = (slice(0, 2), slice(4, 6))
assert sum(amounts["kept for backward"][first]) > sum(amounts["kept for backward"][last])
assert sum(amounts["weights"][first]) < 0.05 * sum(amounts["weights"])

# %% [markdown]
# The picture reads like a ruler: every bar is as wide as its share of the multiplications. Stages lie above their
# blocks, and blocks above their convolutions. The two bars below divide the same stages by the bytes that a training
# step keeps for the backward pass, and by their weights: early stages hold the memory, late ones the weights, and the
# multiplications lie in between.

# %%
COLORS = dict(zip(parts, ("#888888", "#56B4E9", "#0072B2", "#009E73", "#E69F00", "#D55E00"), strict=True))
figure, (tree, bars) = plt.subplots(2, 1, figsize=(7, 5), height_ratios=(3, 2), layout="constrained")
places = {"": 0}  # where the next part of each module begins
for row in counted.rows[1:]:
    if row.depth > 3 or not row.forward.macs:
        continue
    parent = row.name.rpartition(".")[0]
    left, places[parent] = places[parent], places[parent] + row.forward.macs
    places[row.name] = left
    color = COLORS[row.name.partition(".")[0]]
    tree.barh(-row.depth, row.forward.macs, 0.94, left, color=color, edgecolor="white", alpha=1 - 0.22 * (row.depth - 1))
    if row.depth == 1 and row.name.startswith("stage"):
        middle = left + row.forward.macs / 2
        text = f"{row.name}\n{row.forward.macs / counted.forward.macs:.0%}"
        tree.text(middle, -1, text, ha="center", va="center", color="white", fontsize=12, fontweight="bold")

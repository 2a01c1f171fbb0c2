# %% [markdown]
# # A RepVGG block is one kernel
#
# A RepVGG block trains three branches: a 3x3 convolution, a 1x1 convolution and the identity, each with a batch norm. Once
# trained, the sum of the three is a single 3x3 convolution. This page folds such a block, checks the result, and shows the
# one place where folding by hand goes wrong: the border between two padded layers.

# %%
import numpy as np
import torch
from matplotlib import pyplot
from skimage import data
from torch import nn

import convolith as cl

# %% [markdown]
# ## The block
#
# This is the block of the paper (Ding et al., CVPR 2021), written in plain torch. A few batches in training mode give the
# norms running statistics; their scales and shifts are drawn at random, as if they had been trained.


# %%
class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.wide = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.narrow = nn.Conv2d(channels, channels, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(3))

    def forward(self, x):
        branches = (self.wide(x), self.narrow(x), x)
        return torch.relu(sum(norm(branch) for norm, branch in zip(self.norms, branches, strict=True)))


torch.manual_seed(0)
block = Block(32)
for norm in block.norms:
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.uniform_(norm.bias, -0.5, 0.5)
with torch.no_grad():
    for _ in range(20):
        block(torch.randn(8, 32, 24, 24))
block.eval()

# %% [markdown]
# ## Folded
#
# `cl.fold` reads the calls that the model makes on an example, so it needs no knowledge of the class. The result is a plain
# torch module, checked against the block in float64 on inputs of several sizes.

# %%
folded = cl.fold(block, torch.zeros(1, 32, 24, 24))
print(folded.report)
x = torch.randn(2, 32, 40, 56)
with torch.no_grad():
    assert torch.allclose(folded.model(x), block(x), atol=1e-5)
assert (folded.report.convolutions_before, folded.report.convolutions_after) == (2, 1)
assert (folded.report.norms_before, folded.report.norms_after) == (3, 0)

# %% [markdown]
# By hand it is a sum of three kernels. A norm multiplies each output channel by a scale, a 1x1 kernel is the centre of a 3x3
# kernel, and the identity is a 1x1 kernel that leaves each channel as it is.

# %%
scales = [norm.weight / torch.sqrt(norm.running_var + norm.eps) for norm in block.norms]
identity = torch.eye(32)[..., None, None]
kernels = [block.wide.weight, nn.functional.pad(block.narrow.weight, (1,) * 4), nn.functional.pad(identity, (1,) * 4)]
kernels = [(scale[:, None, None, None] * kernel).detach() for scale, kernel in zip(scales, kernels, strict=True)]
(single,) = [layer for layer in folded.model.modules() if isinstance(layer, nn.Conv2d)]
assert torch.allclose(sum(kernels), single.weight, atol=1e-6)

# %% [markdown]
# ## Layers in a row
#
# Without an activation between them, two 3x3 layers in a row are one 5x5 layer, but only away from the border. There the second
# layer reads zeros where the 5x5 kernel reads what the first layer would have given outside the picture. `cl.compose` says
# so, and calling the composition gives the exact result everywhere.

# %%
rng = np.random.default_rng(0)
picture = data.camera()[None, 60:92, 200:248] / 255
first, second = (cl.Conv(rng.normal(size=(1, 1, 3, 3)) / 3, padding=1) for _ in range(2))
both = cl.compose(first, second)
in_a_row = cl.correlate(cl.correlate(picture, first), second)
naive = cl.correlate(picture, both.conv)  # one 5x5 layer, padded by 2
difference = np.abs(naive - in_a_row)[0]

print(both.exact, "only:", both.reason)
assert both.exact == "interior"
assert both.conv.kernel_size == (5, 5)
assert difference[1:-1, 1:-1].max() < 1e-12
assert (difference > 1e-6).sum() == 2 * (32 + 48) - 4  # every pixel of the border
assert np.abs(both(picture) - in_a_row).max() < 1e-12

# %% [markdown]
# ## The picture
#
# Above, the kernels from input channel 0 to output channel 0: the three branches add up to the one that replaces them.
# Below, where a single 5x5 layer differs from the two padded 3x3 layers. `cl.fold` corrects such borders, or leaves the two
# layers as they are if the correction would take longer than it saves.

# %%
figure, axes = pyplot.subplot_mosaic(
    "ABCD;EEEE", figsize=(7, 6.6), height_ratios=(1, 1.9), dpi=150, layout="constrained"
)
most = max(float(kernel[0, 0].abs().max()) for kernel in (*kernels, single.weight))
titles = ("3x3", "1x1", "identity", "folded")
for name, title, kernel in zip("ABCD", titles, (*kernels, single.weight.detach()), strict=True):
    axes[name].imshow(kernel[0, 0], cmap="RdBu_r", vmin=-most, vmax=most)
    axes[name].set_title(title, fontsize=16)
for name, sign in zip("BCD", "++=", strict=True):
    axes[name].text(-0.13, 0.5, sign, transform=axes[name].transAxes, ha="center", va="center", fontsize=24)
drawn = axes["E"].imshow(difference, cmap="magma_r", vmin=0)
axes["E"].set_title("two padded 3x3 as one 5x5: error at the border", fontsize=15)
figure.colorbar(drawn, ax=axes["E"], shrink=0.9).ax.tick_params(labelsize=12)
for axis in axes.values():
    axis.set_xticks([])
    axis.set_yticks([])
pyplot.show()

# %% [markdown]
# # A RepVGG block is one kernel
#
# Can the three branches of a trained RepVGG block be computed as one convolution? Yes, exactly: a 3x3 convolution, a
# 1x1 convolution and the identity, each with a batch norm, add up to a single 3x3 convolution. This page folds such a
# block, checks the result, and shows where folding by hand goes wrong: at the border between two padded layers.

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
# It is written in plain torch, after the paper (Ding et al., CVPR 2021). A few batches in training mode give the
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
block = Block(4)
for norm in block.norms:
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.uniform_(norm.bias, -0.5, 0.5)
with torch.no_grad():
    for _ in range(20):
        block(torch.randn(8, 4, 24, 24))
block.eval()

# %% [markdown]
# ## Folded
#
# `cl.fold` reads the calls that the model makes on an example, so it needs no knowledge of the class. The result is a
# plain torch module, which was compared with the block in float64 on inputs of several sizes.

# %%
folded = cl.fold(block, torch.zeros(1, 4, 24, 24))
print(folded.report)
x = torch.randn(2, 4, 40, 56)
with torch.no_grad():
    assert torch.allclose(folded.model(x), block(x), atol=1e-5)
assert folded.report.convolutions_after == 1
assert folded.report.norms_after == 0

# %% [markdown]
# By hand, the single kernel is the sum of three. A norm multiplies each output channel by a scale, and adds a shift to
# it. A 1x1 kernel is a 3x3 kernel with zeros around its centre, and the identity is a 1x1 kernel that leaves each
# channel as it is. The shifts of the three norms add up to the bias.

# %%
scales = [norm.weight / torch.sqrt(norm.running_var + norm.eps) for norm in block.norms]
identity = torch.eye(4)[..., None, None]
kernels = [block.wide.weight, nn.functional.pad(block.narrow.weight, (1,) * 4), nn.functional.pad(identity, (1,) * 4)]
kernels = [(scale[:, None, None, None] * kernel).detach() for scale, kernel in zip(scales, kernels, strict=True)]
(single,) = [layer for layer in folded.model.modules() if isinstance(layer, nn.Conv2d)]
assert torch.allclose(sum(kernels), single.weight, atol=1e-6)
shifts = [norm.bias - scale * norm.running_mean for norm, scale in zip(block.norms, scales, strict=True)]
assert torch.allclose(sum(shifts), single.bias, atol=1e-6)

# %% [markdown]
# ## Layers in a row
#
# Two 3x3 layers without an activation between them are one 5x5 layer, but only away from the border. In its padding
# the second layer reads zeros, where the 5x5 kernel reads what the first layer would give outside the picture.
# `cl.compose` says so; calling the composition gives the exact result everywhere.

# %%
picture = data.camera()[None, 40:344:8, 60:508:8] / 255  # small, so that its border is seen
first, second = (cl.Conv(kernel[None, None], padding=1) for kernel in (cl.kernels.box(3), cl.kernels.gaussian(0.8, 3)))
both = cl.compose(first, second)
in_a_row = cl.correlate(cl.correlate(picture, first), second)
difference = np.abs(cl.correlate(picture, both.conv) - in_a_row)[0]  # one 5x5 layer, padded by 2
print(both.exact, "only:", both.reason)
assert both.exact == "interior"
assert both.conv.kernel_size == (5, 5)
assert difference[1:-1, 1:-1].max() < 1e-12
assert (difference > 1e-6).sum() == 2 * (38 + 56) - 4  # every pixel of the border
assert np.abs(both(picture) - in_a_row).max() < 1e-12

# %% [markdown]
# ## The picture
#
# Above are the kernels from one channel to itself: the three branches, and the one kernel that replaces them. Below
# are two padded 3x3 blurs of a small photograph, computed as one 5x5 blur: every pixel of the border is wrong, and
# its colour says by how much. `cl.fold` corrects such borders, or leaves the two layers as they are if a correction
# would take longer than it saves.

# %%
options = {"figsize": (7, 6.2), "dpi": 150, "layout": "constrained"}
figure, axes = pyplot.subplot_mosaic("ABCD;EEEE", height_ratios=(1, 2.6), **options)
shown = [kernel[1, 1].numpy() for kernel in (*kernels, single.weight.detach())]
most = max(np.abs(kernel).max() for kernel in shown)
for name, title, kernel in zip("ABCD", ("3x3", "1x1", "identity", "folded"), shown, strict=True):
    axes[name].imshow(kernel, cmap="RdBu_r", vmin=-most, vmax=most)
    axes[name].set_title(title, fontsize=16)
for name, sign in zip("BCD", "++=", strict=True):
    axes[name].text(-0.17, 0.5, sign, transform=axes[name].transAxes, ha="center", va="center", fontsize=26)
axes["E"].imshow(in_a_row[0], cmap="gray")
drawn = axes["E"].imshow(np.ma.masked_less(difference, 1e-6), cmap="autumn_r")
axes["E"].set_title("two padded 3x3 as one 5x5: the border is wrong", fontsize=15)
figure.colorbar(drawn, ax=axes["E"], shrink=0.85, aspect=15).set_label("error", fontsize=13)
for axis in axes.values():
    axis.set_xticks([])
    axis.set_yticks([])
pyplot.show()

# %% [markdown]
# # Multiple input and multiple output channels
#
# This page goes through the chapter of *Dive into Deep Learning* of the same title with Convolith: several input
# channels, several output channels, 1x1 kernels, two kernels that equal one, a kernel that is learned from data, and
# the cost of a layer.

# %%
import numpy as np
from matplotlib import pyplot
from skimage import data

import convolith as cl
from convolith import d2l

# %% [markdown]
# ## Several input channels
#
# The kernel has as many channels as the input. Each channel of the input is correlated with the same channel of the
# kernel, and the results are added up.

# %%
X = np.array([[[0, 1, 2], [3, 4, 5], [6, 7, 8]], [[1, 2, 3], [4, 5, 6], [7, 8, 9]]])
K = np.array([[[0, 1], [2, 3]], [[1, 2], [3, 4]]])

print(d2l.corr2d_multi_in(X, K))
assert d2l.corr2d_multi_in(X, K).tolist() == [[56, 72], [104, 120]]
assert d2l.corr2d_multi_in(X, K).tolist() == sum(d2l.corr2d(x, k) for x, k in zip(X, K, strict=True)).tolist()

# %% [markdown]
# ## Several output channels
#
# A layer with several output channels has one such kernel for each of them. The kernels are stacked along a first axis.

# %%
stacked = np.stack([K, K + 1, K + 2])
Y = d2l.corr2d_multi_in_out(X, stacked)
print(Y)
assert stacked.shape == (3, 2, 2, 2)
assert Y[1:].tolist() == [[[76, 100], [148, 172]], [[96, 128], [192, 224]]]

# %% [markdown]
# The next layer reads a photograph. The three colours are the input channels, and three kernels make three output
# channels: the slope to the right, the slope downwards, and a blur.

# %%
photo = data.astronaut()
x = np.moveaxis(photo, -1, 0) / 255
planes = (np.pad(cl.kernels.sobel(axis=1), 3), np.pad(cl.kernels.sobel(axis=0), 3), cl.kernels.box(9))
kernels = np.stack([np.stack([plane / 3] * 3) for plane in planes])  # each output is the mean over the colours
assert kernels.shape == (3, 3, 9, 9)
features = cl.correlate(x, kernels, padding="same", padding_mode="symmetric")
assert features.shape == (3, 512, 512)

figure, axes = pyplot.subplots(2, 3, figsize=(7, 4.9), dpi=150, layout="constrained")
titles = ("in: red", "in: green", "in: blue", "out: to the right", "out: downwards", "out: blur")
for axis, channel, title in zip(axes.flat, (*x, *np.abs(features[:2]) ** 0.6, features[2]), titles, strict=True):
    axis.imshow(channel, cmap="gray_r" if title in titles[3:5] else "gray")
    axis.set_title(title, fontsize=13)
    axis.set(xticks=[], yticks=[])
pyplot.show()

# %% [markdown]
# ## 1x1 is a matrix product
#
# A 1x1 kernel only mixes the channels of each pixel, which is a matrix product. Below, `slid` adds one channel after
# another, and `product` is the matrix product. Both add the same products, but in different orders, and each addition
# rounds. So they differ in the last bits. Both are within 1e-5 of the exact result.

# %%
mixing = np.random.default_rng(0).normal(size=(2, 3, 1, 1)).astype(np.float32)
x32 = x.astype(np.float32)
slid = np.stack([sum(d2l.corr2d(c, w) for c, w in zip(x32, k, strict=True)) for k in mixing])
product = d2l.corr2d_multi_in_out_1x1(x32, mixing)
exact = cl.correlate(x32.astype(np.float64), mixing.astype(np.float64))
assert np.abs(slid - product).max() < 1e-5
assert max(np.abs(slid - exact).max(), np.abs(product - exact).max()) < 1e-5

# %% [markdown]
# Convolith has several algorithms for a layer, its *engines*. The plan of this layer names the one that it chooses, and
# gives the estimated time of each engine, or the reason why it cannot compute the layer.

# %%
print(cl.plan(cl.ConvSpec.of(x32, mixing)).explain())

# %% [markdown]
# ## Two kernels are one
#
# A 4x4 kernel and then a 3x3 kernel turn a 12x12 image into a 7x7 image. One 6x6 kernel, the composition of the two,
# gives the same 7x7 image. The composition is the full convolution of the two kernels. It is not their
# cross-correlation, which has 2x2 weights here and turns the image into an 11x11 image.

# %%
rng = np.random.default_rng(0)
image = x[:1, 100:112, 200:212]
first, second = cl.Conv(rng.normal(size=(1, 1, 4, 4))), cl.Conv(rng.normal(size=(1, 1, 3, 3)))
both = cl.compose(first, second)
in_a_row = cl.correlate(cl.correlate(image, first), second)
assert both.conv.kernel_size == (6, 6)
assert in_a_row.shape == (1, 7, 7)
assert np.abs(both(image) - in_a_row).max() < 1e-12
assert d2l.corr2d(image[0], d2l.corr2d(first.weight[0, 0], second.weight[0, 0])).shape == (11, 11)

# %% [markdown]
# If the second layer pads, the single kernel gives other values at the border. For two padded 3x3 layers on 20x20
# pixels, these are the 76 pixels along the border. A call of the composition, `ring(square)`, gives the result of the
# two layers there too.

# %%
ring = cl.compose(*(cl.Conv(rng.normal(size=(1, 1, 3, 3)), padding="same") for _ in range(2)))
square = x[:1, :20, :20]
expected = cl.correlate(cl.correlate(square, ring.first), ring.second)
assert ring.exact == "interior"
print(ring.reason)
assert int((np.abs(cl.correlate(square, ring.conv) - expected) > 1e-12).sum()) == 76
assert np.abs(ring(square) - expected).max() < 1e-12

# %% [markdown]
# ## A kernel is learned
#
# Gradient descent finds the composed kernel from its input and output, if the learning rate is small enough. If the
# rate is too large, `fit` raises an error that names a smaller one. Least squares, the default method of `fit`, needs
# no learning rate and no steps.

# %%
X = np.random.default_rng(3).normal(size=(1, 10, 10))
both = cl.compose(cl.Conv(rng.normal(size=(1, 1, 2, 2))), cl.Conv(rng.normal(size=(1, 1, 3, 3))))
Y = both(X)
try:
    cl.fit(X, Y, kernel_size=4, method="gd", learning_rate=0.05)
except cl.ConvolithError as refusal:
    print(refusal)
    assert "diverges" in str(refusal)
else:
    raise AssertionError("a learning rate of 0.05 is too large for this problem")
learned = cl.fit(X, Y, kernel_size=4, method="gd", steps=1000)
solved = cl.fit(X, Y, kernel_size=4)
assert learned.loss[-1] < 1e-6 * learned.loss[0]
assert np.abs(learned.kernel - both.conv.weight).max() < 1e-9
assert np.abs(solved.kernel - both.conv.weight).max() < 1e-9

# %% [markdown]
# The input above was random. Neighbouring pixels of a photograph have nearly equal values, and then gradient descent
# needs very many steps: after 1000 steps, the kernel is still far from the true one. Least squares finds it at once.

# %%
piece = photo[None, 100:164, 180:244].mean(axis=3) / 255
blurred = both(piece)
crawled, solved = cl.fit(piece, blurred, kernel_size=4, method="gd"), cl.fit(piece, blurred, kernel_size=4)
off = [float(np.linalg.norm(f.kernel - both.conv.weight) / np.linalg.norm(both.conv.weight)) for f in (crawled, solved)]
print(f"after 1000 steps off by {off[0]:.0%}; least squares off by {off[1]:.0e}")
assert off[0] > 0.1
assert off[1] < 1e-9

# %% [markdown]
# ## What it costs
#
# `cost` counts a layer by formulas: its multiplications and additions, forward and backward, and the memory that it
# takes. Twice as many input and output channels take four times as many multiplications, three times as many take nine
# times as many. Twice the padding only enlarges the output, here from 56x56 to 58x58.

# %%
layer = cl.ConvSpec(in_channels=64, out_channels=64, size=(56, 56), kernel_size=3, padding=1)
counted = cl.cost(layer)
print(counted)
assert counted.forward.multiplications == 115_605_504
assert counted.forward.additions == 115_404_800
assert counted.scaled(in_channels=2, out_channels=2).factor == 4
assert counted.scaled(in_channels=3, out_channels=3).factor == 9
assert counted.scaled(padding=2).after.spec.output_size == (58, 58)

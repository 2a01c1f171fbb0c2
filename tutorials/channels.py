# %% [markdown]
# # Multiple input and multiple output channels
#
# The journey of the chapter of *Dive into Deep Learning* by that name, with Convolith: channels in, channels out, 1x1,
# two kernels that are one, a kernel learned from data, and what it all costs. Run it from top to bottom, or cell by
# cell in an editor that knows `# %%`.

# %%
import numpy as np
from skimage import data

import convolith as cl
from convolith import d2l

# %% [markdown]
# ## Several input channels
#
# The kernel has as many channels as the input; each is correlated with its own, and the results are added up.

# %%
X = np.array([[[0, 1, 2], [3, 4, 5], [6, 7, 8]], [[1, 2, 3], [4, 5, 6], [7, 8, 9]]])
K = np.array([[[0, 1], [2, 3]], [[1, 2], [3, 4]]])

print(d2l.corr2d_multi_in(X, K))
assert d2l.corr2d_multi_in(X, K).tolist() == [[56, 72], [104, 120]]
assert d2l.corr2d_multi_in(X, K).tolist() == sum(d2l.corr2d(x, k) for x, k in zip(X, K, strict=True)).tolist()

# %% [markdown]
# ## Several output channels
#
# One such kernel for each output channel, stacked.

# %%
stacked = np.stack([K, K + 1, K + 2])
Y = d2l.corr2d_multi_in_out(X, stacked)
print(Y)
assert stacked.shape == (3, 2, 2, 2)
assert Y[1:].tolist() == [[[76, 100], [148, 172]], [[96, 128], [192, 224]]]

# %% [markdown]
# On a real photograph: its colours are the input channels, and three kernels make three output channels.

# %%
photo = data.astronaut()
x = np.moveaxis(photo, -1, 0) / 255
sobel = np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
kernels = np.stack([np.stack([kernel] * 3) for kernel in (sobel, sobel.T, np.full((3, 3), 1 / 9))])
features = cl.correlate(x, kernels, padding="same")
assert features.shape == (3, 512, 512)

# %% [markdown]
# ## 1x1 is a matrix product
#
# A 1x1 kernel mixes channels and nothing else. The two results differ in the last bits because the same products are
# added in another order, and each addition rounds; neither is further off than a few units in the last place.

# %%
mixing = np.random.default_rng(0).normal(size=(2, 3, 1, 1)).astype(np.float32)
x32 = x.astype(np.float32)
slid = np.stack([sum(d2l.corr2d(c, w) for c, w in zip(x32, k, strict=True)) for k in mixing])  # one channel at a time
product = d2l.corr2d_multi_in_out_1x1(x32, mixing)
exact = cl.correlate(x32.astype(np.float64), mixing.astype(np.float64))
assert np.abs(slid - product).max() < 1e-5
assert max(np.abs(slid - exact).max(), np.abs(product - exact).max()) < 1e-5
print(cl.plan(cl.ConvSpec.of(x32, mixing)).explain())

# %% [markdown]
# ## Two kernels are one
#
# A 12x12 image through 4x4 and then 3x3 is 7x7, and so it is through the one 6x6 kernel that is their composition. The
# correlation of the two kernels is something else: 2x2, and 11x11 with it.

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
# Padding between the two makes the borders differ: for two padded 3x3 layers on 20x20 pixels, exactly the ring of
# 76 pixels is wrong if the one kernel is used alone. Calling the composition gives the right answer there too.

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
# Gradient descent finds the composed kernel from input and output alone, if the learning rate is small enough. If it is
# not, the refusal names one that is. Least squares gives the answer at once.

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
# On a photograph, where neighbours are alike, descent crawls.

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

# %%
layer = cl.ConvSpec(in_channels=64, out_channels=64, size=(56, 56), kernel_size=3, padding=1)
counted = cl.cost(layer)
print(counted)
assert counted.forward.multiplications == 115_605_504
assert counted.forward.additions == 115_404_800
assert counted.scaled(in_channels=2, out_channels=2).factor == 4
assert counted.scaled(in_channels=3, out_channels=3).factor == 9
assert counted.scaled(padding=2).after.spec.output_size == (58, 58)

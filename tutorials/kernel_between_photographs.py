# %% [markdown]
# # The kernel between two photographs
#
# Which blur turned one photograph into another, and how certain is each of its weights? `cl.fit` finds the kernel by
# least squares, together with its standard errors. Here the second photograph is blurred by a known kernel, so that
# the answer can be checked.

# %%
import numpy as np
from matplotlib import pyplot
from skimage import data

import convolith as cl

sharp = data.camera() / 255

# %% [markdown]
# ## Two photographs
#
# The camera moves along an arc while it takes the second photograph. Its sensor adds noise to every pixel: 2% of full
# scale.

# %%
noise = 0.02
time = np.linspace(0, 1, 400)
path = np.stack([6 * np.cos(2.6 * time) - 1, 8 * np.sin(2.6 * time) - 5])
rows, columns = np.mgrid[-8:9, -8:9]
distance = np.hypot(rows[..., None] - path[0], columns[..., None] - path[1])
truth = np.exp(-0.5 * (distance / 0.7) ** 2).sum(-1)
truth /= truth.sum()

rng = np.random.default_rng(0)
blurred = cl.filter_image(sharp, truth, padding_mode="symmetric") + noise * rng.normal(size=sharp.shape)

# %% [markdown]
# ## The fit
#
# A pixel of the blurred photograph gives one equation in the 17 x 17 weights, if its window lies inside the sharp
# photograph. Pixels nearer to the border are left out, so that nothing is assumed about what lies beyond it.

# %%
found = cl.fit(sharp, blurred, kernel_size=17)
kernel, stderr = found.kernel[0, 0], found.stderr[0, 0]
print(found)

# %% [markdown]
# ## How far to trust it
#
# A standard error says how far the noise moves a weight. If the standard errors are right, about 95% of the weights
# lie within two of them of the truth, and nearly all within four. The residual should be as large as the noise.

# %%
off = np.abs(kernel - truth) / stderr
print(f"within 2 standard errors: {np.mean(off < 2):.1%}; within 4: {np.mean(off < 4):.1%}")
print(f"residual {found.residual_rms:.5f}, noise {noise}")
assert np.mean(off < 4) > 0.99
assert 0.88 < np.mean(off < 2) < 0.99
assert abs(found.residual_rms / noise - 1) < 0.01
assert abs(kernel.sum() - 1) < 4 * found.sum_stderr[0, 0]

# %% [markdown]
# Neighbouring pixels of a photograph are similar. The data therefore say much more about a sum of neighbouring
# weights than about each single one.

# %%
print(f"standard error of one weight {stderr.mean():.4f}, of the sum of all {found.sum_stderr[0, 0]:.4f}")
assert found.sum_stderr[0, 0] < stderr.mean()

# %% [markdown]
# ## The picture
#
# Above are the two photographs; below are the kernel that `fit` found, and a cut through it along the dashed line:
# the fitted weights with two standard errors either way, and the true kernel as steps.

# %%
figure, axes = pyplot.subplots(2, 2, figsize=(7, 7.2), dpi=150, layout="constrained")
row = int(np.argmax(truth.max(axis=1)))
for axis, image, title in zip(axes[0], (sharp, blurred), ("sharp", "moved, with noise"), strict=True):
    axis.imshow(image[40:360, 60:380], cmap="gray", vmin=0, vmax=1)
    axis.set_title(title, fontsize=15)
axes[1, 0].imshow(kernel, cmap="viridis")
axes[1, 0].axhline(row, color="white", linestyle="--", linewidth=1.5)
axes[1, 0].set_title("the kernel found", fontsize=15)
for axis in axes.flat[:3]:
    axis.set_xticks([])
    axis.set_yticks([])
cut = axes[1, 1]
at = np.arange(-8, 9)
cut.stairs(truth[row], np.arange(-8.5, 9), baseline=0, color="#D55E00", linewidth=2, label="truth")
cut.errorbar(at, kernel[row], 2 * stderr[row], fmt="o", color="#0072B2", ms=5, capsize=3, lw=1.5, label="fit, 2 s.e.")
cut.set_title("a cut through it", fontsize=15)
cut.set_xlabel("pixels from the centre", fontsize=12)
cut.legend(fontsize=11)
pyplot.show()

# %% [markdown]
# # Kernel size and ridge by cross-validation
#
# How large should a fitted kernel be, and how much should its weights be held back? A kernel that is too small misses a
# part of the blur; one that is too large fits the noise as well. Cross-validation decides: it compares sizes and
# penalties by how well a kernel predicts pixels that took no part in its fit.

# %%
import numpy as np
from matplotlib import pyplot
from skimage import data

import convolith as cl

# %% [markdown]
# The data are a small part of a photograph and the same part out of focus, with noise of 5 grey levels. The true blur
# is a disk that touches 7x7 pixels.

# %%
sharp = data.camera()[90:160, 190:260].astype(float)
blur = cl.kernels.disk(3.2)
noise = 5.0
blurred = cl.filter_image(sharp, blur, padding_mode="symmetric")
blurred += noise * np.random.default_rng(0).normal(size=sharp.shape)

# %% [markdown]
# With `"auto"` for both, `fit` divides the picture into tiles and predicts each tile by the kernel of the others, for
# every odd size up to 15 and for eleven ridges (a ridge is a penalty on the squared weights). `Fit.selection` has one
# line for each pair.

# %%
found = cl.fit(sharp, blurred, kernel_size="auto", ridge="auto", max_size=15, offset=True)
print(found)
print("the three best:", *sorted(found.selection, key=lambda one: one.rms)[:3], sep="\n")
size = found.kernel.shape[-1]
assert found.kernel.shape == (1, 1, 7, 7)

# %% [markdown]
# The chosen size is the smallest one whose error is above the least error by no more than its standard error. At this
# size the ridge with the least error is taken. Two more kernels show what happens on either side. `Gram` holds the sums
# of a fit; those of the 15x15 kernel contain those of every smaller one.

# %%
sums = cl.Gram(15).update(sharp, blurred[7:-7, 7:-7])
small, large = sums.restricted_to(3).solve(offset=True), sums.solve(offset=True)


def distance(kernel):
    """Return the distance to the true blur, relative to it."""
    rim = (15 - kernel.shape[-1]) // 2
    return np.linalg.norm(np.pad(kernel[0, 0], rim) - np.pad(blur, 4)) / np.linalg.norm(blur)


for name, one in {"3x3": small, "7x7, chosen": found, "15x15": large}.items():
    print(f"{name}: {distance(one.kernel):.0%} from the true blur")
assert distance(found.kernel) < min(distance(small.kernel), distance(large.kernel))

# %% [markdown]
# The held-out error falls until the kernel holds the blur. From there on more weights fit more noise and the error
# grows again, less so with a ridge. Bars are standard errors of the difference to the best, rings mark the choice, and
# the dotted line is the noise, below which no kernel gets.

# %%
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"
figure = pyplot.figure(figsize=(7, 5.8), dpi=150, layout="constrained")
kernels, curves = figure.subfigures(2, 1, height_ratios=(1, 1.35))
shown = {"true blur": blur, "3x3: too small": small.kernel[0, 0]}
shown |= {f"{size}x{size}: chosen": found.kernel[0, 0], "15x15: too large": large.kernel[0, 0]}
for axis, (title, kernel) in zip(kernels.subplots(1, 4), shown.items(), strict=True):
    axis.imshow(np.pad(kernel, (15 - len(kernel)) // 2, constant_values=np.nan), cmap="RdBu_r", vmin=-0.06, vmax=0.06)
    axis.set_title(title, fontsize=14, color=BLUE if "chosen" in title else "black")
    axis.set(xticks=[], yticks=[])

by_size, by_ridge = curves.subplots(1, 2, sharey=True)
sizes = sorted({one.kernel_size[0] for one in found.selection})
of_size = {k: [one for one in found.selection if one.kernel_size[0] == k] for k in sizes}
best = [min(of_size[k], key=lambda one: one.rms) for k in sizes]
for label, color, chain in ("no ridge", ORANGE, [of_size[k][0] for k in sizes]), ("best ridge", BLUE, best):
    rms = np.array([one.rms for one in chain])
    bars = np.array([one.excess_mse_stderr for one in chain]) / (2 * rms)
    by_size.errorbar(sizes, rms, bars, color=color, marker="o", capsize=4, linewidth=2, label=label)
by_size.set(xticks=sizes, ylim=(noise - 0.15, noise + 0.95))
by_size.set_xlabel("kernel size", fontsize=13)
by_size.set_ylabel("held-out error (grey levels)", fontsize=13)

for k, color in (15, GREY), (size, BLUE):
    chain = of_size[k][1:]
    rms = [one.rms for one in chain]
    by_ridge.semilogx([one.ridge for one in chain], rms, "o-", color=color, linewidth=2, label=f"{k}x{k}")
by_ridge.set_xlabel("ridge", fontsize=13)
chosen = best[sizes.index(size)]
for axis, place in (by_size, size), (by_ridge, chosen.ridge):
    axis.plot(place, chosen.rms, "o", markersize=17, fillstyle="none", color="black", markeredgewidth=2)
    axis.axhline(noise, color="black", linestyle=":")
    axis.legend(fontsize=13, frameon=False, loc="upper center")
    axis.tick_params(labelsize=11)
    axis.spines[["top", "right"]].set_visible(False)

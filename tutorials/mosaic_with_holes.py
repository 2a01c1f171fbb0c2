# %% [markdown]
# # A mosaic with holes, larger than memory
#
# How is a picture filtered that is larger than the memory at hand, and has pixels without values? `cl.big.plan` says
# beforehand how many blocks it takes, and how much memory; its `run` reads, filters and writes one block after another.

# %%
import shutil
import tempfile

import numpy as np
import zarr
from matplotlib import pyplot
from skimage import data, transform

import convolith as cl

# %% [markdown]
# The mosaic is a picture by the Hubble telescope, enlarged six times to 5232 x 6000 pixels: 120 MB of float32, in a
# Zarr array on disk. It has gaps between detectors, the trail of a satellite and a square without data, all NaN.

# %%
folder = tempfile.mkdtemp()
sky = data.hubble_deep_field().mean(axis=2, dtype=np.float32)
mosaic = zarr.create_array(f"{folder}/mosaic.zarr", shape=(5232, 6000), chunks=(512, 512), dtype="float32")
columns = np.arange(6000)
for top in range(0, 5232, 1308):  # one row of detectors after the other
    strip = transform.resize(sky[top // 6 : top // 6 + 218], (1308, 6000), order=1)
    strip[-50:] = np.nan
    strip[:, columns % 1500 > 1450] = np.nan
    rows = top + np.arange(1308)[:, None]
    strip[np.abs(rows + 0.55 * columns - 4300) < 20] = np.nan
    strip[(np.abs(rows - 1850) < 220) & (np.abs(columns - 3700) < 220)] = np.nan
    mosaic[top : top + 1308] = strip

# %% [markdown]
# The mosaic is blurred with a kernel of 97x97 pixels, in at most 110 MB of memory, less than the mosaic itself takes.
# With `missing="renormalise"`, missing pixels are left out of each sum, and the other weights are scaled up. With
# `"propagate"`, every result that reads a missing pixel is missing.

# %%
blur = cl.kernels.gaussian(12)
options = {"memory": "110MB", "block": 512, "padding_mode": "symmetric"}
plan = cl.big.plan(f"{folder}/mosaic.zarr", blur, f"{folder}/filled.zarr", missing="renormalise", **options)
print(plan)

# %% [markdown]
# The report of the run shows the peak of memory that was measured, next to the predicted one.

# %%
filled = plan.run(progress=False)
print(filled)
assert filled.measured_bytes is None or filled.measured_bytes < mosaic.nbytes

# %% [markdown]
# For comparison, a part of the mosaic is filtered with `"propagate"`. Where this result has a value, both results are
# equal.

# %%
part = mosaic[1400:2800, 2900:4300]
plan = cl.big.plan(part, blur, f"{folder}/strict.zarr", missing="propagate", **options)
strict = plan.run(progress=False)

zoom = slice(100, 1300)  # of this part
before, spread = part[zoom, zoom], zarr.open_array(f"{folder}/strict.zarr", mode="r")[zoom, zoom]
result = zarr.open_array(f"{folder}/filled.zarr", mode="r")
closed = result[1500:2700, 3000:4200]
shares = {"mosaic": before, "propagate": spread, "renormalise": closed}
print({name: f"{np.isnan(pixels).mean():.1%} without a value" for name, pixels in shares.items()})
assert np.isnan(closed).sum() < np.isnan(before).sum() < np.isnan(spread).sum()
there = ~np.isnan(spread)
np.testing.assert_allclose(closed[there], spread[there], rtol=1e-4)

# %% [markdown]
# Holes are orange. With `"propagate"`, every hole grows by 48 pixels on all sides. With `"renormalise"`, gaps that are
# narrower than the kernel close. The square becomes smaller: only those pixels are missing whose whole window is.

# %%
figure, axes = pyplot.subplot_mosaic(
    "AAABBB;CCDDEE", figsize=(7, 5.6), height_ratios=(3, 2.3), dpi=150, layout="constrained"
)
gray = pyplot.get_cmap("gray").with_extremes(bad="#E69F00")
shown = {
    "A": ("mosaic", mosaic[::12, ::12]),
    "B": ("blurred, holes filled", result[::12, ::12]),
    "C": ("mosaic", before),
    "D": ("propagate", spread),
    "E": ("renormalise", closed),
}
for name, (title, picture) in shown.items():
    axes[name].imshow(picture**0.5, cmap=gray, vmin=0, vmax=14)
    axes[name].set_title(title, fontsize=15)
    axes[name].set(xticks=[], yticks=[])
for name in "AB":
    box = pyplot.Rectangle((3000 / 12, 1500 / 12), 100, 100, fill=False, color="#56B4E9", linewidth=2)
    axes[name].add_patch(box)
shutil.rmtree(folder)

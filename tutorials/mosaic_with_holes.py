# %% [markdown]
# # A mosaic with holes, larger than memory
#
# How is an array filtered that does not fit into memory and has missing pixels? `cl.big.plan` says beforehand how many
# blocks a filter takes, and how much memory; its run reads, filters and writes them one after the other.

# %%
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import zarr
from skimage import data, transform

import convolith as cl

# %% [markdown]
# The mosaic is a photograph by the Hubble telescope, enlarged six times: 5232 x 6000 pixels, 126 MB of float32, in a
# Zarr array. It lacks the gaps between the detectors, a trail of a satellite, and one square: all NaN.

# %%
folder = tempfile.mkdtemp()
sky = data.hubble_deep_field().mean(axis=2).astype(np.float32)
mosaic = transform.resize(sky, (5232, 6000), order=1)
mosaic[::1308] = np.nan

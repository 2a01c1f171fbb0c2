# %% [markdown]
# # A Gaussian factors, a random kernel does not
#
# Which kernels can be applied as several small ones, which take fewer multiplications? `decompose` looks for a chain of
# smaller convolutions, exact or within a tolerance, and certifies its error.

# %%
import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import convolith as cl

# %%
kernels = {
    "Gaussian": cl.kernels.gaussian(2.5, 15),
    "random": np.random.default_rng(0).normal(size=(15, 15)) / 15,
}
convs = {name: cl.Conv(kernel[None, None]) for name, kernel in kernels.items()}

# %% [markdown]
# A Gaussian is a column times a row: 30 products for each pixel replace 225, exactly. A random kernel is no chain of
# smaller ones, and `reason` says how far away the nearest is.

# %%
exact = {name: cl.decompose(conv) for name, conv in convs.items()}
for name, found in exact.items():
    print(f"{name}: {found.method}; {found.reason}")
assert exact["Gaussian"].method == "separable"
assert [part.kernel_size for part in exact["Gaussian"].parts] == [(15, 1), (1, 15)]
assert (exact["Gaussian"].multiplications_before, exact["Gaussian"].multiplications_after) == (225, 30)
assert exact["random"].parts == ()

# %% [markdown]
# With a tolerance, an approximation will do.

# %%
tolerances = np.logspace(-3, 0, 25)
image = data.camera() / 255.0 - 0.5

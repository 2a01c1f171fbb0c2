# %% [markdown]
# # A Gaussian factors, a random kernel does not
#
# Can a kernel be applied as several small ones, with fewer multiplications for each pixel? `decompose` looks for such a
# chain, exact or within a tolerance, and gives a bound on its error that holds for every image.

# %%
import numpy as np
from matplotlib import pyplot
from skimage import data

import convolith as cl

kernels = {"Gaussian": cl.kernels.gaussian(1.4, 7), "random": np.random.default_rng(0).normal(size=(7, 7)) / 7}
convs = {name: cl.Conv(kernel[None, None]) for name, kernel in kernels.items()}

# %% [markdown]
# A Gaussian is a column times a row: 14 products for each pixel replace 49, exactly. No chain equals the random kernel,
# and `reason` says how far away the nearest one is that takes fewer products.

# %%
exact = {name: cl.decompose(conv) for name, conv in convs.items()}
for name, found in exact.items():
    print(f"{name}: {found.method}; {found.reason}")
assert exact["Gaussian"].method == "separable"
assert [part.kernel_size for part in exact["Gaussian"].parts] == [(7, 1), (1, 7)]
assert (exact["Gaussian"].multiplications_before, exact["Gaussian"].multiplications_after) == (49, 14)
assert exact["random"].parts == ()

# %% [markdown]
# With a tolerance, `decompose` may also return a chain that is only close to the kernel. For the random kernel, cheaper
# chains exist only at large tolerances, and such chains are different filters. The Gaussian has exact factors, and
# keeps them at every tolerance.

# %%
tolerances = (0, 0.25, 0.4, 0.55, 0.7)
chains = {name: [cl.decompose(conv, tolerance=t) for t in tolerances] for name, conv in convs.items()}
for tolerance, found in zip(tolerances, chains["random"], strict=True):
    sizes = " and ".join("x".join(map(str, part.kernel_size)) for part in found.parts) or "no chain"
    print(f"random, tolerance {tolerance}: {sizes}, {found.multiplications_after} products")
assert all(len(found.parts) == 2 and found.relative < 1e-14 for found in chains["Gaussian"])
assert all(found.relative <= t for found, t in zip(chains["random"], tolerances, strict=True) if found.parts)

# %% [markdown]
# `relative` is an upper bound on the error for every image: the norm of the error, divided by the norm of the image and
# by the kernel's largest gain (the largest absolute value of its frequency response). Two errors are compared with it:
# that of a photograph, and that of the worst image, a plane wave at the frequency where the kernel and the chain differ
# most.


# %%
def gain(taps):
    """Return the frequency response of taps, in absolute values."""
    return np.abs(np.fft.fft2(taps, (256, 256)))


def worst_image(kernel, parts):
    """Return the plane wave for which a chain of two parts is furthest from a kernel."""
    gap = gain(cl.compose(*parts).conv.weight[0, 0] - kernel)
    u, v = np.unravel_index(gap.argmax(), gap.shape)
    rows, columns = np.indices((256, 256))
    return np.cos(2 * np.pi * (u * rows + v * columns) / 256)


photo = data.camera()[:256, :256] - 129.0
errors = {}
for name, kernel in kernels.items():
    for tolerance, found in zip(tolerances, chains[name], strict=True):
        images = {"worst image": worst_image(kernel, found.parts), "photograph": photo} if found.parts else {}
        for label, image in images.items():
            x = image[None, None]
            missed = np.linalg.norm(found(x) - cl.correlate(x, found.conv)) / np.linalg.norm(image)
            errors[name, tolerance, label] = missed / gain(kernel).max()
            assert errors[name, tolerance, label] < found.relative + 1e-14

# %% [markdown]
# Above, the kernels with the parts of a chain. Below, bounds and real errors over the tolerance, with the products of
# each chain. The Gaussian's errors are the rounding of float64; the random kernel's are fifteen orders of magnitude
# larger, and the bound is close to the error on the worst image.

# %%
BLUE, ORANGE = "#0072B2", "#D55E00"
figure = pyplot.figure(figsize=(7, 6.6), dpi=150, layout="constrained")
pictures, chart = figure.subfigures(2, 1, height_ratios=(1.1, 1))
grid = pictures.subplots(2, 4)
for line, name, number, sign, color in (grid[0], "Gaussian", 0, "=", BLUE), (grid[1], "random", 2, "\u2248", ORANGE):
    found = chains[name][number]
    weights = [kernels[name], *(part.weight[0, 0] for part in found.parts)]
    for axis, weight, before in zip(line[:3], weights, ("", sign, "*"), strict=True):
        spare = [((7 - n) // 2, 7 - n - (7 - n) // 2) for n in weight.shape]
        most = np.abs(weight).max()
        axis.imshow(np.pad(weight, spare, constant_values=np.nan), cmap="RdBu_r", vmin=-most, vmax=most)
        axis.set_title("x".join(map(str, weight.shape)), fontsize=14)
        axis.text(-0.13, 0.5, before, transform=axis.transAxes, ha="center", va="center", fontsize=24)
    off = "exact" if found.relative < 1e-14 else f"{found.relative:.0%} off"
    words = f"49 \u2192 {found.multiplications_after}\nproducts,\n{off}"
    line[3].text(0, 0.5, words, transform=line[3].transAxes, va="center", fontsize=15, color=color)
for axis in grid.flat:
    axis.set_axis_off()

axis = chart.subplots()
for name, color in ("random", ORANGE), ("Gaussian", BLUE):
    used = [(t, found) for t, found in zip(tolerances, chains[name], strict=True) if found.parts]
    at = [t for t, _ in used]
    axis.semilogy(at, [found.relative for _, found in used], color=color, linewidth=2, label=f"{name}: bound")
    for label, marker in ("worst image", "o"), ("photograph", "x"):
        axis.plot(
            at, [errors[name, t, label] for t in at], marker, color=color, markersize=9, fillstyle="none", label=label
        )
axis.set(ylim=(1e-18, 30))
axis.set_xlabel("tolerance", fontsize=13)
axis.set_ylabel("error / largest gain", fontsize=13)
axis.legend(fontsize=12, frameon=False, loc="center", ncols=2)
axis.tick_params(labelsize=11)
axis.spines[["top", "right"]].set_visible(False)

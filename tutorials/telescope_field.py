# %% [markdown]
# # A telescope field whose blur varies
#
# How do you find a new star between two exposures of a field, if the second one is blurred differently at every
# place? Blur the first exposure like the second, subtract it, and look at what is left. No single kernel can do that
# here; this page fits one that varies over the field.

# %%
import warnings

import numpy as np
from matplotlib import pyplot

import convolith as cl

# %% [markdown]
# ## Two exposures
#
# The stars are simulated one by one. In the second exposure each has the blur of its place: round in the middle of
# the field, and drawn out along the radius towards the edges. That exposure also has a brighter sky with a slope, the
# noise of the sky, and one star more.

# %%
size, noise = 256, 2.0
rng = np.random.default_rng(4)
places = rng.uniform(-1.05, 1.05, (260, 2))  # -1 to 1 from the first pixel to the last
fluxes = 1000 * rng.pareto(1.2, 260).clip(0.6, 4)
z = np.linspace(-1, 1, size)


def star(place, flux, covariance):
    """Return the picture of one star, a Gaussian."""
    down, right = ((z - one) * (size - 1) / 2 for one in place)
    a, b, c = np.linalg.inv(covariance)[[0, 0, 1], [0, 1, 1]]
    exponent = a * down[:, None] ** 2 + 2 * b * np.outer(down, right) + c * right**2
    return flux * np.exp(-exponent / 2) / (2 * np.pi * np.sqrt(np.linalg.det(covariance)))


def blur(place):
    """Return the covariance of the kernel that lies between the two exposures at a place, in square pixels."""
    return np.eye(2) + 1.4 * np.outer(place, place)


sharp, new = np.eye(2), np.array([-0.55, 0.62])
first = sum(star(place, flux, sharp) for place, flux in zip(places, fluxes, strict=True))
second = sum(star(place, flux, sharp + blur(place)) for place, flux in zip(places, fluxes, strict=True))
second += 20 + 5 * z + 3 * z[:, None] + noise * rng.normal(size=(size, size))
second += star(new, 700, sharp + blur(new))

# %% [markdown]
# ## One kernel for the whole field
#
# `degree=0` fits a kernel that does not vary. It is an average over the field, and right almost nowhere. A warning
# says so: what is left over is not noise.

# %%
options = {"kernel_size": 15, "basis": "gaussian-hermite", "smoothness": 1e5, "background_degree": 1}
with warnings.catch_warnings(record=True) as raised:
    warnings.simplefilter("always")
    constant = cl.fit_varying(first, second, degree=0, **options)
print(raised[0].message)
assert "correlated" in str(raised[0].message)

# %% [markdown]
# ## A kernel that varies
#
# With `degree=2`, each weight is a quadratic polynomial of the position. Stars say little about the finest details of
# a kernel; the basis (Gaussians times polynomials) and the smoothness keep noise out of them. The result has a
# `cl.VaryingKernel`: `weight_at` gives the kernel of one place, and `apply` blurs the whole first exposure.

# %%
varying = cl.fit_varying(first, second, degree=2, **options)
print(f"left over: {constant.residual_rms:.2f} with one kernel, {varying.residual_rms:.2f} with one that varies")
print(f"noise:     {noise:.2f}")
assert varying.residual_rms < 1.1 * noise < 1.5 * noise < constant.residual_rms

corner = varying.kernel.weight_at((0.7, 0.7))[0, 0]
rows, columns = np.mgrid[-7:8, -7:8]
moments = np.array([(corner * rows**2).sum(), (corner * rows * columns).sum()]) / corner.sum()
truth = blur((0.7, 0.7))[0]
print("variance and covariance of the kernel towards a corner:", moments.round(2), "truth:", truth.round(2))
assert np.allclose(moments, truth, atol=0.15)

# %% [markdown]
# ## The picture
#
# Below is the second exposure less the blurred first one. With one kernel for the whole field, every bright star
# leaves a pattern, and the new star (in the circle) is one spot among many. With the kernel that varies, it is the
# only one.

# %%
inner = (slice(7, -7), slice(7, -7))  # where all windows of 15x15 lie within the field
left = {
    "difference: one kernel": second[inner] - constant.kernel.apply(first[None])[0],
    "difference: varying": second[inner] - varying.kernel.apply(first[None])[0],
}
at = (new + 1) * (size - 1) / 2 - 7  # the pixel of the new star
for name, image in left.items():
    brightest = np.unravel_index(image.argmax(), image.shape)
    print(f"{name}: the brightest pixel is {np.hypot(*(brightest - at)):.0f} pixels from the new star")
assert np.hypot(*(brightest - at)) < 2

figure, axes = pyplot.subplots(2, 2, figsize=(7, 7.3), dpi=150, layout="constrained")
axes[0, 0].imshow(np.arcsinh((second - 20) / 10), cmap="gray", vmin=-1, vmax=4.5)
axes[0, 0].set_title("second exposure", fontsize=15)
mosaic = np.full((49, 49), np.nan)
for m, row in enumerate((-0.9, 0, 0.9)):
    for n, column in enumerate((-0.9, 0, 0.9)):
        mosaic[17 * m : 17 * m + 15, 17 * n : 17 * n + 15] = varying.kernel.weight_at((row, column))[0, 0]
axes[0, 1].imshow(mosaic, cmap="viridis")
axes[0, 1].set_title("kernel at nine places", fontsize=15)
for axis, (name, image) in zip(axes[1], left.items(), strict=True):
    axis.imshow(image, cmap="RdBu_r", vmin=-12, vmax=12)
    axis.set_title(name, fontsize=15)
    axis.add_patch(pyplot.Circle(at[::-1], 14, fill=False, edgecolor="black", linewidth=2))
for axis in axes.flat:
    axis.set_xticks([])
    axis.set_yticks([])
pyplot.show()

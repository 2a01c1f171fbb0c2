# %% [markdown]
# # Edges on a photograph
#
# Where does a photograph change, by how much, and in which direction? Two 3x3 kernels answer this for every pixel.
# The borders and the colours need some care, and each has a section below.

# %%
import numpy as np
from matplotlib import pyplot
from skimage import data

import convolith as cl

photo = data.astronaut() / 255  # (512, 512, 3): rows, columns, colours
grey = photo @ [0.2125, 0.7154, 0.0721]
downwards, rightwards = cl.kernels.sobel(axis=0), cl.kernels.sobel(axis=1)
print(8 * rightwards)

# %% [markdown]
# ## Magnitude and direction
#
# One kernel estimates the change from row to row, the other the change from column to column. They are scaled so that
# a ramp that rises by 1 per pixel gives 1. The two slopes are the components of the gradient: it points to where the
# picture gets brighter, and its magnitude says how steeply.


# %%
def gradient(image, **border):
    return cl.filter_image(image, downwards, **border), cl.filter_image(image, rightwards, **border)


ramp = np.add.outer(3.0 * np.arange(5), 4.0 * np.arange(5))  # rises by 3 per row and by 4 per column
down, right = gradient(ramp)
assert np.allclose([down[2, 2], right[2, 2]], [3, 4])
assert np.isclose(np.hypot(down, right)[2, 2], 5)

# %% [markdown]
# ## Borders
#
# For the outermost pixels, a kernel reads values beyond the border. If these are zeros, the border itself becomes an
# edge, often the strongest one. `padding_mode="symmetric"` repeats the outermost pixels instead. All other pixels
# stay as they are.

# %%
with_zeros = np.hypot(*gradient(grey, padding_mode="zeros"))
magnitude = np.hypot(*gradient(grey, padding_mode="symmetric"))
inside = (slice(1, -1), slice(1, -1))
outermost = np.ones(grey.shape, bool)
outermost[inside] = False
print(f"mean slope of the outermost pixels: {with_zeros[outermost].mean():.3f} with zeros beyond the border,")
print(f"{magnitude[outermost].mean():.3f} with repeated pixels; of all other pixels: {magnitude[inside].mean():.3f}")
assert np.allclose(with_zeros[inside], magnitude[inside])
assert with_zeros[outermost].mean() > 5 * magnitude[outermost].mean()

# %% [markdown]
# `"reflect"` mirrors the picture at the outermost pixels without repeating them, as `numpy.pad` does. The slope
# across the border is then zero. Choose it if an invented edge is worse for you than a missed one.

# %%
down, right = gradient(grey, padding_mode="reflect")
assert np.abs(down[[0, -1]]).max() < 1e-12
assert np.abs(right[:, [0, -1]]).max() < 1e-12

# %% [markdown]
# ## Colours
#
# Two colours can be equally bright; in a grey picture, the edge between them is gone. `filter_image` filters each
# colour separately, so take at each pixel the colour that changes most. Its gradient is never smaller than that of
# the grey picture.

# %%
red, green = np.array([0.9, 0.3, 0.4]), np.array([0.2, 0.5, 0.4])
green += (red - green) @ [0.2125, 0.7154, 0.0721]  # now as bright as the red
stripes = np.where(np.arange(16)[:, None] < 8, red, green)[None].repeat(16, axis=0)
assert np.abs(gradient(stripes @ [0.2125, 0.7154, 0.0721], padding_mode="symmetric")).max() < 1e-12
assert np.abs(gradient(stripes, padding_mode="symmetric")).max() > 0.1

down, right = gradient(photo, padding_mode="symmetric")
by_colour = np.hypot(down, right)
strongest = by_colour.max(axis=-1)
assert by_colour.shape == photo.shape
assert (strongest >= magnitude - 1e-12).all()

# %% [markdown]
# ## The picture
#
# Edges are drawn dark. In the detail, arrows show the gradient where it is large: at right angles to the edge,
# towards the brighter side. At the lower right, a corner of the picture has edges that are not there if zeros
# surround it.

# %%
most = by_colour.argmax(axis=-1)[..., None]
down, right = (np.take_along_axis(slope, most, axis=-1)[..., 0] for slope in (down, right))

figure, axes = pyplot.subplot_mosaic("AABB;CCDE", figsize=(7, 7.3), dpi=150, layout="constrained")
axes["A"].imshow(photo)
axes["B"].imshow(strongest**0.6, cmap="gray_r")
top, left, size = 82, 180, 42
axes["C"].imshow(photo[top : top + size, left : left + size])
rows, columns = np.mgrid[1:size:3, 1:size:3]
large = strongest[top + rows, left + columns] > 0.09
rows, columns = rows[large], columns[large]
arrows = [slope[top + rows, left + columns] for slope in (right, down)]
style = {"color": "#E69F00", "edgecolor": "black", "width": 0.009, "linewidth": 0.4}
axes["C"].quiver(columns, rows, *arrows, angles="xy", pivot="mid", scale=2.4, **style)
for name, edges in (("D", with_zeros), ("E", magnitude)):
    axes[name].imshow(edges[-48:, :24] ** 0.6, cmap="gray_r", vmin=0, vmax=0.7)
titles = {"A": "photograph", "B": "edges", "C": "gradient, in detail", "D": "border: zeros", "E": "symmetric"}
for name, axis in axes.items():
    axis.set_title(titles[name], fontsize=15)
    axis.set_axis_off()
pyplot.show()

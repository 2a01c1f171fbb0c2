# %% [markdown]
# # One blur, seven engines
#
# How should a large blur be computed? Seven algorithms give the same picture here, and the slowest takes hundreds of
# times as long as the fastest. This page times them on this machine, compares their errors, and shows how `cl.plan`
# knew in advance.

# %%
from statistics import median
from time import perf_counter

import numpy as np
from matplotlib import pyplot
from skimage import data

import convolith as cl

photo = data.camera().astype(np.float32) / 255
kernel = cl.kernels.gaussian(5).astype(np.float32)
print(photo.shape, kernel.shape)
assert kernel.shape == (41, 41)

# %% [markdown]
# One of the engines computes 8 or 16 channels at a time, in the lanes of a vector. So that it can take part, the
# photograph is cut into 16 tiles, which overlap by what the kernel reaches. The tiles are the channels of a depthwise
# layer: each is correlated with the same kernel, and the results lie side by side.

# %%
reach, side = 20, 128
padded = np.pad(photo, reach, mode="symmetric")
windows = np.lib.stride_tricks.sliding_window_view(padded, (side + 2 * reach, side + 2 * reach))
tiles = np.ascontiguousarray(windows[::side, ::side].reshape(1, 16, side + 2 * reach, side + 2 * reach))
kernels = np.broadcast_to(kernel, (16, 1, 41, 41)).copy()


def joined(tiles):
    return tiles.reshape(4, 4, side, side).swapaxes(1, 2).reshape(photo.shape)


blurred = cl.filter_image(photo, kernel, padding_mode="symmetric")
assert np.abs(joined(cl.correlate(tiles, kernels, groups=16)) - blurred).max() < 1e-5

# %% [markdown]
# ## The plan
#
# `cl.plan` estimates the time of each engine from the operations that it needs and the limits of the machine; nothing is
# run. It is given the kernel, because one engine depends on its values: a Gaussian is the product of a column and a row.

# %%
spec = cl.ConvSpec.of(tiles, kernels, groups=16)
plan = cl.plan(spec, kernels)
estimated = {c.engine: c.seconds for c in plan.candidates if c.reason is None}
for candidate in plan.candidates:
    print(f"{candidate.engine:20}", candidate.reason or f"{1e3 * candidate.seconds:9.2f} ms, {candidate.note}")
assert plan.engine == "separable"

# %% [markdown]
# ## Times and errors
#
# Each engine prepares its kernel once (`bind`) and is then timed in turn. Errors are those of the worst pixel, compared
# with sums in float64.

# %%
exact = cl.correlate(tiles.astype(np.float64), kernels.astype(np.float64), groups=16, engine="reference")
bound = {engine: cl.plan(spec, kernels, engine=engine).bind(kernels) for engine in estimated}
error = {engine: float(np.abs(run(tiles) - exact).max()) for engine, run in bound.items()}
seconds = {engine: [] for engine in estimated}
for turn in range(5):
    for engine, run in bound.items():
        if turn and engine == "reference":  # it is slow by design; once is enough
            continue
        start = perf_counter()
        run(tiles)
        seconds[engine].append(perf_counter() - start)
measured = {engine: median(times) for engine, times in seconds.items()}
assert len(error) >= 6  # a processor with other vectors may lack one
print(error)

# %% [markdown]
# ## The picture
#
# - `separable` needs 82 products per pixel: 41 for the column, 41 for the row.
# - `fft` multiplies spectra, tile by tile. Its work hardly grows with the kernel; a kernel without structure is best computed so.
# - `direct` and `depthwise` form all 1681 products per pixel, in generated code.
# - `aten` is torch's own convolution, in both of its memory formats, and `reference` the float64 sums that every engine is tested
#   against.

# %%
order = sorted(measured, key=measured.get)
rows = np.arange(len(order))
figure, axis = pyplot.subplots(figsize=(7, 5), dpi=150, layout="constrained")
colours = ["#0072B2" if engine == plan.engine else "#56B4E9" for engine in order]
axis.barh(rows, [1e3 * measured[engine] for engine in order], color=colours, height=0.72, label="measured")
marks = [1e3 * estimated[engine] for engine in order]
axis.plot(marks, rows, "D", color="#D55E00", markeredgecolor="white", markersize=9, label="planned")
for row, engine in enumerate(order):
    axis.text(1.15 * max(1e3 * measured[engine], marks[row]), row, f"{1e3 * measured[engine]:.3g} ms", va="center", fontsize=12)
axis.set_yticks(rows, order, fontsize=13)
axis.invert_yaxis()
axis.set_xscale("log")
axis.margins(x=0.2)
axis.set_xlabel("milliseconds (logarithmic)", fontsize=13)
axis.set_title("A 41x41 blur of 512x512 pixels, by seven engines", fontsize=15)
axis.legend(loc="lower left", fontsize=12)
inset = axis.inset_axes((0.72, 0.6, 0.27, 0.38))
inset.imshow(np.hstack([photo[:, :256], blurred[:, 256:]]), cmap="gray")
inset.set_axis_off()
pyplot.show()

# %% [markdown]
# # One blur, seven engines
#
# Which algorithm should compute a large blur? Seven engines, as Convolith calls its algorithms, give the same picture
# here, and the slowest takes hundreds of times as long as the fastest. This page times them, compares their errors,
# and shows how `cl.plan` chooses without running any of them.

# %%
from time import perf_counter

import numpy as np
import torch
from matplotlib import pyplot
from skimage import data

import convolith as cl

photo = data.camera().astype(np.float32) / 255
kernel = cl.kernels.gaussian(5).astype(np.float32)
print(photo.shape, kernel.shape)

# %% [markdown]
# One of the engines computes 8 or 16 channels at a time. So that it can take part, the photograph is cut into 16
# tiles that overlap by the reach of the kernel. They are the channels of a depthwise layer, which has the same kernel
# for each of them; its results, side by side, are the blurred photograph.

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
# `cl.plan` estimates the time of every engine from the operations that it needs and the limits of the machine, or
# says why the engine cannot compute this layer. It is given the kernel because one engine depends on its values: a
# Gaussian is the product of a column and a row.

# %%
threads = torch.get_num_threads()
torch.set_num_threads(2)  # for the plan, and for the measurement below
spec = cl.ConvSpec.of(tiles, kernels, groups=16)
plan = cl.plan(spec, kernels)
able = {candidate.engine: candidate for candidate in plan.candidates if candidate.reason is None}
estimated = {engine: candidate.seconds for engine, candidate in able.items()}
for candidate in plan.candidates:
    print(f"{candidate.engine:20}", candidate.reason or f"{1e3 * candidate.seconds:9.2f} ms, {candidate.note}")
assert plan.engine == "separable"
assert len(able) == 7

# %% [markdown]
# ## Times and errors
#
# Each engine prepares its kernel once (`bind`) and is then called for 0.3 seconds. The shortest call is shown, since
# other programs can only make a call longer. Errors are those of the worst pixel, against sums in float64, and each is
# under the bound that the plan states.

# %%
exact = cl.correlate(tiles.astype(np.float64), kernels.astype(np.float64), groups=16, engine="reference")
measured, error = {}, {}
for engine in able:
    run = cl.plan(spec, kernels, engine=engine).bind(kernels)
    times = []
    while sum(times) < 0.3:
        start = perf_counter()
        result = run(tiles)
        times.append(perf_counter() - start)
    measured[engine], error[engine] = min(times), float(np.abs(result - exact).max())
torch.set_num_threads(threads)
for engine in sorted(measured, key=measured.get):
    print(f"{engine:20} {1e3 * measured[engine]:9.2f} ms, error {error[engine]:.0e}")
assert all(error[engine] <= able[engine].error_bound for engine in able)

# %% [markdown]
# ## The picture
#
# - `separable` takes 82 products for each pixel, 41 along its column and 41 along its row. It needs a kernel of low
#   rank.
# - `fft` multiplies spectra, tile by tile. Its work hardly grows with the kernel, whatever its values.
# - `direct` and `depthwise` compute all 1681 products of each pixel, in generated code.
# - `aten` is torch's convolution, in both of its memory formats.
# - `reference` sums in float64, slowly: all others are tested against it.
#
# The estimates need not be exact, as long as they choose well. `effort="measure"` times the engines instead.

# %%
order = sorted(measured, key=measured.get)
times, planned = ([1e3 * found[engine] for engine in order] for found in (measured, estimated))
figure, axis = pyplot.subplots(figsize=(7, 5.3), dpi=150, layout="constrained")
axis.barh(order, times, color="#56B4E9", height=0.72, label="measured")
axis.plot(planned, order, "D", color="#D55E00", markeredgecolor="white", markersize=9, label="planned")
left = min(times + planned) / 40
for row, time in enumerate(times):
    axis.text(1.3 * left, row, f"{time:.2g} ms" if time < 10 else f"{time:.0f} ms", va="center", fontsize=13)
axis.tick_params(axis="y", labelsize=13)
axis.invert_yaxis()
axis.set_xscale("log")
axis.set_xlim(left, 10 * max(times + planned))
axis.set_xlabel("milliseconds (logarithmic)", fontsize=13)
axis.set_title("One 41x41 blur of 512x512 pixels", fontsize=16)
figure.legend(loc="outside lower center", ncols=2, fontsize=13)
inset = axis.inset_axes((0.69, 0.57, 0.3, 0.42))
inset.imshow(np.hstack([photo[:, :256], blurred[:, 256:]]), cmap="gray")
inset.set_axis_off()
pyplot.show()

# %% [markdown]
# # The peak of a training step, predicted and measured
#
# How much memory does a training step need, and which operator needs it? `cost` predicts it from shapes alone, in a
# second and without the memory. Here is the prediction for every operator of a step, next to a real one.

# %%
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # no lines on the terminal when torch's profiler starts and stops

import numpy as np
import torch
from matplotlib import pyplot
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import convolith as cl

# %% [markdown]
# The network is a small U-Net, whose skip connection is held until it is needed again.


# %%
def pair(in_channels, out_channels):
    first = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    second = nn.Conv2d(out_channels, out_channels, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2, self.pool = pair(1, 16), pair(16, 32), nn.MaxPool2d(2)
        self.raise1, self.up1 = nn.ConvTranspose2d(32, 16, 2, stride=2), pair(32, 16)
        self.last = nn.Conv2d(16, 1, 1)

    def forward(self, x):
        fine = self.down1(x)
        coarse = self.down2(self.pool(fine))
        return self.last(self.up1(torch.cat([self.raise1(coarse), fine], 1)))


torch.manual_seed(0)
network, shape = UNet().train(), (8, 1, 128, 128)

# %% [markdown]
# With an optimizer, `cost` follows a whole step on tensors without memory. `peak.moments` has the bytes that are held
# while each operator runs, including the memory that kernels of convolutions take for themselves.

# %%
counted = cl.cost(network, input_shape=shape, optimizer="momentum")
peak = counted.peak
print(peak)
print(f"largest batch within 4 GB: {counted.largest_batch(4e9)}")
assert (peak.phase, peak.module) == ("backward", "up1.0")

# %% [markdown]
# For the measurement, a real step runs under torch's profiler, which notes every allocation. A dispatch mode marks
# where each operator begins and ends, so that allocations can be assigned to it.


# %%
class Marked(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with torch.profiler.record_function(f"operator {func}"):
            return func(*args, **(kwargs or {}))


x, optimizer = torch.randn(shape), torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)


def step():
    network(x).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


step()  # afterwards the optimizer has its state
state = [value for one in optimizer.state.values() for value in one.values()]
held = sum(tensor.nbytes for tensor in [x, *network.parameters(), *state])
activities = [torch.profiler.ProfilerActivity.CPU]
with torch.profiler.profile(activities=activities, profile_memory=True) as profile, Marked():
    step()
with tempfile.TemporaryDirectory() as folder:
    profile.export_chrome_trace(f"{folder}/trace.json")
    trace = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]

# %% [markdown]
# The bytes that are held are those before the step and the sum of all allocations since. For each operator the largest
# sum between its start and its end is its measured memory.

# %%
changes = sorted((event["ts"], event["args"]["Bytes"]) for event in trace if event.get("name") == "[memory]")
times = [time for time, _ in changes]
levels = held + np.cumsum([0, *(change for _, change in changes)])
operators = sorted((event["ts"], event["dur"]) for event in trace if event.get("name", "").startswith("operator "))
spans = [np.searchsorted(times, [start, start + duration]) for start, duration in operators]
measured = np.array([levels[first : last + 1].max() for first, last in spans])
predicted = np.array([moment.bytes for moment in peak.moments[1:]])  # the first one is the start of the step

print(f"{len(predicted)} operators; peak predicted {peak.bytes / 1e6:.1f} MB, measured {levels.max() / 1e6:.1f} MB")
assert abs(peak.bytes / levels.max() - 1) < 0.05
assert predicted.max() == peak.bytes
assert len(predicted) == len(measured)
assert np.mean(np.abs(predicted / measured - 1) < 0.02) > 0.95

# %% [markdown]
# Memory grows through the forward pass, whose results the backward pass needs, and falls as they are used up. The peak
# is in the backward pass of the last wide layer: its gradients and all that earlier layers keep are there at once.
# Where orange rises above blue, an operator takes more memory for itself than the prediction assumes.

# %%
BLUE, ORANGE = "#0072B2", "#D55E00"
figure, axis = pyplot.subplots(figsize=(7, 5), dpi=150, layout="constrained")
numbers = np.arange(len(predicted))
axis.fill_between(numbers, predicted / 1e6, step="mid", color=BLUE, alpha=0.35, label="predicted")
axis.step(numbers, measured / 1e6, where="mid", color=ORANGE, linewidth=2, label="measured")
at, top = int(predicted.argmax()), peak.bytes / 1e6
axis.plot(at, top, "o", color="black", markersize=8)
words = f"peak: {top:.0f} MB\n{peak.operator}\nof {peak.module}"
axis.annotate(words, (at, top), (12, 0), textcoords="offset points", va="center", fontsize=14, backgroundcolor="white")
phases = [moment.phase for moment in peak.moments[1:]]
for phase in ("forward", "backward", "optimizer"):
    start, count = phases.index(phase), phases.count(phase)
    axis.axvline(start, color="black", linewidth=0.8, linestyle=":")
    axis.text(start + count / 2, 1.14 * top, phase, ha="center", fontsize=13)
axis.set(xlim=(0, len(predicted)), ylim=(0, 1.22 * top))
axis.set_title("memory of a training step", fontsize=16)
axis.set_xlabel("operators, in the order in which they run", fontsize=13)
axis.set_ylabel("MB", fontsize=13)
axis.legend(fontsize=14, frameon=False, loc="center right")
axis.spines[["top", "right"]].set_visible(False)

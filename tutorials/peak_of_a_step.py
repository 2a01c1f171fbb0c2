# %% [markdown]
# # The peak of a training step, predicted and measured
#
# How much memory does a training step need, and which operator needs it? `cost` predicts it from shapes alone, in a
# second and without the memory. Here is the prediction for every operator of a step, next to a real one.

# %%
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import convolith as cl

# %% [markdown]
# The network is a small U-Net, whose skip connections are held until they are needed again.


# %%
def pair(in_channels, out_channels):
    first = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    second = nn.Conv2d(out_channels, out_channels, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2, self.bottom = pair(1, 16), pair(16, 32), pair(32, 64)
        self.raise2, self.up2 = nn.ConvTranspose2d(64, 32, 2, stride=2), pair(64, 32)
        self.raise1, self.up1 = nn.ConvTranspose2d(32, 16, 2, stride=2), pair(32, 16)
        self.last, self.pool = nn.Conv2d(16, 1, 1), nn.MaxPool2d(2)

    def forward(self, x):
        fine = self.down1(x)
        middle = self.down2(self.pool(fine))
        coarse = self.bottom(self.pool(middle))
        middle = self.up2(torch.cat([self.raise2(coarse), middle], 1))
        return self.last(self.up1(torch.cat([self.raise1(middle), fine], 1)))


torch.manual_seed(0)
network, shape = UNet().train(), (4, 1, 128, 128)

# %% [markdown]
# With an optimizer, `cost` follows a whole step on tensors without memory. `peak.moments` has the bytes that are held
# while each operator runs, including the memory that kernels of convolutions take for themselves.

# %%
counted = cl.cost(network, input_shape=shape, optimizer="adam")
peak = counted.peak
print(peak)
print(f"largest batch within 4 GB: {counted.largest_batch(4e9)}")

# %% [markdown]
# For the measurement, a real step runs under torch's profiler, which notes every allocation. A dispatch mode gives each
# operator a number in the profile, so that allocations can be assigned to it.


# %%
class Numbered(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        with torch.profiler.record_function(f"operator {self.count}"):
            return func(*args, **(kwargs or {}))


x, optimizer = torch.randn(shape), torch.optim.Adam(network.parameters())


def step():
    network(x).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


step()  # afterwards the optimizer has its state
state = [value for one in optimizer.state.values() for value in one.values()]
held = sum(tensor.nbytes for tensor in [x, *network.parameters(), *state])
with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
    with Numbered() as numbered:
        step()
with tempfile.TemporaryDirectory() as folder:
    profile.export_chrome_trace(f"{folder}/trace.json")
    trace = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]

spans = [(event["ts"], event["ts"] + event["dur"]) for event in trace if event.get("name", "").startswith("operator ")]
changes = [(event["ts"], event["args"]["Bytes"]) for event in trace if event.get("name") == "[memory]"]
times, sizes = np.array(sorted(changes)).T
levels = held + np.append(0, np.cumsum(sizes))
measured = [max(levels[np.searchsorted(times, start) : np.searchsorted(times, stop) + 1]) for start, stop in sorted(spans)]
predicted = [moment.bytes for moment in peak.moments[1:]]
print(f"predicted {peak.bytes / 1e6:.1f} MB, measured {max(levels) / 1e6:.1f} MB")
assert abs(peak.bytes / max(levels) - 1) < 0.05
assert len(predicted) == len(measured)

# %% [markdown]
# Memory grows through the forward pass, since the backward pass needs the inputs of nearly all operators, and falls when
# they are used up. The peak is in the backward pass of the last wide layer.

# %%
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"
figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
axes.fill_between(range(len(predicted)), np.array(predicted) / 1e6, step="mid", color=BLUE, alpha=0.35, label="predicted")
axes.step(range(len(measured)), np.array(measured) / 1e6, where="mid", color=ORANGE, linewidth=2, label="measured")

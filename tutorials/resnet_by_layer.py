# %% [markdown]
# # A ResNet, before and after, layer by layer
#
# How much faster can a trained network run on this processor, and in which layers is the time saved? This page writes a
# ResNet-18 in plain torch, optimises it with `cl.optimize`, and compares the times of its layers.

# %%
from collections import Counter
from time import perf_counter

import numpy as np
import torch
from matplotlib import pyplot
from torch import nn

import convolith as cl

# %% [markdown]
# ## The network
#
# It has the layers of torchvision's `resnet18`; random weights take as long as trained ones. One thread computes it, so
# that the times of single layers are easy to compare.


# %%
def convolution(inputs, outputs, size, stride=1):
    layer = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.a, self.b = convolution(inputs, outputs, 3, stride), convolution(outputs, outputs, 3)
        self.shortcut = convolution(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        return torch.relu(self.b(torch.relu(self.a(x))) + self.shortcut(x))


torch.manual_seed(0)
threads = torch.get_num_threads()
torch.set_num_threads(1)
model = nn.Sequential()
model.add_module("stem", nn.Sequential(*convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)))
for n, (inputs, outputs) in enumerate(zip((64, 64, 64, 128, 128, 256, 256, 512), np.repeat([64, 128, 256, 512], 2))):
    model.add_module(f"block{n}", Block(inputs, int(outputs), 2 if inputs < outputs else 1))
model.add_module("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)))
model.eval()
x = torch.randn(1, 3, 96, 96)

# %% [markdown]
# ## Optimised
#
# Norms go into the weights of their convolutions. Activations and sums are computed where a convolution stores its result.
# The engine of each layer is the one that was fastest inside the network, and every step is checked against torch in float64.

# %%
fast = cl.optimize(model, x, threads=1, budget_seconds=4)
print(fast.report)
other = torch.randn(1, 3, 96, 96)
with torch.no_grad():
    expected, result = model(other), fast.model(other)
assert (result - expected).abs().max() < 1e-5 * expected.abs().max()

# %% [markdown]
# ## Times
#
# Hooks time the layers of the original model. For the optimised one, the report has the time of every step. Both models are also
# timed as a whole, in turn; every number is the least of several calls, which other programs disturb the least.


# %%
def layer_of(module):
    return "head" if module.startswith("head") else ".".join(module.split(".")[:1 if "stem" in module else 2])


started, before, whole = {}, {}, {"before": [], "after": []}
hooks = []
for name, module in model.named_modules():
    if name and isinstance(module, nn.Sequential):

        def begin(*_, name=name):
            started[name] = perf_counter()

        def end(*_, name=name):
            before[name] = min(perf_counter() - started[name], before.get(name, 1.0))

        hooks += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
with torch.no_grad():
    for _ in range(12):
        model(x)
    for hook in hooks:
        hook.remove()
    for _ in range(12):
        for name, network in (("before", model), ("after", fast.model)):
            start = perf_counter()
            network(x)
            whole[name].append(perf_counter() - start)
torch.set_num_threads(threads)
least = {name: min(seconds) for name, seconds in whole.items()}
print(before)
for s in fast.report.steps:
    print(s.where)
print(least)

# %% [markdown]
# # A ResNet, layer by layer
#
# How much faster can a trained network run on this processor, and in which layers is the time saved? This page writes
# a ResNet-18 in plain torch, optimises it with `cl.optimize`, and compares the times of its layers.

# %%
from itertools import pairwise
from time import perf_counter

import numpy as np
import torch
from matplotlib import pyplot
from torch import nn

import convolith as cl

# %% [markdown]
# ## The network
#
# The layers are those of torchvision's `resnet18`; random weights take as long as trained ones. One thread computes
# it, so that the times of single layers can be compared.


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
for n, (inputs, outputs) in enumerate(pairwise((64, 64, 64, 128, 128, 256, 256, 512, 512))):
    model.add_module(f"block{n}", Block(inputs, outputs, stride=2 if inputs < outputs else 1))
model.add_module("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)))
model.eval()
x = torch.randn(1, 3, 128, 128)

# %% [markdown]
# ## Optimised
#
# Batch norms become part of the weights. Activations and sums are computed where a convolution stores its result. For
# each layer, the engine (the algorithm that computes it) is the one that was fastest inside the network. Every step
# is compared with torch in float64.

# %%
fast = cl.optimize(model, x, threads=1, budget_seconds=2)
print(fast.report)
other = torch.randn(1, 3, 128, 128)
with torch.no_grad():
    expected, result = model(other), fast.model(other)
assert (result - expected).abs().max() < 1e-5 * expected.abs().max()

# %% [markdown]
# ## Times
#
# Hooks time the layers of the original model; the report has the time of every step of the optimised one. Both models
# are also timed as a whole, in turn. Each time is the least of several, which other programs disturb the least.

# %%
started, before, whole = {}, {}, {"torch": [], "optimised": []}


def begin(name):
    return lambda *_: started.update({name: perf_counter()})


def end(name):
    return lambda *_: before.update({name: min(before.get(name, 1.0), perf_counter() - started[name])})


layers = {name: module for name, module in model.named_modules() if name and isinstance(module, nn.Sequential)}
hooks = [module.register_forward_pre_hook(begin(name)) for name, module in layers.items()]
hooks += [module.register_forward_hook(end(name)) for name, module in layers.items()]
with torch.no_grad():
    for _ in range(12):
        model(x)
    for hook in hooks:
        hook.remove()
    for _ in range(20):
        for name, network in (("torch", model), ("optimised", fast.model)):
            start = perf_counter()
            network(x)
            whole[name].append(1e3 * (perf_counter() - start))
torch.set_num_threads(threads)

after, engines = dict.fromkeys(before, 0.0), dict.fromkeys(before, "others")
for step in fast.report.steps:
    names = step.where.removeprefix("folded_").split("_")  # such as block2, a, 0
    layer = names[0] if names[0] in before else ".".join(names[:2])
    after[layer] = after.get(layer, 0.0) + (step.seconds or 0.0)
    if step.engine in ("direct", "im2col") or "winograd" in step.engine:
        engines[layer] = step.engine.split("_")[0]
assert len(before) == 21

# %% [markdown]
# ## The picture
#
# Grey bars are torch's, coloured ones the optimised network's. Winograd's algorithm saves products where maps are
# large enough for its tiles. In the last layers (4x4 pixels) most time goes into reading 2.4 million weights.

# %%
figure, axis = pyplot.subplots(figsize=(7, 5), dpi=150, layout="constrained")
at = np.arange(21)
axis.bar(at - 0.2, [1e3 * seconds for seconds in before.values()], 0.4, color="#999999", label="torch")
colours = {"winograd": "#0072B2", "im2col": "#E69F00", "direct": "#009E73", "others": "#CC79A7"}
for engine in dict.fromkeys(engines[layer] for layer in before):
    chosen = [1e3 * after[layer] if engines[layer] == engine else np.nan for layer in before]
    axis.bar(at + 0.2, chosen, 0.4, color=colours[engine], label=engine)
for start in (0.5, 4.5, 9.5, 14.5, 19.5):
    axis.axvline(start, color="0.85", linewidth=1, zorder=0)
axis.set_xticks((0, 2.5, 7, 12, 17, 20), ("stem", "64", "128", "256", "512", "head"), fontsize=13)
axis.tick_params(axis="x", length=0)
axis.set_xlabel("layers, by channels", fontsize=13)
axis.set_ylabel("milliseconds", fontsize=13)
axis.margins(x=0.02)
slow, quick = (min(times) for times in whole.values())
axis.set_title(f"ResNet-18: {slow:.0f} ms \u2192 {quick:.1f} ms, {slow / quick:.1f} times as fast", fontsize=16)
axis.legend(fontsize=13)
pyplot.show()

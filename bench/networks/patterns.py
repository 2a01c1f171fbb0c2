"""Ways to put layers together, and what autograd keeps of each, as torch itself tells."""

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

SHAPE = (2, 4, 8, 8)
"""Of the input of each."""


class Of(nn.Module):
    """A function of its modules and inputs."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *arguments, **keywords):
        return self.function(self, *arguments, **keywords)


class Function(nn.Module):
    """A function as a model, with parameters that it may use."""

    def __init__(self, function, **parameters):
        super().__init__()
        self.function = function
        for name, shape in parameters.items():
            setattr(self, name, nn.Parameter(torch.zeros(shape)))

    def forward(self, *x):
        return self.function(self, *x)


def block(*layers):
    return nn.Sequential(*layers)


class Residual(nn.Module):
    def __init__(self, body, inplace=False):
        super().__init__()
        self.body, self.inplace = body, inplace

    def forward(self, x):
        y = self.body(x)
        if self.inplace:
            y += x
            return y
        return y + x


class Both(nn.Module):
    def __init__(self, *bodies):
        super().__init__()
        self.bodies = nn.ModuleList(bodies)

    def forward(self, x):
        return torch.cat([body(x) for body in self.bodies], 1)


class Checkpointed(nn.Module):
    def __init__(self, body, reentrant=False):
        super().__init__()
        self.body, self.reentrant = body, reentrant

    def forward(self, x):
        return checkpoint(self.body, x, use_reentrant=self.reentrant)


def frozen(module):
    for p in module.parameters():
        p.requires_grad_(False)
    return module


def conv(i=4, o=4, k=3, **options):
    return nn.Conv2d(i, o, k, **{"padding": k // 2, **options})


PATTERNS = {
    "conv": lambda: block(conv()),
    "conv relu": lambda: block(conv(), nn.ReLU()),
    "conv relu in place": lambda: block(conv(), nn.ReLU(inplace=True)),
    "conv bn relu": lambda: block(conv(bias=False), nn.BatchNorm2d(4), nn.ReLU()),
    "conv bn relu in place": lambda: block(conv(bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
    "bn in evaluation": lambda: block(conv(), nn.BatchNorm2d(4)).eval(),
    "conv relu conv": lambda: block(conv(), nn.ReLU(), conv()),
    "conv relu in place conv": lambda: block(conv(), nn.ReLU(inplace=True), conv()),
    "conv gelu conv": lambda: block(conv(), nn.GELU(), conv()),
    "conv silu conv": lambda: block(conv(), nn.SiLU(), conv()),
    "conv sigmoid": lambda: block(conv(), nn.Sigmoid()),
    "conv tanh": lambda: block(conv(), nn.Tanh()),
    "conv hardswish": lambda: block(conv(), nn.Hardswish()),
    "conv leaky": lambda: block(conv(), nn.LeakyReLU(0.1)),
    "conv prelu": lambda: block(conv(), nn.PReLU()),
    "conv elu": lambda: block(conv(), nn.ELU()),
    "conv softplus": lambda: block(conv(), nn.Softplus()),
    "conv mish": lambda: block(conv(), nn.Mish()),
    "max pooling": lambda: block(conv(), nn.ReLU(), nn.MaxPool2d(2)),
    "average pooling": lambda: block(conv(), nn.AvgPool2d(2), conv()),
    "global pooling": lambda: block(conv(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    "adaptive max pooling": lambda: block(conv(), nn.AdaptiveMaxPool2d(2)),
    "dropout": lambda: block(conv(), nn.Dropout(), conv()),
    "dropout in evaluation": lambda: block(conv(), nn.Dropout(), conv()).eval(),
    "residual": lambda: block(Residual(block(conv(), nn.ReLU(), conv())), nn.ReLU()),
    "residual in place": lambda: block(conv(), Residual(block(conv(), nn.ReLU(), conv()), inplace=True), nn.ReLU(inplace=True)),
    "concatenation": lambda: block(Both(conv(), block(conv(), nn.ReLU())), conv(8, 4)),
    "circular padding": lambda: block(conv(padding_mode="circular"), conv()),
    "reflected padding": lambda: block(conv(padding_mode="reflect"), conv()),
    "same and even": lambda: block(nn.Conv2d(4, 4, 2, padding="same"), nn.ReLU()),
    "frozen first": lambda: block(frozen(conv()), nn.ReLU(), conv()),
    "frozen last": lambda: block(conv(), nn.ReLU(), frozen(conv())),
    "all frozen": lambda: frozen(block(conv(), nn.ReLU(), conv())),
    "checkpoint": lambda: block(conv(), Checkpointed(block(conv(), nn.ReLU(), conv())), nn.ReLU()),
    "transposed": lambda: block(nn.ConvTranspose2d(4, 4, 2, stride=2), nn.ReLU()),
    "depthwise": lambda: block(conv(groups=4), nn.ReLU6(), conv(k=1)),
    "strided": lambda: block(conv(stride=2), nn.ReLU(), conv(dilation=2)),
    "layer norm": lambda: block(conv(), nn.LayerNorm(8), nn.GELU()),
    "group norm": lambda: block(conv(), nn.GroupNorm(2, 4), nn.ReLU()),
    "instance norm": lambda: block(conv(), nn.InstanceNorm2d(4), nn.ReLU()),
    "linear": lambda: block(nn.Flatten(), nn.Linear(256, 8), nn.ReLU(), nn.Linear(8, 3)),
    "softmax": lambda: block(nn.Flatten(), nn.Linear(256, 8), nn.Softmax(1)),
    "upsampling": lambda: block(conv(), nn.Upsample(scale_factor=2), conv()),
    "bilinear": lambda: block(conv(), nn.Upsample(scale_factor=2, mode="bilinear"), conv()),
    "pixel shuffle": lambda: block(conv(), nn.PixelShuffle(2), conv(1, 4)),
    "attention": lambda: block(nn.Flatten(2), nn.TransformerEncoderLayer(64, 4, 32, dropout=0.0, batch_first=True)),
    "shared": lambda: (lambda one: block(one, nn.ReLU(), one))(conv()),
    "product": lambda: Function(lambda m, x: F.conv2d(x, m.w) * F.conv2d(x, m.v), w=(4, 4, 1, 1), v=(4, 4, 1, 1)),
    "views": lambda: Function(lambda m, x: (F.conv2d(x, m.w)[:, :2] ** 2).reshape(-1), w=(4, 4, 1, 1)),
    "expanded": lambda: Function(lambda m, x: F.conv2d(x, m.w) * m.v, w=(4, 4, 1, 1), v=(4, 1, 1)),
}  # fmt: skip


def kept_bytes(model: nn.Module, x: torch.Tensor) -> int:
    """Bytes of the storages that autograd saves for a backward pass, parameters and buffers left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = model(x)
    found = sum(storage.nbytes() for storage in kept.values())
    del result
    return found

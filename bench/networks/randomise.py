"""Random weights and random running statistics from one seed: fresh BatchNorm is an identity and would hide every error."""

import math

import torch
from torch import Tensor, nn

NEGATIVE = 0.1  # share of the scales that are negative, as trained ones are now and then


def randomised(model: nn.Module, *, gain: float = 1.0, seed: int = 0) -> nn.Module:
    """The model in eval mode, each of its parameters and running statistics drawn anew.

    Kernels ~ N(0, gain^2 / fan in), means, shifts and biases ~ N(0, 0.3^2), variances ~ U(0.5, 2), scales ~ U(0.5, 1.5)
    with a few signs turned. Other buffers, such as fixed masks, stay as they are. A gain below 1 keeps the values of
    a deep row of many branches near one size.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            for name, tensor in [*module.named_parameters(recurse=False), *_statistics(module)]:
                tensor.copy_(_drawn(module, name, tensor, gain, generator))
    return model.eval()


def _statistics(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Buffers of a normalisation; a frozen one keeps its scale and its shift in buffers too."""
    if not hasattr(module, "running_var"):
        return []
    return [(name, t) for name, t in module.named_buffers(recurse=False) if name != "num_batches_tracked"]


def _drawn(module: nn.Module, name: str, like: Tensor, gain: float, generator: torch.Generator) -> Tensor:
    normal = lambda: torch.randn(like.shape, generator=generator)
    uniform = lambda: torch.rand(like.shape, generator=generator)
    if name == "running_var":
        return 0.5 + 1.5 * uniform()
    if name == "running_mean" or name.endswith("bias"):
        return 0.3 * normal()
    kernel = isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    if like.numel() == like.shape[0] and not kernel:  # one number for each channel scales a norm or a branch
        return (0.5 + uniform()) * torch.where(uniform() < NEGATIVE, -1.0, 1.0)
    return gain * normal() / math.sqrt(like[0].numel())

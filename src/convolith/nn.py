"""Drop-in convolution modules: torch's own `Conv1d`, `Conv2d` and `Conv3d`, computed by `correlate`."""

from __future__ import annotations

from typing import Any

import torch

from convolith.correlation import correlate


def _planned(module: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    y: torch.Tensor = correlate(
        x,
        weight,
        bias,
        stride=module.stride,
        padding=module.padding,
        dilation=module.dilation,
        groups=module.groups,
        padding_mode=module.padding_mode,
    )
    return y


class Conv1d(torch.nn.Conv1d):
    """`torch.nn.Conv1d` with the same arguments and state_dict, computed by Convolith.

    Example:
        >>> import torch
        >>> Conv1d(2, 4, 3)(torch.zeros(1, 2, 16)).shape
        torch.Size([1, 4, 14])
    """

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return _planned(self, input, weight, bias)


class Conv2d(torch.nn.Conv2d):
    """`torch.nn.Conv2d` with the same arguments and state_dict, computed by Convolith.

    Example:
        >>> import torch
        >>> theirs = torch.nn.Conv2d(3, 8, 5, padding="same")
        >>> ours = Conv2d(3, 8, 5, padding="same")
        >>> ours.load_state_dict(theirs.state_dict())
        <All keys matched successfully>
        >>> x = torch.rand(1, 3, 16, 16)
        >>> torch.allclose(ours(x), theirs(x), atol=1e-5)
        True
    """

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return _planned(self, input, weight, bias)


class Conv3d(torch.nn.Conv3d):
    """`torch.nn.Conv3d` with the same arguments and state_dict, computed by Convolith.

    Example:
        >>> import torch
        >>> Conv3d(1, 2, 3)(torch.zeros(1, 1, 5, 5, 5)).shape
        torch.Size([1, 2, 3, 3, 3])
    """

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return _planned(self, input, weight, bias)

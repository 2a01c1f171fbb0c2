"""Steps of a program: regions of generated code with everything but the addresses of their operands."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from convolith.engines.elementwise import Tail
from convolith.jit import Routine
from convolith.jit.arguments import LINE, ArgumentBlock
from convolith.jit.program import Call

OUTPUT = -1
"""Number of the operand that a step writes."""


class Step(NamedTuple):
    """One region and its arguments."""

    region: Routine
    block: ArgumentBlock
    values: Sequence[int]
    """Arguments without addresses, followed by counters."""
    operands: Mapping[str, int]
    """Operand of each argument that is an address: 0 and up for inputs, `OUTPUT` for the output."""
    tensors: Mapping[str, torch.Tensor]
    """Constants of the arguments that are addresses of such."""
    scratch: Mapping[str, int]
    """Bytes from the start of the scratch to the address of each argument that lies in it."""
    threads: int
    residual: int | None = None
    """Operand that is added to the sums, if any."""

    def call(self, addresses: Mapping[int, int], scratch: int) -> Call:
        """Return the region with its arguments, for operands and a scratch at some addresses."""
        count = len(self.block.names)
        slots = array("q", self.values[:count])
        for names, place in ((self.operands, addresses.__getitem__), (self.scratch, scratch.__add__)):
            for name, number in names.items():
                slots[self.block.at[name]] = place(number)
        for name, tensor in self.tensors.items():
            slots[self.block.at[name]] = tensor.data_ptr()
        if self.residual is not None:
            slots[self.block.at["residual_shift"]] = addresses[self.residual] - addresses[OUTPUT]
        counters = (len(self.values) - count) // LINE - 1
        return Call(self.region, slots, self.block.at["counters"], counters, self.threads)


class Steps(NamedTuple):
    """Steps that compute one node of a network, in order, and the bytes of scratch that they share."""

    steps: tuple[Step, ...]
    scratch_bytes: int = 0


class Layout(NamedTuple):
    """Distances of images in the operands of a layer, in elements; their channels are contiguous planes."""

    x_image: int
    y_image: int


class Finish(NamedTuple):
    """Bias and elementwise work that are applied to a layer's sums, with its constants and the operand that it adds."""

    bias: torch.Tensor | None
    tail: Tail
    constants: tuple[torch.Tensor, ...] = ()
    residual: int | None = None

    def tensors(self, channels: int, dtype: str) -> dict[str, torch.Tensor]:
        """Return the bias and the constants by the names of their arguments, with zeros after the last channel."""
        named = {"bias": self.bias} | {f"constant_{n}": t for n, t in enumerate(self.constants)}
        return {name: _padded(tensor, channels, dtype) for name, tensor in named.items()}


def _padded(tensor: torch.Tensor | None, channels: int, dtype: str) -> torch.Tensor:
    padded = torch.from_numpy(np.zeros(channels, dtype))
    if tensor is not None:
        padded[: tensor.numel()] = tensor.detach().reshape(-1)
    return padded

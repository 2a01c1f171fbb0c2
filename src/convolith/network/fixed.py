"""The optimised model without the weights as given: what was prepared from them, for one input size."""

from __future__ import annotations

from typing import Any, NoReturn

import torch

from convolith.errors import ConvolithError
from convolith.folding.example_inputs import Inputs
from convolith.jit import at_most
from convolith.network.execution.compiled import Compiled
from convolith.network.execution.runtime import Unlike
from convolith.torch_private import dispatch_modes, is_forked, needs_torch_operators


class Fixed(torch.nn.Module):
    """A network for the size of its example alone, without a torch module for other calls.

    Inputs of other shapes, dtypes and devices, gradients, autocast, `torch.compile`, state dicts and pickling need the
    weights as given, and are refused.

    Attributes:
        shapes: shapes of the inputs.
        threads: largest number of threads of the programs; None for torch's.
    """

    def __init__(self, compiled: Compiled, inputs: Inputs, threads: int | None) -> None:
        super().__init__()
        compiled.drop_weights()
        self._compiled = compiled
        self._kinds = [(tuple(x.shape), x.dtype) for x in inputs]
        self.shapes = tuple(shape for shape, _ in self._kinds)
        self.threads = threads
        self.training = False

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Return what the model returns for its inputs.

        Raises:
            ConvolithError: a call that needs the weights as given.
        """
        if torch.compiler.is_compiling() or dispatch_modes() or needs_torch_operators():
            self._refuse("torch.compile, autocast and torch.func transforms need")
        if is_forked():
            self._refuse("a process that was forked after the program ran needs")
        if [(tuple(x.shape), x.dtype) for x in inputs] != self._kinds or not all(x.is_cpu for x in inputs):
            given = [f"{tuple(x.shape)}, {x.dtype}, {x.device}" for x in inputs]
            self._refuse(f"inputs of {given} instead of {[f'{shape}, {dtype}' for shape, dtype in self._kinds]} need")
        if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
            self._refuse("gradients need")
        with at_most(self.threads), torch.no_grad():
            try:
                return self._compiled(inputs)
            except Unlike as problem:
                self._refuse(f"these values ({problem}) need")

    def train(self, mode: bool = True) -> Fixed:  # noqa: FBT001, FBT002 - torch's own signature
        """Refuse training mode.

        Raises:
            ConvolithError: in training mode.
        """
        if mode:
            self._refuse("training needs")
        return self

    def state_dict(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: the weights were dropped."""
        self._refuse("a state dict needs")

    def load_state_dict(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: there are no weights to replace."""
        self._refuse("a state dict needs")

    def __reduce__(self) -> NoReturn:
        self._refuse("a copy or a file needs")

    def _refuse(self, what: str) -> NoReturn:
        raise ConvolithError(
            f"{what} the weights as given, which optimize(drop_weights=True) dropped; optimise the model without it"
        )

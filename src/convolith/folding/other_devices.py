"""Models on other devices than the CPU: folded as a copy on the CPU, moved back and compared there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.fx import GraphModule

from convolith.errors import ConvolithError
from convolith.folding.example_inputs import Inputs, draws_random_numbers, outputs, unchanged
from convolith.folding.rewrite.rewrite_check import TOLERANCE, difference
from convolith.torch_private import mapped_tree

ROUNDED = 5e-2
"""Largest difference on the other device, relative to the largest output: its convolutions may round inputs to TF32."""


def cpu_by_default() -> AbstractContextManager[Any]:
    """Return a context in which tensors without a stated device are made on the CPU, whatever torch's default is."""
    return nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


def device_of(model: Any, example: Any) -> torch.device | None:
    """Return the device of a model and its example if it is another one than the CPU, else None.

    Raises:
        ConvolithError: tensors on several devices.
    """
    if not isinstance(model, torch.nn.Module):
        return None
    given = example if isinstance(example, Sequence) else (example,)
    tensors = [*model.parameters(), *model.buffers(), *(x for x in given if isinstance(x, torch.Tensor))]
    devices = {str(tensor.device): tensor.device for tensor in tensors}
    if all(device.type in ("cpu", "meta") for device in devices.values()):
        return None
    if len(devices) > 1:
        raise ConvolithError(
            f"model and example_input have tensors on {', '.join(sorted(devices))}; expected one device; move both "
            "with .to(device)"
        )
    return next(iter(devices.values()))


def moved(folded: torch.nn.Module, model: torch.nn.Module, inputs: Inputs, device: torch.device) -> torch.nn.Module:
    """Move a folded model to the device of the original, and compare the two there on the example.

    Raises:
        ConvolithError: if it does not run there, or differs by more than rounding explains.
    """
    folded = folded.to(device)
    for module in folded.modules():
        if isinstance(module, GraphModule):
            _move_constants(module, device)
    try:
        with torch.no_grad(), unchanged(model), unchanged(folded):
            found = outputs(folded, inputs)
            expected = found if draws_random_numbers(model, inputs) else outputs(model, inputs)
    except Exception as problem:  # whatever the model's own code raises
        raise ConvolithError(
            f"the folded model does not run on {device}, since its own code makes tensors on another one ({problem}); "
            "fold model.cpu(), and move folded.model when its code allows it"
        ) from problem
    worst = max((difference(a, b) for a, b in zip(expected, found, strict=True)), default=0.0)
    if not worst <= max(ROUNDED, TOLERANCE.get(inputs[0].dtype, 0.0)):
        raise ConvolithError(
            f"the folded model's error on {device} is {worst:.1e}, more than rounding explains; please report the model"
        )
    return folded


def _move_constants(graph: GraphModule, device: torch.device) -> None:
    """Replace the CPU, on which a graph was recorded, by another device in the arguments of its nodes."""
    changed = False

    def other(leaf: Any) -> Any:
        nonlocal changed
        if not isinstance(leaf, torch.device) or leaf.type != "cpu":
            return leaf
        changed = True
        return device

    for node in graph.graph.nodes:
        node.args, node.kwargs = mapped_tree(other, node.args), mapped_tree(other, node.kwargs)
    if changed:
        graph.recompile()

"""Comparison of a compiled network with torch: every node in float64, then the whole."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from convolith.engines.error_bounds import error_scale
from convolith.network.execution.compiled import Compiled
from convolith.network.execution.images import one_image
from convolith.network.execution.runtime import Instance
from convolith.network.graph.nodes import Computed, Convolve, Node

ELEMENTWISE = 4e-6
"""Upper bound on the error of a node without an error bound of its own, relative to the largest result."""
GROWTH = 4.0
"""Factor on the error bound of a convolution for the elementwise work after it."""


def check_nodes(compiled: Compiled, inputs: Sequence[torch.Tensor]) -> dict[int, tuple[float, float]]:
    """Return the error of every node and its limit, relative to its largest result.

    Each node reads what the nodes before it made, so that errors do not add up.
    """
    instance = compiled.instance()
    found: dict[int, tuple[float, float]] = {}
    for number, node in instance.run_by_node(inputs):
        if not isinstance(node, Computed) or not compiled.way(number).engine:
            continue
        shown, images = (one_image(node), slice(1)) if number < compiled.by_image else (node, slice(None))

        def fetch(n: int, images: slice = images) -> torch.Tensor:
            tensor = instance.fetch(n)
            tensor = tensor if compiled.trace.values[n].constant is not None else tensor[images]
            return tensor.double() if tensor.is_floating_point() else tensor

        exact = shown.reference(fetch)
        actual = instance.fetch(node.outputs[0])[images].double().reshape(exact.shape)
        scale = float(exact.abs().max()) or 1.0
        found[number] = float((exact - actual).abs().max()) / scale, _limit(compiled, instance, number, shown, scale)
    return found


def _limit(compiled: Compiled, instance: Instance, number: int, node: Node, scale: float) -> float:
    """Return the largest error that a node may have, relative to its largest result."""
    bound = compiled.way(number).error_bound
    if not isinstance(node, Convolve) or bound is None:
        return ELEMENTWISE
    spec = node.spec()
    x = instance.fetch(node.inputs[0])[: spec.batch].reshape(spec.input_shape)
    return ELEMENTWISE + GROWTH * bound * error_scale(spec, x, node.weight) / scale

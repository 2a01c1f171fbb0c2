"""Comparison of a compiled network with torch: every node in float64, then the whole."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from convolith.engines.error_bounds import error_scale
from convolith.network.execution.compiled import Compiled
from convolith.network.execution.images import one_image
from convolith.network.execution.runtime import Instance
from convolith.network.graph.nodes import Computed, Convolve, Node

ELEMENTWISE = 4e-6
"""Upper bound on the error of a node without an error bound of its own, relative to the largest result."""
LEAST_SCALE = 1e-30
"""Magnitude below which results count as zero: generated code takes denormal numbers for zero."""
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
        single = number < compiled.by_image
        shown = one_image(node) if single else node

        def fetch(n: int, single: bool = single, *, wide: bool = True) -> torch.Tensor:  # noqa: FBT001 - bound here
            tensor = instance.fetch(n)
            if single and compiled.trace.values[n].constant is None:
                tensor = tensor[:1]
            return tensor.double() if wide and tensor.is_floating_point() else tensor

        exact = shown.reference(fetch)
        actual = fetch(node.outputs[0]).reshape(exact.shape)
        own = compiled.trace.values[node.outputs[0]].dtype
        exact = exact.to(own).double()  # what is too large for the dtype is infinite in it
        limit = _limit(compiled, instance, number, shown, scale_of(exact))
        error = difference(actual, exact)
        if not error <= limit:  # where numbers cancel, torch's own result is as far away
            usual = shown.reference(partial(fetch, wide=False)).reshape(exact.shape)
            limit = max(limit, GROWTH * difference(usual, exact))
        found[number] = error, float("inf") if compiled.way(number).engine == "torch" else limit
    return found


def difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference of two tensors, relative to the largest finite number of the second.

    NaN and infinity are equal to themselves; they are infinitely far from all else.
    """
    a, b = actual.double(), expected.double()
    apart = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs())
    return float(torch.nan_to_num(apart, nan=float("inf"), posinf=float("inf")).max()) / scale_of(b)


def scale_of(tensor: torch.Tensor) -> float:
    """Return the largest finite magnitude of a tensor, or `LEAST_SCALE` if all are smaller."""
    size = tensor.double().abs()
    return max(float(torch.where(size.isfinite(), size, 0.0).max()), LEAST_SCALE)


def _limit(compiled: Compiled, instance: Instance, number: int, node: Node, scale: float) -> float:
    """Return the largest error that a node may have, relative to its largest result."""
    bound = compiled.way(number).error_bound
    if not isinstance(node, Convolve) or bound is None:
        return ELEMENTWISE
    spec = node.spec()
    x = instance.fetch(node.inputs[0])
    x = torch.nan_to_num((x[: spec.batch] if number < compiled.by_image else x).reshape(spec.input_shape))
    return ELEMENTWISE + GROWTH * bound * error_scale(spec, x, node.weight) / scale

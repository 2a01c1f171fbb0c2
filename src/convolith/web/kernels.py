"""Kernels of requests as numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from convolith import kernels as presets
from convolith.errors import ConvolithError
from convolith.web.requests import MAX_KERNEL, KernelChoice
from convolith.web.store import Stored

Find = Callable[[str], Stored]
"""Function that returns a picture or a result by its identifier."""


def kernel_values(choice: KernelChoice, find: Find) -> np.ndarray:
    """Return the numbers of a kernel, (rows, columns) in float64.

    Raises:
        ConvolithError: arguments that give no kernel, an array that is none, or one that is too large.
    """
    if choice.values is not None:
        values = np.array(choice.values, float)
    elif choice.preset is not None:
        values = getattr(presets, choice.preset)(**choice.keywords())
    else:
        values = np.asarray(find(choice.picture or "").array, float)
    if values.ndim != 2 or max(values.shape) > MAX_KERNEL:
        raise ConvolithError(
            f"kernel has shape {values.shape}; expected rows and columns of at most {MAX_KERNEL} numbers"
        )
    if not np.isfinite(values).all():
        raise ConvolithError("kernel has values that are NaN or infinite; expected finite numbers")
    return values


def shown_kernel(choice: KernelChoice, find: Find) -> dict[str, Any]:
    """Return a kernel's numbers with their sum, their rank, and the shape."""
    values = kernel_values(choice, find)
    rank = int(np.linalg.matrix_rank(values)) if values.any() else 0
    return {"shape": list(values.shape), "values": values, "sum": float(values.sum()), "rank": rank}

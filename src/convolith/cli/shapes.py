"""The spec of a layer from the shapes of its input and kernel."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from convolith.dtypes import check_dtype
from convolith.spec import ConvSpec


def layer_spec(
    x_shape: tuple[int, ...],
    k_shape: tuple[int, ...],
    *,
    dtype: str = "float32",
    kernel_dtype: str | None = None,
    bias: bool = False,
    **options: Any,
) -> ConvSpec:
    """Return the spec of a correlation of arrays of the given shapes and dtypes."""
    for argument, name in (("--dtype", dtype), ("--kernel-dtype", kernel_dtype or dtype)):
        check_dtype(argument, name)
    x = SimpleNamespace(shape=x_shape, dtype=dtype)
    k = SimpleNamespace(shape=k_shape, dtype=kernel_dtype or dtype)
    return ConvSpec.of(x, k, "a bias" if bias else None, **options)

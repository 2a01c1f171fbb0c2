"""The spec of a layer from the shapes of its input and kernel."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from convolith.cli.words import Words, translated
from convolith.dtypes import check_dtype
from convolith.errors import ConvolithError
from convolith.spec import ConvSpec

OF_SHAPES: Words = (
    (
        r"for a 2-D image and a 2-D kernel call filter_image",
        "for a picture and a kernel of one channel pass 1,1,HEIGHT,WIDTH 1,1,height,width",
    ),
    (r" \(k\.shape\[1\] \* groups\)", " (its channels, times --groups)"),
    (r"; pass k\[None\]", "; pass out_channels,in_channels/groups and the kernel's size"),
)
"""Words of a layer's checks, where shapes are given instead of arrays."""


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
    try:
        return ConvSpec.of(x, k, "a bias" if bias else None, **options)
    except ConvolithError as error:
        raise ConvolithError(translated(str(error), OF_SHAPES)) from None

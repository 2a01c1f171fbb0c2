"""Which engines compute a correlation's gradients: each is a correlation itself, of other operands."""

from __future__ import annotations

from convolith.dtypes import COMPLEX
from convolith.engines import aten
from convolith.planner.choose import plan
from convolith.planner.plan import Plan
from convolith.spec import ConvSpec

TRANSFORMED_TOO = 2.0
"""By how much longer an engine takes whose kernel does not come again, and is transformed as its input is."""


def input_gradient(spec: ConvSpec, accuracy: str) -> Plan | None:
    """`sum over o, t of k[o, c, t] grad[o, q - t + padding]`: a correlation with the flipped kernel, channels swapped.

    None where torch's own backward pass computes it: windows that are strided or transposed, more cropped than the
    kernel reaches, complex numbers.
    """
    around = tuple((e - 1 - a, e - 1 - b) for e, (a, b) in zip(spec.extent, spec.padding, strict=True))
    if max(spec.stride) > 1 or spec.transposed or min(min(pair) for pair in around) < 0:
        return None
    if accuracy == "double" or spec.kernel_dtype in COMPLEX:
        return None
    adjoint = ConvSpec(
        batch=spec.batch,
        in_channels=spec.out_channels,
        out_channels=spec.in_channels,
        size=spec.output_size,
        kernel_size=spec.kernel_size,
        padding=around,
        dilation=spec.dilation,
        groups=spec.groups,
        dtype=spec.out_dtype,
    )
    return plan(adjoint, accuracy=accuracy)


def kernel_gradient(spec: ConvSpec, accuracy: str) -> Plan | None:
    """`sum over n, p of x[c, p + t - padding] grad[o, p]`: x correlated with the gradient, images as channels.

    Such a kernel is as large as an image. Only transforms are faster with it than torch's own backward pass; None where
    they are not.
    """
    if max(*spec.stride, *spec.dilation) > 1 or spec.transposed or spec.groups > 1:
        return None
    if accuracy in ("double", "exact") or spec.out_dtype in COMPLEX:
        return None
    swapped = ConvSpec(
        batch=spec.in_channels,
        in_channels=spec.batch,
        out_channels=spec.out_channels,
        size=spec.size,
        kernel_size=spec.output_size,
        padding=spec.padding,
        dtype=spec.out_dtype,
    )
    seconds = {c.engine: c.seconds for c in plan(swapped).candidates if c.reason is None}
    usual = next(c.seconds for c in plan(spec).candidates if c.engine == aten.contiguous.name)
    transform = seconds.get("fft")
    if transform is None or usual is None or TRANSFORMED_TOO * transform > usual:
        return None
    return plan(swapped, engine="fft")

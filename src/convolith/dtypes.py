"""Element types by name: which ones Convolith computes with, their sizes, and the dtype of a result."""

from __future__ import annotations

from typing import Any

from convolith.errors import ConvolithError

FLOATS = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16}
SIGNED = {"int8": 1, "int16": 2, "int32": 4, "int64": 8}
UNSIGNED = {"uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8}
ITEMSIZE = FLOATS | SIGNED | UNSIGNED
"""Bytes of one element, for every dtype that Convolith accepts."""

PYTHON = {"float": "float64", "int": "int64", "complex": "complex128"}
"""Names of the dtypes of arrays made from Python's own numbers."""
HALVES = ("float16", "bfloat16")
COMPLEX = ("complex64", "complex128")


def dtype_name(dtype: Any) -> str:
    """Return the name of a NumPy or torch dtype, of a NumPy scalar type, or of a Python number type.

    `"float32"` for `torch.float32`, `numpy.float32` and `numpy.dtype(">f4")`; `"float64"` for `float`.
    """
    if isinstance(dtype, type):
        return PYTHON.get(dtype.__name__, dtype.__name__)
    name: str = getattr(dtype, "name", None) or str(dtype).removeprefix("torch.")
    return name


def check_dtype(argument: str, name: str) -> None:
    """Refuse a dtype that Convolith does not compute with."""
    if name not in ITEMSIZE:
        hint = "; convert it, for example to uint8" if name == "bool" else ""
        verb = "is" if argument.endswith("dtype") else "has dtype"
        raise ConvolithError(f"{argument} {verb} {name}; expected one of {', '.join(ITEMSIZE)}{hint}")


def is_float(name: str) -> bool:
    """Return whether the dtype is real or complex floating point."""
    return name in FLOATS


def result_dtype(x: str, kernel: str) -> str:
    """Return the dtype of a correlation: floats keep their dtype, integers give int64 or uint64.

    An integer and a float give the float's dtype; two integers give int64, or uint64 if both are unsigned and one
    of them is uint64 (arithmetic is then modulo 2^64).

    Raises:
        ConvolithError: two different floating dtypes.
    """
    if is_float(x) and is_float(kernel):
        if x != kernel:
            raise ConvolithError(
                f"x has dtype {x} but k has dtype {kernel}: two different float dtypes; "
                f"convert one of them, for example k.astype(x.dtype) in NumPy or k.to(x.dtype) in torch"
            )
        return x
    if is_float(x) or is_float(kernel):
        return x if is_float(x) else kernel
    both_unsigned = x in UNSIGNED and kernel in UNSIGNED
    return "uint64" if both_unsigned and "uint64" in (x, kernel) else "int64"


def integer_bits(name: str) -> int:
    """Return the exponent b of the bound |value| <= 2^b for an integer dtype."""
    return 8 * ITEMSIZE[name] - (name in SIGNED)


def half_ulp(name: str) -> float:
    """Return the unit roundoff of a floating dtype: the largest relative error of rounding to it."""
    mantissa = {"float16": 11, "bfloat16": 8, "float32": 24, "complex64": 24, "float64": 53, "complex128": 53}
    return 2.0 ** -mantissa[name]

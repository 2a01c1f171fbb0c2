"""Classification of torch's functions, methods and attributes: which return sizes, return values, or write in place."""

from __future__ import annotations

import inspect
import operator
from typing import Any

import torch

from convolith.torch_private import is_overload

SIZES = {"shape", "size", "numel", "nelement", "__len__"}
"""Attributes and methods that return sizes, which are recorded."""
VALUES = {
    *("item", "tolist", "numpy", "equal", "allclose", "is_nonzero", "__array__", "__contains__", "__format__"),
    *("__bool__", "__int__", "__float__", "__index__", "__complex__", "__deepcopy__", "__reduce_ex__", "__repr__"),
}
"""Functions and methods that return a tensor's values, on which a graph cannot depend."""
QUERIES = {
    *(
        "dtype",
        "device",
        "layout",
        "ndim",
        "dim",
        "ndimension",
        "is_cuda",
        "is_sparse",
        "is_quantized",
        "is_meta",
        "is_mps",
    ),
    *("is_nested", "is_mkldnn", "is_xpu", "is_leaf", "requires_grad", "grad", "grad_fn", "itemsize", "element_size"),
    *("is_floating_point", "is_complex", "is_signed", "is_contiguous", "stride", "storage_offset", "data_ptr"),
    *("is_shared", "is_pinned", "get_device", "names", "nbytes", "untyped_storage", "storage", "_version"),
    *("is_conj", "is_neg", "is_inference", "is_coalesced", "has_names", "is_set_to", "_is_view", "__hash__", "_base"),
}
"""Attributes and methods whose results are taken for the same at every size."""
CASTS = {"to", "float", "double", "half", "bfloat16", "type", "type_as"}
"""Conversions, which return the tensor itself if it needs no conversion."""
OPERATORS: dict[str, tuple[Any, bool]] = {
    "__getitem__": (operator.getitem, False),
    "__setitem__": (operator.setitem, False),
    **{f"__{n}__": (getattr(operator, n), False) for n in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")},
    **{f"__r{n}__": (getattr(operator, n), True) for n in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")},
    **{f"__{n}__": (getattr(operator, n), False) for n in ("matmul", "neg", "eq", "ne", "lt", "le", "gt", "ge")},
    "__rmatmul__": (operator.matmul, True),
    "__div__": (operator.truediv, False),
    "__rdiv__": (operator.truediv, True),
}
"""Operators by the name of the special method, and whether the method has the arguments in reverse order."""


SPECIAL = {name: method for name in OPERATORS if (method := getattr(torch.Tensor, name, None)) is not None}
"""Special methods by their names: that of `x ** 2` calls itself `pow`."""


def name_of(func: Any) -> str:
    """Return the name of a function or method, or of the attribute if the function is its getter or setter."""
    special = next((name for name, method in SPECIAL.items() if method is func), None)
    if special is not None:
        return special
    name = getattr(func, "__name__", type(func).__name__)
    if name in ("__get__", "__set__"):
        return str(getattr(getattr(func, "__self__", None), "__name__", name))
    return str(name)


def is_attribute(func: Any) -> bool:
    """Return whether a function is the getter of an attribute."""
    return getattr(func, "__name__", "") == "__get__"


def is_assignment(func: Any) -> bool:
    """Return whether a function assigns to an attribute other than `requires_grad`."""
    return getattr(func, "__name__", "") == "__set__" and name_of(func) != "requires_grad"


def is_method(func: Any) -> bool:
    """Return whether a function is a method of tensors."""
    return getattr(torch.Tensor, name_of(func), None) is func


def without_writing(func: Any, name: str, args: Any, kwargs: Any) -> tuple[Any, str, Any, Any] | None:
    """Return the out-of-place equivalent of a call that overwrites its first argument, or None if it has none.

    Returns:
        The function, its name, its arguments and keywords.
    """
    if "out" in kwargs or name in ("copy_", "__setitem__", "set_", "resize_", "zero_", "fill_", "normal_", "uniform_"):
        return None
    if is_overload(func):
        return _other_overload(func, args, kwargs)
    if is_method(func) and name.startswith("__i") and name.endswith("__"):
        other = f"__{name[3:]}"
        return (getattr(torch.Tensor, other), other, args, kwargs) if hasattr(torch.Tensor, other) else None
    if name.endswith("_") and not name.endswith("__"):
        home = torch.Tensor if is_method(func) else torch
        found = getattr(home, name[:-1], None) or getattr(torch.nn.functional, name[:-1], None)
        return None if found is None else (found, name[:-1], args, kwargs)
    return _with_inplace_false(func, name, args, kwargs)


def _with_inplace_false(func: Any, name: str, args: Any, kwargs: Any) -> tuple[Any, str, Any, Any] | None:
    """Return a call of one of torch's Python functions with its argument `inplace` set to False."""
    try:
        parameters = list(inspect.signature(func).parameters)
    except (TypeError, ValueError):  # a built-in function without a signature
        return None
    if "inplace" not in parameters:
        return None
    place = parameters.index("inplace")
    if place < len(args):
        return func, name, (*args[:place], False, *args[place + 1 :]), kwargs
    return func, name, args, {key: value for key, value in kwargs.items() if key != "inplace"}


def _other_overload(func: Any, args: Any, kwargs: Any) -> tuple[Any, str, Any, Any] | None:
    """Return the out-of-place equivalent of a call of one of torch's in-place overloads, or None."""
    packet, _, overload = func.__name__.partition(".")
    found = getattr(getattr(torch.ops.aten, packet.removesuffix("_"), None), overload or "default", None)
    return None if found is None or not packet.endswith("_") else (found, found.__name__, args, kwargs)

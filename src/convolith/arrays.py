"""Conversion of NumPy arrays and torch tensors to tensors and back, without a copy where possible."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch

from convolith.dtypes import check_dtype, dtype_name
from convolith.errors import ConvolithError, shown
from convolith.torch_private import is_traced_or_transformed

ArrayOrLists = np.ndarray | Sequence[Any]
"""NumPy arrays and nested lists of numbers, whose results are NumPy arrays."""
PLAIN = frozenset(map(np.dtype, ("float32", "float64", "float16", "uint8", "int8", "int16", "int32", "int64")))
"""Dtypes in this machine's byte order whose contiguous arrays torch takes as they are."""


class _Alias:
    """Writable view of a read-only array, which Convolith never writes to: torch warns about read-only arrays."""

    def __init__(self, array: np.ndarray) -> None:
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}
        self.owner = array


def as_tensor(argument: str, array: Any) -> torch.Tensor:
    """Return a NumPy array or a tensor as a tensor; any byte order, negative strides and read-only arrays are accepted.

    Raises:
        ConvolithError: another type, a masked array, a sparse or nested tensor, or an unsupported dtype.
    """
    if type(array) is np.ndarray and array.dtype in PLAIN:  # no check applies, and checks take several microseconds
        flags = array.flags
        if flags.c_contiguous and flags.aligned and flags.writeable:
            with suppress(ValueError):  # an odd stride of an axis of length one
                return torch.from_numpy(array)
    if isinstance(array, torch.Tensor):
        check_dtype(argument, dtype_name(array.dtype))
        if array.layout is not torch.strided:
            raise ConvolithError(
                f"{argument} is a {array.layout} tensor; expected a dense one; pass {argument}.to_dense()"
            )
        if array.is_nested:
            raise ConvolithError(
                f"{argument} is a nested tensor; expected a dense one; pass its images one by one, or "
                f"torch.nested.to_padded_tensor({argument}, 0.0)"
            )
        return _aligned(argument, array)
    if isinstance(array, np.ma.MaskedArray):
        raise ConvolithError(
            f"{argument} is a masked array, and a correlation has no rule for masked elements; "
            f"pass {argument}.filled(value)"
        )
    if not isinstance(array, np.ndarray):
        raise ConvolithError(
            f"{argument} is a {type(array).__name__}; expected a NumPy array or a torch tensor; "
            f"pass numpy.asarray({argument}) or torch.as_tensor({argument})"
        )
    check_dtype(argument, dtype_name(array.dtype))
    array = np.asarray(array)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if _is_odd(array):
        array = array.copy()
    return torch.from_numpy(array if array.flags.writeable else np.asarray(_Alias(array)))


def listed(argument: str, value: Any, like: Any = None) -> Any:
    """Return nested lists of numbers as an array, of the kind and float dtype of `like`; other values unchanged.

    Raises:
        ConvolithError: rows of different lengths.
    """
    if not isinstance(value, list | tuple):
        return value
    try:
        array = np.array(value)
    except ValueError as error:
        raise ConvolithError(f"{argument} is {shown(value)}; expected rows of equal length ({error})") from None
    if array.dtype.kind not in "iufc":
        raise ConvolithError(f"{argument} is {shown(value)}; expected nested lists of numbers")
    if isinstance(like, np.ndarray):
        return array.astype(like.dtype) if like.dtype.kind in "fc" else array
    if isinstance(like, torch.Tensor):
        tensor = torch.from_numpy(array).to(like.device)
        return tensor.to(like.dtype) if like.is_floating_point() or like.is_complex() else tensor
    return array


def _is_odd(array: np.ndarray) -> bool:
    """Return whether torch cannot use this memory: negative strides, or addresses not divisible by the element size.

    Torch loads a complex128 from a multiple of 16 bytes and crashes at other addresses; NumPy's own flag `aligned`
    requires only multiples of 8.
    """
    address, _ = array.__array_interface__["data"]
    return bool(address % array.itemsize) or any(stride < 0 or stride % array.itemsize for stride in array.strides)


def _aligned(argument: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor, or a copy if its memory is not aligned, as `torch.from_numpy` can produce.

    Tensors without a CPU address (fake tensors, tensors on another device or in a tracer) are returned unchanged.
    """
    if (
        type(tensor) not in (torch.Tensor, torch.nn.Parameter)
        or not tensor.is_cpu
        or torch.compiler.is_compiling()
        or is_traced_or_transformed()
        or tensor.data_ptr() % tensor.element_size() == 0
    ):
        return tensor
    if not tensor.is_complex():
        return tensor.clone()
    if tensor.requires_grad or tensor.is_neg():
        raise ConvolithError(
            f"{argument} is a complex tensor whose memory is not aligned to its elements, which torch cannot "
            "differentiate; pass one made by numpy.array(...)"
        )
    stored = tensor.conj() if tensor.is_conj() else tensor
    copy = torch.from_numpy(stored.numpy().copy())  # torch's own copy crashes as well
    return copy.conj() if tensor.is_conj() else copy


def bare(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor without gradients or lazy conjugation, as NumPy and generated code need it."""
    return tensor.detach().resolve_conj().resolve_neg()


def as_target(argument: str, array: Any) -> torch.Tensor:
    """Return a tensor that shares the memory of `array`, so that a result can be written into it.

    Raises:
        ConvolithError: memory that cannot be written through a tensor: read-only, byte-swapped, not aligned, with
            negative strides, with elements that share an address, or with lazy conjugation.
    """
    tensor = as_tensor(argument, array)
    why = None
    if isinstance(array, np.ndarray):
        if not array.flags.writeable:
            why = "read-only"
        elif not array.dtype.isnative or _is_odd(array):
            why = "byte-swapped or reversed, or not aligned to its elements"
    elif tensor.is_conj() or tensor.is_neg():
        why = "a lazy conjugate or negative"
    elif tensor is not array:
        why = "not aligned to its elements"
    if any(stride == 0 and n > 1 for stride, n in zip(tensor.stride(), tensor.shape, strict=True)):
        why = "a broadcast view"
    if why:
        raise ConvolithError(f"{argument} is {why}; expected an array or a tensor that can be written in place")
    return tensor


def is_numpy(array: Any) -> bool:
    """Return whether the result for this array must be a NumPy array."""
    return isinstance(array, np.ndarray)


def like(tensor: torch.Tensor, original: Any) -> Any:
    """Return `tensor` as a NumPy array if the original is one, otherwise unchanged."""
    return tensor.numpy() if is_numpy(original) else tensor


def placed(tensor: torch.Tensor, original: Any) -> Any:
    """Return `tensor` as `like` does, on the device of the original."""
    return like(tensor.to(original.device) if isinstance(original, torch.Tensor) else tensor, original)


def as_numpy(array: Any) -> np.ndarray:
    """Return an array, or a tensor on any device, as a NumPy array; bfloat16, which NumPy lacks, as float32."""
    if not isinstance(array, torch.Tensor):
        return np.asarray(array)
    host = bare(array).cpu()
    result: np.ndarray = (host.float() if host.dtype is torch.bfloat16 else host).numpy()
    return result


def check_same_kind(**arrays: Any) -> None:
    """Refuse a mixture of NumPy arrays and tensors, or tensors on different devices; None is ignored."""
    present = {name: array for name, array in arrays.items() if array is not None}
    (first, reference), *others = present.items()
    for name, array in others:
        if is_numpy(array) != is_numpy(reference):
            kinds = ["NumPy array" if is_numpy(value) else "torch tensor" for value in (reference, array)]
            raise ConvolithError(
                f"{first} is a {kinds[0]} but {name} is a {kinds[1]}; pass both of one kind, for example with "
                "torch.from_numpy(a) or t.numpy()"
            )
        devices = getattr(reference, "device", "cpu"), getattr(array, "device", "cpu")
        if str(devices[0]) != str(devices[1]):
            raise ConvolithError(
                f"{first} is on {devices[0]} but {name} is on {devices[1]}; move one of them with .to(device)"
            )


class Operands(NamedTuple):
    """Arrays of a correlation as tensors."""

    x: torch.Tensor
    k: torch.Tensor
    bias: torch.Tensor | None


def read_operands(x: Any, k: Any, bias: Any) -> Operands:
    """Return x, k and bias as tensors; refuse a mixture of NumPy and torch, or of devices."""
    tensors = Operands(as_tensor("x", x), as_tensor("k", k), None if bias is None else as_tensor("bias", bias))
    check_same_kind(x=x, k=k, bias=bias)
    return tensors


def check_bias(bias: torch.Tensor | None, out_channels: int, out_dtype: str) -> torch.Tensor | None:
    """Return `bias`, of shape (out_channels,), in the dtype of the result; an integer bias is converted."""
    if bias is None:
        return None
    check_bias_shape(bias, out_channels)
    name = dtype_name(bias.dtype)
    floating = bias.is_floating_point() or bias.is_complex()
    if floating and name != out_dtype:
        raise ConvolithError(f"bias has dtype {name} but the result has {out_dtype}; convert bias to {out_dtype}")
    return bias.to(getattr(torch, out_dtype))


def check_bias_shape(bias: torch.Tensor, out_channels: int) -> None:
    """Refuse a bias whose shape is not (out_channels,)."""
    if tuple(bias.shape) != (out_channels,):
        raise ConvolithError(f"bias has shape {tuple(bias.shape)}; expected ({out_channels},), one per output channel")


def flip(k: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
    """Return the kernel reversed along `axes` (unchanged if `axes` is empty)."""
    if not axes:
        return k
    signed = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}.get(k.dtype)
    if signed is not None:  # torch has no flip for these dtypes; a signed view moves the same bits
        return k.view(signed).flip(tuple(axes)).view(k.dtype)
    return k.flip(tuple(axes))

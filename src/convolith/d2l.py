"""Functions of the chapter "Multiple Input and Multiple Output Channels" of Dive into Deep Learning, by its names.

The notebook runs with one import changed: `from convolith import d2l` for `from d2l import torch as d2l`.
X and K are NumPy arrays, torch tensors (with gradients) or nested lists, of any dtype that `correlate` accepts.
"""

from __future__ import annotations

from typing import Any, overload

import numpy as np
import torch

from convolith.arrays import ArrayOrLists, as_tensor, check_same_kind
from convolith.correlation import correlate
from convolith.errors import ConvolithError

__all__ = ["corr2d", "corr2d_multi_in", "corr2d_multi_in_out", "corr2d_multi_in_out_1x1"]


@overload
def corr2d(X: torch.Tensor, K: torch.Tensor) -> torch.Tensor: ...
@overload
def corr2d(X: ArrayOrLists, K: ArrayOrLists) -> np.ndarray: ...


def corr2d(X: Any, K: Any) -> Any:
    """Cross-correlate one channel: X (h, w) with K (kh, kw) gives (h - kh + 1, w - kw + 1).

    Args:
        X, K: input and kernel: arrays, tensors or nested lists of any dtype that `correlate` accepts.

    Returns:
        (h - kh + 1, w - kw + 1), in the array type of X; tensors keep their gradients.

    Raises:
        ConvolithError: another number of axes, a K that is larger than X, an array together with a tensor.

    References:
        Zhang, Lipton, Li and Smola, "Dive into Deep Learning", chapter "Convolutional Neural Networks".

    Example:
        >>> from convolith import d2l
        >>> d2l.corr2d([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 8.0]], [[0.0, 1.0], [2.0, 3.0]])
        array([[19., 25.],
               [37., 43.]])
    """
    X, K = _read(X, K, "h, w", "kh, kw")
    return correlate(X[None], K[None, None])[0]


@overload
def corr2d_multi_in(X: torch.Tensor, K: torch.Tensor) -> torch.Tensor: ...
@overload
def corr2d_multi_in(X: ArrayOrLists, K: ArrayOrLists) -> np.ndarray: ...


def corr2d_multi_in(X: Any, K: Any) -> Any:
    """Cross-correlate and sum over the input channels: X (c_i, h, w) with K (c_i, kh, kw) gives one channel.

    Args:
        X, K: input and kernel: arrays, tensors or nested lists of any dtype that `correlate` accepts.

    Returns:
        (h - kh + 1, w - kw + 1), in the array type of X; tensors keep their gradients.

    Raises:
        ConvolithError: as for `corr2d`; different numbers of channels.

    References:
        Zhang, Lipton, Li and Smola, "Dive into Deep Learning", section "Multiple Input and Multiple Output Channels".

    Example:
        >>> import numpy as np
        >>> from convolith import d2l
        >>> X = np.array([[[0, 1, 2], [3, 4, 5], [6, 7, 8]], [[1, 2, 3], [4, 5, 6], [7, 8, 9]]])
        >>> K = np.array([[[0, 1], [2, 3]], [[1, 2], [3, 4]]])
        >>> d2l.corr2d_multi_in(X, K)
        array([[ 56,  72],
               [104, 120]])
    """
    X, K = _read(X, K, "c_i, h, w", "c_i, kh, kw")
    return correlate(X, K[None])[0]


@overload
def corr2d_multi_in_out(X: torch.Tensor, K: torch.Tensor) -> torch.Tensor: ...
@overload
def corr2d_multi_in_out(X: ArrayOrLists, K: ArrayOrLists) -> np.ndarray: ...


def corr2d_multi_in_out(X: Any, K: Any) -> Any:
    """Compute several output channels: X (c_i, h, w) with K (c_o, c_i, kh, kw) gives c_o channels.

    Args:
        X, K: input and kernel: arrays, tensors or nested lists of any dtype that `correlate` accepts.

    Returns:
        (c_o, h - kh + 1, w - kw + 1), in the array type of X; tensors keep their gradients.

    Raises:
        ConvolithError: as for `corr2d_multi_in`.

    References:
        Zhang, Lipton, Li and Smola, "Dive into Deep Learning", section "Multiple Input and Multiple Output Channels".

    Example:
        >>> import numpy as np
        >>> from convolith import d2l
        >>> d2l.corr2d_multi_in_out(np.ones((2, 4, 4)), np.ones((3, 2, 2, 2))).shape
        (3, 3, 3)
    """
    X, K = _read(X, K, "c_i, h, w", "c_o, c_i, kh, kw")
    return correlate(X, K)


@overload
def corr2d_multi_in_out_1x1(X: torch.Tensor, K: torch.Tensor) -> torch.Tensor: ...
@overload
def corr2d_multi_in_out_1x1(X: ArrayOrLists, K: ArrayOrLists) -> np.ndarray: ...


def corr2d_multi_in_out_1x1(X: Any, K: Any) -> Any:
    """Apply a 1x1 kernel as a matrix product: X (c_i, h, w) with K (c_o, c_i, 1, 1) gives (c_o, h, w).

    Args:
        X, K: input and kernel: arrays, tensors or nested lists of any dtype that `correlate` accepts.

    Returns:
        (c_o, h, w), in the array type of X; tensors keep their gradients.

    Raises:
        ConvolithError: as for `corr2d_multi_in`; a K of another spatial size than 1x1.

    References:
        Zhang, Lipton, Li and Smola, "Dive into Deep Learning", section "Multiple Input and Multiple Output Channels".

    Example:
        >>> import numpy as np
        >>> from convolith import d2l
        >>> d2l.corr2d_multi_in_out_1x1(np.ones((2, 4, 4)), np.ones((3, 2, 1, 1)))[0, 0]
        array([2., 2., 2., 2.])
    """
    X, K = _read(X, K, "c_i, h, w", "c_o, c_i, 1, 1")
    if tuple(K.shape[2:]) != (1, 1):
        raise ConvolithError(
            f"K has shape {tuple(K.shape)}; expected (c_o, {X.shape[0]}, 1, 1); for other kernels call "
            "corr2d_multi_in_out"
        )
    return correlate(X, K, engine="pointwise" if as_tensor("X", X).is_cpu else "auto")


def _array(name: str, value: Any) -> Any:
    """Return nested lists as an array, and any other value unchanged."""
    if not isinstance(value, list | tuple):
        return value
    try:
        return np.asarray(value)
    except ValueError:
        raise ConvolithError(f"{name} is a list whose rows have different lengths; make them equally long") from None


def _read(X: Any, K: Any, x_layout: str, k_layout: str) -> tuple[Any, Any]:
    """Return X and K as arrays of compatible shapes; error messages use the chapter's notation."""
    X, K = _array("X", X), _array("K", K)
    for name, array, layout in (("X", X, x_layout), ("K", K, k_layout)):
        shape = tuple(as_tensor(name, array).shape)
        if len(shape) != layout.count(",") + 1:
            raise ConvolithError(f"{name} has shape {shape}; expected ({layout}); add or remove axes")
    check_same_kind(X=X, K=K)
    if "c_i" in x_layout and X.shape[0] != K.shape[-3]:
        raise ConvolithError(
            f"X has {X.shape[0]} channels (shape {tuple(X.shape)}) but K has {K.shape[-3]} (shape {tuple(K.shape)}, "
            f"expected ({k_layout})); make them equal"
        )
    sizes = [tuple(array.shape[-2:]) for array in (X, K)]
    if any(k > n for n, k in zip(*sizes, strict=True)):
        swapped = all(k >= n for n, k in zip(*sizes, strict=True))
        remedy = "did you swap X and K?" if swapped else "use a smaller K"
        raise ConvolithError(f"K does not fit into X: X has size {sizes[0]} and K has size {sizes[1]}; {remedy}")
    return X, K

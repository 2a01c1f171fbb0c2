"""The functions of the chapter "Multiple Input and Multiple Output Channels" of Dive into Deep Learning, by its names.

Its notebook runs with one import changed: `from convolith import d2l` in place of `from d2l import torch as d2l`.
Arrays are NumPy's or torch's, of any dtype that `correlate` takes; torch's carry gradients.
"""

from __future__ import annotations

from typing import Any

from convolith.arrays import as_tensor, check_same_kind
from convolith.correlation import correlate
from convolith.errors import ConvolithError


def corr2d(X: Any, K: Any) -> Any:
    """Cross-correlate one channel: X (h, w) with K (kh, kw) gives (h - kh + 1, w - kw + 1).

    Example:
        >>> import numpy as np
        >>> corr2d(np.arange(9.0).reshape(3, 3), np.array([[0.0, 1.0], [2.0, 3.0]]))
        array([[19., 25.],
               [37., 43.]])
    """
    _check_axes(X=(X, "h, w"), K=(K, "kh, kw"))
    return correlate(X[None], K[None, None])[0]


def corr2d_multi_in(X: Any, K: Any) -> Any:
    """Several input channels: X (c_i, h, w) with K (c_i, kh, kw), summed over the channels, gives one channel.

    Example:
        >>> import numpy as np
        >>> X = np.array([[[0, 1, 2], [3, 4, 5], [6, 7, 8]], [[1, 2, 3], [4, 5, 6], [7, 8, 9]]])
        >>> K = np.array([[[0, 1], [2, 3]], [[1, 2], [3, 4]]])
        >>> corr2d_multi_in(X, K)
        array([[ 56,  72],
               [104, 120]])
    """
    _check_axes(X=(X, "c_i, h, w"), K=(K, "c_i, kh, kw"))
    return correlate(X, K[None])[0]


def corr2d_multi_in_out(X: Any, K: Any) -> Any:
    """Several input and output channels: X (c_i, h, w) with K (c_o, c_i, kh, kw) gives c_o channels.

    Example:
        >>> import numpy as np
        >>> corr2d_multi_in_out(np.ones((2, 4, 4)), np.ones((3, 2, 2, 2))).shape
        (3, 3, 3)
    """
    _check_axes(X=(X, "c_i, h, w"), K=(K, "c_o, c_i, kh, kw"))
    return correlate(X, K)


def corr2d_multi_in_out_1x1(X: Any, K: Any) -> Any:
    """A 1x1 kernel as the matrix product that it is: X (c_i, h, w) with K (c_o, c_i, 1, 1) gives (c_o, h, w).

    Example:
        >>> import numpy as np
        >>> corr2d_multi_in_out_1x1(np.ones((2, 4, 4)), np.ones((3, 2, 1, 1)))[0, 0]
        array([2., 2., 2., 2.])
    """
    _check_axes(X=(X, "c_i, h, w"), K=(K, "c_o, c_i, 1, 1"))
    c_i = X.shape[0]
    if tuple(K.shape[1:]) != (c_i, 1, 1):
        raise ConvolithError(f"K has shape {tuple(K.shape)}; expected (c_o, {c_i}, 1, 1), as X has {c_i} channels")
    return correlate(X, K, engine="pointwise")


def _check_axes(**arrays: tuple[Any, str]) -> None:
    """Refuse arrays of another kind or number of axes, in the chapter's letters."""
    for name, (array, layout) in arrays.items():
        shape = tuple(as_tensor(name, array).shape)
        if len(shape) != layout.count(",") + 1:
            raise ConvolithError(f"{name} has shape {shape}; expected ({layout})")
    check_same_kind(**{name: array for name, (array, _) in arrays.items()})

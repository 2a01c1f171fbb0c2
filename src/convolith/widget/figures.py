"""Figures for notebooks: `look` and `fold`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from convolith.errors import missing_extra
from convolith.geometry import Axes, Padding
from convolith.widget.addresses import fold_address, look_address

if TYPE_CHECKING:
    from convolith.widget.notebook import Figure

HEIGHT = 720
"""Default height of a figure in pixels."""


def look(
    x: Any,
    k: Any,
    bias: Any = None,
    *,
    stride: Axes = 1,
    padding: Padding = 0,
    dilation: Axes = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    flip: bool = False,
    height: int = HEIGHT,
) -> Figure:
    """Show a correlation cell by cell in a notebook: each output with the products that make it.

    The figure is the explorer, which computes in the browser: values can be changed in it, and its other views show the
    same layer backward. Its `address` holds what it shows, and `to_html` saves it.

    Args:
        x: (in_channels, *size), or with a first axis of one image, of one or two spatial axes.
        k: (out_channels, in_channels/groups, *kernel_size), or a `Conv`, which brings its own bias and options.
        bias, stride, padding, dilation, groups, padding_mode, flip: as in `correlate`.
        height: height of the figure in pixels.

    Returns:
        A figure, which a notebook shows if it is the last value of a cell. Its `address` is the state of the explorer,
        which follows what the reader does; `to_html(path)` writes a page that needs no notebook.

    Raises:
        ConvolithError: a layer that `correlate` refuses, that has complex or infinite values, or that is too large to
            be drawn: at most 6 input and output channels, 16 x 16 inputs or 32 on one axis, 7 taps along an axis,
            stride and dilation 4, padding 12 on each side, and 6,000 cells; anywidget is not installed.

    Example:
        >>> import numpy as np
        >>> import convolith as cl
        >>> figure = cl.widget.look(np.arange(9.0).reshape(1, 3, 3), np.ones((1, 1, 2, 2)))
        >>> "view=look" in figure.address, figure.height
        (True, 720)
    """
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    address = look_address(x, k, bias, **options, padding_mode=padding_mode, flip=flip)
    return _figure(address, "A convolution layer, cell by cell", height)


def fold(
    first: Any,
    second: Any,
    *,
    x: Any = None,
    arrangement: str = "row",
    relu: bool = False,
    skip: bool = False,
    height: int = HEIGHT,
) -> Figure:
    """Show in a notebook how two convolutions become one, and the border pixels where that one alone is wrong.

    Args:
        first, second: a `Conv`, or the weights of an unpadded one, of two spatial axes; kernel size, stride, dilation
            and padding are equal along rows and columns, and the padding on both sides.
        x: input of shape (in_channels, size, size), or None for random numbers.
        arrangement: `"row"` (the second reads the output of the first) or `"branches"` (both read x, and their
            outputs are added).
        relu: whether a ReLU lies between the two in a row; then they are not one convolution.
        skip: whether the input itself is added in branches.
        height: height of the figure in pixels.

    Returns:
        A figure, as `look` returns it.

    Raises:
        ConvolithError: convolutions that do not go together, are transposed or have complex or infinite values, or that
            are too large to be drawn: at most 3 channels, inputs of 3 x 3 to 10 x 10, 5 taps along an axis, stride and
            dilation 3, padding 6; anywidget is not installed.

    Example:
        >>> import numpy as np
        >>> import convolith as cl
        >>> figure = cl.widget.fold(np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)))
        >>> "view=fold" in figure.address, figure.height
        (True, 720)
    """
    address = fold_address(first, second, x=x, arrangement=arrangement, relu=relu, skip=skip)
    return _figure(address, "Two convolutions as one, cell by cell", height)


def _figure(address: str, title: str, height: int) -> Figure:
    if find_spec("anywidget") is None:
        raise missing_extra("anywidget", "notebook", "a figure in a notebook")
    from convolith.widget.notebook import Figure

    return Figure(address=address, title=title, height=height)

"""Nodes of a network: the few kinds of layers that have generated code, and islands, which torch computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import torch

from convolith.dtypes import dtype_name
from convolith.engines.elementwise import NO_TAIL, Expression, Tail, evaluate
from convolith.layer_steps.copies import Axis
from convolith.layer_steps.pools import Window
from convolith.layer_steps.resizes import Weights
from convolith.network.graph.trace import Op, replace_refs
from convolith.spec import ConvSpec

Shape = tuple[int, ...]
Fetch = Callable[[int], torch.Tensor]
"""Function that returns the tensor of a value."""


@dataclass
class Node:
    """Part of a network with inputs and outputs, which are numbers of values.

    Attributes:
        where: name of the node of the folded graph that it comes from.
        inputs: values that it reads.
        outputs: values that it makes.
    """

    where: str
    inputs: list[int]
    outputs: list[int]

    @property
    def kind(self) -> str:
        """Name of the kind of node, in reports."""
        return type(self).__name__.lower()


class Computed(Node, ABC):
    """Node with generated code and one output."""

    @abstractmethod
    def reference(self, fetch: Fetch) -> torch.Tensor:
        """Compute the output by torch's operators."""


@dataclass
class Operand:
    """Operand of an elementwise node: a value, or a constant, and how it is spread over the result.

    Attributes:
        kind: "x" (one number per element), "plane" (per image and channel) or "channel" (per channel).
        value: number of the value, or None for a constant.
        constant: the constant, with one number per channel.
    """

    kind: str
    value: int | None = None
    constant: torch.Tensor | None = None

    def tensor(self, fetch: Fetch, shape: Shape) -> torch.Tensor:
        """Return the operand as a tensor that broadcasts to a shape."""
        if self.value is not None:
            found = fetch(self.value)
            if self.kind == "x":
                return found.reshape(shape) if found.numel() == prod(shape) else found.expand(shape)
            return found.reshape(*shape[:2], *[1] * (len(shape) - 2))
        return self.constant.double().reshape(  # type: ignore[union-attr]  # it has a constant if it has no value
            1, -1, *[1] * (len(shape) - 2)
        )


@dataclass
class Map(Computed):
    """Elementwise expression. Leaf n of a kind is the n-th operand of that kind.

    Attributes:
        expression: see `engines.elementwise`.
        operands: its operands.
        shape: shape of the result.
    """

    expression: Expression = None
    operands: list[Operand] = field(default_factory=list)
    shape: Shape = ()

    def of_kind(self, kind: str) -> list[Operand]:
        """Return the operands of a kind, in the order of their numbers."""
        return [operand for operand in self.operands if operand.kind == kind]

    def reference(self, fetch: Fetch) -> torch.Tensor:
        """Compute the expression."""
        return evaluate(self.expression, lambda kind, n: self.of_kind(kind)[n].tensor(fetch, self.shape))


@dataclass
class Convolve(Computed):
    """Convolution or linear layer, with the elementwise work that follows it.

    Attributes:
        weight, bias: parameters, in the layout of a convolution.
        options: stride, padding, dilation, groups; transposed and output_padding.
        size: spatial size of x; (1,) for a linear layer.
        shape: shape of the result.
        tail: elementwise work, whose operand 0 are the sums and whose operand 1 is `residual`.
        residual: value that the tail adds, or None.
        constants: constants of the tail, with one number per channel.
    """

    weight: torch.Tensor = field(default_factory=lambda: torch.empty(0, device="cpu"))
    bias: torch.Tensor | None = None
    options: dict[str, Any] = field(default_factory=dict)
    size: Shape = ()
    shape: Shape = ()
    tail: Tail = NO_TAIL
    residual: int | None = None
    constants: tuple[torch.Tensor, ...] = ()

    def spec(self) -> ConvSpec:
        """Return the layer's spec."""
        groups, transposed = self.options.get("groups", 1), self.options.get("transposed", False)
        ins = self.weight.shape[0] if transposed else self.weight.shape[1] * groups
        outs = self.weight.shape[1] * groups if transposed else self.weight.shape[0]
        return ConvSpec(
            batch=self.shape[0],
            in_channels=ins,
            out_channels=outs,
            size=self.size,
            kernel_size=tuple(self.weight.shape[2:]),
            bias=self.bias is not None,
            dtype=dtype_name(self.weight.dtype),
            **self.options,
        )

    def reference(self, fetch: Fetch) -> torch.Tensor:
        """Compute the convolution and its tail by torch."""
        x = fetch(self.inputs[0])
        x = x.reshape(x.shape[0], -1, *self.size)
        options = {name: value for name, value in self.options.items() if name != "transposed"}
        pairs = options.get("padding", ())
        if not isinstance(pairs, str) and any(isinstance(pair, tuple) for pair in pairs):  # other numbers before, after
            around = [n for pair in reversed(pairs) for n in pair]
            x, options["padding"] = torch.nn.functional.pad(x, around), 0
        plain = (torch.conv1d, torch.conv2d, torch.conv3d)
        back = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)
        apply: Any = (back if self.options.get("transposed") else plain)[len(self.size) - 1]
        bias = None if self.bias is None else self.bias.to(x.dtype)
        y = apply(x, self.weight.to(x.dtype), bias, **options).reshape(self.shape)

        def leaf(kind: str, n: int) -> torch.Tensor:
            if kind == "channel":
                return self.constants[n].to(x.dtype).reshape(1, -1, *[1] * (y.ndim - 2))
            return fetch(self.residual).reshape(y.shape) if n and self.residual is not None else y

        return evaluate(self.tail.expression, leaf)


@dataclass
class Mean(Computed):
    """Mean over the positions of each plane.

    Attributes:
        shape: shape of x.
        out_shape: shape of the result.
    """

    shape: Shape = ()
    out_shape: Shape = ()

    def reference(self, fetch: Fetch) -> torch.Tensor:
        """Compute the mean."""
        return fetch(self.inputs[0]).reshape(self.shape).flatten(2).mean(2).reshape(self.out_shape)


ONE = Window((1,), (1,), (0,))


@dataclass
class Pool(Computed):
    """Maximum or mean over windows of a plane.

    Attributes:
        operation: "max" or "mean".
        window: kernel size, stride and padding on each axis.
        shape, out_shape: shapes of x and of the result, (N, channels, *size).
        scales: for means, one over the number of positions of each window along each axis.
        call: torch's operator, from x.
    """

    operation: str = ""
    window: Window = ONE
    shape: Shape = ()
    out_shape: Shape = ()
    scales: tuple[torch.Tensor, ...] | None = None
    call: Callable[[torch.Tensor], torch.Tensor] = torch.clone

    def reference(self, fetch: Fetch) -> torch.Tensor:
        """Pool by torch."""
        return self.call(fetch(self.inputs[0]).reshape(self.shape))


@dataclass
class Norm(Computed):
    """Norm over the channels of each position, over groups of channels, or over rows of contiguous numbers.

    Attributes:
        groups: number of groups; 0 to normalise each position over its channels.
        weight, bias: one number per channel, or per number of a row, each.
        epsilon: number that is added to the variance.
        shape: shape of x and of the result; of rows, (N, number of rows, length).
        rows: whether rows are normalised.
    """

    groups: int = 0
    weight: torch.Tensor = field(default_factory=lambda: torch.empty(0, device="cpu"))
    bias: torch.Tensor = field(default_factory=lambda: torch.empty(0, device="cpu"))
    epsilon: float = 0.0
    shape: Shape = ()
    rows: bool = False

    def reference(self, fetch: Fetch) -> torch.Tensor:
        """Normalise by torch."""
        x = fetch(self.inputs[0]).reshape(self.shape)
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        if self.rows:
            return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, self.epsilon)
        if self.groups:
            return torch.nn.functional.group_norm(x, self.groups, weight, bias, self.epsilon)
        last = x.movedim(1, -1)
        return torch.nn.functional.layer_norm(last, last.shape[-1:], weight, bias, self.epsilon).movedim(-1, 1)


@dataclass
class Softmax(Computed):
    """Softmax over the channels of each position, or over rows of contiguous numbers.

    Attributes:
        shape: shape of x and of the result; of rows, (N, number of rows, length).
        rows: whether sums are over rows.
        safe: whether the softmax of minus infinity alone is zero, not NaN.
    """

    shape: Shape = ()
    rows: bool = False
    safe: bool = False

    def reference(self, fetch: Fetch) -> torch.Tensor:
        """Compute the softmax by torch."""
        x, axis = fetch(self.inputs[0]).reshape(self.shape), -1 if self.rows else 1
        found = torch.softmax(x, axis)
        return torch.where((x == -torch.inf).all(axis, keepdim=True), 0.0, found) if self.safe else found


@dataclass
class Product(Computed):
    """Products of two batches of matrices.

    Attributes:
        shape: (N, rows of the first, columns of the first, columns of the second).
    """

    shape: Shape = ()

    def reference(self, fetch: Fetch) -> torch.Tensor:
        """Multiply by torch."""
        batch, rows, inner, columns = self.shape
        a, b = fetch(self.inputs[0]).reshape(batch, rows, inner), fetch(self.inputs[1]).reshape(batch, inner, columns)
        return torch.bmm(a, b)


@dataclass
class Resize(Computed):
    """Linear or cubic interpolation of images.

    Attributes:
        axes: interpolation along the height and along the width.
        shape, out_shape: shapes of x and of the result, with two spatial axes.
        call: torch's operator, from x.
    """

    axes: tuple[Weights, Weights] | None = None
    shape: Shape = ()
    out_shape: Shape = ()
    call: Callable[[torch.Tensor], torch.Tensor] = torch.clone

    def reference(self, fetch: Fetch) -> torch.Tensor:
        """Interpolate by torch."""
        return self.call(fetch(self.inputs[0]))


class Piece(NamedTuple):
    """Part of a copy.

    Attributes:
        axes: size, stride in an image of x, and stride in an image of the result, for each axis.
        source, goal: first element in an image of x, and of the result.
        constant: number that is stored instead of elements of x, whose strides are then 0.
    """

    axes: tuple[Axis, ...]
    source: int = 0
    goal: int = 0
    constant: float | None = None


@dataclass
class Copy(Computed):
    """Elements of each image in another order: permuted or mirrored axes, shuffled pixels, slices, padding.

    Attributes:
        pieces: parts of the copy, which cover the result.
        shape: shape of the result.
        mixes: whether elements move from image to image; all of them then count as one image.
    """

    pieces: tuple[Piece, ...] = ()
    shape: Shape = ()
    mixes: bool = False

    @classmethod
    def of(cls, where: str, x: int, y: int, axes: Sequence[Axis], shape: Shape, source: int = 0) -> Copy:
        """Return a copy of one piece."""
        return cls(where, [x], [y], (Piece(tuple(axes), source),), shape)

    def reference(self, fetch: Fetch) -> torch.Tensor:
        """Copy by torch."""
        x = fetch(self.inputs[0]).reshape(self.shape[0], -1)
        y = x.new_empty(self.shape[0], prod(self.shape[1:]))
        for piece in self.pieces:
            goal = _places(piece.goal, [(axis.size, axis.goal) for axis in piece.axes])
            source = _places(piece.source, [(axis.size, axis.source) for axis in piece.axes])
            y[:, goal] = x[:, source] if piece.constant is None else piece.constant
        return y.reshape(self.shape)


NO_PIECE = Piece(())


@dataclass
class Scatter(Computed):
    """Images of which a part is replaced; in place, where nothing else reads them.

    Attributes:
        inputs: the images, and what replaces the part unless it is a constant.
        piece: the part.
        shape: shape of the result.
    """

    piece: Piece = NO_PIECE
    shape: Shape = ()

    def reference(self, fetch: Fetch) -> torch.Tensor:
        """Copy and replace by torch; constants may have one image for all."""
        batch, piece = self.shape[0], self.piece
        y = fetch(self.inputs[0])[:batch].expand(self.shape).clone().reshape(batch, -1)
        goal = _places(piece.goal, [(axis.size, axis.goal) for axis in piece.axes])
        if piece.constant is not None:
            y[:, goal] = piece.constant
        else:
            source = _places(piece.source, [(axis.size, axis.source) for axis in piece.axes])
            y[:, goal] = fetch(self.inputs[1])[:batch].to(y.dtype).reshape(batch, -1)[:, source]
        return y.reshape(self.shape)


def _places(first: int, axes: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Return the places of all elements of axes with sizes and strides, in order."""
    found = torch.tensor([first], device="cpu")
    for size, stride in axes:
        found = (found[:, None] + torch.arange(size, device="cpu") * stride).flatten()
    return found


@dataclass
class Join(Computed):
    """Concatenation of images along their channels.

    Attributes:
        shapes: shapes of the inputs.
    """

    shapes: tuple[Shape, ...] = ()

    def reference(self, fetch: Fetch) -> torch.Tensor:
        """Concatenate by torch."""
        return torch.cat([fetch(n) for n in self.inputs], 1)


@dataclass
class Alias(Node):
    """The memory of its input, in other shapes, or channels of it.

    Attributes:
        offsets: first element of each output in an image of x.
        whole: whether the output has all elements of x.
    """

    offsets: tuple[int, ...] = (0,)
    whole: bool = True


@dataclass
class Island(Node):
    """Operator that torch computes.

    Attributes:
        op: the operator with its arguments.
        view: whether its results share the memory of an input.
    """

    op: Op
    view: bool = False

    @property
    def kind(self) -> str:
        """Name of the operator."""
        return self.op.name.removeprefix("aten.")

    def call(self, fetch: Fetch) -> Any:
        """Call the operator on tensors."""
        args, kwargs = replace_refs((self.op.args, self.op.kwargs), fetch)
        return self.op.call(*args, **kwargs)

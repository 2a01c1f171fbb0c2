"""Writes to views, as operators that make new tensors: a view's tensor with the part of it replaced."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

aten = torch.ops.aten
IN_ORDER = (
    *("view", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze", "flatten", "alias", "detach"),
    "contiguous",
)
"""Views that keep all elements in their order."""
BY_SHAPE = (
    *("zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty"),
    *("zero", "fill"),
)
"""Operators whose result depends on no value of the tensor that they are called on."""


class View(NamedTuple):
    """How a tensor was made as a view of another one.

    Attributes:
        parent: the other tensor.
        call, args, kwargs: the operator and its arguments.
        number: number of the view among the operator's results.
    """

    parent: torch.Tensor
    call: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    number: int

    @property
    def name(self) -> str:
        """Name of the operator without its overload."""
        return short_name(str(self.call))

    def again(self, view: torch.Tensor) -> Any:
        """Return the operator's result, with `view` for the view itself."""
        result = self.call(*self.args, **self.kwargs)
        if isinstance(result, torch.Tensor):
            return view
        return [view if number == self.number else part for number, part in enumerate(result)]

    def replaced(self, part: torch.Tensor) -> tuple[Any, tuple[Any, ...]] | None:
        """Return the operator, and its arguments, that gives the parent with the view replaced; None if there is none.

        Args:
            part: what replaces the view.
        """
        parent, rest, name = self.parent, self.args[1:], self.name
        if name in IN_ORDER and part.numel() == parent.numel():
            return aten.view.default, (part, list(parent.shape))
        if name in ("slice", "select"):
            return (aten.slice_scatter if name == "slice" else aten.select_scatter).default, (parent, part, *rest)
        if name in ("permute", "transpose", "t"):
            order = list(self.call(torch.empty(parent.shape, device="meta"), *rest).stride())
            kept = torch.empty(parent.shape, device="meta").stride()
            if len(set(kept)) < len(kept):  # axes of size 1, whose order strides do not show
                return None
            return aten.permute.default, (part, [order.index(stride) for stride in kept])
        if name in ("split", "split_with_sizes", "unbind"):
            at = 0 if name == "unbind" else 1
            axis = rest[at] if len(rest) > at else self.kwargs.get("dim", 0)
            if name == "unbind":
                return aten.select_scatter.default, (parent, part, axis, self.number)
            sizes = rest[0] if name == "split_with_sizes" else [rest[0]] * self.number
            first = sum(sizes[: self.number])
            return aten.slice_scatter.default, (parent, part, axis, first, first + part.shape[axis])
        return None


def short_name(operator: str) -> str:
    """Return the name of an operator of torch without its namespace and its overload; "" for all else."""
    return operator.split(".")[1] if operator.startswith("aten.") else ""

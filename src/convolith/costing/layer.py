"""The cost of one layer: operations and bytes, forward and backward, and what happens to them when it is scaled."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from convolith.costing.scaling import Scaling, factor_of, times
from convolith.errors import ConvolithError
from convolith.geometry import Pairs
from convolith.report.table import Table
from convolith.spec import ConvSpec
from convolith.work import ALL, Backward, Count, ForwardMemory, Memory, Work, layer_work

SCALABLE = ("batch", "in_channels", "out_channels", "groups", "size", "kernel_size", "stride", "padding", "dilation")


@dataclass(frozen=True)
class Cost:
    """The work of a spec under one convention, with the gradients (of input, weights and bias) that were asked for."""

    spec: ConvSpec
    convention: str
    work: Work
    gradients: tuple[bool, bool, bool] = ALL

    @property
    def forward(self) -> Count:
        """Multiplications, additions and bytes of the forward pass."""
        return self.work.forward

    @property
    def backward(self) -> Backward:
        """The backward pass: `input_gradient`, `weight_gradient`, `bias_gradient`, and their sums."""
        return self.work.backward

    @property
    def memory(self) -> Memory:
        """Bytes held forward and backward, by term."""
        return self.work.memory

    @property
    def output(self) -> str:
        """The spatial size of the result."""
        return "x".join(map(str, self.spec.output_size))

    def scaled(self, **factors: float) -> Scaling:
        """What if: multiply dimensions of the layer by factors.

        Args:
            factors: of batch, in_channels, out_channels, groups, size, kernel_size, stride, padding or dilation; where
                one has a number per axis, each is multiplied. Every product must be a whole number.

        Returns:
            A `Scaling`: the cost before and after, and the factor of each count.

        Raises:
            ConvolithError: a name that is not a dimension, a product that is not whole, a layer that cannot be.

        Example:
            >>> from convolith import cost
            >>> layer = ConvSpec(in_channels=64, out_channels=64, size=(56, 56), kernel_size=3, padding=1)
            >>> cost(layer).scaled(in_channels=2, out_channels=2).factor
            4.0
            >>> cost(layer).scaled(padding=2).after.spec.output_size
            (58, 58)
        """
        changes = {name: _scaled_value(name, getattr(self.spec, name, None), by) for name, by in factors.items()}
        after = layer_cost(replace(self.spec, **changes), convention=self.convention, gradients=self.gradients)
        return Scaling(self, after, dict(factors))

    def counts(self) -> dict[str, int]:
        """The totals that a scaling compares, by name."""
        return {
            "forward multiplications": self.forward.multiplications,
            "forward additions": self.forward.additions,
            "backward multiplications": self.backward.multiplications,
            "backward additions": self.backward.additions,
            "forward memory, bytes": self.memory.forward.bytes,
            "backward memory, bytes": self.memory.backward.bytes,
        }

    def as_dict(self) -> dict[str, Any]:
        """Every number, nested by pass and term, for JSON."""
        passes = {"forward": self.forward, "backward": self.backward.total}
        return {
            "convention": self.convention,
            "bias_counted": self.spec.bias,
            "input_shape": self.spec.input_shape,
            "output_shape": self.spec.output_shape,
            **{name: asdict(count) for name, count in passes.items()},
            "backward_parts": asdict(self.backward),
            "memory": {
                "forward": {**_terms(self.memory.forward), "bytes": self.memory.forward.bytes},
                "backward": {**asdict(self.memory.backward), "bytes": self.memory.backward.bytes},
            },
        }

    def tables(self) -> list[Table]:
        """Operations and memory as tables for a report."""
        parts = asdict(self.backward)
        passes = {"forward": self.forward} | {name: getattr(self.backward, name) for name in parts}
        passes["backward, total"] = self.backward.total
        zeros = "with" if self.convention == "dense" else "without"
        bias = "its bias counted" if self.spec.bias else "no bias"
        operations = [
            {
                "pass": name.replace("_", " "),
                "multiplications": c.multiplications,
                "additions": c.additions,
                "bytes moved": c.bytes,
            }
            for name, c in passes.items()
        ]
        memory = [
            {"pass": name, "term": term.replace("_", " "), "bytes": amount}
            for name, terms, total in (
                ("forward", _terms(self.memory.forward), self.memory.forward.bytes),
                ("backward", asdict(self.memory.backward), self.memory.backward.bytes),
            )
            for term, amount in {**terms, "total": total}.items()
        ]
        shape = " x ".join(map(str, self.spec.output_shape))
        return [
            Table(f"Operations ({self.convention}: {zeros} the padding's zeros; {bias}); output {shape}", operations),
            Table("Memory held", memory),
        ]

    def __str__(self) -> str:
        return "\n\n".join(table.text() for table in self.tables())


def _terms(memory: ForwardMemory) -> dict[str, int]:
    """Of a layer, whatever engine computes it; what engines need is in their plan."""
    return {"input": memory.input, "parameters": memory.parameters, "output": memory.output}


def layer_cost(spec: ConvSpec, *, convention: str, gradients: tuple[bool, bool, bool]) -> Cost:
    """The cost of one layer in closed form."""
    return Cost(spec, convention, layer_work(spec, convention, gradients=gradients), gradients)


def _scaled_value(name: str, value: int | tuple[int, ...] | Pairs | None, by: float) -> Any:
    """A dimension, or each number of it, times a factor."""
    if name not in SCALABLE or value is None:
        raise ConvolithError(f"{name} is not a dimension of a layer; expected one of {', '.join(SCALABLE)}")
    if isinstance(value, tuple):
        return tuple(_scaled_value(name, entry, by) for entry in value)
    return times(name, value, factor_of(name, by), least=0)

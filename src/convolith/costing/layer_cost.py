"""The cost of one layer: operations and bytes, forward and backward, and how they change when it is scaled."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

from convolith.costing.growth.laws import Law, law_of
from convolith.costing.growth.scaling import Scaling, factor_of, times
from convolith.errors import ConvolithError
from convolith.geometry import Pairs
from convolith.report.table import Table
from convolith.spec import ConvSpec
from convolith.work import ALL, Backward, Count, ForwardMemory, Memory, Work, layer_work

SCALABLE = ("batch", "in_channels", "out_channels", "groups", "size", "kernel_size", "stride", "padding", "dilation")
CHANNELS = "channels"
"""Name of input and output channels together in `scaled`; it includes the groups of a depthwise layer."""


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer; `cost` returns it. Print it for tables.

    Attributes:
        spec: geometry of the layer.
        convention: `"dense"` or `"effective"`, as given to `cost`.
        work: operations and bytes of both passes, which `forward`, `backward` and `memory` give too.
        gradients: whether the gradients of the input, of the weights and of the bias are counted.

    Example:
        >>> import convolith as cl
        >>> layer = cl.ConvSpec(in_channels=3, out_channels=8, size=(10, 10), kernel_size=3)
        >>> counted = cl.cost(layer)
        >>> counted.forward.macs, counted.backward.weight_gradient.macs, counted.memory.forward.output
        (13824, 13824, 2048)
    """

    spec: ConvSpec
    convention: str
    work: Work
    gradients: tuple[bool, bool, bool] = ALL

    def __repr__(self) -> str:
        macs = f"forward {self.forward.macs:,} MACs, backward {self.backward.total.macs:,} MACs"
        return f"LayerCost({self.spec.input_shape} -> {self.spec.output_shape}, {macs}; print it for the table)"

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
        """Spatial size of the result, as text."""
        return "x".join(map(str, self.spec.output_size))

    def scaled(self, **factors: float) -> Scaling:
        """Compute the cost of the layer with some of its dimensions multiplied by factors.

        Args:
            factors: factors of `batch`, `in_channels`, `out_channels`, `groups`, `size`, `kernel_size`, `stride`,
                `padding` and `dilation`, each along every axis; `channels` stands for input and output channels (and
                the groups of a depthwise layer). Every product must be a whole number.

        Returns:
            A `Scaling`: the cost before and after, and the factor of each count.

        Raises:
            ConvolithError: an unknown dimension, a product that is not a whole number, an invalid layer.

        Example:
            >>> import convolith as cl
            >>> layer = cl.cost(cl.ConvSpec(in_channels=64, out_channels=64, size=(56, 56), kernel_size=3, padding=1))
            >>> layer.scaled(in_channels=2, out_channels=2).factor, layer.scaled(channels=2).factor
            (4.0, 4.0)
            >>> layer.scaled(padding=2).after.spec.output_size
            (58, 58)
        """
        each: dict[str, float] = {}
        for name, by in factors.items():
            each |= dict.fromkeys(_both_channels(self.spec), by) if name == CHANNELS else {name: by}
        changes = {name: _scaled_value(name, getattr(self.spec, name, None), by) for name, by in each.items()}
        after = layer_cost(replace(self.spec, **changes), convention=self.convention, gradients=self.gradients)
        return Scaling(self, after, dict(factors))

    def law(self, *of: str) -> Law:
        """Return closed forms of the counts (sympy expressions), checked by counting at other values.

        Args:
            of: names of the variables, by default "batch" and "size". "batch" is N; "size" is L, or H and W, or D, H
                and W; "channels" is m, a factor of the input and output channels; "kernel_size" is k, a factor of the
                kernel size, an odd number, with which the padding grows, so that the output keeps its size.

        Returns:
            A `Law`.

        Raises:
            ConvolithError: unknown names, counts that are not polynomials.

        Example:
            >>> import convolith as cl
            >>> layer = cl.cost(cl.ConvSpec(in_channels=64, out_channels=64, size=(56, 56), kernel_size=3, padding=1))
            >>> layer.law().expressions["forward multiplications"]
            36864*H*N*W
            >>> layer.law("channels").expressions["forward multiplications"]
            115605504*m**2
        """
        spec = self.spec
        steps = tuple(Fraction(1, step) if spec.transposed else Fraction(step) for step in spec.stride)
        return law_of(self._counts_at, spec.input_shape, [steps], of or ("batch", "size"))

    def _counts_at(self, shape: tuple[int, ...], times: tuple[Fraction, Fraction]) -> dict[str, int]:
        """Return the counts at another batch and size, with channels and kernel size multiplied by two factors."""
        channels, kernel_size = times
        spec = replace(self.spec, batch=shape[0], size=shape[2:])
        names = _both_channels(spec) if channels != 1 else ()
        changes: dict[str, Any] = {name: _scaled_value(name, getattr(spec, name), channels) for name in names}
        if kernel_size != 1:
            changes |= _grown_kernel(spec, kernel_size)
        cost = layer_cost(replace(spec, **changes), convention=self.convention, gradients=self.gradients)
        return cost.counts() | {"forward macs": cost.forward.macs, "backward macs": cost.backward.total.macs}

    def counts(self) -> dict[str, int]:
        """Return the totals that a scaling compares, by name."""
        return {
            "forward multiplications": self.forward.multiplications,
            "forward additions": self.forward.additions,
            "backward multiplications": self.backward.multiplications,
            "backward additions": self.backward.additions,
            "forward memory, bytes": self.memory.forward.bytes,
            "backward memory, bytes": self.memory.backward.bytes,
        }

    def as_dict(self) -> dict[str, Any]:
        """Return every number, nested by pass and term, for JSON."""
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
        """Return operations and memory as tables for a report."""
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
    """Return the terms that do not depend on the engine; the memory of an engine is in its plan."""
    return {"input": memory.input, "parameters": memory.parameters, "output": memory.output}


def layer_cost(spec: ConvSpec, *, convention: str, gradients: tuple[bool, bool, bool]) -> LayerCost:
    """Compute the cost of one layer in closed form."""
    return LayerCost(spec, convention, layer_work(spec, convention, gradients=gradients), gradients)


def _both_channels(spec: ConvSpec) -> tuple[str, ...]:
    """Return the dimensions that grow with the channels: a depthwise layer's groups too, so that it stays depthwise."""
    both = ("in_channels", "out_channels")
    return (*both, "groups") if 1 < spec.groups == spec.in_channels else both


def _grown_kernel(spec: ConvSpec, by: Fraction) -> dict[str, Any]:
    """Multiply the taps along axes that have more than one, and enlarge the padding so that the output size stays."""
    taps = tuple(n if n == 1 else times("kernel_size", n, by) for n in spec.kernel_size)
    more = [(new - old) * d for new, old, d in zip(taps, spec.kernel_size, spec.dilation, strict=True)]
    padding = tuple((a + n // 2, b + n - n // 2) for (a, b), n in zip(spec.padding, more, strict=True))
    return {"kernel_size": taps, "padding": padding}


def _scaled_value(name: str, value: int | tuple[int, ...] | Pairs | None, by: float | Fraction) -> Any:
    """Return a dimension, or each of its entries, times a factor."""
    if name not in SCALABLE or value is None:
        expected = ", ".join((*SCALABLE, CHANNELS))
        raise ConvolithError(f"{name} is not a dimension of a layer; expected one of {expected}")
    if isinstance(value, tuple):
        return tuple(_scaled_value(name, entry, by) for entry in value)
    return times(name, value, factor_of(name, by), least=0)

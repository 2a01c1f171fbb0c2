"""The cost of a model: totals, and the tree of its modules with the counts of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import cached_property
from math import inf
from typing import Any

from convolith.costing.counting import ModuleCounts
from convolith.costing.growth.laws import Law, law_of
from convolith.costing.growth.scaling import Scaling, factor_of, times
from convolith.costing.peak import Peak, largest_batch
from convolith.costing.receptive_field import ReceptiveField
from convolith.errors import ConvolithError, check_option
from convolith.report.html_page import fragment
from convolith.report.table import Table
from convolith.work import Backward, Count, Memory, Work

AXES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
SORTS = ("order", "macs", "multiplications", "additions", "backward", "parameters")
"""Keys by which the rows of modules can be sorted, largest first; "order" is the order of the modules in the model."""


@dataclass(frozen=True)
class ModuleRow:
    """Counts of a module, including its submodules.

    Attributes:
        name: name of the module in the model; empty for the model itself.
        kind: name of its class.
        depth: number of modules around it: 0 for the model itself.
        parameters: number of elements of its parameters; shared parameters count once.
        forward, backward: operations and bytes moved by the two passes.
        seconds: lower bound on the time of the forward pass, in seconds, at this machine's measured limits.
        field: receptive field of a pixel of its output; None where it is not known.
    """

    name: str
    kind: str
    depth: int
    parameters: int
    forward: Count
    backward: Backward
    seconds: float
    field: ReceptiveField | None

    @property
    def intensity(self) -> float | None:
        """Multiply-accumulates per byte moved in the forward pass, or None if no byte is moved."""
        return self.forward.macs / self.forward.bytes if self.forward.bytes else None


@dataclass(frozen=True, eq=False)
class ModelCost:
    """Cost of a model: counts by pass and module, and bytes of memory; `cost` returns it. Print it for tables.

    Attributes:
        model: class name of the model.
        convention: "dense" or "effective", for convolutions.
        training: whether the model was counted in training mode.
        parameters: number of elements of the model's parameters; shared parameters count once.
        output_shapes: shapes of the outputs.
        modules: counts of each module without its submodules, by module name ("" is the model).
        memory: bytes of inputs, parameters (with buffers) and outputs; of gradients, and of tensors saved by autograd.
        rows: counts of every module with its submodules, in order; a module with several names has one row for each.
        strides: cumulative strides of all windows, in pixels of the input.
        peak: peak memory of a training step, if an optimizer was given, else None.
        peak_at: function that returns the peak at another batch size, if an optimizer was given, else None.
        input_shape: shape of the only input, if it was given by shape; empty otherwise.
        inputs: shapes of the input tensors.
        differentiated: whether a backward pass was counted.
        count_at: function that returns the cost at another batch and size, if the input was given by one shape, else
            None.

    Example:
        >>> import torch
        >>> import convolith as cl
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> counted = cl.cost(model, input_shape=(1, 3, 10, 10))
        >>> counted.parameters, counted.forward.macs, [row.name for row in counted.rows]
        (224, 13824, ['', '0', '1'])
    """

    model: str
    convention: str
    training: bool
    parameters: int
    output_shapes: tuple[tuple[int, ...], ...]
    modules: Mapping[str, ModuleCounts]
    memory: Memory
    rows: tuple[ModuleRow, ...]
    strides: frozenset[tuple[Fraction, ...]] = frozenset()
    peak: Peak | None = None
    peak_at: Callable[[int], Peak] | None = field(default=None, repr=False)
    input_shape: tuple[int, ...] = ()
    inputs: tuple[tuple[int, ...], ...] = ()
    differentiated: bool = True
    count_at: Callable[..., ModelCost] | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        macs = f"forward {self.forward.macs:,} MACs, backward {self.backward.total.macs:,} MACs"
        return f"ModelCost({self.model}, {macs}, {self.parameters:,} parameters; print it for the table)"

    def law(self, *of: str) -> Law:
        """Return closed forms of the counts (sympy expressions), checked by counting at other values.

        If other counts are not polynomials, the law holds those of macs alone.

        Args:
            of: names of the variables, by default "batch" and "size". "batch" is N; "size" is L, or H and W, or D, H
                and W; "channels" and "kernel_size" are the factors m and k (an odd number), as in `scaled`.

        Returns:
            A `Law`.

        Raises:
            ConvolithError: several inputs, or one that was not given by shape (N, channels, *size); counts that are not
                polynomials; modules whose growth is not known.

        Example:
            >>> import torch
            >>> import convolith as cl
            >>> layers = [torch.nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.nn.Conv2d(8, 2, 1, bias=False)]
            >>> counted = cl.cost(torch.nn.Sequential(*layers), input_shape=(1, 3, 32, 32))
            >>> law = counted.law()
            >>> law.expressions["forward macs"], law.at(4, (64, 48))["forward macs"]
            (232*H*N*W, 2850816)
            >>> counted.law("channels", "kernel_size").expressions["forward macs"]
            221184*k**2*m + 16384*m
        """
        if self.count_at is None or not 3 <= len(self.input_shape) <= 5:
            raise ConvolithError(
                "a law is of one input that was given by its shape, (N, channels, *size); call cost with one "
                "input_shape"
            )
        count_at = self.count_at
        return law_of(
            lambda shape, times: count_at(shape, times).counts(),
            self.input_shape,
            self.strides,
            of or ("batch", "size"),
        )

    def scaled(self, **factors: float) -> Scaling:
        """Count the model again with the input's batch or size, or its own channels or kernels, multiplied by factors.

        The channels of the model's input and output are not scaled: the first layer grows by its output channels only,
        the last one by its input channels. Depthwise convolutions stay depthwise. Kernels of one tap keep their size;
        padding grows with the other kernels, so that outputs keep their size.

        Args:
            factors: factors of `batch`, of `size` (every axis) or of one axis (`length`; `height`, `width`; `depth`),
                of `channels` and of `kernel_size` (an odd number).

        Returns:
            A `Scaling`: the cost before and after, and the factor of each count.

        Raises:
            ConvolithError: unknown names, products that are not whole numbers, inputs that were not given by one shape;
                modules whose growth is not known.

        Example:
            >>> import torch
            >>> import convolith as cl
            >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 2, 3, padding=1))
            >>> counted = cl.cost(model, input_shape=(1, 3, 32, 32))
            >>> counted.scaled(size=2).factors["forward macs"], counted.scaled(channels=2).factors["forward macs"]
            (4.0, 2.0)
        """
        if self.count_at is None:
            raise ConvolithError("scaled is of one input that was given by its shape; call cost with one input_shape")
        axes = AXES.get(len(self.input_shape) - 2, ())
        names = {"batch": (0,), "size": tuple(range(2, len(self.input_shape)))}
        names |= {name: (2 + axis,) for axis, name in enumerate(axes)}
        shape = list(self.input_shape)
        growth = {"channels": Fraction(1), "kernel_size": Fraction(1)}
        for name, factor in factors.items():
            if name not in names and name not in growth:
                raise ConvolithError(f"{name} is scaled; expected {', '.join((*names, *growth))}; leave {name} out")
            by = factor_of(name, factor)
            if name in growth:
                growth[name] = by
            for axis in names.get(name, ()):
                shape[axis] = times(name, shape[axis], by)
        return Scaling(self, self.count_at(tuple(shape), tuple(growth.values())), dict(factors))

    @property
    def output(self) -> str:
        """Shapes of the outputs, as text."""
        return " and ".join("x".join(map(str, shape)) for shape in self.output_shapes)

    def counts(self) -> dict[str, int]:
        """Return the counts that laws and scalings are computed for, by name."""
        return {
            "parameters": self.parameters,
            "forward macs": self.forward.macs,
            "forward multiplications": self.forward.multiplications,
            "forward additions": self.forward.additions,
            "backward macs": self.backward.macs,
            "saved activations, bytes": self.memory.backward.saved_activations,
        }

    def largest_batch(self, memory: float) -> int:
        """Return the largest batch size whose training step is predicted to fit into memory.

        Args:
            memory: bytes that a step may take, as `peak` counts them.

        Returns:
            Number of images; 0 if one image needs more (or two, where a norm cannot be trained on one).

        Raises:
            ConvolithError: no optimizer was given, inputs were not given by shape, or memory is not a finite number of
                bytes.

        Example:
            >>> import torch
            >>> import convolith as cl
            >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
            >>> counted = cl.cost(model, input_shape=(1, 3, 64, 64), optimizer="sgd")
            >>> counted.largest_batch(2 * counted.peak_at(8).bytes) >= 8
            True
        """
        if not isinstance(memory, int | float) or not 0 <= memory < inf:
            raise ConvolithError(f"memory is {memory!r}; expected a finite number of bytes, 0 or more")
        if self.peak_at is None:
            raise ConvolithError("largest_batch needs the peak of a training step; pass optimizer= to cost")
        return largest_batch(lambda batch: self.peak_at(batch).bytes if self.peak_at else 0, memory)

    @cached_property
    def work(self) -> Work:
        """Operations and memory of the whole model."""
        total = Work(memory=self.memory)
        for tally in self.modules.values():
            total = total + Work(tally.forward, tally.backward)
        return total

    @property
    def forward(self) -> Count:
        """Multiplications, additions, other operations and bytes moved of the forward pass."""
        return self.work.forward

    @property
    def backward(self) -> Backward:
        """Counts of the backward pass: convolutions by part, all other operators in `rest`, and their sums."""
        return self.work.backward

    @cached_property
    def unknown(self) -> dict[str, int]:
        """Number of calls of each operator without a rule, by name; if there are any, totals are lower bounds."""
        total: dict[str, int] = {}
        for tally in self.modules.values():
            for name, calls in tally.unknown.items():
                total[name] = total.get(name, 0) + calls
        return total

    @property
    def coverage(self) -> float:
        """Share of operator calls that have a rule, at most 1."""
        known = sum(tally.calls for tally in self.modules.values())
        calls = known + sum(self.unknown.values())
        return known / calls if calls else 1.0

    def as_dict(self) -> dict[str, Any]:
        """Return every number, for JSON."""
        names = ("model", "convention", "training", "parameters", "output_shapes", "unknown", "coverage")
        return {
            **{name: getattr(self, name) for name in names},
            "lower_bound": bool(self.unknown),
            "forward": _counted(self.forward),
            "backward": _counted(self.backward.total),
            "backward_parts": asdict(self.backward),
            "memory": self._terms(),
            "peak": None if self.peak is None else _without_moments(self.peak),
            "modules": [
                {
                    "name": row.name,
                    "kind": row.kind,
                    "parameters": row.parameters,
                    "seconds_at_least": row.seconds,
                    "receptive_field": None if row.field is None else str(row.field),
                    "forward": _counted(row.forward),
                    "backward": _counted(row.backward.total),
                }
                for row in self.rows
            ],
        }

    def table(self, *, depth: int | None = 2, sort: str = "order", top: int | None = None, full: bool = False) -> Table:
        """Return the tree of modules, each including its submodules, as a table.

        Args:
            depth: deepest level of modules to show; None for all.
            sort: order of the rows: "order" (as in the model), or, largest first, "macs", "multiplications",
                "additions", "backward" (macs) or "parameters".
            top: number of rows to show; None for all.
            full: whether to show the full names of modules.

        Returns:
            A table, which can be printed.

        Raises:
            ConvolithError: an unknown order, a negative depth, a top below one.
        """
        check_option("sort", sort, SORTS)
        for name, value in (("depth", depth), ("top", top)):
            if value is not None and (not isinstance(value, int) or value < (name == "top")):
                raise ConvolithError(
                    f"{name} is {value!r}; expected a whole number, {int(name == 'top')} or more, or None"
                )
        shown = [row for row in self.rows if depth is None or row.depth <= depth]
        if sort != "order":
            shown.sort(key=lambda row: -_sortable(row, sort))
        rows = [self._cells(row, indented=sort == "order" and not full) for row in shown[:top]]
        return Table(f"Modules ({self.convention}; each with what is inside it; field: pixels seen by stride)", rows)

    def tables(self, **shown: Any) -> list[Table]:
        """Return tables of totals, memory and modules.

        Args:
            shown: arguments of `table`.
        """
        return list(self.sections(**shown).values())

    def sections(self, **shown: Any) -> dict[str, Table]:
        """Return the tables by name: operations, memory, peak (if predicted), modules, unknown (operators, if any).

        Args:
            shown: arguments of `table`.
        """
        zeros = "with" if self.convention == "dense" else "without"
        mode = "training" if self.training else "evaluation"
        bound = "" if not self.unknown else f"; LOWER BOUNDS: {self.coverage:.1%} of the calls have a rule"
        passes = {"forward": self.forward}
        if self.backward != Backward():
            parts = {
                f"backward, {name.replace('_', ' ')}": getattr(self.backward, name) for name in asdict(self.backward)
            }
            passes |= parts | {"backward, total": self.backward.total}
        operations = [{"pass": name, **_words(count)} for name, count in passes.items()]
        memory = [
            {"pass": name, "term": "total" if term == "bytes" else term.replace("_", " "), "bytes": amount}
            for name, terms in self._terms().items()
            for term, amount in terms.items()
        ]
        title = f"{self.model} ({self.convention}: {zeros} the padding's zeros; in {mode}){bound}"
        tables = {"operations": Table(title, operations), "memory": Table("Memory held", memory)}
        if self.peak:
            tables["peak"] = Table("Most memory of a training step", [self.peak.cells()])
        tables["modules"] = self.table(**shown)
        if self.unknown:
            rows = [{"operator": name, "calls": calls} for name, calls in sorted(self.unknown.items())]
            tables["unknown"] = Table("Operators without a rule, which are not counted", rows)
        return tables

    def _terms(self) -> dict[str, dict[str, int]]:
        """Return bytes by pass and term; the workspace of kernels is not known for a model."""
        forward, backward = self.memory.forward, self.memory.backward
        known = {name: getattr(forward, name) for name in ("input", "parameters", "output")}
        return {
            "forward": {**known, "bytes": forward.bytes},
            "backward": {**asdict(backward), "bytes": backward.bytes},
        }

    def _cells(self, row: ModuleRow, *, indented: bool) -> dict[str, Any]:
        name = row.name.rpartition(".")[2] or self.model
        share = row.forward.macs / self.forward.macs if self.forward.macs else 0.0
        return {
            "module": f"{'  ' * row.depth}{name}" if indented else row.name or self.model,
            "kind": row.kind,
            "parameters": row.parameters,
            "macs": row.forward.macs,
            "share": f"{share:.1%}",
            "multiplications": row.forward.multiplications,
            "additions": row.forward.additions,
            "others": row.forward.others,
            "backward macs": row.backward.total.macs,
            "macs / byte": row.intensity,
            "ms at least": 1e3 * row.seconds,
            "field": None if row.field is None else str(row.field),
        }

    def __str__(self) -> str:
        return "\n\n".join(table.text() for table in self.tables())

    def _repr_html_(self) -> str:
        """Return the tables as HTML for notebooks."""
        return fragment(self.tables())


def _sortable(row: ModuleRow, sort: str) -> int:
    if sort == "backward":
        return row.backward.total.macs
    return row.parameters if sort == "parameters" else int(getattr(row.forward, sort))


def _without_moments(peak: Peak) -> dict[str, Any]:
    return {name: value for name, value in vars(peak).items() if name != "moments"}


def _counted(count: Count) -> dict[str, int]:
    return {**asdict(count), "macs": count.macs}


def _words(count: Count) -> dict[str, int]:
    return {
        "macs": count.macs,
        "multiplications": count.multiplications,
        "additions": count.additions,
        "others": count.others,
        "bytes moved": count.bytes,
    }

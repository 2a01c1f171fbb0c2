"""Report of an optimised network: each step with its engine, its time and its error, and what torch still computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from convolith.folding import FoldReport
from convolith.network.execution.compiled import Compiled
from convolith.network.graph.nodes import Convolve, Join, Map, Node
from convolith.report.html_page import fragment
from convolith.report.table import Table


@dataclass(frozen=True)
class StepReport:
    """One step of a program, or an operator that torch computes.

    Attributes:
        where: name of the node of the folded model.
        kind: kind of step, such as "convolve", or the name of the operator.
        engine: name of the engine or of the generated code that computes it; "torch" if torch computes it.
        tail: elementwise operations that are computed together with it, such as an activation.
        shape: shape of the result.
        seconds: time of the step in the network, in seconds; None if it was not measured.
        error: largest difference from torch's operator in float64, relative to the largest result.
    """

    where: str
    kind: str
    engine: str
    tail: str
    shape: tuple[int, ...]
    seconds: float | None
    error: float | None


@dataclass(frozen=True)
class NetworkReport:
    """Steps of an optimised network and its totals; the `report` of `optimize`. Print it for tables.

    Attributes:
        steps: one entry per step, in order; empty if torch computes the model.
        fold: report of the fold before it, or None if the model could not be folded.
        reason: why torch computes the model instead of a program, or None.
        seconds_before, seconds_after: times of a call of the given model and of the program, if they were measured.
        error: largest difference from the folded model in the model's dtype, relative to the largest output.
        arena_bytes: bytes of the block of memory that holds all tensors between the layers.
        weight_bytes: bytes of the weights.
        prepared_bytes: bytes of the prepared forms of the weights, and of other constants.
        islands: number of steps that torch computes, for each operator.
        kept: modules that stay as they are and are called as a whole: the reason, by the name of the node of the call.
        replaced: a sentence on each step that differed from torch and was replaced.
    """

    steps: tuple[StepReport, ...]
    fold: FoldReport | None
    reason: str | None = None
    seconds_before: float | None = None
    seconds_after: float | None = None
    error: float | None = None
    arena_bytes: int = 0
    weight_bytes: int = 0
    prepared_bytes: int = 0
    islands: dict[str, int] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    replaced: tuple[str, ...] = ()

    @classmethod
    def plain(cls, fold: FoldReport | None, reason: str) -> NetworkReport:
        """Return the report of a model that torch computes.

        Args:
            fold: report of the fold, or None.
            reason: why torch computes it.
        """
        return cls((), fold, reason)

    @property
    def headline(self) -> str:
        """The result in a few words."""
        if self.reason is not None:
            return f"by torch: {self.reason}"
        times = ""
        if self.seconds_before is not None and self.seconds_after is not None:
            times = f", {1e3 * self.seconds_before:.3g} -> {1e3 * self.seconds_after:.3g} ms"
        torchs = sum(self.islands.values())
        return f"{len(self.steps) - torchs} steps of generated code, {torchs} by torch{times}"

    def tables(self) -> list[Table]:
        """Return the report as tables."""
        whole = [{"": "result", "value": self.headline}]
        if self.error is not None:
            whole += [
                {"": "largest difference from torch", "value": f"{self.error:.1e}"},
                {"": "megabytes of weights", "value": f"{self.weight_bytes / 1e6:.3g}"},
                {"": "megabytes of prepared weights", "value": f"{self.prepared_bytes / 1e6:.3g}"},
                {"": "megabytes of tensors between layers", "value": f"{self.arena_bytes / 1e6:.3g}"},
            ]
        found = [Table("Optimised", whole)]
        rows = []
        for step in self.steps:
            row: dict[str, object] = {"node": step.where, "kind": step.kind, "engine": step.engine, "then": step.tail}
            row["result"] = " x ".join(map(str, step.shape))
            if step.seconds is not None:
                row["microseconds"] = 1e6 * step.seconds
            if step.error is not None:
                row["error"] = step.error
            rows.append(row)
        if rows:
            found.append(Table("Steps", rows))
        if self.islands:
            islands = [{"operator": name, "times": count} for name, count in self.islands.items()]
            found.append(Table("Computed by torch", islands))
        if self.kept:
            rows = [{"module": name, "reason": reason} for name, reason in self.kept.items()]
            found.append(Table("Called as a whole", rows))
        if self.replaced:
            found.append(Table("Replaced", [{"step": sentence} for sentence in self.replaced]))
        return found

    def _repr_html_(self) -> str:
        """Return the tables as HTML for notebooks."""
        return fragment(self.tables())

    def __str__(self) -> str:
        return "\n\n".join(table.text() for table in self.tables())


def report_of(
    compiled: Compiled,
    fold: FoldReport | None,
    errors: dict[int, tuple[float, float]],
    whole: float | None,
    seconds: tuple[float | None, float | None],
    replaced: Sequence[str] = (),
) -> NetworkReport:
    """Return the report of a compiled network."""
    steps = []
    for number in compiled.steps:
        node = compiled.nodes[number]
        error = errors.get(number)
        shape = compiled.trace.values[node.outputs[0]].shape if node.outputs else ()
        steps.append(
            StepReport(
                node.where,
                node.kind,
                compiled.way(number).engine,
                described(node),
                shape,
                compiled.seconds[number],
                None if error is None else error[0],
            )
        )
    islands = Counter(node.kind for node in compiled.islands)
    weights = {layer.weight.data_ptr(): layer.weight.numel() * layer.weight.itemsize for layer in compiled.layers}
    return NetworkReport(
        tuple(steps),
        fold,
        None,
        *seconds,
        whole,
        compiled.placement.arena_bytes,
        sum(weights.values()),
        prepared_bytes(compiled),
        dict(islands),
        dict(compiled.trace.kept),
        tuple(replaced),
    )


def prepared_bytes(compiled: Compiled) -> int:
    """Return the bytes of the constants of all steps that are not the weights as given."""
    given = {layer.weight.data_ptr() for layer in compiled.layers}
    ways = [compiled.way(number) for number in range(len(compiled.nodes))]
    steps = [step for way in ways for part in way.parts for step in part.steps.steps]
    tensors = {t.data_ptr(): t.numel() * t.itemsize for step in steps for t in step.tensors.values()}
    return sum(size for address, size in tensors.items() if address not in given)


def described(node: Node) -> str:
    """Return the elementwise work of a node in a few words."""
    expression = (
        node.tail.expression if isinstance(node, Convolve) else node.expression if isinstance(node, Map) else None
    )
    if expression is None:
        return f"{len(node.inputs)} parts" if isinstance(node, Join) else ""
    return ", ".join(_operations(expression))


def _operations(expression: object) -> list[str]:
    """Return the names of an expression's operations, the innermost first."""
    if not isinstance(expression, tuple) or expression[0] in ("x", "plane", "channel"):
        return []
    inner = [name for part in expression[1:] for name in _operations(part)]
    return [*inner, str(expression[0])]

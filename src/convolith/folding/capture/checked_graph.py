"""Capture of a model as a graph, compared with the model, bit for bit, on inputs of several batch and image sizes."""

from __future__ import annotations

import linecache
import operator
import time
import warnings
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from convolith.errors import ConvolithError
from convolith.folding.capture.model_copies import (
    hooked,
    hooks_of,
    structural_copy,
    with_computed_weights,
    without_hooks,
)
from convolith.folding.capture.recorder import NotRecorded, Opaque, Record, Recorder, SizeCondition, WrittenElsewhere
from convolith.folding.capture.size_numbers import Size, SizeRatio
from convolith.folding.example_inputs import Inputs, Reference, outputs, reference_of, result_of, unchanged, variations
from convolith.folding.graph_runner import GraphRunner, has_effects
from convolith.torch_private import GRAPH_ASSERT

MOST_ATTEMPTS = 24
"""Maximum number of recordings of a model; each keeps more modules as one call, or more in-place writes."""
ALIKE = 3
"""Number of modules of one class that fail at the same line after which all modules of that class are kept."""
LIMITS = (4.0, (0.2, 2.0)), (6.0, (0.6, 2.0)), (12.0, (2.0, 4.0))
"""Limits of the time for comparisons at other sizes, as (calls of the model on the example, (minimum and maximum in
seconds)): usually; while few inputs were compared; while only the example and one other (always tried) were."""
ENOUGH, ENOUGH_OF_CONDITIONS, FEW = 5, 8, 2
"""Numbers of compared inputs up to which more than the usual time may be taken: in general, if the model's code
compares sizes, and for the longest of the times."""

Shape = tuple[int, ...]


@dataclass
class Captured:
    """Recorded graph that shares the model's parameters.

    Attributes:
        module: the graph, as a module.
        kept: modules that are called unchanged, with the reason.
        tried: inputs for which the graph gives the model's own outputs, bit for bit; the example first.
        shapes: shapes of the float tensors by node name, for each of the inputs in `tried`: a size that changes with
            few of them, such as that of a layer with a large stride, does not pass for a constant.
        calls: arguments of each kept module's first call with float tensors only.
    """

    module: GraphModule
    kept: dict[str, str]
    tried: list[Inputs]
    shapes: list[dict[str, Shape]]
    calls: dict[str, Inputs] = field(default_factory=dict)


class NoGraph(ConvolithError):  # noqa: N818 - an answer with its reason, as the others here
    """Model whose own code cannot be recorded as a graph; `reason` says why, without a remedy."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"model cannot be captured: {reason}; fold its submodules separately, or rewrite the line so that it "
            "depends on neither values nor sizes"
        )
        self.reason = reason


class Unlike(Exception):  # noqa: N818 - an answer: which size conditions had another result
    """Graph whose outputs differ from the model's for inputs of some shapes."""

    def __init__(self, shapes: list[Shape], flipped: list[SizeCondition]) -> None:
        self.shapes = " and ".join(map(str, shapes))
        super().__init__(f"the recorded graph gives other outputs than the model for inputs of {self.shapes}")
        self.flipped = flipped


def capture(model: nn.Module, inputs: Inputs, known: Reference | None = None) -> Captured:
    """Record a model as a graph that gives the same outputs, bit for bit, at all sizes that are tried.

    Every axis of the inputs, channels included, may have other sizes. A module whose code depends on values, or on
    sizes in a way that a graph cannot represent, is kept as one call; so is a module with hooks of the user.

    Args:
        model: a module in evaluation mode.
        inputs: the example.
        known: the model's outputs for the example, if they are known already.

    Raises:
        NoGraph: if the model's own code cannot be recorded, with the line.
    """
    kept, in_place, guess = dict(hooked(model)), set[int](), True
    failures: Counter[tuple[type, str]] = Counter()
    references = _References(model, inputs, known)
    model = with_computed_weights(model)
    for _ in range(MOST_ATTEMPTS):
        copied = _recordable(model, kept)
        recorder = Recorder(copied, kept, in_place, guess=guess)
        try:
            with unchanged(copied), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the model's own calls show its warnings already
                record = recorder.record(inputs)
            return _checked(references, record, kept)
        except WrittenElsewhere as problem:
            if problem.write in in_place:
                raise NoGraph("it writes in place over a tensor that a view reads") from None
            in_place.add(problem.write)
        except NotRecorded as problem:
            reasons = {problem.module: _because(str(problem), problem.line)}
            _keep(kept, _with_relatives(copied, kept, reasons, failures))
        except Unlike as problem:
            if guess and recorder.record_.guards and any(g.function is operator.eq for g in problem.flipped):
                guess = False
                continue
            reasons = {g.module: _because(_in_words(g, problem.shapes), g.line) for g in problem.flipped}
            reasons = reasons or recorder.record_.suspects or {"": str(problem)}
            _keep(kept, _with_relatives(copied, kept, reasons, failures))
        except ConvolithError:
            raise
        except Exception as problem:  # noqa: BLE001 - whatever the model's own code raises while it is recorded
            module = recorder.failed or ""
            _keep(kept, {module: f"it cannot be recorded: {_first_line(problem)}"})
    raise NoGraph(next(reversed(kept.values())))


def _keep(kept: dict[str, str], more: dict[str, str]) -> None:
    """Add modules to those that are kept.

    Raises:
        NoGraph: if one of them is the model itself, or is kept already.
    """
    for name, reason in more.items():
        if name == "" or name in kept:
            raise NoGraph(reason)
    kept |= more


def _with_relatives(
    model: nn.Module, kept: dict[str, str], reasons: dict[str, str], failures: Counter[tuple[type, str]]
) -> dict[str, str]:
    """Return the modules to keep, including all of a class of which several modules failed for the same reason."""
    modules = dict(model.named_modules())
    more: dict[str, str] = {}
    for name, reason in reasons.items():
        family = type(modules.get(name)), reason.rpartition(" (at ")[2]
        failures[family] += 1
        if name and failures[family] >= ALIKE:
            more |= {other: reason for other, m in modules.items() if type(m) is family[0]}
    outer = tuple(f"{name}." for name in (*kept, *reasons))
    return reasons | {name: more[name] for name in more if name not in kept | reasons and not name.startswith(outer)}


def _because(reason: str, line: str | None) -> str:
    if not line:
        return reason
    file, _, number = line.rpartition(":")
    text = linecache.getline(file, int(number)).strip()
    return f"{reason} (at {line}: {text})" if text else f"{reason} (at {line})"


def _in_words(guard: SizeCondition, shapes: str) -> str:
    signs = {
        operator.eq: "==",
        operator.ne: "!=",
        operator.lt: "<",
        operator.le: "<=",
        operator.gt: ">",
        operator.ge: ">=",
    }
    sides = ["a size" if isinstance(a, Size | SizeRatio) else str(a) for a in guard.args]
    return (
        f"its code depends on whether {sides[0]} {signs[guard.function]} {sides[1]}: inputs of {shapes}, which were "
        "only tried, take another path than the example"
    )


def _first_line(problem: BaseException) -> str:
    lines = str(problem).strip().splitlines()
    return lines[0] if lines else type(problem).__name__


def _recordable(model: nn.Module, kept: Collection[str]) -> nn.Module:
    """Return a structural copy in which scripted modules, and kept modules with hooks, are wrapped in `Opaque`."""
    copied = structural_copy(model)
    for name, module in list(copied.named_modules()):
        if name and (isinstance(module, torch.jit.ScriptModule) or (name in kept and hooks_of(module))):
            copied.set_submodule(name, Opaque(module))
    return copied


class _References:
    """Outputs of a model for the example and other inputs, each computed once."""

    def __init__(self, model: nn.Module, inputs: Inputs, known: Reference | None) -> None:
        self.model, self.inputs, self.known = model, inputs, known
        self.pairs: list[tuple[Inputs, list[torch.Tensor]]] = []
        self.others = variations(model, inputs)
        self.seconds = 0.0

    def compute(self, enough: int) -> list[tuple[Inputs, list[torch.Tensor]]]:
        """Return inputs that the model accepts and its outputs for them, the example first.

        Args:
            enough: number of inputs up to which more than the usual time may be taken.
        """
        with torch.no_grad(), unchanged(self.model), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.known = self.known or reference_of(self.model, self.inputs)
            self.pairs = self.pairs or [(self.inputs, self.known.outputs)]
            usual, more, most = (_within(calls * self.known.seconds, bounds) for calls, bounds in LIMITS)
            while True:
                compared = len(self.pairs)
                start, limit = time.perf_counter(), usual if compared > enough else more if compared > FEW else most
                others = next(self.others, None)  # the first one searches for small sizes, which calls the model too
                if others is None:
                    break
                expected = self.known.seconds * _numbers(others) / _numbers(self.inputs)
                if compared > 1 and self.seconds + expected > limit:
                    if self.seconds > limit:
                        break
                    continue
                result = result_of(self.model, others)
                self.seconds += time.perf_counter() - start
                if result is not None:
                    self.pairs.append((others, result))
        return self.pairs


def _numbers(inputs: Inputs) -> int:
    return sum(x.numel() for x in inputs)


def _within(seconds: float, bounds: tuple[float, float]) -> float:
    return min(max(seconds, bounds[0]), bounds[1])


def _checked(references: _References, record: Record, kept: dict[str, str]) -> Captured:
    """Compare a record's graph with the model and return it, with checks of the size conditions that may matter.

    Raises:
        Unlike: if outputs differ for some inputs.
    """
    guards = _guard_nodes(record)
    module = _graph_module(record)
    runs: list[_Run] = []
    harmless: set[str] = set()
    compared = references.compute(ENOUGH_OF_CONDITIONS if record.guards or record.suspects else ENOUGH)
    for inputs, expected in compared:
        run = _Run(module, guards, kept)
        actual: list[torch.Tensor] | None
        try:
            with torch.no_grad(), unchanged(module), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                actual = outputs(run, inputs)
        except Exception:  # noqa: BLE001 - a size that the recorded path rejects
            actual = None
        flipped = {name for name, guard in guards.items() if name in run.seen and run.seen[name][0] != guard.result}
        if actual is None or not equal(expected, actual):
            raise Unlike([tuple(x.shape) for x in inputs], [guards[name] for name in flipped])
        harmless |= flipped
        runs.append(run)
    for node in list(module.graph.nodes):
        if node.name in guards:
            numbers = {run.seen[node.name][1] for run in runs}
            if node.name in harmless or len(numbers) == 1:
                module.graph.erase_node(node)
            else:
                _check(module.graph, node, guards[node.name])
    module.graph.eliminate_dead_code(has_effects)
    module.recompile()
    tried = [inputs for inputs, _ in compared]
    return Captured(module, kept, tried, [run.shapes for run in runs], runs[0].calls)


def _guard_nodes(record: Record) -> dict[str, SizeCondition]:
    """Add the size comparisons to the graph, each as early as possible; return them by node name."""
    graph = record.graph
    nodes: dict[Any, tuple[Node, SizeCondition]] = {}
    with graph.inserting_before(next(n for n in graph.nodes if n.op == "output")):
        for guard in record.guards:
            args = tuple(a.node() if isinstance(a, Size | SizeRatio) else a for a in guard.args)
            if (guard.function, args) not in nodes:
                nodes[guard.function, args] = graph.call_function(guard.function, args), guard
    for node in list(graph.nodes):
        if _is_about_sizes(node) or any(node is own for own, _ in nodes.values()):
            last = max(node.all_input_nodes)
            if last.next is not node:
                last.append(node)
    return {node.name: guard for node, guard in nodes.values()}


def _is_about_sizes(node: Node) -> bool:
    """Return whether a node computes a size, or a number from sizes."""
    if node.op == "call_method" and node.target in ("size", "numel"):
        return True
    inputs = node.all_input_nodes
    arithmetic = getattr(node.target, "__module__", "") in ("_operator", "math", "builtins")
    return node.op == "call_function" and arithmetic and bool(inputs) and all(map(_is_about_sizes, inputs))


def _check(graph: torch.fx.Graph, node: Node, guard: SizeCondition) -> None:
    """Add a check to the graph that rejects sizes at which a comparison has another result."""
    with graph.inserting_after(node):
        wanted = node if guard.result else graph.call_function(operator.not_, (node,))
    words = f"this model was folded for sizes at which the code at {guard.line} takes the same path as for the example"
    with graph.inserting_after(wanted):
        graph.call_function(GRAPH_ASSERT, (wanted, words))


def _graph_module(record: Record) -> GraphModule:
    called = {str(n.target) for n in record.graph.nodes if n.op == "call_module"}
    modules = {  # a package's hooks on its own models are needed only during the recording
        name: m.inner if isinstance(m, Opaque) else (without_hooks(m) if hooks_of(m) else m)
        for name, m in record.modules.items()
        if name in called
    }
    return GraphModule({**modules, **record.tensors}, record.graph)


class _Run(GraphRunner):
    """Interpreter that records shapes of float tensors, results of comparisons, and arguments of kept modules."""

    def __init__(self, module: GraphModule, guards: Collection[str], kept: Collection[str]) -> None:
        super().__init__(module.graph, module)
        self.guards, self.kept = guards, kept
        self.shapes: dict[str, Shape] = {}
        self.seen: dict[str, tuple[bool, tuple[Any, ...]]] = {}
        self.calls: dict[str, Inputs] = {}

    def called(self, node: Node, args: Any, kwargs: Any) -> Any:
        """Return the result of one node; record the arguments of a kept module."""
        is_new = node.op == "call_module" and node.target in self.kept and node.target not in self.calls
        if is_new and args and not kwargs and all(isinstance(a, torch.Tensor) and a.is_floating_point() for a in args):
            self.calls[str(node.target)] = tuple(a.clone() for a in args)
        return super().called(node, args, kwargs)

    def note(self, node: Node, args: Any, result: Any) -> None:
        """Record the shape of a float tensor, and the arguments and result of a comparison."""
        if isinstance(result, torch.Tensor) and result.is_floating_point():
            self.shapes[node.name] = tuple(result.shape)
        if node.name in self.guards:
            self.seen[node.name] = bool(result), tuple(args)


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    """Return whether two lists of outputs are equal, bit for bit."""
    return len(first) == len(second) and all(map(_same, first, second))


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(torch.isclose(a, b, rtol=0, atol=0, equal_nan=True).all())

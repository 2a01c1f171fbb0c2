"""`optimize`: fold a model, and run what is left as one program of generated code."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO

import torch

from convolith.errors import ConvolithError, check_flag
from convolith.folding import FoldReport, fold
from convolith.folding.capture import NoGraph
from convolith.folding.example_inputs import Inputs, example_at, result_of, variations
from convolith.folding.graph_copies import own_module
from convolith.folding.other_devices import cpu_by_default, device_of
from convolith.folding.quick_convolutions import QuickConvolutions
from convolith.geometry import check_whole
from convolith.jit import at_most
from convolith.network.execution.compiled import Compiled
from convolith.network.execution.race import choose_fastest, time_chosen
from convolith.network.execution.runtime import Unlike
from convolith.network.execution.schedule import MOST_WAYS
from convolith.network.fixed import Fixed
from convolith.network.graph.trace import NotTraced
from convolith.network.module import Optimized
from convolith.network.report import NetworkReport, prepared_bytes, report_of
from convolith.network.saved import save
from convolith.network.verification import check_nodes, difference
from convolith.planner.choose import check_choice
from convolith.torch_private import is_forked, leaves_of, safe_in_forks

LARGEST_DIFFERENCE = 1e-2
"""Difference of two whole models, relative to the largest output, that rounding does not explain in any case."""
MOST_REPLACED = 4
"""Largest number of times that steps are replaced by other engines, or by torch."""
Errors = dict[int, tuple[float, float]]
Avoided = set[tuple[str, str]]
OFF = 10.0
"""Factor on the change of a model's result with the last bits of its inputs, up to which a difference is explained."""
TRIED = 4
"""Number of other sizes that are offered to a model until it takes one."""
CLEARLY = 0.95
"""Ratio of the time of the model as it came to that of the folded one, below which it is kept."""
ROUNDS = 5
"""Number of timed calls of each candidate for the whole model."""


@dataclass(frozen=True)
class Optimization:
    """An optimised model, which is a torch module, and the report of its layers; `optimize` returns it.

    Attributes:
        model: the optimised model. Unless `drop_weights` was given, it has `refresh()`, for weights that were changed
            unnoticed, and `plain`, the folded model as an ordinary torch module.
        report: a `NetworkReport`: every step with its engine, time and error; print it.
    """

    model: Optimized | Fixed
    report: NetworkReport

    def __repr__(self) -> str:
        return f"Optimization({self.report.headline}; see .model and .report)"

    def save(self, path: str | Path | IO[bytes]) -> None:
        """Write the model to a file that `cl.network.load` reads.

        The file holds a graph in JSON and weights, and no code. A graph that has more than operators and tensors, as
        with `torch.cond`, is written in torch's own format, which can hold code: read that with
        `load(path, trusted=True)`.

        Args:
            path: name of the file, which is replaced once the new one is complete, or an open binary file.

        Raises:
            ConvolithError: if `torch.export` cannot take the model, or its weights were dropped.
        """
        if isinstance(self.model, Fixed):
            raise ConvolithError(
                "a file needs the weights, which drop_weights=True dropped; optimise without it to save"
            )
        save(self.model, path)


@safe_in_forks
def optimize(
    model: torch.nn.Module,
    example_input: torch.Tensor | Sequence[torch.Tensor],
    *,
    accuracy: str = "default",
    budget_seconds: float = 60.0,
    threads: int | None = None,
    measure: bool = True,
    drop_weights: bool = False,
) -> Optimization:
    """Return a model that computes the same faster on this CPU: folded, and run as one program of generated code.

    The model is folded first (see `fold`). Convolutions and linear layers, activations, sums, poolings, batch norms and
    concatenations then become steps of a program of generated code, which threads run without returning to Python.
    Activations and residual sums are applied as a convolution writes its results; all tensors between the layers share
    one block of memory; and the engine of each layer is the one that is fastest inside the network. Operators without
    generated code are computed by torch between two programs, and are listed in the report. Every step is compared with
    torch's operator in float64.

    Args:
        model: a module in evaluation mode, on the CPU; it is not changed.
        example_input: a tensor (N, channels, *size) that the model accepts, or a sequence of them for several inputs.
            Other sizes work too; for them engines are chosen by estimates.
        accuracy: as in `plan`.
        budget_seconds: time limit for measuring, without folding and preparation.
        threads: number of threads of the programs, at most torch's, which is the default.
        measure: whether the layers are timed inside the network; with False, engines are chosen by estimates.
        drop_weights: whether only the prepared form of the weights is kept, which saves their memory once the given
            model is deleted too. The result then takes inputs of the example's shapes alone, has no `state_dict`, and
            cannot be saved. If torch computes the model (see the report), its weights are kept.

    Returns:
        An `Optimization`. Its `model` is a torch module that takes what the given model takes, with copies of its
        parameters. Weights that are changed in a way that torch counts are noticed at the next call; after a write
        through `.data` or NumPy, or a replaced parameter, call `model.refresh()`. Calls that need gradients, and other
        dtypes and devices, go to `model.plain`, the folded model. Its `report` is a `NetworkReport`; print it. A
        program that differs from torch, or that takes longer than the model as it came, is not used: torch computes
        the model then, and the report gives the reason.

    Raises:
        ConvolithError: if `fold` refuses the model or the example; a model on another device than the CPU; an unknown
            accuracy; a budget that is not above zero; fewer than one thread; `drop_weights` in a forked process.

    Example:
        >>> import torch
        >>> import convolith as cl
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()).eval()
        >>> fast = cl.optimize(model, torch.zeros(1, 3, 16, 16), measure=False)
        >>> fast.model(torch.zeros(1, 3, 16, 16)).shape
        torch.Size([1, 8, 14, 14])
    """
    check_choice(accuracy, "auto")
    if not isinstance(budget_seconds, int | float) or not budget_seconds > 0:
        raise ConvolithError(f"budget_seconds is {budget_seconds!r}; expected seconds above zero")
    if threads is not None:
        threads = check_whole("threads", threads, 1)
    if check_flag("drop_weights", drop_weights) and is_forked():
        raise ConvolithError(
            "drop_weights is True in a forked process, where torch computes every call from the weights; leave it out, "
            'or start the process by multiprocessing\'s "spawn"'
        )
    device = device_of(model, example_input)
    if device is not None:
        raise ConvolithError(
            f"model is on {device}, and optimize writes programs for the CPU; move model and example_input with "
            ".cpu(), or call fold, whose result computes on any device"
        )
    try:
        folded = fold(model, example_input)
        plain, report = folded.model, folded.report
    except NoGraph:
        plain, report = own_module(model), None
    inputs = (example_input,) if isinstance(example_input, torch.Tensor) else tuple(example_input)
    optimized = Optimized(plain, accuracy, threads, tuple((tuple(x.shape), x.dtype) for x in inputs))
    with cpu_by_default(), at_most(threads):
        try:
            found = _compiled(model, optimized, report, inputs, budget_seconds, measure=measure)
            compiled = optimized.program(inputs) if drop_weights else None
        except NotTraced as problem:
            optimized.give_up()
            return Optimization(optimized, NetworkReport.plain(report, str(problem)))
    if compiled is None or found.model is not optimized:
        return found
    fixed = Fixed(compiled, inputs, threads)
    return Optimization(fixed, replace(found.report, weight_bytes=0, prepared_bytes=prepared_bytes(compiled)))


def _compiled(
    model: torch.nn.Module,
    optimized: Optimized,
    report: FoldReport | None,
    inputs: Inputs,
    budget_seconds: float,
    *,
    measure: bool,
) -> Optimization:
    """Compile a folded model for its example, prove it and time it."""
    accuracy, graph = optimized.accuracy, optimized.plain
    compiled = Compiled(graph, inputs, accuracy, tried=MOST_WAYS if measure else 1)
    expected, compiled.first_result = compiled.first_result, None
    with torch.no_grad():
        if measure:
            if compiled.choice is None:
                choose_fastest(compiled, inputs, budget_seconds / 2)
            else:
                time_chosen(compiled, inputs)
        with QuickConvolutions():
            errors, failed = _verified(compiled, inputs)
            avoided, more = _check_other_size(graph, inputs, accuracy, compiled)
            if avoided:
                compiled.avoid(avoided)
                failed += more
                errors, again = _verified(compiled, inputs)
                failed += again
            if compiled.trace.has_code:
                _check_other_values(graph, compiled, inputs)
            optimized.avoided = frozenset(compiled.avoided)
            if measure:
                compiled.remember()
        whole = None if compiled.draws else _difference(compiled(inputs), expected)
        if (
            whole is not None
            and not whole <= LARGEST_DIFFERENCE
            and not whole <= OFF * _sensitivity(graph, inputs, expected)
        ):
            raise NotTraced(
                f"the program differs from the model by {whole:.1e}, although every step agrees; please report the "
                "model"
            )
        before = after = None
        if measure:
            before, plain, after = _seconds(model, graph, compiled, inputs)
            if min(before, plain) < after:
                name, least = ("folded model", plain)
                optimized.remember(inputs, None)
                if before < CLEARLY * plain:
                    name, least = ("model as it came", before)
                    example = tuple((tuple(x.shape), x.dtype) for x in inputs)
                    optimized = Optimized(own_module(model), accuracy, optimized.threads, example)
                    optimized.give_up()
                reason = f"torch computes the {name} in {1e3 * least:.3g} ms, the program takes {1e3 * after:.3g} ms"
                return Optimization(optimized, NetworkReport.plain(report, reason))
    optimized.remember(inputs, compiled)
    return Optimization(optimized, report_of(compiled, report, errors, whole, (before, after), failed))


def _verified(compiled: Compiled, inputs: Inputs) -> tuple[Errors, list[str]]:
    """Compare every step with torch, and replace those that differ by more than rounding explains.

    Returns the errors, and a sentence on each step that was replaced.

    Raises:
        NotTraced: if steps still differ after some replacements.
    """
    failed: list[str] = []
    for _ in range(MOST_REPLACED):
        errors = check_nodes(compiled, inputs)
        wrong = [number for number, (error, limit) in errors.items() if not error <= limit]
        if not wrong:
            return errors, failed
        for number in wrong:
            error, limit = errors[number]
            engine, where = compiled.way(number).engine, compiled.nodes[number].where
            failed.append(f"{where} by {engine} differs from torch by {error:.1e}, more than its bound of {limit:.1e}")
        compiled.avoid((compiled.nodes[n].where, compiled.way(n).engine) for n in wrong)
    raise NotTraced(f"{failed[-1]}; please report the model")


def _check_other_size(
    graph: torch.nn.Module, inputs: Inputs, accuracy: str, first: Compiled
) -> tuple[Avoided, list[str]]:
    """Compare every step with torch on random inputs of another size, if the model takes one, and of two images.

    What was prepared from the weights for the first size is shared, as later.
    """
    others = next((other for other in islice(variations(graph, inputs), TRIED) if _takes(graph, other)), None)
    if others is None:
        return set(), []
    compiled = Compiled(graph, others, accuracy, known=first.prepared())
    _, failed = _verified(compiled, others)
    if compiled.draws:
        return compiled.avoided, failed
    result, expected = compiled(others), compiled.first_result
    worst = _difference(result, expected)
    if not worst <= max(LARGEST_DIFFERENCE, OFF * _sensitivity(graph, others, expected)):
        shapes = [tuple(x.shape) for x in others]
        raise NotTraced(
            f"the program differs from the model by {worst:.1e} at {shapes}, although every step agrees; please report "
            "the model"
        )
    return compiled.avoided, failed


def _check_other_values(graph: torch.nn.Module, compiled: Compiled, inputs: Inputs) -> None:
    """Compare a program with the model on random inputs of the example's size.

    Raises:
        NotTraced: if they differ, since code of the model's own does not do the same for all values.
    """
    others = example_at(inputs, {})
    expected = result_of(graph, others)
    if expected is None or compiled.draws:
        return
    try:
        worst = _difference(compiled(others), expected)
    except Unlike:  # which calls of the optimised model handle
        return
    if not worst <= max(LARGEST_DIFFERENCE, OFF * _sensitivity(graph, others, expected)):
        raise NotTraced(f"its code does something else for other values of the input (a difference of {worst:.1e})")


def _sensitivity(graph: torch.nn.Module, inputs: Inputs, expected: object) -> float:
    """Return how much the model's own result changes when the last bits of its inputs do."""
    worst = 0.0
    for sign in (1, -1):
        moved = [x * (1 + sign * torch.finfo(x.dtype).eps) for x in inputs]
        worst = max(worst, _difference(graph(*moved), expected))
    return worst


def _takes(graph: torch.nn.Module, inputs: Inputs) -> bool:
    return result_of(graph, inputs) is not None


def _difference(actual: object, expected: object) -> float:
    """Return the largest difference of two results, relative to the largest number of each tensor."""
    worst = 0.0
    pairs = ([t for t in leaves_of(tree) if isinstance(t, torch.Tensor)] for tree in (actual, expected))
    for a, b in zip(*pairs, strict=True):
        if a.numel() and a.is_floating_point():
            worst = max(worst, difference(a, b))
    return worst


def _seconds(
    model: torch.nn.Module, plain: torch.nn.Module, compiled: Compiled, inputs: tuple[torch.Tensor, ...]
) -> tuple[float, float, float]:
    """Return the least seconds of a call of the model, of the folded model, and of the program, timed in turn."""
    calls: tuple[Callable[..., object], ...] = (model, plain, lambda *given: compiled(given))
    least = [float("inf")] * 3
    for turn in range(ROUNDS + 1):
        for number, call in enumerate(calls):
            given = [x.clone(memory_format=torch.preserve_format) for x in inputs]  # a model may write to them
            start = time.perf_counter()
            call(*given)
            if turn:
                least[number] = min(least[number], time.perf_counter() - start)
    return least[0], least[1], least[2]

"""`fold`: every chain and every set of branches of a model that is one convolution, made one, and proved."""

from __future__ import annotations

import copy
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from convolith.conv import Conv
from convolith.errors import ConvolithError
from convolith.folding.capture import capture, outputs
from convolith.folding.pieces import Values
from convolith.folding.search import Found, search

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}
"""Largest error of a folded model, relative to the largest output."""
MODULES = {False: (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)}
MODULES[True] = (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)


@dataclass(frozen=True)
class Rewrite:
    """Nodes of the captured model that one convolution takes the place of.

    Attributes:
        nodes: their names, in order.
        conv: the convolution, as text.
        multiplications_before, multiplications_after: on the example.
    """

    nodes: tuple[str, ...]
    conv: str
    multiplications_before: float
    multiplications_after: float


@dataclass(frozen=True)
class Report:
    """What was folded, what was not and why, and how near the folded model is.

    Attributes:
        rewrites: one entry for each new convolution.
        refusals: why rows and sums that looked like one convolution are none, by the node's name.
        convolutions_before, convolutions_after: that one pass computes.
        error: the largest difference of any output, relative to the largest output, by dtype.
    """

    rewrites: tuple[Rewrite, ...]
    refusals: dict[str, str]
    convolutions_before: int
    convolutions_after: int
    error: dict[str, float]


@dataclass(frozen=True)
class Folded:
    """A folded model, a plain torch module, and the report of how it came about."""

    model: GraphModule
    report: Report


def fold(model: torch.nn.Module, example_input: torch.Tensor, *, everything: bool = False) -> Folded:
    """Find every chain and every set of branches that is one convolution, and make it one, in a copy of the model.

    The model is captured, nodes that are convolutions (norms, poolings, scales and shifts are too) are composed and
    added where that is exact at every input size, borders included, and kept where it takes no more multiplications.
    The result is compared with the model on the example and on random inputs of two sizes, in its own dtype and in
    float64, before it is returned.

    Args:
        model: in evaluation mode, of one tensor.
        example_input: (N, channels, *size), as the model takes it.
        everything: whether rewrites are made even where they take more multiplications.

    Raises:
        ConvolithError: a model in training mode, or one that cannot be captured, an example that it does not take.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()).eval()
        >>> folded = fold(model, torch.zeros(1, 3, 16, 16))
        >>> [rewrite.nodes for rewrite in folded.report.rewrites]
        [('conv2d', 'batch_norm')]
    """
    _check(model, example_input)
    captured = copy.deepcopy(capture(model, example_input)).double()  # what was captured shares the model's parameters
    values = _constants(captured)
    _record_shapes(captured, example_input.double())
    found = search(captured.graph, values, everything=everything)
    before = _convolutions(captured)
    result, rewrites = _rewritten(captured, found)
    error = {"float64": _error(copy.deepcopy(model).double(), result, example_input.double())}
    result = result.to(example_input.dtype)
    error[str(example_input.dtype).removeprefix("torch.")] = _error(model, result, example_input)
    report = Report(
        tuple(rewrites),
        {node.name: reason for node, reason in found.refusals.items() if not _taken(node, found)},
        before,
        _convolutions(result),
        error,
    )
    return Folded(result, report)


def _check(model: Any, example: Any) -> None:
    if not isinstance(model, torch.nn.Module):
        raise ConvolithError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    training = [name or "the model" for name, module in model.named_modules() if module.training]
    if training:
        raise ConvolithError(
            f"model is in training mode ({training[0]}), where batch norms depend on the batch; call model.eval() first"
        )
    if not isinstance(example, torch.Tensor) or not 3 <= example.ndim <= 5 or not example.is_floating_point():
        raise ConvolithError("example_input is no float tensor of (N, channels, *size); pass one as the model takes it")
    try:
        with torch.no_grad():
            model(example)
    except Exception as problem:
        raise ConvolithError(
            f"model does not take example_input of shape {tuple(example.shape)}: {problem}"
        ) from problem


def _constants(captured: GraphModule) -> Values:
    """What does not depend on the input, computed in float64."""
    values: Values = {}
    for node in captured.graph.nodes:
        if node.op == "get_attr":
            found = operator.attrgetter(node.target)(captured)
            if isinstance(found, torch.Tensor):
                values[node] = found.detach().double() if found.is_floating_point() else found.detach()
        elif node.op == "call_function" and node.all_input_nodes and all(a in values for a in node.all_input_nodes):
            arguments, keywords = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: values[n])
            values[node] = node.target(*arguments, **keywords)
    return values


def _record_shapes(captured: GraphModule, example: torch.Tensor) -> None:
    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, torch.Tensor):
                n.meta["example_shape"] = tuple(result.shape)
            return result

    with torch.no_grad():
        Recorder(captured).run(example)


def _taken(node: Node, found: Found) -> bool:
    return node in found.best and found.best[node].folded


def _rewritten(captured: GraphModule, found: Found) -> tuple[GraphModule, list[Rewrite]]:
    """The captured model with a convolution module for every way that takes the place of several nodes."""
    graph, rewrites = captured.graph, []
    for node in reversed(list(graph.nodes)):
        way = found.best.get(node)
        if way is None or not way.folded or not node.users:
            continue
        name = f"folded_{node.name}"
        captured.add_module(name, module_of(way.conv, torch.float64))
        with graph.inserting_before(node):
            made = graph.call_module(name, (way.source,))
        made.meta = dict(node.meta)
        node.replace_all_uses_with(made)
        graph.eliminate_dead_code()
        costs = sum(
            found.best[n].multiplications for n in way.nodes if n in found.best and len(found.best[n].nodes) == 1
        )
        rewrites.append(Rewrite(tuple(n.name for n in way.nodes), repr(way.conv), costs, way.multiplications))
    captured.delete_all_unused_submodules()
    captured.recompile()
    return captured, rewrites[::-1]


def module_of(conv: Conv, dtype: torch.dtype) -> torch.nn.Module:
    """A torch module that computes a `Conv`, rounded once to a dtype; padding that differs by side is put in front."""
    axes = len(conv.kernel_size)
    even = all(before == after for before, after in conv.padding)
    kind = MODULES[conv.transposed][axes - 1]
    options: dict[str, Any] = {name: getattr(conv, name) for name in ("stride", "dilation", "groups")}
    if conv.transposed:
        options["output_padding"] = conv.output_padding
    else:
        options["padding_mode"] = conv.padding_mode
    made = kind(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        padding=tuple(before for before, _ in conv.padding) if even else 0,
        bias=conv.bias is not None,
        dtype=dtype,
        **options,
    ).eval()
    with torch.no_grad():
        made.weight.copy_(conv.weight)
        if conv.bias is not None:
            made.bias.copy_(conv.bias)
    if even:
        return made
    amounts = [amount for pair in reversed(conv.padding) for amount in pair]
    return torch.nn.Sequential(torch.nn.ZeroPad2d(amounts), made) if axes == 2 else _padded(amounts, made)


def _padded(amounts: list[int], made: torch.nn.Module) -> torch.nn.Module:
    pad = torch.nn.ConstantPad1d if len(amounts) == 2 else torch.nn.ConstantPad3d
    return torch.nn.Sequential(pad(tuple(amounts), 0.0), made)


COUNTED = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


def _convolutions(model: GraphModule) -> int:
    """How many convolutions one pass computes."""
    operators = sum(str(n.target).split(".")[1:2] == [name] for n in model.graph.nodes for name in COUNTED)
    called = [model.get_submodule(n.target) for n in model.graph.nodes if n.op == "call_module"]
    kinds = (torch.nn.modules.conv._ConvNd,)
    return operators + sum(isinstance(m, kinds) for made in called for m in made.modules())


def _error(model: torch.nn.Module, folded: GraphModule, example: torch.Tensor) -> float:
    """The largest relative error on the example and on random inputs; refused where it is more than rounding."""
    worst, dtype = 0.0, example.dtype
    generator = torch.Generator().manual_seed(0)
    random = [torch.randn((count, *example.shape[1:]), generator=generator, dtype=dtype) for count in (1, 2)]
    for x in (example, *random):
        with torch.no_grad():
            pairs = list(zip(outputs(model(x)), outputs(folded(x)), strict=True))
        for a, b in pairs:
            worst = max(worst, float((a - b).abs().max() / a.abs().max().clamp_min(torch.finfo(dtype).tiny)))
    if not worst <= TOLERANCE.get(dtype, 1e-2):
        raise ConvolithError(f"the folded model is {worst:.1e} off in {dtype}; please report the model")
    return worst

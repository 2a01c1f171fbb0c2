"""Counting of models: a model runs on tensors without memory, and every operator is counted as torch dispatches it.

Operators are counted, not classes of modules, so that functional calls, subclasses, shared modules and einsum are
counted correctly. The gradients are correct too, since autograd computes only those that are needed (for example, no
gradient of a first layer's input or of frozen weights).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import chain, zip_longest
from typing import Any, NamedTuple

import torch

from convolith.costing.growth.grown_models import Ends, ends_of, widen
from convolith.costing.receptive_field import ReceptiveField, ReceptiveFields
from convolith.costing.rules.elementwise import Rule
from convolith.costing.rules.quantised import packed_tensors
from convolith.costing.rules.table import rule_of
from convolith.costing.tracing.fake_models import (
    as_inputs,
    check_lazy,
    check_sizes,
    model_copy,
    storage_bytes,
    storages_of,
    tensors_in,
    tensors_of,
)
from convolith.costing.tracing.model_copies import named_places
from convolith.costing.tracing.module_tracker import REMEDY, ModuleTracker, Path, Unwatched
from convolith.costing.workspace.torch_kernels import hidden_result_bytes
from convolith.engines.machine_limits import MachineLimits
from convolith.errors import ConvolithError
from convolith.planner.machine import limits
from convolith.spec import ConvSpec
from convolith.torch_private import dispatch_mode, fake_mode, operator_name, storage_identity, version_of
from convolith.work import Backward, BackwardMemory, Count, ForwardMemory, Memory

CONVOLUTIONS = {"aten::convolution": 0, "aten::convolution_backward": 1}
"""Convolution operators, and the position of the image among their arguments."""
NOTHING, NO_GRADIENTS = Count(), Backward()
UNGROWN = (Fraction(1), Fraction(1))


@dataclass
class ModuleCounts:
    """Counts of one module, without its submodules.

    Attributes:
        forward: counts of the forward pass.
        gradients: counts of the gradients of convolutions, by part; `backward` adds `rest` to them.
        rest: counts of all other operators of the backward pass.
        calls: number of operator calls that have a rule.
        unknown: number of calls of each operator that has no rule, by name.
        seconds: lower bound on the forward time, from products and bytes moved, at this machine's measured limits.
        convolution: geometry of the first convolution that the module computes, or None.
    """

    forward: Count = NOTHING
    gradients: Backward = NO_GRADIENTS
    rest: Count = NOTHING
    calls: int = 0
    unknown: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    convolution: ConvSpec | None = None

    @property
    def backward(self) -> Backward:
        """Gradients of convolutions by part, and all other operators of the backward pass in `rest`."""
        return replace(self.gradients, rest=self.rest)


@dataclass(frozen=True)
class CountedRun:
    """Result of one counted run: counts and receptive fields of each module, memory, input and output shapes."""

    tallies: Mapping[Path, ModuleCounts]
    fields: Mapping[Path, ReceptiveField]
    strides: frozenset[tuple[Fraction, ...]]
    memory: Memory
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    parameters: Mapping[Path, Mapping[int, int]]
    """Number of elements of each parameter, by module and by `id`, which all names of a shared parameter share."""


def run(
    model: torch.nn.Module,
    arguments: tuple[Any, ...],
    keywords: Mapping[str, Any],
    *,
    convention: str,
    backward: bool,
    input_gradient: bool,
    real: bool,
    growth: tuple[Fraction, Fraction] = UNGROWN,
) -> CountedRun:
    """Count a forward pass, and optionally a backward pass.

    Args:
        model: model to count, in training or evaluation mode; it is not modified.
        arguments, keywords: arguments of the call; unless `real`, only the shapes and dtypes of tensors matter.
        convention: "dense" or "effective", for convolutions.
        backward: whether to count the gradients of the parameters that require them.
        input_gradient: whether to count the gradients of the inputs too.
        real: whether to compute with the given values, for models whose control flow depends on values.
        growth: factors by which the model's channels and kernel sizes are multiplied before it is counted.

    Raises:
        ConvolithError: an error that the model raises (the message names the module), control flow that needs values.
    """
    check_lazy(model)
    options: dict[str, Any] = {
        "convention": convention,
        "input_gradient": input_gradient,
        "real": real,
        "growth": growth,
    }
    try:
        return _run(model, arguments, keywords, backward=backward, **options)
    except ConvolithError as problem:
        if not (backward and REMEDY in str(problem)):
            raise
        try:
            _run(model, arguments, keywords, backward=False, **options)
        except ConvolithError:
            raise problem from problem.__cause__
        raise ConvolithError(str(problem).replace(REMEDY, ModuleTracker.without_backward)) from problem.__cause__


def _run(
    model: torch.nn.Module,
    arguments: tuple[Any, ...],
    keywords: Mapping[str, Any],
    *,
    convention: str,
    backward: bool,
    input_gradient: bool,
    real: bool,
    growth: tuple[Fraction, Fraction],
) -> CountedRun:
    """Count a copy of the model; arguments as for `run`."""
    fake, saved = None if real else fake_mode(), _Saved()
    speeds = limits()  # may be measured here, so before fake tensors are active
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(mode=False))
        if fake is not None:
            stack.enter_context(dispatch_mode(fake))
        ends = None if growth == UNGROWN else _ends(model, arguments, keywords, fake)
        model, state = model_copy(model, fake, by_name=True)
        generator = torch.Generator().manual_seed(0) if real else None
        counter = _Counter(model, convention, saved, speeds, generator)
        given = as_inputs((arguments, keywords), fake, requires_grad=input_gradient and backward)
        stack.enter_context(counter.named())
        if ends is not None:
            widen(model, ends, *growth)
            state = [*model.parameters(), *model.buffers()]
        saved.leave_out(state)
        stack.enter_context(torch.set_grad_enabled(backward))
        inputs = tensors_of(given)
        with counter.watching(), saved.hooks():
            counter.fields = ReceptiveFields(inputs)
            result = model(*given[0], **dict(given[1]))
        outputs = tensors_of(result)
        places = named_places(model)
        packed = {path: packed_tensors(module) for path, module in places}
        own = {
            path: {id(p): p.numel() for p in (*module._parameters.values(), *packed[path]) if p is not None}
            for path, module in places
        }
        gradients: list[torch.Tensor] = []
        leaves = [tensor for tensor in (*inputs, *state) if tensor.requires_grad and tensor.is_leaf]
        roots = [tensor for tensor in outputs if tensor.requires_grad]
        if backward and roots and leaves:
            seeds = [torch.empty_like(tensor) for tensor in roots]
            with counter.watching(), counter.backwards():
                torch.autograd.backward(roots, seeds)
            if not real:
                computed = (leaf.grad for leaf in leaves if leaf.grad is not None)
                check_sizes(computed, "pass run=True with an example_input")
            gradients = [leaf.grad for leaf in leaves if leaf.grad is not None and not _is_in(leaf, inputs)]
    memory = Memory(
        ForwardMemory(
            storage_bytes(inputs),
            storage_bytes(state) + _bytes(_each_once(chain(*packed.values()))),
            storage_bytes(outputs),
        ),
        BackwardMemory(
            storage_bytes(gradients),
            _bytes(tensor for tensor in inputs if tensor.requires_grad),
            _bytes(roots) if backward else 0,
            saved.bytes if backward else 0,
        ),
    )
    fields, shapes = counter.fields, (_shapes(inputs), _shapes(outputs))
    return CountedRun(counter.tallies, fields.of_modules, frozenset(fields.strides), memory, *shapes, own)


def _ends(model: torch.nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any], fake: Any) -> Ends:
    """Return the stem and head of a model, found in a copy whose floating-point parameters all require gradients."""
    model, _ = model_copy(model, fake)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point() or parameter.requires_grad)
    given = as_inputs((arguments, keywords), fake, requires_grad=False)
    with Unwatched(model).named(), torch.enable_grad():
        return ends_of(model, lambda: model(*given[0], **dict(given[1])))


class _Operator(NamedTuple):
    """Properties of an operator that do not depend on its arguments."""

    name: str
    view: bool
    pointwise: bool
    rule: Rule | None

    @classmethod
    def of(cls, func: Any) -> _Operator:
        """Return the properties of a dispatched operator, under its name in the table."""
        view = func.is_view or torch.Tag.inplace_view in func.tags
        pointwise = torch.Tag.pointwise in func.tags
        return cls(operator_name(func).removeprefix("aten::"), view, pointwise, rule_of(func))


class _Counter(ModuleTracker):  # type: ignore[no-untyped-call]  # torch's own is untyped
    """Dispatch mode that counts every operator, by module."""

    def __init__(
        self,
        model: torch.nn.Module,
        convention: str,
        saved: _Saved,
        speeds: MachineLimits,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__(model, generator)
        self.convention, self._saved = convention, saved
        self._edges: dict[int, tuple[Any, Any, Sequence[int]]] = {}
        self.tallies: dict[Path, ModuleCounts] = {(): ModuleCounts()}
        self.fields = ReceptiveFields([])
        self._limits: MachineLimits = speeds
        self._known: dict[Any, _Operator] = {}

    def seen(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Count an operator that has run."""
        known = self._known.get(func)
        if known is None:
            known = self._known[func] = _Operator.of(func)
        path = self.path()
        tally = self.tallies.get(path)
        if tally is None:
            tally = self.tallies[path] = ModuleCounts()
        if known.view:
            tally.calls += 1
            if known.name == "slice" and len(args) > 4 and args[4] != 1:
                self.fields.forget(out)
            return
        inputs, results = [*tensors_in(args), *tensors_in(tuple(kwargs.values()))], tensors_in(out)
        if not self.backward:
            self._follow(known, args, inputs, results, path)
            if results:
                self._saved.enlarge(results[-1], hidden_result_bytes(func, args, out))
        if known.rule is None:
            tally.unknown[known.name] = tally.unknown.get(known.name, 0) + 1
            return
        tally.calls += 1
        if tally.convolution is None and known.name == "convolution":
            tally.convolution = _geometry_of(*args)
        if self.convention == "effective":
            kwargs |= self._edged(func, args, out)
        counted = known.rule(*args, **kwargs, out=out, convention=self.convention)
        if isinstance(counted, Backward):
            tally.gradients = tally.gradients + counted
            return
        moved = Count(bytes=_bytes(inputs) + _bytes(results) - counted.bytes)  # some rules count bytes too
        if self.backward:
            tally.rest = tally.rest + counted + moved
        else:
            tally.forward = tally.forward + counted + moved
            tally.seconds += self._least(counted + moved, out)

    def _follow(self, known: _Operator, args: Any, given: Any, made: Any, path: Path) -> None:
        """Track receptive fields through an operator; a failure to do so does not stop the count."""
        try:
            self.fields.seen(known.name, args, given, made, path, pointwise=known.pointwise)
        except (IndexError, TypeError, ValueError, AttributeError, ZeroDivisionError):
            for tensor in made:
                self.fields.forget(tensor)

    def _edged(self, func: Any, args: tuple[Any, ...], out: Any) -> dict[str, Any]:
        """Return, for a convolution, the zeros that an earlier padding operator added around its image."""
        name = operator_name(func)
        if name == "aten::constant_pad_nd" and not (args[2] if len(args) > 2 else 0):
            edge = [a + b for a, b in zip_longest(args[1], self._edge_of(args[0]), fillvalue=0)]
            self._edges[storage_identity(out.untyped_storage())] = out.untyped_storage(), _identity(out), edge
        return {"edge": self._edge_of(args[CONVOLUTIONS[name]])} if name in CONVOLUTIONS else {}

    def _edge_of(self, tensor: torch.Tensor) -> Sequence[int]:
        """Return the padding of a tensor that was padded as a whole, or nothing for any other tensor."""
        _, identity, edge = self._edges.get(storage_identity(tensor.untyped_storage()), (None, None, ()))
        return edge if identity == _identity(tensor) else ()

    def _least(self, count: Count, out: Any) -> float:
        """Return an operator's least time in seconds by the roofline model (Williams, Waterman and Patterson 2009)."""
        wide = isinstance(out, torch.Tensor) and out.dtype in (torch.float64, torch.complex128)
        products = count.macs / self._limits.products_per_second("float64" if wide else "float32")
        return max(products, self._limits.moving_seconds(count.bytes) if count.bytes else 0.0)


def _geometry_of(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,  # noqa: FBT001 - the operator's arguments, in its order
    output_padding: Sequence[int],
    groups: int,
) -> ConvSpec | None:
    """Return the geometry of a call of `aten::convolution`; None if it is none that `ConvSpec` describes."""
    options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    options = {name: tuple(value) if name != "groups" else value for name, value in options.items()}
    options |= {"transposed": transposed, "output_padding": tuple(output_padding)}
    try:
        return ConvSpec.of(x, weight, bias, **options)
    except ConvolithError:
        return None


class _Saved:
    """Storages that autograd saves for the backward pass, each counted once; parameters are excluded."""

    def __init__(self) -> None:
        self._own: set[int] = set()
        self._kept: dict[int, torch.UntypedStorage] = {}  # storages, so that no address is reused
        self._larger: dict[int, tuple[torch.UntypedStorage, int]] = {}

    def leave_out(self, tensors: Iterable[torch.Tensor]) -> None:
        """Exclude tensors that are held in any case, such as parameters."""
        self._own |= {storage_identity(storage) for tensor in tensors for storage in storages_of(tensor)}

    def hooks(self) -> Any:
        """Return a context that records the tensors that autograd saves in it."""
        return torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)

    @property
    def bytes(self) -> int:
        """Total size of the saved storages."""
        return sum(
            max(storage.nbytes(), self._larger.get(place, (storage, 0))[1]) for place, storage in self._kept.items()
        )

    def enlarge(self, tensor: torch.Tensor, size: int) -> None:
        """Record the bytes of a tensor's storage in a real run, where its fake tensor has fewer; 0 records nothing."""
        if size:
            storage = tensor.untyped_storage()
            self._larger[storage_identity(storage)] = storage, size

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        for storage in storages_of(tensor):
            if storage_identity(storage) not in self._own:
                self._kept[storage_identity(storage)] = storage
        return tensor


def _shapes(tensors: Iterable[torch.Tensor]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(tensor.shape) for tensor in tensors)


def _identity(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Return shape, strides, offset and version, which differ for other views and later states of the memory."""
    return tuple(tensor.shape), tensor.stride(), tensor.storage_offset(), version_of(tensor)


def _each_once(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _is_in(tensor: torch.Tensor, tensors: Iterable[torch.Tensor]) -> bool:
    return any(tensor is other for other in tensors)


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes of the tensors' elements; memory that several tensors share counts for each."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

"""Ways to compute each node of a network: steps of generated code by one of several engines, or torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

import torch

from convolith.dtypes import dtype_name
from convolith.engines import BY_NAME
from convolith.engines.elementwise import NO_TAIL, evaluate
from convolith.engines.steps import Finish, Layout, Steps
from convolith.layer_steps import copies, maps, means, norms, pools, products, resizes, softmax
from convolith.network.execution.placement import Place, Placement
from convolith.network.graph.nodes import (
    Convolve,
    Copy,
    Fetch,
    Island,
    Join,
    Map,
    Mean,
    Node,
    Norm,
    Pool,
    Product,
    Resize,
    Scatter,
    Softmax,
)
from convolith.network.graph.trace import Trace
from convolith.planner import plan
from convolith.planner.plan import BoundPlan
from convolith.spec import ConvSpec

MOST_WAYS = 3
"""Upper bound on the engines that are tried for a layer."""
TRIED_WITHIN = 2.0
"""Largest ratio of an engine's estimated time to the least at which it is tried."""
MUCH_FASTER = 0.6
"""Ratio of the estimated time of an engine that cannot be a step, to the best of those that can, below which it is
tried."""

LAYER = (
    *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"),
    *("padding_value", "transposed", "output_padding", "bias", "dtype", "kernel_dtype", "out_dtype"),
)
"""Fields of a spec that determine a prepared kernel: all except the size and the number of images."""
MOST_GROUPS, FEWEST_CHANNELS = 32, 16
"""Largest number of groups, and least number of their input channels, that are computed one after the other."""
ISLAND_SECONDS = 3e-5
"""Time of a call between two programs, beyond that of the engine."""


class Part(NamedTuple):
    """Steps, and the places of their operands and of their output."""

    steps: Steps
    operands: tuple[Place, ...]
    output: Place

    def of_image(self, number: int) -> Part:
        """Return the steps of a batch of one for another image of the batch."""
        operands = tuple(place.of_image(number) for place in self.operands)
        return Part(self.steps, operands, self.output.of_image(number))


@dataclass
class Way:
    """One way to compute a node.

    Attributes:
        engine: name of the engine, of the pass, or "torch".
        parts: steps of generated code.
        call: function that computes the node from tensors instead, or None.
        error_bound: bound on the error, relative to `error_scale`, or None where there is none.
    """

    engine: str
    parts: tuple[Part, ...] = ()
    call: Callable[[Fetch], Any] | None = None
    error_bound: float | None = None
    prepared: Prepared | None = None


class Prepared(NamedTuple):
    """A layer's weights and what an engine prepared from them.

    Attributes:
        key: the engine, and the layer without the size and the number of its images.
        weight: the weights as given; the key holds their address, which nothing else has while they are here.
        state: what the engine's `prepare` returned.
    """

    key: tuple[Any, ...]
    weight: torch.Tensor
    state: Any


class Scheduler:
    """Maker of the ways to compute the nodes of one trace.

    Args:
        trace: the trace.
        placement: places of its values.
        accuracy: as in `plan`.
        known: what was prepared for other sizes, by its key.
        tried: largest number of engines that are prepared for a layer.
    """

    def __init__(
        self,
        trace: Trace,
        placement: Placement,
        accuracy: str,
        known: Mapping[tuple[Any, ...], Prepared],
        tried: int = MOST_WAYS,
    ) -> None:
        self.trace, self.placement, self.accuracy, self.known, self.tried = trace, placement, accuracy, known, tried

    def ways(self, node: Node, engine: str | None = None, avoided: Collection[str] = ()) -> list[Way]:
        """Return the ways to compute a node, the one that is estimated to be fastest first.

        Args:
            node: the node.
            engine: the only engine that is prepared for a layer, if it can compute it.
            avoided: engines that do not compute it.
        """
        if isinstance(node, Convolve):
            engine = None if engine in avoided else engine
            return (self._layer(node, engine) if engine else []) or self._layer(node, avoided=avoided)
        if isinstance(node, Map):
            return [self._map(node)]
        if isinstance(node, Mean):
            place = self._place(node.inputs[0])
            steps = means.steps(node.shape, place.image, self._dtype(node.outputs[0]))
            return [Way("mean", (self._part(steps, [node.inputs[0]], node.outputs[0]),))]
        if isinstance(node, Pool):
            return [self._pool(node)]
        if isinstance(node, Join):
            return [self._join(node)]
        if isinstance(node, Norm | Softmax | Product | Resize):
            return [self._of_images(node)]
        if isinstance(node, Copy):
            return [self._copy(node)]
        if isinstance(node, Scatter):
            return [self._scatter(node)]
        if isinstance(node, Island):
            return [Way("torch", call=node.call)]
        return [Way("")]

    def _of_images(self, node: Norm | Softmax | Product | Resize) -> Way:
        """Return the way to compute a node from images at any distance."""
        dtype = self._dtype(node.outputs[0])
        pitches = self._place(node.inputs[0]).image, self._place(node.outputs[0]).image
        if isinstance(node, Norm):
            parameters = node.weight, node.bias
            steps = norms.steps(node.groups, node.shape, pitches, parameters, node.epsilon, dtype, rows=node.rows)
        elif isinstance(node, Softmax):
            steps = softmax.steps(node.shape, pitches, dtype, rows=node.rows, safe=node.safe)
        elif isinstance(node, Product):
            steps = products.steps(node.shape, (pitches[0], self._place(node.inputs[1]).image), dtype)
        elif node.axes is None:
            return Way("torch", call=node.reference)
        else:
            steps = resizes.steps(node.shape, node.axes, pitches, dtype)
        engine = "pointwise" if isinstance(node, Product) else node.kind
        return Way(engine, (self._part(steps, node.inputs, node.outputs[0]),))

    def _place(self, number: int) -> Place:
        return self.placement.places[number]

    def _dtype(self, number: int) -> str:
        return dtype_name(self.trace.values[number].dtype)

    def _part(self, steps: Steps, inputs: Sequence[int], output: int) -> Part:
        return Part(steps, tuple(self._place(n) for n in inputs), self._place(output))

    def _layer(self, node: Convolve, engine: str | None = None, avoided: Collection[str] = ()) -> list[Way]:
        """Return the engines whose estimated times are close to the least, then those that cannot be steps."""
        spec = node.spec()
        if self.accuracy == "double":
            chosen = plan(spec, accuracy=self.accuracy)
            bound = chosen.bind(node.weight, node.bias, copy=False)
            return [Way(chosen.engine, call=_bound_call(node, bound))]
        candidates = [c for c in plan(spec, node.weight, accuracy=self.accuracy).candidates if c.reason is None]
        candidates = [c for c in candidates if c.engine != "reference" and c.seconds is not None]
        candidates = [c for c in candidates if engine in (None, c.engine) and c.engine not in avoided]
        if not candidates:
            return []
        candidates.sort(key=lambda c: c.seconds or 0.0)
        layout = Layout(self._place(node.inputs[0]).image, self._place(node.outputs[0]).image)
        finish = Finish(node.bias, node.tail, node.constants, None if node.residual is None else 1)
        ways: list[Way] = []
        least: float | None = None
        for candidate in candidates:
            seconds = candidate.seconds or 0.0
            if len(ways) == self.tried or (least is not None and seconds > TRIED_WITHIN * least):
                break
            prepared = self.prepared(candidate.engine, spec, node.weight)
            state = prepared.state
            steps = BY_NAME[candidate.engine].steps(state, layout, finish)
            after: tuple[Part, ...] = ()
            if steps is None and node.tail != NO_TAIL:
                steps, after = (
                    BY_NAME[candidate.engine].steps(state, layout, Finish(node.bias, NO_TAIL)),
                    self._tail(node),
                )
            if steps is not None:
                least = least or seconds
                part = self._part(steps, node.inputs, node.outputs[0])
                parts = (part, *after)
                ways.append(Way(candidate.engine, parts, error_bound=candidate.error_bound, prepared=prepared))
        ways += self._by_group(node, spec, least)
        alone = next(iter(candidates))
        if least is None or (alone.seconds or 0.0) + ISLAND_SECONDS < MUCH_FASTER * least:
            chosen = plan(spec, node.weight, accuracy=self.accuracy, engine=alone.engine)
            bound = chosen.bind(node.weight, node.bias, copy=False)
            ways.insert(0, Way(alone.engine, call=_bound_call(node, bound), error_bound=alone.error_bound))
        return ways

    def _tail(self, node: Convolve) -> tuple[Part]:
        """Return the elementwise work after a layer, in place, for an engine that does not do it itself."""
        y, inputs = node.outputs[0], [n for n in (node.outputs[0], node.residual) if n is not None]
        operands = [maps.Operand("x", number, self._place(n).image) for number, n in enumerate(inputs)]
        operands += [maps.Operand("channel", constant=constant) for constant in node.constants]
        steps = maps.steps(node.tail.expression, operands, node.shape, self._place(y).image, self._dtype(y))
        return (self._part(steps, inputs, y),)

    def _by_group(self, node: Convolve, spec: ConvSpec, least: float | None) -> list[Way]:
        """Return the fastest engine that takes one group at a time, if it may be faster than those that take all."""
        groups, ins = spec.groups, spec.in_channels // spec.groups
        if not 1 < groups <= MOST_GROUPS or ins < FEWEST_CHANNELS or spec.transposed:
            return []
        outs = spec.out_channels // groups
        one = replace(spec, groups=1, in_channels=ins, out_channels=outs)
        found = [c for c in plan(one, accuracy=self.accuracy).candidates if c.reason is None and c.seconds is not None]
        found = [c for c in found if BY_NAME[c.engine].refuse(spec) is not None]
        if not found:
            return []
        best = min(found, key=lambda c: c.seconds or 0.0)
        if least is not None and groups * (best.seconds or 0.0) > TRIED_WITHIN * least:
            return []
        x, y = self._place(node.inputs[0]), self._place(node.outputs[0])
        parts = []
        for group in range(groups):
            mine = slice(group * outs, (group + 1) * outs)
            bias = None if node.bias is None else node.bias[mine]
            constants = tuple(constant.reshape(-1)[mine] for constant in node.constants)
            finish = Finish(bias, node.tail, constants, None if node.residual is None else 1)
            state = BY_NAME[best.engine].prepare(one, node.weight[mine].contiguous())
            steps = BY_NAME[best.engine].steps(state, Layout(x.image, y.image), finish)
            if steps is None:
                return []
            shift = group * outs * prod(spec.output_size)
            places = [x._replace(offset=x.offset + group * ins * prod(spec.size))]
            places += [p._replace(offset=p.offset + shift) for n in node.inputs[1:] for p in [self._place(n)]]
            parts.append(Part(steps, tuple(places), y._replace(offset=y.offset + shift)))
        return [Way(best.engine, tuple(parts), error_bound=best.error_bound)]

    def prepared(self, engine: str, spec: ConvSpec, weight: torch.Tensor) -> Prepared:
        """Return an engine's state for a kernel; what was prepared for another size is shared where it can be."""
        key = (engine, weight.data_ptr(), *(getattr(spec, name) for name in LAYER))
        known = self.known.get(key)
        state = None if known is None else BY_NAME[engine].resized(known.state, spec)
        return Prepared(key, weight, BY_NAME[engine].prepare(spec, weight) if state is None else state)

    def _map(self, node: Map) -> Way:
        shape = node.shape if len(node.shape) > 1 else (1, 1, prod(node.shape))
        y = self._place(node.outputs[0])
        values = [o.value for o in node.operands if o.value is not None]
        operands = []
        for operand in node.operands:
            if operand.value is None:
                operands.append(maps.Operand("channel", constant=operand.constant))
            else:
                number = values.index(operand.value)
                operands.append(maps.Operand(operand.kind, number, self._image(operand.value, shape)))
        image = y.image if len(node.shape) > 1 else prod(node.shape)
        steps = maps.steps(node.expression, operands, shape, image, self._dtype(node.outputs[0]))
        return Way("map", (self._part(steps, values, node.outputs[0]),))

    def _image(self, number: int, shape: Sequence[int]) -> int:
        return self._place(number).image if len(self.trace.values[number].shape) > 1 else prod(shape)

    def _pool(self, node: Pool) -> Way:
        pitches = self._place(node.inputs[0]).image, self._place(node.outputs[0]).image
        dtype = self._dtype(node.outputs[0])
        steps = pools.steps(node.operation, node.window, node.shape, node.out_shape, pitches, node.scales, dtype)
        return Way("pool", (self._part(steps, node.inputs, node.outputs[0]),))

    def _copy(self, node: Copy) -> Way:
        """Return the copy of every image, by torch if it has too many axes."""
        x, y = self._place(node.inputs[0]), self._place(node.outputs[0])
        same = self.trace.values[node.outputs[0]].shape[:1] == node.shape[:1] or node.shape[0] == 1
        image = y.image if same else prod(node.shape[1:])
        given, parts = self.trace.values[node.inputs[0]].shape, []
        if node.mixes and given[0] > 1 and x.image != prod(given[1:]):  # images that lie apart
            return Way("torch", call=node.reference)
        for piece in node.pieces:
            source = x.image if piece.constant is None else 0
            axes = [copies.Axis(node.shape[0], source, image), *piece.axes]
            steps = copies.steps(axes, self._dtype(node.outputs[0]), piece.constant)
            if steps is None:
                return Way("torch", call=node.reference)
            here = x._replace(offset=x.offset + piece.source)
            parts.append(Part(steps, (here,), y._replace(offset=y.offset + piece.goal)))
        return Way("copy", tuple(parts))

    def _scatter(self, node: Scatter) -> Way:
        """Return the copy of a part, after that of all the rest where it does not lie there already."""
        base, y, piece = self._place(node.inputs[0]), self._place(node.outputs[0]), node.piece
        dtype, parts = self._dtype(node.outputs[0]), []
        if base != y:
            whole = maps.steps(("x", 0), [maps.Operand("x", 0, base.image)], (*node.shape, 1), y.image, dtype)
            parts.append(Part(whole, (base,), y))
        x = self._place(node.inputs[-1])
        axes = [copies.Axis(node.shape[0], x.image if piece.constant is None else 0, y.image), *piece.axes]
        steps = copies.steps(axes, dtype, piece.constant)
        if steps is None:
            return Way("torch", call=node.reference)
        parts.append(Part(steps, (x,), y._replace(offset=y.offset + piece.goal)))
        return Way("copy", tuple(parts))

    def _join(self, node: Join) -> Way:
        """Return the copies of the parts that do not lie in the join's memory already."""
        y, parts, done = self._place(node.outputs[0]), [], 0
        for number, shape in zip(node.inputs, node.shapes, strict=True):
            goal = y._replace(offset=y.offset + done)
            done += prod(shape[1:])
            here = self._place(number)
            if (here.buffer, here.offset) == (goal.buffer, goal.offset):
                continue
            operand = maps.Operand("x", 0, here.image)
            steps = maps.steps(("x", 0), [operand], shape, y.image, self._dtype(node.outputs[0]))
            parts.append(Part(steps, (here,), goal))
        return Way("copy" if parts else "", tuple(parts))


def _bound_call(node: Convolve, bound: BoundPlan) -> Callable[[Fetch], torch.Tensor]:
    """Return the call of a plan, and of the node's tail by torch."""

    def call(fetch: Fetch) -> torch.Tensor:
        y: torch.Tensor = bound(fetch(node.inputs[0]).reshape(bound.shape))
        y = y.reshape(node.shape)
        if node.tail == NO_TAIL:
            return y
        after = replace(node, tail=node.tail)

        def leaf(kind: str, n: int) -> torch.Tensor:
            if kind == "channel":
                return after.constants[n].reshape(1, -1, *[1] * (y.ndim - 2))
            return fetch(after.residual) if n and after.residual is not None else y

        return evaluate(node.tail.expression, leaf)

    return call

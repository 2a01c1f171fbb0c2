"""What Convolith's own engines hold while they run, and keep from call to call: as each of them says (`work`)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from convolith.costing.rules.products import correlated
from convolith.costing.workspace import torch_kernels
from convolith.dtypes import HALVES
from convolith.engines import aten
from convolith.engines.buffers import bytes_for
from convolith.engines.kernel_gradient import engine as lags
from convolith.jit.threads import KEPT_SCRATCH
from convolith.planner import Plan, computed, plan
from convolith.planner import gradients as planned
from convolith.spec import ConvSpec
from convolith.tensors import torch_dtype
from convolith.torch_private import operator_name
from convolith.work import ForwardMemory

SCRATCH = "scratch"
"""What a thread's scratch memory is kept as."""


@dataclass
class EngineMemory:
    """What an operator holds.

    Attributes:
        running: bytes at most while it runs, with what comes out.
        kept: bytes that stay, by what they are kept as; of the same, the most.
    """

    running: int = 0
    kept: dict[Hashable, int] = field(default_factory=dict)


def of_operator(func: Any, args: tuple[Any, ...], keywords: Mapping[str, Any], out: Any) -> EngineMemory | None:
    """Of a convolution by Convolith's engines or torch's kernels; None for other operators."""
    name = operator_name(func)
    if name == "convolith::correlate":
        return _forward(args, out)
    if name == "convolith::correlate_backward":
        return _backward(args)
    running = torch_kernels.of_operator(func, args, keywords, out)
    return None if running is None else EngineMemory(running)


def _forward(args: tuple[Any, ...], out: torch.Tensor) -> EngineMemory:
    x, k, bias, *options = args
    spec = correlated(x, k, bias, *options)
    chosen = plan(spec, accuracy=options[-2], engine=options[-1]).for_new_kernels  # kept from the second call on
    scratch, running = _running(chosen, x, k, out)
    return EngineMemory(running + _terms(chosen).prepared, {SCRATCH: scratch})


def _backward(args: tuple[Any, ...]) -> EngineMemory:
    """Input and kernel one after the other; what engines do not compute is left to torch together."""
    grad, x, k, bias, *options, wanted = args
    spec, accuracy = correlated(x, k, bias, *options), options[-2]
    wants_x, wants_k, wants_bias = wanted
    chosen = planned.chosen_gradients(spec, accuracy, (wants_x, wants_k))
    by_x, by_k = chosen.by_x, chosen.by_k
    made = bias.nbytes if wants_bias else 0
    expanded = grad.nbytes * (0 in grad.stride())  # such as a sum's, which is copied
    found = EngineMemory(made)
    by_plan = [(by_x, grad, k, x)] if by_x is not None else []
    if by_k is not None and by_k.swapped is not None:
        by_plan.append((by_k.swapped, x.transpose(0, 1), grad.transpose(0, 1), k))
    for each, image, kernel, result in by_plan:
        scratch, running = _running(each, image, kernel, result)
        copied, terms = kernel.nbytes, _terms(each)
        running += expanded * (image is grad)
        laid_out = copied + terms.workspace - scratch  # turned round, where the engine does not read it so
        found.running = max(found.running, made + terms.prepared + max(laid_out, copied + running))
        found.kept[SCRATCH] = max(scratch, found.kept.get(SCRATCH, 0))
        made += bytes_for(result.nbytes)
    if by_k is not None and by_k.swapped is None:
        bands, sums = lags.scratch_bytes(spec)
        found.kept[SCRATCH] = max(bands, found.kept.get(SCRATCH, 0))
        found.running = max(found.running, made + expanded + sums + k.nbytes)
        made += k.nbytes
    left = (wants_x and by_x is None, wants_k and by_k is None, False)
    if any(left):
        found.running = max(found.running, made + expanded + _by_torch(grad, x, k, spec, left))
    return found


def _terms(chosen: Plan) -> ForwardMemory:
    """Of the engine that was chosen."""
    work = next(candidate.work for candidate in chosen.candidates if candidate.engine == chosen.engine)
    return work.memory.forward if work is not None else ForwardMemory()


def _running(chosen: Plan, x: torch.Tensor, k: torch.Tensor, out: torch.Tensor) -> tuple[int, int]:
    """Scratch that stays, and what an engine holds beside it while it runs, with its result."""
    terms, spec = _terms(chosen), chosen.spec
    widened = terms.input + terms.output if computed(spec, chosen.accuracy) != spec else 0
    if chosen.engine == aten.channels_last.name:
        last = aten.CHANNELS_LAST[spec.axes]
        x, k, out = (each.contiguous(memory_format=last) for each in (x, k, out))
    elif chosen.engine != aten.contiguous.name:
        scratch = terms.workspace if terms.workspace <= KEPT_SCRATCH else 0
        return scratch, terms.workspace - scratch + widened + bytes_for(out.nbytes)
    x, k, out = (torch_kernels.plane(each) for each in (_padded(x, spec), k, out))
    geometry = (spec.stride, aten.split_padding(spec)[0], spec.dilation)
    return 0, terms.workspace + widened + torch_kernels.forward(x, k, out, spec.groups, *geometry)


def _padded(x: torch.Tensor, spec: ConvSpec) -> torch.Tensor:
    """What torch's operator is given, where the padding is not the same on both sides."""
    rest = aten.split_padding(spec)[1]
    if not any(map(any, rest)):
        return x
    return x.new_empty((*x.shape[:2], *(n + sum(pair) for n, pair in zip(spec.size, rest, strict=True))))


def _by_torch(grad: torch.Tensor, x: torch.Tensor, k: torch.Tensor, spec: ConvSpec, wanted: tuple[bool, ...]) -> int:
    """By torch's own backward pass, beside what is padded before."""
    wide = torch.float32 if spec.out_dtype in HALVES else torch_dtype(spec.out_dtype)
    given = _padded(x, spec)
    padded = (given is not x) * (1 + wanted[0]) * given.nbytes
    grad, x, k = (torch_kernels.plane(tensor.to(wide)) for tensor in (grad, given, k))
    geometry = (spec.stride, aten.split_padding(spec)[0], spec.dilation)
    return padded + torch_kernels.backward(grad, x, k, spec.groups, wanted, *geometry)


def grown(kept: dict[Hashable, int], more: Mapping[Hashable, int]) -> int:
    """Add to what is kept; the bytes that are new."""
    new = 0
    for what, size in more.items():
        new += max(size - kept.get(what, 0), 0)
        kept[what] = max(size, kept.get(what, 0))
    return new

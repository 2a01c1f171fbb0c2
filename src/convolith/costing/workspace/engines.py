"""Memory that Convolith's own engines hold during a call and keep between calls, as each engine reports it (`work`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from convolith.costing.rules.products import WANTED, correlated
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


class Phase(NamedTuple):
    """Part of an operator's call.

    Attributes:
        peak: peak bytes in this part, including the call's results so far.
        scratch: bytes of the thread's scratch, which remains allocated; calls share the largest.
    """

    peak: int
    scratch: int = 0


def operator_memory(func: Any, args: tuple[Any, ...], keywords: Mapping[str, Any], out: Any) -> list[Phase]:
    """Return the memory of an operator by Convolith's engines or torch's kernels; empty if only its results count."""
    name = operator_name(func)
    if name == "convolith::correlate":
        return _forward(args, out)
    if name == "convolith::correlate_backward":
        return _backward(args)
    running = torch_kernels.operator_peak(func, args, keywords, out)
    return [] if running is None else [Phase(running)]


CHOICE = slice(5, 7)
"""Places of the accuracy and the engine among an operator's options."""


def _forward(args: tuple[Any, ...], out: torch.Tensor) -> list[Phase]:
    x, k, bias, *options = args
    spec, (accuracy, engine) = correlated(x, k, bias, *options), options[CHOICE]
    chosen = plan(spec, accuracy=accuracy, engine=engine).for_new_kernels  # cached from the second call on
    scratch, running = _engine_bytes(chosen, x, k, out)
    return [Phase(running + _engine_terms(chosen).prepared, scratch)]


def _backward(args: tuple[Any, ...]) -> list[Phase]:
    """Return the memory of the gradients: of the input, of the kernel, then by torch of all that no engine computes."""
    grad, x, k, bias, *options = args
    spec, (accuracy, _) = correlated(x, k, bias, *options), options[CHOICE]
    wants_x, wants_k, wants_bias = options[WANTED]
    chosen = planned.chosen_gradients(spec, accuracy, (wants_x, wants_k))
    by_x, by_k = chosen.by_x, chosen.by_k
    finished = bias.nbytes if wants_bias else 0
    expanded = grad.nbytes * (0 in grad.stride())  # an expanded gradient, such as a sum's, is copied
    phases = [Phase(finished)]
    by_plan = [(by_x, grad, k, x)] if by_x is not None else []
    if by_k is not None and by_k.swapped is not None:
        by_plan.append((by_k.swapped, x.transpose(0, 1), grad.transpose(0, 1), k))
    for chosen_plan, image, kernel, result in by_plan:
        scratch, running = _engine_bytes(chosen_plan, image, kernel, result)
        terms = _engine_terms(chosen_plan)
        flipped = kernel.nbytes * (chosen_plan is by_x)  # and kept by engines that read it as it is
        running += expanded * (image is grad)
        phases.append(Phase(finished + terms.prepared + 2 * kernel.nbytes))  # in one piece, and the engine's copy
        phases.append(Phase(finished + terms.prepared + flipped + running, scratch))
        finished += bytes_for(result.nbytes)
    if by_k is not None and by_k.swapped is None:
        bands, sums = lags.scratch_bytes(spec)
        phases.append(Phase(finished + expanded + sums + k.nbytes, bands))
        finished += k.nbytes
    remaining = (wants_x and by_x is None, wants_k and by_k is None, False)
    if any(remaining):
        by_torch = _torch_backward_peak(grad, x, k, spec, remaining, chosen.layout)
        phases.append(Phase(finished + expanded + by_torch))
    return phases


def _engine_terms(chosen: Plan) -> ForwardMemory:
    """Return the memory terms of the chosen engine."""
    work = next(candidate.work for candidate in chosen.candidates if candidate.engine == chosen.engine)
    return work.memory.forward if work is not None else ForwardMemory()


def _engine_bytes(chosen: Plan, x: torch.Tensor, k: torch.Tensor, out: torch.Tensor) -> tuple[int, int]:
    """Return the bytes of scratch that is kept, and all other bytes during the call, including its result."""
    terms, spec = _engine_terms(chosen), chosen.spec
    widened = terms.input + terms.output if computed(spec, chosen.accuracy) != spec else 0
    if chosen.engine == aten.channels_last.name:
        layout = aten.CHANNELS_LAST[spec.axes]
        x, k, out = (tensor.contiguous(memory_format=layout) for tensor in (x, k, out))
    elif chosen.engine != aten.contiguous.name:
        scratch = terms.workspace if terms.workspace <= KEPT_SCRATCH else 0
        return scratch, terms.workspace - scratch + widened + bytes_for(out.nbytes)
    x, k, out = (torch_kernels.as_matrix(tensor) for tensor in (_pad_for_torch(x, spec), k, out))
    geometry = (spec.stride, aten.split_padding(spec)[0], spec.dilation)
    return 0, terms.workspace + widened + torch_kernels.forward(x, k, out, spec.groups, *geometry)


def _pad_for_torch(x: torch.Tensor, spec: ConvSpec) -> torch.Tensor:
    """Return the input as torch's operator receives it: padded where the operator does not support the padding."""
    rest = aten.split_padding(spec)[1]
    if not any(map(any, rest)):
        return x
    return x.new_empty((*x.shape[:2], *(n + sum(pair) for n, pair in zip(spec.size, rest, strict=True))))


def _torch_backward_peak(
    grad: torch.Tensor,
    x: torch.Tensor,
    k: torch.Tensor,
    spec: ConvSpec,
    wanted: tuple[bool, ...],
    layout: torch.memory_format,
) -> int:
    """Return the peak bytes of torch's own backward pass, including inputs that are padded or laid out before it."""
    dtype = torch.float32 if spec.out_dtype in HALVES else torch_dtype(spec.out_dtype)
    padded_x = _pad_for_torch(x, spec)
    held = (padded_x is not x) * (1 + wanted[0]) * padded_x.nbytes
    tensors = [tensor.to(dtype) for tensor in (grad, padded_x, k)]
    if layout is not torch.contiguous_format:
        held += sum(tensor.nbytes for tensor in tensors if not tensor.is_contiguous(memory_format=layout))
        tensors = [tensor.contiguous(memory_format=layout) for tensor in tensors]
    grad, x, k = map(torch_kernels.as_matrix, tensors)
    geometry = (spec.stride, aten.split_padding(spec)[0], spec.dilation)
    return held + torch_kernels.backward(grad, x, k, spec.groups, wanted, *geometry)

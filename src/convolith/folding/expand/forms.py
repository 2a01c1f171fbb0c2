"""`expand`: replace a convolution by branches that train better than it does alone, and fold back to it.

The published forms add branches, each with a batch norm after its convolutions: one has the full kernel, the others
have some of its taps, or are chains that compose to its size. Here every norm starts as the identity and every other
branch with random weights; the first branch gets the kernel minus the sum of the others, by the algebra of `Conv`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from convolith.algebra import add, compose, identity, subtract
from convolith.arrays import as_tensor
from convolith.conv import Conv
from convolith.dtypes import COMPLEX, is_float
from convolith.errors import ConvolithError, check_option
from convolith.folding.expand.layers import Step, TrainingForm, average_step, branch_of, convolution_step
from convolith.geometry import TORCH_MODES, Pairs, check_whole
from convolith.torch_private import safe_in_forks

MOBILEONE_KERNELS = 4
"""Number of branches with a full kernel in the paper's smallest network; its other networks have 1."""
Branches = dict[str, list[Step]]


@dataclass(frozen=True)
class Start:
    """Data that the branches of a form are made from.

    Attributes:
        conv: convolution to expand, in float64.
        size: root mean square of its weights, and of random weights.
        generator: generator of all random numbers.
        kernels: number of branches that have a full kernel.
    """

    conv: Conv
    size: float
    generator: torch.Generator
    kernels: int

    def draw(self, shape: tuple[int, ...], size: float) -> Tensor:
        """Return normally distributed numbers with root mean square `size`."""
        return size * torch.randn(shape, generator=self.generator, dtype=torch.float64, device="cpu")


@safe_in_forks
def expand(
    conv: Conv | nn.Module,
    *,
    like: str = "repvgg",
    branches: int | None = None,
    seed: int = 0,
    calibration: Any = None,
) -> TrainingForm:
    """Build a training form of a convolution: branches with batch norms that equal it in evaluation mode.

    `sum over branches of norm(k_b * x) = bias + k * x`, with the branches of the form `like`:

    - `"repvgg"`: the kernel; a 1x1; the norm alone, if stride is 1 and output and input have the same shape.
    - `"mobileone"`: `branches` full kernels, and the other two branches of RepVGG.
    - `"acnet"`: the kernel, and for each axis one with taps along that axis only (3x1 and 1x3 in addition to 3x3).
    - `"dbb"`: the kernel; a 1x1; a 1x1, norm and kernel; a 1x1, norm and average (if dilation is 1). The 1x1 before
      the norm applies the padding, so that borders are exact: in evaluation this pads with the norm's value for 0.

    A branch that would have to crop x is omitted (a 1x1 parallel to an unpadded 3x3 reads fewer pixels than x has).
    Random weights are normal and as large as the kernel's. All norms start as identities: their weight is the deviation
    that they divide by, their bias the mean. In training they use the batch's statistics instead. Initial statistics
    are those of noise with mean 0 and variance 1, so that on other inputs the first training steps change the scale of
    each branch; with `calibration`, they are those of its images, and training on these starts at evaluation's outputs.

    Args:
        conv: a real float convolution that is not transposed, or a torch module of one.
        like: name of the form.
        branches: number of full kernels of `"mobileone"`, 4 if it is None; the other forms have one.
        seed: seed of the random weights; torch's global random state does not change.
        calibration: inputs (N, in_channels, *size) from which the norms' statistics are computed.

    Returns:
        A module for (N, in_channels, *size), in training mode as all new torch modules are, with the dtype and device
        of the weights. In evaluation mode, `fold` turns it into one convolution again.

    Raises:
        ConvolithError: not a convolution; one that is transposed, has no real float dtype or no values, or a padding
            mode that torch's layers lack; an unknown form, or one without a second branch for this convolution;
            `branches` for another form than `"mobileone"`; a negative seed; `calibration` of another shape, with
            numbers that are not finite, or smaller than the kernel.

    References:
        Ding et al., "RepVGG", CVPR 2021; Ding et al., "Diverse Branch Block", CVPR 2021; Ding et al., "ACNet", ICCV
        2019; Vasu et al., "MobileOne", CVPR 2023.

    Example:
        >>> import torch
        >>> import convolith as cl
        >>> layer = torch.nn.Conv2d(8, 8, 3, padding=1)
        >>> form = cl.expand(layer, like="repvgg").eval()
        >>> list(form.branches)
        ['kernel', 'pointwise', 'identity']
        >>> x = torch.randn(1, 8, 16, 16)
        >>> torch.allclose(form(x), layer(x), atol=1e-5)
        True
    """
    source = _checked(conv)
    sample = as_tensor("weight", source.weight)
    axes, wide = len(source.kernel_size), _double(source)
    start = Start(
        wide, _size(wide), torch.Generator().manual_seed(check_whole("seed", seed, 0)), _kernels(like, branches)
    )
    others = FORMS[like](start)
    if not others:
        raise ConvolithError(
            f"like is {like!r}, which has no second branch for {source}: {NEEDS[like]}; pad it, or choose 'dbb', "
            "or 'mobileone' with 2 branches or more: their full kernels always fit"
        )
    rest = subtract(wide, add(*(_composed(steps) for steps in others.values())))
    x = None if calibration is None else _inputs(calibration, wide)
    modules: dict[str, nn.Module] = {
        "kernel": branch_of([_convolution(rest.weight, wide, wide.padding)], axes, x, rest.bias)
    }
    modules |= {name: branch_of(steps, axes, x) for name, steps in others.items()}
    return TrainingForm(modules, axes).to(device=sample.device, dtype=sample.dtype)


def _repvgg(start: Start) -> Branches:
    """Return the branches of RepVGG: a 1x1, and x itself."""
    return _pointwise(start) | _identity(start.conv)


def _mobileone(start: Start) -> Branches:
    """Return the branches of MobileOne: further full kernels, a 1x1, and x itself."""
    conv = start.conv
    result: Branches = {}
    for number in range(2, start.kernels + 1):
        weight = start.draw(tuple(conv.weight.shape), start.size)
        result[f"kernel_{number}"] = [_convolution(weight, conv, conv.padding)]
    return result | _repvgg(start)


def _acnet(start: Start) -> Branches:
    """Return the branches of ACNet: for each axis, a kernel with one tap along all other axes."""
    wide = [axis for axis, taps in enumerate(start.conv.kernel_size) if taps > 1]
    if len(wide) < 2:  # the only line would be the kernel itself
        return {}
    return {f"axis_{axis}": [step] for axis in wide if (step := _part(start, {axis})) is not None}


def _dbb(start: Start) -> Branches:
    """Return the branches of DBB: a 1x1; a 1x1 and a kernel; a 1x1 and an average."""
    conv = start.conv
    result, ones = _pointwise(start), (1,) * len(conv.kernel_size)
    into, groups = conv.in_channels, conv.groups
    hidden = into if groups < conv.out_channels else 2 * into  # as in the paper's code: one channel mixes nothing
    inner = start.draw((hidden, into // groups, *ones), (hidden // groups) ** -0.5)
    outer = start.draw((conv.out_channels, hidden // groups, *conv.kernel_size), start.size)
    result["expanded"] = [_pointwise_padded(inner, conv), _convolution(outer, conv, ((0, 0),) * len(ones))]
    taps = prod(conv.kernel_size)
    if taps > 1 and all(d == 1 or k == 1 for k, d in zip(conv.kernel_size, conv.dilation, strict=True)):
        inner = start.draw((conv.out_channels, into // groups, *ones), start.size * taps**0.5)
        result["averaged"] = [_pointwise_padded(inner, conv), average_step(conv)]
    return result


FORMS: dict[str, Callable[[Start], Branches]] = {
    "acnet": _acnet,
    "dbb": _dbb,
    "mobileone": _mobileone,
    "repvgg": _repvgg,
}
"""Functions that return the branches of each form other than the given kernel."""
_IN_PLACE = (
    "a 1x1 parallel to a larger kernel needs padding that reaches one of its taps from both sides, an identity needs "
    "stride 1 and outputs of the input's shape"
)
NEEDS = {
    "acnet": "it needs two axes with more than one tap, and padding along them that reaches a tap from both sides",
    "mobileone": f"branches is 1, and {_IN_PLACE}",
    "repvgg": _IN_PLACE,
}
"""Conditions for a second branch, by form; `"dbb"` always has one."""


def _kernels(like: str, branches: int | None) -> int:
    """Return the number of full kernels of a form."""
    check_option("like", like, FORMS)
    if like == "mobileone":
        return MOBILEONE_KERNELS if branches is None else check_whole("branches", branches, 1)
    if branches is not None:
        raise ConvolithError(
            f"branches is {branches!r}, but {like} has one whole kernel; leave it out, or choose mobileone"
        )
    return 1


def _pointwise(start: Start) -> Branches:
    """Return a 1x1 at the tap nearest the middle, or no branch if the kernel is 1x1 already."""
    step = _part(start, ()) if prod(start.conv.kernel_size) > 1 else None
    return {} if step is None else {"pointwise": [step]}


def _identity(conv: Conv) -> Branches:
    """Return x itself as a branch, or no branch if the stride is not 1 or the output has another shape than x."""
    axes = range(len(conv.kernel_size))
    fits = all(
        _tap(conv, axis) is not None and sum(conv.padding[axis]) == conv.dilation[axis] * (conv.kernel_size[axis] - 1)
        for axis in axes
    )
    if not fits or max(conv.stride) > 1 or conv.in_channels != conv.out_channels:
        return {}
    return {"identity": [Step(identity(conv.in_channels, axes=len(axes), sample=conv.weight), ())]}


def _part(start: Start, kept: Collection[int]) -> Step | None:
    """Return a random kernel with all taps along the axes `kept` and one along the others, or None if it would crop."""
    conv, size, padding = start.conv, [], []
    for axis, (k, d, (before, after)) in enumerate(zip(conv.kernel_size, conv.dilation, conv.padding, strict=True)):
        tap = 0 if axis in kept else _tap(conv, axis)
        if tap is None:
            return None
        size.append(k if axis in kept else 1)
        padding.append((before - d * tap, after - d * (k - size[-1] - tap)))
    weight = start.draw((conv.out_channels, conv.in_channels // conv.groups, *size), start.size)
    return _convolution(weight, conv, tuple(padding))


def _tap(conv: Conv, axis: int) -> int | None:
    """Return the tap nearest the middle that reads the whole axis, or None if no tap does."""
    k, d, (before, after) = conv.kernel_size[axis], conv.dilation[axis], conv.padding[axis]
    fitting = [tap for tap in range(k) if d * tap <= before and d * (k - 1 - tap) <= after]
    return min(fitting, key=lambda tap: abs(2 * tap - (k - 1)), default=None)


def _convolution(weight: Tensor, like: Conv, padding: Pairs) -> Step:
    """Return a convolution step with the stride, dilation, groups and padding mode of `like`."""
    return convolution_step(Conv(weight, **{**like.options, "padding": padding}))


def _pointwise_padded(weight: Tensor, like: Conv) -> Step:
    """Return a 1x1 that applies a kernel's padding, so that the layer after it needs none and borders are exact."""
    return convolution_step(Conv(weight, padding=like.padding, padding_mode=like.padding_mode, groups=like.groups))


def _composed(steps: list[Step]) -> Conv:
    """Return a branch as one convolution, for norms that are identities."""
    return reduce(lambda first, second: compose(first, second).conv, [step.conv for step in steps])


def _checked(conv: Any) -> Conv:
    if not isinstance(conv, Conv | nn.Module):
        raise ConvolithError(
            f"conv is a {type(conv).__name__}; expected a Conv or a torch convolution module; pass composition.conv "
            "for a composition"
        )
    given = conv if isinstance(conv, Conv) else Conv.from_module(conv)
    if given.transposed:
        raise ConvolithError(
            "conv is transposed; expected an ordinary convolution, for which these forms exist; train it unchanged"
        )
    if given.padding_mode not in TORCH_MODES:
        raise ConvolithError(
            f"conv pads with {given.padding_mode}, which torch's layers do not have; expected {', '.join(TORCH_MODES)}"
        )
    if not is_float(given.dtype) or given.dtype in COMPLEX:
        raise ConvolithError(
            f"conv has dtype {given.dtype}; expected a real float, as batch norms have; convert its weights"
        )
    if getattr(given.weight, "is_meta", False):
        raise ConvolithError("conv has weights on the meta device, which have no values; move them first")
    return given


def _double(conv: Conv) -> Conv:
    """Return a convolution with torch weights in float64 on the CPU, detached from any gradient graph."""
    weight, bias = (
        None if a is None else as_tensor(name, a).detach().to("cpu", torch.float64)
        for name, a in (("weight", conv.weight), ("bias", conv.bias))
    )
    return Conv(weight, bias, **conv.options)


def _size(conv: Conv) -> float:
    """Return the root mean square of the weights, or 1 / sqrt(fan-in) if all are zero."""
    size = float(conv.weight.square().mean().sqrt())
    return size if size > 0 else float(prod(conv.weight.shape[1:])) ** -0.5


def _inputs(calibration: Any, conv: Conv) -> Tensor:
    """Check the calibration inputs and return them in float64."""
    x = as_tensor("calibration", calibration).detach().to("cpu", torch.float64)
    axes = len(conv.kernel_size)
    if x.ndim != axes + 2 or x.shape[1] != conv.in_channels or x.numel() == 0 or not bool(x.isfinite().all()):
        raise ConvolithError(
            f"calibration has shape {tuple(x.shape)}; expected finite numbers of (N, {conv.in_channels}, *size) with "
            f"{axes} spatial axes, one image or more"
        )
    try:
        nn.Sequential(*convolution_step(conv).layers)(x)
    except RuntimeError as problem:  # smaller than the kernel, or than what a padding mode needs
        raise ConvolithError(
            f"calibration of shape {tuple(x.shape)} cannot be convolved: {problem}; pass larger images"
        ) from problem
    return x

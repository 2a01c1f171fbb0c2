"""Sections of saved pages with a live figure: a fold of a model, and the cost of its layer with the most products."""

from __future__ import annotations

from typing import Any

import torch

from convolith.algebra.kernels import dense
from convolith.conv import Conv
from convolith.costing import ModelCost
from convolith.errors import ConvolithError
from convolith.folding import FoldReport
from convolith.report.html_page import Section
from convolith.widget.addresses import FOLD_CHANNELS, cost_address, fold_address
from convolith.widget.frames import explorer_frame

HEIGHT = 800
"""Height of a figure in pixels."""
READABLE_CHANNELS = 2
"""Channels that a fold is scaled down to, so that its cells are large enough for their numbers."""


def fold_section(model: torch.nn.Module, report: FoldReport) -> Section:
    """Return a section with a rewrite of a model as a live figure, or with the reason why there is none.

    Args:
        model: the model before it was folded.
        report: the report of the fold.
    """
    heading = "A fold, live"
    for rewrite in report.rewrites:
        names = [name for name in rewrite.modules if isinstance(_module(model, name), torch.nn.Conv2d)]
        if len(names) != 2:
            continue
        row = not any(node.startswith("add") for node in rewrite.nodes)
        try:
            first, second = (Conv.from_module(_module(model, name)) for name in names)
            first, second, cut = _cut(first, second, row=row)
            address = fold_address(first, second, arrangement="row" if row else "branches")
        except ConvolithError:
            continue
        prose = f"{rewrite.name}: {' and '.join(names)}, {'one after the other' if row else 'side by side'}{cut}. "
        prose += "The weights are the model's, and the input is random."
        others = [name for name in rewrite.modules if name not in names and _module(model, name) is not None]
        prose += f" Not drawn: {', '.join(others)}." if others else ""
        return Section(heading, prose, frame=explorer_frame(address, f"The fold {rewrite.name}, cell by cell", HEIGHT))
    reason = (
        "No fold of this model can be drawn: the figure shows two square two-dimensional convolutions with kernels of "
        "at most 5 x 5."
    )
    return Section(heading, reason)


def _module(model: torch.nn.Module, name: str) -> Any:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def _cut(first: Conv, second: Conv, *, row: bool) -> tuple[Conv, Conv, str]:
    """Return the first channels of two convolutions, as many as the figure draws, and words for what was cut."""
    widths = [first.in_channels, first.out_channels, second.out_channels]
    most = FOLD_CHANNELS if max(widths) <= FOLD_CHANNELS else READABLE_CHANNELS
    into, hidden, out = (min(width, most) for width in widths)
    if not row:
        hidden = out
    kept = _part(first, hidden, into), _part(second, out, hidden if row else into)
    named = zip(("input", "hidden" if row else "output", "output"), widths, (into, hidden, out), strict=True)
    cuts = dict.fromkeys(f"{now} of {width} {name} channels" for name, width, now in named if now < width)
    return *kept, f"; scaled down to the first {', '.join(cuts)}" if cuts else ""


def _part(conv: Conv, out: int, into: int) -> Conv:
    """Return the convolution of the first output and input channels, dense."""
    weight, bias = dense(conv, torch.float64)
    options = conv.options | {"groups": 1}
    return Conv(weight[:out, :into], None if bias is None else bias[:out], **options)


def cost_section(counted: ModelCost) -> Section | None:
    """Return a section with the convolution of the most products as a live figure; None if there is no convolution."""
    found = [(name, tally, tally.convolution) for name, tally in counted.modules.items() if tally.convolution]
    found.sort(key=lambda entry: -entry[1].forward.macs)
    heading = "A layer, live"
    for place, (name, tally, spec) in enumerate(found):
        gradient = bool(tally.gradients.input_gradient.macs) or not counted.differentiated
        try:
            address = cost_address(spec, convention=counted.convention, input_gradient=gradient)
        except ConvolithError:
            continue
        title = f"What the layer {name or counted.model} costs"
        rank = "a convolution of the model" if place else "the convolution with the most products"
        prose = f"{name or counted.model}, {rank}: drag its numbers to see what would change."
        return Section(heading, prose, frame=explorer_frame(address, title, HEIGHT))
    if not found:
        return None
    return Section(heading, "No convolution of this model can be drawn: the figure takes one or two spatial axes.")

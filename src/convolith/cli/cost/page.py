"""The page of a model's cost: totals, memory, the modules as bars and as a table."""

from __future__ import annotations

from collections.abc import Sequence

from convolith.costing import ModelCost
from convolith.report.page import Figure, Section, page
from convolith.report.plots import bars
from convolith.report.table import Table

MOST_BARS = 30
"""Modules that are drawn: those with the most products."""


def cost_page(counted: ModelCost, factory: str, more: Sequence[Table]) -> str:
    """The page as text.

    Args:
        counted: the cost.
        factory: of the model, by name.
        more: what else was asked: laws, scalings, what is over budget.
    """
    sized = " and ".join("x".join(map(str, shape)) for shape in counted.inputs)
    mode = "training" if counted.training else "evaluation"
    bound = f" Only {counted.coverage:.1%} of its operators have a rule: these are lower bounds." * bool(
        counted.unknown
    )
    introduction = (
        f"{factory} on {sized}, in {mode}: {counted.forward.macs:,} multiply-accumulates forward, "
        f"{counted.backward.macs:,} backward, {counted.parameters:,} parameters.{bound}"
    )
    found = counted.sections(depth=None)
    sections = [Section("Operations", OPERATIONS, tables=(found["operations"],))]
    sections.append(
        Section("Memory", MEMORY, tables=tuple(found[name] for name in ("memory", "peak") if name in found))
    )
    sections.append(Section("Where the products are", figures=_bars(counted)))
    if more:
        sections.append(Section("Asked for", tables=tuple(more)))
    sections.append(Section("Modules", tables=(found["modules"],)))
    if "unknown" in found:
        sections.append(Section("Not counted", tables=(found["unknown"],)))
    return page(f"What {counted.model} costs", introduction, sections)


OPERATIONS = (
    "Macs are products that are summed up, of convolutions, matrix products and attention; multiplications are these "
    "and all others; others are comparisons, divisions, roots, exponentials and the like."
)
MEMORY = "Bytes of what is held: parameters with buffers; what autograd keeps between the passes, without parameters."


def _bars(counted: ModelCost) -> tuple[Figure, ...]:
    names = {name for name, tally in counted.modules.items() if tally.forward.macs or tally.backward.macs}
    heaviest = sorted(names, key=lambda name: -counted.modules[name].forward.macs)[:MOST_BARS]
    shown = [name for name in counted.modules if name in heaviest]
    if not shown:
        return ()
    lengths = {
        "forward": [counted.modules[name].forward.macs for name in shown],
        "backward": [counted.modules[name].backward.macs for name in shown],
    }
    which = f"The {len(shown)} modules with the most macs, by themselves." if len(names) > len(shown) else ""
    source = bars([name or counted.model for name in shown], lengths, x="macs")
    return (Figure(source, "macs of each module, forward and backward", which),)

"""HTML page of a model's cost: totals, memory, modules as bars and as a table."""

from __future__ import annotations

from collections.abc import Sequence

from convolith.costing import ModelCost
from convolith.report.html_page import Figure, Section, page
from convolith.report.plots import bars
from convolith.report.table import Table
from convolith.widget.sections import cost_section

MOST_BARS = 30
"""Largest number of modules in the bar plot; those with the most macs are shown."""


def cost_page(counted: ModelCost, factory: str, more: Sequence[Table]) -> str:
    """Return the page as text.

    Args:
        counted: the cost.
        factory: name of the model's factory.
        more: further tables: laws, scalings, totals over budget.
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
    tables = counted.sections(depth=None)
    sections = [Section("Operations", OPERATIONS, tables=(tables["operations"],))]
    sections.append(
        Section("Memory", MEMORY, tables=tuple(tables[name] for name in ("memory", "peak") if name in tables))
    )
    sections.append(Section("Where the products are", figures=_bars(counted)))
    if live := cost_section(counted):
        sections.append(live)
    if more:
        sections.append(Section("Asked for", tables=tuple(more)))
    sections.append(Section("Modules", tables=(tables["modules"],)))
    if "unknown" in tables:
        sections.append(Section("Not counted", tables=(tables["unknown"],)))
    return page(f"What {counted.model} costs", introduction, sections)


OPERATIONS = (
    "Macs are the multiply-accumulates of convolutions, matrix products and attention; multiplications are these and "
    "all other products; others are comparisons, divisions, roots, exponentials and the like."
)
MEMORY = "Bytes in memory: parameters with buffers; tensors that autograd saves between the passes, without parameters."


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
    which = f"The {len(shown)} modules with the most macs, without their submodules." if len(names) > len(shown) else ""
    source = bars([name or counted.model for name in shown], lengths, x="macs")
    return (Figure(source, "macs of each module, forward and backward", which),)

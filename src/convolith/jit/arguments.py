"""Arguments of a region: named 8-byte slots that the caller fills and the generated code loads, and its counters."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

from llvmlite import ir

from convolith.jit.builder import I64, POINTER, FunctionBuilder
from convolith.jit.compile import ENTRY, Routine

LINE = 8
"""Number of slots in a cache line; each counter has its own line."""


class ArgumentBlock:
    """Names of a region's arguments, in order: addresses and 64-bit integers.

    The slots are followed by counters, whose address is the argument `counters`: threads take tasks from the first and
    their own number from the second. An array of slots is used by one call at a time.
    """

    def __init__(self, *names: str) -> None:
        self.names = names
        self.at = {name: number for number, name in enumerate(names)}
        self._counters = (self.at["counters"], len(names) + LINE - 1)

    def new(self, values: Mapping[str, int], counters: int = 2) -> array[int]:
        """Return slots with some values, 0 elsewhere, and with a number of counters."""
        return array("q", [values.get(name, 0) for name in self.names] + [0] * (counters + 1) * LINE)

    def update(self, slots: array[int], values: Mapping[str, int]) -> None:
        """Set some of the slots."""
        for name, value in values.items():
            slots[self.at[name]] = value

    def run(self, region: Routine, slots: array[int], threads: int) -> None:
        """Run a region on slots whose counters are zero."""
        base, (at, first) = slots.buffer_info()[0], self._counters
        slots[at] = base + 8 * first
        region.run(base, threads)

    def restart(self, slots: array[int]) -> None:
        """Set the two counters back to zero, for another run."""
        slots[self._counters[1]] = slots[self._counters[1] + LINE] = 0

    def begin(self, module: ir.Module, pointers: Mapping[str, ir.Type]) -> tuple[FunctionBuilder, dict[str, Any]]:
        """Begin a region, and load its arguments.

        Args:
            module: receives the region.
            pointers: type of the elements behind each address; other arguments are integers.
        """
        code = FunctionBuilder(module, ENTRY, [POINTER])
        return code, self.load(code, pointers)

    def load(self, code: FunctionBuilder, pointers: Mapping[str, ir.Type]) -> dict[str, Any]:
        """Load the slots that the first argument of a function points to, by name."""
        kinds = {"counters": I64, **pointers}
        return dict(zip(self.names, code.slots(code.argument(0, I64), [*map(kinds.get, self.names)]), strict=True))

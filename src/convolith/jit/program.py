"""Programs: regions that threads run one after the other, with a barrier between, without returning to Python.

Every thread calls every region, which shares its tasks among the threads that call it. Between two regions, threads
wait for each other at a counter: they look at it for a while, and then let other threads of the processor run.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from llvmlite import ir

from convolith.jit import threads as team
from convolith.jit.arguments import LINE
from convolith.jit.builder import I32, I64, POINTER, VOID, FunctionBuilder, Int
from convolith.jit.compile import ENTRY, Routine, routine
from convolith.jit.target import Target, host

LOOKS = 1000
"""Number of times that a waiting thread looks at the counter before it lets other threads run."""
PAUSES = {"avx512": "llvm.x86.sse2.pause", "avx2": "llvm.x86.sse2.pause", "sse2": "llvm.x86.sse2.pause"}
"""Instruction between two looks, by the name of the target."""
HEADER, MEMBERS, ARRIVALS, COUNTERS = 0, LINE, 2 * LINE, 3 * LINE
"""Places in a program's memory: its arguments, the number of threads that began, of those that arrived, and counters
of the regions."""
STEP_SLOTS = 3
"""Slots of a step: its function, the address of its arguments, its number of threads."""


class Call(NamedTuple):
    """One region of a program, and its arguments."""

    region: Routine
    slots: Sequence[int]
    """Arguments, without counters."""
    counters_at: int
    """Number of the argument that holds the address of the counters."""
    counters: int
    """Number of counters."""
    threads: int


def write(module: ir.Module, target: Target, _: Any) -> None:
    """Generate the region that runs a list of regions."""
    code = FunctionBuilder(module, ENTRY, [POINTER])
    steps, count, stamps, members, arrivals, team_size, give_way = code.slots(
        code.argument(0, I64), [I64, None, None, I64, I64, None, None]
    )
    me = code.fetch_add(members)
    size = _team_size(code, team_size)
    timed = code.every(me.equals(0), stamps >= 1)
    with code.when(timed):
        _stamp(code, stamps - 8)
    with code.loop(0, count) as step:
        here = steps + step.index * STEP_SLOTS
        function, arguments, wanted = ((here + n).integer() for n in range(STEP_SLOTS))
        with code.when(me < wanted):
            kind = ir.FunctionType(VOID, [I64])
            code.ir.call(code.ir.inttoptr(function.value, kind.as_pointer()), [arguments.value])
        with code.when(size >= 2):
            code.ir.atomic_rmw("add", arrivals.value, ir.Constant(I64, 1), "acq_rel")
            _wait(code, target, arrivals.value, ((step.index + 1) * size).value, give_way)
        with code.when(timed):
            _stamp(code, stamps + step.index * 8)
    code.finish()


def _stamp(code: FunctionBuilder, address: Int) -> None:
    """Generate the store of the processor's clock."""
    clock = code.intrinsic("llvm.readcyclecounter", I64, [])
    code.ir.store(clock, code.ir.inttoptr(address.value, POINTER), align=8)


def _team_size(code: FunctionBuilder, function: Int) -> Int:
    """Generate the number of threads that run the program: the answer of a function, or one if there is none."""
    before = code.ir.block
    with code.ir.if_then(function >= 1):
        kind = ir.FunctionType(I32, [])
        called = code.ir.sext(code.ir.call(code.ir.inttoptr(function.value, kind.as_pointer()), []), I64)
        inside = code.ir.block
    size = code.ir.phi(I64)
    size.add_incoming(ir.Constant(I64, 1), before)
    size.add_incoming(called, inside)
    return Int(code, size)


def _wait(code: FunctionBuilder, target: Target, counter: ir.Value, goal: ir.Value, give_way: Int) -> None:
    """Generate the wait until a counter has reached a number."""
    before = code.ir.block
    head, body, rest, after = (code.ir.append_basic_block(name) for name in ("look", "again", "yield", "go_on"))
    code.ir.branch(head)
    code.ir.position_at_end(head)
    looks = code.ir.phi(I64)
    looks.add_incoming(ir.Constant(I64, 0), before)
    arrived = code.ir.load_atomic(counter, "acquire", 8, typ=I64)
    code.ir.cbranch(code.ir.icmp_signed("<", arrived, goal), body, after)
    code.ir.position_at_end(body)
    more = code.ir.add(looks, ir.Constant(I64, 1))
    if target.name in PAUSES:
        code.intrinsic(PAUSES[target.name], VOID, [])
    looks.add_incoming(more, body)
    code.ir.cbranch(code.ir.icmp_signed("<", more, ir.Constant(I64, LOOKS)), head, rest)
    code.ir.position_at_end(rest)
    with code.when(give_way >= 1):
        kind = ir.FunctionType(I32, [])
        code.ir.call(code.ir.inttoptr(give_way.value, kind.as_pointer()), [])
    looks.add_incoming(more, code.ir.block)
    code.ir.branch(head)
    code.ir.position_at_end(after)


@cache
def _address(name: str, *libraries: str | None) -> int:
    """Return the address of a function of one of some libraries, or 0."""
    for library in libraries:
        try:
            return ctypes.cast(getattr(ctypes.CDLL(library), name), ctypes.c_void_p).value or 0
        except (OSError, AttributeError):
            continue
    return 0


def _torch_library() -> str:
    return str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")


class Program:
    """Regions with their arguments, in memory of their own, for one call at a time."""

    def __init__(self, calls: Sequence[Call], threads: int) -> None:
        counters = [call.counters * LINE for call in calls]
        table = COUNTERS + sum(counters)
        places = [table + STEP_SLOTS * len(calls)]
        for call in calls:
            places.append(places[-1] + -(-len(call.slots) // LINE) * LINE)
        raw = np.zeros(places[-1] + LINE, np.int64)
        start = -raw.ctypes.data % 64 // 8
        self.memory = raw[start : start + places[-1]]
        """Arguments of the program and of all steps."""
        self.places = places
        """Start of each step's arguments in the memory."""
        self.threads = threads
        self.base = self.memory.ctypes.data
        self._calls = calls  # the owners of the code
        self._shared = self.memory[MEMBERS:table]
        self._stamps = np.zeros(len(calls) + 1, np.int64)
        self._region = routine(write, host(), None)
        openmp = team.openmp() is not None
        self.memory[:7] = (
            self.base + 8 * table,
            len(calls),
            0,
            self.base + 8 * MEMBERS,
            self.base + 8 * ARRIVALS,
            _address("omp_get_num_threads", _torch_library()) if openmp else 0,
            _address("sched_yield", None),
        )
        at = COUNTERS
        for number, call in enumerate(calls):
            place = self.places[number]
            self.memory[place : place + len(call.slots)] = call.slots
            self.memory[place + call.counters_at] = self.base + 8 * at
            at += counters[number]
            step = table + STEP_SLOTS * number
            self.memory[step : step + STEP_SLOTS] = (call.region.address, self.base + 8 * place, call.threads)

    def run(self) -> None:
        """Run all regions on the threads that torch uses now, or on this one where OpenMP is missing."""
        self._shared.fill(0)
        threads = self.threads if self.memory[5] else 1
        self._region.run(self.base, threads)

    def timed(self) -> np.ndarray:
        """Run all regions; return the ticks of the processor's clock that each took, with its barrier."""
        self.memory[2] = self._stamps[1:].ctypes.data
        try:
            self.run()
        finally:
            self.memory[2] = 0
        return np.diff(self._stamps)

"""Measurement of this machine's limits: products, copies and transforms per second, of all threads together."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable

import torch
from llvmlite import ir

from convolith.engines.fft.engine import fft
from convolith.engines.fft.tiling import operations
from convolith.engines.machine_limits import MachineLimits
from convolith.jit import Target, host, routine, thread_count
from convolith.jit.builder import I64, POINTER, FunctionBuilder, constant, itemsize
from convolith.jit.conversions import STORED
from convolith.planner import machine
from convolith.spec import ConvSpec

TURNS = 20_000
"""Iterations of the loop of products: about a millisecond."""
BLOCKS, ROUNDS = 6, 6
"""Blocks, with pauses between, and timed calls of each: all threads may share one core for tens of milliseconds."""
PAUSE_SECONDS = 0.03
"""Pause before each block: threads of earlier work may go on spinning for a while."""
LARGE_BYTES = 1 << 26
"""Size of an array that no cache holds."""
SMALL_BYTES = 1 << 20
IMAGE = ConvSpec(in_channels=1, out_channels=1, size=(512, 512), kernel_size=31, padding=15)
"""Layer on which transforms are measured."""


def calibrate() -> MachineLimits:
    """Measure and store this machine's limits; takes about a second."""
    shipped = MachineLimits()
    limits = MachineLimits(
        float32_products_per_second=products_per_second("float32"),
        float64_products_per_second=products_per_second("float64"),
        memory_bytes_per_second=_copied(LARGE_BYTES),
        cache_bytes_per_second=_copied(SMALL_BYTES),
        cache_bytes=shipped.cache_bytes,
        fft_operations_per_second=_transformed(),
        call_seconds=shipped.call_seconds,
    )
    machine.keep(limits)
    return limits


def products_per_second(dtype: str) -> float:
    """Measure the rate of multiply-adds on registers alone, which no engine can exceed."""
    target, threads = host(), thread_count()
    region = routine(write, target, dtype)
    arguments = array("q", [0])
    seconds = _least(lambda: region.run(arguments.buffer_info()[0], threads))
    return threads * TURNS * target.accumulators * target.lanes(itemsize(STORED[dtype])) / seconds


def write(module: ir.Module, target: Target, dtype: str) -> None:
    """Generate a loop of products, each of which depends on its own register only."""
    code = FunctionBuilder(module, "region", [POINTER])
    kind = ir.VectorType(STORED[dtype], target.lanes(itemsize(STORED[dtype])))
    start = [constant(kind, 1.0 + n) for n in range(target.accumulators)]
    with code.loop(0, TURNS, values=start) as loop:
        factor, term = constant(kind, 0.999), constant(kind, 0.5)
        loop.carry([code.multiply_add(value, factor, term) for value in loop.values])
    total = loop.values[0]
    for value in loop.values[1:]:
        total = code.ir.fadd(total, value)
    negative = code.ir.fcmp_ordered(
        "<", code.ir.extract_element(total, ir.Constant(ir.IntType(32), 0)), STORED[dtype](-1.0)
    )
    with code.when(negative):  # never true, but the compiler cannot know and must compute
        code.argument(0, I64).store(code.integer(0).value)
    code.finish()


def _copied(size: int) -> float:
    source, goal = torch.ones(size // 4, device="cpu"), torch.zeros(size // 4, device="cpu")
    return 2 * size / _least(lambda: goal.copy_(source))


def _transformed() -> float:
    state = fft.prepare(IMAGE, torch.ones(IMAGE.kernel_shape, device="cpu"))
    x = torch.zeros(IMAGE.input_shape, device="cpu")
    return operations(IMAGE, state.tiling)[0] / _least(lambda: fft.apply(state, x, None))


def _least(function: Callable[[], object]) -> float:
    """Return the shortest time, in seconds, of the calls of the second fastest block: clocks jump now and then."""
    shortest = []
    for _ in range(BLOCKS):
        time.sleep(PAUSE_SECONDS)
        function()
        times = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        shortest.append(min(times))
    return sorted(shortest)[:2][-1]

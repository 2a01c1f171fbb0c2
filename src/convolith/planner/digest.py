"""Digest of all bytes of an array, at memory speed, by which a cached kernel is recognised.

Bytes are read as rows of 64 words of 32 bits. In each block of rows, each of the 64 columns is mixed into one word by
`state = rotate((state ^ word) * odd number)`, and the words of all blocks, with the bytes that fill no row, are the
digest. Each step is a bijection, so that a change of a single word in a column of a block always changes the digest;
several changes may cancel, for random changes in one of 2^32 cases for each column that they touch.
"""

from __future__ import annotations

from math import ceil

import numpy as np
from llvmlite import ir

from convolith.jit import Target, host, routine, thread_count
from convolith.jit.arguments import ArgumentBlock
from convolith.jit.builder import I16, I32, constant, zero

LANES, VECTORS = 8, 8
ROW = 4 * LANES * VECTORS
"""Bytes of a row."""
BLOCK_ROWS = 256
"""Number of rows that are mixed into one."""
FACTOR, ROTATION = 0x9E3779B1, 15
"""Odd number near 2^32 over the golden ratio, and the bits by which a product is rotated to mix into its low bits."""
ARGUMENTS = ArgumentBlock("bytes", "digests", "counters", "rows", "blocks")
"""Arguments of the region."""


def digest(data: np.ndarray) -> np.ndarray:
    """Return the digest of bytes.

    Args:
        data: (size,) of uint8.

    Returns:
        Bytes; one for every 256 bytes of large data.
    """
    rows, blocks = data.size // ROW, ceil(data.size // ROW / BLOCK_ROWS)
    result = np.empty(blocks * ROW + data.size % ROW, np.uint8)
    result[blocks * ROW :] = data[rows * ROW :]
    values = {"bytes": data.ctypes.data, "digests": result.ctypes.data, "rows": rows, "blocks": blocks}
    threads = min(thread_count(), max(blocks // 2, 1))
    ARGUMENTS.run(routine(write, host(), BLOCK_ROWS), ARGUMENTS.new(values), threads)
    return result


def write(module: ir.Module, target: Target, block_rows: int) -> None:  # noqa: ARG001 - the code suits any processor
    """Generate the region, which processes blocks until all are done."""
    code, s = ARGUMENTS.begin(module, {"bytes": I16, "digests": I32})
    word = ir.VectorType(I32, LANES)
    with code.tasks(s["counters"], s["blocks"], 1) as block:
        stop = code.minimum((block + 1) * block_rows, s["rows"])
        with code.loop(block * block_rows, stop, values=[zero(word)] * VECTORS) as row:
            source, mixed = s["bytes"] + row.index * (ROW // 2), []
            for number, state in enumerate(row.values):
                words = code.ir.bitcast((source + number * 2 * LANES).vector(2 * LANES), word)
                product = code.ir.mul(code.ir.xor(state, words), constant(word, FACTOR))
                mixed.append(code.intrinsic("llvm.fshl.v8i32", word, [product, product, constant(word, ROTATION)]))
            row.carry(mixed)
        for number, state in enumerate(row.values):
            (s["digests"] + block * (ROW // 4) + number * LANES).store(state)
    code.finish()

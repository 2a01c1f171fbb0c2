"""Machine code generated in Python: LLVM IR, compiled for this processor, cached on disk, run on torch's threads."""

from convolith.jit.compile import Routine, routine
from convolith.jit.target import Target, host
from convolith.jit.threads import at_most, scratch, thread_count

__all__ = [
    "Routine",
    "Target",
    "at_most",
    "host",
    "routine",
    "scratch",
    "thread_count",
]

"""Machine code generated in Python: LLVM IR, compiled for this processor, cached on disk, run on torch's threads."""

from convolith.jit.compile import Routine, routine
from convolith.jit.target import Target, host
from convolith.jit.threads import at_most, is_forked, scratch, thread_count, with_living_threads

__all__ = [
    "Routine",
    "Target",
    "at_most",
    "host",
    "is_forked",
    "routine",
    "scratch",
    "thread_count",
    "with_living_threads",
]

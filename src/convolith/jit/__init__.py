"""Machine code from Python: written as LLVM IR, compiled for this processor, kept on disk, run on torch's threads."""

from convolith.jit.compile import address
from convolith.jit.target import Target, host
from convolith.jit.threads import run, scratch, thread_count

__all__ = ["Target", "address", "host", "run", "scratch", "thread_count"]

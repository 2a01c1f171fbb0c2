"""What Convolith keeps in memory from call to call, and how it is given back."""

from __future__ import annotations

from convolith.correlation import call_cache
from convolith.engines import buffers
from convolith.jit.threads import forget_scratch
from convolith.planner import prepared_kernels
from convolith.planner.choose import estimated


def clear_caches() -> None:
    """Give back the memory that is kept from call to call: prepared kernels, results' buffers, plans, known calls.

    The next calls find them out again. Compiled code stays loaded, and measurements stay on disk.

    Example:
        >>> import convolith as cl
        >>> cl.clear_caches()
    """
    prepared_kernels.forget()
    call_cache.forget()
    buffers.give_up()
    forget_scratch()
    estimated.cache_clear()

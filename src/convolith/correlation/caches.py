"""`clear_caches`: release the memory that is kept between calls."""

from __future__ import annotations

from convolith.correlation import call_cache, filter_cache, overflow
from convolith.engines import buffers
from convolith.jit.threads import forget_scratch
from convolith.planner import prepared_kernels
from convolith.planner.choose import estimated


def clear_caches() -> None:
    """Release the memory that is kept between calls: prepared kernels, buffers of results, plans, checked calls.

    Later calls build these again. Compiled code stays loaded, and measurements stay on disk.

    Example:
        >>> import convolith as cl
        >>> cl.clear_caches()
    """
    prepared_kernels.forget()
    call_cache.forget()
    filter_cache.forget()
    overflow.forget()
    buffers.give_up()
    forget_scratch()
    estimated.cache_clear()

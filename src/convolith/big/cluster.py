"""A Dask cluster that is there already, as an executor for runs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from convolith.big.stores.places import needed
from convolith.errors import ConvolithError
from convolith.version import __version__

CONNECT_SECONDS = 10
"""Seconds after which a scheduler that does not answer is given up."""
WAITING = 2
"""Blocks that are submitted for each thread of the workers: one is computed while the next one waits there."""


@contextmanager
def connected(address: str | None) -> Iterator[tuple[Executor | None, int | None]]:
    """Return a context with the executor of a cluster, and the number of blocks to submit at a time.

    Args:
        address: that of the scheduler, such as "tcp://10.0.0.1:8786". Every worker needs Convolith in this version,
            and the folders of the source and of the result under the same names. None for no cluster, and no executor.

    Raises:
        ConvolithError: a scheduler that does not answer, has no workers, or whose workers have another Convolith.
    """
    if address is None:
        yield None, None
        return
    distributed = needed("distributed", "cluster")
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as problem:
        raise ConvolithError(
            f"scheduler is {address!r}, which does not answer within {CONNECT_SECONDS} seconds; expected the address "
            "that `dask scheduler` prints, such as 'tcp://10.0.0.1:8786'"
        ) from problem
    with client:
        threads = client.nthreads()
        if not threads:
            raise ConvolithError(f"scheduler is {address!r}, which has no workers; start some with `dask worker`")
        for worker, found in client.run(version_here, on_error="return").items():
            if found != __version__:
                what = f"it has version {found}" if isinstance(found, str) else f"importing it fails: {found}"
                raise ConvolithError(f"worker {worker} does not have Convolith {__version__}: {what}; install it there")
        yield client.get_executor(), WAITING * sum(threads.values())


def version_here() -> str:
    """Return the version of Convolith; run on a worker, that of the worker."""
    return __version__

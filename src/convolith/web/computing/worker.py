"""The second process: one request after another, with events and results sent back; it is ended to cancel one.

A thread could not be ended: calls of compiled code cannot be interrupted, and an exception that is raised within
torch's callbacks ends the whole process.
"""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from convolith.errors import ConvolithError
from convolith.web.computing.outbox import Outbox
from convolith.web.store import Stored


def work(connection: Any, load: Callable[[], Any] | None) -> None:
    """Do requests until the server closes the pipe: the main function of the second process.

    Args:
        connection: end of a pipe; it gives requests with their pictures, and takes events, results and outcomes.
        load: function that returns the model of the command line, or None.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends this process
    sys.stdout = sys.stderr  # a model's own code may print
    from convolith.web.computing import fits, networks  # noqa: F401 - what takes seconds, before the first request

    with suppress(EOFError, OSError):  # the server has ended
        while True:
            request, pictures = connection.recv()
            connection.send(("end", outcome_of(Outbox(connection), request, pictures, load)))
            del request, pictures


def outcome_of(
    outbox: Outbox, request: Any, pictures: Mapping[str, Stored], load: Callable[[], Any] | None
) -> dict[str, Any]:
    """Do a request, and return the event of its outcome."""
    try:
        _do(outbox, request, pictures, load)
    except ConvolithError as problem:
        return {"event": "refused", "reason": str(problem)}
    except MemoryError:
        return {"event": "refused", "reason": "there is not enough memory for this; pass a smaller picture"}
    except OSError:  # of the pipe
        raise
    except Exception as problem:  # noqa: BLE001 - whatever a model's code raises; the page says so
        traceback.print_exc(file=sys.stderr)
        return {"event": "failed", "reason": f"{type(problem).__name__}: {problem}"}
    return {"event": "done"}


def _do(outbox: Outbox, request: Any, pictures: Mapping[str, Stored], load: Callable[[], Any] | None) -> None:
    from convolith.web.computing.compute import compute, crossover
    from convolith.web.computing.fits import fit_kernel
    from convolith.web.computing.networks import examine
    from convolith.web.requests import Compute, Crossover, ExamineNetwork, FitKernel

    match request:
        case Compute():
            compute(outbox, request, pictures)
        case Crossover():
            crossover(outbox, request)
        case FitKernel():
            fit_kernel(outbox, request, pictures)
        case ExamineNetwork() if load is not None:
            examine(outbox, request, load)

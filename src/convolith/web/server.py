"""The server of `convolith serve`: its socket on this machine alone, its token, the browser, and its end."""

from __future__ import annotations

import ctypes
import os
import socket
import tempfile
import webbrowser
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from html import escape
from pathlib import Path
from secrets import token_urlsafe
from threading import Thread
from typing import Any

from convolith.errors import ConvolithError

ADDRESS = "127.0.0.1"
TOKEN_BYTES = 32
GRACE_SECONDS = 2
"""Time that answers may take to end once the server is stopped."""
LARGE_BYTES = 1 << 20
"""Size from which memory is returned to the system as soon as it is free."""
M_MMAP_THRESHOLD = -3
"""Number of that setting in glibc, which otherwise raises it to the size of the pictures that come and go."""


def listen(port: int = 0) -> socket.socket:
    """Return a socket that listens on this machine alone, at a port or at a free one.

    Connections wait in it until the server runs, which it does as soon as its packages are imported.

    Raises:
        ConvolithError: a port that is taken, or that this user may not open.
    """
    # asyncio sends small answers without delay only where the protocol is named
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if os.name == "posix":
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((ADDRESS, port))
        listening.listen(128)
    except OSError as problem:
        listening.close()
        raise ConvolithError(
            f"--port is {port}, which cannot be opened ({problem.strerror}); pass another, or none"
        ) from None
    return listening


def new_token() -> str:
    """Return the secret of a start."""
    return token_urlsafe(TOKEN_BYTES)


def address_of(listening: socket.socket, token: str) -> str:
    """Return the address of the page; the token is in its fragment, which browsers keep to themselves."""
    return f"http://{ADDRESS}:{listening.getsockname()[1]}/#t={token}"


def run(listening: socket.socket, token: str, load: Callable[[], Any] | None = None, name: str | None = None) -> None:
    """Serve until Ctrl-C.

    Args:
        listening: socket of `listen`.
        token: secret that requests bring.
        load: function that returns the model of the command line, or None.
        name: name of that model.
    """
    from convolith.web.app import Server, application

    _return_large_memory()
    state = Server(load, name)
    app = application(state, token=token, port=listening.getsockname()[1])
    with listening, suppress(KeyboardInterrupt):  # which the server raises again after it has ended in good order
        serving(app, state.slot.close).run(sockets=[listening])


def _return_large_memory() -> None:
    """Let pictures that make room for others leave no holes in the process' memory; does nothing without glibc."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def serving(app: Any, close: Callable[[], Awaitable[None]]) -> Any:
    """Return the `uvicorn.Server` of an application.

    Args:
        app: the application.
        close: cancels what is computed; called before the server waits for its answers to end, as streams of events
            otherwise would not, and be cut off with an error.
    """
    import uvicorn

    class Closing(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await close()
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="on",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return Closing(config)


@contextmanager
def redirect_file(address: str) -> Iterator[Path]:
    """Return a context with a file that leads a browser to an address, readable by this user alone.

    The list of processes, which all users can read, then shows the name of the file and not the token.
    """
    handle, name = tempfile.mkstemp(prefix="convolith-", suffix=".html")  # its mode is 0600
    file = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            link = escape(address, quote=True)
            stream.write(
                f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={link}">'
                f'<title>Convolith</title><p><a href="{link}">Open the page</a></p>\n'
            )
        yield file
    finally:
        file.unlink(missing_ok=True)


def open_browser(file: Path) -> bool:
    """Open a file in the user's browser, in the background; return False where there is none.

    Browsers that would take over the terminal are left alone.
    """
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    in_terminal = isinstance(browser, webbrowser.GenericBrowser) and not isinstance(
        browser, webbrowser.BackgroundBrowser
    )
    if in_terminal:
        return False
    Thread(target=browser.open, args=(file.as_uri(),), daemon=True).start()
    return True

"""The application: addresses, what each of them reads, and its answer; `docs/page-api.md` describes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from convolith.errors import ConvolithError
from convolith.report.plain import plain
from convolith.version import __version__
from convolith.web import pictures
from convolith.web.jobs import Job, Slot
from convolith.web.kernels import shown_kernel
from convolith.web.requests import (
    MAX_FITTED,
    MAX_KERNEL,
    PRESETS,
    WHOLE,
    Compute,
    Crossover,
    ExamineNetwork,
    FitKernel,
    ShowKernel,
)
from convolith.web.schema import RequestError, read_request
from convolith.web.security import Guard
from convolith.web.store import Store, Stored

STATIC = Path(__file__).parent / "static"
"""Folder of the page's files."""
MAX_JSON = 4 << 20
"""Largest number of bytes of a request in JSON."""
STORED_BYTES = 256 << 20
"""Bytes of all uploaded pictures together, and of all results."""
BODY_SECONDS = 60.0
"""Time in which the body of a request must arrive."""
Kind = TypeVar("Kind")


class Server:
    """State of a server: pictures, results, the compute slot, and the model of the command line.

    Args:
        load: function that returns the model, or None if none was named; it can be pickled.
        name: name of the model.
    """

    def __init__(self, load: Callable[[], Any] | None = None, name: str | None = None) -> None:
        self.pictures, self.results = Store("picture", STORED_BYTES), Store("result", STORED_BYTES)
        self.slot = Slot(self.results, load)
        self.name = name

    def find(self, name: str) -> Stored:
        """Return a picture or a result by its identifier, or a bundled picture by its name.

        Raises:
            RequestError: status 404.
        """
        if name.startswith("r-"):
            return self.results.get(name)
        found = self.pictures.find(name)
        if found is None and name in pictures.bundled_names():
            found = pictures.bundled(name)
            self.pictures.put(found, name)
        return found or self.pictures.get(name)

    async def job(self, request: Any, *names: str | None) -> JobResponse:
        """Return the answer that streams a job.

        Args:
            request: the job's request.
            names: pictures that it names, or None.

        Raises:
            RequestError: status 404 for a picture that is not there, 429 if too many jobs wait.
        """
        found = {name: await asyncio.to_thread(self.find, name) for name in names if name is not None}
        return JobResponse(self.slot, self.slot.submit(request, found))


class JobResponse(StreamingResponse):
    """Events of a job as lines of JSON; the job is cancelled when the answer ends, as when a tab is closed."""

    def __init__(self, slot: Slot, job: Job) -> None:
        super().__init__(job.events(), media_type="application/x-ndjson", headers={"x-convolith-job": job.id})
        self._slot, self._job = slot, job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._slot.end(self._job)


async def body_of(request: Request, most: int) -> bytearray:
    """Return the body of a request.

    Raises:
        RequestError: status 413 for more than `most` bytes, by the length that is announced or by what arrives; 408
            if it does not arrive in time; 400 if it ends early.
    """
    too_large = RequestError(413, f"the body is larger than {most:,} bytes, the most that is taken here")
    announced = request.headers.get("content-length")
    if announced is not None and int(announced) > most:
        raise too_large
    body = bytearray()  # one piece of memory: many small ones would be scattered between those that stay
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                if len(body) + len(part) > most:
                    raise too_large
                body += part
    except TimeoutError:
        raise RequestError(408, f"the body did not arrive within {BODY_SECONDS:g} s") from None
    except ClientDisconnect:
        raise RequestError(400, "the body ended early") from None
    return body


async def parsed(request: Request, kind: type[Kind]) -> Kind:
    """Return the body of a request as a dataclass.

    Raises:
        RequestError: status 415 if it is not said to be JSON; what `body_of` and `read_request` refuse.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise RequestError(415, f"Content-Type is {media[:60] or 'missing'}; expected application/json")
    return await asyncio.to_thread(read_request, kind, await body_of(request, MAX_JSON))


def server_of(request: Request) -> Server:
    """Return the state of the server that got a request."""
    server: Server = request.app.state.server
    return server


async def ping(request: Request) -> Response:
    """Answer at once, also while a job computes."""
    return JSONResponse({"ok": True, "version": __version__, "jobs": server_of(request).slot.jobs})


async def about(request: Request) -> Response:
    """Answer with what the page offers: pictures, presets of kernels, limits, the model's name.

    The page asks this as it opens: the second process then imports what it needs, before the first computation.
    """
    server_of(request).slot.warm()
    arguments = {
        name: {
            argument: {"default": default, "least": least, "most": most, "whole": argument in WHOLE}
            for argument, (default, least, most) in allowed.items()
        }
        for name, allowed in PRESETS.items()
    }
    limits = {
        "upload_bytes": pictures.MAX_BYTES,
        "pixels": pictures.MAX_PIXELS,
        "kernel": MAX_KERNEL,
        "fitted_kernel": MAX_FITTED,
    }
    return JSONResponse(
        {
            "version": __version__,
            "model": server_of(request).name,
            "pictures": list(pictures.bundled_names()),
            "presets": arguments,
            "limits": limits,
        }
    )


async def upload(request: Request) -> Response:
    """Keep an uploaded picture, and answer with its identifier and what was read."""
    body = await body_of(request, pictures.MAX_BYTES)
    stored = await asyncio.to_thread(pictures.decode, body)
    described = await asyncio.to_thread(pictures.described, stored)
    return JSONResponse({"id": server_of(request).pictures.put(stored), **described}, 201)


async def show(request: Request) -> Response:
    """Answer with a picture or a result, as a PNG or as a .npy file."""
    stored = await asyncio.to_thread(server_of(request).find, request.path_params["id"])
    query = _query(request.query_params)
    if query.pop("as") == "npy":
        contents = await asyncio.to_thread(pictures.encode_npy, stored.array)
        named = {"content-disposition": 'attachment; filename="convolith.npy"'}
        return Response(contents, media_type="application/octet-stream", headers=named)
    png, said = await asyncio.to_thread(pictures.encode_png, stored.array, **query)
    return Response(png, media_type="image/png", headers=said)


async def describe(request: Request) -> Response:
    """Answer with the shape, dtype and range of a picture or a result."""
    name = request.path_params["id"]
    stored = await asyncio.to_thread(server_of(request).find, name)
    return JSONResponse({"id": name, **await asyncio.to_thread(pictures.described, stored)})


def _query(given: Mapping[str, str]) -> dict[str, Any]:
    """Return the options of `show`: as, low, high and diverging."""
    unknown = set(given) - {"as", "low", "high", "diverging"}
    if unknown:
        raise RequestError(422, f"the address has {min(unknown)[:60]!r}; expected some of as, low, high, diverging")
    form, diverging = given.get("as", "png"), given.get("diverging", "0")
    if form not in ("png", "npy") or diverging not in ("0", "1"):
        raise RequestError(422, "the address has another as than png or npy, or another diverging than 0 or 1")
    return {"as": form, "diverging": diverging == "1"} | {
        name: _finite(name, given[name]) for name in ("low", "high") if name in given
    }


def _finite(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) <= 1e300:
        raise RequestError(422, f"{name} is {text[:60]!r}; expected a finite number")
    return value


async def kernel(request: Request) -> Response:
    """Answer with the numbers of a kernel."""
    asked, server = await parsed(request, ShowKernel), server_of(request)
    return JSONResponse(plain(await asyncio.to_thread(shown_kernel, asked.kernel, server.find)))


async def compute(request: Request) -> Response:
    """Stream a computation."""
    asked = await parsed(request, Compute)
    return await server_of(request).job(asked, asked.picture, asked.kernel.picture)


async def crossover(request: Request) -> Response:
    """Stream the times of the engines by kernel size."""
    return await server_of(request).job(await parsed(request, Crossover))


async def fit(request: Request) -> Response:
    """Stream a fit."""
    asked = await parsed(request, FitKernel)
    return await server_of(request).job(asked, asked.before, asked.after)


async def network(request: Request) -> Response:
    """Stream the examination of the model that was named on the command line."""
    asked, server = await parsed(request, ExamineNetwork), server_of(request)
    if server.name is None:
        raise RequestError(422, "no model was named; start the page with one: convolith serve my_models:resnet")
    return await server.job(asked)


async def cancel(request: Request) -> Response:
    """Cancel a job that runs or waits."""
    server_of(request).slot.cancel(request.path_params["id"])
    return JSONResponse({"cancelled": request.path_params["id"]})


async def refused(_: Request, problem: Exception) -> Response:
    """Answer to a request that is refused, with the reason."""
    status, reason = 422, str(problem)
    headers: Mapping[str, str] | None = None
    if isinstance(problem, RequestError):
        status = problem.status
        if status == 408:  # the rest of the body would be waited for
            headers = {"connection": "close"}
    elif isinstance(problem, HTTPException):
        status, headers = problem.status_code, problem.headers
        reason = {404: "there is nothing at this address", 405: "this address does not take this method"}.get(
            status, problem.detail
        )
    return JSONResponse({"error": reason}, status, headers)


ROUTES = (
    Route("/ping", ping),
    Route("/about", about),
    Route("/picture", upload, methods=["PUT"]),
    Route("/picture/{id}", show),
    Route("/picture/{id}/about", describe),
    Route("/kernel", kernel, methods=["POST"]),
    Route("/compute", compute, methods=["POST"]),
    Route("/crossover", crossover, methods=["POST"]),
    Route("/fit", fit, methods=["POST"]),
    Route("/network", network, methods=["POST"]),
    Route("/cancel/{id}", cancel, methods=["POST"]),
)
"""Addresses of the API, below `/api`."""


async def no_page(_: Request) -> Response:
    """Answer in place of the page's files, where the installation lacks them."""
    raise RequestError(404, "this installation has no files of the page; install Convolith from a wheel")


class Files:
    """The page's files, as they lie in a folder; what is no name of a file is not found."""

    def __init__(self, folder: Path) -> None:
        self._files = StaticFiles(directory=folder, html=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a file."""
        if "\0" in scope["path"]:
            raise HTTPException(404)
        await self._files(scope, receive, send)


def application(server: Server, *, token: str, port: int, static: Path = STATIC) -> ASGIApp:
    """Return the application with its guard.

    Args:
        server: its state.
        token: secret that requests to the API bring.
        port: port that it listens on.
        static: folder of the page's files.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await server.slot.close()

    has_page = (static / "index.html").is_file()
    page = Mount("/", Files(static)) if has_page else Route("/{rest:path}", no_page)
    inner = Starlette(
        routes=[Mount("/api", routes=ROUTES), page],
        exception_handlers={ConvolithError: refused, HTTPException: refused},
        lifespan=lifespan,
    )
    inner.state.server = server
    return Guard(inner, token=token, port=port)

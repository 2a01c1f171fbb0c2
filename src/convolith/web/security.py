"""The guard before every answer: token, Host, Origin and Sec-Fetch-Site of a request, and the headers of answers.

Any page in the user's browser can send requests to this machine, and any user of the machine can reach the port.
Files of the page need no token, since a browser asks for them before a script can send one; everything under `/api`
does. There are no cookies, and no other origin is allowed to read answers.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, MutableMapping
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

API = "/api/"
"""Beginning of the paths that need a token."""
NAMES = ("127.0.0.1", "localhost", "[::1]")
"""Names of this machine that a Host may have."""
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""Headers of every answer."""


class Guard:
    """Middleware that answers requests from elsewhere itself, and sets the headers of all answers.

    Args:
        app: the application.
        token: secret of this server.
        port: port that it listens on.
    """

    def __init__(self, app: ASGIApp, *, token: str, port: int) -> None:
        self.app, self._token, self._hosts = app, token.encode(), [f"{name}:{port}" for name in NAMES]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        of_api = scope["path"].startswith(API)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(message, of_api=of_api)
            await send(message)

        refusal = self._refusal(scope["headers"], of_api=of_api)
        if refusal is None:
            await self.app(scope, receive, send_with_headers)
        else:
            status, reason = refusal
            more = {"www-authenticate": "Bearer"} if status == 401 else {}
            await JSONResponse({"error": reason}, status, more)(scope, receive, send_with_headers)

    def _refusal(self, headers: Iterable[tuple[bytes, bytes]], *, of_api: bool) -> tuple[int, str] | None:
        """Return the status and the reason for refusing a request, or None."""
        given = {name: _values(headers, name) for name in ("host", "origin", "sec-fetch-site", "authorization")}
        twice = [name for name, values in given.items() if len(values) > 1]
        if twice:
            return 400, f"the header {twice[0]} is given twice; expected once"
        host, origin, site, authorization = (values[0] if values else None for values in given.values())
        if host not in self._hosts:
            return 421, f"Host is not this server's; expected one of {', '.join(self._hosts)}"
        if not of_api:
            return None
        if origin is not None and origin != f"http://{host}":
            return 403, "Origin is another site; requests come from the page of this server alone"
        if site not in (None, "same-origin", "none"):
            return 403, f"Sec-Fetch-Site is {site[:20]}; requests come from the page of this server alone"
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(secret.encode(), self._token):
            return 401, "the token is missing or that of another start; open the address that `convolith serve` printed"
        return None


def _values(headers: Iterable[tuple[bytes, bytes]], name: str) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key.lower() == name.encode()]


def _add_headers(message: MutableMapping[str, Any], *, of_api: bool) -> None:
    added = HEADERS | ({"cache-control": "no-store"} if of_api else {"cache-control": "no-cache"})
    left = [(name, value) for name, value in message.get("headers", ()) if name.decode("latin-1").lower() not in added]
    message["headers"] = left + [(name.encode(), value.encode()) for name, value in added.items()]

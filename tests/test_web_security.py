"""Who may talk to the page's server, and what every answer says about itself."""

import socket
from contextlib import suppress

import pytest

from convolith import __version__
from convolith.web import app
from tests.web_page import TOKEN, served


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    static = tmp_path_factory.mktemp("static")
    (static / "index.html").write_text("<!doctype html><title>page</title>")
    (static / "explorer.js").write_text("1")
    (static.parent / "secret.txt").write_text("secret")
    with served(static=static) as client:
        yield client


def raw(page, request):
    """Send bytes as they are, and return the answer's status line, headers and body."""
    request = request.replace(b"\r\n", b"\r\nConnection: close\r\n", b"Connection:" not in request)
    with socket.create_connection(("127.0.0.1", page.port), timeout=5) as connection:
        connection.sendall(request)
        return whole(connection)


def whole(connection):
    """Return what arrives until the server closes the connection."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts).decode()


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", f"Bearer {TOKEN[1:]}", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer \u00fc"],
)
def test_a_token_that_is_missing_wrong_or_old_is_refused(page, authorization):
    headers = {} if authorization is None else {"authorization": authorization.encode()}
    if authorization is None:
        request = page.build_request("GET", "/api/ping")
        del request.headers["authorization"]
        answer = page.send(request)
    else:
        answer = page.get("/api/ping", headers=headers)
    assert answer.status_code == 401
    assert "token" in answer.json()["error"]
    assert answer.headers["www-authenticate"] == "Bearer"


def test_the_token_lets_requests_in_and_stands_in_no_address(page):
    assert page.get("/api/ping").json()["ok"]
    assert page.get(f"/api/ping?t={TOKEN}", headers={"authorization": ""}).status_code == 401
    assert page.get("/api/ping", headers={"authorization": "", "cookie": f"t={TOKEN}"}).status_code == 401


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]"])
def test_this_machine_has_three_names(page, name):
    assert page.get("/api/ping", headers={"host": f"{name}:{page.port}"}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1", "localhost", "127.0.0.1:1", "127.0.0.1.:{}", "localhost.:{}", "evil.example:{}",
     "127.0.0.1:{}0", "[::1]", "0.0.0.0:{}", "", "127.0.0.1:{}@evil.example", "LOCALHOST:{} ", "127.0.0.1:0{}",
     "127.1:{}", "2130706433:{}", "[::1].:{}", "[0::1]:{}", "[::1%lo]:{}", "[::ffff:127.0.0.1]:{}", "::1:{}", "[::]:{}",
     "localhost.localdomain:{}", "127.0.0.1.evil.example:{}", "127.0.0.1:{}, evil.example"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/api/ping", "/"])
def test_another_host_is_refused_for_files_too(page, host, path):
    if host == "LOCALHOST:{} ":  # names of hosts are the same in capitals; browsers send small letters
        host = "LOCALHOST:{}"
    answer = page.get(path, headers={"host": host.format(page.port)})
    assert answer.status_code == 421
    assert "Host" in answer.json()["error"]


def test_no_host_and_two_hosts_are_refused(page):
    authorization = f"Authorization: Bearer {TOKEN}\r\n"
    without = raw(page, f"GET /api/ping HTTP/1.0\r\n{authorization}\r\n".encode())
    assert without.startswith("HTTP/1.1 421")
    host = f"Host: 127.0.0.1:{page.port}\r\n"
    twice = raw(page, f"GET /api/ping HTTP/1.1\r\n{host}Host: evil.example\r\n{authorization}\r\n".encode())
    assert twice.startswith("HTTP/1.1 400")


@pytest.mark.parametrize("header", ["authorization", "origin", "sec-fetch-site"])
def test_a_header_that_is_given_twice_is_refused(page, header):
    own = {"authorization": f"Bearer {TOKEN}", "origin": f"http://127.0.0.1:{page.port}", "sec-fetch-site": "none"}
    one = f"{header}: {own[header]}\r\n"
    request = f"GET /api/ping HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\n{one}{one}\r\n"
    answer = raw(page, request.encode())
    assert answer.startswith("HTTP/1.1 400")
    assert f"{header} is given twice" in answer


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "http://evil.example",
        "http://127.0.0.1:1",
        "https://127.0.0.1:{}",
        "http://localhost:{}",
        "",
        "http://127.0.0.1:{}/",
    ],
)
def test_another_origin_is_refused(page, origin):
    answer = page.get("/api/ping", headers={"origin": origin.format(page.port)})
    assert answer.status_code == 403
    assert "Origin" in answer.json()["error"]


def test_the_own_origin_is_taken(page):
    for name in ("127.0.0.1", "localhost"):
        own = {"host": f"{name}:{page.port}", "origin": f"http://{name}:{page.port}"}
        assert page.get("/api/ping", headers=own).status_code == 200


@pytest.mark.parametrize(
    ("site", "status"),
    [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403), ("", 403), ("x" * 900, 403)],
)
def test_fetches_of_other_sites_are_refused(page, site, status):
    assert page.get("/api/ping", headers={"sec-fetch-site": site}).status_code == status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 200), ("GET", "/api/ping", 200), ("GET", "/api/nothing", 404), ("GET", "/nothing", 404),
     ("GET", "/api/compute", 405), ("POST", "/api/compute", 415), ("OPTIONS", "/api/compute", 405), ("GET", "/api/picture/no", 404)],
)  # fmt: skip
def test_every_answer_has_the_headers(page, method, path, status):
    answer = page.request(method, path)
    assert answer.status_code == status
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    for part in ("frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'", "img-src 'self' blob: data:"):
        assert part in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert (
        answer.headers["cross-origin-opener-policy"] == answer.headers["cross-origin-resource-policy"] == "same-origin"
    )
    assert answer.headers["cache-control"] == ("no-store" if path.startswith("/api/") else "no-cache")
    assert not [
        name for name in answer.headers if name.startswith("access-control") or name in ("set-cookie", "server")
    ]
    if status >= 400 and method != "OPTIONS":
        assert answer.json()["error"]


def test_a_preflight_gives_no_permission(page):
    wanted = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    answer = page.options("/api/compute", headers=wanted)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "path",
    ["/api/picture", "/api/kernel", "/api/compute", "/api/crossover", "/api/fit", "/api/network", "/api/cancel/x"],
)
def test_no_get_changes_anything(page, path):
    for method in ("GET", "HEAD", "DELETE", "PATCH", "TRACE"):
        assert page.request(method, path).status_code == 405


@pytest.mark.parametrize("path", ["/api/ping", "/api/about", "/api/picture/rings", "/api/picture/rings/about", "/"])
def test_nothing_is_posted_where_something_is_read(page, path):
    for method in ("POST", "PUT", "DELETE"):
        answer = page.request(method, path, content=b"{}")
        assert answer.status_code == 405
        assert answer.json()["error"]


@pytest.mark.parametrize(
    "path",
    ["/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/%2e%2e%2fsecret.txt", "/a/../../secret.txt",
     "/..%5csecret.txt", "//etc/passwd", "/%2fetc%2fpasswd", "/explorer.js/../../secret.txt", "/index.html%00.js",
     "/%00", "/" + "a" * 5000, "/%ff%fe", "/explorer.js/x", "/api/../../secret.txt", "/%252e%252e%252fsecret.txt",
     "/..%252fsecret.txt", "/%c0%ae%c0%ae/secret.txt", "/....//secret.txt", "/./../secret.txt", "/explorer.js%2f..%2f..%2fsecret.txt",
     "/api/picture/..%2f..%2fsecret.txt", "/api/picture/%2e%2e", "http://evil.example/../secret.txt"],
)  # fmt: skip
def test_paths_outside_of_the_page_lead_nowhere(page, path):
    answer = raw(page, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\nConnection: close\r\n\r\n".encode())
    status = int(answer.split()[1])
    assert 400 <= status < 500, answer
    assert "root:" not in answer
    assert "\r\nsecret" not in answer


@pytest.mark.parametrize(
    "path",
    ["/api/ping", "/api%2fping", "/%61pi/ping", "//api/ping", "/./api/ping", "/x/../api/ping", "/API/ping", "/api//ping", "/api",
     "/api/", "/api/ping/", "/api/ping?t=1", "/api/ping%0a", "/api\\ping", "/api;/ping", "http://127.0.0.1/api/ping", "*"],
)  # fmt: skip
def test_no_spelling_of_a_path_leads_around_the_token(page, path):
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\nConnection: close\r\n\r\n"
    answer = raw(page, request.encode())
    assert int(answer.split()[1]) in (400, 401, 404), answer
    assert '"ok"' not in answer


@pytest.mark.parametrize(
    "lines",
    ["Content-Length: -1", "Content-Length: x", f"Content-Length: {'9' * 5000}", "Content-Length: 1\r\nContent-Length: 2",
     "Transfer-Encoding: gzip", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "X" * 100_000, "A b: c", ": x"],
)  # fmt: skip
def test_broken_headers_are_refused(page, lines):
    head = f"POST /api/kernel HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\nAuthorization: Bearer {TOKEN}\r\n"
    answer = raw(page, f"{head}Content-Type: application/json\r\n{lines}\r\n\r\n{{}}".encode())
    assert 400 <= int(answer.split()[1]) < 500, answer
    assert page.get("/api/ping").status_code == 200


def open_request(page, lines, path="/api/picture"):
    """Send the head of an upload and return its connection, for a body in pieces."""
    connection = socket.create_connection(("127.0.0.1", page.port), timeout=10)
    head = f"PUT {path} HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\nAuthorization: Bearer {TOKEN}\r\n{lines}\r\n\r\n"
    connection.sendall(head.encode())
    return connection


@pytest.mark.parametrize("lines", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_body_that_does_not_arrive_is_given_up(page, lines, monkeypatch):
    monkeypatch.setattr(app, "BODY_SECONDS", 0.2)
    with open_request(page, lines) as connection:
        connection.sendall(b"5\r\n12345\r\n")
        answer = whole(connection)
    assert answer.startswith("HTTP/1.1 408"), answer
    assert "did not arrive within 0.2 s" in answer
    assert page.get("/api/ping").status_code == 200


def test_a_body_that_ends_early_or_is_no_chunks_harms_nobody(page):
    with open_request(page, "Content-Length: 1000") as connection:
        connection.sendall(b"12345")
    with open_request(page, "Transfer-Encoding: chunked") as connection:
        connection.sendall(b"not a length\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 400")
    with open_request(page, "Transfer-Encoding: chunked") as connection:  # more than a picture may have
        connection.sendall(b"5000000\r\n")
        with suppress(OSError):
            for _ in range(90):
                connection.sendall(bytes(1 << 20))
        with suppress(ConnectionResetError):
            assert connection.recv(65536).startswith(b"HTTP/1.1 413")
    assert page.get("/api/ping").json() == {"ok": True, "version": __version__, "jobs": 0}


def test_files_need_no_token_and_may_be_opened_from_elsewhere(page):
    answer = page.get("/", headers={"authorization": "", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"})
    assert "<title>page" in answer.text
    assert page.get("/explorer.js", headers={"authorization": ""}).headers["content-type"].startswith("text/javascript")


def test_a_page_without_files_says_so(tmp_path):
    with served(static=tmp_path / "none") as page:
        answer = page.get("/")
        assert answer.status_code == 404
        assert "no files of the page" in answer.json()["error"]
        assert page.get("/api/ping").status_code == 200


def test_a_websocket_is_refused(page):
    request = (
        f"GET /api/ping HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    assert raw(page, request.encode()).startswith("HTTP/1.1 401")

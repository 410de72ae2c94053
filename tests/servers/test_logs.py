"""Request ids, logs, and reports to Sentry."""

import gzip
import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.servers.http_client import Answer, exchange, head, package
from tests.servers.running import Installation, Server, wait_until


def ask(server: Server, request_line: str, *headers: str, body: bytes = b"") -> Answer:
    """Send a request with custom headers."""
    length = f"Content-Length: {len(body)}"
    (answer,) = exchange(server.port, [head(f"{request_line} HTTP/1.1", length, *headers) + body])
    return answer


def lines(server: Server, **fields: object) -> list[dict[str, Any]]:
    """The JSON lines of a server's log with these fields; some lines of gevent aren't JSON."""
    log = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    return [line for line in log if fields.items() <= line.items()]


# Request ids

EVERY_KIND_OF_ANSWER = [
    ("GET", "/", b"", 200),
    ("GET", "/docs", b"", 200),
    ("GET", "/openapi.json", b"", 200),
    ("GET", "/health?type=liveness", b"", 200),
    ("GET", "/recipients/leela/preferences", b"", 200),
    ("GET", "/statistics", b"", 200),
    ("POST", "/packages", json.dumps(package()).encode(), 201),
    ("POST", "/packages", b"{", 400),
    ("GET", "/packages/unheard-of", b"", 404),
    ("GET", "/nowhere", b"", 404),
    ("GET", "/%ff", b"", 404),
    ("DELETE", "/packages", b"", 405),
    ("POST", "/packages", b" " * 70_000, 413),
    ("POST", "/packages", b"{}", 422),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), EVERY_KIND_OF_ANSWER)
def test_every_response_has_the_request_id(
    server: Server, method: str, path: str, body: bytes, status: int
) -> None:
    """A client's request id is returned once in the response, and in a problem."""
    if status == 201:
        body = json.dumps(package()).encode()  # tests share the server's database
    answer = ask(server, f"{method} {path}", "X-Request-ID: Planet-Express/3.1:a+b=c_", body=body)
    assert answer.status == status
    assert answer.headers.get_all("X-Request-ID") == ["Planet-Express/3.1:a+b=c_"]
    if status >= 400:
        assert answer.json["request_id"] == "Planet-Express/3.1:a+b=c_"


@pytest.mark.parametrize(
    "given",
    ["", "a b", "a,b", '"a"', "<a>", "a\tb", "{a}", "\xe9", "x" * 129],
)
def test_invalid_id_is_replaced(server: Server, given: str) -> None:
    """An id that is unsafe in a log, or too long, is replaced by a new one."""
    made = ask(server, "GET /nowhere", f"X-Request-ID: {given}").headers["X-Request-ID"]
    assert re.fullmatch("[0-9a-f]{16}", made)


def test_new_ids_differ(server: Server) -> None:
    """Each request without an id gets a unique one, also in its problem."""
    answers = [ask(server, "GET /nowhere") for _ in range(20)]
    ids = [answer.json["request_id"] for answer in answers]
    assert ids == [answer.headers["X-Request-ID"] for answer in answers]
    assert len(set(ids)) == len(ids)


def test_longest_valid_id(server: Server) -> None:
    """An id of 128 characters is accepted."""
    given = "x" * 128
    assert ask(server, "GET /nowhere", f"X-Request-ID: {given}").headers["X-Request-ID"] == given


# The log


@pytest.mark.parametrize("name", ["baseplate-serve", "gunicorn"])
def test_server_logs_its_start_and_its_exit(installation: Installation, name: str) -> None:
    """A server logs its start and end, but neither successes nor client errors."""
    installation.configure("desk.max_queued", "123")
    with installation.server(name) as server:
        wait_until(lambda: len(_starts(server)) == 1, "the server has logged its start")
        log = server.log
        for method, path, body, status in EVERY_KIND_OF_ANSWER * 2:
            ordinary = (201, 200) if status == 201 else (status,)  # the second is a retry
            assert server.request(method, path, body).status in ordinary
        batch = [package(), package(package_type="marketing"), {}]
        assert server.request("POST", "/packages/batch", batch).status == 200
        assert server.log == log
        server.terminate()
        assert lines(server)[-1]["message"] in ("Exiting", "Shutting down: Master")
    for start in _starts(server):
        assert start["level"] == "INFO"
        assert "personal, marketing" in start["message"]
        assert start["settings"]["database.url"] == installation.database.url
        assert start["settings"]["desk.max_queued"] == "123"


@pytest.mark.parametrize("name", ["baseplate-serve", "gunicorn"])
def test_every_line_has_a_time(installation: Installation, name: str) -> None:
    """If the log isn't a terminal, each line is a JSON object with a time in UTC."""
    before = datetime.now(UTC)
    with installation.server(name) as server:
        server.request("GET", "/statistics")
        installation.database.reject_inserts("packages")
        server.request("POST", "/packages", package())
        exchange(server.port, [b"\x00\r\n\r\n"])
        server.terminate()
    log = [json.loads(line) for line in server.log.splitlines()]
    assert len(log) >= 4
    for line in log:
        assert line["time"].endswith("Z")
        since = datetime.fromisoformat(line["time"]) - before
        assert timedelta(seconds=-1) < since < timedelta(minutes=2)


def _starts(server: Server) -> list[dict[str, Any]]:
    return lines(server, name="galaxy_express")


def test_conflicts_are_not_logged(server: Server) -> None:
    """A conflict is a client error, and isn't logged."""
    pkg = package()
    conflicting = pkg | {"sender_id": "kif"}
    server.request("POST", "/packages", pkg)
    log = server.log
    assert server.request("POST", "/packages", conflicting).status == 409
    assert server.request("POST", "/packages/batch", [conflicting, package()]).status == 200
    assert server.log == log


def test_error_is_logged_on_one_line(installation: Installation) -> None:
    """An outage is logged once, however many requests fail, and each unhandled exception once, with
    its traceback."""
    pkg = json.dumps(package()).encode()
    requests = {
        "read": ("GET /statistics", b""),
        "send": ("POST /packages", pkg),
        "reject": ("POST /packages", b"{"),
    }
    with installation.gunicorn(workers=1) as server:
        with installation.database.unavailable():
            for request_id, (request_line, body) in requests.items():
                answer = ask(server, request_line, f"X-Request-ID: {request_id}", body=body)
                assert answer.status == 503
        (line,) = lines(server, level="ERROR")
        assert line["message"].startswith("The database is unavailable: ")
        assert line["request_id"] == "read"

        installation.database.reject_inserts("packages")
        answer = ask(server, "POST /packages", "X-Request-ID: unhandled", body=pkg)
        assert answer.status == 500
        (line,) = lines(server, request_id="unhandled")
        assert line["level"] == "ERROR"
        assert line["exc_info"].startswith("Traceback")
        assert "IntegrityError" in line["exc_info"]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://zap:kiff-sw0rdfish@127.0.0.1:1/galaxy",
        "postgresql://127.0.0.1:1/galaxy?user=zap&password=kiff-sw0rdfish",
    ],
    ids=["before the host", "as a parameter"],
)
def test_passwords_are_not_logged(installation: Installation, url: str) -> None:
    """The database password never appears in the log, neither at the start nor in an error."""
    installation.environment["GALAXY_EXPRESS_DATABASE_URL"] = url
    with installation.gunicorn(workers=1) as server:
        assert server.request("GET", "/statistics").status == 503
        assert server.request("POST", "/packages", package()).status == 503
        (start,) = lines(server, name="galaxy_express", level="INFO")
        assert "127.0.0.1:1/galaxy" in start["settings"]["database.url"]
    assert "sw0rdfish" not in server.log


# Sentry


class Sentry(ThreadingHTTPServer):
    """A stand-in for the Sentry server, which keeps the events it receives."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), _EventHandler)

    @property
    def dsn(self) -> str:
        """The value for ``$SENTRY_DSN``."""
        return f"http://key@127.0.0.1:{self.server_port}/1"

    def exceptions(self) -> list[str]:
        """The types of the reported exceptions, the outermost of each chain."""
        return [
            event["exception"]["values"][-1]["type"]
            for event in self.events
            if "exception" in event
        ]


class _EventHandler(BaseHTTPRequestHandler):
    server: Sentry

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        self.server.events.append(json.loads(body))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as http.server calls it
        """Log nothing."""


@pytest.fixture
def sentry() -> Iterator[Sentry]:
    """A running stand-in for Sentry."""
    with Sentry() as sentry:
        thread = threading.Thread(target=sentry.serve_forever)
        thread.start()
        yield sentry
        sentry.shutdown()
        thread.join()


def test_errors_are_reported_to_sentry(installation: Installation, sentry: Sentry) -> None:
    """Sentry gets the first exception of an outage and every unhandled exception, but no client
    errors."""
    installation.environment["SENTRY_DSN"] = sentry.dsn
    with installation.gunicorn(workers=1) as server:
        pkg = package()
        for body, status in (
            (pkg, 201),
            (pkg | {"sender_id": "kif"}, 409),
            ({}, 422),
        ):
            assert server.request("POST", "/packages", body).status == status
        assert server.request("GET", "/nowhere").status == 404
        with installation.database.unavailable():
            assert server.request("GET", "/statistics").status == 503
            wait_until(lambda: bool(sentry.exceptions()), "the outage is reported")
            for _ in range(10):
                assert server.request("POST", "/packages", b"{").status == 503
        installation.database.reject_inserts("packages")
        for _ in range(2):
            assert server.request("POST", "/packages", package()).status == 500
        wait_until(lambda: len(sentry.exceptions()) == 3, "the unhandled ones are reported")
        assert len(lines(server, level="ERROR")) == 3
    assert sentry.exceptions() == ["SchemaMismatch", "IntegrityError", "IntegrityError"]
    assert len(sentry.events) == 3

"""Client errors and unhandled exceptions: a problem on every path."""

import io
import json
from typing import Any

import pytest
from baseplate import BaseplateObserver, RequestContext, ServerSpan, SpanObserver
from webtest import TestApp, TestRequest

from galaxy_express.models import create_schema
from tests.backends import Backend
from tests.conftest import MakeApp
from tests.functional.client import (
    ANY,
    PACKAGE,
    UPDATE,
    baseplate_of,
    post,
    problem,
    read,
    send,
    send_in_chunks,
    totals,
    update,
)

PATHS = {
    "/packages": {"GET", "HEAD", "POST"},
    "/packages/batch": {"GET", "HEAD", "POST"},
    "/packages/pkg-1": {"GET", "HEAD"},
    "/packages/a/b": {"GET", "HEAD"},
    "/recipients/leela/preferences": {"GET", "HEAD", "PATCH", "PUT"},
    "/recipients/leela/preferences/history": {"GET", "HEAD"},
    "/statistics": {"GET", "HEAD"},
    "/health": {"GET", "HEAD"},
}
METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"}


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/Packages",
        "/packages/",
        "//packages",
        "/statistics/",
        "/statistics/personal",
        "/health/",
        "/recipients",
        "/recipients/leela",
        "/recipients/leela/preferences/",
        "/recipients/leela/preferences/personal",
        "/%00",
        "/%FF",
        "/health%20",
    ],
)
def test_unknown_path(app: TestApp, path: str) -> None:
    """An unknown path is 404 for every method."""
    for method in METHODS - {"HEAD"}:
        assert problem(app.request(path, method=method, status=404)) == {
            "type": "about:blank",
            "title": "Not Found",
            "status": 404,
            "code": "path_not_found",
            "detail": "there is nothing at this path",
        }


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/statistics%0A"),
        ("GET", "/health%0A"),
        ("POST", "/packages%0A"),
        ("PUT", "/recipients/leela/preferences%0A"),
    ],
)
def test_line_feed_is_part_of_a_path(app: TestApp, method: str, path: str) -> None:
    """A path with a trailing line feed is a different path, which is 404."""
    assert app.request(path, method=method, body=b"{}", status=ANY).status_int == 404


@pytest.mark.parametrize("path", list(PATHS))
def test_unsupported_method(app: TestApp, path: str) -> None:
    """An unsupported method is 405, with the methods of the path in ``Allow``."""
    for method in METHODS - PATHS[path] - {"HEAD"}:
        answer = app.request(path, method=method, body=b"{}", status=405)
        body = problem(answer)
        assert set(answer.headers["Allow"].split(", ")) == PATHS[path]
        assert (body["type"], body["title"]) == ("about:blank", "Method Not Allowed")
        assert answer.headers["Allow"] in body["detail"]


@pytest.mark.parametrize(
    "path", ["/packages/pkg-1", "/recipients/leela/preferences", "/statistics", "/health"]
)
def test_head(app: TestApp, path: str) -> None:
    """The response to HEAD is that to GET, without the body."""
    send(app)
    head, get = app.head(path), app.get(path)
    assert head.status == get.status
    assert head.body == b""
    for header in ("Content-Type", "Content-Length"):
        assert head.headers[header] == get.headers[header]


def test_head_of_an_unknown_package(app: TestApp) -> None:
    """HEAD of an unknown package is 404."""
    assert app.head("/packages/pkg-1", status=404).body == b""


SENDS = [
    ("POST", "/packages"),
    ("POST", "/packages/batch"),
    ("PUT", "/recipients/leela/preferences"),
]

LIMITS = pytest.mark.parametrize(
    ("method", "path", "limit"),
    [
        ("POST", "/packages", 64 * 1024),
        ("PUT", "/recipients/leela/preferences", 64 * 1024),
        ("POST", "/packages/batch", 1024 * 1024),
    ],
)


@LIMITS
@pytest.mark.parametrize("chunked", [False, True], ids=["at once", "chunked"])
def test_body_over_the_limit(
    app: TestApp, method: str, path: str, limit: int, chunked: bool
) -> None:
    """A body that is too large is 413, however it is sent."""
    content = b" " * (limit + 1)
    if chunked:
        answer = send_in_chunks(app, method, path, content)
    else:
        answer = app.request(path, method=method, body=content, status=ANY)
    assert problem(answer) == {
        "type": "about:blank",
        "title": "Content Too Large",
        "status": 413,
        "code": "body_too_large",
        "detail": f"the body is larger than {limit:,} bytes",
    }


@LIMITS
@pytest.mark.parametrize("chunked", [False, True], ids=["at once", "chunked"])
def test_body_at_the_limit(app: TestApp, method: str, path: str, limit: int, chunked: bool) -> None:
    """A body of exactly the limit is accepted."""
    valid = {
        "/packages": b'{"timestamp": "2142-03-01T12:00:00Z", "sender_id": "zap", "recipient_id":'
        b' "leela", "package_id": "pkg-1", "package_type": "personal"}',
        "/recipients/leela/preferences": b'{"timestamp": "2142-03-01T12:00:00Z",'
        b' "personal_preference": true, "marketing_preference": true}',
        "/packages/batch": b"[]",
    }
    content = valid[path].ljust(limit)
    if chunked:
        answer = send_in_chunks(app, method, path, content)
    else:
        answer = app.request(path, method=method, body=content, status=ANY)
    assert answer.status_int in (200, 201)


def test_length_over_the_limit_is_rejected_without_reading(app: TestApp) -> None:
    """A body with a Content-Length over the limit is rejected without being read."""

    class Unreadable(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise AssertionError("the body was read")

    request = TestRequest.blank("/packages", method="POST")
    request.environ["CONTENT_LENGTH"] = "1000000000000"
    request.environ["wsgi.input"] = Unreadable()
    assert app.do_request(request, status=413).status_int == 413


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (OSError("reset"), "the connection was lost before the body ended"),
        (ValueError("no size"), "the chunks of the body can't be read: no size"),
    ],
)
def test_unreadable_body(app: TestApp, error: Exception, detail: str) -> None:
    """The exceptions that servers raise for closed connections and malformed chunks are 400."""

    class BreakingOff(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise error

    request = TestRequest.blank("/packages", method="POST")
    request.environ["wsgi.input"] = BreakingOff()
    answer = app.do_request(request, status=400)
    assert problem(answer)["detail"] == detail
    assert totals(app) == (0, 0, 1)


def test_body_that_is_too_slow(app: TestApp) -> None:
    """A body that doesn't arrive in time is 408, without Retry-After, and isn't counted."""

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise TimeoutError("timed out")

    for method, path in SENDS:
        request = TestRequest.blank(path, method=method)
        request.environ["wsgi.input"] = Slow()
        answer = app.do_request(request, status=408)
        assert problem(answer)["code"] == "body_too_slow"
        assert "Retry-After" not in answer.headers
    assert totals(app) == (0, 0, 0)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "GZIP", "identity, gzip", "x", "*"])
@pytest.mark.parametrize("body", [b"", b"{}", b"\x1f\x8b", b" " * (1024 * 1024 + 1)])
def test_encoded_body(app: TestApp, encoding: str, body: bytes) -> None:
    """A body with a Content-Encoding is 415; a send is counted as rejected."""
    for method, path in SENDS:
        headers = {"Content-Encoding": encoding}
        answer = app.request(path, method=method, body=body, headers=headers, status=415)
        assert problem(answer)["code"] == "unsupported_encoding"
        assert answer.headers["Accept-Encoding"] == "identity"
    assert totals(app) == (0, 0, 2)


@pytest.mark.parametrize("encoding", ["identity", "Identity", "", "identity, identity"])
def test_identity_encoding(app: TestApp, encoding: str) -> None:
    """A body with the encoding ``identity``, or an empty one, is accepted."""
    app.post_json("/packages", PACKAGE, headers={"Content-Encoding": encoding}, status=201)


@pytest.mark.parametrize("header", ["Proto", "Protocol", "Ssl", "Host", "Port", "Scheme"])
def test_forwarded_headers_are_ignored(app: TestApp, header: str) -> None:
    """``X-Forwarded-*`` headers change neither the response nor ``Location``."""
    headers = {f"X-Forwarded-{header}": "https"}
    answer = app.post_json("/packages", PACKAGE, headers=headers, status=201)
    assert answer.headers["Location"] == "/packages/pkg-1"


def test_responses_are_not_cached(app: TestApp) -> None:
    """All responses except pages have ``Cache-Control: no-store``, including problems."""
    answers = [
        send(app),
        send(app, status=200),
        send(app, status=422, sender_id=""),
        post(app, "/packages/batch", [PACKAGE], 200),
        update(app, UPDATE),
        *(app.get(path) for path, methods in PATHS.items() if "GET" in methods and "b" not in path),
        app.get("/nowhere", status=404),
        app.get("/packages/%FF", status=404),
        app.delete("/packages", status=405),
        app.head("/statistics"),
    ]
    assert {answer.headers["Cache-Control"] for answer in answers} == {"no-store"}


def test_body_that_ends_early(app: TestApp) -> None:
    """A body shorter than its Content-Length is 400, even if it is valid JSON so far."""
    content = json.dumps(PACKAGE).encode()
    request = TestRequest.blank("/packages", method="POST", body=content)
    request.environ["CONTENT_LENGTH"] = str(len(content) + 1)
    answer = app.do_request(request, status=400)
    assert problem(answer)["detail"] == "the body ended early"
    assert totals(app) == (0, 0, 1)


@pytest.fixture
def unchecked_app(app: TestApp) -> TestApp:
    """The same application without WebTest's lint, for requests that a strict server rejects."""
    return TestApp(app.app, lint=False)


@pytest.mark.parametrize("length", ["", "abc", "-1", "1e3"])
def test_invalid_length(unchecked_app: TestApp, length: str) -> None:
    """A Content-Length that isn't a number is a client error."""
    request = TestRequest.blank("/packages", method="POST")
    request.environ["CONTENT_LENGTH"] = length
    assert unchecked_app.do_request(request, status=ANY).status_int == 400


@pytest.mark.parametrize("path", list(PATHS))
def test_unknown_method(unchecked_app: TestApp, path: str) -> None:
    """A method that HTTP doesn't define is 405."""
    answer = unchecked_app.request(path, method="BREW", status=405)
    assert set(answer.headers["Allow"].split(", ")) == PATHS[path]


class Observer(BaseplateObserver, SpanObserver):
    """Observes requests, as Sentry, metrics and tracing do.

    :ivar spans: the names of the server spans and their child spans.
    :ivar errors: the exceptions that ended server spans.
    """

    def __init__(self, app: TestApp) -> None:
        self.spans: list[str] = []
        self.errors: list[BaseException] = []
        self._baseplate = baseplate_of(app)
        self._baseplate.register(self)

    def stop(self) -> None:
        """Observe nothing any more."""
        self._baseplate.observers.remove(self)

    def on_server_span_created(self, context: RequestContext, server_span: ServerSpan) -> None:
        """Observe a request."""
        self.spans.append(server_span.name)
        server_span.register(self)

    def on_child_span_created(self, span: Any) -> None:
        """Record a child span."""
        self.spans.append(span.name)

    def on_finish(self, exc_info: Any) -> None:
        """Record the exception of a failed request."""
        if exc_info:
            self.errors.append(exc_info[1])


@pytest.fixture
def broken_app(backend: Backend, make_app: MakeApp) -> TestApp:
    """An application in which reading one package raises an unexpected exception."""
    create_schema(backend.config)
    app = make_app()
    # A timestamp that the service could not have written.
    backend.rows(
        "INSERT INTO packages"
        " (package_id, sender_id, recipient_id, package_type, timestamp, status) VALUES"
        " ('pkg-0', 'zap', 'leela', 'personal', 9000000000000000000, 'delivered')"
    )
    return app


def test_unhandled_exception(broken_app: TestApp) -> None:
    """An unhandled exception is 500, and the response doesn't reveal it."""
    answer = read(broken_app, "pkg-0", status=500)
    assert problem(answer) == {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "code": "internal",
        "detail": "the service failed unexpectedly",
    }
    assert "Retry-After" not in answer.headers


def test_observers_see_an_unhandled_exception(
    broken_app: TestApp, caplog: pytest.LogCaptureFixture
) -> None:
    """Baseplate's observers see the exception, and it is logged."""
    observer = Observer(broken_app)
    read(broken_app, "pkg-0", status=500)
    (error,) = observer.errors
    assert isinstance(error, OverflowError)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.exc_info
    assert record.exc_info[1] is error


def test_requests_after_an_unhandled_exception(broken_app: TestApp) -> None:
    """The next request is served as usual."""
    read(broken_app, "pkg-0", status=500)
    send(broken_app)
    assert read(broken_app, "pkg-1").json["status"] == "delivered"


@pytest.mark.parametrize("table", ["packages", "counters"])
def test_unhandled_exception_in_a_write(backend: Backend, make_app: MakeApp, table: str) -> None:
    """A write that fails unexpectedly is 500, records nothing, and observers see the exception."""
    create_schema(backend.config)
    app = make_app()
    observer = Observer(app)
    backend.reject_inserts(table)
    problem(send(app, status=500))
    assert len(observer.errors) == 1
    assert backend.stored() == backend.counted() == {}


def test_observers_see_no_client_errors(app: TestApp) -> None:
    """A rejected request isn't an error for observers."""
    observer = Observer(app)
    try:
        send(app)
        send(app, status=409, sender_id="nixon")
        send(app, status=422, sender_id="")
        post(app, "/packages", b"", 400)
        post(app, "/packages", b" " * 65_537, 413)
        read(app, "pkg-2", status=404)
        app.get("/nowhere", status=404)
        app.get("/packages/%FF", status=404)
        app.put("/packages", status=405)
    finally:
        observer.stop()
    assert observer.errors == []


@pytest.mark.parametrize(
    ("method", "path", "body", "spans"),
    [
        ("POST", "/packages", PACKAGE, {"send_package", "desk.send"}),
        ("POST", "/packages/batch", [PACKAGE], {"send_batch", "desk.send_batch"}),
        ("POST", "/packages", {}, {"send_package", "desk.reject"}),
        (
            "PUT",
            "/recipients/leela/preferences",
            UPDATE,
            {"update_preferences", "desk.update_preferences"},
        ),
        ("GET", "/packages/pkg-1", None, {"read_package", "desk.find"}),
        ("GET", "/recipients/leela/preferences", None, {"read_preferences", "database.read"}),
        ("GET", "/statistics", None, {"read_statistics", "database.read"}),
        ("GET", "/health", None, {"is_healthy", "database.read"}),
        ("GET", "/health?type=liveness", None, {"is_healthy"}),
    ],
)
def test_spans_of_a_request(
    app: TestApp, method: str, path: str, body: object, spans: set[str]
) -> None:
    """Each request has a span named after its view, with a child span for the database."""
    observer = Observer(app)
    try:
        if method == "GET":
            app.get(path, status=ANY)
        elif method == "PUT":
            update(app, body)
        else:
            post(app, path, body, ANY)
    finally:
        observer.stop()
    assert set(observer.spans) == spans

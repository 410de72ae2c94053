"""Connections that serve an application, over a socket pair."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any

import gevent
import gevent.socket
import pytest

from galaxy_express.serving.http_connection import Connection
from galaxy_express.serving.http_head import Limits

LIMITS = Limits(4094, 100, 8190)
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def serve(app: App, request: bytes, later: bytes = b"") -> tuple[str, bytes, bool]:
    """Serve a request with an application.

    :param later: what arrives after the application was called.
    :returns: the head and the body of the response, and whether the connection is kept.
    """
    client, server = gevent.socket.socketpair()
    with closing(client), closing(server):
        received = gevent.spawn(_receive, client)
        client.sendall(request)
        connection = Connection(server, {}, LIMITS, lambda: True)
        head = connection.next_request()
        assert head is not None
        gevent.spawn(client.sendall, later)
        try:
            kept_open = connection.respond(head, app, logging.getLogger("test"))
        finally:
            connection.close()
            server.close()
        head_bytes, _, body = received.get(timeout=5).partition(b"\r\n\r\n")
    return head_bytes.decode(), body, kept_open


def _receive(client: Any) -> bytes:
    received = b""
    while data := client.recv(65536):
        received += data
    return received


def answering(
    *chunks: bytes, length: int | None = None, status: str = "200 OK", **headers: str
) -> App:
    """Make an application that responds with chunks."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        all_headers = list(headers.items())
        if length is not None:
            all_headers.append(("Content-Length", str(length)))
        start_response(status, all_headers)
        yield from chunks

    return app


def test_response_with_a_length() -> None:
    """A response with a Content-Length keeps the connection open, without a Connection header."""
    head, body, kept_open = serve(answering(b"one", b"", b"two", length=6, A="b"), GET)
    assert head.startswith("HTTP/1.1 200 OK\r\nDate: ")
    assert head.endswith("\r\nA: b\r\nContent-Length: 6")
    assert (body, kept_open) == (b"onetwo", True)


def test_response_without_a_length() -> None:
    """A response without a Content-Length is sent in chunks."""
    head, body, kept_open = serve(answering(b"one", b"", b"twelve"), GET)
    assert "\r\nTransfer-Encoding: chunked" in head
    assert (body, kept_open) == (b"3\r\none\r\n6\r\ntwelve\r\n0\r\n\r\n", True)


def test_response_without_a_length_in_http_1_0() -> None:
    """HTTP/1.0 has no chunks, so the end of the connection marks the end of the response."""
    head, body, kept_open = serve(answering(b"one", b"two"), OLD)
    assert "\r\nConnection: close" in head
    assert (body, kept_open) == (b"onetwo", False)


def test_keep_alive_in_http_1_0() -> None:
    """The response to an HTTP/1.0 client says in a header that the connection is kept open."""
    head, _, kept_open = serve(answering(b"one", length=3), OLD)
    assert "\r\nConnection: keep-alive" in head
    assert kept_open


@pytest.mark.parametrize(
    ("status", "request_bytes"), [("200 OK", HEAD), ("204 No Content", GET), ("304 Not", GET)]
)
def test_responses_without_a_body(status: str, request_bytes: bytes) -> None:
    """If HTTP allows no body, nothing follows the head, whatever the application returns."""
    head, body, kept_open = serve(answering(b"one", status=status), request_bytes)
    assert "Transfer-Encoding" not in head
    assert (body, kept_open) == (b"", True)


def test_response_longer_than_its_length() -> None:
    """No more than the Content-Length is sent: the rest would look like the next response."""
    _, body, kept_open = serve(answering(b"one", b"two", length=4), GET)
    assert (body, kept_open) == (b"onet", True)


def test_response_shorter_than_its_length() -> None:
    """After a response that is shorter than its Content-Length, the connection is closed."""
    assert serve(answering(b"one", length=4), GET)[2] is False


def test_large_responses() -> None:
    """A large response is sent completely to a client that reads in small portions."""
    large = bytes(3_000_000)
    _, body, kept_open = serve(answering(large, length=len(large)), GET)
    assert (body == large, kept_open) == (True, True)


def failing(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """An application that fails."""
    raise ArithmeticError


def breaking_a_header(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """An application that returns a header value with a line break."""
    start("200 OK", [("A", "b\r\nC: d"), ("Content-Length", "0")])
    return []


def not_starting(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """An application that doesn't call start_response."""
    return [b"one"]


def starting_twice(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """An application that calls start_response twice, without exc_info."""
    start("200 OK", [("Content-Length", "0")])
    start("201 Created", [("Content-Length", "0")])
    return []


@pytest.mark.parametrize("app", [failing, breaking_a_header, not_starting, starting_twice])
def test_failing_applications(app: App) -> None:
    """An exception becomes a problem response, and the connection is closed."""
    head, body, kept_open = serve(app, GET)
    assert head.startswith("HTTP/1.1 500 Internal Server Error\r\n")
    assert b'"status":500,"code":"internal"' in body
    assert kept_open is False


def test_application_that_fails_during_its_response() -> None:
    """If the application fails after the head was sent, the response is cut short."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "6")])
        yield b"one"
        raise ArithmeticError

    closed = []
    client, server = gevent.socket.socketpair()
    with closing(client), closing(server):
        client.sendall(GET)
        connection = Connection(server, {}, LIMITS, lambda: True)
        head = connection.next_request()
        assert head is not None

        class Chunks:
            def __init__(self, chunks: Iterable[bytes]) -> None:
                self._chunks = chunks

            def __iter__(self) -> Iterator[bytes]:
                return iter(self._chunks)

            def close(self) -> None:
                closed.append(True)

        with pytest.raises(ArithmeticError):
            connection.respond(head, lambda *_: Chunks(app(*_)), logging.getLogger("test"))
        connection.close()
        assert client.recv(65536).endswith(b"\r\n\r\none")
    assert closed == [True]


def reading(*sizes: int | None) -> App:
    """Make an application that reads the body in portions, and responds with what it read."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"]
        answer = repr([body.read(size) for size in sizes] or list(body)).encode()
        start_response("200 OK", [("Content-Length", str(len(answer)))])
        return [answer]

    return app


CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
BODIES = {
    "none": (GET, b""),
    "length": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", b"ab\nde"),
    "chunks": (CHUNKED, b"3\r\nab\n\r\n02;x=y\r\nde\r\n0\r\nA: b\r\n\r\n"),
}


@pytest.mark.parametrize(
    ("kind", "sizes", "answer"),
    [
        ("none", [-1], [b""]),
        ("length", [-1, 1], [b"ab\nde", b""]),
        ("length", [1, 2, None], [b"a", b"b\n", b"de"]),
        ("length", [], [b"ab\n", b"de"]),
        ("chunks", [-1, 1], [b"ab\nde", b""]),
        ("chunks", [1, 3, 9], [b"a", b"b\nd", b"e"]),
        ("chunks", [], [b"ab\n", b"de"]),
    ],
)
@pytest.mark.parametrize("late", [0, 2, 7], ids=lambda late: f"{late} bytes late")
def test_bodies(kind: str, sizes: list[int | None], answer: list[bytes], late: int) -> None:
    """A body can be read in portions of any size, up to its end and no further, whether it has
    arrived before the application is called or not."""
    head, body = BODIES[kind]
    request = head + body + b"next"
    arrived = max(len(head), len(request) - late)
    response = serve(reading(*sizes), request[:arrived], request[arrived:])
    assert response[1:] == (repr(answer).encode(), True)


def test_connections_are_served_fairly() -> None:
    """Before the next request of a connection, the event loop polls for other connections."""
    client, server = gevent.socket.socketpair()
    other, other_server = gevent.socket.socketpair()
    with closing(client), closing(server), closing(other), closing(other_server):
        client.sendall(GET + GET)
        connection = Connection(server, {}, LIMITS, lambda: True)
        assert connection.next_request()
        received = gevent.spawn(other_server.recv, 1)
        gevent.sleep(0)
        other.sendall(b"a")
        assert connection.next_request()
        gevent.sleep(0)  # lets the greenlets run that the poll has found ready
        connection.close()
        assert received.ready()


@pytest.mark.parametrize("arrived", [b"", GET[:10]])
def test_closing_an_idle_connection(arrived: bytes) -> None:
    """A connection that waits for a request, or for the rest of one, can be closed."""
    client, server = gevent.socket.socketpair()
    with closing(client), closing(server):
        client.sendall(arrived)
        connection = Connection(server, {}, LIMITS, lambda: True)
        waiting = gevent.spawn(connection.next_request)
        gevent.sleep(0.01)
        connection.shut_down()
        assert waiting.get(timeout=5) is None
        connection.close()


def test_request_that_arrives_before_closing() -> None:
    """A request that has just arrived is still served, and then the connection is closed."""
    client, server = gevent.socket.socketpair()
    with closing(client), closing(server):
        client.sendall(GET)
        connection = Connection(server, {}, LIMITS, lambda: True)
        connection.shut_down()
        head = connection.next_request()
        assert head is not None
        log = logging.getLogger("test")
        assert connection.respond(head, answering(b"one", length=3), log) is False
        assert b"\r\nConnection: close\r\n" in client.recv(65536)
        connection.close()

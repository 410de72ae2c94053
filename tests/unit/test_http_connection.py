"""A connection and an application, with a socket pair between them and the client."""

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


def serve(app: App, request: bytes) -> tuple[str, bytes, bool]:
    """Let an application answer a request.

    :returns: the head of the answer, its body, and whether the connection goes on.
    """
    client, server = gevent.socket.socketpair()
    with closing(client), closing(server):
        received = gevent.spawn(_receive, client)
        client.sendall(request)
        connection = Connection(server, {}, LIMITS, lambda: True)
        head = connection.next_request()
        assert head is not None
        try:
            goes_on = connection.answer(head, app, logging.getLogger("test"))
        finally:
            connection.close()
            server.close()
        head_bytes, _, body = received.get(timeout=5).partition(b"\r\n\r\n")
    return head_bytes.decode(), body, goes_on


def _receive(client: Any) -> bytes:
    received = b""
    while data := client.recv(65536):
        received += data
    return received


def answering(
    *chunks: bytes, length: int | None = None, status: str = "200 OK", **headers: str
) -> App:
    """Make an application that answers with chunks."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        all_headers = list(headers.items())
        if length is not None:
            all_headers.append(("Content-Length", str(length)))
        start_response(status, all_headers)
        yield from chunks

    return app


def test_an_answer_with_a_length() -> None:
    """An answer that says its length leaves the connection in use, and doesn't say so."""
    head, body, goes_on = serve(answering(b"one", b"", b"two", length=6, A="b"), GET)
    assert head.startswith("HTTP/1.1 200 OK\r\nDate: ")
    assert head.endswith("\r\nA: b\r\nContent-Length: 6")
    assert (body, goes_on) == (b"onetwo", True)


def test_an_answer_without_a_length() -> None:
    """An answer that doesn't say its length is sent in chunks."""
    head, body, goes_on = serve(answering(b"one", b"", b"twelve"), GET)
    assert "\r\nTransfer-Encoding: chunked" in head
    assert (body, goes_on) == (b"3\r\none\r\n6\r\ntwelve\r\n0\r\n\r\n", True)


def test_an_answer_without_a_length_in_http_1_0() -> None:
    """HTTP/1.0 has no chunks, so the end of the connection is that of the answer."""
    head, body, goes_on = serve(answering(b"one", b"two"), OLD)
    assert "\r\nConnection: close" in head
    assert (body, goes_on) == (b"onetwo", False)


def test_kept_connections_in_http_1_0() -> None:
    """The answer to an HTTP/1.0 client says that the connection is kept."""
    head, _, goes_on = serve(answering(b"one", length=3), OLD)
    assert "\r\nConnection: keep-alive" in head
    assert goes_on


@pytest.mark.parametrize(
    ("status", "request_bytes"), [("200 OK", HEAD), ("204 No Content", GET), ("304 Not", GET)]
)
def test_answers_without_a_body(status: str, request_bytes: bytes) -> None:
    """Nothing follows the head where HTTP allows no body, whatever the application gives."""
    head, body, goes_on = serve(answering(b"one", status=status), request_bytes)
    assert "Transfer-Encoding" not in head
    assert (body, goes_on) == (b"", True)


def test_an_answer_that_is_too_long() -> None:
    """No more is sent than the answer says: it would pass for the next answer."""
    _, body, goes_on = serve(answering(b"one", b"two", length=4), GET)
    assert (body, goes_on) == (b"onet", True)


def test_an_answer_that_is_too_short() -> None:
    """After an answer that is shorter than it says, the connection ends."""
    assert serve(answering(b"one", length=4), GET)[2] is False


def test_large_answers() -> None:
    """A large answer is sent whole, though the client reads it bit by bit."""
    large = bytes(3_000_000)
    _, body, goes_on = serve(answering(large, length=len(large)), GET)
    assert (body == large, goes_on) == (True, True)


def failing(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """An application that fails."""
    raise ArithmeticError


def breaking_a_header(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """An application with a header that would add another."""
    start("200 OK", [("A", "b\r\nC: d"), ("Content-Length", "0")])
    return []


def not_starting(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """An application that doesn't start its answer."""
    return [b"one"]


def starting_twice(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """An application that starts a second answer, without an error as its reason."""
    start("200 OK", [("Content-Length", "0")])
    start("201 Created", [("Content-Length", "0")])
    return []


@pytest.mark.parametrize("app", [failing, breaking_a_header, not_starting, starting_twice])
def test_failing_applications(app: App) -> None:
    """An exception is answered with a problem, and ends the connection."""
    head, body, goes_on = serve(app, GET)
    assert head.startswith("HTTP/1.1 500 Internal Server Error\r\n")
    assert b'"status":500,"code":"internal"' in body
    assert goes_on is False


def test_an_application_that_fails_in_an_answer() -> None:
    """After the head is sent there is no second one; the client sees the answer break off."""

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
            connection.answer(head, lambda *_: Chunks(app(*_)), logging.getLogger("test"))
        connection.close()
        assert client.recv(65536).endswith(b"\r\n\r\none")
    assert closed == [True]


def reading(*sizes: int | None) -> App:
    """Make an application that reads the body bit by bit, and answers with what it read."""

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
def test_bodies(kind: str, sizes: list[int | None], answer: list[bytes]) -> None:
    """A body is read in any portions, up to its end and no further."""
    head, body = BODIES[kind]
    assert serve(reading(*sizes), head + body + b"next")[1:] == (repr(answer).encode(), True)


def test_connections_take_turns() -> None:
    """Before a request that has already arrived, the event loop looks for others in its poll."""
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
        gevent.sleep(0)  # what the poll has found may run after this
        connection.close()
        assert received.ready()


@pytest.mark.parametrize("arrived", [b"", GET[:10]])
def test_an_idle_connection_that_is_to_end(arrived: bytes) -> None:
    """A connection that waits for a request, or for the rest of one, can be ended."""
    client, server = gevent.socket.socketpair()
    with closing(client), closing(server):
        client.sendall(arrived)
        connection = Connection(server, {}, LIMITS, lambda: True)
        waiting = gevent.spawn(connection.next_request)
        gevent.sleep(0.01)
        connection.end()
        assert waiting.get(timeout=5) is None
        connection.close()


def test_a_request_that_arrives_when_a_connection_is_to_end() -> None:
    """A request that has just arrived is answered, and the answer is the last."""
    client, server = gevent.socket.socketpair()
    with closing(client), closing(server):
        client.sendall(GET)
        connection = Connection(server, {}, LIMITS, lambda: True)
        connection.end()
        head = connection.next_request()
        assert head is not None
        log = logging.getLogger("test")
        assert connection.answer(head, answering(b"one", length=3), log) is False
        assert b"\r\nConnection: close\r\n" in client.recv(65536)
        connection.close()

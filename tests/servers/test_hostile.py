"""Oversized requests and ambiguous framing, on bare sockets."""

from collections.abc import Iterator

import pytest

from tests.servers.http_client import exchange, head, package
from tests.servers.running import Installation, Server

# Bytes that are either a body or the next request, depending on how the head is parsed.
HIDDEN_BODY = b'{"package_id": "hidden"}'
HIDDEN = head("POST /packages/hidden HTTP/1.1", f"Content-Length: {len(HIDDEN_BODY)}") + HIDDEN_BODY


def _chunked(piece: bytes, times: int) -> Iterator[bytes]:
    chunk = b"%x\r\n%b\r\n" % (len(piece), piece)
    for _ in range(times):
        yield chunk
    yield b"0\r\n\r\n"


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
@pytest.mark.parametrize("path", ["/packages", "/packages/batch"])
def test_body_over_the_limit_with_a_length(server: Server, path: str, connection: str) -> None:
    """A client that sends a body far over the limit can read the 413."""
    length = 10_000_000
    start = head(f"POST {path} HTTP/1.1", f"Content-Length: {length}", f"Connection: {connection}")
    (answer,) = exchange(server.port, [start, b" " * length])
    assert answer.status == 413
    assert answer.is_problem


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
@pytest.mark.parametrize("path", ["/packages", "/packages/batch"])
def test_body_over_the_limit_in_chunks(server: Server, path: str, connection: str) -> None:
    """A client that sends too large a body in chunks can read the 413."""
    start = head(f"POST {path} HTTP/1.1", "Transfer-Encoding: chunked", f"Connection: {connection}")
    (answer,) = exchange(server.port, [start, *_chunked(b" " * 50_000, 200)])
    assert answer.status == 413
    assert answer.is_problem


@pytest.mark.parametrize(("method", "status"), [("POST", 405), ("GET", 200)])
def test_unexpected_body(server: Server, method: str, status: int) -> None:
    """An unread body isn't parsed as a request, and the client can read the response."""
    start = head(f"{method} /statistics HTTP/1.1", "Content-Length: 1000000")
    (answer,) = exchange(server.port, [start, HIDDEN.ljust(1_000_000)])
    assert answer.status == status


AMBIGUOUS = {
    "both a length and chunks": (
        [f"Content-Length: {len(HIDDEN) + 5}", "Transfer-Encoding: chunked"],
        b"0\r\n\r\n",
    ),
    "two lengths": (["Content-Length: 0", f"Content-Length: {len(HIDDEN)}"], b""),
    "two lengths in one": ([f"Content-Length: 0, {len(HIDDEN)}"], b""),
    "negative length": (["Content-Length: -1"], b""),
    "length with a sign": (["Content-Length: +0"], b""),
    "length with an underscore": (["Content-Length: 0_0"], b""),
    "non-numeric length": (["Content-Length: many"], b""),
    "length without digits": (["Content-Length:"], b""),
    "length with a space before the colon": ([f"Content-Length : {len(HIDDEN)}"], b""),
    "chunks with a space before the colon": (["Transfer-Encoding : chunked"], b"0\r\n\r\n"),
    "chunked twice": (["Transfer-Encoding: chunked, chunked"], b"0\r\n\r\n"),
    "chunked not last": (["Transfer-Encoding: chunked, identity"], b"0\r\n\r\n"),
    "chunked and identity in two fields": (
        ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
        b"0\r\n\r\n",
    ),
    "non-numeric chunk size": (["Transfer-Encoding: chunked"], b"many\r\n"),
    "negative chunk size": (["Transfer-Encoding: chunked"], b"-1\r\n"),
    "chunk size with a prefix": (["Transfer-Encoding: chunked"], b"0x0\r\n\r\n"),
    "chunk size without digits": (["Transfer-Encoding: chunked"], b"\r\n"),
    "huge chunk size": (["Transfer-Encoding: chunked"], b"f" * 17 + b"\r\n"),
    "chunk longer than its size": (["Transfer-Encoding: chunked"], b"1\r\n{}\r\n0\r\n\r\n"),
    "chunks with wrong line endings": (["Transfer-Encoding: chunked"], b"0\n\n"),
    "malformed trailer": (["Transfer-Encoding: chunked"], b"0\r\nno field\r\n\r\n"),
}


@pytest.mark.parametrize("shape", AMBIGUOUS)
def test_ambiguous_framing(server: Server, shape: str) -> None:
    """A request with ambiguous framing is rejected, and the bytes after it aren't parsed as another
    request."""
    headers, body = AMBIGUOUS[shape]
    start = head("POST /packages HTTP/1.1", *headers)
    # In one piece, so that a server that rejects the head needn't reset the connection.
    (answer,) = exchange(server.port, [start + body + HIDDEN])
    assert answer.status == 400
    assert answer.is_problem


@pytest.mark.parametrize("coding", ["gzip, chunked", "xchunked", "identity"])
def test_unknown_transfer_coding(server: Server, coding: str) -> None:
    """A body in an unknown coding is rejected, and isn't parsed as another request."""
    start = head("POST /packages HTTP/1.1", f"Transfer-Encoding: {coding}")
    (answer,) = exchange(server.port, [start + HIDDEN])
    assert answer.status == 501
    assert answer.is_problem


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        ("Content-Length: 1000", b"{}"),
        ("Transfer-Encoding: chunked", b"3e8\r\n{}"),
        ("Transfer-Encoding: chunked", b"2\r\n{}\r\n"),
    ],
)
def test_incomplete_body(server: Server, framing: str, body: bytes) -> None:
    """An incomplete body is malformed, even if its beginning is valid."""
    (answer,) = exchange(server.port, [head("POST /packages HTTP/1.1", framing), body])
    assert answer.status == 400
    assert answer.is_problem


UNREADABLE = {
    "no HTTP": b"\x00\xff\r\n\r\n",
    "version 9.9": b"GET /statistics HTTP/9.9\r\n\r\n",
    "version x": b"GET /statistics HTTP/x\r\n\r\n",
    "header name with a space": head("GET /statistics HTTP/1.1", "X y: z"),
    "malformed header": head("GET /statistics HTTP/1.1", "nothing"),
    "many headers": head("GET /statistics HTTP/1.1", *(f"X-{n}: x" for n in range(500))),
}


@pytest.mark.parametrize("shape", UNREADABLE)
def test_unreadable_head(server: Server, shape: str) -> None:
    """An unreadable head is a client error, answered with a problem before the connection
    closes."""
    (answer,) = exchange(server.port, [UNREADABLE[shape]])
    assert 400 <= answer.status < 500
    assert answer.is_problem
    assert answer.is_last
    assert answer.json.keys() == {"type", "title", "status", "detail", "code"}
    assert answer.json["type"] == "about:blank"


@pytest.mark.parametrize("name", ["baseplate-serve", "gunicorn"])
def test_heads_over_the_limits(installation: Installation, name: str) -> None:
    """A head over a limit gets the specific status, and no warning is logged: it is a client's
    error."""
    heads = [
        (head("GET /" + "a" * 5_000_000 + " HTTP/1.1"), 414),
        (head("GET /statistics HTTP/1.1", "X-Long: " + "a" * 5_000_000), 431),
        (head("GET /statistics HTTP/1.1", "Expect: the-unexpected"), 417),
    ]
    with installation.server(name) as server:
        for start, status in heads:
            (answer,) = exchange(server.port, [start])
            assert answer.status == status
            assert answer.is_problem
            assert answer.is_last
        assert "WARNING" not in server.log
        assert "Traceback" not in server.log


def test_script_name_header_is_ignored(server: Server) -> None:
    """A client's ``SCRIPT_NAME`` header doesn't change the path."""
    (answer,) = exchange(server.port, [head("GET /statistics HTTP/1.1", "SCRIPT_NAME: /packages")])
    assert answer.status == 200


def test_hidden_requests_were_not_processed(server: Server) -> None:
    """After these tests a valid request is served, and no hidden request was processed."""
    assert server.request("POST", "/packages", package()).status == 201
    assert server.request("GET", "/packages/hidden").status == 404

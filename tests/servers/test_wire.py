"""HTTP/1.1 by RFC 9112 in both servers, on bare sockets."""

import socket
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.backends import SQLiteBackend
from tests.servers.http_client import TIMEOUT, Answer, exchange, head, read_answers
from tests.servers.running import Installation, Server, free_port

# Seconds: the timeout of sends and of reads of the statistics.
SERVER_TIMEOUT = 0.4

GET = head("GET /health?type=liveness HTTP/1.1")
LAST = head("GET /health?type=liveness HTTP/1.1", "Connection: close")


@pytest.fixture(scope="module", params=["baseplate-serve", "gunicorn"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Each server in turn. gunicorn has one worker, and also listens on IPv6 and on a Unix socket
    named ``socket``."""
    folder = tmp_path_factory.mktemp("wire")
    installation = Installation(folder, SQLiteBackend(folder / "galaxy_express.db"))
    installation.create_schema()
    for endpoint in ("send_package", "read_statistics"):
        name = f"server_timeout.by_endpoint.{endpoint}"
        installation.configure(name, f"{SERVER_TIMEOUT * 1000:.0f} milliseconds")
    if request.param == "baseplate-serve":
        with installation.baseplate_serve() as server:
            yield server
        return
    port = free_port()
    addresses = (f"127.0.0.1:{port}", f"[::1]:{port}", f"unix:{folder / 'socket'}")
    options = [option for address in addresses for option in ("--bind", address)]
    server = installation.gunicorn(*options, workers=1)
    server.port = port
    with server:
        yield server


def ask(server: Server, *pieces: bytes) -> list[Answer]:
    """Send pieces with short pauses, and return the responses until the server closes the
    connection."""
    with closing(socket.create_connection(("127.0.0.1", server.port), TIMEOUT)) as client:
        for piece in pieces:
            client.sendall(piece)
            time.sleep(0.02)
        return read_answers(client)


def statuses(server: Server, *pieces: bytes) -> list[int]:
    """Return the statuses of the responses to some pieces."""
    return [answer.status for answer in ask(server, *pieces)]


REJECTED = {
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (head("GET / HTTP/1.1", "Host: galaxy-express"), 400),
    "no host": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "HTTP/2.0": (head("GET / HTTP/2.0"), 400),
    "unknown coding": (head("POST /packages HTTP/1.1", "Transfer-Encoding: gzip, chunked"), 501),
    "coding in HTTP/1.0": (head("POST /packages HTTP/1.0", "Transfer-Encoding: chunked"), 400),
    "length with too many digits": (head("GET / HTTP/1.1", "Content-Length: " + "1" * 20), 400),
    "expectation": (head("GET / HTTP/1.1", "Expect: more"), 417),
    "end of the head": (b"GET / HTTP/1.1\r\nHos", 400),
}


@pytest.mark.parametrize(
    "start",
    [
        b"\x16\x03\x01",
        b"GET / HTTP/1.1\nHost: galaxy-express\n\n",
        head("POST /packages HTTP/1.1", "Transfer-Encoding: chunked") + b"2\n{}\n0\n\n",
    ],
    ids=["TLS", "lines of the head", "lines of the body"],
)
def test_beginning_that_cannot_become_valid(server: Server, start: bytes) -> None:
    """A request is rejected as soon as it can't become valid, while the client keeps waiting."""
    (answer,) = ask(server, start)
    assert (answer.status, answer.is_problem, answer.is_last) == (400, True, True)


@pytest.mark.parametrize("shape", REJECTED)
def test_invalid_requests(server: Server, shape: str) -> None:
    """An invalid request is answered with a problem, and the connection closes."""
    request, status = REJECTED[shape]
    (answer,) = exchange(server.port, [request])
    assert (answer.status, answer.is_problem, answer.is_last) == (status, True, True)
    assert answer.headers["Date"]


POST_CHUNKS = head("POST /packages HTTP/1.1", "Transfer-Encoding: chunked")


@pytest.mark.parametrize(
    ("start", "endless", "status"),
    [
        (b"GET /", b"a", 414),
        (b"GET / HTTP/1.1\r\nA: ", b"a", 431),
        (b"GET / HTTP/1.1\r\n", b"A: b\r\n", 431),
        (POST_CHUNKS + b"1;a=", b"a", 400),
        (POST_CHUNKS, b"1;a=" + b"a" * 900 + b"\r\n \r\n", 400),
        (POST_CHUNKS + b"0\r\n", b"A: b\r\n", 400),
    ],
    ids=["line", "field", "fields", "extension", "extensions", "trailers"],
)
def test_endless_input(server: Server, start: bytes, endless: bytes, status: int) -> None:
    """Endless input is rejected as soon as it exceeds its limit."""
    (answer,) = ask(server, start + (endless * 20_000)[:20_000])
    assert (answer.status, answer.is_problem, answer.is_last) == (status, True, True)


@pytest.mark.parametrize(
    "start",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\nHost: galaxy-express\n\n",
        b"GET / HTTP/1.1\r\nHost: galaxy-express\n",
        POST_CHUNKS + b"1\na\n0\n\n",
    ],
    ids=["TLS", "line feeds", "a line feed", "a line feed after the size of a chunk"],
)
def test_input_that_cannot_become_valid(server: Server, start: bytes) -> None:
    """What can't become a valid request is rejected at once, while the client sends nothing."""
    (answer,) = ask(server, start)
    assert (answer.status, answer.is_problem, answer.is_last) == (400, True, True)


@pytest.mark.parametrize("connection", ["close", "x, Close", "keep-alive\r\nConnection: close"])
def test_connection_close(server: Server, connection: str) -> None:
    """``close`` anywhere in ``Connection`` closes the connection, and the response says so."""
    (answer,) = ask(server, head("GET / HTTP/1.1", f"Connection: {connection}") + GET)
    assert (answer.status, answer.is_last) == (200, True)


def test_http_1_0(server: Server) -> None:
    """HTTP/1.0 is answered with HTTP/1.1, and keeps the connection only on request."""
    kept, last = ask(
        server,
        b"GET /health HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"
        b"GET /health HTTP/1.0\r\n\r\nGET /health HTTP/1.0\r\n\r\n",
    )
    assert (kept.headers["Connection"], last.headers["Connection"]) == ("keep-alive", "close")
    with closing(socket.create_connection(("127.0.0.1", server.port), TIMEOUT)) as client:
        client.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert client.recv(9) == b"HTTP/1.1 "


@pytest.mark.parametrize(
    "request_bytes",
    [
        head("POST /nowhere HTTP/1.1", "Content-Length: 5") + b"GET /",
        head("DELETE /packages HTTP/1.1", "Content-Length: 5") + b"GET /",
        head("GET /statistics HTTP/1.1", "Content-Length: 5") + b"GET /",
        head("GET / HTTP/1.1", "Transfer-Encoding: chunked") + b"5;a\r\nGET /\r\n0\r\nA: b\r\n\r\n",
        head("GET / HTTP/1.1", "Content-Length: 60000") + b"GET /".ljust(60_000),
        head("GET / HTTP/1.1", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"),
        head("POST /packages HTTP/1.1", "Upgrade: h2c", "Content-Length: 5") + b"GET /",
        head("HEAD /statistics HTTP/1.1"),
        head("OPTIONS * HTTP/1.1"),
        head("BREW /packages HTTP/1.1"),
        head("GET http://elsewhere/statistics HTTP/1.1"),
        b"\r\n" + GET,
    ],
)
@pytest.mark.parametrize("in_one_piece", [True, False])
def test_keep_alive(server: Server, request_bytes: bytes, in_one_piece: bool) -> None:
    """Without ``close`` in the response the connection stays open, whatever the request and however
    its bytes are split."""
    start, _, body = request_bytes.partition(b"\r\n\r\n")
    pieces = [start + b"\r\n\r\n", body, LAST]
    is_head = request_bytes.startswith(b"HEAD")
    with closing(socket.create_connection(("127.0.0.1", server.port), TIMEOUT)) as client:
        for piece in [b"".join(pieces)] if in_one_piece else pieces:
            client.sendall(piece)
            time.sleep(0.02)
        received = b""
        while data := client.recv(65536):
            received += data
    first, last = (received.index(b"HTTP/1.1"), received.rindex(b"HTTP/1.1 200 OK"))
    assert first < last
    assert b"Connection: close" not in received[:last]
    assert received[last:].endswith(b"true")
    assert not is_head or received[:last].endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "request_bytes",
    [
        head("GET / HTTP/1.1", "Content-Length: 5") + b"GET",
        head("GET / HTTP/1.1", "Content-Length: 1000000") + b"GET / HTTP/1.1",
        head("GET / HTTP/1.1", "Transfer-Encoding: chunked") + b"GET / HTTP/1.1\r\n\r\n",
        head("POST /nowhere HTTP/1.1", "Content-Length: 5", "Expect: 100-continue"),
        head("CONNECT elsewhere:443 HTTP/1.1") + GET,
        POST_CHUNKS + b"zz\r\n0\r\n\r\n" + GET,
    ],
    ids=["part", "much", "malformed", "not asked for", "tunnel", "malformed and then not"],
)
def test_connections_that_are_closed(server: Server, request_bytes: bytes) -> None:
    """A response says ``close`` if the start of the next request can't be found."""
    (answer,) = ask(server, request_bytes)
    assert (answer.status < 500, answer.is_last) == (True, True)


def test_expect_continue(server: Server) -> None:
    """A client that expects 100 gets it once the service wants the body."""
    with closing(socket.create_connection(("127.0.0.1", server.port), TIMEOUT)) as client:
        start = head("POST /packages HTTP/1.1", "Content-Length: 2", "Expect: 100-continue")
        client.sendall(start)
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"{}")
        assert client.recv(12) == b"HTTP/1.1 422"


@pytest.mark.parametrize("path", ["/packages", "/packages/batch"])
def test_expect_continue_with_a_large_body(server: Server, path: str) -> None:
    """A client isn't asked for a body whose declared length is too large."""
    fields = ["Content-Length: 2000000", "Expect: 100-continue"]
    assert statuses(server, head(f"POST {path} HTTP/1.1", *fields)) == [413]


def test_client_that_keeps_sending(server: Server) -> None:
    """A client that keeps sending for a while after a rejection can still read the response."""
    with closing(socket.create_connection(("127.0.0.1", server.port), TIMEOUT)) as client:
        client.sendall(head("POST /packages HTTP/1.1", "Content-Length: 100000000"))
        for _ in range(20):
            client.sendall(bytes(100_000))
            time.sleep(0.02)
        (answer,) = read_answers(client)
    assert answer.status == 413


def test_slow_body(server: Server) -> None:
    """A body that arrives too slowly is answered with 408 and ``close``."""
    (answer,) = ask(server, head("POST /packages HTTP/1.1", "Content-Length: 2"), b"{")
    assert (answer.status, answer.is_problem, answer.is_last) == (408, True, True)


def test_timeout_of_head(server: Server) -> None:
    """The timeout of a HEAD request ends with its response, and doesn't close the connection
    later."""
    with closing(socket.create_connection(("127.0.0.1", server.port), TIMEOUT)) as client:
        client.sendall(head("HEAD /statistics HTTP/1.1"))
        assert client.recv(12) == b"HTTP/1.1 200"
        client.recv(65536)
        time.sleep(1.5 * SERVER_TIMEOUT)
        client.sendall(LAST)
        assert [answer.status for answer in read_answers(client)] == [200]


def test_client_that_closes_its_sending_side(server: Server) -> None:
    """Requests are answered after the client has closed its sending side."""
    assert [answer.status for answer in exchange(server.port, [GET, GET])] == [200, 200]


@pytest.mark.parametrize("server", ["gunicorn"], indirect=True)
@pytest.mark.parametrize("family", [socket.AF_INET6, socket.AF_UNIX])
def test_ipv6_and_unix_sockets(server: Server, family: socket.AddressFamily) -> None:
    """IPv6 and Unix sockets are served like IPv4."""
    path = str(server.folder / "socket")
    address = path if family == socket.AF_UNIX else ("::1", server.port)
    with closing(socket.socket(family)) as client:
        client.settimeout(TIMEOUT)
        client.connect(address)
        client.sendall(head("POST /packages HTTP/1.1", "Content-Length: 2") + b"{}" + LAST)
        assert [answer.status for answer in read_answers(client)] == [422, 200]

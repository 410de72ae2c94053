"""Each server's answers, over a real socket."""

import os
import select
import signal
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.servers.http_client import TIMEOUT, Connection, exchange, head, package
from tests.servers.running import Installation, Server, wait_until


def test_every_endpoint_answers(server: Server) -> None:
    """Each endpoint works over HTTP: send, replay, read, preferences, statistics."""
    pkg = package(recipient_id="fry")
    preferences = {
        "timestamp": "2142-03-01T12:00:00Z",
        "personal_preference": True,
        "marketing_preference": False,
    }
    with Connection(server.port) as client:
        before = client.request("GET", "/statistics").json
        updated = client.request("PUT", "/recipients/fry/preferences", preferences)
        sent = client.request("POST", "/packages", pkg)
        retried = client.request("POST", "/packages", pkg)
        read = client.request("GET", f"/packages/{pkg['package_id']}")
        batch = client.request(
            "POST",
            "/packages/batch",
            [package(recipient_id="fry", package_type="marketing"), pkg, {}],
        )
        in_force = client.request("GET", "/recipients/fry/preferences")
        after = client.request("GET", "/statistics").json
        ready = client.request("GET", "/health?type=readiness")

    assert (updated.status, updated.json["applied"]) == (200, True)
    assert (sent.status, sent.json["status"]) == (201, "delivered")
    assert (retried.status, retried.headers["Idempotent-Replayed"]) == (200, "true")
    assert sent.json == retried.json == read.json
    assert [item["status"] for item in batch.json] == ["dropped", "delivered", "rejected"]
    assert in_force.json["marketing_preference"] is False
    assert after["packages_delivered"] - before["packages_delivered"] == 1
    assert after["packages_dropped"] - before["packages_dropped"] == 1
    assert after["requests_rejected"] - before["requests_rejected"] == 1
    assert (ready.status, ready.json) == (200, True)


def test_location_is_relative(server: Server) -> None:
    """``Location`` is a percent-encoded path to the package, without a host."""
    pkg = package(package_id=f"a/b 100% 🚀 {time.time_ns()}")
    sent = server.request("POST", "/packages", pkg)
    assert sent.headers["Location"] == f"/packages/{quote(pkg['package_id'], safe='')}"
    assert server.request("GET", sent.headers["Location"]).json == sent.json


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nowhere", None, 404),
        ("GET", "/packages/unheard-of", None, 404),
        ("DELETE", "/packages", None, 405),
        ("POST", "/packages", b"{", 400),
        ("POST", "/packages", b" " * 65_537, 413),
        ("POST", "/packages/batch", b" " * 1_048_577, 413),
        ("POST", "/packages", {}, 422),
    ],
)
def test_errors_are_problems(
    server: Server, method: str, path: str, body: object, status: int
) -> None:
    """Every client error is answered with a problem, not a page."""
    answer = server.request(method, path, body)
    assert answer.status == status
    assert answer.is_problem


def test_head_has_no_body(server: Server) -> None:
    """``HEAD`` is answered like ``GET``, without a body."""
    with Connection(server.port) as client:
        assert client.request("HEAD", "/statistics").status == 200
        assert client.request("GET", "/statistics").status == 200


def test_persistent_connection_has_no_delay(server: Server) -> None:
    """Responses on a persistent connection don't wait for a delayed acknowledgement (40 ms). The
    median allows for a busy machine."""
    durations = []
    with Connection(server.port) as client:
        for _ in range(60):
            start = time.perf_counter()
            client.request("GET", "/health?type=liveness")
            durations.append(time.perf_counter() - start)
    # About the first dozen are always acknowledged immediately.
    assert statistics.median(durations[20:]) < 0.02


def test_slow_client_does_not_block_others(server: Server) -> None:
    """A client that sends its request byte by byte is served, and so are others meanwhile."""
    body = b'{"recipient_id": "bender"}'
    request = head("POST /packages HTTP/1.1", f"Content-Length: {len(body)}") + body
    with (
        socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as slow,
        Connection(server.port) as other,
    ):
        for byte in request:
            slow.sendall(bytes([byte]))
            assert other.request("GET", "/health?type=liveness").status == 200
        assert slow.recv(12) == b"HTTP/1.1 422"


@pytest.mark.parametrize(
    ("framing", "piece"),
    [
        ("Content-Length: 1000000000000", b" " * 1_000_000),
        ("Transfer-Encoding: chunked", b"f4240\r\n" + b" " * 1_000_000 + b"\r\n"),
    ],
)
def test_endless_body_is_cut_off(server: Server, framing: str, piece: bytes) -> None:
    """Clients that send endless bodies are disconnected, while others are served."""
    with ExitStack() as stack, ThreadPoolExecutor() as threads:
        endless = []
        for _ in range(4):  # enough to reach every worker
            client = socket.create_connection(("127.0.0.1", server.port), TIMEOUT)
            stack.enter_context(client)
            client.sendall(head("POST /packages HTTP/1.1", framing))
            endless.append(threads.submit(_send_until_cut_off, client, piece))
        for _ in range(10):
            assert server.request("GET", "/health?type=liveness").status == 200
        for sending in endless:
            assert sending.result()


def _send_until_cut_off(client: socket.socket, piece: bytes) -> bool:
    end = time.monotonic() + TIMEOUT
    try:
        while time.monotonic() < end:
            client.sendall(piece)
    except ConnectionError:
        return True
    return False


def test_body_that_never_comes(server: Server) -> None:
    """The server doesn't wait forever for the body of an answered request."""
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as client:
        client.sendall(head("POST /statistics HTTP/1.1", "Content-Length: 1000000"))
        assert client.recv(12) == b"HTTP/1.1 405"
        while client.recv(65536):
            pass


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    """Pipelined requests are answered in order."""
    answers = exchange(
        server.port,
        [head("GET /statistics HTTP/1.1") + head("GET /nowhere HTTP/1.1")],
    )
    assert [answer.status for answer in answers] == [200, 404]


def test_idle_connections_are_replaced_at_the_limit(installation: Installation) -> None:
    """At the connection limit of a worker, new connections replace idle ones."""
    few = installation.gunicorn("--worker-connections", "20", workers=1)
    with few as server, ExitStack() as stack:
        for _ in range(60):
            idle = stack.enter_context(Connection(server.port))
            assert idle.request("GET", "/health?type=liveness").status == 200


def test_burst_replaces_as_many_idle_connections_as_needed(installation: Installation) -> None:
    """At the connection limit of a worker, one idle connection is closed for each new one, even if
    many are opened at the same time; one place is kept free."""
    limit, more = 100, 5
    server = installation.gunicorn(f"--worker-connections={limit}", workers=1)
    with server, ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), TIMEOUT))
            for _ in range(limit + more)
        ]
        wait_until(lambda: sum(map(_is_closed, clients)) > more, "some are closed")
        for client in clients:
            if not _is_closed(client):
                client.sendall(head("GET /health?type=liveness HTTP/1.1"))
                assert client.recv(12) == b"HTTP/1.1 200"
        assert sum(map(_is_closed, clients)) == more + 1


def test_low_limit_of_open_files(installation: Installation) -> None:
    """If the limit of open files is low, a worker has fewer connections, and serves new clients
    while others are idle."""
    server = installation.gunicorn(workers=1)
    server.command = ["sh", "-c", 'ulimit -n 150 && exec "$@"', "-", *server.command]
    with server, ExitStack() as stack:
        assert "only allows 50 connections per worker, not 1000" in server.log
        for _ in range(60):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), TIMEOUT))
        assert server.request("POST", "/packages", package()).status == 201
        assert "Traceback" not in server.log


def _is_closed(client: socket.socket) -> bool:
    readable, _, _ = select.select([client], [], [], 0)
    return bool(readable) and not client.recv(1, socket.MSG_PEEK)


def test_workers_share_connections(installation: Installation) -> None:
    """Each worker gets a share of the connections, even of a few."""
    with installation.gunicorn() as server, ExitStack() as stack:
        workers = server.workers

        def added_connections(clients: int) -> int:
            before = {pid: _sockets(pid) for pid in workers}
            for _ in range(clients // 4):  # four at a time
                some = [stack.enter_context(Connection(server.port)) for _ in range(4)]
                for client in some:
                    assert client.request("GET", "/health?type=liveness").status == 200
            return min(_sockets(pid) - had for pid, had in before.items())

        wait_until(lambda: added_connections(4) > 0, "all workers have started")
        wait_until(lambda: added_connections(20) >= 8, "each worker gets connections")


def test_workers_share_a_few_connections_after_many(installation: Installation) -> None:
    """After many connections have been closed at the same time, each worker gets a share of the
    next few."""
    with installation.gunicorn() as server:
        workers = sorted(server.workers)

        def connect(clients: int) -> tuple[list[int], int]:
            before = [_sockets(pid) for pid in workers]
            with ExitStack() as stack:
                opened = [stack.enter_context(socket.socket()) for _ in range(clients)]
                for pid in workers:
                    os.kill(pid, signal.SIGSTOP)  # so that one finds all connections at once
                for client in opened:
                    client.settimeout(TIMEOUT)
                    client.connect(("127.0.0.1", server.port))
                    client.sendall(head("GET /health?type=liveness HTTP/1.1"))
                for pid in workers:
                    os.kill(pid, signal.SIGCONT)
                    time.sleep(0.001)
                for client in opened:
                    assert client.recv(12) == b"HTTP/1.1 200"
                after = [_sockets(pid) for pid in workers]
            return [now - then for now, then in zip(after, before, strict=True)], sum(after)

        wait_until(lambda: min(connect(8)[0]) > 0, "all workers have started")
        shares = [0, 0]
        for _ in range(8):
            for clients in (48, 4):
                share, opened = connect(clients)
                idle = opened - clients
                wait_until(lambda: sum(map(_sockets, workers)) <= idle, "all are closed")  # noqa: B023
            shares = [sum(both) for both in zip(shares, share, strict=True)]
    assert min(shares) >= 8, f"the workers got {shares} of 32 connections"


def _sockets(pid: int) -> int:
    return sum(file.is_socket() for file in Path(f"/proc/{pid}/fd").iterdir())


def test_unix_socket(installation: Installation) -> None:
    """``baseplate-serve`` also serves on a Unix socket."""
    path = installation.folder / "socket"
    server = installation.baseplate_serve(path)
    server.start()
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(TIMEOUT)
            # The socket exists before the server listens on it.
            wait_until(lambda: client.connect_ex(str(path)) == 0, "the server listens")
            client.sendall(head("GET /statistics HTTP/1.1"))
            assert client.recv(12) == b"HTTP/1.1 200"
    finally:
        server.terminate()

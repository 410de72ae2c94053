"""Slow and idle clients: others are served, and no client uses more than its share."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

from tests.servers.http_client import TIMEOUT, head, package
from tests.servers.load import Load, mixed_jobs
from tests.servers.running import Installation, Server, wait_until
from tests.torture.amount import Amount
from tests.torture.conftest import Report
from tests.torture.resources import allow_many_files, connections, open_files, resident_megabytes

# Seconds for the head of a request, and for the response, instead of the configured 75
# and 15.
KEEPALIVE = 2
SERVER_TIMEOUT = 2

# Seconds within which a client that exceeds these is disconnected.
BOUNDED = 3 * (KEEPALIVE + SERVER_TIMEOUT)

# Megabytes: for a worker itself, with room for growth under load; for each idle connection;
# and for each connection with the largest body.
WORKER_ITSELF = 120
IDLE_CONNECTION = 0.1
LARGEST_BODY = 1.5

# worker_connections of gunicorn.conf.py, and a worker's other open files.
WORKER_CONNECTIONS = 1_000
OTHER_FILES = 50

_BODY = json.dumps(package()).encode()

# The bytes sent at once, and those sent one by one.
SLOW = {
    "head": (b"GET /statistics HTTP/1.1\r\nHost: x\r\n", b"X-Slow: x\r\n" * 1_000),
    "body": (head("POST /packages HTTP/1.1", f"Content-Length: {len(_BODY)}"), _BODY),
    "chunks": (
        head("POST /packages HTTP/1.1", "Transfer-Encoding: chunked"),
        b"1\r\n \r\n" * 1_000,
    ),
    "unread body": (
        head("GET /statistics HTTP/1.1", "Content-Length: 5000"),
        b"x" * 5_000,
    ),
    "end of the largest body": (
        head("POST /packages/batch HTTP/1.1", "Content-Length: 1000000") + b" " * 990_000,
        b" " * 10_000,
    ),
}


def test_slow_clients(installation: Installation, amount: Amount, report: Report) -> None:
    """Clients that send byte by byte are disconnected in time with bounded memory, while others are
    served."""
    installation.configure("server_timeout.default", f"{SERVER_TIMEOUT} seconds")
    each = amount.connections // 100
    longest = memory = 0.0
    with installation.gunicorn(f"--keep-alive={KEEPALIVE}") as server, ExitStack() as stack:
        slow = []
        for start, rest in list(SLOW.values()) * each:
            client = stack.enter_context(_connect(server))
            client.sendall(start)
            slow.append((client, iter(rest)))
        started = time.monotonic()
        while slow:
            assert time.monotonic() < started + BOUNDED, f"{len(slow)} clients are still there"
            slow = [(client, rest) for client, rest in slow if _send_byte(client, rest)]
            longest = max(longest, _time_to_answer(server))
            memory = max(memory, _largest_worker(server))
            time.sleep(0.05)
        took = time.monotonic() - started
        assert memory < WORKER_ITSELF + LARGEST_BODY * each
    report(
        f"clients that send byte by byte ({', '.join(SLOW)}); {KEEPALIVE} s for a head,"
        f" {SERVER_TIMEOUT} s for a request",
        f"{each} of each kind",
        f"all closed after {took:.1f} s; other requests took at most {1e3 * longest:.0f} ms;"
        f" largest worker: {memory:.0f} MB",
    )


def test_clients_that_do_not_read(
    installation: Installation, amount: Amount, report: Report
) -> None:
    """Clients that don't read their responses are disconnected in time, while others are served."""
    installation.configure("server_timeout.default", f"{SERVER_TIMEOUT} seconds")
    # More than the socket buffers hold for a client that doesn't read.
    requests = head("GET /static/swagger-ui-bundle.js HTTP/1.1") * 10
    clients = amount.connections // 100
    longest = memory = 0.0
    with installation.gunicorn(f"--keep-alive={KEEPALIVE}") as server, ExitStack() as stack:
        for _ in range(clients):
            client = stack.enter_context(_connect(server))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(requests)
        started = time.monotonic()
        wait_until(lambda: _connections(server) > clients // 2, "all clients are connected")
        while _connections(server) > 0:
            assert time.monotonic() < started + BOUNDED, "clients are still there"
            longest = max(longest, _time_to_answer(server))
            memory = max(memory, _largest_worker(server))
        took = time.monotonic() - started
    report(
        "clients that don't read their responses",
        f"{clients}",
        f"all closed after {took:.1f} s; other requests took at most {1e3 * longest:.0f} ms;"
        f" largest worker: {memory:.0f} MB",
    )


def test_idle_connections(installation: Installation, amount: Amount, report: Report) -> None:
    """Idle connections beyond the limit use no more resources and displace no active client."""
    idle = min(amount.connections, allow_many_files() - 500)
    with installation.gunicorn() as server, Load() as load, ExitStack() as stack:
        for client in range(4):
            load.add_client(server.port, mixed_jobs(client))
        load.wait_for(20)
        longest = 0.0
        for number in range(idle):
            stack.enter_context(_connect(server))
            if number % 100 == 0:
                longest = max(longest, _time_to_answer(server))
        load.wait_for(100)
        load.stop()
        memory = _largest_worker(server)
        files = max(open_files(worker) for worker in server.workers)
    assert [exchange for exchange in load.exchanges if not exchange.is_successful] == []
    assert files <= WORKER_CONNECTIONS + OTHER_FILES
    assert memory < WORKER_ITSELF + IDLE_CONNECTION * WORKER_CONNECTIONS
    report(
        "idle connections, with other active clients",
        f"{idle:,}",
        f"other requests took at most {1e3 * longest:.0f} ms; largest worker: {memory:.0f} MB,"
        f" {files:,} open files",
    )


def _connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), TIMEOUT)


def _send_byte(client: socket.socket, rest: Iterator[int]) -> bool:
    """Send one more byte; return whether the connection is still open."""
    try:
        client.sendall(bytes([next(rest)]))
        client.setblocking(False)
        return client.recv(65_536) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        client.settimeout(TIMEOUT)


def _time_to_answer(server: Server) -> float:
    """Return the seconds until a response."""
    asked = time.monotonic()
    assert server.request("GET", "/statistics").status == 200
    return time.monotonic() - asked


def _connections(server: Server) -> int:
    """The number of the workers' connections."""
    return sum(connections(worker) for worker in server.workers)


def _largest_worker(server: Server) -> float:
    return max(resident_megabytes(worker) for worker in server.workers)

"""Garbage input: it never causes a server error."""

import random
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from galaxy_express.ops.audit import audit_database
from tests.servers.http_client import TIMEOUT
from tests.servers.running import Installation
from tests.torture.amount import Amount
from tests.torture.conftest import Report
from tests.torture.garbage import make_garbage
from tests.torture.resources import resident_megabytes

CLIENTS = 8

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


@pytest.mark.parametrize("name", ["gunicorn", "baseplate-serve"])
def test_garbage(
    installation: Installation, name: str, amount: Amount, rng: random.Random, report: Report
) -> None:
    """Garbage causes no server error and ends no worker, and stored rows and counters stay
    correct."""
    pieces = [make_garbage(rng) for _ in range(amount.inputs)]
    with installation.server(name) as server, ThreadPoolExecutor(CLIENTS) as clients:
        workers = server.workers
        answers = list(clients.map(lambda piece: _statuses(server.port, piece), pieces))
        assert server.is_healthy("readiness")
        assert server.workers == workers
        memory = max(resident_megabytes(pid) for pid in workers or {server.pid})
    for piece, statuses in zip(pieces, answers, strict=True):
        # 501 means an unknown transfer coding.
        assert all(status < b"500" or status == b"501" for status in statuses), piece
    audit_database(installation.database.config)
    rejected = sum(any(status >= b"400" for status in statuses) for statuses in answers)
    report(
        f"garbage on bare sockets, {name}",
        f"{amount.inputs:,} pieces",
        f"{rejected:,} answered `4xx`, {answers.count([]):,} closed without a response;"
        f" server errors: 0; largest worker afterwards: {memory:.0f} MB",
    )


def _statuses(port: int, piece: bytes) -> list[bytes]:
    """Send bytes, close the sending side, and return the statuses of the responses."""
    received = b""
    with closing(socket.create_connection(("127.0.0.1", port), TIMEOUT)) as connection:
        try:
            connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(65_536):
                received += data
        except TimeoutError:
            raise
        except OSError:
            pass  # The server may reset the connection.
    return _STATUS.findall(received)

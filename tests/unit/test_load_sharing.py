"""Load sharing: which worker accepts a new connection."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.pool import Pool

from galaxy_express.serving import load_sharing
from galaxy_express.serving.load_sharing import Acceptor, Load, leave


class Workers:
    """Two workers in one process, with a shared listening socket.

    :ivar loads: their loads.
    :ivar accepted: how many connections each of them has accepted.
    """

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.loads = [Load(worker) for worker in range(2)]
        self.accepted: Counter[int] = Counter()
        self._acceptors: list[Acceptor] = []
        self._connections = Pool()
        self._clients = ExitStack()

    def start(self, worker: int) -> None:
        """Let a worker accept connections, and keep them open."""

        def handle(client: Any, address: Any) -> None:
            self.accepted[worker] += 1
            client.recv(1)

        acceptor = Acceptor(self._listener.dup(), self.loads[worker], handle, self._connections)
        self._acceptors.append(acceptor)

    def connect(self, clients: int) -> None:
        """Open connections one after another, each after the last one was accepted."""
        for _ in range(clients):
            accepted = self.accepted.total()
            address = self._listener.getsockname()
            self._clients.enter_context(socket.create_connection(address))
            with gevent.Timeout(10):
                while self.accepted.total() == accepted:
                    gevent.sleep(0.001)

    def close(self) -> None:
        """End all connections, and leave load sharing."""
        self._clients.close()
        self._connections.join()
        for acceptor in self._acceptors:
            acceptor.close()
        self._listener.close()
        leave(0)
        leave(1)


@pytest.fixture
def workers() -> Iterator[Workers]:
    """Two workers that don't accept yet."""
    workers = Workers()
    yield workers
    workers.close()


def test_worker_with_more_connections_pauses(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker with clearly more connections leaves new ones to another, until both have about
    equally many."""
    monkeypatch.setattr(load_sharing, "PAUSE_SECONDS", 60)
    workers.loads[0].change(20)
    workers.start(0)
    workers.start(1)
    workers.connect(14)
    assert workers.accepted[1] >= 13  # worker 0 may accept one before it pauses
    workers.connect(20)
    assert workers.accepted[0] > 1


def test_pause_is_short(workers: Workers) -> None:
    """If the other worker doesn't accept, a worker with more connections does."""
    workers.start(0)
    workers.connect(20)
    assert workers.accepted == {0: 20}


def test_dead_worker_is_ignored(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has left doesn't make another pause."""
    monkeypatch.setattr(load_sharing, "PAUSE_SECONDS", 60)
    leave(1)
    workers.start(0)
    workers.connect(20)
    assert workers.accepted == {0: 20}

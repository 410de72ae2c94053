"""Load sharing: a worker with clearly more connections than another leaves new ones to it."""

import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent.pool import Pool
from gevent.server import StreamServer

from galaxy_express.serving.shared_state import per_worker

# The number of connections of each worker; _NONE if there is no such worker.
_NONE = 2**31 - 1
_loads = per_worker(_NONE)

# A worker with clearly more connections than another pauses accepting for at most PAUSE_SECONDS. It
# compares again every COMPARE_SECONDS, since the other may be busy, or not have been scheduled yet.
PAUSE_SECONDS = 0.01
COMPARE_SECONDS = 0.001


class Load:
    """The number of a worker's connections, which the other workers see.

    :param worker: the number of the worker.
    :ivar connections: how many are open.
    """

    def __init__(self, worker: int) -> None:
        self._worker = worker
        self.connections = 0
        _loads[worker] = 0

    def change(self, by: int) -> None:
        """Count connections that were opened or, if negative, closed."""
        self.connections += by
        if _loads[self._worker] != _NONE:
            _loads[self._worker] = self.connections

    def exceeds_another(self, by: int) -> bool:
        """Return whether another worker has fewer connections, by more than ``by``."""
        return self.connections > min(_loads) + by


def leave(worker: int) -> None:
    """End a worker's part in load sharing. A worker does so before it exits; the master does so
    for workers that have died."""
    _loads[worker] = _NONE


class Acceptor:
    """Accepts connections from a listening socket, unless other workers should.

    :param listener: the socket.
    :param load: the load of the worker.
    :param handle: serves a connection, given its socket and the client's address.
    :param pool: where that is done.
    """

    def __init__(
        self, listener: Any, load: Load, handle: Callable[[Any, Any], None], pool: Pool
    ) -> None:
        listener.setblocking(True)
        self._load = load
        self._handle = handle
        self._server = StreamServer(listener, handle=self._serve, spawn=pool)
        self._server.max_accept = 1
        self._server.start()

    def close(self) -> None:
        """Stop accepting."""
        self._server.close()

    def _serve(self, client: Any, address: Any) -> None:
        self._count(1)
        if self._has_too_many():
            self._server.stop_accepting()
            self._accept_later(time.monotonic() + PAUSE_SECONDS)
        try:
            self._handle(client, address)
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self._load.change(change)
        # With many connections, accept several at a time; with few, leave some to others.
        self._server.max_accept = 1 + self._load.connections // 4

    def _has_too_many(self) -> bool:
        return self._load.exceeds_another(by=self._server.max_accept)

    def _accept_later(self, end: float) -> None:
        if self._has_too_many() and time.monotonic() < end:
            gevent.spawn_later(COMPARE_SECONDS, self._accept_later, end)
        elif self._server.started:
            self._server.start_accepting()

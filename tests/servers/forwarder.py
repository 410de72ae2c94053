"""A TCP forwarder between the service and a server, which can drop responses."""

import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.servers.running import free_port

# Seconds, so that a test that waits for an unresponsive server fails instead of hanging.
LONGEST = 40.0


class Forwarder:
    """Forwards TCP connections.

    :ivar port: the port it listens on.
    :ivar accepted: the number of connections accepted so far.
    :ivar target: the port that new connections are forwarded to.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = free_port()
        self.accepted = 0
        self._muted_before = 0
        self._mutes_new = False
        self._mutes_at: bytes | None = None
        # Each socket's peer, connection number, and whether it is the client's side.
        self._ends: dict[socket.socket, tuple[socket.socket, int, bool]] = {}
        self._silent: set[int] = set()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def mute_connections(self) -> None:
        """Drop all responses on the existing connections."""
        self._muted_before = self.accepted

    def mute_everything(self, muted: bool = True) -> None:
        """Drop all responses on existing and on new connections."""
        self.mute_connections()
        self._mutes_new = muted

    def mute_at(self, words: bytes | None) -> None:
        """Drop all responses on a connection once its client has sent these bytes."""
        self._mutes_at = words

    def close(self) -> None:
        """Close the listener and all connections."""
        self._stop.close()
        self._thread.join()

    def _run(self) -> None:
        latest = time.monotonic() + LONGEST
        while True:
            ready, _, _ = select.select([self._listener, self._stopped, *self._ends], [], [], 1)
            if self._stopped in ready or time.monotonic() > latest:
                break
            if self._listener in ready:
                self._accept()
            for end in ready:
                if end in self._ends:
                    self._forward(end, *self._ends[end])
        for each in (*self._ends, self._listener, self._stopped):
            each.close()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(("127.0.0.1", self.target))
        self.accepted += 1
        self._ends[client] = server, self.accepted, True
        self._ends[server] = client, self.accepted, False

    def _forward(
        self, end: socket.socket, peer: socket.socket, number: int, is_client: bool
    ) -> None:
        data = b""
        with contextlib.suppress(ConnectionError):
            data = end.recv(65536)
        if is_client and self._mutes_at and self._mutes_at in data:
            self._silent.add(number)
        is_muted = number <= self._muted_before or self._mutes_new or number in self._silent
        if is_muted and not is_client:
            if not data:
                del self._ends[end]
            return
        with contextlib.suppress(ConnectionError):
            peer.sendall(data)
        if not data:
            for each in (end, peer):
                self._ends.pop(each, None)
                each.close()


@contextmanager
def forwarding(target: int) -> Iterator[Forwarder]:
    """Forward connections to a port while the context is active."""
    forwarder = Forwarder(target)
    try:
        yield forwarder
    finally:
        forwarder.close()


@contextmanager
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", free_port())) as listener:
        end = threading.Timer(LONGEST, listener.close)
        end.start()
        try:
            yield listener.getsockname()[1]
        finally:
            end.cancel()

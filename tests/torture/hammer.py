"""A client with any number of connections, each with one request after the other.

Threads would get to a fraction of what the service carries.
"""

import http.client
import io
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from tests.servers.speaking import TIMEOUT


@dataclass(frozen=True, slots=True)
class Hit:
    """An answer.

    :param seconds: how long it took to come.
    :param retry_after: what the answer says of trying again, if it does.
    """

    status: int
    seconds: float
    retry_after: str | None


class _Client:
    """A connection, and the request that is under way on it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self.is_busy = False
        #: When to send the next request, unless one is under way.
        self.due = 0.0
        self._sent = 0.0
        self._received = b""

    def send(self, request: bytes) -> None:
        """Send a request."""
        self._received = b""
        self.is_busy = True
        self._sent = time.monotonic()
        self.socket.sendall(request)

    def receive(self) -> Hit | None:
        """Receive what there is, and return the answer if that is all of it.

        :raises ConnectionError: if there won't be more.
        """
        data = self.socket.recv(65_536)
        if not data:
            raise ConnectionError("the server closed a connection")
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return None
        status_line, _, lines = head.partition(b"\r\n")
        headers = http.client.parse_headers(io.BytesIO(lines + b"\r\n\r\n"))
        if len(body) < int(headers["Content-Length"]):
            return None
        self.is_busy = False
        now = time.monotonic()
        retry_after = headers["Retry-After"]
        self.due = now + float(retry_after or 0)
        return Hit(int(status_line.split()[1]), now - self._sent, retry_after)


def hammer(
    port: int, connections: int, seconds: float, request: Callable[[], bytes]
) -> Iterator[Hit]:
    """Send requests for a while, on each connection as soon as the last was answered, or
    as soon after as that answer says.

    :param request: makes the bytes of the next request.
    :raises OSError: if a connection can't be made, or ends.
    """
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        clients = []
        for _ in range(connections):
            client = _Client(port)
            stack.enter_context(client.socket)
            selector.register(client.socket, selectors.EVENT_READ, client)
            clients.append(client)
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end or any(client.is_busy for client in clients):
            if now < end:
                for client in clients:
                    if not client.is_busy and client.due <= now:
                        client.send(request())
            for key, _ in selector.select(0.01):
                hit = key.data.receive()
                if hit is not None:
                    yield hit

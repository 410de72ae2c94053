"""A client with any number of connections, each sending one request after another.

Threads would reach only a fraction of the service's capacity.
"""

import http.client
import io
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from tests.servers.http_client import TIMEOUT


@dataclass(frozen=True, slots=True)
class Hit:
    """A response.

    :param seconds: the time it took.
    :param retry_after: the value of ``Retry-After``, if any.
    """

    status: int
    seconds: float
    retry_after: str | None


class _Client:
    """A connection and its current request."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self.is_busy = False
        #: When to send the next request, unless one is in progress.
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
        """Receive available data, and return the response once it is complete.

        :raises ConnectionError: if the server closed the connection.
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
    """Send requests for a while: on each connection after the last response, or after its
    ``Retry-After``.

    :param request: returns the bytes of the next request.
    :raises OSError: if a connection fails or ends.
    :raises TimeoutError: if a response is missing.
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
            if now > end + TIMEOUT:
                raise TimeoutError("some requests got no response")
            for key, _ in selector.select(0.01):
                hit = key.data.receive()
                if hit is not None:
                    yield hit

"""A low-level HTTP client.

Well-formed requests go through ``http.client``, which neither retries nor pools. Malformed
ones are written to a bare socket.
"""

import http.client
import io
import json
import socket
import uuid
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import Any

# Seconds; longer than any response may take, so that a hanging server fails the test.
TIMEOUT = 20.0


@dataclass(frozen=True)
class Answer:
    """A response, as received."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """The parsed body."""
        return json.loads(self.body)

    @property
    def is_problem(self) -> bool:
        """Whether it is a problem with the same status in its body."""
        return (
            self.headers["Content-Type"] == "application/problem+json"
            and self.json["status"] == self.status
        )

    @property
    def is_last(self) -> bool:
        """Whether the server closes the connection after it."""
        return (self.headers["Connection"] or "").lower() == "close"


class Unanswered(OSError):
    """The connection failed, or ended before a complete response.

    :param may_be_idle: whether the connection had been used before and no part of the
        answer arrived. The server may then have closed it as idle while the request was
        on its way, and HTTP allows a retry (RFC 9110, section 9.2.2; RFC 9112, section
        9.3.1).
    """

    def __init__(self, reason: str, may_be_idle: bool) -> None:
        super().__init__(reason)
        self.may_be_idle = may_be_idle


class Connection:
    """A persistent connection for one request after another.

    It opens at the first request, and reopens at the next one after the server closed it.
    """

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)

    def __enter__(self) -> "Connection":
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        self._connection.close()

    def request(self, method: str, path: str, body: object = None) -> Answer:
        """Send a request and return the response.

        :param body: raw bytes, or a value to send as JSON; ``None`` for no body.
        :raises Unanswered: if there is no complete response.
        """
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        may_be_idle = self._connection.sock is not None
        try:
            self._connection.request(method, path, content)
            response = self._connection.getresponse()
            may_be_idle = False
            answer = Answer(response.status, response.headers, response.read())
            if "Content-Length" not in answer.headers:
                raise http.client.IncompleteRead(answer.body)  # the headers were truncated
        except (OSError, http.client.HTTPException) as error:
            self.close()
            is_closed = isinstance(error, ConnectionError)
            raise Unanswered(repr(error), may_be_idle and is_closed) from error
        return answer


def package(**fields: str) -> dict[str, str]:
    """A package to send, with a unique id unless one is given."""
    return {
        "timestamp": "2142-03-01T12:00:00Z",
        "sender_id": "zap",
        "recipient_id": "leela",
        "package_id": f"pkg-{uuid.uuid4()}",
        "package_type": "personal",
    } | fields


def head(request_line: str, *headers: str) -> bytes:
    """The bytes of a request line and its headers."""
    return "\r\n".join((request_line, "Host: galaxy-express", *headers, "", "")).encode("latin-1")


def exchange(port: int, pieces: Iterable[bytes]) -> list[Answer]:
    """Send bytes on a new connection, close its sending side, and return the responses.

    :raises OSError: if the bytes can't be sent, or the responses can't be read to the end.
    """
    with closing(socket.create_connection(("127.0.0.1", port), TIMEOUT)) as connection:
        for piece in pieces:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        return read_answers(connection)


def read_answers(connection: socket.socket) -> list[Answer]:
    """Return all responses up to the end of a connection.

    :raises OSError: if they can't be read to the end.
    """
    received = _Received()
    while data := connection.recv(65536):
        received.write(data)
    received.seek(0)
    return list(received.answers())


class _Received(io.BytesIO):
    """Received bytes, in place of the socket that ``http.client`` reads from."""

    def answers(self) -> Iterable[Answer]:
        while self.tell() < len(self.getbuffer()):
            # It only calls makefile() of its socket.
            response = http.client.HTTPResponse(self)  # type: ignore[arg-type]
            response.begin()
            yield Answer(response.status, response.headers, response.read())

    def makefile(self, mode: str) -> "_Received":
        return self

    def close(self) -> None:
        """Stay open: ``http.client`` closes it after each response."""

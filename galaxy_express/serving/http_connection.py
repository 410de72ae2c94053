"""A connection: a request is read, handed to the WSGI application, and answered."""

import io
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from logging import Logger
from socket import SHUT_RD, SHUT_WR
from types import TracebackType
from typing import Any

import gevent

from galaxy_express.serving.http_body import Body, Incoming
from galaxy_express.serving.http_head import Head, Limits, Unreadable, parse_head

# How long a client may take to read its last answer, and to close the connection after it; and how
# long it may send nothing meanwhile.
LINGER_SECONDS = 5
QUIET_SECONDS = 2

# A head and a body are sent in one call, unless it would copy a body of more bytes than this.
_COPIED_BYTES = 65536

# Seconds; so few that they have passed at the next turn of the event loop.
_A_TURN = 1e-9

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade"}

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType]


class Connection:
    """A client's connection.

    :param sock: a socket of gevent's.
    :param environ: what the environs of all its requests have in common.
    :param may_stay: whether it may stay in use after an answer.
    """

    def __init__(
        self, sock: Any, environ: Environ, limits: Limits, may_stay: Callable[[], bool]
    ) -> None:
        self._sock = sock
        self._incoming = Incoming(sock)
        self._environ = environ
        self._limits = limits
        self._may_stay = may_stay
        self._is_ending = False

    def close(self) -> None:
        """Release what waits for the socket, which is to be closed now."""
        self._incoming.close()

    def end(self) -> None:
        """Close the connection if it is idle, or else after the answer to a request that has
        just arrived."""
        self._is_ending = True
        with suppress(OSError):
            self._sock.shutdown(SHUT_RD)  # wakes up the greenlet that waits for a request

    def next_request(self) -> Head | None:
        """Wait for the head of a request; return ``None`` if there won't be any.

        :raises Unreadable: if it isn't valid.
        """
        if not self._incoming.is_empty:
            gevent.sleep(_A_TURN)  # 0 wouldn't reach the event loop's poll
        try:
            head = self._incoming.read_head(self._limits)
        except Unreadable:
            if self._is_ending:
                return None
            raise
        return parse_head(head) if head else None

    def answer(self, head: Head, app: Application, log: Logger) -> bool:
        """Let an application answer a request.

        :returns: whether the connection goes on.
        """
        body = Body(self._incoming, self._sock, head) if head.length != 0 else None
        environ = {**self._environ, **head.environ, "wsgi.input": body or io.BytesIO()}

        def goes_on() -> bool:
            return (
                head.keeps_alive
                and not self._is_ending
                and self._may_stay()
                and (body is None or body.drain())
            )

        answer = _Answer(self._sock, head, goes_on)
        chunks: Iterable[bytes] = ()
        try:
            chunks = app(environ, answer.start)
            for chunk in chunks:
                if chunk:
                    answer.write(chunk)
            return answer.finish()
        except Exception:  # whatever the application raises, the client needs an answer
            if answer.is_begun:
                raise
            log.exception("Unhandled exception in the application")
            self._fail()
            return False
        finally:
            if hasattr(chunks, "close"):
                chunks.close()

    def reject(self, error: Unreadable) -> None:
        """Answer that a request can't be read, and end the connection."""
        # Not imported before gevent has patched what it imports.
        from galaxy_express.web.problems import unreadable

        self._send_last(unreadable(error.status, str(error)))
        self.linger()

    def linger(self) -> None:
        """Let the client read its last answer, whatever it is still sending.

        Closing a connection with unread data resets it, and the client may not get to read its
        answer (RFC 9112, section 9.6).
        """
        with gevent.Timeout(LINGER_SECONDS, exception=False), suppress(OSError):
            self._sock.shutdown(SHUT_WR)
            while self._incoming.discard(QUIET_SECONDS):
                pass

    def _fail(self) -> None:
        from galaxy_express.web.problems import last_answer

        self._send_last(
            last_answer(HTTPStatus.INTERNAL_SERVER_ERROR, "the service failed unexpectedly")
        )

    def _send_last(self, answer: bytes) -> None:
        with gevent.Timeout(LINGER_SECONDS, exception=False), suppress(OSError):
            self._sock.sendall(answer)


class _Answer:
    """The answer to a request: what PEP 3333 calls ``start_response`` and ``write``.

    :param goes_on: whether the connection may stay in use; asked once, when the head is sent.
    """

    def __init__(self, sock: Any, head: Head, goes_on: Callable[[], bool]) -> None:
        self._sock = sock
        self._is_old = head.minor == 0
        self._has_no_body = head.environ["REQUEST_METHOD"] == "HEAD"
        self._ask_whether_it_goes_on = goes_on
        self._goes_on = False
        self._status = ""
        self._headers: list[tuple[str, str]] = []
        self._left: int | None = None
        self._is_chunked = False
        #: Whether the head is on its way.
        self.is_begun = False

    def start(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        """Take the status and the headers. They are sent with the body's first bytes."""
        if exc_info is not None and self.is_begun:
            raise exc_info[1]
        if self._status and exc_info is None:
            raise RuntimeError("the answer was started before")
        self._status = status
        self._headers = headers
        return self.write

    def write(self, chunk: bytes) -> None:
        """Send a part of the body."""
        head = b"" if self.is_begun else self._begin()
        if self._has_no_body:
            chunk = b""
        elif self._left is not None:
            chunk = chunk[: self._left]
            self._left -= len(chunk)
        elif self._is_chunked and chunk:
            chunk = b"%x\r\n%b\r\n" % (len(chunk), chunk)
        if len(chunk) > _COPIED_BYTES:
            self._send(head)
            self._send(chunk)
        else:
            self._send(head + chunk)

    def finish(self) -> bool:
        """Send what is left to send, and return whether the connection goes on."""
        if not self.is_begun:
            self.write(b"")
        if self._is_chunked:
            self._send(b"0\r\n\r\n")
        is_whole = self._has_no_body or not self._left
        return self._goes_on and is_whole

    def _begin(self) -> bytes:
        status = self._status
        if not status:
            raise RuntimeError("the answer was not started")
        self._has_no_body = self._has_no_body or status[:3] in ("204", "304")
        lines = [f"HTTP/1.1 {status}\r\nDate: {_date(int(time.time()))}\r\n"]
        for name, value in self._headers:
            key = name.lower()
            if key == "content-length":
                self._left = int(value)
            if key not in _HOP_BY_HOP:
                lines.append(f"{name}: {value}\r\n")
        self._goes_on = self._ask_whether_it_goes_on()
        if self._left is None and not self._has_no_body:
            if self._is_old:
                self._goes_on = False
            else:
                self._is_chunked = True
                lines.append("Transfer-Encoding: chunked\r\n")
        if not self._goes_on:
            lines.append("Connection: close\r\n")
        elif self._is_old:
            lines.append("Connection: keep-alive\r\n")
        head = "".join(lines)
        if not head.count("\r") == head.count("\n") == len(lines) + 1:
            raise ValueError("a header of the answer has a line break")
        self.is_begun = True
        return head.encode("latin-1") + b"\r\n"

    def _send(self, data: bytes) -> None:
        sent = self._sock.send(data)
        if sent < len(data):
            self._sock.sendall(memoryview(data)[sent:])


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)

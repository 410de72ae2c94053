"""A connection: reads requests, passes them to the WSGI application, and sends the responses."""

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
from gunicorn.glogging import Logger as GunicornLogger

from galaxy_express.serving.http_body import Body, Incoming, at_most
from galaxy_express.serving.http_head import Head, Limits, Unreadable, parse_head

# How long a client may take to read its last response and close the connection; and how long it may
# pause sending during that time.
LINGER_SECONDS = 5
QUIET_SECONDS = 2

# A head and a body are sent in one call, unless that would copy more bytes than this.
_COPIED_BYTES = 65536

# Seconds; so short that it has passed at the next iteration of the event loop.
_NEXT_ITERATION = 1e-9

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade"}

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType]


class Connection:
    """A client's connection.

    :param sock: a gevent socket.
    :param environ: the part of the WSGI environ that all its requests share.
    :param may_keep_alive: returns whether the connection may be kept open after a response.
    """

    def __init__(
        self, sock: Any, environ: Environ, limits: Limits, may_keep_alive: Callable[[], bool]
    ) -> None:
        self._sock = sock
        self._incoming = Incoming(sock)
        self._environ = environ
        self._limits = limits
        self._may_keep_alive = may_keep_alive
        self._is_ending = False

    def close(self) -> None:
        """Stop watching the socket, before it is closed."""
        self._incoming.close()

    def shut_down(self) -> None:
        """Close the connection if it is idle, or else after the response to the request that has
        just arrived."""
        self._is_ending = True
        with suppress(OSError):
            self._sock.shutdown(SHUT_RD)  # wakes up the greenlet that waits for a request

    def next_request(self) -> Head | None:
        """Wait for the head of a request; return ``None`` at the end of the connection.

        :raises Unreadable: if it isn't valid.
        """
        if not self._incoming.is_empty:
            gevent.sleep(_NEXT_ITERATION)  # 0 wouldn't reach the event loop's poll
        try:
            head = self._incoming.read_head(self._limits)
        except Unreadable:
            if self._is_ending:
                return None
            raise
        return parse_head(head) if head else None

    def respond(self, head: Head, app: Application, log: Logger | GunicornLogger) -> bool:
        """Call an application with a request, and send its response.

        :returns: whether the connection is kept open.
        """
        # Most bodies are empty, or arrive together with the head.
        received = None if head.length is None else self._incoming.read_received(head.length)
        body = Body(self._incoming, self._sock, head) if received is None else None
        stream = body or io.BytesIO(received or b"")
        environ = {**self._environ, **head.environ, "wsgi.input": stream}

        def keep_alive() -> bool:
            return (
                head.keeps_alive
                and not self._is_ending
                and self._may_keep_alive()
                and (body is None or body.drain())
            )

        response = _Response(self._sock, head, keep_alive)
        chunks: Iterable[bytes] = ()
        try:
            chunks = app(environ, response.start)
            for chunk in chunks:
                if chunk:
                    response.write(chunk)
            return response.finish()
        except Exception:  # whatever the application raises, the client needs a response
            if response.is_started:
                raise
            log.exception("Unhandled exception in the application")
            self._fail()
            return False
        finally:
            if hasattr(chunks, "close"):
                chunks.close()

    def reject(self, error: Unreadable) -> None:
        """Respond that the request can't be read, and close the connection."""
        # Imported late, after gevent has patched its dependencies.
        from galaxy_express.web.problems import unreadable

        self._send_last(unreadable(error.status, str(error)))
        self.linger()

    def linger(self) -> None:
        """Let the client read its last response, even if it is still sending.

        Closing a connection with unread data resets it, which may prevent the client from reading
        its response (RFC 9112, section 9.6).
        """
        with at_most(LINGER_SECONDS), suppress(OSError):
            self._sock.shutdown(SHUT_WR)
            while self._incoming.discard(QUIET_SECONDS):
                pass

    def _fail(self) -> None:
        from galaxy_express.web.problems import final_response

        self._send_last(
            final_response(HTTPStatus.INTERNAL_SERVER_ERROR, "the service failed unexpectedly")
        )

    def _send_last(self, response: bytes) -> None:
        with at_most(LINGER_SECONDS), suppress(OSError):
            self._sock.sendall(response)


def serve(
    connection: Connection,
    next_request: Callable[[], Head | None],
    app: Application,
    log: Logger | GunicornLogger,
    ip: str,
) -> None:
    """Serve the requests of a connection until its end, and stop watching its socket.

    :param next_request: as the connection's method.
    :param ip: the address of the client, for the log.
    """
    # Imported late, after gevent has patched its dependencies, and once metrics have a folder.
    from baseplate.observers.timeout import ServerTimeout

    from galaxy_express import metrics

    try:
        while (head := next_request()) is not None:
            if not connection.respond(head, app, log):
                connection.linger()
                return
    except Unreadable as error:
        log.debug("Invalid request from ip=%s: %s", ip, error)
        metrics.count_unreadable_request()
        connection.reject(error)
    except ServerTimeout:
        log.debug("Closing a connection from ip=%s that doesn't read its response", ip)
    except OSError as error:
        log.debug("Lost a connection from ip=%s: %s", ip, error)
    finally:
        connection.close()


class _Response:
    """The response to a request, with ``start_response`` and ``write`` of PEP 3333.

    :param keep_alive: returns whether the connection may be kept open; called when the head is
        sent.
    """

    def __init__(self, sock: Any, head: Head, keep_alive: Callable[[], bool]) -> None:
        self._sock = sock
        self._is_http_1_0 = head.minor == 0
        self._has_no_body = head.environ["REQUEST_METHOD"] == "HEAD"
        self._may_keep_alive = keep_alive
        self._keep_alive = False
        self._status = ""
        self._headers: list[tuple[str, str]] = []
        self._left: int | None = None
        self._is_chunked = False
        #: Whether the head has been sent.
        self.is_started = False

    def start(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        """Set the status and the headers. They are sent with the first bytes of the body."""
        if exc_info is not None and self.is_started:
            raise exc_info[1]
        if self._status and exc_info is None:
            raise RuntimeError("the response was already started")
        self._status = status
        self._headers = headers
        return self.write

    def write(self, chunk: bytes) -> None:
        """Send a chunk of the body."""
        head = b"" if self.is_started else self._begin()
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
        """Send the rest, and return whether the connection is kept open."""
        if not self.is_started:
            self.write(b"")
        if self._is_chunked:
            self._send(b"0\r\n\r\n")
        is_complete = self._has_no_body or not self._left
        return self._keep_alive and is_complete

    def _begin(self) -> bytes:
        status = self._status
        if not status:
            raise RuntimeError("the response was not started")
        self._has_no_body = self._has_no_body or status[:3] in ("204", "304")
        lines = [f"HTTP/1.1 {status}\r\nDate: {_date(int(time.time()))}\r\n"]
        for name, value in self._headers:
            key = name.lower()
            if key in _HOP_BY_HOP:
                continue
            if key == "content-length":
                self._left = int(value)
            lines.append(f"{name}: {value}\r\n")
        self._keep_alive = self._may_keep_alive()
        if self._left is None and not self._has_no_body:
            if self._is_http_1_0:
                self._keep_alive = False
            else:
                self._is_chunked = True
                lines.append("Transfer-Encoding: chunked\r\n")
        if not self._keep_alive:
            lines.append("Connection: close\r\n")
        elif self._is_http_1_0:
            lines.append("Connection: keep-alive\r\n")
        head = "".join(lines)
        if not head.count("\r") == head.count("\n") == len(lines) + 1:
            raise ValueError("a response header has a line break")
        self.is_started = True
        return head.encode("latin-1") + b"\r\n"

    def _send(self, data: bytes) -> None:
        sent = self._sock.send(data)
        if sent < len(data):
            self._sock.sendall(memoryview(data)[sent:])


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)

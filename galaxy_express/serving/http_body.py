"""The received bytes of a connection, and the body of a request."""

import io
import re
import sys
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import gevent

from galaxy_express.serving.http_head import Head, Limits, Unreadable, check_beginning

# The limits for reading an unread body before the response, in bytes and seconds.
DRAIN_BYTES = 65536
DRAIN_SECONDS = 0.5

# The limit for the extensions and the trailers of a chunked body, in bytes.
MAX_EXTRAS = 8190

_MAX_DIGITS = 15
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,%d})((?:;[\t\x20-\x7e\x80-\xff]*)?)" % _MAX_DIGITS)
_TRAILER = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+:[\t\x20-\x7e\x80-\xff]*")


def at_most(seconds: float) -> gevent.Timeout:
    """A block that ends after some seconds, without an exception."""
    # False is documented, but the types don't allow it.
    return gevent.Timeout(seconds, exception=False)  # type: ignore[arg-type]


class Incoming:
    """The bytes that a connection has received and that have not been read yet.

    :param sock: a gevent socket.
    """

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._hub = gevent.get_hub()
        self._readable = self._hub.loop.io(sock.fileno(), 1)
        self._data = b""
        self._start = 0

    def close(self) -> None:
        """Stop watching the socket, before it is closed."""
        self._readable.close()

    @property
    def is_empty(self) -> bool:
        """Whether everything that was received has been read."""
        return self._start == len(self._data)

    def receive(self) -> bool:
        """Receive more data; return false at the end of the connection.

        It always waits in the event loop's poll, so that connections are served fairly. Otherwise
        a connection whose next request has always arrived already would starve the others.
        """
        self._data = self._data[self._start :]  # a waiting connection holds no memory
        self._start = 0
        self._hub.wait(self._readable)
        received: bytes = self._sock.recv(65536)
        self._data += received
        return received != b""

    def read_head(self, limits: Limits) -> bytes:
        """Read up to an empty line; return ``b""`` if nothing more arrives.

        :raises Unreadable: if it is over a limit, or ends early.
        """
        searched = 0
        while True:
            if not searched and self._data.startswith(b"\r\n", self._start):
                self._start += 2  # RFC 9112, section 2.2
            end = self._data.find(b"\r\n\r\n", self._start + max(0, searched - 3))
            if end >= 0:
                break
            searched = len(self._data) - self._start
            if searched:
                limits.check(self._data[self._start :])
                check_beginning(self._data[self._start :])
            if not self.receive():
                if self.is_empty:
                    return b""
                raise Unreadable(HTTPStatus.BAD_REQUEST, "the head ended early")
        head = self._data[self._start : end + 4]
        self._start = end + 4
        limits.check(head)
        return head

    def read_line(self, limit: int) -> bytes:
        """Read a line, without the line ending.

        :raises Unreadable: if it is longer than the limit, or ends early.
        """
        while (end := self._data.find(b"\r\n", self._start, self._start + limit + 2)) < 0:
            if len(self._data) - self._start >= limit + 2:
                raise Unreadable(HTTPStatus.BAD_REQUEST, "a line of the body is too long")
            if b"\n" in self._data[self._start :]:
                raise Unreadable(HTTPStatus.BAD_REQUEST, "a line ends without a carriage return")
            if not self.receive():
                raise Unreadable(HTTPStatus.BAD_REQUEST, "the body ended early")
        line = self._data[self._start : end]
        self._start = end + 2
        return line

    def read_some(self, size: int) -> bytes:
        """Read at least one byte and at most ``size``; return ``b""`` if nothing more arrives."""
        if self.is_empty and not self.receive():
            return b""
        some = self._data[self._start : self._start + size]
        self._start += len(some)
        return some

    def read_received(self, size: int) -> bytes | None:
        """Read exactly ``size`` bytes, or return None if they haven't all been received yet."""
        end = self._start + size
        if end > len(self._data):
            return None
        received = self._data[self._start : end]
        self._start = end
        return received

    def discard(self, seconds: float) -> bool:
        """Discard the received data, and return whether more arrives within some seconds."""
        self._data = b""
        self._start = 0
        with at_most(seconds):
            return self.receive()
        return False


class Body(io.IOBase):
    """The body of a request, received when it is read: WSGI's ``wsgi.input``.

    :param head: the head of the request, which defines where the body ends.
    """

    def __init__(self, incoming: Incoming, sock: Any, head: Head) -> None:
        self._incoming = incoming
        self._sock = sock
        self._expects_continue = head.expects_continue
        self._is_chunked = head.length is None
        self._left = head.length or 0  # bytes of the body, or of a chunk
        self._extras = MAX_EXTRAS
        self._is_complete = head.length == 0
        self._is_broken = False

    def read(self, size: int | None = -1, /) -> bytes:
        """Read a number of bytes, or all.

        :raises Unreadable: if it isn't well-formed.
        """
        wanted = sys.maxsize if size is None or size < 0 else size
        if self._expects_continue:
            self._expects_continue = False
            if self._incoming.is_empty and not self._is_complete:
                self._sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._is_broken = True  # unless the following succeeds
        read = bytearray()
        while len(read) < wanted and not self._is_complete:
            some = self._read_some(wanted - len(read))
            if not some and not self._is_complete:
                return bytes(read)  # the client has disconnected
            read += some
        self._is_broken = False
        return bytes(read)

    def drain(self) -> bool:
        """Read the rest of the body, if it is short and arrives soon.

        :returns: whether the whole body was read, so that the next request can follow.
        """
        if self._is_complete:
            return True
        if self._is_broken or self._expects_continue or self._left > DRAIN_BYTES:
            return False
        with at_most(DRAIN_SECONDS), suppress(OSError, Unreadable):
            self.read(DRAIN_BYTES)
        return self._is_complete

    def _read_some(self, size: int) -> bytes:
        if self._is_chunked and self._left == 0:
            self._begin_chunk()
            if self._is_complete:
                return b""
        some = self._incoming.read_some(min(size, self._left))
        self._left -= len(some)
        if not self._is_chunked:
            self._is_complete = self._left == 0
        elif self._left == 0:
            self._incoming.read_line(0)
        elif not some:
            raise Unreadable(HTTPStatus.BAD_REQUEST, "the body ended early")
        return some

    def _begin_chunk(self) -> None:
        match = _CHUNK.fullmatch(self._read_extras())
        if match is None:
            raise Unreadable(HTTPStatus.BAD_REQUEST, "the size of a chunk is malformed")
        self._count_extras(match[2])
        self._left = int(match[1], 16)
        if self._left > 0:
            return
        while trailer := self._read_extras():
            if not _TRAILER.fullmatch(trailer):
                raise Unreadable(HTTPStatus.BAD_REQUEST, "a trailer is malformed")
            self._count_extras(trailer)
        self._is_complete = True

    def _read_extras(self) -> bytes:
        return self._incoming.read_line(self._extras + _MAX_DIGITS)

    def _count_extras(self, extras: bytes) -> None:
        self._extras -= len(extras)
        if self._extras < 0:
            raise Unreadable(
                HTTPStatus.BAD_REQUEST, "the chunk extensions or trailers are too long"
            )

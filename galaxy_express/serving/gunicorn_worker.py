"""The worker of gunicorn: its own gevent worker, with manners."""

import mmap
import os
import socket
import sys
import time
from array import array
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import gevent
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.http.errors import (
    ExpectationFailed,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
)
from gunicorn.workers.ggevent import GeventWorker

# What is wrong with a request that can't be read is a matter of 400, but for these.
_STATUSES = {
    LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
}

# How many connections each worker has, by its number, and this for numbers that none has. The
# memory is made where gunicorn's master imports this, and shared by all workers.
_NONE = 2**31 - 1
_loads = memoryview(mmap.mmap(-1, 4 * 1024)).cast("i")
_loads[:] = array("i", [_NONE]) * len(_loads)

# How long a worker that has more connections than another leaves newcomers to that one.
PAUSE_SECONDS = 0.002

# How long the thread that commits waits for the interpreter while a batch is parsed. Python's
# own five milliseconds, several times in each commit, are a while for the lock to be held.
SWITCH_SECONDS = 0.0005

# How long a client that has been answered may take to end the connection.
LINGER_SECONDS = 2


class _Idle(gevent.Timeout):
    """The time in which a connection has no request; it ends in silence when it is up.

    :param seconds: the longest that it may last.
    :param idle: where it is noted as long as it lasts.
    """

    def __init__(self, seconds: float, idle: "dict[_Idle, gevent.Greenlet]") -> None:
        super().__init__(seconds, exception=False)
        self._idle = idle
        self.since = time.monotonic()

    def __enter__(self) -> "_Idle":
        self._idle[self] = gevent.getcurrent()
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> bool | None:
        self._idle.pop(self, None)
        ended: bool | None = super().__exit__(*raised)
        return ended


class GalaxyExpressWorker(GeventWorker):
    """A gevent worker in which connections share, and which leaves without a fuss.

    - Workers share. One that has more connections than another leaves it the next.
    - Connections take turns. A greenlet goes on for as long as it needn't wait, so a
      connection that always has a request ready would be served again and again, while
      others wait for seconds.
    - When there are as many connections as there may be, the one that has been idle for
      longest makes room for others.
    - A request that can't be read is answered with a problem, like any other that is wrong.
    - When told to stop, it first says that it isn't ready any more, for as long as a load
      balancer needs to notice. Then it takes no more connections, hangs up those that are
      idle, and ends as soon as the requests under way are answered.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: The least number that no other worker has; set by the configuration's hooks.
        self.number = 0
        #: The idle connections, the one that has been so for longest first.
        self.idle: dict[_Idle, gevent.Greenlet] = {}
        self._connections = Pool(self.worker_connections)
        self._stopping = Event()

    def run(self) -> None:
        """Serve until told to stop."""
        sys.setswitchinterval(SWITCH_SECONDS)
        _loads[self.number] = 0
        servers = [self._serve(listener) for listener in self.sockets]
        while not self._stopping.wait(1):
            self.notify()
        deadline = time.monotonic() + self.cfg.graceful_timeout - self._drain_seconds() - 1
        for server in servers:
            server.stop_accepting()
        self.leave()
        gevent.sleep(0)  # who was accepted last asks the listener for its name
        for server in servers:
            server.close()
        while self._connections and time.monotonic() < deadline:
            # Who has only just come, or been answered, may be about to send a request.
            a_second_ago = time.monotonic() - 1
            self._hang_up(*(idle for idle in self.idle if idle.since < a_second_ago))
            self.notify()
            self._connections.join(timeout=0.1)
        if self._connections:
            self.log.warning("%s requests are cut off", len(self._connections))
            self._connections.kill(timeout=0.5)

    def _serve(self, listener: Any) -> StreamServer:
        listener.setblocking(True)

        def handle(client: Any, address: Any) -> None:
            number = _loads[self.number] = len(self._connections)
            if number > min(_loads) + 1:
                server.stop_accepting()
                gevent.spawn_later(PAUSE_SECONDS, accept_again)
            # Many newcomers needn't wait while others are served.
            server.max_accept = max(1, number // 2)
            try:
                self.handle(listener, client, address)
            finally:
                if _loads[self.number] != _NONE:
                    _loads[self.number] = len(self._connections) - 1

        def accept_again() -> None:
            if server.started:
                server.start_accepting()

        server = StreamServer(listener, handle=handle, spawn=self._connections)
        server.max_accept = 1
        server.start()
        return server

    def leave(self) -> None:
        """Be none any more with whom other workers share; the master says so of the dead."""
        _loads[self.number] = _NONE

    def handle_exit(self, sig: Any, frame: Any) -> None:
        """Begin to stop, at SIGTERM."""
        if not self.booted:
            os._exit(0)
        # Not imported before gevent has patched what it imports.
        from baseplate.server import SERVER_STATE, ServerLifecycle

        SERVER_STATE.state = ServerLifecycle.SHUTTING_DOWN
        gevent.spawn_later(self._drain_seconds(), self._stop)

    def _stop(self) -> None:
        self.alive = False  # from now on, each answer is its connection's last
        self._stopping.set()

    def _drain_seconds(self) -> float:
        return float(os.environ["GALAXY_EXPRESS_DRAIN_SECONDS"])

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Handle a connection."""
        gevent.getcurrent().client = client
        super().handle(listener, client, addr)

    def timeout_ctx(self) -> _Idle:
        """The context in which gunicorn waits for a request."""
        if self._connections.full() and self.idle:
            self._hang_up(next(iter(self.idle)))
        return _Idle(self.cfg.keepalive, self.idle)

    def _hang_up(self, *idle: _Idle) -> None:
        for connection in idle:
            gevent.get_hub().loop.run_callback(self._end, connection)

    def _end(self, connection: _Idle) -> None:
        greenlet = self.idle.get(connection)
        if greenlet is not None and not _has_something(greenlet.client):
            del self.idle[connection]
            greenlet.throw(connection)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """Handle a request, then let the other connections have their turn."""
        loop = gevent.get_hub().loop
        turn = loop.iteration
        try:
            super().handle_request(listener_name, req, sock, addr)
            if not _is_at_its_end(req.body):
                raise StopIteration  # gunicorn's way to say that the connection ends
        except StopIteration:
            # It and the request refer to each other, so what it has read would stay in memory
            # until the garbage is collected, which may be long after.
            req.body = None
            _linger(sock)
            raise
        if loop.iteration == turn:  # it never waited
            gevent.sleep(0)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what can't be read, which gunicorn would do in HTML."""
        # Once there is a request, gunicorn has such exceptions for what is our fault, too.
        if req is not None or not isinstance(exc, ParseException):
            super().handle_error(req, client, addr, exc)
            return
        # Not imported before gevent has patched what it imports.
        from galaxy_express.web.problems import unreadable

        self.log.warning("Invalid request from ip=%s: %s", addr[0] if addr else "", exc)
        status = _STATUSES.get(type(exc), HTTPStatus.BAD_REQUEST)
        with gevent.Timeout(LINGER_SECONDS, exception=False), suppress(OSError):
            client.sendall(unreadable(status, str(exc)))
            _linger(client)


def _has_something(client: Any) -> bool:
    # Not by gevent's recv(), which would wait.
    try:
        client._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    return True  # pragma: no cover - a request that comes at that very moment


def _is_at_its_end(body: Any) -> bool:
    with (
        gevent.Timeout(LINGER_SECONDS, exception=False),
        suppress(OSError, ParseException),
    ):
        return not body.read(1)
    return False


def _linger(sock: Any) -> None:
    # To close a connection that has something unread resets it, and the client may not
    # get to read its answer (RFC 9112, section 9.6).
    with gevent.Timeout(LINGER_SECONDS, exception=False), suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass

"""A gevent worker for gunicorn with fair scheduling, load sharing and graceful drain."""

import mmap
import os
import socket
import sys
import time
from array import array
from contextlib import suppress
from http import HTTPStatus
from select import POLLIN
from typing import Any

import gevent
from gevent.event import Event
from gevent.monkey import get_original
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.http.errors import (
    ExpectationFailed,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
)
from gunicorn.workers.ggevent import GeventWorker

from galaxy_express.serving.environment import drain_seconds

# The statuses of requests that can't be parsed, unless it is 400.
_STATUSES = {
    LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
}

# What workers and their master tell each other, by the number of the worker. The memory is
# allocated where gunicorn's master imports this module, and all workers inherit it.
_MAX_WORKERS = 1024


def _shared(initial: int) -> memoryview:
    numbers = memoryview(mmap.mmap(-1, 4 * _MAX_WORKERS)).cast("i")
    numbers[:] = array("i", [initial]) * _MAX_WORKERS
    return numbers


# How many connections a worker has; this if there is no such worker.
_NONE = 2**31 - 1
_loads = _shared(_NONE)

# Whether a reload is replacing a worker.
_replaced = _shared(False)

# How long a worker that has more connections than another leaves new ones to it.
PAUSE_SECONDS = 0.002

# The GIL interval. At Python's default of 5 ms, the commit thread waits several times per commit
# while a batch is parsed, and holds the write lock meanwhile.
SWITCH_SECONDS = 0.0005

# How long to wait for a client to close its connection after its last answer.
LINGER_SECONDS = 2


_poll = get_original("select", "poll")


class _Idle(gevent.Timeout):
    """A timeout for an idle connection, which is closed without an answer when it expires.

    :param idle: a registry of the idle connections, kept up to date.
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
    """A gevent worker with fair scheduling, load sharing and graceful drain.

    - Workers share the load. One with more connections than another leaves new ones to it.
    - Connections take turns. A greenlet runs until it has to wait, so a connection whose next
      request has always arrived would be served again and again, while others wait for
      seconds.
    - At the limit of connections, the one that has been idle longest is closed.
    - A request that can't be parsed is answered with a problem document.
    - At SIGTERM the worker reports that it isn't ready, for as long as load balancers need to
      notice. Then it stops accepting, closes idle connections, and ends once the requests in
      progress are answered. A worker that is replaced, by a reload or after ``max_requests``,
      stops accepting at once: the instance stays ready.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: The lowest number that no other worker has; set by the configuration's hooks.
        self.number = 0
        #: The idle connections, from the longest idle to the latest.
        self.idle: dict[_Idle, gevent.Greenlet] = {}
        self._connections = Pool(self.worker_connections)
        self._stopping = Event()

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:  # noqa: ARG003 - as gunicorn calls it
        """Reject settings that this worker can't work with; gunicorn calls it at start.

        :raises SystemExit: naming the setting, in a sentence.
        """
        if cfg.preload_app:
            sys.exit(
                "gunicorn's preload_app can't be used: the thread that commits would belong to"
                " the master, and every write would time out"
            )
        if drain_seconds() > cfg.graceful_timeout - 2:
            sys.exit(
                f"GALAXY_EXPRESS_DRAIN_SECONDS must be at least 2 seconds less than gunicorn's"
                f" graceful_timeout, which is {cfg.graceful_timeout}: requests would be cut off"
            )

    def run(self) -> None:
        """Serve until told to stop."""
        sys.setswitchinterval(SWITCH_SECONDS)
        _loads[self.number] = 0
        servers = [self._serve(listener) for listener in self.sockets]
        while self.alive and not self._stopping.wait(1):  # max_requests ends alive
            self.notify()
        deadline = time.monotonic() + self.cfg.graceful_timeout - drain_seconds() - 1
        for server in servers:
            server.stop_accepting()
        self.deregister()
        gevent.sleep(0)  # the connection accepted last asks the listener for its name
        for server in servers:
            server.close()
        while self._connections and time.monotonic() < deadline:
            # A client that has just connected, or been answered, may be about to send a request.
            a_second_ago = time.monotonic() - 1
            self._close_idle(*(idle for idle in self.idle if idle.since < a_second_ago))
            self.notify()
            self._connections.join(timeout=0.1)
        if self._connections:
            self.log.warning("Cutting off %s requests", len(self._connections))
            self._connections.kill(timeout=0.5)

    def _serve(self, listener: Any) -> StreamServer:
        listener.setblocking(True)

        def handle(client: Any, address: Any) -> None:
            number = _loads[self.number] = len(self._connections)
            if number > min(_loads) + 1:
                server.stop_accepting()
                gevent.spawn_later(PAUSE_SECONDS, accept_again)
            # With many connections, accept several at a time.
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

    def deregister(self) -> None:
        """Leave load sharing. The master calls this for dead workers."""
        _loads[self.number] = _NONE
        _replaced[self.number] = False

    def replace(self) -> None:
        """Note that a reload is replacing this worker. The master calls this."""
        _replaced[self.number] = True

    def handle_exit(self, sig: Any, frame: Any) -> None:
        """Begin to stop, at SIGTERM."""
        if not self.booted:
            os._exit(0)
        if _replaced[self.number]:
            self._stop()
            return
        # Not imported before gevent has patched what it imports.
        from baseplate.server import SERVER_STATE, ServerLifecycle

        SERVER_STATE.state = ServerLifecycle.SHUTTING_DOWN
        gevent.spawn_later(drain_seconds(), self._stop)

    def _stop(self) -> None:
        self.alive = False  # from now on, each answer is its connection's last
        self._stopping.set()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Handle a connection."""
        gevent.getcurrent().client = client
        super().handle(listener, client, addr)

    def timeout_ctx(self) -> _Idle:
        """The context in which gunicorn waits for a request."""
        if self._connections.full() and self.idle:
            self._close_idle(next(iter(self.idle)))
        return _Idle(self.cfg.keepalive, self.idle)

    def _close_idle(self, *idle: _Idle) -> None:
        for connection in idle:
            gevent.get_hub().loop.run_callback(self._end, connection)

    def _end(self, connection: _Idle) -> None:
        greenlet = self.idle.get(connection)
        if greenlet is not None and not _has_unread_data(greenlet.client):
            del self.idle[connection]
            greenlet.throw(connection)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """Handle a request, then let other connections take their turn."""
        loop = gevent.get_hub().loop
        turn = loop.iteration
        try:
            super().handle_request(listener_name, req, sock, addr)
            if not _is_at_its_end(req.body):
                raise StopIteration  # gunicorn's way to say that the connection ends
        except StopIteration:
            # The body and the request refer to each other, so the body would stay in memory
            # until the next garbage collection.
            req.body = None
            _linger(sock)
            raise
        if loop.iteration == turn:  # it never waited
            gevent.sleep(0)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer a request that can't be parsed with a problem; gunicorn would in HTML."""
        # Once there is a request, such exceptions of gunicorn's may be errors of ours.
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


def _has_unread_data(client: Any) -> bool:
    incoming = _poll()  # gevent's would wait, which a callback of the event loop can't
    incoming.register(client.fileno(), POLLIN)
    return bool(incoming.poll(0))


def _is_at_its_end(body: Any) -> bool:
    with (
        gevent.Timeout(LINGER_SECONDS, exception=False),
        suppress(OSError, ParseException),
    ):
        return not body.read(1)
    return False


def _linger(sock: Any) -> None:
    # Closing a connection with unread data resets it, and the client may not get to read its
    # answer (RFC 9112, section 9.6).
    with gevent.Timeout(LINGER_SECONDS, exception=False), suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass

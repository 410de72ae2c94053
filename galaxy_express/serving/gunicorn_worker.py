"""A gunicorn worker: serving connections, limits on them, and graceful shutdown."""

import gc
import os
import signal
import sys
import time
from functools import partial
from typing import Any

import gevent
from gevent.event import Event
from gevent.monkey import patch_all
from gevent.pool import Pool
from gevent.socket import SOCK_STREAM, socket
from gunicorn.workers.base import Worker

from galaxy_express.serving import gunicorn_settings
from galaxy_express.serving.environment import drain_seconds
from galaxy_express.serving.http_connection import Connection, Environ, serve
from galaxy_express.serving.http_head import MAX_HEAD, Head, Limits
from galaxy_express.serving.load_sharing import Acceptor, Load, leave
from galaxy_express.serving.open_files import allowed_connections
from galaxy_express.serving.shared_state import per_worker

# Whether the worker is being stopped while the instance keeps serving.
_replaced = per_worker(False)

# Whether the worker, or a predecessor with its number, has started.
_started = per_worker(False)

# A worker that can't start waits before it exits, since gunicorn replaces it immediately.
RETRY_SECONDS = 2.0

# The GIL interval. At Python's default of 5 ms, the commit thread waits several times per commit
# while a batch is parsed, holding the write lock.
SWITCH_SECONDS = 0.0005


class GalaxyExpressWorker(Worker):
    """A worker on gevent, with load sharing and graceful drain.

    - Workers share the load. A worker with clearly more connections than another leaves new
      ones to it.
    - At the connection limit, the connection that has been idle for longest is closed.
    - On SIGTERM the worker reports that it isn't ready, for as long as load balancers need to
      notice. Then it stops accepting, closes idle connections, and exits once the requests in
      progress have been answered. A worker that is replaced, by a reload or after
      ``max_requests``, or that is one too many after SIGTTOU, stops accepting immediately: the
      instance stays ready.

    It doesn't support TLS, access logs, proxy headers, or gunicorn's per-request hooks.
    """

    sockets: list[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: The lowest number not in use by another worker; set by hooks in the configuration.
        self.number = 0
        #: The connections that wait for a request, longest first, with the time since when.
        self.idle: dict[Connection, float] = {}
        self._connections = Pool(allowed_connections(self.cfg.worker_connections))
        # Connections that have been told to close.
        self._closing: set[Connection] = set()
        self._limits = Limits(
            self.cfg.limit_request_line or MAX_HEAD,
            self.cfg.limit_request_fields or MAX_HEAD,
            self.cfg.limit_request_field_size or MAX_HEAD,
        )
        self._stopping = Event()

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Reject settings that this worker doesn't support; gunicorn calls this at startup.

        :raises SystemExit: with a one-line message that names the setting.
        """
        gunicorn_settings.check(cfg, log)

    def init_signals(self) -> None:
        """Set the handlers of signals.

        Operators may send a signal for the master to all processes, for example with ``pkill`` or
        ``systemctl kill``. By default, SIGHUP and SIGUSR2 would end a worker.
        """
        super().init_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)

    def init_process(self) -> None:
        """Initialize the worker: gunicorn calls this after the fork, and then :py:meth:`run`."""
        patch_all()
        gevent.reinit()
        self.sockets = [
            socket(listener.FAMILY, SOCK_STREAM, fileno=listener.sock.detach())
            for listener in self.sockets
        ]
        super().init_process()

    def load_wsgi(self) -> None:
        """Load the application.

        :raises SystemExit: if this worker can't load it, but an earlier one could. After any other
            exception gunicorn would stop, even if other workers are still serving.
        """
        try:
            super().load_wsgi()
        except Exception as error:  # the configuration or the code was changed since
            if not any(_started):
                raise
            self.log.error(
                "A worker that has ended can't be replaced until this is fixed: %s",
                "; ".join(str(error).splitlines()),
            )
            time.sleep(RETRY_SECONDS)
            sys.exit(1)

    def notify(self) -> None:
        """Signal that the worker is alive; exit if the master has exited."""
        super().notify()
        if self.ppid != os.getppid():
            self.log.info("Parent changed, shutting down: %s", self)
            sys.exit(0)

    def run(self) -> None:
        """Serve until stopped."""
        sys.setswitchinterval(SWITCH_SECONDS)
        # The application's objects are permanent. Traversing them, as the garbage collector does
        # every few thousand requests, would block the event loop for about 25 ms.
        gc.collect()
        gc.freeze()
        _started[self.number] = True
        load = Load(self.number)
        acceptors = [
            Acceptor(
                listener, load, partial(self._handle, self._environ(listener)), self._connections
            )
            for listener in self.sockets
        ]
        # gunicorn's `reload` only changes the attribute.
        while self.alive and not self._stopping.wait(1):
            self.notify()
            self._close_idle(self.cfg.keepalive)
        deadline = time.monotonic() + self.cfg.graceful_timeout - drain_seconds() - 1
        for acceptor in acceptors:
            acceptor.close()
        self.deregister()
        while self._connections and time.monotonic() < deadline:
            # A client that has just connected, or got a response, may be about to send a request.
            self._close_idle(1)
            self.notify()
            self._connections.join(timeout=0.1)
        if self._connections:
            self.log.warning("Aborting %s requests", len(self._connections))
            self._connections.kill(timeout=0.5)

    def _environ(self, listener: Any) -> Environ:
        """The part of the WSGI environ that all requests share."""
        address = listener.getsockname()
        host, port = address[:2] if isinstance(address, tuple) else ("localhost", 80)
        return {
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": self.cfg.workers > 1,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
            "SERVER_NAME": host,
            "SERVER_PORT": str(port),
            "SCRIPT_NAME": "",
        }

    def deregister(self) -> None:
        """Clear the worker's shared state. The master calls this for dead workers."""
        leave(self.number)
        _replaced[self.number] = False

    def replace(self) -> None:
        """Mark this worker as being replaced by a reload, or as one too many. The master calls
        this."""
        _replaced[self.number] = True

    def handle_exit(self, sig: Any, frame: Any) -> None:
        """Start a graceful shutdown, on SIGTERM."""
        if not self.booted:
            os._exit(0)
        if _replaced[self.number] or not self.alive:  # after SIGTTOU gunicorn repeats the signal
            self._stop()
            return
        # Imported late, after gevent has patched its dependencies.
        from baseplate.server import SERVER_STATE, ServerLifecycle

        SERVER_STATE.state = ServerLifecycle.SHUTTING_DOWN
        gevent.spawn_later(drain_seconds(), self._stop)

    def handle_quit(self, sig: Any, frame: Any) -> None:
        """Exit immediately, on SIGQUIT or SIGINT."""
        gevent.spawn(super().handle_quit, sig, frame)  # it blocks, which a signal handler can't

    def handle_usr1(self, sig: Any, frame: Any) -> None:
        """Reopen the log files, on SIGUSR1."""
        gevent.spawn(super().handle_usr1, sig, frame)

    def _stop(self) -> None:
        self.alive = False
        self._stopping.set()

    def _handle(self, environ: Environ, client: Any, address: Any) -> None:
        ip, port = address[:2] if address else ("", "")  # a Unix socket has none
        environ = {**environ, "REMOTE_ADDR": ip, "REMOTE_PORT": str(port)}
        connection = Connection(client, environ, self._limits, lambda: self.alive)
        try:
            serve(connection, lambda: self._next_request(connection), self.wsgi, self.log, ip)
        finally:
            self._closing.discard(connection)

    def _next_request(self, connection: Connection) -> Head | None:
        if self._connections.free_count() + len(self._closing) < 1 and self.idle:
            self._close_connections([next(iter(self.idle))])
        self.idle[connection] = time.monotonic()
        try:
            head = connection.next_request()
        finally:
            self.idle.pop(connection, None)
        if head is not None:
            self.nr += 1
            if self.nr >= self.max_requests and self.alive:
                self.log.info("Replacing this worker after %s requests", self.nr)
                self._stop()
        return head

    def _close_idle(self, seconds: float) -> None:
        limit = time.monotonic() - seconds
        self._close_connections(
            [connection for connection, since in self.idle.items() if since < limit]
        )

    def _close_connections(self, idle: list[Connection]) -> None:
        for connection in idle:
            del self.idle[connection]
            self._closing.add(connection)
            connection.shut_down()

"""A connection to PostgreSQL on which every wait has a timeout.

PostgreSQL's timeouts are enforced by the server, and libpq's have no effect if an event loop waits
for the socket. So the client limits each wait itself: connecting, a statement, a COMMIT.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import gevent
import psycopg2
from gevent.hub import Hub
from gevent.monkey import get_original, is_module_patched
from gevent.socket import wait_read, wait_write
from psycopg2.extensions import POLL_OK, POLL_READ, connection, set_wait_callback

# gevent's replacement needs an event loop, which a worker thread doesn't have.
_poll = get_original("select", "poll")
_POLLIN, _POLLOUT = 1, 4  # select.POLLIN and select.POLLOUT on Linux


class TimedOut(psycopg2.OperationalError):
    """The server did not respond in time. The connection is closed."""


class LimitedConnection(connection):
    """A psycopg2 connection on which every wait has a limit.

    After an exception in a wait, psycopg2 closes the connection. It doesn't ask the server to
    cancel the statement, since that would be another wait.

    :ivar limit: how many seconds a wait may take; ``None`` means no limit.
    :ivar opened_at: when it was opened, by the monotonic clock.
    :ivar is_writable: whether its server accepted writes when it was opened.
    :ivar server: identifies its server, until that is restarted.
    :ivar tables_checked_at: when the tables were checked successfully, by the monotonic clock.
    :ivar has_written: whether a transaction on it that wrote to the log has been committed.
    """

    def __init__(self, dsn: str, limit: float) -> None:
        self.limit: float | None = limit
        super().__init__(dsn)
        self.opened_at = time.monotonic()
        self.is_writable = False
        self.server = ""
        self.tables_checked_at = -math.inf
        self.has_written = False

    def has_no_data(self) -> bool:
        """Return whether no unsolicited data is waiting: it would announce that the server closes
        the connection, or that it has become a standby or a primary."""
        incoming = _poll()
        incoming.register(self.fileno(), _POLLIN)
        return not incoming.poll(0)


def install() -> None:
    """Make psycopg2 wait with limits, in all threads and greenlets of the process.

    Connections other than :py:class:`LimitedConnection` wait without a limit.
    """
    set_wait_callback(_wait)


def in_event_loop() -> bool:
    """Return whether other greenlets can run while this one waits: in a monkey-patched process,
    except in worker threads, which have no event loop."""
    return is_module_patched("threading") and isinstance(gevent.getcurrent().parent, Hub)


def _wait(waiting: Any) -> None:
    limit = getattr(waiting, "limit", None)
    deadline = None if limit is None else time.monotonic() + limit
    wait: Callable[[int, bool, float | None], bool] = (
        _wait_in_loop if in_event_loop() else _wait_in_thread
    )
    while (state := waiting.poll()) != POLL_OK:
        remaining = None if deadline is None else deadline - time.monotonic()
        if remaining is not None and remaining <= 0:
            raise TimedOut(f"the server has not responded for {limit:.1f} s")
        # After a timeout, the next iteration raises the exception.
        wait(waiting.fileno(), state == POLL_READ, remaining)


def _wait_in_loop(file: int, to_read: bool, seconds: float | None) -> bool:
    wait = wait_read if to_read else wait_write
    try:
        wait(file, timeout=seconds, timeout_exc=TimeoutError())
    except TimeoutError:
        return False
    return True


def _wait_in_thread(file: int, to_read: bool, seconds: float | None) -> bool:
    ready = _poll()
    ready.register(file, _POLLIN if to_read else _POLLOUT)
    return bool(ready.poll(None if seconds is None else seconds * 1000))

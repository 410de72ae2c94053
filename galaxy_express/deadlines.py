"""Deadlines: errors in greenlets that take too long.

A ``gevent.Timeout`` creates, starts and stops a timer of the event loop, which takes a tenth of the
time of a small request. Here one timer checks the deadlines of all greenlets ten times per second,
so an error may come a tenth of a second late.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta

import gevent
from greenlet import getcurrent, greenlet

# The seconds between two checks, unless the limit is shorter.
_INTERVAL = 0.1


class Deadline:
    """The deadline of a greenlet."""

    __slots__ = ("end", "greenlet", "make_error")

    def __init__(
        self, end: float, current: greenlet, make_error: Callable[[], BaseException]
    ) -> None:
        self.end = end
        self.greenlet = current
        self.make_error = make_error


class Deadlines:
    """Raises errors in greenlets of one event loop that take too long.

    :param limit: how long they may take.
    """

    def __init__(self, limit: timedelta) -> None:
        self._seconds = limit.total_seconds()
        # An ordered set, in which the first one is found quickly even after many were removed. All
        # last equally long, so the first one ends first.
        self._running: OrderedDict[Deadline, None] = OrderedDict()
        interval = max(0.001, min(_INTERVAL, self._seconds / 4))
        self._timer = gevent.get_hub().loop.timer(interval, interval)
        self._is_watching = False

    def start(self, make_error: Callable[[], BaseException]) -> Deadline:
        """Start the deadline of the current greenlet.

        :param make_error: makes the error that is raised in the greenlet if it is late.
        """
        deadline = Deadline(time.monotonic() + self._seconds, getcurrent(), make_error)
        self._running[deadline] = None
        if not self._is_watching:
            self._is_watching = True
            self._timer.start(self._raise_errors)
        return deadline

    def stop(self, deadline: Deadline) -> None:
        """Stop a deadline, unless it has stopped or passed."""
        self._running.pop(deadline, None)

    def close(self) -> None:
        """Stop all deadlines."""
        self._running.clear()
        self._timer.close()

    def _raise_errors(self) -> None:
        now = time.monotonic()
        while self._running:
            deadline = next(iter(self._running))
            if deadline.end > now:
                return
            del self._running[deadline]
            if not deadline.greenlet.dead:
                # It runs until it waits again.
                deadline.greenlet.throw(deadline.make_error())
        self._is_watching = False
        self._timer.stop()

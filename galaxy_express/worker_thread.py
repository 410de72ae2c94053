"""Threads of the operating system, for what would keep the event loop waiting."""

from collections.abc import Callable
from typing import Any

import gevent
from gevent.monkey import get_original
from gevent.threadpool import ThreadPool

# Between threads of the operating system; gevent replaces it by one between its greenlets.
_Channel = get_original("queue", "SimpleQueue")


class WorkerThread:
    """A thread that makes one call at a time for the event loop.

    gevent's pool of threads, from which it comes, takes several times as long to hand a
    call over and its result back: it makes anew for each what is kept here.
    """

    def __init__(self) -> None:
        self._calls = _Channel()
        self._results = _Channel()
        self._notice = gevent.get_hub().loop.async_()
        self._pool = ThreadPool(1)
        self._pool.spawn(self._run)

    def call(self, function: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Have a function called, which raises nothing. The event loop then gives its
        result to another, which may not wait for anything."""
        self._notice.start(self._finish, then)
        self._calls.put(function)

    def _finish(self, then: Callable[[Any], None]) -> None:
        self._notice.stop()
        then(self._results.get())

    def _run(self) -> None:
        while (function := self._calls.get()) is not None:
            self._results.put(function())
            del function  # nor what it holds, until the next one comes
            self._notice.send()

    def end(self) -> None:
        """End the thread, after the call that it makes, whose result nobody gets."""
        self._calls.put(None)
        self._pool.kill()
        self._notice.close()

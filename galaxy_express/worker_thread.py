"""A worker thread for calls that would block the event loop."""

from collections.abc import Callable
from typing import Any, TypeVar

import gevent
from gevent.monkey import get_original
from gevent.threadpool import ThreadPool

# A queue between operating system threads; gevent's replacement only works between greenlets.
_Queue = get_original("queue", "SimpleQueue")

Result = TypeVar("Result")


class WorkerThread:
    """An operating system thread that runs one call at a time for the event loop.

    gevent's own ThreadPool allocates a watcher and a result per call. Reusing one of each is
    several times faster.
    """

    def __init__(self) -> None:
        self._calls = _Queue()
        self._results = _Queue()
        self._done = gevent.get_hub().loop.async_()
        self._pool = ThreadPool(1)
        self._pool.spawn(self._run)

    def submit(
        self,
        function: Callable[[], Result],
        on_done: Callable[[Result | BaseException], None],
    ) -> None:
        """Call a function in the thread. The previous call must have finished.

        :param on_done: called in the event loop with the function's result, or with the
            exception that it raised. It must not block.
        """
        self._done.start(self._finish, on_done)
        self._calls.put(function)

    def close(self) -> None:
        """Stop the thread after its current call, whose result is discarded."""
        self._calls.put(None)
        self._pool.kill()
        self._done.close()

    def _finish(self, on_done: Callable[[Any], None]) -> None:
        self._done.stop()
        on_done(self._results.get())

    def _run(self) -> None:
        while (function := self._calls.get()) is not None:
            try:
                result = function()
            except BaseException as error:  # passed on, so that it isn't lost with the thread
                result = error
            self._results.put(result)
            del function, result  # drop the references before blocking on get()
            self._done.send()

"""A fair semaphore: waiters are admitted in FIFO order."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock


class FairSemaphore:
    """Admits a number of threads or greenlets at a time, first come, first served.

    Releasing a slot hands it to the longest waiter. An ordinary semaphore or a pool of
    connections only wakes a waiter, and newcomers may overtake it: under load some would wait
    many times as long as others.

    :param capacity: how many may hold a slot at the same time.
    :param timeout: how long to wait for a slot, in seconds.
    """

    def __init__(self, capacity: int, timeout: float) -> None:
        self._free = capacity
        self._timeout = timeout
        self._lock = Lock()
        self._waiters: deque[Lock] = deque()

    @contextmanager
    def acquire(self) -> Iterator[None]:
        """Wait for a slot, and hold it during the block.

        :raises TimeoutError: if no slot became free in time.
        """
        self._wait()
        try:
            yield
        finally:
            self._release()

    def _wait(self) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            admission = Lock()
            admission.acquire()
            self._waiters.append(admission)
        try:
            admitted = admission.acquire(timeout=self._timeout)
        except BaseException:  # a greenlet can be killed while it waits
            if not self._withdraw(admission):
                self._release()
            raise
        if not admitted and self._withdraw(admission):
            raise TimeoutError("too many concurrent reads")

    def _withdraw(self, admission: Lock) -> bool:
        """Stop waiting; false if the slot has been handed over already."""
        with self._lock:
            if admission not in self._waiters:
                return False
            self._waiters.remove(admission)
            return True

    def _release(self) -> None:
        with self._lock:
            if self._waiters:
                self._waiters.popleft().release()
            else:
                self._free += 1

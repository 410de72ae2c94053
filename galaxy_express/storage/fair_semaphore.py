"""A turnstile: so many at a time, and the others in the order in which they came."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock


class FairSemaphore:
    """Lets a number of threads or greenlets in at a time, first come, first served.

    Whoever leaves hands the place to who has waited for longest. A semaphore, and a pool of
    connections, only call the one who waits, and a newcomer may be faster: under load some
    would wait many times as long as others.

    :param places: how many may be in at the same time.
    :param timeout: the longest that one may wait, in seconds.
    """

    def __init__(self, places: int, timeout: float) -> None:
        self._free = places
        self._timeout = timeout
        self._lock = Lock()
        self._waiting: deque[Lock] = deque()

    @contextmanager
    def place(self) -> Iterator[None]:
        """Wait for a place, and have it until left.

        :raises TimeoutError: if there was none in time.
        """
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def _enter(self) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            call = Lock()
            call.acquire()
            self._waiting.append(call)
        if call.acquire(timeout=self._timeout):
            return
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)
                raise TimeoutError("too many others are reading")

    def _leave(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1

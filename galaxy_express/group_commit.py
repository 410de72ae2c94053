"""Group commit: many concurrent writes, one transaction, one sync.

A commit costs a disk sync, whether it holds one write or hundreds. Writes that are submitted
while a commit runs therefore share the next one, and a lone write is committed at once. After a
commit, those that it answers may write again at once, so the next commit begins when the event
loop has received what has arrived by then: otherwise a few writes would be committed alone, and
most would wait for that. (DeWitt et al., "Implementation Techniques for Main Memory Database
Systems", 1984.)
"""

import copy
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from datetime import timedelta
from typing import Generic, Protocol, TypeVar

import gevent
from gevent.event import Event

from galaxy_express import metrics
from galaxy_express.worker_thread import WorkerThread


class Write(Hashable, Protocol):
    """A write, compared by identity. The commit leaves its result on it."""

    @property
    def size(self) -> int:
        """Its size, in the unit of ``max_group`` and ``max_queued``."""


AnyWrite = TypeVar("AnyWrite", bound=Write)


class Overloaded(Exception):
    """Too many writes are waiting, or this one waited too long."""


class _Group(Generic[AnyWrite]):
    """Writes that share a commit, and the event that their waiters wait for."""

    __slots__ = ("done", "errors", "size", "writes")

    def __init__(self) -> None:
        self.writes: dict[AnyWrite, None] = {}  # an ordered set
        self.size = 0
        self.errors: dict[AnyWrite, BaseException] = {}
        self.done = Event()


class GroupCommit(Generic[AnyWrite]):
    """Commits writes in groups, in the order in which they are submitted.

    Commits run one after another in a worker thread, so the event loop never waits for the
    disk. All calls must come from greenlets of one thread.

    :param commit: commits writes in one transaction, all or none, and leaves its result on
        each of them; it raises an exception if nothing was recorded.
    :param shared_errors: the exceptions of ``commit`` that have nothing to do with any one
        write, such as a database that is away. After any other exception the group is split
        and committed in parts, so that a write that can't be committed fails alone.
    :param max_group: the size of a group, unless one write alone is larger.
    :param max_queued: the total size of the writes that may wait, unless nothing else waits.
    :param timeout: how long a write may take from submission to result.
    :param on_commit: called in the event loop after each commit. It must not block.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[AnyWrite]], None],
        *,
        shared_errors: type[Exception],
        max_group: int,
        max_queued: int,
        timeout: timedelta,
        on_commit: Callable[[], None],
    ) -> None:
        self._commit = commit
        self._shared_errors = shared_errors
        self._max_group = max_group
        self._max_queued = max_queued
        self._timeout = timeout.total_seconds()
        self._on_commit = on_commit
        self._queue: deque[_Group[AnyWrite]] = deque()
        self._queued = 0
        self._thread = WorkerThread()
        self._loop = gevent.get_hub().loop
        # Its priority is below that of sockets, so it fires after what has arrived is received.
        self._turn = self._loop.timer(0, priority=-1)
        self._committing = False

    def submit(self, write: AnyWrite) -> None:
        """Wait until the write is committed; its result is then on the write.

        :raises Overloaded: at once if the queue is full, or when the time is up. If its commit
            is running by then, the outcome is unknown.
        :raises Exception: what ``commit`` raised; the write was not recorded.
        """
        if self._queue and self._queued + write.size > self._max_queued:
            raise Overloaded("too many writes are waiting")
        group = self._group_for(write.size)
        group.writes[write] = None
        group.size += write.size
        self._queued += write.size
        if self._committing:
            metrics.set_queue_length(self._queued)
        else:
            self._committing = True
            self._loop.run_callback(self._commit_next)
        try:
            if not group.done.wait(self._timeout):
                raise Overloaded("the write took too long")
        finally:
            del group.writes[write]  # if it was abandoned, leave it out of the commit
        if error := group.errors.pop(write, None):
            raise error

    def close(self) -> None:
        """End the worker thread after its current commit."""
        self._thread.close()

    def _group_for(self, size: int) -> _Group[AnyWrite]:
        if not self._queue or self._queue[-1].size + size > self._max_group:
            self._queue.append(_Group())
        return self._queue[-1]

    def _commit_next(self) -> None:
        while self._queue:
            group = self._queue.popleft()
            self._queued -= group.size
            if group.writes:
                self._commit_group(group)
                return
        self._committing = False

    def _commit_group(self, group: _Group[AnyWrite]) -> None:
        writes = list(group.writes)
        started = time.perf_counter()

        def finish(errors: dict[AnyWrite, BaseException] | BaseException) -> None:
            seconds = time.perf_counter() - started
            if isinstance(errors, BaseException):
                errors = _for_each(writes, errors)
            group.errors = errors
            group.done.set()
            self._turn.start(self._commit_next)
            metrics.set_queue_length(self._queued)
            metrics.observe_commit(len(writes), seconds, success=not errors)
            self._on_commit()

        self._thread.submit(lambda: self._commit_in_parts(writes), finish)

    def _commit_in_parts(self, writes: Sequence[AnyWrite]) -> dict[AnyWrite, BaseException]:
        """Commit writes together if possible; return the errors of those that failed."""
        try:
            self._commit(writes)
        except self._shared_errors as error:
            return _for_each(writes, error)
        except Exception as error:  # of one write or of several: find which
            if len(writes) == 1:
                return {writes[0]: error}
            middle = len(writes) // 2
            return self._commit_in_parts(writes[:middle]) | self._commit_in_parts(writes[middle:])
        return {}


def _for_each(writes: Sequence[AnyWrite], error: BaseException) -> dict[AnyWrite, BaseException]:
    """Give each write its own exception: raising one changes it, and a request's
    traceback must not show another request's data."""
    errors = {}
    for write in writes:
        errors[write] = copy.copy(error)
        errors[write].__cause__ = error
    return errors

"""Group commit: many concurrent writes, one transaction, one sync.

A commit costs a disk sync, whether it holds one write or hundreds. Writes that are submitted
while a commit runs therefore share the next one, and a lone write is committed at once. Clients
that get their response may write again at once, so the next commit only starts after the event
loop has received what has arrived by then. Otherwise the next group would have a few writes, and
most would wait for the one after it. (DeWitt et al., "Implementation Techniques for Main Memory
Database Systems", 1984.)

A group that is blocked by another transaction's lock is split until each blocked write is alone.
Blocked writes are set aside and retried between other groups, so that no other write waits for
the lock.
"""

import copy
import time
from collections import deque
from collections.abc import Callable, Collection, Hashable, Sequence
from datetime import timedelta
from heapq import heappop, heappush
from itertools import count
from typing import Generic, NamedTuple, Protocol, TypeVar

import gevent
from gevent.event import Event

from galaxy_express import metrics
from galaxy_express.deadlines import Deadline, Deadlines
from galaxy_express.worker_thread import WorkerThread


class Write(Hashable, Protocol):
    """A write, compared by identity. The commit leaves its result on it."""

    @property
    def size(self) -> int:
        """Its size, in the unit of ``max_group`` and ``max_queued``."""


AnyWrite = TypeVar("AnyWrite", bound=Write)

# If this many writes in a row fail, each by itself, perhaps all do.
_SUSPICIOUS = 3

# The seconds between two attempts of blocked writes.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 1.0


class Overloaded(Exception):
    """Too many writes are waiting, or this one waited too long."""


class _Group(Generic[AnyWrite]):
    """Writes that share a commit, and the event that their waiters wait for.

    :ivar moved: the groups of the writes that were moved, until their waiters have noticed.
    :ivar keys: the keys that the writes are set aside for; empty if they aren't.
    :ivar blocked: the error of the last attempt, if a lock blocked it.
    :ivar pause: the seconds before the next attempt.
    """

    __slots__ = ("blocked", "done", "errors", "keys", "moved", "pause", "size", "writes")

    def __init__(self) -> None:
        self.writes: dict[AnyWrite, None] = {}  # an ordered set
        self.size = 0
        self.errors: dict[AnyWrite, BaseException] = {}
        self.done = Event()
        self.moved: dict[AnyWrite, _Group[AnyWrite]] = {}
        self.keys: Collection[Hashable] = ()
        self.blocked: Exception | None = None
        self.pause = _FIRST_PAUSE

    def add(self, write: AnyWrite) -> None:
        """Add a write."""
        self.writes[write] = None
        self.size += write.size

    def move(self, writes: Sequence[AnyWrite], other: "_Group[AnyWrite]") -> None:
        """Move those of the writes that were not abandoned to another group."""
        for write in writes:
            if write in self.writes:
                del self.writes[write]
                other.add(write)
                self.moved[write] = other


class _Result(NamedTuple, Generic[AnyWrite]):
    """The outcome of a group.

    :param errors: the errors of the writes that failed.
    :param blocked: the writes that a lock blocked, in the parts in which they were attempted.
    """

    errors: dict[AnyWrite, BaseException]
    blocked: list[tuple[Sequence[AnyWrite], Exception]]


class GroupCommit(Generic[AnyWrite]):
    """Commits writes in groups, in the order in which they are submitted.

    Commits run one after another in a worker thread, so the event loop never waits for the
    disk. All calls must come from greenlets of one thread.

    :param commit: commits writes in one transaction, all or none, and leaves its result on
        each of them; it raises an exception if nothing was recorded.
    :param shared_errors: the exceptions of ``commit`` that no single write causes, such as an
        unavailable database. After any other exception the group is split and committed in parts,
        so that a write that can't be committed fails alone.
    :param single_errors: those of the shared and blocked exceptions that single writes do cause.
    :param max_group: the size of a group, unless one write alone is larger.
    :param max_queued: the total size of the writes that may wait, unless nothing else waits.
    :param timeout: how long a write may take from submission to result.
    :param on_commit: called in the event loop after each commit. It must not block.
    :param blocked_errors: the exceptions of ``commit`` that mean that another transaction holds a
        lock on what one of the writes needs.
    :param keys: returns the keys of a write. While a key is blocked, its new writes are set aside
        at once.
    :param commit_again: the same as ``commit``, for writes that were blocked before; it should
        wait for locks for a shorter time.
    :param patience: how long a blocked write is retried.
    :ivar failure: why the last commits failed, if perhaps no write can succeed.
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
        blocked_errors: type[Exception] | tuple[type[Exception], ...] = (),
        single_errors: type[Exception] | tuple[type[Exception], ...] = (),
        keys: Callable[[AnyWrite], Collection[Hashable]] = lambda _: (),
        commit_again: Callable[[Sequence[AnyWrite]], None] | None = None,
        patience: timedelta = timedelta(0),
    ) -> None:
        self._commit = commit
        self._commit_again = commit_again or commit
        self._shared_errors = shared_errors
        self._blocked_errors = blocked_errors
        self._single_errors = single_errors
        self._keys = keys
        self._patience = Deadlines(patience)
        self._max_group = max_group
        self._max_queued = max_queued
        self._timeout = timeout.total_seconds()
        self._deadlines = Deadlines(timeout)
        self._on_commit = on_commit
        self._queue: deque[_Group[AnyWrite]] = deque()
        self._unfinished = 0
        # The size of the group that is being committed, which doesn't change while its blocked
        # writes are retried.
        self._under_way = 0
        # Groups to retry: the time, a number to break ties, and the group.
        self._retries: list[tuple[float, int, _Group[AnyWrite]]] = []
        self._retry_numbers = count()
        self._retries_next = True
        self._aside: dict[Hashable, _Group[AnyWrite]] = {}
        self._waking: gevent.Greenlet[[], None] | None = None
        self._thread = WorkerThread()
        self._loop = gevent.get_hub().loop
        # Its priority is below that of sockets, so it fires after received data has been read.
        self._turn = self._loop.timer(0, priority=-1)
        self._committing = False
        self._started: float | None = None
        self._failed_in_a_row = 0
        self.failure: Exception | None = None

    def submit(self, write: AnyWrite) -> None:
        """Wait until the write is committed; its result is then on the write.

        :raises Overloaded: at once if the queue is full, or when the time is up. If its commit
            is running by then, the outcome is unknown.
        :raises Exception: what ``commit`` raised; the write was not recorded.
        """
        waiting = self._count_waiting()
        if waiting and waiting + write.size > self._max_queued:
            raise Overloaded("too many writes are waiting")
        group = self._group_for(write)
        group.add(write)
        self._unfinished += write.size
        if self._committing:
            metrics.set_queue_length(self._count_waiting())
        elif not group.keys:
            self._committing = True
            self._loop.run_callback(self._commit_next)
        group = self._wait(group, write)
        if error := group.errors.pop(write, None):
            raise error

    def check(self) -> None:
        """Check that no commit has been under way for longer than a write may take.

        :raises Overloaded: if one has.
        """
        if self._started is not None and time.perf_counter() - self._started > self._timeout:
            raise Overloaded("a commit takes too long")

    def close(self) -> None:
        """End the worker thread after its current commit."""
        if self._waking is not None:
            self._waking.kill(block=False)
        self._deadlines.close()
        self._patience.close()
        self._thread.close()

    def _wait(self, group: _Group[AnyWrite], write: AnyWrite) -> _Group[AnyWrite]:
        """Wait until a write is done; return its group, which may have changed."""

        def late() -> Exception:
            return _copy(group.blocked) or Overloaded("the write took too long")

        deadline = self._deadlines.start(late)
        patience: Deadline | None = None
        try:
            while True:
                if group.keys and patience is None:
                    patience = self._patience.start(late)
                try:
                    group.done.wait()
                except Exception:  # of the deadline or the patience, whose kinds differ
                    # If the event loop was busy, the result and the deadline can come together.
                    if not group.done.is_set() or write in group.moved:
                        raise
                if write not in group.moved:
                    return group
                group = group.moved.pop(write)
        finally:
            self._deadlines.stop(deadline)
            if patience is not None:
                self._patience.stop(patience)
            self._leave(group, write)

    def _leave(self, group: _Group[AnyWrite], write: AnyWrite) -> None:
        """Leave a write out of its commit if it was abandoned."""
        while write in group.moved:
            group = group.moved.pop(write)
        if not group.done.is_set():
            self._unfinished -= write.size
            del group.writes[write]
            if not group.writes:
                self._forget(group)

    def _count_waiting(self) -> int:
        return max(0, self._unfinished - self._under_way)

    def _group_for(self, write: AnyWrite) -> _Group[AnyWrite]:
        if aside := self._find_aside(write):
            if aside.writes and aside.size + write.size > self._max_group:
                raise _copy(aside.blocked) or Overloaded("too many writes are blocked")
            return aside
        if not self._queue or self._queue[-1].size + write.size > self._max_group:
            self._queue.append(_Group())
        return self._queue[-1]

    def _find_aside(self, write: AnyWrite) -> _Group[AnyWrite] | None:
        """Find the group that is set aside for a key of this write."""
        if not self._aside:
            return None
        return next(filter(None, map(self._aside.get, self._keys(write))), None)

    def _leave_out_blocked(self, group: _Group[AnyWrite]) -> None:
        """Set aside the writes whose keys have become blocked."""
        if not group.keys and self._aside:
            for write in list(group.writes):
                if aside := self._find_aside(write):
                    group.move([write], aside)

    def _commit_next(self) -> None:
        while group := self._next_group():
            self._leave_out_blocked(group)
            if group.writes:
                self._commit_group(group)
                return
            group.done.set()
            self._forget(group)
        self._committing = False
        if self._retries:
            self._wake_at(self._retries[0][0])

    def _next_group(self) -> _Group[AnyWrite] | None:
        """Take the next group, alternately from the queue and from those to retry."""
        is_due = bool(self._retries) and self._retries[0][0] <= time.monotonic()
        if is_due and (self._retries_next or not self._queue):
            self._retries_next = False
            return heappop(self._retries)[2]
        self._retries_next = True
        return self._queue.popleft() if self._queue else None

    def _wake_at(self, moment: float) -> None:
        if self._waking is not None:
            self._waking.kill(block=False)
        self._waking = gevent.spawn_later(max(0.0, moment - time.monotonic()), self._wake)

    def _wake(self) -> None:
        self._waking = None
        if not self._committing:
            self._committing = True
            self._commit_next()

    def _commit_group(self, group: _Group[AnyWrite]) -> None:
        writes = list(group.writes)
        self._started = started = time.perf_counter()
        if not self._retries:
            self._under_way = group.size
        successor = self._make_successor(group) if group.keys else None
        commit = self._commit if group.blocked is None else self._commit_again
        self._thread.submit(
            lambda: self._commit_in_parts(writes, commit),
            lambda result: self._finish(group, writes, successor, started, result),
        )

    def _finish(
        self,
        group: _Group[AnyWrite],
        writes: Sequence[AnyWrite],
        successor: _Group[AnyWrite] | None,
        started: float,
        result: _Result[AnyWrite] | BaseException,
    ) -> None:
        self._started = None
        seconds = time.perf_counter() - started
        if isinstance(result, BaseException):
            result = _Result(_for_each(writes, result), [])
        group.errors = result.errors
        self._note_failure(result, len(writes))
        if successor is None:
            self._split(group, result.blocked)
        else:
            self._keep_blocked(group, successor, result.blocked)
        group.done.set()
        self._unfinished -= sum(write.size for write in group.writes)
        if not self._retries:
            self._under_way = 0
        self._turn.start(self._commit_next)
        metrics.set_queue_length(self._count_waiting())
        metrics.observe_commit(len(writes), seconds, success=not (result.errors or result.blocked))
        self._on_commit()

    def _note_failure(self, result: _Result[AnyWrite], writes: int) -> None:
        failed = [
            error for error in result.errors.values() if isinstance(error, self._shared_errors)
        ]
        blocked = [error for _, error in result.blocked]
        shared = [
            error for error in (*failed, *blocked) if not isinstance(error, self._single_errors)
        ]
        if shared:
            self.failure = shared[0]
        elif len(result.errors) + sum(len(part) for part, _ in result.blocked) < writes:
            self.failure = None  # some were committed
            self._failed_in_a_row = 0
        else:
            self._failed_in_a_row += len(failed)
            if failed and self._failed_in_a_row >= _SUSPICIOUS:
                self.failure = failed[0]

    def _split(
        self, group: _Group[AnyWrite], blocked: list[tuple[Sequence[AnyWrite], Exception]]
    ) -> None:
        """Split blocked parts and retry them at once; set single writes aside."""
        for writes, error in blocked:
            if len(writes) == 1:
                group.move(writes, self._aside_for(writes[0], error))
                continue
            middle = len(writes) // 2
            for half in (writes[:middle], writes[middle:]):
                part: _Group[AnyWrite] = _Group()
                part.blocked = error
                group.move(half, part)
                self._retry(part, at=0)

    def _aside_for(self, write: AnyWrite, error: Exception) -> _Group[AnyWrite]:
        """The group of the writes that are blocked with this one."""
        aside = self._find_aside(write)
        if aside is None:
            aside = self._set_aside(self._keys(write) or [write])
            self._retry(aside, at=time.monotonic() + aside.pause)
        aside.blocked = error
        return aside

    def _set_aside(self, keys: Collection[Hashable]) -> _Group[AnyWrite]:
        aside: _Group[AnyWrite] = _Group()
        aside.keys = keys
        self._aside.update(dict.fromkeys(keys, aside))
        return aside

    def _make_successor(self, group: _Group[AnyWrite]) -> _Group[AnyWrite]:
        """Make the group for writes that are set aside while this group is retried."""
        successor = self._set_aside(group.keys)
        successor.blocked = group.blocked
        successor.pause = min(group.pause * 2, _LONGEST_PAUSE)
        return successor

    def _keep_blocked(
        self,
        group: _Group[AnyWrite],
        successor: _Group[AnyWrite],
        blocked: list[tuple[Sequence[AnyWrite], Exception]],
    ) -> None:
        """Keep the writes that are still blocked after a retry."""
        for writes, error in blocked:
            group.move(writes, successor)
            successor.blocked = error
        if successor.writes:
            self._retry(successor, at=time.monotonic() + successor.pause if blocked else 0)
        if not (successor.writes and blocked):
            self._forget(successor)

    def _forget(self, aside: _Group[AnyWrite]) -> None:
        for key in aside.keys:
            if self._aside.get(key) is aside:
                del self._aside[key]

    def _retry(self, group: _Group[AnyWrite], at: float) -> None:
        heappush(self._retries, (at, next(self._retry_numbers), group))

    def _commit_in_parts(
        self, writes: Sequence[AnyWrite], commit: Callable[[Sequence[AnyWrite]], None]
    ) -> _Result[AnyWrite]:
        """Commit writes together if possible; return the outcome of those that weren't."""
        try:
            commit(writes)
        except self._blocked_errors as error:
            return _Result({}, [(writes, error)])
        except Exception as error:  # whatever it is, it belongs to the waiting writes
            is_single = isinstance(error, self._single_errors)
            if isinstance(error, self._shared_errors) and not is_single:
                return _Result(_for_each(writes, error), [])
            if len(writes) == 1:
                return _Result({writes[0]: error}, [])
            middle = len(writes) // 2  # one write or several caused it: find which
            first = self._commit_in_parts(writes[:middle], commit)
            second = self._commit_in_parts(writes[middle:], commit)
            return _Result(first.errors | second.errors, first.blocked + second.blocked)
        return _Result({}, [])


def _copy(error: Exception | None) -> Exception | None:
    return error and copy.copy(error)


def _for_each(writes: Sequence[AnyWrite], error: BaseException) -> dict[AnyWrite, BaseException]:
    """Give each write its own exception: raising one changes it, and a request's
    traceback must not show another request's data."""
    errors = {}
    for write in writes:
        errors[write] = copy.copy(error)
        errors[write].__cause__ = error
    return errors

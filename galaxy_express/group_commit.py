"""Group commit: many concurrent writes, one transaction, one sync.

A commit costs a sync of the disk, whether it holds one write or hundreds. So whatever is
submitted while one commit runs goes into the next, and a lone write goes at once: there
is no timer. (DeWitt et al., "Implementation Techniques for Main Memory Database
Systems", 1984.)
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Generic, TypeVar

import gevent
from gevent.event import Event

from galaxy_express import metrics
from galaxy_express.worker_thread import WorkerThread

Write = TypeVar("Write")
Answer = TypeVar("Answer")


class Overloaded(Exception):
    """Too many writes are waiting, or this one waited for too long."""


class _Group(Generic[Write, Answer]):
    """Writes that share a commit, each under a number, and those who wait for it."""

    __slots__ = ("_submitted", "answers", "committed", "error", "weight", "writes")

    def __init__(self) -> None:
        self.writes: dict[int, Write] = {}
        self.weight = 0
        self.answers: dict[int, Answer] = {}
        self.error: BaseException | None = None
        self.committed = Event()
        self._submitted = 0

    def add(self, write: Write, weight: int) -> int:
        """Take in a write, and give it a number."""
        number = self._submitted
        self._submitted += 1
        self.writes[number] = write
        self.weight += weight
        return number


class GroupCommit(Generic[Write, Answer]):
    """Commits writes in groups, in the order in which they are submitted.

    The commits run one after the other in a thread of their own, so that the event loop
    never waits for the disk. All calls must come from greenlets of one thread.

    :param commit: commits writes in one transaction, all or none, and returns the answer
        to each, in order; it raises an exception if none was recorded.
    :param weigh: the size of a write, in the unit of the next two parameters.
    :param max_group: the most to commit at once, unless one write alone weighs more.
    :param max_queued: the most to let wait, unless nothing else is waiting.
    :param timeout: the longest that a write may take, from submission to answer.
    :param after_commit: called in the event loop; it may not wait for anything.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Write]], Sequence[Answer]],
        *,
        weigh: Callable[[Write], int],
        max_group: int,
        max_queued: int,
        timeout: timedelta,
        after_commit: Callable[[], None],
    ) -> None:
        self._commit = commit
        self._weigh = weigh
        self._max_group = max_group
        self._max_queued = max_queued
        self._timeout = timeout.total_seconds()
        self._after_commit = after_commit
        self._queue: deque[_Group[Write, Answer]] = deque()
        self._queued = 0
        self._thread = WorkerThread()
        self._loop = gevent.get_hub().loop
        self._committing = False

    def submit(self, write: Write) -> Answer:
        """Wait until the write is committed, and return the answer to it.

        :raises Overloaded: at once if the queue is full, or when the time is up; if its
            commit was under way by then, the outcome is unknown.
        :raises Exception: what ``commit`` raised; nothing was recorded then.
        """
        weight = self._weigh(write)
        if self._queue and self._queued + weight > self._max_queued:
            raise Overloaded("too many writes are waiting")
        group = self._group_for(weight)
        number = group.add(write, weight)
        self._queued += weight
        if self._committing:
            metrics.set_queue_length(self._queued)
        else:
            self._committing = True
            self._loop.run_callback(self._commit_next)
        try:
            if not group.committed.wait(self._timeout):
                raise Overloaded("the write took too long")
        finally:
            del group.writes[number]  # who has given up wants it no more
        if group.error is not None:
            # The others in the group raise it too, each with a traceback of its own.
            raise group.error.with_traceback(None)
        return group.answers[number]

    def close(self) -> None:
        """End the thread, after the commit that runs in it."""
        self._thread.end()

    def _group_for(self, weight: int) -> _Group[Write, Answer]:
        if not self._queue or self._queue[-1].weight + weight > self._max_group:
            self._queue.append(_Group())
        return self._queue[-1]

    def _commit_next(self) -> None:
        while self._queue:
            group = self._queue.popleft()
            self._queued -= group.weight
            if group.writes:
                self._commit_group(group)
                return
        self._committing = False

    def _commit_group(self, group: _Group[Write, Answer]) -> None:
        numbers, writes = list(group.writes), list(group.writes.values())
        begun = time.perf_counter()

        def settle(result: Sequence[Answer] | BaseException) -> None:
            seconds = time.perf_counter() - begun
            if isinstance(result, BaseException):
                group.error = result
            else:
                group.answers = dict(zip(numbers, result, strict=True))
            group.committed.set()
            self._commit_next()
            metrics.set_queue_length(self._queued)
            metrics.observe_commit(len(writes), seconds, success=group.error is None)
            self._after_commit()

        self._thread.call(lambda: self._try_to_commit(writes), settle)

    def _try_to_commit(self, writes: Sequence[Write]) -> Sequence[Answer] | BaseException:
        try:
            answers = self._commit(writes)
            if len(answers) != len(writes):
                raise AssertionError(f"{len(answers)} answers to {len(writes)} writes")
        except BaseException as error:  # whatever it is, it is for those who wait to raise
            return error
        return answers

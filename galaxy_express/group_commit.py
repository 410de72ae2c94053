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
from gevent.threadpool import ThreadPool

from galaxy_express import metrics

Write = TypeVar("Write")
Answer = TypeVar("Answer")


class Overloaded(Exception):
    """Too many writes are waiting, or this one waited for too long."""


class _Ticket(Generic[Write, Answer]):
    """A write in the queue, and the request that waits for it."""

    __slots__ = ("answer", "answered", "error", "given_up", "weight", "write")

    def __init__(self, write: Write, weight: int) -> None:
        self.write = write
        self.weight = weight
        self.answered = Event()
        self.answer: Answer
        self.error: Exception | None = None
        self.given_up = False


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
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Write]], Sequence[Answer]],
        *,
        weigh: Callable[[Write], int],
        max_group: int,
        max_queued: int,
        timeout: timedelta,
    ) -> None:
        self._commit = commit
        self._weigh = weigh
        self._max_group = max_group
        self._max_queued = max_queued
        self._timeout = timeout.total_seconds()
        self._queue: deque[_Ticket[Write, Answer]] = deque()
        self._queued = 0
        self._thread = ThreadPool(1)
        self._committing = False

    def submit(self, write: Write) -> Answer:
        """Wait until the write is committed, and return the answer to it.

        :raises Overloaded: at once if the queue is full, or when the time is up; if its
            commit was under way by then, the outcome is unknown.
        :raises Exception: what ``commit`` raised; nothing was recorded then.
        """
        ticket: _Ticket[Write, Answer] = _Ticket(write, self._weigh(write))
        if self._queue and self._queued + ticket.weight > self._max_queued:
            raise Overloaded("too many writes are waiting")
        self._queue.append(ticket)
        self._queued += ticket.weight
        if self._committing:
            metrics.set_queue_length(self._queued)
        else:
            self._committing = True
            gevent.spawn(self._commit_all)
        try:
            if not ticket.answered.wait(self._timeout):
                raise Overloaded("the write took too long")
        finally:
            ticket.given_up = True
        if ticket.error is not None:
            # The others in the group raise it too, each with a traceback of its own.
            raise ticket.error.with_traceback(None)
        return ticket.answer

    def close(self) -> None:
        """End the thread, after the commit that runs in it."""
        self._thread.kill()

    def _commit_all(self) -> None:
        try:
            while group := self._next_group():
                self._answer(group)
        finally:
            self._committing = False

    def _next_group(self) -> list[_Ticket[Write, Answer]]:
        group: list[_Ticket[Write, Answer]] = []
        weight = 0
        while self._queue:
            ticket = self._queue[0]
            if group and weight + ticket.weight > self._max_group:
                break
            self._queue.popleft()
            self._queued -= ticket.weight
            if not ticket.given_up:
                group.append(ticket)
                weight += ticket.weight
        return group

    def _answer(self, group: list[_Ticket[Write, Answer]]) -> None:
        begun = time.perf_counter()
        self._thread.apply(self._commit_group, (group,))
        seconds = time.perf_counter() - begun
        metrics.set_queue_length(self._queued)
        metrics.observe_commit(len(group), seconds, success=group[0].error is None)
        for ticket in group:
            ticket.answered.set()

    def _commit_group(self, group: list[_Ticket[Write, Answer]]) -> None:
        try:
            answers = self._commit([ticket.write for ticket in group])
        except Exception as error:  # whatever it is, it is for those who wait to raise
            for ticket in group:
                ticket.error = error
        else:
            for ticket, answer in zip(group, answers, strict=True):
                ticket.answer = answer

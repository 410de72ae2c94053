"""Threads that do things at the same time."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

from tests.backends import Backend

Result = TypeVar("Result")


def run_concurrently(tasks: Sequence[Callable[[], Result]]) -> list[Result]:
    """Do all of the tasks, each in a thread of its own, from the same moment on.

    :returns: their results, in the order of the tasks.
    """
    barrier = Barrier(len(tasks))

    def after_all_are_ready(task: Callable[[], Result]) -> Result:
        barrier.wait()
        return task()

    with ThreadPoolExecutor(len(tasks)) as threads:
        return list(threads.map(after_all_are_ready, tasks))


def meanwhile(
    backend: Backend, statement: str, task: Callable[[], Result], end: str = "COMMIT"
) -> Result:
    """Do a task that has to wait for another process, which is in a transaction.

    :param statement: what the other process writes.
    :param end: how its transaction ends, once the task waits for it.
    :returns: what the task returns.
    """
    with ThreadPoolExecutor(1) as threads:
        with backend.transaction(end) as other:
            other.execute(statement)
            result = threads.submit(task)
            backend.wait_for_blocked_write()
        return result.result()

"""Helpers for tests with concurrent threads."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

from tests.backends import Backend

Result = TypeVar("Result")


def run_concurrently(tasks: Sequence[Callable[[], Result]]) -> list[Result]:
    """Run all tasks at the same time, each in its own thread.

    :returns: the results, in the order of the tasks.
    """
    barrier = Barrier(len(tasks))

    def run_when_all_are_ready(task: Callable[[], Result]) -> Result:
        barrier.wait()
        return task()

    with ThreadPoolExecutor(len(tasks)) as threads:
        return list(threads.map(run_when_all_are_ready, tasks))


def run_while_blocked(
    backend: Backend,
    statement: str,
    task: Callable[[], Result],
    end: str = "COMMIT",
    during: Callable[[], object] = lambda: None,
) -> Result:
    """Run a task that is blocked by a transaction of another process.

    :param statement: the statement that the other process executes.
    :param end: the statement that ends its transaction, once the task waits for it.
    :param during: called while the task waits.
    :returns: the result of the task.
    """
    with ThreadPoolExecutor(1) as threads:
        with backend.transaction(end) as other:
            other.execute(statement)
            result = threads.submit(task)
            backend.wait_for_blocked_write()
            during()
        return result.result()

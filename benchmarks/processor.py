"""The CPU time of processes, from Linux's ``/proc``."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def processor_seconds(pids: Iterable[int]) -> float:
    """The CPU time of processes in seconds, in user and system mode, including ended threads."""
    return sum(stat_seconds(Path(f"/proc/{pid}/stat").read_text()) for pid in pids)


def threads_seconds(pids: Iterable[int]) -> tuple[float, float]:
    """The CPU time of the main threads, and of all other threads that are still running."""
    main = others = 0.0
    for pid in pids:
        for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
            seconds = stat_seconds(stat.read_text())
            if stat.parent.name == str(pid):
                main += seconds
            else:
                others += seconds
    return main, others


def family_seconds(pid: int) -> float:
    """The CPU time of a process and its children, including those that have ended."""
    while True:
        children = child_pids(pid)
        # A child that ends meanwhile would be missed or counted twice.
        with suppress(FileNotFoundError, ProcessLookupError):
            stats = [Path(f"/proc/{each}/stat").read_text() for each in (pid, *children)]
            if child_pids(pid) == children:
                return sum(stat_seconds(stat, ended_children=True) for stat in stats)


def child_pids(pid: int) -> set[int]:
    """The process ids of the living children of a process, whichever thread started them."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return {int(child) for task in tasks for child in task.read_text().split()}


def parent_pid(pid: int) -> int:
    """The process id of the parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def stat_seconds(stat: str, *, ended_children: bool = False) -> float:
    """The sum of ``utime`` and ``stime`` in ``/proc/<pid>/stat``, in seconds.

    See https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html, fields 14 to 17.

    :param ended_children: whether to add those of the children that the process has waited for.
    """
    fields = stat.rpartition(")")[2].split()  # a program's name may contain spaces
    return sum(map(int, fields[11 : 15 if ended_children else 13])) / _TICKS_PER_SECOND

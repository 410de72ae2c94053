"""The CPU time of processes, from Linux's ``/proc``."""

import os
from collections.abc import Iterable
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


def stat_seconds(stat: str) -> float:
    """The sum of ``utime`` and ``stime`` in ``/proc/<pid>/stat``, in seconds.

    See https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html, fields 14 and 15.
    """
    fields = stat.rpartition(")")[2].split()  # a program's name may contain spaces
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND

"""How much processor time processes have taken, as Linux counts it."""

import os
from collections.abc import Iterable
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def processor_seconds(pids: Iterable[int]) -> float:
    """The seconds that processes have spent on a processor, in user and in system mode.

    The threads that have ended are included.
    """
    return sum(stat_seconds(Path(f"/proc/{pid}/stat").read_text()) for pid in pids)


def threads_seconds(pids: Iterable[int]) -> tuple[float, float]:
    """The same for the main threads, and for all other threads that are still there."""
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
    """``utime`` and ``stime`` of a line of ``/proc/<pid>/stat``, in seconds.

    See https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html, fields 14 and 15.
    """
    fields = stat.rpartition(")")[2].split()  # a program's name may contain spaces
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND

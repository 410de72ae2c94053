"""What a process has taken of the machine, from Linux's ``/proc``."""

import os
import resource
from contextlib import suppress
from pathlib import Path

LISTENING = "0A"


def resident_megabytes(pid: int) -> float:
    """The memory that a process has."""
    # The second figure: https://man7.org/linux/man-pages/man5/proc_pid_statm.5.html
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files(pid: int) -> int:
    """How many files a process has open, connections included."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def connections(pid: int) -> int:
    """How many TCP connections a process has."""
    # Each line: https://man7.org/linux/man-pages/man5/proc_pid_net.5.html
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    established = {line.split()[9] for line in lines if line.split()[3] != LISTENING}
    mine = 0
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed in the meantime
            kind, _, inode = os.readlink(file).partition(":[")
            mine += kind == "socket" and inode.rstrip("]") in established
    return mine


def allow_many_files() -> int:
    """Allow this process, and those that it starts, as many files as it may; return how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard

"""The resources that a process uses, from Linux's ``/proc``."""

import os
import resource
from contextlib import suppress
from pathlib import Path

LISTENING = "0A"


def resident_megabytes(pid: int) -> float:
    """The resident memory of a process, in megabytes."""
    # The second field: https://man7.org/linux/man-pages/man5/proc_pid_statm.5.html
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files(pid: int) -> int:
    """The number of open files of a process, connections included."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def connections(pid: int) -> int:
    """The number of TCP connections of a process."""
    # The format: https://man7.org/linux/man-pages/man5/proc_pid_net.5.html
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    established = {line.split()[9] for line in lines if line.split()[3] != LISTENING}
    mine = 0
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed in the meantime
            kind, _, inode = os.readlink(file).partition(":[")
            mine += kind == "socket" and inode.rstrip("]") in established
    return mine


def allow_many_files() -> int:
    """Raise the open-file limit of this process and its children to the maximum; return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard

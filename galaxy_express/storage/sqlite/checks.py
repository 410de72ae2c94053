"""Checks of the file and its log.

None of them opens the file: closing it would release all locks of this process on it
(https://www.sqlite.org/howtocorrupt.html, section 2.2).
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG

from galaxy_express.storage.errors import DamagedFiles, SchemaMismatch
from galaxy_express.storage.sqlite.files import recorded_fault
from galaxy_express.storage.sqlite.log import lacks_pages


def state(path: str) -> tuple[int, ...]:
    """Return values that change when a file is replaced or written to; empty if there is none."""
    with suppress(FileNotFoundError):
        stat = os.stat(path)
        return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
    return ()


def size(path: str) -> int:
    """Return the size of a file in bytes; zero if there is none."""
    return os.path.getsize(path) if os.path.exists(path) else 0


def check_file(path: str) -> None:
    """Check that a file is a regular one, or doesn't exist.

    :raises OSError: if it isn't, or is in a folder that this process may not enter.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    except PermissionError:
        folders = reversed(Path(os.path.realpath(path)).parents)
        closed = next(folder for folder in folders if not os.path.exists(f"{folder}/."))
        raise OSError(f"the permissions of the folder {closed} don't allow entering it") from None
    if not S_ISREG(mode):
        raise OSError(f"{path} is not a regular file")


def check_intact(path: str) -> None:
    """Check that no process has found that the files were changed by another program.

    :raises DamagedFiles: if one has.
    """
    fault = recorded_fault(path)
    if fault:
        raise DamagedFiles(fault)


def check_writable(path: str) -> None:
    """Check that this process may write to a file or a folder.

    :raises OSError: if it may not. SQLite would silently open a file read-only.
    """
    if not os.access(path, os.W_OK):
        raise OSError(f"{path} isn't writable")


def find_unwritable(path: str) -> Iterator[str]:
    """Describe the paths that aren't writable although SQLite must write to them."""
    path = os.path.realpath(path)
    for needed in (os.path.dirname(path), f"{path}-wal", f"{path}-shm"):
        if os.path.exists(needed) and not os.access(needed, os.W_OK):
            yield f"{needed} isn't writable"


def check_no_log(path: str) -> None:
    """Check that a missing or empty file has no log, which SQLite would delete.

    :raises OSError: if it has one.
    """
    log = f"{path}-wal"
    if not size(path) and size(log):
        raise OSError(
            f"{path} is missing or empty, but its log exists, and may contain the only"
            f" copy of some data: put the file back or, if it is lost for good, remove {log}"
        )


def check_not_empty(path: str) -> None:
    """Check that a file has content.

    :raises SchemaMismatch: if it hasn't.
    """
    if not os.path.exists(path):
        raise SchemaMismatch(f"there is no file {path}")
    if not os.path.getsize(path):
        raise SchemaMismatch(f"{path} is empty")


def check_not_mixed(path: str) -> None:
    """Check that the log belongs to the file.

    :raises OSError: if it doesn't.
    """
    if lacks_pages(path):
        raise OSError(
            f"{path} is older than its log, and using it would mix two databases: if it"
            f" is a restored backup, remove {path}-wal and {path}-shm"
        )

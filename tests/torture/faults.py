"""What can happen to a database file, each for as long as its context manager is entered."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.backends import SQLiteBackend

#: Does something to a database file that keeps the service from its work, until it is left.
Fault = Callable[[SQLiteBackend], AbstractContextManager[None]]


def away(database: SQLiteBackend) -> AbstractContextManager[None]:
    """The file isn't there."""
    return database.away()


def locked(database: SQLiteBackend) -> AbstractContextManager[None]:
    """Another process keeps the lock for writing to itself."""
    return database.locked()


@contextmanager
def garbage(database: SQLiteBackend) -> Iterator[None]:
    """Another file is in its place, and of its log, which is no database."""
    # The file goes first and comes last, so that nobody takes the log for another's.
    names = ["", "-wal", "-shm"]
    files = [database.path.with_name(database.path.name + name) for name in names]
    there = [file for file in files if file.exists()]
    for file in there:
        file.rename(file.with_suffix(f"{file.suffix}.elsewhere"))
    database.path.write_bytes(b"garbage " * 10_000)
    yield
    for file in reversed(there):
        file.with_suffix(f"{file.suffix}.elsewhere").rename(file)


@contextmanager
def empty(database: SQLiteBackend) -> Iterator[None]:
    """An empty file is in its place, beside its log."""
    new, elsewhere = database.path.with_suffix(".new"), database.path.with_suffix(".elsewhere")
    new.touch()
    elsewhere.hardlink_to(database.path)
    new.rename(database.path)
    yield
    elsewhere.rename(database.path)


@contextmanager
def immutable(database: SQLiteBackend) -> Iterator[None]:
    """Nobody may write to the file or to its log, root included."""
    # Not to its index, "-shm": that is mapped into memory, and Linux ends who writes to it.
    files = [str(database.path), f"{database.path}-wal"]
    subprocess.run(["chattr", "+i", *files], check=True)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", *files], check=True)


def can_be_made_immutable(folder: Path) -> bool:
    """Whether :py:func:`immutable` can be had of the file system of a folder."""
    if shutil.which("chattr") is None:
        return False
    probe = folder / "probe"
    probe.touch()
    made = subprocess.run(["chattr", "+i", probe], check=False, stderr=subprocess.DEVNULL)
    if made.returncode != 0:
        return False
    subprocess.run(["chattr", "-i", probe], check=True)
    return True


@contextmanager
def full(database: SQLiteBackend) -> Iterator[None]:
    """The disk of the file, which should be a small one, is full."""
    ballast = database.path.with_suffix(".ballast")
    with open(ballast, "wb", buffering=0) as file:
        for size in (65_536, 512):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    yield
    ballast.unlink()


@contextmanager
def read_only(database: SQLiteBackend) -> Iterator[None]:
    """The disk of the file, which should be a small one that nobody has written to, takes
    no writes."""
    folder = database.path.parent
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    yield
    subprocess.run(["mount", "-o", "remount,rw", folder], check=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a file system with room for 16 MB on a folder; tell whether that could be done."""
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)

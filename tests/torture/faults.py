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


def garbage(database: SQLiteBackend) -> AbstractContextManager[None]:
    """Another file is in its place, which is no database."""
    return _replaced(database, b"garbage " * 10_000)


def empty(database: SQLiteBackend) -> AbstractContextManager[None]:
    """An empty file is in its place."""
    return _replaced(database, b"")


@contextmanager
def _replaced(database: SQLiteBackend, content: bytes) -> Iterator[None]:
    other = database.path.with_suffix(".other")
    other.write_bytes(content)
    elsewhere = database.path.with_suffix(".elsewhere")
    elsewhere.hardlink_to(database.path)
    other.rename(database.path)
    yield
    elsewhere.rename(database.path)


@contextmanager
def immutable(database: SQLiteBackend) -> Iterator[None]:
    """Nobody may write to the file or to its log, root included."""
    files = [str(path) for path in database.path.parent.glob(f"{database.path.name}*")]
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

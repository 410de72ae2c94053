"""Faults of a database file, each active while its context manager is."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.backends import SQLiteBackend

#: Makes a database file unusable while the context is active.
Fault = Callable[[SQLiteBackend], AbstractContextManager[None]]


def missing(database: SQLiteBackend) -> AbstractContextManager[None]:
    """The file is missing."""
    return database.unavailable()


def locked(database: SQLiteBackend) -> AbstractContextManager[None]:
    """Another process holds the write lock."""
    return database.locked()


@contextmanager
def garbage(database: SQLiteBackend) -> Iterator[None]:
    """The file is replaced by one that isn't a database, and its log is missing."""
    # The file is moved first and restored last, so that its log never belongs to another file.
    names = ["", "-wal", "-shm"]
    files = [database.path.with_name(database.path.name + name) for name in names]
    existing = [file for file in files if file.exists()]
    for file in existing:
        file.rename(file.with_suffix(f"{file.suffix}.elsewhere"))
    database.path.write_bytes(b"garbage " * 10_000)
    yield
    for file in reversed(existing):
        file.with_suffix(f"{file.suffix}.elsewhere").rename(file)


@contextmanager
def empty(database: SQLiteBackend) -> Iterator[None]:
    """The file is replaced by an empty one; its log stays."""
    new, elsewhere = database.path.with_suffix(".new"), database.path.with_suffix(".elsewhere")
    new.touch()
    elsewhere.hardlink_to(database.path)
    new.rename(database.path)
    yield
    elsewhere.rename(database.path)


@contextmanager
def immutable(database: SQLiteBackend) -> Iterator[None]:
    """Neither the file nor its log is writable, even by root."""
    # Not its index, "-shm": it is memory-mapped, and Linux kills processes that write to it.
    files = [str(database.path), f"{database.path}-wal"]
    subprocess.run(["chattr", "+i", *files], check=True)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", *files], check=True)


def can_be_made_immutable(folder: Path) -> bool:
    """Return whether a folder's file system supports :py:func:`immutable`."""
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
    """The file's disk, which should be small, is full."""
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
    """The file's disk, which should be small and not in use, is read-only."""
    folder = database.path.parent
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    yield
    subprocess.run(["mount", "-o", "remount,rw", folder], check=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a 16 MB file system on a folder; yields whether that worked."""
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)

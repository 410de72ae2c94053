"""Detects changes to the files of an open SQLite database that SQLite didn't make.

SQLite notices neither a file that is overwritten in place, for example with a backup, nor a log
that is deleted. It continues, and mixes two databases, or loses what was committed.

In WAL mode only checkpoints write to the database file: they copy pages from the log. So what the
file must contain is known from the log and its index:

- A page that checkpoints have copied, and that isn't in the rest of the log, is the same in the
  file as in its last frame in the log. It is enough to compare the last such page: a file that has
  it also has all earlier ones.
- For everything from before the log began, the service increases a number in the header of the
  database in each commit. The file lacks commits if its number is lower than the log's first one
  requires.
- Between two checks without a checkpoint, the first page, which has the header, stays the same.
"""

import os
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

#: Identifies a file regardless of its path: the device and the inode number.
Identity = tuple[int, int]

NO_FILE = (0, 0)

#: The suffix of a marker file, which says what is wrong with the database's files. While it exists,
#: the database isn't opened. The marker is needed because the evidence, the log, may disappear: the
#: last connection to close copies it into the database file and deletes it.
UNUSABLE = "-unusable"

OVERWRITTEN = (
    "{path} was overwritten while it was in use, and may be a mixture of two databases: stop the"
    " service, move all files {path}* away, and restore a backup"
)
LOG_LOST = (
    "{path}-wal or {path}-shm was deleted, replaced or overwritten while it was in use, and"
    " decisions may be lost: stop the service, remove {path}-unusable, and run the audit; if it"
    " finds problems, move all files {path}* away, and restore a backup"
)

# The index of the log (https://www.sqlite.org/walformat.html#the_wal_index_file_format), in native
# byte order: two copies of a header, then the state of checkpoints. It continues with the numbers
# of the pages in the frames, of which there are 4,096 per 32 KiB; the header takes the place of the
# first of them.
_INDEX_HEADER = struct.Struct("=12x?xHII8x8x8x48xI28xI4x")
_COPY_BYTES = 48
_SIZES, _SIZES_OFFSET = struct.Struct("=HI"), 14
_SALTS, _COPIED, _ATTEMPTED = slice(32, 40), slice(96, 100), slice(128, 132)
_BLOCK_BYTES = 2**15
_BLOCK_FRAMES = 2**12
_FRAMES_MISSING = _INDEX_HEADER.size // 4

_LOG_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24
_FRAME_SALTS = slice(8, 16)

# The header of a database: https://www.sqlite.org/fileformat2.html#the_database_header. Its version
# for reading is 2 in WAL mode.
_MAGIC = b"SQLite format 3\0"
_VERSION, _WAL_VERSION = slice(19, 20), b"\2"
_NUMBER = slice(60, 64)
_SMALLEST_PAGE_BYTES = 512

# The number is the "user version", a signed integer. It starts again after the largest.
_NUMBERS = 2**31

_SETTLING_NANOSECONDS = 10**8
# An operator may be moving all files away, or back.
_MOVING_SECONDS = 0.25


def next_number(number: int) -> int:
    """Return the number in the header of a database after the next commit."""
    return (number + 1) % _NUMBERS


def identify(path: str) -> Identity:
    """Return the identity of the file at a path."""
    with suppress(FileNotFoundError):
        return _identity(os.stat(path))
    return NO_FILE


def _identity(stat: os.stat_result) -> Identity:
    return stat.st_dev, stat.st_ino


def recorded_fault(path: str) -> str | None:
    """Return what was once found wrong with the files of a database, and how to fix it.

    :param path: the path of the database.
    """
    with suppress(FileNotFoundError):
        # It is empty if another process is writing it, or if the disk was full.
        return _marker(path).read_text() or OVERWRITTEN.format(path=os.path.realpath(path))
    return None


def _marker(path: str) -> Path:
    return Path(f"{os.path.realpath(path)}{UNUSABLE}")


class OpenFiles:
    """The files of a database while a connection has them open.

    :param path: the path of the database.
    :param identity: the identity of its file.
    """

    def __init__(self, path: str, identity: Identity) -> None:
        self._path = path
        real_path = os.path.realpath(path)  # SQLite follows symbolic links
        self._folder = os.path.dirname(real_path)
        self._log_path = f"{real_path}-wal"
        self._index_path = f"{real_path}-shm"
        self._identity = identity
        # Only the last connection that closes deletes them.
        self._log_identity = identify(self._log_path)
        self._index_identity = identify(self._index_path)
        self._file = _OpenFile(identity)
        self._index = _OpenFile(self._index_identity)
        # SQLite doesn't lock the log, so closing this descriptor releases no locks.
        is_in_use = NO_FILE not in (self._log_identity, self._index_identity)
        self._log = os.open(self._log_path, os.O_RDONLY) if is_in_use else None
        self._state: object = None
        self._checkpoints: object = None
        self._first_page = b""

    def close(self) -> None:
        """Close what was opened to look at the files."""
        if self._log is not None:
            os.close(self._log)

    def are_intact(self, stat: os.stat_result) -> bool:
        """Return whether only SQLite has changed the files. A fault is recorded for all processes.

        Other connections may write to the files at the same time.

        :param stat: the result of ``os.stat`` for the file of the database.
        """
        if self._log is None:
            return True  # the file system doesn't support WAL mode
        folder = os.stat(self._folder).st_mtime_ns  # changes if a file is deleted or replaced
        index = self._index.peek(_INDEX_HEADER.size)
        state = stat.st_mtime_ns, stat.st_size, _checkpoints(index), folder
        if state == self._state and _has_last_frame(self._log, index):
            return True
        if recorded_fault(self._path):
            return False
        fault = self._find_fault(self._log, folder)
        # This doesn't sleep, since a read must not yield to the event loop.
        end = time.monotonic() + _MOVING_SECONDS
        while fault and time.monotonic() < end:
            fault = self._find_fault(self._log, folder)
        if fault is None:
            return True
        if identify(self._path) == self._identity:
            _marker(self._path).write_text(fault.format(path=os.path.realpath(self._path)))
        return False

    def _find_fault(self, log: int, folder: int) -> str | None:
        paths = self._log_path, self._index_path
        if tuple(map(identify, paths)) != (self._log_identity, self._index_identity):
            return LOG_LOST
        try:
            index = self._read_index()
            if index is None:
                return None
            stat = os.stat(self._path)
            page = self._file.read(max(index.page_bytes, _SMALLEST_PAGE_BYTES), 0)
            fault = self._compare(_Log(index, self._index, log), page, stat.st_size)
            later = self._read_index()
        except _NotOpen:
            return None
        if later is None or later.checkpoints != index.checkpoints:
            return None  # meanwhile, a checkpoint may have changed the file
        if fault is None:
            self._first_page, self._checkpoints = page, index.checkpoints
            # The time of the folder may be too coarse to show another change soon after.
            if abs(time.time_ns() - folder) > _SETTLING_NANOSECONDS:
                self._state = stat.st_mtime_ns, stat.st_size, index.checkpoints, folder
        return fault

    def _read_index(self) -> "_Index | None":
        content = self._index.read(_INDEX_HEADER.size, 0)
        if len(content) < _INDEX_HEADER.size:
            return None
        if content[:_COPY_BYTES] != content[_COPY_BYTES : 2 * _COPY_BYTES]:
            return None  # a commit is changing it
        is_initialized, *numbers = _INDEX_HEADER.unpack(content)
        if not is_initialized:
            return None
        return _Index(content[_SALTS], _checkpoints(content), *numbers)

    def _compare(self, log: "_Log", page: bytes, size: int) -> str | None:
        """Return what is wrong, provided that no checkpoint changes the file meanwhile.

        :param page: the first page of the file.
        :param size: the size of the file.
        """
        try:
            if log.index.frames:
                log.read(log.index.frames)
            return None if self._is_expected(log, page, size) else OVERWRITTEN
        except _FrameMissing:
            return LOG_LOST

    def _is_expected(self, log: "_Log", page: bytes, size: int) -> bool:
        index = log.index
        if not page.startswith(_MAGIC) or page[_VERSION] != _WAL_VERSION:
            return False
        if index.copied == index.frames and size < index.pages * index.page_bytes:
            return False
        frame = log.last_copied()
        if frame:
            number, content = log.read(frame)
            if self._file.read(index.page_bytes, (number - 1) * index.page_bytes) != content:
                return False
        if page == self._first_page:
            return True
        if index.copied == index.attempted and index.checkpoints == self._checkpoints:
            return False
        return not log.began_after(page)


class _NotOpen(Exception):
    """SQLite no longer has the file open, or the system doesn't show which files are open."""


class _OpenFile:
    """A file that SQLite has open, read through SQLite's own descriptor.

    If this process closed a descriptor of its own, the system would release SQLite's locks
    (https://www.sqlite.org/howtocorrupt.html, section 2.2).
    """

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._descriptor = -1

    def peek(self, size: int) -> bytes:
        """Return the beginning of the file or, without a descriptor for it, anything else."""
        with suppress(OSError):
            return os.pread(self._descriptor, size, 0)
        return b""

    def read(self, size: int, offset: int) -> bytes:
        """Return a part of the file, shorter at its end.

        :raises _NotOpen: if there is no descriptor to read from.
        """
        content = self._try(self._descriptor, size, offset)
        if content is not None:
            return content
        with suppress(FileNotFoundError):
            for descriptor in map(int, os.listdir("/dev/fd")):
                content = self._try(descriptor, size, offset)
                if content is not None:
                    self._descriptor = descriptor
                    return content
        raise _NotOpen

    def _try(self, descriptor: int, size: int, offset: int) -> bytes | None:
        # SQLite may close the descriptor, and another file may get its number.
        with suppress(OSError):
            if descriptor >= 0 and _identity(os.fstat(descriptor)) == self._identity:
                content = os.pread(descriptor, size, offset)
                if _identity(os.fstat(descriptor)) == self._identity:
                    return content
        return None


def _checkpoints(index: bytes) -> bytes:
    return index[_SALTS] + index[_COPIED] + index[_ATTEMPTED]


def _has_last_frame(log: int, index: bytes) -> bool:
    page_size, frames = _SIZES.unpack_from(index, _SIZES_OFFSET)
    if not frames:
        return True
    header = os.pread(log, _FRAME_HEADER_BYTES, _frame_offset(frames, page_size))
    return header[_FRAME_SALTS] == index[_SALTS]


def _page_bytes(page_size: int) -> int:
    return 2**16 if page_size == 1 else page_size


def _frame_offset(frame: int, page_size: int) -> int:
    return _LOG_HEADER_BYTES + (frame - 1) * (_FRAME_HEADER_BYTES + _page_bytes(page_size))


class _Index(NamedTuple):
    """What the index says about the log.

    :ivar salts: numbers that change whenever the log starts from its beginning.
    :ivar checkpoints: changes before and after a checkpoint writes to the database file.
    :ivar page_size: the size of a page in bytes; 1 for 65,536, 0 if there was no log yet.
    :ivar frames: the number of frames of committed transactions.
    :ivar pages: the size of the database in pages, after the last of them.
    :ivar copied: the number of frames that checkpoints have finished.
    :ivar attempted: greater than ``copied`` while a checkpoint runs, or if one failed.
    """

    salts: bytes
    checkpoints: bytes
    page_size: int
    frames: int
    pages: int
    copied: int
    attempted: int

    @property
    def page_bytes(self) -> int:
        """The size of a page in bytes."""
        return _page_bytes(self.page_size)


class _FrameMissing(Exception):
    """The log doesn't have a frame that is in the index."""


class _Log:
    """The log of a database, as described by its index.

    :param descriptor: a descriptor of the log.
    """

    def __init__(self, index: _Index, index_file: _OpenFile, descriptor: int) -> None:
        self.index = index
        self._index_file = index_file
        self._descriptor = descriptor

    def last_copied(self) -> int:
        """Return the last copied frame whose page isn't in a later frame that is still to be
        copied, so that the database file must contain it; 0 if there is none among the latest."""
        copied = self.index.copied
        first = max(copied - _BLOCK_FRAMES, 0) + 1
        pages = self._pages(first, self.index.frames)
        to_be_copied = set(pages[copied - first + 1 :])
        for frame in range(copied, first - 1, -1):
            page = pages[frame - first]
            if page not in to_be_copied and page <= self.index.pages:
                return frame
        return 0

    def began_after(self, page: bytes) -> bool:
        """Return whether there were commits after this first page was written, and before the log
        began."""
        frames = self.index.frames
        oldest = self._find_first_pages(1, min(frames, _BLOCK_FRAMES))
        if not oldest:
            return False
        number = self._number(oldest[0])
        if not 0 < (number - 1 - _number(page)) % _NUMBERS < _NUMBERS // 2:
            return False
        # SQLite itself has lowered the number if it has restored a backup.
        numbers = map(self._number, self._find_first_pages(1, frames))
        return _number(page) not in numbers

    def read(self, frame: int) -> tuple[int, bytes]:
        """Return the page in a frame: its number and its content.

        :raises _FrameMissing: if the log doesn't have the frame.
        """
        size = _FRAME_HEADER_BYTES + self.index.page_bytes
        content = os.pread(self._descriptor, size, _frame_offset(frame, self.index.page_size))
        if len(content) < size or content[_FRAME_SALTS] != self.index.salts:
            raise _FrameMissing
        return int.from_bytes(content[:4], "big"), content[_FRAME_HEADER_BYTES:]

    def _number(self, frame: int) -> int:
        return _number(self.read(frame)[1])

    def _find_first_pages(self, first: int, last: int) -> list[int]:
        """The frames with the first page of the database."""
        pages = self._pages(first, last)
        return [frame for frame, page in enumerate(pages, first) if page == 1]

    def _pages(self, first: int, last: int) -> list[int]:
        """The numbers of the pages in a range of frames, from the index."""
        pages: list[int] = []
        start, end = first - 1 + _FRAMES_MISSING, last + _FRAMES_MISSING
        while start < end:
            block, place = divmod(start, _BLOCK_FRAMES)
            number = min(end - start, _BLOCK_FRAMES - place)
            content = self._index_file.read(4 * number, block * _BLOCK_BYTES + 4 * place)
            if len(content) < 4 * number:
                raise _NotOpen
            pages.extend(memoryview(content).cast("I"))
            start += number
        return pages


def _number(page: bytes) -> int:
    return int.from_bytes(page[_NUMBER], "big")

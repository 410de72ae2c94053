"""Whether the file of an SQLite database belongs to the log beside it.

SQLite applies any log to the file that it stands beside. If a backup is copied over a database, and
the old log is still there, that mixes two histories. It can be seen by the size: a database only
grows, except by VACUUM, and its log has every page that was added since the log began. A file that
is older than the beginning of the log lacks the pages that were added in between.
"""

import os
import struct
from contextlib import suppress
from itertools import count

_MAGIC_NUMBERS = (0x377F0682, 0x377F0683)
_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24

# SQLite's locks are on bytes of this page, so it is never written.
_LOCK_BYTE = 2**30


def lacks_pages(path: str) -> bool:
    """Whether a database lacks pages: they are neither in its file nor in its log.

    Other processes may write to both meanwhile.

    :param path: the path of the file.
    """
    in_log, pages, page_bytes = _read_log(f"{path}-wal")
    # Read after the log: a page that is copied meanwhile is in the log or in the file.
    in_file = os.path.getsize(path) // page_bytes
    missing = set(range(in_file + 1, pages + 1)) - in_log
    return bool(missing - {_LOCK_BYTE // page_bytes + 1})


def size_in_log(path: str) -> int:
    """The size in bytes that the file of a database gets when its log is copied to it; 0 if the log
    is empty.

    :param path: the path of the file.
    """
    _, pages, page_bytes = _read_log(f"{path}-wal")
    return pages * page_bytes


def _read_log(path: str) -> tuple[set[int], int, int]:
    """Return the numbers of the pages in a log, how many pages the database has after its last
    commit, and the size of a page (https://www.sqlite.org/fileformat2.html#the_write_ahead_log).

    The contents of the pages aren't read, so their checksums aren't compared.
    """
    in_log: set[int] = set()
    uncommitted: set[int] = set()
    committed, page_bytes = 0, 1
    # No locks are lost when it is closed: SQLite has none on the log.
    with suppress(FileNotFoundError), open(path, "rb", buffering=0) as log:
        header = log.read(_HEADER_BYTES)
        # SQLite ignores a log that doesn't begin as one.
        if len(header) < _HEADER_BYTES or int.from_bytes(header[:4], "big") not in _MAGIC_NUMBERS:
            return in_log, committed, page_bytes
        page_bytes = int.from_bytes(header[8:12], "big")
        for offset in count(_HEADER_BYTES, _FRAME_HEADER_BYTES + page_bytes):
            frame = os.pread(log.fileno(), _FRAME_HEADER_BYTES, offset)
            # Frames that are older than the log's last restart have other salts.
            if len(frame) < _FRAME_HEADER_BYTES or frame[8:16] != header[16:24]:
                break
            page, pages = struct.unpack(">II", frame[:8])
            uncommitted.add(page)
            if pages:
                in_log |= uncommitted
                uncommitted.clear()
                committed = pages
    return in_log, committed, page_bytes

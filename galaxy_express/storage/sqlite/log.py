"""Detects whether the file of an SQLite database matches its write-ahead log.

SQLite applies any log that it finds next to a file. If a backup is copied over a database and the
old log is still there, SQLite mixes two databases. The mismatch can be detected by the size: a
database only grows, except by VACUUM, and its log contains every page that was added since the log
began. A file that is older than the beginning of the log lacks the pages added in between.
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
    """Return whether pages of a database are missing from both its file and its log.

    Other processes may write to both at the same time.

    :param path: the path of the file.
    """
    in_log, pages, page_bytes = _read_log(f"{path}-wal")
    # Read after the log, so that pages copied in between are found in the log or in the file.
    in_file = os.path.getsize(path) // page_bytes
    missing = set(range(in_file + 1, pages + 1)) - in_log
    return bool(missing - {_LOCK_BYTE // page_bytes + 1})


def _read_log(path: str) -> tuple[set[int], int, int]:
    """Return the numbers of the pages in a log, how many pages the database has after its last
    commit, and the size of a page (https://www.sqlite.org/fileformat2.html#the_write_ahead_log).

    The contents of the pages aren't read, so their checksums aren't compared.
    """
    in_log: set[int] = set()
    uncommitted: set[int] = set()
    committed, page_bytes = 0, 1
    # Closing the log releases no locks: SQLite doesn't lock it.
    with suppress(FileNotFoundError), open(path, "rb", buffering=0) as log:
        header = log.read(_HEADER_BYTES)
        # SQLite ignores a log without a valid header.
        if len(header) < _HEADER_BYTES or int.from_bytes(header[:4], "big") not in _MAGIC_NUMBERS:
            return in_log, committed, page_bytes
        page_bytes = int.from_bytes(header[8:12], "big")
        for offset in count(_HEADER_BYTES, _FRAME_HEADER_BYTES + page_bytes):
            frame = os.pread(log.fileno(), _FRAME_HEADER_BYTES, offset)
            # Frames from before the log's last restart have different salts.
            if len(frame) < _FRAME_HEADER_BYTES or frame[8:16] != header[16:24]:
                break
            page, pages = struct.unpack(">II", frame[:8])
            uncommitted.add(page)
            if pages:
                in_log |= uncommitted
                uncommitted.clear()
                committed = pages
    return in_log, committed, page_bytes

"""The pages that an SQLite database lacks."""

import struct
from pathlib import Path

import pytest

from galaxy_express.storage.sqlite_log import lacks_pages, size_in_log

PAGE_BYTES = 512
SALTS, OLD_SALTS = b"new salt", b"old salt"


def write(folder: Path, pages_in_file: int, *frames: tuple[int, int], old: int = 0) -> str:
    """Write a database and its log, and return the path.

    :param frames: the number of a page, and if it ends a transaction the size of the database.
    :param old: how many of the frames are older than the log's last restart.
    """
    database = folder / "galaxy_express.db"
    with open(database, "wb") as file:
        file.truncate(pages_in_file * PAGE_BYTES)
    with open(f"{database}-wal", "wb") as log:
        log.write(struct.pack(">4I8s8x", 0x377F0682, 3007000, PAGE_BYTES, 0, SALTS))
        for number, frame in enumerate(frames):
            salts = OLD_SALTS if number >= len(frames) - old else SALTS
            log.write(struct.pack(f">2I8s8x{PAGE_BYTES}x", *frame, salts))
    return str(database)


def test_pages_are_in_the_file_or_in_the_log(tmp_path: Path) -> None:
    """Nothing is missing if each page is in one of them."""
    assert not lacks_pages(write(tmp_path, 2, (1, 0), (4, 0), (3, 4)))


def test_a_page_is_in_neither(tmp_path: Path) -> None:
    """A page that was added before the log began is missing in an older file."""
    assert lacks_pages(write(tmp_path, 2, (1, 0), (4, 4)))


def test_what_was_not_committed_does_not_count(tmp_path: Path) -> None:
    """Frames after the last commit, and those of before the log's last restart, are ignored."""
    assert not lacks_pages(write(tmp_path, 2, (3, 3), (5, 0)))
    assert not lacks_pages(write(tmp_path, 2, (3, 3), (5, 5), old=1))


@pytest.mark.parametrize("content", [None, b"", b"short", bytes(4096)])
def test_no_log(tmp_path: Path, content: bytes | None) -> None:
    """Where there is no log, or one that doesn't begin as one, nothing is missing."""
    path = Path(write(tmp_path, 2))
    log = path.with_name("galaxy_express.db-wal")
    log.unlink()
    if content is not None:
        log.write_bytes(content)
    assert not lacks_pages(str(path))


def test_the_size_in_the_log(tmp_path: Path) -> None:
    """The log says how large the database is after its last commit."""
    assert size_in_log(write(tmp_path, 2, (3, 3), (1, 0), (4, 4), (5, 0))) == 4 * PAGE_BYTES
    assert size_in_log(write(tmp_path, 2)) == 0


def test_the_page_of_the_locks(tmp_path: Path) -> None:
    """The page at one gigabyte is never written, and not missing."""
    page = 2**30 // PAGE_BYTES + 1
    assert not lacks_pages(write(tmp_path, page - 1, (page + 1, page + 1)))
    assert lacks_pages(write(tmp_path, page - 2, (page + 1, page + 1)))

"""Detecting missing pages of an SQLite database."""

import struct
from pathlib import Path

import pytest

from galaxy_express.storage.sqlite.log import lacks_pages

PAGE_BYTES = 512
SALTS, OLD_SALTS = b"new salt", b"old salt"


def write(folder: Path, pages_in_file: int, *frames: tuple[int, int], old: int = 0) -> str:
    """Write a database and its log, and return the path.

    :param frames: for each frame the number of its page, and the size of the database in pages if
        it is the last of a transaction, or else 0.
    :param old: how many of the last frames are from before the log's last restart.
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


def test_complete_database(tmp_path: Path) -> None:
    """No page is missing if each is in the file or in the log."""
    assert not lacks_pages(write(tmp_path, 2, (1, 0), (4, 0), (3, 4)))


def test_missing_page(tmp_path: Path) -> None:
    """A page that is neither in the file nor in the log is missing."""
    assert lacks_pages(write(tmp_path, 2, (1, 0), (4, 4)))


def test_uncommitted_and_old_frames_are_ignored(tmp_path: Path) -> None:
    """Frames after the last commit or from before the log's last restart are ignored."""
    assert not lacks_pages(write(tmp_path, 2, (3, 3), (5, 0)))
    assert not lacks_pages(write(tmp_path, 2, (3, 3), (5, 5), old=1))


@pytest.mark.parametrize("content", [None, b"", b"short", bytes(4096)])
def test_no_log(tmp_path: Path, content: bytes | None) -> None:
    """No page is missing if there is no log, or one without a valid header."""
    path = Path(write(tmp_path, 2))
    log = path.with_name("galaxy_express.db-wal")
    log.unlink()
    if content is not None:
        log.write_bytes(content)
    assert not lacks_pages(str(path))


def test_lock_page_is_never_missing(tmp_path: Path) -> None:
    """SQLite never writes the page at one gibibyte, so it doesn't count as missing."""
    page = 2**30 // PAGE_BYTES + 1
    assert not lacks_pages(write(tmp_path, page - 1, (page + 1, page + 1)))
    assert lacks_pages(write(tmp_path, page - 2, (page + 1, page + 1)))

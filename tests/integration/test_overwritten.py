"""SQLite files that don't match their log, or were overwritten, are detected and not used."""

import subprocess
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from galaxy_express.desk import DeliveryDesk
from galaxy_express.models import create_schema
from galaxy_express.storage import queries
from galaxy_express.storage.connect import database_from_config
from galaxy_express.storage.database import Database, DatabaseUnavailable
from tests.backends import Backend, SQLiteBackend
from tests.integration.values import package, send

#: Sends a number of new packages.
Grow = Callable[[int], None]


@pytest.fixture
def backend(sqlite: SQLiteBackend) -> Backend:
    """SQLite only."""
    return sqlite


@pytest.fixture
def grow(desk: DeliveryDesk) -> Grow:
    """Make the database larger."""
    numbers = count()

    def grow(packages: int) -> None:
        send(desk, *(package(f"{next(numbers)}-{'x' * 200}") for _ in range(packages)))

    return grow


@pytest.fixture
def backup(sqlite: SQLiteBackend, grow: Grow) -> SQLiteBackend:
    """A backup of the database with 50 packages."""
    grow(50)
    path = sqlite.path.with_name("backup.db")
    sqlite.rows(f"VACUUM INTO '{path}'")
    return SQLiteBackend(path)


def copy(source: Path, target: Path) -> None:
    """Overwrite a file in place. Another process does it, since closing it releases our locks."""
    subprocess.run(["cp", str(source), str(target)], check=True)


def crashed(sqlite: SQLiteBackend) -> SQLiteBackend:
    """A copy of the database as after a power failure: its file and its log."""
    folder = sqlite.path.parent / "crashed"
    folder.mkdir(exist_ok=True)
    for path in sqlite.path, log_of(sqlite):
        copy(path, folder / path.name)
    (folder / f"{sqlite.path.name}-shm").unlink(missing_ok=True)
    return SQLiteBackend(folder / sqlite.path.name)


def log_of(sqlite: SQLiteBackend) -> Path:
    """The file of the log."""
    return sqlite.path.with_name(f"{sqlite.path.name}-wal")


def read_totals(database: Database) -> int:
    """The number of delivered packages."""
    with database.read_connection() as connection:
        return sum(queries.read_totals(connection).values())


def test_backup_next_to_old_log_is_rejected(
    sqlite: SQLiteBackend, database: Database, grow: Grow, backup: SQLiteBackend
) -> None:
    """A backup that was copied over a crashed database is rejected until the log is removed."""
    grow(500)
    database.checkpoint()
    grow(1)  # restarts the log
    restored = crashed(sqlite)
    copy(backup.path, restored.path)
    before = restored.path.read_bytes(), log_of(restored).read_bytes()
    with closing(database_from_config(restored.config)) as other:
        with pytest.raises(DatabaseUnavailable, match=r"older than its log, .* remove .*db-wal"):
            read_totals(other)
        with pytest.raises(DatabaseUnavailable, match="older than its log"), other.transaction():
            pass
        with pytest.raises(DatabaseUnavailable, match="older than its log"), other.snapshot():
            pass
        with pytest.raises(SystemExit, match="older than its log"):
            create_schema(restored.config)
        assert (restored.path.read_bytes(), log_of(restored).read_bytes()) == before
        log_of(restored).unlink()
        assert read_totals(other) == 50


def test_crashed_database_is_used(sqlite: SQLiteBackend, database: Database, grow: Grow) -> None:
    """After a crash, the file and its log are used, however much of the log was copied."""
    total = 0
    for step in range(12):
        grow(20)
        total += 20
        if step % 3 == 2:
            database.checkpoint()
        with closing(database_from_config(crashed(sqlite).config)) as other:
            assert read_totals(other) == total


def test_file_overwritten_during_use_is_rejected(
    sqlite: SQLiteBackend, database: Database, grow: Grow, backup: SQLiteBackend
) -> None:
    """If a backup is copied over the file of a running service, all connections reject it until the
    database is restored."""
    grow(500)
    database.checkpoint()
    copy(backup.path, sqlite.path)
    with pytest.raises(DatabaseUnavailable, match="was replaced or overwritten"):
        read_totals(database)
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable, match="was overwritten while it was in use"):
            read_totals(database)
        with pytest.raises(DatabaseUnavailable, match="was overwritten"), database.transaction():
            pass
        database.close()

    for path in sqlite.path.parent.glob(f"{sqlite.path.name}*"):
        path.unlink()
    copy(backup.path, sqlite.path)
    assert read_totals(database) == 50
    grow(1)
    assert read_totals(database) == 51


def test_file_overwritten_by_garbage_is_rejected(
    sqlite: SQLiteBackend, database: Database, grow: Grow, tmp_path: Path
) -> None:
    """A file that was overwritten by something other than a database is rejected."""
    grow(50)
    database.checkpoint()
    assert read_totals(database) == 50
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"garbage")
    copy(garbage, sqlite.path)
    with pytest.raises(DatabaseUnavailable, match="was overwritten"):
        read_totals(database)


def test_vacuum_during_use(sqlite: SQLiteBackend, database: Database, grow: Grow) -> None:
    """A file that VACUUM made smaller stays in use."""
    grow(500)
    database.checkpoint()
    size = sqlite.path.stat().st_size
    assert read_totals(database) == 500
    sqlite.rows("DELETE FROM packages")
    sqlite.rows("VACUUM")
    database.checkpoint()
    assert sqlite.path.stat().st_size < size
    assert read_totals(database) == 500
    grow(1)
    assert read_totals(database) == 501

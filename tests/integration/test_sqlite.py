"""Behaviour that is specific to SQLite."""

import os
import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from galaxy_express.delivery import REJECTED
from galaxy_express.desk import DeliveryDesk, SendRequest
from galaxy_express.models import create_schema
from galaxy_express.package_types import PACKAGE_TYPES
from galaxy_express.storage import queries
from galaxy_express.storage.connect import database_from_config
from galaxy_express.storage.database import Database
from galaxy_express.storage.errors import DatabaseUnavailable, NotRecorded
from tests.backends import Backend, SQLiteBackend
from tests.conftest import OpenDatabase
from tests.integration.racing import run_concurrently
from tests.integration.values import commit, describe, package, send, update


@pytest.fixture
def backend(sqlite: SQLiteBackend) -> Backend:
    """SQLite only."""
    return sqlite


PRAGMAS = pytest.mark.parametrize(
    ("pragma", "value"),
    [
        ("journal_mode", "wal"),
        ("synchronous", 2),
        ("foreign_keys", 1),
        ("page_size", 2048),
        ("wal_autocheckpoint", 40_960),
    ],
)


@PRAGMAS
def test_pragmas_of_writes(database: Database, pragma: str, value: object) -> None:
    """Write connections are durable: commits are synced."""
    with database.transaction() as connection:
        assert connection.select(f"PRAGMA {pragma}") == [(value,)]


@PRAGMAS
def test_pragmas_of_reads(database: Database, pragma: str, value: object) -> None:
    """Read connections have the same settings."""
    with database.read_connection() as connection:
        assert connection.select(f"PRAGMA {pragma}") == [(value,)]


def test_opening_does_not_create_a_file(sqlite: SQLiteBackend) -> None:
    """Using a missing database doesn't create it."""
    database = database_from_config(sqlite.config)
    with pytest.raises(DatabaseUnavailable), database.read_connection() as connection:
        queries.check_schema(connection)
    with pytest.raises(DatabaseUnavailable), database.transaction():
        pass
    assert not sqlite.path.exists()


@pytest.mark.parametrize("name", ["with space", "100%", "a#b", "a&b=c", "é", "%20"])
def test_any_path(tmp_path: Path, name: str) -> None:
    """The path is taken literally, even if it contains characters that are special in a URI."""
    (tmp_path / name).mkdir()
    backend = SQLiteBackend(tmp_path / name / "galaxy_express.db")
    create_schema(backend.config)
    assert backend.path.exists()


def test_replaced_file(sqlite: SQLiteBackend, database: Database, desk: DeliveryDesk) -> None:
    """Connections to the old file switch to the new one."""
    send(desk, package())
    with database.read_connection() as connection:
        queries.check_schema(connection)
    for path in sqlite.path.parent.glob("*.db*"):
        path.unlink()
    create_schema(sqlite.config)
    with database.read_connection() as connection:
        assert queries.find_decision(connection, "pkg-1") is None
    assert [describe(outcome) for outcome in send(desk, package())] == ["delivered"]
    assert sqlite.stored() == sqlite.counted() == {("delivered", "personal"): 1}


def test_file_replaced_during_a_write(sqlite: SQLiteBackend, database: Database) -> None:
    """A write to a file that is replaced before the commit fails."""

    def write() -> None:
        with database.transaction() as connection:
            queries.add_to_totals(connection, 0, {REJECTED: 1})
            sqlite.path.unlink()

    with pytest.raises(DatabaseUnavailable, match="was replaced or deleted"):
        write()


def test_file_that_is_not_a_database(
    sqlite: SQLiteBackend, database: Database, desk: DeliveryDesk
) -> None:
    """A file that isn't a database makes the database unavailable until it is restored."""
    send(desk, package())
    with sqlite.unavailable():
        sqlite.path.write_bytes(b"garbage" * 1000)
        with pytest.raises(DatabaseUnavailable), database.read_connection() as connection:
            queries.check_schema(connection)
        with pytest.raises(DatabaseUnavailable):
            send(desk, package())
    assert [describe(outcome) for outcome in send(desk, package())] == ["delivered again"]


def test_empty_file_with_a_log(
    sqlite: SQLiteBackend, database: Database, desk: DeliveryDesk
) -> None:
    """Opening an empty file in place of the database doesn't delete the existing log."""
    send(desk, package())
    log = sqlite.path.with_name(f"{sqlite.path.name}-wal")
    content = log.read_bytes()
    sqlite.path.rename(sqlite.path.with_suffix(".elsewhere"))
    sqlite.path.touch()
    with (
        pytest.raises(DatabaseUnavailable, match="but its log exists"),
        database.snapshot(),
    ):
        pass
    assert log.read_bytes() == content


@pytest.mark.parametrize("is_empty", [False, True])
def test_tables_are_not_created_next_to_a_log(
    sqlite: SQLiteBackend, database: Database, desk: DeliveryDesk, is_empty: bool
) -> None:
    """Tables aren't created if only a database's log is left, since that would delete the log."""
    send(desk, package())
    elsewhere = sqlite.path.with_suffix(".elsewhere")
    sqlite.path.rename(elsewhere)
    if is_empty:
        sqlite.path.touch()
    with pytest.raises(SystemExit, match=r"remove .*galaxy_express\.db-wal"):
        create_schema(sqlite.config)
    elsewhere.rename(sqlite.path)
    assert sqlite.stored() == {("delivered", "personal"): 1}


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Prevent all files of this process from growing beyond the largest file in a folder."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(path.stat().st_size for path in folder.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_full_disk(sqlite: SQLiteBackend, database: Database, desk: DeliveryDesk) -> None:
    """On a full disk, writes fail and are not recorded, and reads work."""
    send(desk, package("before"))
    with full_disk(sqlite.path.parent):
        with pytest.raises(DatabaseUnavailable):
            send(desk, *(package(str(number)) for number in range(500)))
        with database.read_connection() as connection:
            assert queries.find_decision(connection, "before") is not None
    assert sqlite.stored() == sqlite.counted() == {("delivered", "personal"): 1}
    assert [describe(outcome) for outcome in send(desk, package("0"))] == ["delivered"]


@pytest.mark.parametrize("suffix", ["", "/galaxy_express.db-wal", "/galaxy_express.db-shm"])
def test_file_of_another_user(suffix: str) -> None:
    """If the folder or the log isn't writable, the error names it."""
    with TemporaryDirectory() as folder, as_unprivileged_user(folder):
        config = {"database.url": f"sqlite:///{folder}/galaxy_express.db"}
        create_schema(config)
        with closing(database_from_config(config)) as other:
            send(DeliveryDesk(other, PACKAGE_TYPES), package())
            if suffix:  # after a crash, for example
                shutil.copytree(folder, f"{folder}/copy")
        used = f"{folder}/copy" if suffix else folder
        unwritable = Path(used + suffix)
        unwritable.chmod(0o500)
        config = {"database.url": f"sqlite:///{used}/galaxy_express.db"}
        with (
            closing(database_from_config(config)) as database,
            pytest.raises(DatabaseUnavailable, match=rf"; {unwritable} isn't writable"),
        ):
            send(DeliveryDesk(database, PACKAGE_TYPES), package())
        unwritable.chmod(0o700)


@contextmanager
def as_unprivileged_user(folder: str) -> Iterator[None]:
    """If root runs this process, switch to another user, and let that user own the folder."""
    if os.getuid() != 0:
        yield
        return
    os.chown(folder, 65534, -1)
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def test_readers_do_not_block_writes(database: Database, desk: DeliveryDesk) -> None:
    """A write is committed during a read."""
    send(desk, package("a"))
    with database.read_connection() as connection:
        connection.execute("SELECT package_id FROM packages")
        assert [describe(outcome) for outcome in send(desk, package("b"))] == ["delivered"]
        assert queries.find_decision(connection, "b") is not None


def test_damaged_file_is_not_a_programming_error(sqlite: SQLiteBackend, database: Database) -> None:
    """An overwritten page makes the database unavailable."""
    desk = DeliveryDesk(database, PACKAGE_TYPES)
    send(desk, *(package(str(number)) for number in range(100)))
    with sqlite.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damaged = sqlite.path.with_suffix(".damaged")
    content = bytearray(sqlite.path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    damaged.write_bytes(content)
    damaged.rename(sqlite.path)
    with pytest.raises(DatabaseUnavailable), database.read_connection() as connection:
        queries.find_decision(connection, "1")


def test_opening_waits_for_other_programs_to_open_and_close(
    database: Database, open_database: OpenDatabase
) -> None:
    """Reads of programs that open and close the file all the time succeed, although the first one
    to open it, and the last one to close it, lock it for a moment."""

    def read_again_and_again() -> None:
        for _ in range(40):
            database = open_database()
            with database.read_connection() as connection:
                assert queries.read_totals(connection) == {}
                assert connection.select("PRAGMA busy_timeout") == [(0,)]
            database.close()

    database.close()
    run_concurrently([read_again_and_again] * 3)


def test_reads_do_not_wait_for_locks(
    sqlite: SQLiteBackend, database: Database, open_database: OpenDatabase
) -> None:
    """A read of a locked file fails immediately, whatever the lock timeout of writes: reads run on
    the event loop."""
    reader = open_database({"database.lock_timeout": "1 minute"})
    with sqlite.cursor() as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM packages")
        other.execute("COMMIT")
        started = time.monotonic()
        for _ in range(1000):
            with pytest.raises(DatabaseUnavailable, match="locked"), reader.read_connection():
                pass
        assert time.monotonic() < started + 30
    with reader.read_connection() as read:
        assert queries.read_totals(read) == {}


@pytest.mark.parametrize("table", ["packages", "preferences", "preference_updates", "counters"])
def test_rows_that_a_trigger_leaves_out(backend: Backend, desk: DeliveryDesk, table: str) -> None:
    """A write whose rows a trigger leaves out fails, and nothing is recorded."""
    backend.rows(
        f"CREATE TRIGGER leave_out BEFORE INSERT ON {table} BEGIN SELECT raise(IGNORE); END"
    )
    with pytest.raises(NotRecorded):
        commit(desk, [update(personal=True), SendRequest([package()])])
    assert backend.contents() == [[], [], []]
    assert backend.counted() == {}

"""Background checkpoints (SQLite only)."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import gevent
import pytest
from prometheus_client import REGISTRY

from galaxy_express.desk import DeliveryDesk
from galaxy_express.models import create_schema
from galaxy_express.package_types import PACKAGE_TYPES
from galaxy_express.storage.checkpoints import INTERVAL_SECONDS, Checkpoints
from galaxy_express.storage.database import Database
from galaxy_express.storage.errors import DatabaseUnavailable
from galaxy_express.storage.sqlite.database import SQLiteDatabase
from tests.backends import Backend, SQLiteBackend
from tests.conftest import OpenDatabase
from tests.integration.conftest import MakeDesk
from tests.integration.values import describe, package, send

IDS = ("first", "second", "third")

#: Returns which of the packages are in the database file itself, ignoring its write-ahead log.
InFile = Callable[[], set[str]]


@pytest.fixture
def backend(sqlite: SQLiteBackend) -> Backend:
    """SQLite only."""
    return sqlite


@pytest.fixture
def in_file(sqlite: SQLiteBackend) -> InFile:
    """Look for the ids in the bytes of the database file."""

    def look() -> set[str]:
        content = sqlite.path.read_bytes()
        return {package_id for package_id in IDS if package_id.encode() in content}

    return look


def test_checkpoint_copies_committed_packages(
    database: Database, desk: DeliveryDesk, in_file: InFile
) -> None:
    """Committed packages are in the log at first, and in the file itself after a checkpoint."""
    send(desk, package("first"))
    assert in_file() == set()
    database.checkpoint()
    assert in_file() == {"first"}


def test_checkpoint_and_write_do_not_block_each_other(
    sqlite: SQLiteBackend, database: Database, desk: DeliveryDesk, in_file: InFile
) -> None:
    """A checkpoint succeeds while another process writes."""
    send(desk, package("first"))
    with sqlite.locked():
        database.checkpoint()
        assert in_file() == {"first"}


def test_checkpoint_while_the_file_is_missing(
    sqlite: SQLiteBackend, database: Database, desk: DeliveryDesk, in_file: InFile
) -> None:
    """A checkpoint fails while the file is missing, creates no new one, and succeeds later."""
    send(desk, package("first"))
    database.checkpoint()
    send(desk, package("second"))
    with sqlite.unavailable():
        with pytest.raises(DatabaseUnavailable):
            database.checkpoint()
        assert not sqlite.path.exists()
    assert in_file() == {"first"}
    assert [describe(outcome) for outcome in send(desk, package("second"))] == ["delivered again"]
    database.checkpoint()
    assert in_file() == {"first", "second"}


def run_during_checkpoint(database: Database, action: Callable[[], object]) -> None:
    """Run a checkpoint, and an action after it has started but before it reads the log."""
    assert isinstance(database, SQLiteDatabase)
    # There is no public way to run code between its statements.
    connection = database._checkpoint_connection.get()._raw  # noqa: SLF001
    connection.set_trace_callback(lambda _: action())
    database.checkpoint()
    connection.set_trace_callback(None)


def test_log_is_not_restarted_during_a_checkpoint(
    sqlite: SQLiteBackend, database: Database, make_desk: MakeDesk, in_file: InFile
) -> None:
    """If another process checkpoints the whole log and commits during a checkpoint, its commit is
    appended: SQLite could take a commit at the start of the log for already checkpointed."""
    desk = make_desk()
    send(desk, package("first"))
    log = sqlite.path.with_name(f"{sqlite.path.name}-wal")
    header = log.read_bytes()[:32]

    def checkpoint_and_commit() -> None:
        assert sqlite.rows("PRAGMA wal_checkpoint(PASSIVE)")[0][0] == 0
        send(desk, package("second"))

    run_during_checkpoint(database, checkpoint_and_commit)
    assert log.read_bytes()[:32] == header
    send(desk, package("third"))
    database.checkpoint()
    assert in_file() == set(IDS)


def test_restarted_log_is_left_to_the_next_checkpoint(
    database: Database, make_desk: MakeDesk, in_file: InFile
) -> None:
    """If the whole log was checkpointed already, a commit by another process during a checkpoint is
    left to the next one: SQLite could be wrong about how much of it was checkpointed."""
    desk = make_desk()
    send(desk, package("first"))
    database.checkpoint()
    run_during_checkpoint(database, lambda: send(desk, package("second")))
    assert in_file() == {"first"}
    database.checkpoint()
    assert in_file() == {"first", "second"}


def test_commits_trigger_checkpoints(
    database: Database, desk: DeliveryDesk, in_file: InFile
) -> None:
    """The first of several commits in quick succession triggers a checkpoint; the others share a
    later one."""
    checkpoints = Checkpoints(database)
    started = time.monotonic()
    send(desk, package("first"))
    checkpoints.note_commit()
    wait_until(lambda: in_file() == {"first"})
    for name in ("second", "third"):
        send(desk, package(name))
        checkpoints.note_commit()
    gevent.sleep(INTERVAL_SECONDS / 4)
    assert in_file() == {"first"} or time.monotonic() - started > INTERVAL_SECONDS
    gevent.sleep(INTERVAL_SECONDS)
    checkpoints.note_commit()
    wait_until(lambda: in_file() == set(IDS))
    checkpoints.close()


def test_failing_checkpoints_are_counted_and_logged_once(
    sqlite: SQLiteBackend,
    database: Database,
    desk: DeliveryDesk,
    in_file: InFile,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Failing checkpoints are counted and retried, and only the first failure is logged."""
    checkpoints = Checkpoints(database)
    send(desk, package("first"))
    before = failures()
    with sqlite.unavailable():
        for number in range(1, 4):
            wait_until(lambda: not checkpoints.is_waiting())
            checkpoints.note_commit()
            wait_until(partial(have_failed, before + number))
    wait_until(lambda: not checkpoints.is_waiting())
    with caplog.at_level("INFO"):
        checkpoints.note_commit()
        wait_until(lambda: in_file() == {"first"})
        wait_until(lambda: "Checkpoints succeed again, after 3 failures" in caplog.text)
    assert caplog.text.count("Checkpoints fail, and the log grows") == 1
    checkpoints.close()


def have_failed(number: float) -> bool:
    """Return whether this number of checkpoints has failed."""
    return failures() == number


def failures() -> float:
    """The number of failed checkpoints."""
    return REGISTRY.get_sample_value("galaxy_express_checkpoint_failures_total") or 0


# The log during a long read

LIMIT = 64 * 1024


@pytest.fixture
def small_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small size limit for the log."""
    monkeypatch.setattr("galaxy_express.storage.sqlite.database.LOG_BYTES", LIMIT)


@pytest.fixture
def log(sqlite: SQLiteBackend) -> Path:
    """The file of the log."""
    return sqlite.path.with_name(f"{sqlite.path.name}-wal")


@contextmanager
def long_reader(database: Database) -> Iterator[None]:
    """A read transaction that stays open while ten large groups of packages are committed."""
    desk = DeliveryDesk(database, PACKAGE_TYPES)
    with database.snapshot() as reader:
        reader.exec_driver_sql("SELECT count(*) FROM packages").scalar_one()
        for number in range(10):
            send(desk, *(package(f"{number}-{n}-{'x' * 200}") for n in range(50)))
        yield


@pytest.mark.usefixtures("small_log")
def test_commits_after_a_long_read_shrink_the_log(
    database: Database, desk: DeliveryDesk, log: Path
) -> None:
    """After a long read, the next commits shrink the log to its limit."""
    with long_reader(database):
        assert log.stat().st_size > 4 * LIMIT
    database.checkpoint()
    send(desk, package("one more"))
    assert log.stat().st_size <= LIMIT


@pytest.mark.usefixtures("small_log")
def test_log_is_emptied_after_a_long_read(
    sqlite: SQLiteBackend, database: Database, log: Path
) -> None:
    """Without commits, an oversized log is emptied after the read has ended, but not before."""
    with long_reader(database):
        size = log.stat().st_size
        database.shrink_log()
        assert log.stat().st_size == size > 4 * LIMIT
    database.shrink_log()
    assert log.stat().st_size == 0
    assert sqlite.stored() == {("delivered", "personal"): 500}


@pytest.mark.usefixtures("small_log")
def test_log_within_its_limit_is_kept(database: Database, desk: DeliveryDesk, log: Path) -> None:
    """A log below its limit isn't emptied, since the next commits reuse it."""
    send(desk, package())
    size = log.stat().st_size
    database.shrink_log()
    assert log.stat().st_size == size > 0


@pytest.mark.usefixtures("small_log")
def test_idle_service_empties_the_log(
    monkeypatch: pytest.MonkeyPatch, database: Database, log: Path
) -> None:
    """The log is emptied automatically after some time without commits."""
    monkeypatch.setattr("galaxy_express.storage.checkpoints.IDLE_SECONDS", 0.05)
    with long_reader(database):
        pass
    with closing(Checkpoints(database)):
        wait_until(lambda: log.stat().st_size == 0)


@pytest.mark.usefixtures("small_log")
def test_log_is_not_emptied_during_a_write(
    sqlite: SQLiteBackend, open_database: OpenDatabase, log: Path
) -> None:
    """While another process writes, the log isn't emptied, and the attempt returns immediately,
    whatever the lock timeout of writes."""
    database = open_database({"database.lock_timeout": "1 minute"})
    create_schema(sqlite.config)
    with long_reader(database):
        pass
    with sqlite.transaction() as writer:
        writer.execute("DELETE FROM packages WHERE package_id LIKE '9-%'")
        started = time.monotonic()
        database.shrink_log()
        assert time.monotonic() < started + 30
    assert log.stat().st_size > 4 * LIMIT
    assert sqlite.stored() == {("delivered", "personal"): 450}
    database.shrink_log()
    assert log.stat().st_size == 0
    assert sqlite.stored() == {("delivered", "personal"): 450}


@pytest.mark.usefixtures("small_log")
def test_commit_just_before_the_log_is_emptied(
    sqlite: SQLiteBackend, database: Database, make_desk: MakeDesk, log: Path
) -> None:
    """If another process commits just before the log is emptied, the log is kept and the commit
    isn't lost."""
    desk = make_desk()
    with long_reader(database):
        pass

    def commit(statement: str) -> None:
        if "TRUNCATE" in statement:
            send(desk, package("first"))

    assert isinstance(database, SQLiteDatabase)
    connection = database._checkpoint_connection.get()._raw  # noqa: SLF001 - as above
    connection.set_trace_callback(commit)
    database.shrink_log()
    connection.set_trace_callback(None)
    assert log.stat().st_size > 0
    assert sqlite.rows("SELECT package_id FROM packages WHERE package_id = 'first'")
    send(desk, package("second"))
    database.checkpoint()
    assert sqlite.stored() == {("delivered", "personal"): 502}
    assert sqlite.rows("PRAGMA integrity_check") == [("ok",)]


def wait_until(condition: Callable[[], bool]) -> None:
    """Let other threads and greenlets run until a condition holds."""
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.01)

"""Background checkpoints, which only SQLite has."""

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
from galaxy_express.storage.database import Database, DatabaseUnavailable
from galaxy_express.storage.sqlite import SQLiteDatabase
from tests.backends import Backend, SQLiteBackend
from tests.conftest import OpenDatabase
from tests.integration.conftest import MakeDesk
from tests.integration.values import in_words, package, send

IDS = ("first", "second", "third")

#: Tells which of the packages are in the database's file, whatever is in the log beside it.
Moved = Callable[[], set[str]]


@pytest.fixture
def backend(sqlite: SQLiteBackend) -> Backend:
    """SQLite alone."""
    return sqlite


@pytest.fixture
def moved(sqlite: SQLiteBackend) -> Moved:
    """Look for ids in the bytes of the file."""

    def look() -> set[str]:
        content = sqlite.path.read_bytes()
        return {package_id for package_id in IDS if package_id.encode() in content}

    return look


def test_a_checkpoint_moves_what_was_committed(
    database: Database, desk: DeliveryDesk, moved: Moved
) -> None:
    """What was committed is in the log at first, and afterwards in the file itself."""
    send(desk, package("first"))
    assert moved() == set()
    database.checkpoint()
    assert moved() == {"first"}


def test_a_checkpoint_and_a_write_do_not_wait_for_each_other(
    sqlite: SQLiteBackend, database: Database, desk: DeliveryDesk, moved: Moved
) -> None:
    """What is committed can be moved while another process writes."""
    send(desk, package("first"))
    with sqlite.locked():
        database.checkpoint()
        assert moved() == {"first"}


def test_a_checkpoint_while_the_file_is_away(
    sqlite: SQLiteBackend, database: Database, desk: DeliveryDesk, moved: Moved
) -> None:
    """A checkpoint fails while the file is missing, makes no other file, and succeeds later."""
    send(desk, package("first"))
    database.checkpoint()
    send(desk, package("second"))
    with sqlite.away():
        with pytest.raises(DatabaseUnavailable):
            database.checkpoint()
        assert not sqlite.path.exists()
    assert moved() == {"first"}
    assert [in_words(outcome) for outcome in send(desk, package("second"))] == ["delivered again"]
    database.checkpoint()
    assert moved() == {"first", "second"}


def at_the_start_of_a_checkpoint(database: Database, do: Callable[[], object]) -> None:
    """Make a checkpoint, and do something when it has begun and before it looks at the log."""
    assert isinstance(database, SQLiteDatabase)
    connection = database._checkpoint_connection.get()._raw
    connection.set_trace_callback(lambda _: do())
    database.checkpoint()
    connection.set_trace_callback(None)


def test_a_log_that_has_been_moved_is_not_begun_anew_during_a_checkpoint(
    sqlite: SQLiteBackend, database: Database, make_desk: MakeDesk, moved: Moved
) -> None:
    """Another process moves all of the log and commits, while this one makes a checkpoint:
    the commit goes to the log's end, since SQLite may take it for moved at its beginning."""
    desk = make_desk()
    send(desk, package("first"))
    log = sqlite.path.with_name(f"{sqlite.path.name}-wal")
    header = log.read_bytes()[:32]

    def move_and_commit() -> None:
        assert sqlite.rows("PRAGMA wal_checkpoint(PASSIVE)")[0][0] == 0
        send(desk, package("second"))

    at_the_start_of_a_checkpoint(database, move_and_commit)
    assert log.read_bytes()[:32] == header
    send(desk, package("third"))
    database.checkpoint()
    assert moved() == set(IDS)


def test_nothing_is_moved_from_a_log_that_is_begun_anew(
    database: Database, make_desk: MakeDesk, moved: Moved
) -> None:
    """Where all has been moved already, a checkpoint leaves to the next one what another
    process commits meanwhile: SQLite may mistake how much of that has been moved."""
    desk = make_desk()
    send(desk, package("first"))
    database.checkpoint()
    at_the_start_of_a_checkpoint(database, lambda: send(desk, package("second")))
    assert moved() == {"first"}
    database.checkpoint()
    assert moved() == {"first", "second"}


def test_commits_bring_checkpoints_about(
    database: Database, desk: DeliveryDesk, moved: Moved
) -> None:
    """Of commits that follow each other closely the first is moved; those after it are
    moved together, some time later."""
    checkpoints = Checkpoints(database)
    began = time.monotonic()
    send(desk, package("first"))
    checkpoints.note_commit()
    wait_until(lambda: moved() == {"first"})
    for name in ("second", "third"):
        send(desk, package(name))
        checkpoints.note_commit()
    gevent.sleep(INTERVAL_SECONDS / 4)
    assert moved() == {"first"} or time.monotonic() - began > INTERVAL_SECONDS
    gevent.sleep(INTERVAL_SECONDS)
    checkpoints.note_commit()
    wait_until(lambda: moved() == set(IDS))
    checkpoints.close()


def test_failing_checkpoints_are_counted_and_logged_once(
    sqlite: SQLiteBackend,
    database: Database,
    desk: DeliveryDesk,
    moved: Moved,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Checkpoints that fail are counted, the first one is logged, and they are tried again."""
    checkpoints = Checkpoints(database)
    send(desk, package("first"))
    before = failures()
    with sqlite.away():
        for number in range(1, 4):
            wait_until(lambda: not checkpoints.is_waiting())
            checkpoints.note_commit()
            wait_until(partial(have_failed, before + number))
    wait_until(lambda: not checkpoints.is_waiting())
    with caplog.at_level("INFO"):
        checkpoints.note_commit()
        wait_until(lambda: moved() == {"first"})
        wait_until(lambda: "Checkpoints succeed again, after 3 failures" in caplog.text)
    assert caplog.text.count("Checkpoints fail, and the log grows") == 1
    checkpoints.close()


def have_failed(number: float) -> bool:
    """Return whether so many checkpoints have failed."""
    return failures() == number


def failures() -> float:
    """How many checkpoints have failed."""
    return REGISTRY.get_sample_value("galaxy_express_checkpoint_failures_total") or 0


# The log beside a long reader

LIMIT = 64 * 1024


@pytest.fixture
def small_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of the log that is soon exceeded."""
    monkeypatch.setattr("galaxy_express.storage.sqlite.LOG_BYTES", LIMIT)


@pytest.fixture
def log(sqlite: SQLiteBackend) -> Path:
    """The file of the log."""
    return sqlite.path.with_name(f"{sqlite.path.name}-wal")


@contextmanager
def long_reader(database: Database) -> Iterator[None]:
    """A read that is held while ten large groups of packages are committed."""
    desk = DeliveryDesk(database, PACKAGE_TYPES)
    with database.snapshot() as reader:
        reader.exec_driver_sql("SELECT count(*) FROM packages").scalar_one()
        for number in range(10):
            send(desk, *(package(f"{number}-{n}-{'x' * 200}") for n in range(50)))
        yield


@pytest.mark.usefixtures("small_log")
def test_commits_shrink_a_log_that_a_long_reader_let_grow(
    database: Database, desk: DeliveryDesk, log: Path
) -> None:
    """After a long read, the next commits bring the log back below its limit."""
    with long_reader(database):
        assert log.stat().st_size > 4 * LIMIT
    database.checkpoint()
    send(desk, package("one more"))
    assert log.stat().st_size <= LIMIT


@pytest.mark.usefixtures("small_log")
def test_a_log_that_a_long_reader_let_grow_is_emptied(
    sqlite: SQLiteBackend, database: Database, log: Path
) -> None:
    """Without commits, the log is emptied when the read has ended, and not before."""
    with long_reader(database):
        size = log.stat().st_size
        database.shrink_log()
        assert log.stat().st_size == size > 4 * LIMIT
    database.shrink_log()
    assert log.stat().st_size == 0
    assert sqlite.stored() == {("delivered", "personal"): 500}


@pytest.mark.usefixtures("small_log")
def test_a_log_of_ordinary_size_is_left_alone(
    database: Database, desk: DeliveryDesk, log: Path
) -> None:
    """A log below its limit stays, since the next commits need it again."""
    send(desk, package())
    size = log.stat().st_size
    database.shrink_log()
    assert log.stat().st_size == size > 0


@pytest.mark.usefixtures("small_log")
def test_the_log_is_emptied_while_nothing_is_committed(
    monkeypatch: pytest.MonkeyPatch, database: Database, log: Path
) -> None:
    """A service that has been idle for a while empties its log by itself."""
    monkeypatch.setattr("galaxy_express.storage.checkpoints.IDLE_SECONDS", 0.05)
    with long_reader(database):
        pass
    with closing(Checkpoints(database)):
        wait_until(lambda: log.stat().st_size == 0)


@pytest.mark.usefixtures("small_log")
def test_a_log_is_not_emptied_beside_a_writer(
    sqlite: SQLiteBackend, open_database: OpenDatabase, log: Path
) -> None:
    """While another process writes, the log stays, and nobody waits, whatever the time that writes
    wait."""
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
def test_a_commit_just_before_the_log_is_emptied(
    sqlite: SQLiteBackend, database: Database, make_desk: MakeDesk, log: Path
) -> None:
    """Another process commits to the beginning of the log when it is about to be emptied: the log
    stays, and the commit is not lost."""
    desk = make_desk()
    with long_reader(database):
        pass

    def commit(statement: str) -> None:
        if "TRUNCATE" in statement:
            send(desk, package("first"))

    assert isinstance(database, SQLiteDatabase)
    connection = database._checkpoint_connection.get()._raw
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
    """Let the threads run until it is so."""
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.01)

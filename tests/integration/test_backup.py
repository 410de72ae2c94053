"""Backups of a running service."""

import resource
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from galaxy_express.desk import DeliveryDesk
from galaxy_express.ops.backup import back_up
from galaxy_express.storage.database import Database
from tests.backends import Backend, SQLiteBackend
from tests.integration.values import package, send


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_backup_is_complete(
    backend: Backend, database: Database, desk: DeliveryDesk, tmp_path: Path
) -> None:
    """A backup is a single file with every decision, including those only in the log so far."""
    send(desk, *(package(str(number)) for number in range(100)))
    copy = tmp_path / "copy.db"
    with backend.transaction("ROLLBACK"):  # a write by another process
        back_up(backend.config, [str(copy)])
    assert SQLiteBackend(copy).stored() == {("delivered", "personal"): 100}
    assert not list(tmp_path.glob("copy.db?*"))
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_backup_does_not_overwrite_files(
    backend: Backend, database: Database, tmp_path: Path
) -> None:
    """A path that exists or isn't writable is rejected with a one-line message."""
    taken = tmp_path / "taken"
    taken.write_text("kept")
    with pytest.raises(SystemExit, match="already exists"):
        back_up(backend.config, [str(taken)])
    assert taken.read_text() == "kept"
    with pytest.raises(SystemExit, match="can't be written"):
        back_up(backend.config, [str(tmp_path / "no-such-folder" / "copy.db")])
    for length in (255, 256):
        with pytest.raises(SystemExit, match=r"can't be written: .*File name too long"):
            back_up(backend.config, [str(tmp_path / ("x" * length))])
    with pytest.raises(SystemExit, match="TO="):
        back_up(backend.config, [""])


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_unfinished_backup_is_kept(backend: Backend, database: Database, tmp_path: Path) -> None:
    """A backup doesn't remove the unfinished copy of another one, which may still be running."""
    unfinished = tmp_path / "copy.db.part"
    unfinished.write_text("kept")
    for _ in range(2):
        with pytest.raises(SystemExit, match=r"copy\.db\.part already exists"):
            back_up(backend.config, [str(tmp_path / "copy.db")])
        assert unfinished.read_text() == "kept"


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_copy_that_cannot_be_written(
    backend: Backend, desk: DeliveryDesk, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """If the copy becomes too large, for its disk for example, the error doesn't blame the
    database, and nothing remains."""
    send(desk, *(package(str(number)) for number in range(1000)))
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    request.addfinalizer(lambda: signal.signal(signal.SIGXFSZ, ignored))
    request.addfinalizer(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, unlimited))
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, unlimited[1]))
    with pytest.raises(SystemExit, match=r"^Copying .* to .*copy\.db\.part failed: "):
        back_up(backend.config, [str(tmp_path / "copy.db")])
    assert not list(tmp_path.glob("copy.db*"))


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_backup_of_a_locked_database(
    backend: SQLiteBackend, database: Database, tmp_path: Path
) -> None:
    """If another program has locked the database, the backup fails instead of waiting forever."""
    database.close()  # the last connection: the other program can lock the whole file
    with closing(sqlite3.connect(backend.path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        config = backend.config | {"database.lock_timeout": "100 milliseconds"}
        with pytest.raises(SystemExit, match=r"is unavailable: database is locked$"):
            back_up(config, [str(tmp_path / "copy.db")])
    assert not list(tmp_path.glob("copy.db*"))


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_inconsistent_backup_is_removed(
    backend: Backend, database: Database, desk: DeliveryDesk, tmp_path: Path
) -> None:
    """A copy that fails its audit is removed, and the error says why."""
    send(desk, package())
    backend.rows("UPDATE counters SET value = 7")
    copy = tmp_path / "copy.db"
    with pytest.raises(SystemExit, match="The copy has problems"):
        back_up(backend.config, [str(copy)])
    assert not list(tmp_path.glob("copy.db*"))


def test_backup_of_postgresql(backend: Backend, database: Database) -> None:
    """On PostgreSQL the command fails and recommends pg_dump."""
    if not isinstance(backend, SQLiteBackend):
        with pytest.raises(SystemExit, match="pg_dump"):
            back_up(backend.config, ["copy.db"])

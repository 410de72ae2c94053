"""SQLite files that don't match their log, or were overwritten, are detected and not used."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from galaxy_express.desk import DeliveryDesk
from galaxy_express.models import create_schema
from galaxy_express.ops.audit import audit
from galaxy_express.storage import queries
from galaxy_express.storage.connect import database_from_config
from galaxy_express.storage.database import Database
from galaxy_express.storage.errors import DatabaseUnavailable
from tests.backends import Backend, SQLiteBackend
from tests.conftest import OpenDatabase
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


def use(database: Database) -> None:
    """Read and write."""
    read_totals(database)
    with database.transaction():
        pass


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


def test_backup_of_the_same_size_next_to_old_log(
    sqlite: SQLiteBackend, database: Database, grow: Grow
) -> None:
    """A backup next to a log that lacks commits between them isn't used, even if the database
    didn't grow in between."""
    grow(50)
    database.checkpoint()
    backup = sqlite.path.with_name("backup.db")
    copy(sqlite.path, backup)
    for _ in range(2):  # the second time restarts the log
        use(database)
        restored = crashed(sqlite)
        database.checkpoint()
    copy(backup, restored.path)
    with closing(database_from_config(restored.config)) as other:
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable, match="was overwritten"):
                read_totals(other)


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


# Does what the program sqlite3 does, which may not be installed.
SQLITE = (
    sys.executable,
    "-c",
    """
import sqlite3, sys
path, command = sys.argv[1:]
connection = sqlite3.connect(path)
name, _, other = command.partition(" ")
if name == ".backup":
    connection.backup(sqlite3.connect(other))
elif name == ".restore":
    sqlite3.connect(other).backup(connection)
else:
    connection.executescript(command)
""",
)


def online_backup(database: Path, to: Path) -> None:
    """Copy a database with SQLite's online backup, which copies page by page."""
    subprocess.run([*SQLITE, database, f".backup {to}"], check=True)


def vacuum_into(database: Path, to: Path) -> None:
    """Copy a database with ``VACUUM INTO``, which moves rows to other pages."""
    subprocess.run([*SQLITE, database, f"VACUUM INTO '{to}'"], check=True)


#: Makes a backup of a database.
BackUp = Callable[[Path, Path], None]

# The variables are the paths of a backup and of the database.
OVERWRITE = {
    "cp": 'cp "$backup" "$database"',
    "cp -p": 'cp -p "$backup" "$database"',
    "without truncating": 'dd if="$backup" of="$database" conv=notrunc',
    "same size": 'truncate -r "$database" "$backup"; cp "$backup" "$database"',
    "same size and time": (
        'truncate -r "$database" "$backup"; cp -p "$database" "$backup.time"'
        '; cp "$backup" "$database"; touch -r "$backup.time" "$database"'
    ),
    "larger": 'truncate -s +1M "$backup"; cp "$backup" "$database"',
}


@pytest.mark.parametrize("overwrite", OVERWRITE.values(), ids=OVERWRITE)
@pytest.mark.parametrize("back_up", [copy, online_backup, vacuum_into])
@pytest.mark.parametrize("state", ["copied", "partly copied", "not copied", "empty"])
def test_overwritten_file_is_noticed_by_all_processes(
    sqlite: SQLiteBackend,
    database: Database,
    open_database: OpenDatabase,
    grow: Grow,
    back_up: BackUp,
    overwrite: str,
    state: str,
) -> None:
    """A file that was overwritten with a backup is noticed, however it was overwritten, however
    much of the log had been copied, and also by processes that were idle before."""
    grow(50)
    idle = open_database()
    use(idle)
    database.checkpoint()
    backup = sqlite.path.with_name("backup.db")
    back_up(sqlite.path, backup)
    grow(1)  # restarts the log
    database.checkpoint()
    grow(50)
    if state in ("copied", "empty"):
        database.checkpoint()
    if state == "partly copied":
        with idle.snapshot() as reader:
            reader.exec_driver_sql("SELECT count(*) FROM packages").scalar_one()
            grow(1)
            database.checkpoint()
    if state == "empty":
        assert sqlite.rows("PRAGMA wal_checkpoint(TRUNCATE)") == [(0, 0, 0)]
        use(idle)  # only a process that has seen the file knows its content
    script(overwrite, sqlite.path, backup)
    with pytest.raises(DatabaseUnavailable, match="overwritten while it was in use"):
        read_totals(idle)
    with pytest.raises(DatabaseUnavailable, match="overwritten while it was in use"):
        grow(1)
    with pytest.raises(DatabaseUnavailable, match="overwritten while it was in use"):
        database.checkpoint()


def script(commands: str, database: Path, backup: Path | None = None) -> None:
    """Run a shell script in another process: closing a file here releases this process's locks."""
    function = f'sqlite() {{ {shlex.join(SQLITE)} "$@"; }}'
    variables = {"database": str(database), "backup": str(backup), "PATH": os.environ["PATH"]}
    run = ["sh", "-ec", f"{function}\n{commands}"]
    subprocess.run(run, env=variables, check=True, stderr=subprocess.PIPE)


def test_backup_is_noticed_in_a_long_log(
    sqlite: SQLiteBackend, database: Database, grow: Grow, backup: SQLiteBackend
) -> None:
    """The whole index of the log is read: the database is used until it is overwritten."""
    for _ in range(1500):
        grow(1)
    assert log_of(sqlite).stat().st_size > 2 * 4096 * 2048
    database.checkpoint()
    assert read_totals(database) == 1550
    grow(1)
    database.checkpoint()
    script(OVERWRITE["larger"], sqlite.path, backup.path)
    with pytest.raises(DatabaseUnavailable, match="overwritten while it was in use"):
        read_totals(database)


LOSE = {
    "log": 'rm "$database-wal"',
    "index": 'rm "$database-shm"',
    "both": 'rm "$database-wal" "$database-shm"',
    "moved": 'mv "$database-wal" "$database.away"',
    "replaced": 'cp "$database-wal" "$database.new"; mv "$database.new" "$database-wal"',
    "index replaced": 'cp "$database-shm" "$database.new"; mv "$database.new" "$database-shm"',
    "emptied": ': > "$database-wal"',
    "overwritten": 'head -c 1000000 /dev/zero > "$database-wal"',
}


@pytest.mark.parametrize("lose", LOSE.values(), ids=LOSE)
def test_lost_log_is_noticed_by_all_processes(
    sqlite: SQLiteBackend, database: Database, open_database: OpenDatabase, grow: Grow, lose: str
) -> None:
    """If the log or its index was deleted, replaced or overwritten, no process uses the database,
    not even one that was started afterwards."""
    idle = open_database()
    use(idle)
    grow(50)
    script(lose, sqlite.path)
    with pytest.raises(DatabaseUnavailable, match="decisions may be lost: stop the service"):
        grow(1)
    for other in idle, open_database():
        with pytest.raises(DatabaseUnavailable, match="decisions may be lost"):
            read_totals(other)
        with pytest.raises(DatabaseUnavailable, match="decisions may be lost"), other.transaction():
            pass


def test_symbolic_link(sqlite: SQLiteBackend, database: Database) -> None:
    """The log is next to the file itself, not next to a link to it."""
    link = SQLiteBackend(sqlite.path.with_name("link.db"))
    link.path.symlink_to(sqlite.path)
    with closing(database_from_config(link.config)) as linked:
        use(linked)
        script(LOSE["log"], sqlite.path)
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable, match="decisions may be lost"):
                use(linked)
    with pytest.raises(DatabaseUnavailable, match="decisions may be lost"):
        use(database)


# In one process, which is never away for long, however busy the machine is.
MOVE_FOR_A_SECOND = """
import os, sys, time
path, end = sys.argv[1], time.monotonic() + 1
while time.monotonic() < end:
    os.rename(path, f"{path}.away")
    os.rename(f"{path}.away", path)
"""


def test_log_that_is_missing_for_a_moment(sqlite: SQLiteBackend, database: Database) -> None:
    """The database stays in use if all its files are moved away and back, one after another, and
    the file is there before its log."""
    use(database)
    with subprocess.Popen([sys.executable, "-c", MOVE_FOR_A_SECOND, log_of(sqlite)]) as moving:
        while moving.poll() is None:
            use(database)
    assert moving.returncode == 0
    use(database)


@pytest.mark.parametrize("lose", ["log", "index", "both", "moved"])
def test_stopping_saves_a_lost_log(
    sqlite: SQLiteBackend, database: Database, open_database: OpenDatabase, grow: Grow, lose: str
) -> None:
    """The processes that had the log open copy it into the file when they stop, so nothing is lost
    although it was deleted."""
    idle = open_database()
    use(idle)
    grow(50)
    script(LOSE[lose], sqlite.path)
    with pytest.raises(DatabaseUnavailable):
        grow(1)
    database.close()
    idle.close()
    sqlite.path.with_name(f"{sqlite.path.name}-unusable").unlink()
    assert audit(database).problems == []
    assert read_totals(database) == 50


UNHARMFUL = {
    "touch": 'touch "$database" "$database-wal" "$database-shm"',
    "times": 'touch -d 2001-01-01 "$database"',
    "mode": 'chmod 600 "$database"',
    "other files": ': > "$database.other"; rm "$database.other"',
    "passive": 'sqlite "$database" "PRAGMA wal_checkpoint(PASSIVE)"',
    "restart": 'sqlite "$database" "PRAGMA wal_checkpoint(RESTART)"',
    "truncate": 'sqlite "$database" "PRAGMA wal_checkpoint(TRUNCATE)"',
    "delete": 'sqlite "$database" "DELETE FROM packages WHERE rowid % 2"',
    "vacuum": 'sqlite "$database" "DELETE FROM packages WHERE rowid % 2; VACUUM"',
    "index": 'sqlite "$database" "CREATE INDEX IF NOT EXISTS other ON packages (sender_id)"',
    "restore": 'sqlite "$database" ".restore $backup"',
    "backup": 'sqlite "$database" ".backup $database.other"; cp "$database" "$database.copy"',
}


@pytest.mark.parametrize("change", UNHARMFUL.values(), ids=UNHARMFUL)
def test_other_programs_may_use_the_database(
    sqlite: SQLiteBackend,
    database: Database,
    open_database: OpenDatabase,
    grow: Grow,
    backup: SQLiteBackend,
    change: str,
) -> None:
    """The database stays in use if other programs change it through SQLite, or don't change its
    content."""
    idle = open_database()
    for _ in range(2):
        grow(20)
        script(change, sqlite.path, backup.path)
        for step in database.checkpoint, lambda: None:
            grow(20)
            step()
            use(idle)
            use(database)


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

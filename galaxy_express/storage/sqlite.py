"""SQLite in a file: one machine, any number of processes."""

import fcntl
import json
import os
import re
import sqlite3
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from datetime import timedelta
from functools import cache, partial
from itertools import chain, repeat
from pathlib import Path
from stat import S_ISREG
from typing import Any
from urllib.parse import quote

import sqlalchemy.engine
from sqlalchemy import CheckConstraint, Table, create_engine, event, exc
from sqlalchemy.engine import URL, Engine
from sqlalchemy.schema import ColumnCollectionConstraint

from galaxy_express.models import metadata_for
from galaxy_express.storage.database import (
    LAST_SEQUENCE,
    AlteredSchema,
    Connection,
    DamagedFiles,
    Database,
    DatabaseUnavailable,
    ErrorTranslation,
    NotRecorded,
    PersistentConnection,
    RejectedRow,
    Row,
    SchemaMismatch,
    in_a_line,
)
from galaxy_express.storage.sqlite_files import (
    Identity,
    OpenFiles,
    identify,
    next_number,
    recorded_fault,
)
from galaxy_express.storage.sqlite_log import lacks_pages
from galaxy_express.storage.sqlite_statements import STATEMENTS

_TABLES = metadata_for("sqlite").tables


class SQLiteConnection(Connection):
    """A connection to an SQLite file.

    :param path: the path of the file.
    :param identity: the identity of the file before it was opened.
    """

    statements = STATEMENTS

    def __init__(self, raw: Any, path: str, identity: Identity) -> None:
        super().__init__(raw)
        self._path = path
        self._folder = os.path.dirname(path)
        self._identity = identity
        self._files = OpenFiles(path, identity)
        self._turn: int | None = None
        self._next_sequence = 0
        self._checked_schema: int | None = None

    def find(self, sql: str, keys: Collection[str]) -> list[Row]:
        """See :py:meth:`Connection.find`."""
        ((rows,),) = self.select(sql, (json.dumps(list(keys), ensure_ascii=False),))
        return [tuple(row) for row in json.loads(rows)]

    def insert_packages(self, rows: Sequence[Row]) -> set[str]:
        """See :py:meth:`Connection.insert_packages`."""
        numbered = self._number(rows)
        inserted = self._write(self.statements.insert_packages, numbered)
        if inserted == len(rows):
            return {row[0] for row in rows}
        # The transaction has had the write lock since it began, so the last rows are its own.
        first = numbered[0][0]
        return {package_id for (package_id,) in self.select(_PACKAGES_FROM, (first,))}

    def insert_updates(self, rows: Sequence[Row]) -> int:
        """See :py:meth:`Connection.insert_updates`."""
        return self._write(self.statements.insert_updates, self._number(rows))

    def read_clock(self) -> int:
        """See :py:meth:`Connection.read_clock`."""
        # Sequence numbers follow the clock as well. A client that has read decisions which a
        # restored backup doesn't have would otherwise miss new ones with the same numbers.
        ((last,),) = self.select(_LAST_SEQUENCE)
        now = time.time_ns() // 1000
        self._next_sequence = max(now, last + 1)
        return self._next_sequence

    def _number(self, rows: Sequence[Row]) -> list[Row]:
        first = self._next_sequence
        self._next_sequence += len(rows)
        return [(first + place, *row) for place, row in enumerate(rows)]

    def last_settled(self) -> int:
        """See :py:meth:`Connection.last_settled`. Transactions commit one after another."""
        return LAST_SEQUENCE

    def read_size(self) -> int:
        """See :py:meth:`Connection.read_size`. The log belongs to the database."""
        return _size(self._path) + _size(f"{self._path}-wal")

    def upsert(self, sql: str, rows: Sequence[Row]) -> int:
        """See :py:meth:`Connection.upsert`."""
        return self._write(sql, rows)

    def _write(self, sql: str, rows: Sequence[Row]) -> int:
        # Each execute() releases the GIL and has to win it back, so one statement writes all rows.
        written = 0
        while rows:
            some, rows = rows[:_MOST_ROWS], rows[_MOST_ROWS:]
            number, columns = _rows_per_statement(len(some)), len(some[0])
            missing = repeat(None, (number - len(some)) * columns)
            self.execute(_with_rows(sql, number, columns), (*chain.from_iterable(some), *missing))
            written += self._cursor.rowcount
        return written

    @contextmanager
    def transaction(
        self, lock_timeout: timedelta | None = None, rows: int = 0, names: Collection[str] = ()
    ) -> Iterator[None]:
        """See :py:meth:`Connection.transaction`. There is one lock, for everything."""
        # Processes queue for a lock on a separate file. SQLite's own lock is polled, at growing
        # intervals, while the process that holds it can acquire it again. The data is still
        # protected by SQLite's lock.
        if self._turn is None:
            self._turn = os.open(f"{self._path}-turn", os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        try:
            with super().transaction():
                yield
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)
        self.check_current()

    def _begin(self) -> None:
        # If the write lock were acquired later, data that was read before could have changed.
        self._cursor.execute("BEGIN IMMEDIATE")
        # Makes each state of the file distinguishable; see sqlite_files.
        ((number,),) = self.select("PRAGMA user_version")
        self._cursor.execute(f"PRAGMA user_version={next_number(number)}")

    def close(self) -> None:
        """See :py:meth:`Connection.close`."""
        super().close()
        self._files.close()
        if self._turn is not None:
            os.close(self._turn)

    def check_writable(self) -> None:
        """See :py:meth:`Connection.check_writable`."""
        _check_writable(self._path)
        _check_writable(self._folder)  # the log is in the same folder
        ((schema,),) = self.select("PRAGMA schema_version")
        if schema != self._checked_schema:
            for statement in _EXPLAIN_INSERTS:
                self.select(statement)
            self._checked_schema = schema

    def is_current(self) -> bool:
        """Return whether the path still refers to the open file, and nothing but SQLite has written
        to it or removed its log.

        Writes to an open file that was deleted or replaced succeed, but are lost. Writes to a file
        that was overwritten mix two databases.
        """
        try:
            stat = os.stat(self._path)
        except FileNotFoundError:
            return False
        if (stat.st_dev, stat.st_ino) != self._identity:
            return False
        return self._files.are_intact(stat)

    def check_current(self) -> None:
        """Check :py:meth:`is_current`.

        :raises DatabaseUnavailable: if it isn't.
        """
        if not self.is_current():
            _check_intact(self._path)
            raise DatabaseUnavailable(f"{self._path} was replaced or deleted")


# The size of the log at which SQLite runs a blocking checkpoint. At the default of 4 MB, about half
# as many rows are inserted in the same time. A larger log helps large batches further, and makes
# the wait longer.
LOG_BYTES = 80 * 2**20


# The first connection to open a file, and the last one to close it, lock it for some milliseconds.
# A read that opens a connection waits that long, but while another program keeps the file locked,
# only once a second, since the event loop waits, too.
_OPENING_LOCK_TIMEOUT = timedelta(milliseconds=200)
_OPENING_INTERVAL = 1.0


# The seconds between two checks of the connection for reads.
_CHECK_INTERVAL = 0.001


_PACKAGES_FROM = "SELECT package_id FROM packages WHERE sequence >= ?"
_LAST_SEQUENCE = """
    SELECT max(coalesce((SELECT max(sequence) FROM packages), 0),
               coalesce((SELECT max(sequence) FROM preference_updates), 0))
"""


# Fails for a view, or if a trigger has an error, without running anything. Without QUERY PLAN,
# SQLite 3.40 explains some triggers in bytes that aren't text.
_EXPLAIN_INSERTS = [f"EXPLAIN QUERY PLAN INSERT INTO {table} DEFAULT VALUES" for table in _TABLES]
_ALTERATIONS = "SELECT type, name, tbl_name FROM sqlite_master WHERE type IN ('view', 'trigger')"


# SQLite allows 32,766 parameters.
_MOST_ROWS = 1024


def _rows_per_statement(rows: int) -> int:
    """One of a few numbers, so that the driver's cache has the statement: at most 16, or the next
    power of two."""
    return rows if rows <= 16 else 1 << (rows - 1).bit_length()


@cache
def _with_rows(sql: str, rows: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return sql.format(rows=", ".join([row] * rows))


def _state(path: str) -> tuple[int, ...]:
    """Return values that change when a file is replaced or written to; empty if there is none."""
    with suppress(FileNotFoundError):
        stat = os.stat(path)
        return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
    return ()


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0


class _ReadConnection(PersistentConnection):
    """The connection for reads. It is only checked once per millisecond, since many reads take less
    time than the check."""

    _next_check = 0.0

    def get(self) -> Connection:
        """See :py:meth:`PersistentConnection.get`."""
        now = time.monotonic()
        if self._connection is not None and now < self._next_check:
            return self._connection
        self._next_check = now + _CHECK_INTERVAL
        return super().get()


class _Reading(AbstractContextManager[Connection]):
    """A block that reads on a persistent connection."""

    def __init__(self, persistent: PersistentConnection, translating: ErrorTranslation) -> None:
        self._persistent = persistent
        self._translating = translating

    def __enter__(self) -> Connection:
        with self._translating:
            return self._persistent.get()

    def __exit__(self, *raised: Any) -> None:
        self._translating.__exit__(*raised)


class SQLiteDatabase(Database):
    """SQLite in a file: one machine, any number of processes.

    Write-ahead logging allows reads during a write, ``synchronous=FULL`` syncs the log at each
    commit, and ``BEGIN IMMEDIATE`` acquires the write lock before anything is read, so that the
    data that a transaction has read can't change before it commits.

    :param path: the file; only :py:meth:`schema_transaction` creates it.
    :param lock_timeout: how long to wait for another process's write lock.
    """

    driver_error = sqlite3.Error

    def __init__(self, path: Path, lock_timeout: timedelta) -> None:
        self._path = str(path.absolute())
        self._lock_timeout = lock_timeout
        self._checked: object = None
        self._engine = self._make_engine("rw", lock_timeout)
        self._nonblocking_engine = self._make_engine("rw", timedelta(0))
        self._briefly_waiting_engine = self._make_engine("rw", _OPENING_LOCK_TIMEOUT)
        self._no_waits_until = 0.0
        # Reads run on the event loop, which must not wait for a lock.
        self._read_connection = _ReadConnection(self._connect_nonblocking)
        connect = partial(self._connect, self._engine)
        # TRUNCATE blocks all writes while it waits for readers, so it must not wait.
        self._checkpoint_connection = PersistentConnection(self._connect_nonblocking)
        self._checkpoint_guard = PersistentConnection(connect)
        super().__init__(connect)

    def __str__(self) -> str:
        return f"sqlite:///{self._path}"

    def _connect(self, engine: Engine) -> SQLiteConnection:
        _check_file(self._path)
        identity = identify(self._path)
        connection = SQLiteConnection(engine.raw_connection(), self._path, identity)
        try:
            connection.check_current()
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect_nonblocking(self) -> SQLiteConnection:
        """Open a connection that never waits for a lock, except briefly while it is opened."""
        waits = time.monotonic() >= self._no_waits_until
        engine = self._briefly_waiting_engine if waits else self._nonblocking_engine
        try:
            connection = self._connect(engine)
        except exc.OperationalError:
            if waits:
                self._no_waits_until = time.monotonic() + _OPENING_INTERVAL
            raise
        connection.execute("PRAGMA busy_timeout=0")
        return connection

    def read_connection(self) -> AbstractContextManager[Connection]:
        """See :py:meth:`Database.read_connection`.

        The block must not yield to the event loop: the connection is shared.
        """
        return _Reading(self._read_connection, self._translating_errors(self._read_connection))

    def schema_transaction(self) -> AbstractContextManager[sqlalchemy.engine.Connection]:
        """See :py:meth:`Database.schema_transaction`."""
        return self._administering("rwc", "BEGIN IMMEDIATE")

    def migrating(self) -> AbstractContextManager[sqlalchemy.engine.Connection]:
        """See :py:meth:`Database.migrating`. All migrations are one transaction."""
        return self.schema_transaction()

    def snapshot(
        self, unlimited: bool = False
    ) -> AbstractContextManager[sqlalchemy.engine.Connection]:
        """See :py:meth:`Database.snapshot`."""
        return self._administering("ro", "BEGIN")

    @contextmanager
    def _administering(self, mode: str, begin: str) -> Iterator[sqlalchemy.engine.Connection]:
        engine = self._make_engine(mode, self._lock_timeout)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        try:
            with self._translating_errors():
                _check_file(self._path)
                with engine.begin() as connection:
                    yield connection
        finally:
            engine.dispose()

    def checkpoint(self) -> None:
        """See :py:meth:`Database.checkpoint`."""
        # After the whole log has been copied, the next commit restarts it from the beginning. If
        # that happens at a certain point of another process's checkpoint, SQLite before 3.51.3
        # treats new commits as already copied, and loses them
        # (https://www.sqlite.org/wal.html#walresetbug). So the guard holds a read transaction
        # during the checkpoint. If it reads from the log, no commit can restart the log; if it
        # reads from the file, because everything has been copied, no checkpoint can write to it.
        self._guarded_checkpoint("PASSIVE")  # blocks neither readers nor writers

    def shrink_log(self) -> None:
        """See :py:meth:`Database.shrink_log`."""
        if _size(f"{self._path}-wal") <= LOG_BYTES:
            return
        # TRUNCATE empties a log that has been copied, unless a connection reads from it. It holds
        # SQLite's checkpoint and write locks from before it reads the log until the log is empty,
        # which excludes the bug above: there are no commits and no other checkpoints in this time.
        # If a writer has the lock, SQLite runs a PASSIVE checkpoint instead, which needs the guard.
        # A guard that reads from the log would prevent it from being emptied, so a PASSIVE
        # checkpoint first copies everything: then the guard reads from the file.
        if self._guarded_checkpoint("PASSIVE"):
            self._guarded_checkpoint("TRUNCATE")

    def _guarded_checkpoint(self, mode: str) -> bool:
        """Run a checkpoint, and return whether the whole log has been copied."""
        guard, checkpointer = self._checkpoint_guard, self._checkpoint_connection
        with self._translating_errors(guard, checkpointer):
            reader, writer = guard.get(), checkpointer.get()
            reader.execute("BEGIN")
            reader.select("SELECT count(*) FROM sqlite_master")
            ((is_blocked, frames, copied),) = writer.select(f"PRAGMA wal_checkpoint({mode})")
            reader.execute("ROLLBACK")
            reader.is_current()  # remembers the new state of the file
        return not is_blocked and frames == copied

    def check_integrity(self, connection: sqlalchemy.engine.Connection) -> list[str]:
        """See :py:meth:`Database.check_integrity`."""
        found = list(connection.exec_driver_sql("PRAGMA integrity_check").scalars())
        return [] if found == ["ok"] else found

    def close(self) -> None:
        """See :py:meth:`Database.close`."""
        super().close()
        self._read_connection.close()
        self._checkpoint_connection.close()
        self._checkpoint_guard.close()

    def _translate(self, error: Any) -> Exception:
        reason = in_a_line(error)
        code = getattr(error, "sqlite_errorcode", 0)
        if code & _PRIMARY_CODE in _UNAVAILABLE:
            return DatabaseUnavailable(reason)
        missing = _MISSING.match(reason)
        if missing and missing[1] in _OUR_NAMES:
            return SchemaMismatch(reason)
        if code == sqlite3.SQLITE_CONSTRAINT_TRIGGER:
            return NotRecorded(f"a trigger has raised an error: {reason}")
        if not isinstance(error, sqlite3.IntegrityError):
            return self._find_cause(error)
        # If one of our own constraints was violated, it is a bug.
        violation: Exception = error if reason in _OUR_VIOLATIONS else RejectedRow(reason)
        return violation

    def _find_cause(self, error: Exception) -> Exception:
        """Return why SQLite rejects a statement: the tables were altered, or it is a bug."""
        try:
            with closing(self._connect_nonblocking()) as connection:
                found = connection.select(_ALTERATIONS)
        except (sqlite3.Error, exc.DBAPIError, OSError, DatabaseUnavailable):
            return error
        ours = [(kind, name) for kind, name, table in found if table in _TABLES]
        views = [name for kind, name in ours if kind == "view"]
        if views:
            return AlteredSchema(f"{', '.join(views)} is not a table")
        if ours:
            names = ", ".join(name for _, name in ours)
            return NotRecorded(f"{in_a_line(error)}; does a trigger fail? ({names})")
        return error

    def _make_engine(self, mode: str, timeout: timedelta) -> Engine:
        url = URL.create(
            "sqlite",
            database=f"file:{quote(os.fsencode(self._path))}",
            query={"mode": mode, "uri": "true"},
        )
        engine = create_engine(
            url,
            future=True,
            connect_args={"timeout": timeout.total_seconds(), "check_same_thread": False},
        )
        check_content = self._check_no_log if mode == "rwc" else self._check_not_empty
        event.listen(engine, "do_connect", check_content)
        event.listen(engine, "do_connect", self._check_not_mixed)
        if mode == "rw":
            event.listen(engine, "do_connect", self._check_writable)
        if mode != "ro":
            event.listen(engine, "connect", _set_pragmas)
        return engine

    # None of these checks opens the file: closing it would release all locks of this process on it
    # (https://www.sqlite.org/howtocorrupt.html, section 2.2).

    def _check_not_empty(self, *_: Any) -> None:
        self._check_no_log()
        if not os.path.exists(self._path):
            raise SchemaMismatch(f"there is no file {self._path}")
        if not os.path.getsize(self._path):
            raise SchemaMismatch(f"{self._path} is empty")

    def _check_not_mixed(self, *_: Any) -> None:
        _check_intact(self._path)
        # Unchanged files aren't checked again: in an outage, each request may open a connection.
        state = _state(self._path), _state(f"{self._path}-wal")
        if state == self._checked or not os.path.exists(self._path):
            return
        if lacks_pages(self._path):
            raise OSError(
                f"{self._path} is older than its log, and using it would mix two databases: if it"
                f" is a restored backup, remove {self._path}-wal and {self._path}-shm"
            )
        self._checked = state

    def _check_no_log(self, *_: Any) -> None:
        # SQLite deletes the log of an empty file.
        log = f"{self._path}-wal"
        if not _size(self._path) and _size(log):
            raise OSError(
                f"{self._path} is missing or empty, but its log exists, and may contain the only"
                f" copy of some data: put the file back or, if it is lost for good, remove {log}"
            )

    def _check_writable(self, *_: Any) -> None:
        _check_writable(self._path)  # SQLite would silently open it read-only


def _check_file(path: str) -> None:
    """Check that a file is a regular one, or doesn't exist.

    :raises OSError: if it isn't, or is in a folder that this process may not enter.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    except PermissionError:
        folders = reversed(Path(os.path.realpath(path)).parents)
        closed = next(folder for folder in folders if not os.path.exists(f"{folder}/."))
        raise OSError(f"the permissions of the folder {closed} don't allow entering it") from None
    if not S_ISREG(mode):
        raise OSError(f"{path} is not a regular file")


def _check_intact(path: str) -> None:
    fault = recorded_fault(path)
    if fault:
        raise DamagedFiles(fault)


def _check_writable(path: str) -> None:
    if not os.access(path, os.W_OK):
        raise OSError(f"{path} isn't writable")


# Errors that are temporary, or that an operator has to fix: https://www.sqlite.org/rescode.html.
# The lowest byte of an extended code is its primary code.
_PRIMARY_CODE = 0xFF
_UNAVAILABLE = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOTADB,
}
# SQLite has one code for all errors in SQL. If a name that the schema defines is missing, the
# database has another version; if any other name is missing, the statement is wrong.
_MISSING = re.compile(r"(?:no such (?:table|column): |table .* has no column named )(?:.*\.)?(\w+)")
_OUR_NAMES = {name for table in _TABLES.values() for name in (table.name, *table.columns.keys())}


def _violations(table: Table) -> Iterator[str]:
    """Yield SQLite's messages for violations of the constraints that the schema defines."""
    for column in table.columns:
        if not column.nullable:
            yield f"NOT NULL constraint failed: {column}"
    for constraint in table.constraints:
        if isinstance(constraint, CheckConstraint):
            yield f"CHECK constraint failed: {constraint.name}"
        elif isinstance(constraint, ColumnCollectionConstraint):
            yield f"UNIQUE constraint failed: {', '.join(map(str, constraint.columns))}"


_OUR_VIOLATIONS = set(chain.from_iterable(map(_violations, _TABLES.values())))


def _set_pragmas(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # keeps the driver from beginning transactions
    pragmas = (
        # Only affects new files. Package ids are scattered over the index, so a commit logs nearly
        # one index page per package. Half of the default page size halves the log.
        "page_size=2048",
        # A batch changes more pages than fit into the default of 2 MB; the rest would be logged
        # twice.
        "cache_size=-8192",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    )
    try:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
        ((page_size,),) = connection.execute("PRAGMA page_size")
        connection.execute(f"PRAGMA wal_autocheckpoint={LOG_BYTES // page_size}")
        # A long reader lets the log grow. When the log is restarted, its file shrinks again.
        connection.execute(f"PRAGMA journal_size_limit={LOG_BYTES}")
    except sqlite3.Error:  # for example, if the file is damaged
        connection.close()
        raise

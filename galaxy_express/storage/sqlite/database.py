"""SQLite in a file: one machine, any number of processes."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy.engine
from sqlalchemy import create_engine, event, exc
from sqlalchemy.engine import URL, Engine

from galaxy_express.models import metadata_for
from galaxy_express.storage.database import (
    Connection,
    Database,
    ErrorTranslation,
    PersistentConnection,
)
from galaxy_express.storage.errors import AlteredSchema, DatabaseUnavailable, NotRecorded, in_a_line
from galaxy_express.storage.sqlite.checks import (
    check_file,
    check_intact,
    check_no_log,
    check_not_empty,
    check_not_mixed,
    check_writable,
    size,
    state,
)
from galaxy_express.storage.sqlite.connection import SQLiteConnection
from galaxy_express.storage.sqlite.errors import translate
from galaxy_express.storage.sqlite.files import identify

_TABLES = metadata_for("sqlite").tables

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

_ALTERATIONS = "SELECT type, name, tbl_name FROM sqlite_master WHERE type IN ('view', 'trigger')"


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

    @property
    def _real_path(self) -> str:
        """The path without symbolic links: SQLite's other files are next to the file itself."""
        return os.path.realpath(self._path)

    def _connect(self, engine: Engine) -> SQLiteConnection:
        check_file(self._path)
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
                check_file(self._path)
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
        if size(f"{self._real_path}-wal") <= LOG_BYTES:
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
        return translate(error, self._path) or self._find_cause(error)

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
        event.listen(engine, "do_connect", lambda *_: self._check(mode))
        if mode != "ro":
            event.listen(engine, "connect", _set_pragmas)
        return engine

    def _check(self, mode: str) -> None:
        """Check the file before it is opened."""
        path = self._real_path
        check_no_log(path)
        if mode != "rwc":
            check_not_empty(path)
        check_intact(path)
        # Unchanged files aren't checked again: in an outage, each request may open a connection.
        checked = state(path), state(f"{path}-wal")
        if checked != self._checked and os.path.exists(path):
            check_not_mixed(path)
            self._checked = checked
        if mode == "rw":
            check_writable(path)


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

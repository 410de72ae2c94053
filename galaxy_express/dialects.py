"""All that differs between SQLite and PostgreSQL: connections, timeouts, and how to insert."""

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from baseplate.lib import config
from sqlalchemy import Table, bindparam, create_engine, event, exc, func, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.pool import NullPool

from galaxy_express.database import (
    Database,
    DatabaseUnavailable,
    KeptConnection,
    Row,
    TransactionConflict,
    Upsert,
)
from galaxy_express.settings import parse_settings, positive_integer


class SQLiteDatabase(Database):
    """SQLite in a file: one machine, any number of processes.

    Write-ahead logging lets reads go on during a write, ``synchronous=FULL`` syncs the
    log at each commit, and ``BEGIN IMMEDIATE`` takes the write lock before anything is
    read, so that what a transaction decides on cannot change under it.

    :param path: the file; made by :py:meth:`create`, and never by opening it.
    :param lock_timeout: how long to wait for another process's write lock.
    """

    def __init__(self, path: Path, lock_timeout: timedelta) -> None:
        self._path = path.absolute()
        self._file = str(self._path)
        self._lock_timeout = lock_timeout
        self._read_connection = KeptConnection(
            self._make_engine("rw", isolation_level="AUTOCOMMIT"), self._identify
        )
        writer = self._make_engine("rw")
        event.listen(writer, "begin", _begin_immediate)
        super().__init__(writer)

    def __str__(self) -> str:
        return f"sqlite:///{self._path}"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """See :py:meth:`Database.reading`. It may not be left to wait for anything else."""
        with self._faults_named(self._read_connection):
            yield self._read_connection.get()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """See :py:meth:`Database.writing`."""
        # Processes take turns by a lock on a file beside the database. SQLite alone
        # would poll, ever more slowly, while the process that has the lock takes it
        # again. Its own lock is still what keeps the data right.
        with self._faults_named(), open(f"{self._path}-turn", "ab") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            with super().writing() as connection:
                yield connection
            if not self._write_connection.is_current():
                raise DatabaseUnavailable(f"{self._path} was replaced")

    @contextmanager
    def creating(self) -> Iterator[Connection]:
        """See :py:meth:`Database.creating`."""
        engine = self._make_engine("rwc")
        try:
            with self._faults_named(), engine.begin() as connection:
                yield connection
        finally:
            engine.dispose()

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """See :py:meth:`Database.snapshot`."""
        engine = self._make_engine("ro")
        event.listen(engine, "begin", _begin_deferred)
        try:
            with self._faults_named(), engine.begin() as connection:
                yield connection
        finally:
            engine.dispose()

    def find_damage(self, connection: Connection) -> list[str]:
        """See :py:meth:`Database.find_damage`."""
        found = list(connection.exec_driver_sql("PRAGMA integrity_check").scalars())
        return [] if found == ["ok"] else found

    def close(self) -> None:
        """See :py:meth:`Database.close`."""
        super().close()
        self._read_connection.close()

    def lock(self, connection: Connection, names: Iterable[str]) -> None:
        """See :py:meth:`Database.lock`. A transaction has all of SQLite's locks already."""

    def insert_new(self, connection: Connection, table: Table, rows: Sequence[Row]) -> set[str]:
        """See :py:meth:`Database.insert_new`."""
        # The caller looked for the keys under the write lock that this transaction has
        # had since it began, so no row can be there that it hasn't seen.
        statement = self._compiled(table, table, lambda: sqlite.insert(table))
        connection.execute(statement, rows)
        (key,) = table.primary_key
        return {row[key.name] for row in rows}

    def upsert(self, connection: Connection, upsert: Upsert, rows: Sequence[Row]) -> None:
        """See :py:meth:`Database.upsert`."""
        statement = self._compiled(
            upsert.table, upsert, lambda: upsert.on_conflict(sqlite.insert(upsert.table))
        )
        connection.execute(statement, rows)

    def _translate(self, error: exc.DBAPIError) -> Any:
        # A damaged file is a plain DatabaseError, the base class of the others.
        if isinstance(error, exc.OperationalError) or type(error) is exc.DatabaseError:
            return DatabaseUnavailable(_in_a_line(error))
        return error

    def _make_engine(self, mode: str, **options: Any) -> Engine:
        url = URL.create(
            "sqlite",
            database=f"file:{quote(str(self._path))}",
            query={"mode": mode, "uri": "true"},
        )
        timeout = self._lock_timeout.total_seconds()
        engine = create_engine(
            url,
            future=True,
            connect_args={"timeout": timeout, "check_same_thread": False},
            **options,
        )
        if mode == "rw":
            event.listen(engine, "do_connect", self._check_file)
        event.listen(engine, "connect", _set_pragmas)
        return engine

    def _check_file(self, *_: Any) -> None:
        # Not by opening it: to close it again would give up all locks that this process has
        # on it (https://www.sqlite.org/howtocorrupt.html, section 2.2).
        if os.stat(self._path).st_size == 0:  # SQLite would delete the log beside it
            raise OSError(f"{self._path} is empty")
        if not os.access(self._path, os.W_OK):  # SQLite would never write to it again
            raise OSError(f"{self._path} may not be written to")

    def _identify(self) -> tuple[int, int] | None:
        # Who has a file open can still write to it when it has been deleted or replaced,
        # and all that would be lost.
        try:
            stat = os.stat(self._file)
        except FileNotFoundError:
            return None
        return stat.st_dev, stat.st_ino


def _set_pragmas(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # or the driver begins transactions by itself
    pragmas = (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        # In pages of 4 KiB. To checkpoint ten times less often than by default is to
        # insert almost twice as fast.
        "wal_autocheckpoint=10000",
    )
    try:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error:  # the file is damaged, say
        connection.close()
        raise


def _begin_deferred(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


class PostgreSQLDatabase(Database):
    """PostgreSQL: any number of machines.

    :param url: an SQLAlchemy URL.
    :param lock_timeout: how long a statement may wait for another's lock.
    :param statement_timeout: how long a statement may take in all.
    :param connect_timeout: how long a connection may take to be made.
    :param pool_size: how many reads may go on at the same time.
    :param application_name: how this service is called in ``pg_stat_activity``.
    """

    def __init__(
        self,
        url: URL,
        *,
        lock_timeout: timedelta,
        statement_timeout: timedelta,
        connect_timeout: timedelta,
        pool_size: int,
        application_name: str,
    ) -> None:
        def milliseconds(span: timedelta) -> int:
            return max(1, span // timedelta(milliseconds=1))

        def make_engine(**options: Any) -> Engine:
            return create_engine(
                url,
                future=True,
                connect_args={
                    "application_name": application_name,
                    "connect_timeout": max(1, round(connect_timeout.total_seconds())),
                    # Ends waiting for a machine that has gone without a word.
                    "tcp_user_timeout": milliseconds(statement_timeout),
                    # An answer means that it is on disk, whatever the server's default.
                    "options": "-c synchronous_commit=on"
                    f" -c lock_timeout={milliseconds(lock_timeout)}"
                    f" -c statement_timeout={milliseconds(statement_timeout)}",
                },
                **options,
            )

        self._url = url
        self._reader = make_engine(
            isolation_level="AUTOCOMMIT",
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=connect_timeout.total_seconds(),
        )
        super().__init__(make_engine(isolation_level="READ COMMITTED", poolclass=NullPool))

    def __str__(self) -> str:
        return repr(self._url.set(query={}))  # with *** for the password

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """See :py:meth:`Database.reading`."""
        with self._faults_named(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """See :py:meth:`Database.snapshot`."""
        with self._faults_named(), self._reader.connect() as connection:
            connection.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            with connection.begin():
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
                yield connection

    def close(self) -> None:
        """See :py:meth:`Database.close`."""
        super().close()
        self._reader.dispose()

    def lock(self, connection: Connection, names: Iterable[str]) -> None:
        """See :py:meth:`Database.lock`."""
        # Rows that aren't there yet can't be locked; the names' hashes can, in order.
        connection.execute(_lock_names, {"names": list(names)})

    def insert_new(self, connection: Connection, table: Table, rows: Sequence[Row]) -> set[str]:
        """See :py:meth:`Database.insert_new`."""
        statement = self._compiled(
            table,
            table,
            lambda: _insert_arrays(table).on_conflict_do_nothing().returning(*table.primary_key),
        )
        return set(connection.execute(statement, _columns(table, rows)).scalars())

    def upsert(self, connection: Connection, upsert: Upsert, rows: Sequence[Row]) -> None:
        """See :py:meth:`Database.upsert`."""
        table = upsert.table
        statement = self._compiled(
            table,
            upsert,
            lambda: upsert.on_conflict(_insert_arrays(table)).returning(*table.primary_key),
        )
        written = connection.execute(statement, _columns(table, rows)).all()
        if len(written) < len(rows):
            raise TransactionConflict(f"another transaction wrote to {table.name} first")

    def _translate(self, error: exc.DBAPIError) -> Any:
        code = getattr(error.orig, "pgcode", None)
        if code in _MAY_BE_RUN_AGAIN:
            return TransactionConflict(_in_a_line(error))
        if code == _UNDEFINED_TABLE or isinstance(
            error, (exc.OperationalError, exc.InterfaceError, exc.InternalError)
        ):
            return DatabaseUnavailable(_in_a_line(error))
        return error


def _insert_arrays(table: Table) -> Any:
    # One array for each column, so that the statement is the same for any number of rows,
    # and may have RETURNING.
    names = [column.name for column in table.columns]
    arrays = [bindparam(column.name, type_=ARRAY(column.type)) for column in table.columns]
    rows = func.unnest(*arrays).table_valued(*names).render_derived(name="new_rows")
    return postgresql.insert(table).from_select(names, select(rows))


def _columns(table: Table, rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Each column's values, the rows being sorted by primary key: two transactions that
    lock rows in one order can't each wait for the other."""
    rows = sorted(rows, key=lambda row: [row[column.name] for column in table.primary_key])
    return {column.name: [row[column.name] for row in rows] for column in table.columns}


def _in_a_line(error: exc.DBAPIError) -> str:
    return " ".join(str(error.orig).split())


_lock_names = text(
    "SELECT pg_advisory_xact_lock(hash) FROM (SELECT DISTINCT hashtextextended(name, 0) AS hash"
    " FROM unnest(:names) AS name ORDER BY hash) AS hashes"
)

# SQLSTATE codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
_UNDEFINED_TABLE = "42P01"
_MAY_BE_RUN_AGAIN = {"40001", "40P01"}  # serialization failure, deadlock


_DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg2")


def _database_url(value: str) -> URL:
    if value.startswith("$"):
        raise ValueError(f"the environment variable {value} is not set")
    try:
        url = make_url(value)
    except exc.ArgumentError as error:
        raise ValueError("not a URL such as sqlite:///galaxy_express.db") from error
    backend = url.get_backend_name()
    if url.drivername not in _DRIVERS:
        raise ValueError(f"the URL must begin with sqlite or postgresql, not {url.drivername}")
    if backend == "sqlite" and url.database in (None, "", ":memory:"):
        raise ValueError("SQLite must be in a file: each connection has a memory of its own")
    return url


def database_from_config(app_config: config.RawConfig) -> Database:
    """The database that the keys ``database.*`` describe; nothing connects to it yet.

    :raises baseplate.lib.config.ConfigurationError: naming the key that is wrong.
    """
    five_seconds = timedelta(seconds=5)
    settings = parse_settings(
        app_config,
        "database",
        {
            "url": _database_url,
            "lock_timeout": config.Optional(config.Timespan, five_seconds),
            "statement_timeout": config.Optional(config.Timespan, five_seconds),
            "connect_timeout": config.Optional(config.Timespan, five_seconds),
            "pool_size": config.Optional(positive_integer, 10),
            "application_name": config.Optional(config.String, "galaxy_express"),
        },
    )
    if settings.url.get_backend_name() == "sqlite":
        return SQLiteDatabase(Path(settings.url.database), settings.lock_timeout)
    return PostgreSQLDatabase(
        settings.url,
        lock_timeout=settings.lock_timeout,
        statement_timeout=settings.statement_timeout,
        connect_timeout=settings.connect_timeout,
        pool_size=settings.pool_size,
        application_name=settings.application_name,
    )

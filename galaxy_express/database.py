"""The database: connections, transactions, timeouts, and all that differs between
SQLite and PostgreSQL."""

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from baseplate import Span
from baseplate.clients import ContextFactory
from baseplate.lib import config
from sqlalchemy import Table, bindparam, create_engine, event, exc, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.pool import QueuePool

from galaxy_express.settings import parse_settings, positive_integer

Row = dict[str, Any]


class DatabaseUnavailable(Exception):
    """The database is locked, full, away, damaged or without its tables.

    The transaction was rolled back, and trying again later is safe. If the connection
    was lost during COMMIT the outcome is unknown, and trying again finds the truth.
    """


class TransactionConflict(DatabaseUnavailable):
    """The transaction met another one, was rolled back, and may be run again at once."""


class Database:
    """A database with a schema, read by many and, in each process, written by one at a time.

    Its two subclasses hold what differs between SQLite and PostgreSQL.

    :param reader: for reads; a statement sees what is committed when it starts.
    :param writer: for transactions that write.
    """

    def __init__(self, reader: Engine, writer: Engine) -> None:
        self._reader = reader
        self._writer = writer

    def __str__(self) -> str:
        return repr(self._writer.url)  # masks a password

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection to read from.

        :raises DatabaseUnavailable: see there.
        """
        with self._faults_named(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction: on disk when left, rolled back when left by an exception.

        :raises DatabaseUnavailable: see there.
        :raises TransactionConflict: if the whole transaction may be run again.
        """
        with self._faults_named(), self._writer.begin() as connection:
            yield connection

    def creating(self) -> AbstractContextManager[Connection]:
        """A transaction that may create the database itself, to make or drop tables in."""
        return self.writing()

    def close(self) -> None:
        """Close the pooled connections."""
        self._reader.dispose()
        self._writer.dispose()

    def insert_new(self, connection: Connection, table: Table, rows: Sequence[Row]) -> set[str]:
        """Insert those rows whose primary key, of one column, isn't taken.

        :returns: the keys that this transaction inserted.
        """
        raise NotImplementedError

    def upsert(
        self,
        connection: Connection,
        table: Table,
        rows: Sequence[Row],
        update: Callable[[Any], Row],
        only_if: Callable[[Any], Any] | None = None,
    ) -> None:
        """Insert rows, or update those whose primary key is taken.

        :param update: takes the row that could not be inserted, as columns, and gives
            the new values of the row that is there.
        :param only_if: takes the same, and gives the condition on which to update.
        :raises TransactionConflict: if a row was left as it is, because of a write that
            this transaction could not see when it decided to make its own.
        """
        statement = self._insert(table)
        statement = statement.on_conflict_do_update(
            index_elements=list(table.primary_key),
            set_=update(statement.excluded),
            where=None if only_if is None else only_if(statement.excluded),
        )
        self._execute_upsert(connection, table, statement, rows)

    def _execute_upsert(
        self, connection: Connection, table: Table, statement: Any, rows: Sequence[Row]
    ) -> None:
        raise NotImplementedError

    def _insert(self, table: Table) -> Any:
        raise NotImplementedError

    def _translate(self, error: exc.DBAPIError) -> Any:
        raise NotImplementedError

    @contextmanager
    def _faults_named(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            raise self._translate(error) from error
        except (exc.TimeoutError, exc.DisconnectionError, OSError) as error:
            # Of the pool: none is free, or the file is another; or of the lock file.
            raise DatabaseUnavailable(str(error)) from error


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
        self._lock_timeout = lock_timeout
        super().__init__(
            reader=self._make_engine("rw", isolation_level="AUTOCOMMIT"),
            writer=self._make_engine("rw"),
        )
        event.listen(self._writer, "begin", self._begin_immediate)

    def _make_engine(self, mode: str, **options: Any) -> Engine:
        # By default SQLAlchemy opens a file anew for every checkout, and closing the
        # last connection checkpoints the log.
        engine = create_engine(
            URL.create(
                "sqlite",
                database=f"file:{quote(str(self._path))}",
                query={"mode": mode, "uri": "true"},
            ),
            future=True,
            poolclass=QueuePool,
            pool_size=1,
            max_overflow=-1,
            connect_args={
                "timeout": self._lock_timeout.total_seconds(),
                "check_same_thread": False,
            },
            **options,
        )
        event.listen(engine, "connect", self._on_connect)
        event.listen(engine, "checkout", self._on_checkout)
        return engine

    def __str__(self) -> str:
        return f"sqlite:///{self._path}"

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """See :py:meth:`Database.writing`."""
        # Processes take turns by a lock on a file beside the database. SQLite alone
        # would poll, ever more slowly, while the process that has the lock takes it
        # again; its own lock is still what keeps the data right.
        with self._faults_named(), open(f"{self._path}-turn", "ab") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            with self._writer.begin() as connection:
                yield connection

    @contextmanager
    def creating(self) -> Iterator[Connection]:
        """See :py:meth:`Database.creating`."""
        engine = self._make_engine("rwc")
        with self._faults_named(), engine.begin() as connection:
            yield connection
        engine.dispose()

    def insert_new(self, connection: Connection, table: Table, rows: Sequence[Row]) -> set[str]:
        """See :py:meth:`Database.insert_new`."""
        # The caller looked for the keys under the write lock that this transaction has
        # had since it began, so no row can be there that it hasn't seen.
        connection.execute(self._insert(table), rows)
        (key,) = table.primary_key
        return {row[key.name] for row in rows}

    def _insert(self, table: Table) -> Any:
        return sqlite.insert(table)

    def _execute_upsert(
        self, connection: Connection, table: Table, statement: Any, rows: Sequence[Row]
    ) -> None:
        connection.execute(statement, rows)

    def _translate(self, error: exc.DBAPIError) -> Any:
        # A damaged file is a plain DatabaseError, the base class of the others.
        if isinstance(error, exc.OperationalError) or type(error) is exc.DatabaseError:
            return DatabaseUnavailable(str(error.orig))
        return error

    def _on_connect(self, connection: Any, record: Any) -> None:
        connection.isolation_level = None  # or the driver begins transactions by itself
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            # In pages of 4 KiB: checkpoints four times as rare insert almost twice as fast.
            "wal_autocheckpoint=10000",
        ):
            connection.execute(f"PRAGMA {pragma}")
        record.info["file"] = self._file()

    def _on_checkout(self, connection: Any, record: Any, proxy: Any) -> None:
        # A deleted file stays writable to those who have it open, and all would be lost.
        if record.info["file"] != self._file():
            raise exc.DisconnectionError(f"{self._path} was replaced")

    def _file(self) -> tuple[int, int] | None:
        try:
            stat = os.stat(self._path)
        except FileNotFoundError:
            return None
        return stat.st_dev, stat.st_ino

    @staticmethod
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
                pool_timeout=connect_timeout.total_seconds(),
                connect_args={
                    "application_name": application_name,
                    "connect_timeout": max(1, round(connect_timeout.total_seconds())),
                    # Ends waiting for a machine that has gone without a word.
                    "tcp_user_timeout": milliseconds(statement_timeout),
                    "options": f"-c lock_timeout={milliseconds(lock_timeout)}"
                    f" -c statement_timeout={milliseconds(statement_timeout)}",
                },
                **options,
            )

        super().__init__(
            reader=make_engine(isolation_level="AUTOCOMMIT", pool_size=pool_size, max_overflow=0),
            writer=make_engine(isolation_level="READ COMMITTED", pool_size=1, max_overflow=0),
        )

    def insert_new(self, connection: Connection, table: Table, rows: Sequence[Row]) -> set[str]:
        """See :py:meth:`Database.insert_new`."""
        (key,) = table.primary_key
        statement = self._insert(table).on_conflict_do_nothing().returning(key)
        return set(connection.execute(statement, _columns(table, rows)).scalars())

    def _insert(self, table: Table) -> Any:
        # One array for each column, whatever the number of rows: SQLAlchemy compiles it
        # once, and it may have RETURNING, which an executemany() may not.
        names = [column.name for column in table.columns]
        arrays = [bindparam(column.name, type_=ARRAY(column.type)) for column in table.columns]
        rows = func.unnest(*arrays).table_valued(*names).render_derived(name="new_rows")
        return postgresql.insert(table).from_select(names, select(rows))

    def _execute_upsert(
        self, connection: Connection, table: Table, statement: Any, rows: Sequence[Row]
    ) -> None:
        statement = statement.returning(*table.primary_key)
        written = connection.execute(statement, _columns(table, rows)).all()
        if len(written) < len(rows):
            raise TransactionConflict(f"another transaction wrote to {table.name} first")

    def _translate(self, error: exc.DBAPIError) -> Any:
        code = getattr(error.orig, "pgcode", None)
        if code in _MAY_BE_RUN_AGAIN:
            return TransactionConflict(str(error.orig))
        if code == _UNDEFINED_TABLE or isinstance(
            error, (exc.OperationalError, exc.InterfaceError, exc.InternalError)
        ):
            return DatabaseUnavailable(str(error.orig))
        return error


def _columns(table: Table, rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Each column's values, the rows being sorted by primary key: two transactions that
    lock rows in one order can't each wait for the other."""
    rows = sorted(rows, key=lambda row: [row[column.name] for column in table.primary_key])
    return {column.name: [row[column.name] for row in rows] for column in table.columns}


# SQLSTATE codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
_UNDEFINED_TABLE = "42P01"
_MAY_BE_RUN_AGAIN = {"40001", "40P01"}  # serialization failure, deadlock


def _database_url(text: str) -> URL:
    try:
        url = make_url(text)
    except exc.ArgumentError as error:
        raise ValueError("not a URL such as sqlite:///galaxy_express.db") from error
    backend = url.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise ValueError(f"the database must be sqlite or postgresql, not {backend}")
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


class TracedDatabase:
    """The database as a request sees it: to read from, each time in a span of its own."""

    def __init__(self, database: Database, name: str, span: Span) -> None:
        self._database = database
        self._name = name
        self._span = span

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """See :py:meth:`Database.reading`."""
        with self._span.make_child(f"{self._name}.read"), self._database.reading() as connection:
            yield connection


class DatabaseContextFactory(ContextFactory):
    """Puts a :py:class:`TracedDatabase` on the context of each request."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def make_object_for_context(self, name: str, span: Span) -> TracedDatabase:
        """See :py:class:`baseplate.clients.ContextFactory`."""
        return TracedDatabase(self._database, name, span)

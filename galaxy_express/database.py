"""The database: connections, transactions, timeouts, and all that differs between
SQLite and PostgreSQL."""

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
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
from sqlalchemy.engine import URL, Compiled, Connection, Engine, make_url
from sqlalchemy.pool import NullPool

from galaxy_express.settings import parse_settings, positive_integer

Row = dict[str, Any]


class DatabaseUnavailable(Exception):
    """The database is locked, full, away, damaged or without its tables.

    The transaction was rolled back, and trying again later is safe. If the connection
    was lost during COMMIT the outcome is unknown, and trying again finds the truth.
    """


class TransactionConflict(DatabaseUnavailable):
    """The transaction met another one, was rolled back, and may be run again at once."""


@dataclass(frozen=True, eq=False)
class Upsert:
    """How to insert rows into a table, or update those whose primary key is taken.

    :param update: takes the row that could not be inserted, as columns, and gives the
        new values of the row that is there.
    :param only_if: takes the same, and gives the condition on which to update.
    """

    table: Table
    update: Callable[[Any], Row]
    only_if: Callable[[Any], Any] | None = None

    def on_conflict(self, insert: Any) -> Any:
        """Add to an INSERT what to do when a primary key is taken."""
        return insert.on_conflict_do_update(
            index_elements=list(self.table.primary_key),
            set_=self.update(insert.excluded),
            where=None if self.only_if is None else self.only_if(insert.excluded),
        )


class Database:
    """A database with a schema, read by many and, in each process, written by one at a time.

    Its two subclasses hold what differs between SQLite and PostgreSQL.

    :param writer: for transactions that write.
    """

    def __init__(self, writer: Engine) -> None:
        self._dialect = writer.dialect
        self._write_connection = _KeptConnection(writer)
        self._statements: dict[object, Compiled] = {}

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection to read from; each statement sees what is committed when it starts.

        :raises DatabaseUnavailable: see there.
        """
        raise NotImplementedError

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction: on disk when left, rolled back when left by an exception.

        :raises DatabaseUnavailable: see there.
        :raises TransactionConflict: if the whole transaction may be run again.
        """
        with (
            self._faults_named(),
            self._write_connection.used() as connection,
            connection.begin(),
        ):
            yield connection

    def creating(self) -> AbstractContextManager[Connection]:
        """A transaction that may create the database itself, to make or drop tables in."""
        return self.writing()

    def close(self) -> None:
        """Close all connections."""
        self._write_connection.close()

    def insert_new(self, connection: Connection, table: Table, rows: Sequence[Row]) -> set[str]:
        """Insert those rows whose primary key, of one column, isn't taken.

        :returns: the keys that this transaction inserted.
        """
        raise NotImplementedError

    def upsert(self, connection: Connection, upsert: Upsert, rows: Sequence[Row]) -> None:
        """Insert rows, or update those whose primary key is taken.

        :raises TransactionConflict: if a row was left as it is, because of a write that
            this transaction could not see when it decided to make its own.
        """
        raise NotImplementedError

    def _compiled(self, table: Table, key: object, make: Callable[[], Any]) -> Compiled:
        # SQLAlchemy 1.4 caches no statement with ON CONFLICT, and compiling one takes
        # several times as long as running it.
        if key not in self._statements:
            names = [column.name for column in table.columns]
            self._statements[key] = make().compile(dialect=self._dialect, column_keys=names)
        return self._statements[key]

    def _translate(self, error: exc.DBAPIError) -> Any:
        raise NotImplementedError

    @contextmanager
    def _faults_named(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            raise self._translate(error) from error
        except (exc.TimeoutError, OSError) as error:  # of the pool, or of a file
            raise DatabaseUnavailable(str(error)) from error


class _KeptConnection:
    """A connection that stays open between uses, which follow one another.

    To take it from a pool each time would cost more than a read of one row.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None

    @contextmanager
    def used(self) -> Iterator[Connection]:
        """The connection, made if need be. After a fault the next use makes another."""
        if self._connection is None:
            self._connection = self._engine.connect()
        try:
            yield self._connection
        except exc.DBAPIError:
            self.close()
            raise

    def close(self) -> None:
        """Close it; the next use makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


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
        self._file = self._identify()
        self._read_connection = _KeptConnection(
            self._make_engine("rw", isolation_level="AUTOCOMMIT")
        )
        writer = self._make_engine("rw")
        event.listen(writer, "begin", _begin_immediate)
        super().__init__(writer)

    def __str__(self) -> str:
        return f"sqlite:///{self._path}"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """See :py:meth:`Database.reading`. It may not be left to wait for anything else."""
        with self._faults_named(), self._same_file(), self._read_connection.used() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """See :py:meth:`Database.writing`."""
        # Processes take turns by a lock on a file beside the database. SQLite alone
        # would poll, ever more slowly, while the process that has the lock takes it
        # again. Its own lock is still what keeps the data right.
        with self._faults_named(), open(f"{self._path}-turn", "ab") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            with self._same_file(), super().writing() as connection:
                yield connection

    @contextmanager
    def creating(self) -> Iterator[Connection]:
        """See :py:meth:`Database.creating`."""
        with self._faults_named(), self._make_engine("rwc").begin() as connection:
            yield connection

    def close(self) -> None:
        """See :py:meth:`Database.close`."""
        super().close()
        self._read_connection.close()

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
            return DatabaseUnavailable(str(error.orig))
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
        event.listen(engine, "connect", _set_pragmas)
        return engine

    @contextmanager
    def _same_file(self) -> Iterator[None]:
        # Who has a file open can still write to it when it has been deleted or replaced,
        # and all that would be lost.
        if self._file != self._identify():
            self.close()
            self._file = self._identify()
        yield
        if self._file != self._identify():
            raise DatabaseUnavailable(f"{self._path} was replaced")

    def _identify(self) -> tuple[int, int] | None:
        try:
            stat = os.stat(self._path)
        except FileNotFoundError:
            return None
        return stat.st_dev, stat.st_ino


def _set_pragmas(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # or the driver begins transactions by itself
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        # In pages of 4 KiB. To checkpoint ten times less often than by default is to
        # insert almost twice as fast.
        "wal_autocheckpoint=10000",
    ):
        connection.execute(f"PRAGMA {pragma}")


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
                    "options": f"-c lock_timeout={milliseconds(lock_timeout)}"
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
        return repr(self._url)  # masks a password

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """See :py:meth:`Database.reading`."""
        with self._faults_named(), self._reader.connect() as connection:
            yield connection

    def close(self) -> None:
        """See :py:meth:`Database.close`."""
        super().close()
        self._reader.dispose()

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
            return TransactionConflict(str(error.orig))
        if code == _UNDEFINED_TABLE or isinstance(
            error, (exc.OperationalError, exc.InterfaceError, exc.InternalError)
        ):
            return DatabaseUnavailable(str(error.orig))
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

"""The database, as the rest of the service sees it.

The packages ``sqlite`` and ``postgresql`` contain what differs between the two.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, ClassVar, NamedTuple

import sqlalchemy.engine
from baseplate import Span
from baseplate.clients import ContextFactory
from sqlalchemy import exc

from galaxy_express.storage.errors import DatabaseUnavailable
from galaxy_express.tracing import child_span

#: The values of a row, in the order of the table's columns.
Row = tuple[Any, ...]

#: No sequence number is larger.
LAST_SEQUENCE = 2**63 - 1

#: The values of a statement's parameters, in order or by name.
Values = Sequence[Any] | Mapping[str, Any]


class Pages(NamedTuple):
    """The queries for a page of rows in each order.

    Their parameters are ``recipient_id``; ``after``, the sequence number after which the page
    begins; ``settled``, the number up to which everything is committed (in ascending order); and
    ``limit``. The columns are the sequence number and those of the item.
    """

    ascending: str
    descending: str


@dataclass(frozen=True)
class Statements:
    """The SQL for one kind of database; see ``sqlite.statements`` and ``postgresql.statements``.

    Parameters are in the syntax of the driver.
    """

    find_decision: str
    find_decisions: str
    find_preferences: str
    insert_packages: str
    insert_updates: str
    upsert_preferences: str
    upsert_counters: str
    delete_preferences: str
    delete_updates: str
    page_of_all: Pages
    page_of_recipient: Pages
    page_of_updates: Pages


class Connection(ABC):
    """A connection on which the driver itself runs SQL.

    SQLAlchemy opens the connection; running each statement through it as well would take several
    times as long.

    :cvar statements: the SQL for this kind of database.
    :param raw: the driver's connection, from an SQLAlchemy pool.
    """

    statements: ClassVar[Statements]

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._cursor = raw.cursor()

    def execute(self, sql: str, values: Values = ()) -> None:
        """Run a statement.

        :param values: the values of its parameters, in order or by name.
        """
        self._cursor.execute(sql, values)

    def select(self, sql: str, values: Values = ()) -> list[Row]:
        """Run a query, and return its rows.

        :param values: the values of its parameters, in order or by name.
        """
        self.execute(sql, values)
        rows: list[Row] = self._cursor.fetchall()
        return rows

    @abstractmethod
    def find(self, sql: str, keys: Collection[str]) -> list[Row]:
        """Run a query whose only parameter is a list of keys, and return its rows."""

    @abstractmethod
    def read_clock(self) -> int:
        """Return the time of the transaction, in microseconds since 1970, by the clock of the
        machine with the database. Call it once per transaction, before any insert.

        It is never before that of a transaction with smaller sequence numbers; for PostgreSQL,
        docs/feed.md has the exceptions.
        """

    @abstractmethod
    def insert_packages(self, rows: Sequence[Row]) -> set[str]:
        """Insert the packages whose id isn't taken yet, in feed order.

        :param rows: without sequence numbers.
        :returns: the ids that were inserted.
        :raises NotRecorded: if the database stores other values.
        """

    @abstractmethod
    def insert_updates(self, rows: Sequence[Row]) -> int:
        """Insert preference updates, in history order.

        :param rows: without sequence numbers.
        :returns: how many were inserted.
        """

    @abstractmethod
    def last_settled(self) -> int:
        """Return a sequence number up to which everything is committed: no transaction that
        commits later inserts a smaller or equal one.

        :raises DatabaseUnavailable: if this server doesn't know the transactions in progress.
        """

    def is_confirmed(self) -> bool:
        """Return whether everything that it shows is known to be permanent: no failover undoes
        it."""
        return True

    @abstractmethod
    def read_size(self) -> int:
        """Return the size of the database on disk, in bytes, without blocking anyone."""

    @abstractmethod
    def upsert(self, sql: str, rows: Sequence[Row]) -> int:
        """Insert rows, or update those whose primary key exists.

        :returns: how many were inserted or updated.
        :raises Blocked: if another transaction held the lock of a row for too long.
        """

    @abstractmethod
    def transaction(
        self, lock_timeout: timedelta | None = None, rows: int = 0, names: Collection[str] = ()
    ) -> AbstractContextManager[None]:
        """A transaction: committed to disk at the end, rolled back after an exception.

        The parameters are those of :py:meth:`Database.transaction`.
        """

    @abstractmethod
    def check_writable(self) -> None:
        """Check that the service has the permissions to write, without writing.

        :raises DatabaseUnavailable: if it doesn't have them.
        """

    @abstractmethod
    def is_current(self) -> bool:
        """Return whether it is still connected to the database, as far as known without a query."""

    def outlives(self, error: Exception) -> bool:
        """Return whether the connection is still usable after an error of the driver."""
        return False

    def close(self) -> None:
        """Close the connection. An open transaction is rolled back."""
        self._raw.invalidate()


class PersistentConnection:
    """A connection that stays open between uses. Uses must not overlap.

    Checking it out of a pool each time would cost more than reading a row.

    :param connect: opens the connection.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._connection: Connection | None = None

    def get(self) -> Connection:
        """Return the connection, after reopening it if it is no longer current."""
        if self._connection is not None and not self._connection.is_current():
            self.close()
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def note_error(self, error: Exception) -> None:
        """Close the connection, unless it is still usable after this error."""
        if self._connection is not None and not self._connection.outlives(error):
            self.close()

    def close(self) -> None:
        """Close the connection. The next use opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class ErrorTranslation(AbstractContextManager[None]):
    """A block in which errors of a driver become those of :py:mod:`galaxy_express.storage.errors`.

    A class, since a generator would cost several times as much, and every read has such a block.

    :param driver_error: the base class of the driver's exceptions.
    :param translate: returns the exception to raise instead of the driver's.
    :param kept: the connections that are used; after an error they are reopened if necessary.
    """

    def __init__(
        self,
        driver_error: type[Exception],
        translate: Callable[[Any], Exception],
        kept: Collection[PersistentConnection],
    ) -> None:
        self._driver_error = driver_error
        self._translate = translate
        self._kept = kept

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Translate the exception that the block has raised, if there is one."""
        if isinstance(error, (self._driver_error, exc.DBAPIError)):
            for connection in self._kept:
                connection.note_error(error)
            raise self._translate(getattr(error, "orig", error)) from error
        if isinstance(error, OSError):  # an error of a file, or a timeout
            raise DatabaseUnavailable(str(error)) from error


class Database(ABC):
    """A database with a schema. Each process has many readers and one writer.

    :cvar driver_error: the base class of the driver's exceptions.
    :param connect: opens the connection for writes.
    """

    driver_error: ClassVar[type[Exception]]

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._write_connection = PersistentConnection(connect)

    @abstractmethod
    def read_connection(self) -> AbstractContextManager[Connection]:
        """A connection for reads. Each statement sees what was committed when it started.

        :raises DatabaseUnavailable: if it can't be read.
        """

    @contextmanager
    def transaction(
        self, lock_timeout: timedelta | None = None, rows: int = 0, names: Collection[str] = ()
    ) -> Iterator[Connection]:
        """A transaction: committed to disk at the end, rolled back after an exception.

        :param lock_timeout: how long each statement may wait for a lock; by default, the
            database's setting. Databases with a single lock ignore it.
        :param rows: the largest number of packages and preference updates that it inserts.
        :param names: names on which it holds exclusive locks from its beginning to its end.
        :raises DatabaseUnavailable: if nothing was recorded, or the outcome is unknown.
        :raises TransactionConflict: if the whole transaction can be retried.
        :raises Blocked: if another transaction held a lock for too long.
        """
        with self._translating_errors(self._write_connection):
            connection = self._write_connection.get()
            with connection.transaction(lock_timeout, rows, names):
                yield connection

    def check_commits(self, connection: Connection) -> None:  # noqa: B027 - not all can hang
        """Check that commits get a response, as far as known.

        :param connection: a connection to read from.
        :raises DatabaseUnavailable: if they don't.
        """

    @abstractmethod
    def schema_transaction(self) -> AbstractContextManager[sqlalchemy.engine.Connection]:
        """A transaction that creates or drops tables. It creates the database if necessary.

        :raises DatabaseUnavailable: if nothing was changed.
        """

    @abstractmethod
    def migrating(self) -> AbstractContextManager[sqlalchemy.engine.Connection]:
        """A connection for migrations, which only one process can have at a time. It creates the
        database if necessary.

        :raises DatabaseUnavailable: if the migration failed. It can be run again.
        """

    @abstractmethod
    def snapshot(
        self, unlimited: bool = False
    ) -> AbstractContextManager[sqlalchemy.engine.Connection]:
        """A connection for examining the database. It shows the database as it is at one
        moment, unless it is distributed, and doesn't block writers.

        :param unlimited: whether a statement may take as long as it needs.
        :raises DatabaseUnavailable: if it can't be read.
        """

    def checkpoint(self) -> None:  # noqa: B027 - most databases do this themselves
        """Copy committed pages from the log into the database, without blocking reads or writes.

        Pages that can't be copied are left for the next checkpoint. Within a process, checkpoints
        must not overlap.

        :raises DatabaseUnavailable: if nothing was copied.
        """

    def shrink_log(self) -> None:  # noqa: B027 - most databases do this themselves
        """Empty a log that a long read has let grow, without waiting for anyone.

        The log stays as long as a reader needs it. Must not overlap with checkpoints of this
        process.

        :raises DatabaseUnavailable: if it can't be emptied.
        """

    def is_distributed(self) -> bool:
        """Return whether tables are on several servers, whose snapshots are of different moments.

        :raises DatabaseUnavailable: if it can't be read.
        """
        return False

    def check_integrity(self, connection: sqlalchemy.engine.Connection) -> list[str]:
        """Return the damage that the database finds in its files, one sentence each."""
        return []

    def close(self) -> None:
        """Close all connections."""
        self._write_connection.close()

    @abstractmethod
    def _translate(self, error: Any) -> Exception:
        """Return the exception to raise instead of the driver's."""

    def _translating_errors(self, *kept: PersistentConnection) -> ErrorTranslation:
        return ErrorTranslation(self.driver_error, self._translate, kept)


class TracedDatabase:
    """The database on the context of a request, with a child span for each read."""

    def __init__(self, database: Database, name: str, span: Span) -> None:
        self._database = database
        self._name = name
        self._span = span

    def read_connection(self) -> AbstractContextManager[Connection]:
        """See :py:meth:`Database.read_connection`."""
        connecting = self._database.read_connection()
        span = child_span(self._span, f"{self._name}.read")
        return connecting if span is None else _in_span(span, connecting)

    def snapshot(
        self, unlimited: bool = False
    ) -> AbstractContextManager[sqlalchemy.engine.Connection]:
        """See :py:meth:`Database.snapshot`."""
        return self._database.snapshot(unlimited)


@contextmanager
def _in_span(span: Span, connecting: AbstractContextManager[Connection]) -> Iterator[Connection]:
    with span, connecting as connection:
        yield connection


class DatabaseContextFactory(ContextFactory):
    """Puts a :py:class:`TracedDatabase` on the context of each request."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def make_object_for_context(self, name: str, span: Span) -> TracedDatabase:
        """See :py:class:`baseplate.clients.ContextFactory`."""
        return TracedDatabase(self._database, name, span)

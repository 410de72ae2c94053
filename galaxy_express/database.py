"""The database, as the rest of the service sees it; ``dialects`` has what differs
between SQLite and PostgreSQL."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from baseplate import Span
from baseplate.clients import ContextFactory
from sqlalchemy import Table, exc
from sqlalchemy.engine import Compiled, Connection, Engine

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


class KeptConnection:
    """A connection that stays open between uses, which follow one another.

    To take it from a pool each time would cost more than a read of one row.

    :param engine: makes it.
    :param identify: tells which database the engine would connect to; when that changes,
        the connection is made anew.
    """

    def __init__(self, engine: Engine, identify: Callable[[], object] = lambda: None) -> None:
        self._engine = engine
        self._identify = identify
        self._identity: object = None
        self._connection: Connection | None = None

    def get(self) -> Connection:
        """The connection."""
        if not self.is_current():
            self.close()
        if self._connection is None:
            self._identity = self._identify()
            self._connection = self._engine.connect()
        return self._connection

    def is_current(self) -> bool:
        """Whether the database is still the one that the connection was made to."""
        return self._identity == self._identify()

    def close(self) -> None:
        """Close it; the next use makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class Database(ABC):
    """A database with a schema, read by many and, in each process, written by one at a time.

    Its two subclasses hold what differs between SQLite and PostgreSQL.

    :param writer: for transactions that write.
    """

    def __init__(self, writer: Engine) -> None:
        self._dialect = writer.dialect
        self._write_connection = KeptConnection(writer, self._identify)
        self._statements: dict[object, Compiled] = {}

    @abstractmethod
    def reading(self) -> AbstractContextManager[Connection]:
        """A connection to read from; each statement sees what is committed when it starts.

        :raises DatabaseUnavailable: see there.
        """

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction: on disk when left, rolled back when left by an exception.

        :raises DatabaseUnavailable: see there.
        :raises TransactionConflict: if the whole transaction may be run again.
        """
        with self._faults_named(self._write_connection):
            connection = self._write_connection.get()
            with connection.begin():
                yield connection

    def creating(self) -> AbstractContextManager[Connection]:
        """A transaction that may create the database itself, to make or drop tables in."""
        return self.writing()

    @abstractmethod
    def snapshot(self) -> AbstractContextManager[Connection]:
        """A connection to read from that shows one moment for as long as it is kept, and
        keeps nobody from writing.

        :raises DatabaseUnavailable: see there.
        """

    def find_damage(self, connection: Connection) -> list[str]:
        """What the database finds wrong with its own files, if it can tell."""
        return []

    def close(self) -> None:
        """Close all connections."""
        self._write_connection.close()

    @abstractmethod
    def lock(self, connection: Connection, names: Iterable[str]) -> None:
        """Until the transaction ends, let no other one go on that locks one of the names."""

    @abstractmethod
    def insert_new(self, connection: Connection, table: Table, rows: Sequence[Row]) -> set[str]:
        """Insert those rows whose primary key, of one column, isn't taken.

        :returns: the keys that this transaction inserted.
        """

    @abstractmethod
    def upsert(self, connection: Connection, upsert: Upsert, rows: Sequence[Row]) -> None:
        """Insert rows, or update those whose primary key is taken.

        :raises TransactionConflict: if a row was left as it is, because of a write that
            this transaction could not see when it decided to make its own.
        """

    def _compiled(self, table: Table, key: object, make: Callable[[], Any]) -> Compiled:
        # SQLAlchemy 1.4 caches no statement with ON CONFLICT, and compiling one takes
        # several times as long as running it.
        if key not in self._statements:
            names = [column.name for column in table.columns]
            self._statements[key] = make().compile(dialect=self._dialect, column_keys=names)
        return self._statements[key]

    @abstractmethod
    def _translate(self, error: exc.DBAPIError) -> Any:
        """The exception to raise in the place of the driver's."""

    def _identify(self) -> object:
        """What tells this database from another of the same name."""
        return None

    @contextmanager
    def _faults_named(self, kept: KeptConnection | None = None) -> Iterator[None]:
        # After a fault, a connection that is kept is made anew.
        try:
            yield
        except exc.DBAPIError as error:
            if kept is not None:
                kept.close()
            raise self._translate(error) from error
        except (exc.TimeoutError, OSError) as error:  # of the pool, or of a file
            raise DatabaseUnavailable(str(error)) from error


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

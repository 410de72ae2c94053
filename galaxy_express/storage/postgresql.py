"""PostgreSQL, for services on any number of machines."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from functools import partial
from math import inf
from time import monotonic
from typing import Any

import psycopg2
import sqlalchemy.engine
from psycopg2.errors import LockNotAvailable
from sqlalchemy import create_engine, event, exc
from sqlalchemy.engine import URL, Engine
from sqlalchemy.pool import NullPool

from galaxy_express.storage import limited_connection
from galaxy_express.storage.confirmations import WRITE_TO_LOG, Confirmations
from galaxy_express.storage.database import (
    LAST_SEQUENCE,
    AlteredSchema,
    Blocked,
    Connection,
    Database,
    DatabaseUnavailable,
    NotRecorded,
    RejectedRow,
    Row,
    TransactionConflict,
    WorkerNode,
)
from galaxy_express.storage.fair_semaphore import FairSemaphore
from galaxy_express.storage.limited_connection import LimitedConnection, TimedOut
from galaxy_express.storage.postgresql_catalog import (
    DESCRIBE_NUMBERING,
    DESCRIBE_TABLES,
    find_alterations,
)
from galaxy_express.storage.postgresql_errors import (
    READ_ONLY,
    is_harmless,
    is_of_row,
    translate,
    translate_as,
)
from galaxy_express.storage.postgresql_statements import STATEMENTS
from galaxy_express.storage.servers import SEARCH_INTERVAL, Servers
from galaxy_express.storage.unanswered import UnansweredCommits
from galaxy_express.storage.url import describe_postgresql, postgresql_parameters

# The seconds between two checks of the tables on a connection, which cost more than a read.
_TABLES_INTERVAL = 5.0

# How many seconds errors are explained by the same alterations of the tables.
_ALTERATIONS_AGE = 1.0

# In addition to PostgreSQL's own timeout, so that its error can arrive.
_GRACE_SECONDS = 0.5


class CommitTimedOut(TimedOut):
    """A COMMIT got no response in time: the outcome is unknown.

    :param backend: the process id of the server's backend.
    """

    def __init__(self, error: TimedOut, backend: int) -> None:
        super().__init__(f"COMMIT: {error}")
        self.backend = backend


class OnStandby(psycopg2.OperationalError):
    """A write transaction was started on a standby."""


class PostgreSQLConnection(Connection):
    """A connection to PostgreSQL.

    :param raw: the driver's connection, in autocommit mode.
    :param begin: returns the statements that begin a transaction with its settings; the argument
        is a lock timeout, or ``None`` for the default.
    :param is_current: see :py:meth:`Connection.is_current`.
    :param confirmations: of all connections to the database.
    """

    statements = STATEMENTS

    def __init__(
        self,
        raw: Any,
        begin: Callable[[timedelta | None], str],
        is_current: Callable[[LimitedConnection], bool],
        confirmations: Confirmations,
    ) -> None:
        super().__init__(raw)
        self._begin_statements = begin
        self._is_current = is_current
        self._confirmations = confirmations
        self._time = 0
        self._numbers: list[int] = []  # sequence numbers of the transaction that aren't used yet
        self._highest = 0  # of the sequence numbers that are known here

    def find(self, sql: str, keys: Collection[str]) -> list[Row]:
        """See :py:meth:`Connection.find`."""
        return self.select(sql, (list(keys),))

    def insert_packages(self, rows: Sequence[Row]) -> set[str]:
        """See :py:meth:`Connection.insert_packages`."""
        numbered = self._number(rows)
        inserted = self.select(self.statements.insert_packages, _columns(numbered))
        if not set(numbered).issuperset(inserted):
            raise NotRecorded("packages were not stored as sent; does a trigger change them?")
        return {row[0] for row in inserted}

    def insert_updates(self, rows: Sequence[Row]) -> int:
        """See :py:meth:`Connection.insert_updates`."""
        return len(self.select(self.statements.insert_updates, _columns(self._number(rows))))

    def _number(self, rows: Sequence[Row]) -> list[Row]:
        numbers, self._numbers = self._numbers[: len(rows)], self._numbers[len(rows) :]
        return [(*row, number) for row, number in zip(rows, numbers, strict=True)]

    def read_clock(self) -> int:
        """See :py:meth:`Connection.read_clock`."""
        return self._time

    def last_settled(self) -> int:
        """See :py:meth:`Connection.last_settled`."""
        ((number, is_standby),) = self.select(_LAST_SETTLED)
        if is_standby:
            raise DatabaseUnavailable(
                "a standby can't be used for the feed: it doesn't know what its primary is writing"
            )
        return int(number)

    def is_confirmed(self) -> bool:
        """See :py:meth:`Connection.is_confirmed`."""
        return self._confirmations.cover(self._raw.dbapi_connection)

    def read_size(self) -> int:
        """See :py:meth:`Connection.read_size`."""
        ((size,),) = self.select("SELECT pg_database_size(current_database())")
        return int(size)

    def upsert(self, sql: str, rows: Sequence[Row]) -> int:
        """See :py:meth:`Connection.upsert`."""
        try:
            return len(self.select(sql, _columns(rows)))
        except LockNotAvailable as error:
            raise translate_as(Blocked, error) from error

    @contextmanager
    def transaction(
        self, lock_timeout: timedelta | None = None, rows: int = 0, names: Collection[str] = ()
    ) -> Iterator[None]:
        """See :py:meth:`Connection.transaction`."""
        driver_connection = self._raw.dbapi_connection
        begun = monotonic()
        try:
            backend = self._begin_writing(lock_timeout, rows, names)
            yield
        except BaseException:
            self._roll_back()
            raise
        try:
            self.execute("COMMIT")
        except TimedOut as error:
            raise CommitTimedOut(error, backend) from error
        # COMMIT of a failed transaction rolls it back, without an error.
        if self._cursor.statusmessage != "COMMIT":
            raise DatabaseUnavailable("the transaction was rolled back")
        driver_connection.has_written = True
        self._confirmations.note(driver_connection, begun)

    def _begin_writing(
        self, lock_timeout: timedelta | None, rows: int, names: Collection[str]
    ) -> int:
        """Begin a transaction in one round trip, and return the process id of the server's backend.

        :raises TransactionConflict: if the sequence had been set back.
        """
        statements = [
            # They are local to the transaction, so that they work behind a pooler.
            self._begin_statements(lock_timeout),
            # Before numbers are drawn, so that a recipient's updates are applied in their order.
            *([_LOCK_NAMES] if names else []),
            _BEGIN_WRITING.format(
                written="NULL" if self._raw.dbapi_connection.has_written else WRITE_TO_LOG,
                highest="0" if self._highest or not rows else _HIGHEST_NUMBER,
                drawn=_DRAW if rows else _DRAW_NOTHING,
            ),
        ]
        values = {"names": list(names), "rows": rows}
        ((backend, is_standby, _, highest, drawn),) = self.select("; ".join(statements), values)
        # Don't even replay earlier decisions: a standby may have some that its primary never
        # confirmed, and that the next primary won't have.
        if is_standby:
            raise OnStandby("the database is read-only: its server is a standby")
        now, *self._numbers = drawn
        self._time = max(now, self._time)
        self._check_numbers(highest)
        return int(backend)

    def _check_numbers(self, stored: int) -> None:
        """Check that the numbers of this transaction are larger than all that are known.

        :param stored: the largest that was stored before; zero if it wasn't read.
        """
        self._highest = max(stored, self._highest)
        if min(self._numbers, default=LAST_SEQUENCE) <= self._highest:
            ((stored,),) = self.select(f"SELECT {_HIGHEST_NUMBER}")
            self._highest = max(stored, self._highest)
            self.execute(_ADVANCE_SEQUENCE, {"highest": self._highest})
            raise TransactionConflict("the sequence of the feed had been set back")
        self._highest = max(self._numbers, default=self._highest)

    def _roll_back(self) -> None:
        try:
            self.execute("ROLLBACK")
        except psycopg2.Error:  # the connection is lost, and the server rolls back
            self._raw.dbapi_connection.close()

    def _begin(self) -> None:
        """See :py:meth:`Connection._begin`."""

    def check_writable(self) -> None:
        """See :py:meth:`Connection.check_writable`."""
        ((read_only, forbidden),) = self.select(_CHECK_WRITABLE)
        if read_only == "on":
            raise DatabaseUnavailable("the database is read-only")
        if forbidden:
            raise DatabaseUnavailable(f"this role is not allowed to {forbidden}")
        driver_connection = self._raw.dbapi_connection
        if monotonic() - driver_connection.tables_checked_at >= _TABLES_INTERVAL:
            self.check_tables()
            driver_connection.tables_checked_at = monotonic()

    def check_tables(self) -> None:
        """Check that the tables, which must exist, weren't altered.

        :raises AlteredSchema: if the service can't use them safely.
        """
        alterations = list(find_alterations(self.select(DESCRIBE_TABLES)))
        alterations += [text for (text,) in self.select(DESCRIBE_NUMBERING)]
        if alterations:
            raise AlteredSchema("; ".join(alterations))

    def is_current(self) -> bool:
        """See :py:meth:`Connection.is_current`."""
        return self._is_current(self._raw.dbapi_connection)

    def outlives(self, error: Any) -> bool:
        """See :py:meth:`Connection.outlives`."""
        return is_harmless(error) and not self._raw.dbapi_connection.closed


def _columns(rows: Iterable[Row]) -> list[list[Any]]:
    """Return the values of each column. Rows are sorted by their primary keys, which come first, so
    that transactions lock rows in the same order and can't deadlock."""
    return [list(values) for values in zip(*sorted(rows), strict=True)]


_LOCK_MIGRATIONS = "SELECT pg_try_advisory_xact_lock(3, 0)"
# The second one is new in PostgreSQL 17.
_STAY_IDLE = """
    SELECT set_config(name, '0', true) FROM pg_settings
    WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')
"""

# Locks on names have two keys. Locks with one key show which sequence numbers are in use. Rows that
# don't exist yet can't be locked, but the hashes of their names can, in order.
_LOCK_NAMES = """
    SELECT pg_advisory_xact_lock(1, hash)
    FROM (SELECT DISTINCT hashtext(name) AS hash
          FROM unnest(%(names)s::text[]) AS name ORDER BY hash) AS hashes
"""
_BEGIN_WRITING = "SELECT pg_backend_pid(), pg_is_in_recovery(), {written}, {highest}, {drawn}"
# A standby can't draw numbers.
_DRAW = "CASE WHEN NOT pg_is_in_recovery() THEN galaxy_express_begin(%(rows)s) END"
_DRAW_NOTHING = "ARRAY[extract(epoch FROM clock_timestamp()) * 1000000]::bigint[]"

# Numbers are drawn before they are committed, and transactions commit in any order. Each holds a
# shared lock, whose key is less than all numbers that it draws (see galaxy_express_draw). So all
# numbers below all keys that were drawn before the keys were read are settled. The subquery depends
# on last_value, so it is evaluated after last_value was read.
_LAST_SETTLED = """
    SELECT least(drawn.last_value, (
        SELECT min(classid::bigint << 32 | objid::bigint)
        FROM pg_locks
        WHERE locktype = 'advisory' AND objsubid = 1 AND mode = 'ShareLock'
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND drawn.last_value IS NOT NULL)),
        pg_is_in_recovery()
    FROM galaxy_express_sequence AS drawn
"""


# If an operator has set the sequence back, clients of the feed that have read larger numbers would
# miss the new ones. While a migration builds the index, the largest can't be found quickly.
_HIGHEST_NUMBER = """
    coalesce(CASE WHEN (SELECT indisvalid FROM pg_index
                        WHERE indexrelid = to_regclass('ix_packages_sequence'))
             THEN (SELECT max(sequence) FROM packages) END, 0)
"""
# With the lock of galaxy_express_draw, which also sets the sequence. Others may draw numbers before
# it is set, but not a million.
_ADVANCE_SEQUENCE = """
    SELECT pg_advisory_xact_lock(2, 0);
    SELECT setval('galaxy_express_sequence', %(highest)s + 1000000)
    FROM galaxy_express_sequence WHERE last_value <= %(highest)s
"""


class PostgreSQLDatabase(Database):
    """PostgreSQL, for services on any number of machines.

    :param url: an SQLAlchemy URL.
    :param lock_timeout: how long a statement may wait for a lock.
    :param statement_timeout: how long a statement or a COMMIT may take in total.
    :param connect_timeout: how long connecting may take, and waiting for a free connection.
    :param idle_timeout: how long a transaction may be idle before the server ends it.
    :param connection_age: how old a connection may become before it is replaced.
    :param pool_size: how many reads may run concurrently.
    :param application_name: the name of this service in ``pg_stat_activity``.
    :param on_timeout: called when an operation times out, with its kind: ``connect``,
        ``statement`` or ``commit``.
    """

    driver_error = psycopg2.Error

    def __init__(
        self,
        url: URL,
        *,
        lock_timeout: timedelta,
        statement_timeout: timedelta,
        connect_timeout: timedelta,
        idle_timeout: timedelta,
        connection_age: timedelta,
        pool_size: int,
        application_name: str,
        on_timeout: Callable[[str], None],
    ) -> None:
        limited_connection.install()
        self._url = url
        self._lock_timeout = lock_timeout
        self._limit = statement_timeout.total_seconds() + _GRACE_SECONDS
        self._on_timeout = on_timeout
        self._age = connection_age.total_seconds()
        # Not all poolers accept settings at connect, and some discard them between transactions.
        self._set = (
            "SET {local} synchronous_commit = on;"  # a response means that the write is on disk
            " SET {local} row_security = off;"  # fail instead of hiding rows
            " SET {local} lock_timeout = {lock_timeout};"
            f" SET {{local}} statement_timeout = {_milliseconds(statement_timeout)}"
        )
        self._set_idle_timeout = (
            f"SET LOCAL idle_in_transaction_session_timeout = {_milliseconds(idle_timeout)}"
        )
        # When connections to the server turned out to be broken; older ones aren't used again.
        self._broken_before = 0.0
        self._alterations = ""
        self._alterations_read_at = -inf
        self._unanswered = UnansweredCommits()
        self._confirmations = Confirmations()
        self._servers = Servers(
            {
                "application_name": application_name,
                "client_encoding": "UTF8",
                "connect_timeout": max(1, round(connect_timeout.total_seconds())),
                # The kernel detects a dead server, even where there is no limit.
                "tcp_user_timeout": _milliseconds(statement_timeout),
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                **postgresql_parameters(url),
            },
            connect_timeout.total_seconds(),
            self._prepare,
        )

        def make_engine(to_write: bool, **options: Any) -> Engine:
            return create_engine(
                "postgresql+psycopg2://",
                future=True,
                creator=partial(self._connect, to_write),
                isolation_level="AUTOCOMMIT",
                use_native_hstore=False,  # saves a query per connection
                **options,
            )

        self._reader = make_engine(False, pool_size=pool_size, max_overflow=0)
        self._readers = FairSemaphore(pool_size, connect_timeout.total_seconds())
        event.listen(self._reader, "checkout", self._check_connection)
        self._writer = make_engine(True, poolclass=NullPool)
        super().__init__(lambda: self._wrap(self._writer.raw_connection()))

    def __str__(self) -> str:
        return describe_postgresql(self._url)

    def _wrap(self, raw: Any) -> PostgreSQLConnection:
        return PostgreSQLConnection(
            raw, self._begin_statements, self._is_current, self._confirmations
        )

    def _begin_statements(self, lock_timeout: timedelta | None) -> str:
        timeout = _milliseconds(lock_timeout or self._lock_timeout)
        settings = self._set.format(local="LOCAL", lock_timeout=timeout)
        return f"BEGIN ISOLATION LEVEL READ COMMITTED; {settings}; {self._set_idle_timeout}"

    def _connect(self, to_write: bool) -> LimitedConnection:
        try:
            connection = self._servers.connect(to_write)
        except psycopg2.OperationalError:
            self._on_timeout("connect")
            raise
        if to_write:
            # Replace the connections for reading: older ones may lead to a standby, which would lag
            # behind this one.
            self._broken_before = max(self._broken_before, connection.opened_at)
        return connection

    def _prepare(self, connection: LimitedConnection) -> None:
        connection.autocommit = True
        settings = self._set.format(local="", lock_timeout=_milliseconds(self._lock_timeout))
        with connection.cursor() as cursor:
            cursor.execute(f"{settings}; {_DESCRIBE_SERVER}")
            ((encoding, is_standby, read_only, server, is_citus, schema, user, path),) = (
                cursor.fetchall()
            )
            if is_citus:
                cursor.execute(_WORKER_NODE)
                if cursor.fetchall():
                    raise WorkerNode
        if encoding != "UTF8":
            raise DatabaseUnavailable(
                f"the database's encoding is {encoding}, which can't store all text: create it"
                " with ENCODING 'UTF8'"
            )
        if schema is None:
            # Otherwise all tables would seem to be missing.
            raise DatabaseUnavailable(
                f"the role {user} can't use any schema of its search_path ({path}): set another"
                " search_path, create the schema, or GRANT USAGE on it"
            )
        connection.limit = self._limit
        connection.is_writable = not is_standby and read_only == "off"
        connection.server = server

    def _is_current(self, connection: LimitedConnection) -> bool:
        # Connections to a standby are replaced soon, since there may be a new primary.
        age = self._age if connection.is_writable else min(self._age, SEARCH_INTERVAL)
        return (
            connection.opened_at >= max(self._broken_before, monotonic() - age)
            and not connection.closed
            and connection.has_no_data()
        )

    def _check_connection(self, connection: Any, record: Any, proxy: Any) -> None:
        # The pool then opens a new one.
        if not self._is_current(connection):
            raise exc.DisconnectionError("the connection is too old, or was closed by the server")

    @contextmanager
    def read_connection(self) -> Iterator[Connection]:
        """See :py:meth:`Database.read_connection`."""
        with self._translating_errors(), self._readers.acquire():
            try:
                raw = self._reader.raw_connection()
            except exc.InvalidRequestError as error:
                raise DatabaseUnavailable("the server closes new connections") from error
            try:
                yield self._wrap(raw)
            except BaseException as error:
                if isinstance(error, psycopg2.Error) or raw.dbapi_connection.closed:
                    raw.invalidate()
                raise
            finally:
                raw.close()

    @contextmanager
    def transaction(
        self, lock_timeout: timedelta | None = None, rows: int = 0, names: Collection[str] = ()
    ) -> Iterator[Connection]:
        """See :py:meth:`Database.transaction`."""
        # Check before it acquires locks: a COMMIT without a response may still have them.
        with self._translating_errors(self._write_connection):
            must_wait = self._unanswered.must_wait(self._write_connection.get())
        if must_wait:
            raise DatabaseUnavailable("the last COMMIT got no response")
        try:
            with super().transaction(lock_timeout, rows, names) as connection:
                yield connection
        except DatabaseUnavailable as error:
            if isinstance(error.__cause__, CommitTimedOut):
                self._unanswered.note(error.__cause__.backend)
            raise
        self._unanswered.clear()

    def check_commits(self, connection: Connection) -> None:
        """See :py:meth:`Database.check_commits`."""
        if self._unanswered.would_hang(connection):
            raise DatabaseUnavailable(
                "commits get no response; a synchronous standby may be missing"
            )

    @contextmanager
    def schema_transaction(self) -> Iterator[sqlalchemy.engine.Connection]:
        """See :py:meth:`Database.schema_transaction`."""
        with self._administering("READ COMMITTED") as connection, connection.begin():
            yield connection

    @contextmanager
    def migrating(self) -> Iterator[sqlalchemy.engine.Connection]:
        """See :py:meth:`Database.migrating`."""
        # A migration has many transactions, so another connection holds the lock in one of its own.
        # A session's lock would stay with a pooler, or be shared by its clients.
        with (
            self._administering("READ COMMITTED") as guard,
            self._administering("READ COMMITTED") as connection,
        ):
            # Poll: CREATE INDEX CONCURRENTLY would wait for a statement that waits for a lock.
            while not guard.exec_driver_sql(_LOCK_MIGRATIONS).scalar_one():
                guard.rollback()
                time.sleep(0.1)
            guard.exec_driver_sql(_STAY_IDLE)
            connection.connection.dbapi_connection.limit = None
            connection.exec_driver_sql("SET lock_timeout = 0")
            connection.exec_driver_sql("SET statement_timeout = 0")
            connection.exec_driver_sql("SET idle_in_transaction_session_timeout = 0")
            yield connection
            guard.commit()

    @contextmanager
    def snapshot(self, unlimited: bool = False) -> Iterator[sqlalchemy.engine.Connection]:
        """See :py:meth:`Database.snapshot`."""
        with self._administering("REPEATABLE READ", postgresql_readonly=True) as connection:
            if unlimited:
                connection.connection.dbapi_connection.limit = None
            with connection.begin():
                if unlimited:
                    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
                yield connection

    @contextmanager
    def _administering(
        self, isolation_level: str, **options: Any
    ) -> Iterator[sqlalchemy.engine.Connection]:
        with self._translating_errors(), self._writer.connect() as connection:
            connection.execution_options(isolation_level=isolation_level, **options)
            yield connection

    def is_distributed(self) -> bool:
        """See :py:meth:`Database.is_distributed`."""
        with self.read_connection() as connection:
            ((is_citus,),) = connection.select(_IS_CITUS)
            return is_citus and bool(connection.select(_TABLES_OF_CITUS))

    def close(self) -> None:
        """See :py:meth:`Database.close`."""
        super().close()
        self._reader.dispose()

    def _translate(self, error: Any) -> Exception:
        if isinstance(error, TimedOut):
            is_commit = isinstance(error, CommitTimedOut)
            self._on_timeout("commit" if is_commit else "statement")
        if isinstance(error, (TimedOut, OnStandby)) or error.pgcode == READ_ONLY:
            # The server may be down, or a standby by now: don't read from it any more.
            self._broken_before = monotonic()
        return translate(error) or self._find_cause(error)

    def _find_cause(self, error: Any) -> Exception:
        """Return why the server rejects a statement: the tables were altered, or it is a bug."""
        # A group with rejected rows is split, and may have hundreds of errors.
        if monotonic() - self._alterations_read_at > _ALTERATIONS_AGE:
            self._alterations = self._read_alterations()
            self._alterations_read_at = monotonic() if self._alterations else -inf
        if not self._alterations:
            bug: Exception = error
            return bug
        kind = RejectedRow if is_of_row(error) else AlteredSchema
        return kind(self._alterations)

    def _read_alterations(self) -> str:
        """Return how the tables were altered; an empty text if they weren't, or can't be read."""
        try:
            raw = self._connect(to_write=False)
        except (psycopg2.Error, DatabaseUnavailable):
            return ""
        with closing(raw):
            try:
                self._wrap(raw).check_tables()
            except AlteredSchema as altered:
                return str(altered.args[0])
            except psycopg2.Error:  # a table is missing, while a migration creates it for example
                pass
        return ""


def _milliseconds(span: timedelta) -> int:
    return max(1, span // timedelta(milliseconds=1))


_DESCRIBE_SERVER = """
SELECT current_setting('server_encoding'), pg_is_in_recovery(),
       current_setting('transaction_read_only'), pg_postmaster_start_time()::text,
       to_regclass('pg_catalog.pg_dist_local_group') IS NOT NULL,
       current_schema(), current_user, current_setting('search_path')
"""

# The coordinator of Citus is in group 0.
_WORKER_NODE = "SELECT groupid FROM pg_catalog.pg_dist_local_group WHERE groupid <> 0"
_IS_CITUS = "SELECT to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL"
_TABLES_OF_CITUS = """
SELECT logicalrelid FROM pg_catalog.pg_dist_partition
WHERE logicalrelid IN (to_regclass('packages'), to_regclass('preferences'),
                       to_regclass('preference_updates'), to_regclass('counters'))
"""

_CHECK_WRITABLE = """
SELECT current_setting('transaction_read_only'),
       (SELECT string_agg(privilege || ' ' || name, ', ')
        FROM (VALUES ('packages', 'SELECT'), ('packages', 'INSERT'),
                     ('preferences', 'SELECT'), ('preferences', 'INSERT'),
                     ('preferences', 'UPDATE'),
                     ('preference_updates', 'SELECT'), ('preference_updates', 'INSERT'),
                     ('counters', 'SELECT'), ('counters', 'INSERT'), ('counters', 'UPDATE'),
                     ('galaxy_express_sequence', 'SELECT'), ('galaxy_express_sequence', 'UPDATE'),
                     ('galaxy_express_draw(integer)', 'EXECUTE'),
                     ('galaxy_express_begin(integer)', 'EXECUTE')
             ) AS needed (name, privilege)
        WHERE NOT CASE privilege WHEN 'EXECUTE' THEN has_function_privilege(name, privilege)
                                 ELSE has_table_privilege(name, privilege) END)
"""

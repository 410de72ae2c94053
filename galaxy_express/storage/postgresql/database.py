"""PostgreSQL, for services on any number of machines."""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from functools import partial
from math import inf
from time import monotonic
from typing import Any

import psycopg2
import sqlalchemy.engine
from sqlalchemy import create_engine, event, exc
from sqlalchemy.engine import URL, Engine
from sqlalchemy.pool import NullPool

from galaxy_express.storage.database import Connection, Database
from galaxy_express.storage.errors import (
    AlteredSchema,
    DatabaseUnavailable,
    RejectedRow,
    WorkerNode,
)
from galaxy_express.storage.fair_semaphore import FairSemaphore
from galaxy_express.storage.postgresql import limited_connection
from galaxy_express.storage.postgresql.confirmations import Confirmations
from galaxy_express.storage.postgresql.connection import (
    CommitTimedOut,
    OnStandby,
    PostgreSQLConnection,
)
from galaxy_express.storage.postgresql.errors import READ_ONLY, is_of_row, translate
from galaxy_express.storage.postgresql.limited_connection import LimitedConnection, TimedOut
from galaxy_express.storage.postgresql.servers import SEARCH_INTERVAL, Servers
from galaxy_express.storage.postgresql.unanswered import UnansweredCommits
from galaxy_express.storage.url import describe_postgresql, postgresql_parameters

# How many seconds errors are explained by the same alterations of the tables.
_ALTERATIONS_AGE = 1.0

# In addition to PostgreSQL's own timeout, so that its error can arrive.
_GRACE_SECONDS = 0.5


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
    :param on_timeout: called with ``statement`` or ``commit`` when one times out, and with
        ``connect`` when no server accepts a connection.
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
            " SET {local} array_nulls = on;"  # NULL isn't the text "NULL"
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

_LOCK_MIGRATIONS = "SELECT pg_try_advisory_xact_lock(3, 0)"
# The second one is new in PostgreSQL 17.
_STAY_IDLE = """
    SELECT set_config(name, '0', true) FROM pg_settings
    WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')
"""

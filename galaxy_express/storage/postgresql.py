"""PostgreSQL: any number of machines."""

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from select import POLLIN, poll
from typing import Any

import psycopg2
import sqlalchemy.engine
from sqlalchemy import create_engine, event, exc
from sqlalchemy.engine import URL, Engine
from sqlalchemy.pool import NullPool

from galaxy_express.storage.database import (
    Connection,
    Database,
    DatabaseUnavailable,
    Pages,
    Row,
    SchemaMismatch,
    Statements,
    TransactionConflict,
    in_a_line,
)
from galaxy_express.storage.fair_semaphore import FairSemaphore


class PostgreSQLConnection(Connection):
    """A connection to PostgreSQL."""

    # One array per column, so that a statement is the same for any number of rows.
    statements = Statements(
        find_decision="""
            SELECT package_id, sender_id, recipient_id, package_type, timestamp, status,
                   decided_at, declined_at
            FROM packages WHERE package_id = %s
        """,
        find_decisions="""
            SELECT package_id, sender_id, recipient_id, package_type, timestamp, status,
                   decided_at, declined_at
            FROM packages WHERE package_id = ANY(%s::text[])
        """,
        find_preferences="""
            SELECT recipient_id, package_type, wanted, timestamp
            FROM preferences WHERE recipient_id = ANY(%s::text[])
        """,
        insert_packages="""
            WITH drawn AS MATERIALIZED (SELECT galaxy_express_draw(%s) AS numbers)
            INSERT INTO packages
                (package_id, sender_id, recipient_id, package_type, timestamp, status,
                 decided_at, declined_at, sequence)
            SELECT package_id, sender_id, recipient_id, package_type, sent_at, status,
                   decided_at, declined_at, numbers[place]
            FROM drawn, unnest(
                %s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[],
                %s::bigint[], %s::bigint[], %s::integer[]
            ) AS row (package_id, sender_id, recipient_id, package_type, sent_at, status,
                      decided_at, declined_at, place)
            ON CONFLICT DO NOTHING
            RETURNING package_id
        """,
        insert_updates="""
            WITH drawn AS MATERIALIZED (SELECT galaxy_express_draw(%s) AS numbers)
            INSERT INTO preference_updates
                (recipient_id, timestamp, received_at, wanted, applied, sequence)
            SELECT recipient_id, made_at, received_at, wanted, applied, numbers[place]
            FROM drawn, unnest(
                %s::text[], %s::bigint[], %s::bigint[], %s::text[], %s::boolean[], %s::integer[]
            ) AS row (recipient_id, made_at, received_at, wanted, applied, place)
        """,
        # The condition is that of Preference.supersedes.
        upsert_preferences="""
            INSERT INTO preferences (recipient_id, package_type, wanted, timestamp)
            SELECT * FROM unnest(%s::text[], %s::text[], %s::boolean[], %s::bigint[])
            ON CONFLICT (recipient_id, package_type) DO UPDATE
            SET wanted = excluded.wanted, timestamp = excluded.timestamp
            WHERE excluded.timestamp > preferences.timestamp
               OR excluded.timestamp = preferences.timestamp
                  AND preferences.wanted AND NOT excluded.wanted
            RETURNING recipient_id
        """,
        upsert_counters="""
            INSERT INTO counters (shard, outcome, package_type, value)
            SELECT * FROM unnest(%s::smallint[], %s::text[], %s::text[], %s::bigint[])
            ON CONFLICT (shard, outcome, package_type) DO UPDATE
            SET value = counters.value + excluded.value
            RETURNING shard
        """,
        delete_preferences="DELETE FROM preferences WHERE recipient_id = %s",
        delete_updates="DELETE FROM preference_updates WHERE recipient_id = %s",
        page_of_all=Pages(
            ascending="""
                SELECT sequence, package_id, sender_id, recipient_id, package_type, timestamp,
                       status, decided_at, declined_at
                FROM packages WHERE sequence > %(after)s AND sequence <= %(settled)s
                ORDER BY sequence LIMIT %(limit)s
            """,
            descending="""
                SELECT sequence, package_id, sender_id, recipient_id, package_type, timestamp,
                       status, decided_at, declined_at
                FROM packages WHERE sequence < %(after)s
                ORDER BY sequence DESC LIMIT %(limit)s
            """,
        ),
        # The recipient is a part of the order, so that only the index of both can give it. With
        # an equality the planner may read the index of the sequence instead, and filter.
        page_of_recipient=Pages(
            ascending="""
                SELECT sequence, package_id, sender_id, recipient_id, package_type, timestamp,
                       status, decided_at, declined_at
                FROM packages
                WHERE (recipient_id, sequence) > (%(recipient_id)s, %(after)s)
                  AND (recipient_id, sequence) <= (%(recipient_id)s, %(settled)s)
                ORDER BY packages.recipient_id, sequence LIMIT %(limit)s
            """,
            descending="""
                SELECT sequence, package_id, sender_id, recipient_id, package_type, timestamp,
                       status, decided_at, declined_at
                FROM packages
                WHERE (recipient_id, sequence) < (%(recipient_id)s, %(after)s)
                  AND (recipient_id, sequence) >= (%(recipient_id)s, 0)
                ORDER BY packages.recipient_id DESC, sequence DESC LIMIT %(limit)s
            """,
        ),
        page_of_updates=Pages(
            ascending="""
                SELECT sequence, recipient_id, timestamp, received_at, wanted, applied
                FROM preference_updates
                WHERE recipient_id = %(recipient_id)s
                  AND sequence > %(after)s AND sequence <= %(settled)s
                ORDER BY sequence LIMIT %(limit)s
            """,
            descending="""
                SELECT sequence, recipient_id, timestamp, received_at, wanted, applied
                FROM preference_updates
                WHERE recipient_id = %(recipient_id)s AND sequence < %(after)s
                ORDER BY sequence DESC LIMIT %(limit)s
            """,
        ),
    )

    def __init__(self, raw: Any) -> None:
        super().__init__(raw)
        self._last_time = 0

    def find(self, sql: str, keys: Collection[str]) -> list[Row]:
        """See :py:meth:`Connection.find`."""
        return self.select(sql, (list(keys),))

    def insert_packages(self, rows: Sequence[Row]) -> set[str]:
        """See :py:meth:`Connection.insert_packages`."""
        numbered = [(*row, place) for place, row in enumerate(rows, 1)]
        values = [len(rows), *_columns(numbered)]
        inserted = self.select(self.statements.insert_packages, values)
        return {package_id for (package_id,) in inserted}

    def insert_updates(self, rows: Sequence[Row]) -> None:
        """See :py:meth:`Connection.insert_updates`."""
        numbered = [(*row, place) for place, row in enumerate(rows, 1)]
        self.execute(self.statements.insert_updates, [len(rows), *_columns(numbered)])

    def read_clock(self) -> int:
        """See :py:meth:`Connection.read_clock`."""
        self._last_time = max(self._last_time, time.time_ns() // 1000)
        return self._last_time

    def last_settled(self) -> int:
        """See :py:meth:`Connection.last_settled`."""
        ((number,),) = self.select(_LAST_SETTLED)
        return int(number)

    def upsert(self, sql: str, rows: Sequence[Row]) -> None:
        """See :py:meth:`Connection.upsert`."""
        if len(self.select(sql, _columns(rows))) < len(rows):
            raise TransactionConflict("another transaction wrote to a row first")

    def lock(self, names: Iterable[str]) -> None:
        """See :py:meth:`Connection.lock`."""
        # Rows that don't exist yet can't be locked, but the hashes of their names can, in order.
        self.execute(_LOCK_NAMES, (list(names),))

    def _begin(self) -> None:
        """See :py:meth:`Connection._begin`."""

    def check_writable(self) -> None:
        """See :py:meth:`Connection.check_writable`."""
        ((read_only, forbidden),) = self.select(_CHECK_WRITABLE)
        if read_only == "on":
            raise DatabaseUnavailable("the database is read-only")
        if forbidden:
            raise DatabaseUnavailable(f"this role is not allowed to {forbidden}")

    def is_current(self) -> bool:
        """Return whether the server has sent nothing: unasked, it only announces a disconnect."""
        return _is_silent(self._raw)


def _is_silent(connection: Any) -> bool:
    incoming = poll()
    incoming.register(connection.fileno(), POLLIN)
    return not incoming.poll(0)


def _columns(rows: Iterable[Row]) -> list[list[Any]]:
    """Return the values of each column. Rows are sorted by their primary keys, which come first:
    two transactions that lock rows in one order can't deadlock."""
    return [list(values) for values in zip(*sorted(rows), strict=True)]


_LOCK_MIGRATIONS = "SELECT pg_try_advisory_lock(3, 0)"

# Locks on names have two keys. Those of one key show which sequence numbers are being used.
_LOCK_NAMES = """
    SELECT pg_advisory_xact_lock(1, hash)
    FROM (SELECT DISTINCT hashtext(name) AS hash
          FROM unnest(%s::text[]) AS name ORDER BY hash) AS hashes
"""

# Numbers are drawn before they are committed, and transactions commit in any order. Each holds a
# shared lock, whose key is less than all numbers that it draws (see galaxy_express_draw). So what
# is below all keys, and was drawn before they were read, is settled. The subquery depends on
# last_value, so it is evaluated after last_value was read.
_LAST_SETTLED = """
    SELECT least(drawn.last_value, (
        SELECT min(classid::bigint << 32 | objid::bigint)
        FROM pg_locks
        WHERE locktype = 'advisory' AND objsubid = 1 AND mode = 'ShareLock'
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND drawn.last_value IS NOT NULL))
    FROM galaxy_express_sequence AS drawn
"""


class PostgreSQLDatabase(Database):
    """PostgreSQL: any number of machines.

    :param url: an SQLAlchemy URL.
    :param lock_timeout: how long a statement may wait for a lock.
    :param statement_timeout: how long a statement may take in all.
    :param connect_timeout: how long connecting may take, and waiting for a free connection.
    :param pool_size: how many reads may run at the same time.
    :param application_name: the name of this service in ``pg_stat_activity``.
    """

    driver_error = psycopg2.Error

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
        )
        self._readers = FairSemaphore(pool_size, connect_timeout.total_seconds())
        event.listen(self._reader, "checkout", _check_connection)
        self._writer = make_engine(isolation_level="READ COMMITTED", poolclass=NullPool)
        super().__init__(lambda: PostgreSQLConnection(self._writer.raw_connection()))

    def __str__(self) -> str:
        return repr(self._url.set(query={}))  # with *** for the password

    @contextmanager
    def read_connection(self) -> Iterator[Connection]:
        """See :py:meth:`Database.read_connection`."""
        with self._translating_errors(), self._readers.acquire():
            raw = self._reader.raw_connection()
            try:
                yield PostgreSQLConnection(raw)
            except psycopg2.Error:
                raw.invalidate()
                raise
            finally:
                raw.close()

    @contextmanager
    def schema_transaction(self) -> Iterator[sqlalchemy.engine.Connection]:
        """See :py:meth:`Database.schema_transaction`."""
        with self._translating_errors(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def migrating(self) -> Iterator[sqlalchemy.engine.Connection]:
        """See :py:meth:`Database.migrating`."""
        with self._translating_errors(), self._writer.connect() as connection:
            connection.exec_driver_sql("SET lock_timeout = 0")
            connection.exec_driver_sql("SET statement_timeout = 0")
            # Who waits for a lock in a statement would be waited for by CREATE INDEX CONCURRENTLY.
            while not connection.exec_driver_sql(_LOCK_MIGRATIONS).scalar_one():
                connection.rollback()
                time.sleep(0.1)
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[sqlalchemy.engine.Connection]:
        """See :py:meth:`Database.snapshot`."""
        with self._translating_errors(), self._writer.connect() as connection:
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

    def _translate(self, error: Any) -> Exception:
        if error.pgcode in _MAY_BE_RUN_AGAIN:
            return TransactionConflict(in_a_line(error))
        if error.pgcode in _MISSING:
            return SchemaMismatch(in_a_line(error))
        if error.pgcode == _INSUFFICIENT_PRIVILEGE or isinstance(
            error, (psycopg2.OperationalError, psycopg2.InterfaceError, psycopg2.InternalError)
        ):
            return DatabaseUnavailable(in_a_line(error))
        translated: Exception = error
        return translated


def _check_connection(connection: Any, record: Any, proxy: Any) -> None:
    # The pool makes another one then.
    if not _is_silent(connection):
        raise exc.DisconnectionError("the server has ended the connection")


# SQLSTATE codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
_MISSING = {"42P01", "42703", "3F000"}  # table, column, schema
_INSUFFICIENT_PRIVILEGE = "42501"
_MAY_BE_RUN_AGAIN = {"40001", "40P01"}  # serialization failure, deadlock

_CHECK_WRITABLE = """
SELECT current_setting('transaction_read_only'),
       (SELECT string_agg(privilege || ' ' || name, ', ')
        FROM (VALUES ('packages', 'SELECT'), ('packages', 'INSERT'),
                     ('preferences', 'SELECT'), ('preferences', 'INSERT'),
                     ('preferences', 'UPDATE'),
                     ('preference_updates', 'SELECT'), ('preference_updates', 'INSERT'),
                     ('counters', 'SELECT'), ('counters', 'INSERT'), ('counters', 'UPDATE'),
                     ('galaxy_express_sequence', 'SELECT'), ('galaxy_express_sequence', 'UPDATE')
             ) AS needed (name, privilege)
        WHERE NOT has_table_privilege(name, privilege))
"""

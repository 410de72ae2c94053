"""A connection to PostgreSQL, and its write transactions."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic
from typing import Any

import psycopg2
from psycopg2.errors import LockNotAvailable

from galaxy_express.storage.database import LAST_SEQUENCE, Connection, Row
from galaxy_express.storage.errors import (
    AlteredSchema,
    Blocked,
    DatabaseUnavailable,
    NotRecorded,
    TransactionConflict,
)
from galaxy_express.storage.postgresql.catalog import (
    DESCRIBE_NUMBERING,
    DESCRIBE_TABLES,
    find_alterations,
)
from galaxy_express.storage.postgresql.confirmations import WRITE_TO_LOG, Confirmations
from galaxy_express.storage.postgresql.errors import is_harmless, translate_as
from galaxy_express.storage.postgresql.limited_connection import LimitedConnection, TimedOut
from galaxy_express.storage.postgresql.statements import STATEMENTS

# The seconds between two checks of the tables on a connection, which cost more than a read.
_TABLES_INTERVAL = 5.0


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
            # Its settings are local to the transaction, so that they work behind a pooler.
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
# With the lock of galaxy_express_draw, which sets the sequence, too. Others may draw numbers before
# it is set, but fewer than a million.
_ADVANCE_SEQUENCE = """
    SELECT pg_advisory_xact_lock(2, 0);
    SELECT setval('galaxy_express_sequence', %(highest)s + 1000000)
    FROM galaxy_express_sequence WHERE last_value <= %(highest)s
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

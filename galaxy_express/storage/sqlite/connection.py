"""A connection to an SQLite file, and its write transactions."""

import fcntl
import json
import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from itertools import chain, repeat
from typing import Any

from galaxy_express.models import metadata_for
from galaxy_express.storage.database import LAST_SEQUENCE, Connection, Row
from galaxy_express.storage.errors import DatabaseUnavailable
from galaxy_express.storage.sqlite.checks import check_intact, check_writable, size
from galaxy_express.storage.sqlite.files import Identity, OpenFiles, next_number
from galaxy_express.storage.sqlite.statements import STATEMENTS

_TABLES = metadata_for("sqlite").tables

_PACKAGES_FROM = "SELECT package_id FROM packages WHERE sequence >= ?"
_LAST_SEQUENCE = """
    SELECT max(coalesce((SELECT max(sequence) FROM packages), 0),
               coalesce((SELECT max(sequence) FROM preference_updates), 0))
"""

# Fails for a view, or if a trigger has an error, without running anything. Without QUERY PLAN,
# SQLite 3.40 explains some triggers in bytes that aren't text.
_EXPLAIN_INSERTS = [f"EXPLAIN QUERY PLAN INSERT INTO {table} DEFAULT VALUES" for table in _TABLES]

# SQLite allows 32,766 parameters.
_MAX_ROWS = 1024


def _rows_per_statement(rows: int) -> int:
    """Return the number itself up to 16, and then the next power of two, so that the driver's cache
    has the statement."""
    return rows if rows <= 16 else 1 << (rows - 1).bit_length()


@cache
def _with_rows(sql: str, rows: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return sql.format(rows=", ".join([row] * rows))


class SQLiteConnection(Connection):
    """A connection to an SQLite file.

    :param path: the path of the file.
    :param identity: the identity of the file before it was opened.
    """

    statements = STATEMENTS

    def __init__(self, raw: Any, path: str, identity: Identity) -> None:
        super().__init__(raw)
        self._path = path
        self._real_path = os.path.realpath(path)  # SQLite follows symbolic links
        self._identity = identity
        self._files = OpenFiles(path, identity)
        self._turn: int | None = None
        self._next_sequence = 0
        self._checked_schema: int | None = None

    def find(self, sql: str, keys: Collection[str]) -> list[Row]:
        """See :py:meth:`Connection.find`."""
        ((rows,),) = self.select(sql, (json.dumps(list(keys), ensure_ascii=False),))
        return [tuple(row) for row in json.loads(rows)]

    def insert_packages(self, rows: Sequence[Row]) -> set[str]:
        """See :py:meth:`Connection.insert_packages`."""
        numbered = self._number(rows)
        inserted = self._write(self.statements.insert_packages, numbered)
        if inserted == len(rows):
            return {row[0] for row in rows}
        # The transaction has had the write lock since it began, so the last rows are its own.
        first = numbered[0][0]
        return {package_id for (package_id,) in self.select(_PACKAGES_FROM, (first,))}

    def insert_updates(self, rows: Sequence[Row]) -> int:
        """See :py:meth:`Connection.insert_updates`."""
        return self._write(self.statements.insert_updates, self._number(rows))

    def read_clock(self) -> int:
        """See :py:meth:`Connection.read_clock`."""
        # Sequence numbers follow the clock as well. A client that has read decisions which a
        # restored backup doesn't have would otherwise miss new ones with the same numbers.
        ((last,),) = self.select(_LAST_SEQUENCE)
        now = time.time_ns() // 1000
        self._next_sequence = max(now, last + 1)
        return self._next_sequence

    def _number(self, rows: Sequence[Row]) -> list[Row]:
        first = self._next_sequence
        self._next_sequence += len(rows)
        return [(first + place, *row) for place, row in enumerate(rows)]

    def last_settled(self) -> int:
        """See :py:meth:`Connection.last_settled`. Transactions commit one after another."""
        return LAST_SEQUENCE

    def read_size(self) -> int:
        """See :py:meth:`Connection.read_size`. The log belongs to the database."""
        return size(self._real_path) + size(f"{self._real_path}-wal")

    def upsert(self, sql: str, rows: Sequence[Row]) -> int:
        """See :py:meth:`Connection.upsert`."""
        return self._write(sql, rows)

    def _write(self, sql: str, rows: Sequence[Row]) -> int:
        # Each execute() releases the GIL and has to win it back, so one statement writes all rows.
        written = 0
        while rows:
            some, rows = rows[:_MAX_ROWS], rows[_MAX_ROWS:]
            number, columns = _rows_per_statement(len(some)), len(some[0])
            missing = repeat(None, (number - len(some)) * columns)
            self.execute(_with_rows(sql, number, columns), (*chain.from_iterable(some), *missing))
            written += self._cursor.rowcount
        return written

    @contextmanager
    def transaction(
        self, lock_timeout: timedelta | None = None, rows: int = 0, names: Collection[str] = ()
    ) -> Iterator[None]:
        """See :py:meth:`Connection.transaction`. There is one lock, for everything."""
        # Processes queue for a lock on a separate file. SQLite's own lock is polled, at growing
        # intervals, while the process that holds it can acquire it again. The data is still
        # protected by SQLite's lock.
        if self._turn is None:
            self._turn = os.open(f"{self._real_path}-turn", os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        try:
            self._begin()
            try:
                yield
            except BaseException:
                self._raw.rollback()
                raise
            self._raw.commit()
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)
        self.check_current()

    def _begin(self) -> None:
        # If the write lock were acquired later, data that was read before could have changed.
        self._cursor.execute("BEGIN IMMEDIATE")
        # Makes each state of the file distinguishable; see files.py.
        ((number,),) = self.select("PRAGMA user_version")
        self._cursor.execute(f"PRAGMA user_version={next_number(number)}")

    def close(self) -> None:
        """See :py:meth:`Connection.close`."""
        super().close()
        self._files.close()
        if self._turn is not None:
            os.close(self._turn)

    def check_writable(self) -> None:
        """See :py:meth:`Connection.check_writable`."""
        check_writable(self._real_path)
        check_writable(os.path.dirname(self._real_path))  # the log is in the same folder
        ((schema,),) = self.select("PRAGMA schema_version")
        if schema != self._checked_schema:
            for statement in _EXPLAIN_INSERTS:
                self.select(statement)
            self._checked_schema = schema

    def is_current(self) -> bool:
        """Return whether the path still refers to the open file, and nothing but SQLite has written
        to it or removed its log.

        Writes to an open file that was deleted or replaced succeed, but are lost. Writes to a file
        that was overwritten mix two databases.
        """
        try:
            stat = os.stat(self._path)
        except FileNotFoundError:
            return False
        if (stat.st_dev, stat.st_ino) != self._identity:
            return False
        return self._files.are_intact(stat)

    def check_current(self) -> None:
        """Check :py:meth:`is_current`.

        :raises DatabaseUnavailable: if it isn't.
        """
        if not self.is_current():
            check_intact(self._path)
            raise DatabaseUnavailable(f"{self._path} was replaced or deleted")

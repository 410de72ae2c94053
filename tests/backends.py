"""The databases that the tests run on, accessed without the tested code."""

import sqlite3
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
from sqlalchemy.engine import URL, make_url


class Backend(ABC):
    """A real database, and ways to make it fail.

    :cvar begin: the statement that begins a write transaction.
    """

    begin: str

    @property
    @abstractmethod
    def url(self) -> str:
        """The value of ``database.url``."""

    @property
    def config(self) -> dict[str, str]:
        """A configuration of the service, with longer timeouts than by default, since the machine
        may be busy."""
        return {
            "database.url": self.url,
            "database.connect_timeout": "60 seconds",
            "database.statement_timeout": "60 seconds",
        }

    @abstractmethod
    def cursor(self) -> AbstractContextManager[Any]:
        """A cursor on a new connection in autocommit mode."""

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement, commit, and return the resulting rows, if any."""
        with self.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    def empty_tables(self) -> None:
        """Remove all rows."""
        with self.transaction() as cursor:
            for table in ("packages", "preferences", "preference_updates", "counters"):
                cursor.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names

    def contents(self) -> list[list[tuple[Any, ...]]]:
        """All packages, preferences and updates, without the times of transactions."""
        return [
            self.rows(
                "SELECT package_id, sender_id, recipient_id, package_type, timestamp, status,"
                " declined_at FROM packages ORDER BY sequence"
            ),
            self.rows("SELECT * FROM preferences ORDER BY recipient_id, package_type"),
            self.rows(
                "SELECT recipient_id, timestamp, wanted, applied FROM preference_updates"
                " ORDER BY sequence"
            ),
        ]

    def stored(self) -> dict[tuple[str, str], int]:
        """The number of packages by status and type, counted from the rows."""
        return self._totals(
            "SELECT status, package_type, count(*) FROM packages GROUP BY status, package_type"
        )

    def counted(self) -> dict[tuple[str, str], int]:
        """The values of the counters, by outcome (a status or ``rejected``) and type."""
        return self._totals(
            "SELECT outcome, package_type, sum(value) FROM counters GROUP BY outcome, package_type"
        )

    def _totals(self, statement: str) -> dict[tuple[str, str], int]:
        return {(outcome, name): int(total) for outcome, name, total in self.rows(statement)}

    @contextmanager
    def transaction(self, end: str = "COMMIT") -> Iterator[Any]:
        """A transaction of another process, which keeps its locks until the block ends."""
        with self.cursor() as cursor:
            cursor.execute(self.begin)
            yield cursor
            cursor.execute(end)

    @abstractmethod
    def locked(self) -> AbstractContextManager[None]:
        """Another process blocks all writes."""

    @abstractmethod
    def unavailable(self) -> AbstractContextManager[None]:
        """The database can't be reached."""

    @abstractmethod
    def read_only(self) -> AbstractContextManager[None]:
        """The database is read-only."""

    @abstractmethod
    def reject_inserts(self, table: str) -> None:
        """Make every insertion into a table violate a constraint of ours, like a bug would."""

    @abstractmethod
    def wait_for_blocked_write(self) -> None:
        """Wait until a write is blocked by a lock."""


class SQLiteBackend(Backend):
    """An SQLite database file."""

    begin = "BEGIN IMMEDIATE"

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def url(self) -> str:
        """See :py:attr:`Backend.url`."""
        return f"sqlite:///{self.path}"

    @contextmanager
    def cursor(self) -> Iterator[Any]:
        """See :py:meth:`Backend.cursor`."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            yield connection.cursor()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """See :py:meth:`Backend.locked`."""
        with self.transaction():
            yield

    @contextmanager
    def unavailable(self) -> Iterator[None]:
        """See :py:meth:`Backend.unavailable`."""
        # The log belongs to the database: it may have commits that the file lacks. So the file is
        # moved first and put back last.
        elsewhere = self.path.parent / "elsewhere"
        elsewhere.mkdir()
        paths = sorted(self.path.parent.glob(f"{self.path.name}*"))
        for path in paths:
            path.rename(elsewhere / path.name)
        yield
        for path in reversed(paths):
            (elsewhere / path.name).rename(path)
        elsewhere.rmdir()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """See :py:meth:`Backend.read_only`."""
        # Root ignores permissions. SQLite doesn't write to files of an unknown, newer format.
        self._set_write_version(3)
        yield
        self._set_write_version(2)  # the version of databases with a write-ahead log

    def _set_write_version(self, version: int) -> None:
        while self.rows("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]:
            time.sleep(0.01)  # another checkpoint is running
        # In another process: closing the file here would release all locks that this process
        # has on it (https://www.sqlite.org/howtocorrupt.html, section 2.2).
        other = self.path.with_suffix(".other")
        subprocess.run(["cp", self.path, other], check=True)
        write = ["dd", f"of={other}", "bs=1", "seek=18", "conv=notrunc"]
        subprocess.run(write, input=bytes([version]), stderr=subprocess.PIPE, check=True)
        other.rename(self.path)

    def reject_inserts(self, table: str) -> None:
        """See :py:meth:`Backend.reject_inserts`."""
        with self.cursor() as cursor:
            cursor.execute("PRAGMA writable_schema=ON")
            cursor.execute(
                "UPDATE sqlite_master SET sql = substr(sql, 1, length(sql) - 1)"
                " || ', CONSTRAINT ck_packages_status CHECK (false))' WHERE name = ?",
                [table],
            )
            ((version,),) = cursor.execute("PRAGMA schema_version")
            cursor.execute(f"PRAGMA schema_version={version + 1}")  # others load it again

    def wait_for_blocked_write(self) -> None:
        """See :py:meth:`Backend.wait_for_blocked_write`."""
        time.sleep(0.1)  # SQLite doesn't show this; the tests don't depend on the delay


class PostgreSQLBackend(Backend):
    """A database of a PostgreSQL server.

    :param server: the URL of any database on the server, with a user who may create databases.
    :param name: the name of the database to create.
    """

    begin = "BEGIN"

    def __init__(self, server: str, name: str) -> None:
        self._server = make_url(server).set(drivername="postgresql")
        self._name = name

    @property
    def url(self) -> str:
        """See :py:attr:`Backend.url`."""
        return self._url(self._server.set(database=self._name))

    @staticmethod
    def _url(url: URL) -> str:
        return str(url.render_as_string(hide_password=False))

    def create(self) -> None:
        """Create the database."""
        self._administrate(f"CREATE DATABASE {self._name} TEMPLATE template0")

    def drop(self) -> None:
        """Drop the database."""
        self._administrate(f"DROP DATABASE {self._name} WITH (FORCE)")

    def reset(self) -> None:
        """Drop everything in the database."""
        with self.cursor() as cursor:
            cursor.execute("SET lock_timeout = '5s'")  # in case a test left a transaction open
            cursor.execute("DROP SCHEMA public CASCADE")
            cursor.execute("CREATE SCHEMA public")

    @contextmanager
    def cursor(self) -> Iterator[Any]:
        """See :py:meth:`Backend.cursor`."""
        with self._cursor(self.url) as cursor:
            yield cursor

    @contextmanager
    def _cursor(self, url: str) -> Iterator[Any]:
        with closing(psycopg2.connect(url)) as connection:
            connection.autocommit = True
            yield connection.cursor()

    def _administrate(self, statement: str, *parameters: str) -> None:
        with self._cursor(self._url(self._server)) as cursor:
            cursor.execute(statement, parameters or None)

    def _end_connections(self) -> None:
        self._administrate(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
            self._name,
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """See :py:meth:`Backend.locked`."""
        with self.transaction() as cursor:
            cursor.execute("LOCK TABLE packages, preferences, counters IN EXCLUSIVE MODE")
            yield

    @contextmanager
    def unavailable(self) -> Iterator[None]:
        """See :py:meth:`Backend.unavailable`."""
        self._administrate(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS false")
        self._end_connections()
        yield
        self._administrate(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS true")

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """See :py:meth:`Backend.read_only`."""
        self._administrate(f"ALTER DATABASE {self._name} SET default_transaction_read_only = on")
        self._end_connections()
        yield
        self._administrate(f"ALTER DATABASE {self._name} RESET default_transaction_read_only")
        self._end_connections()

    def reject_inserts(self, table: str) -> None:
        """See :py:meth:`Backend.reject_inserts`."""
        self.rows(
            f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS ck_packages_status,"
            " ADD CONSTRAINT ck_packages_status CHECK (false) NOT VALID"
        )

    def wait_for_blocked_write(self) -> None:
        """See :py:meth:`Backend.wait_for_blocked_write`."""
        deadline = time.monotonic() + 5
        while not self.rows(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock'"
        ):
            assert time.monotonic() < deadline, "no write waits for a lock"
            time.sleep(0.01)

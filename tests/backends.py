"""The databases that the tests run on, reached past the code that is tested."""

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
    """A real database, and the things that can happen to one.

    :cvar begin: begins a transaction that writes.
    """

    begin: str

    @property
    @abstractmethod
    def url(self) -> str:
        """What ``database.url`` is set to."""

    @property
    def config(self) -> dict[str, str]:
        """A configuration of the service, with more patience than by default: on a busy machine
        the server may answer late."""
        return {
            "database.url": self.url,
            "database.connect_timeout": "60 seconds",
            "database.statement_timeout": "60 seconds",
        }

    @abstractmethod
    def cursor(self) -> AbstractContextManager[Any]:
        """A cursor on a connection of its own, without transactions that begin by themselves."""

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement, commit, and return the rows of its answer, if it has one."""
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
        """How many packages there are, by status and type, counted from the rows."""
        return self._totals(
            "SELECT status, package_type, count(*) FROM packages GROUP BY status, package_type"
        )

    def counted(self) -> dict[tuple[str, str], int]:
        """The same, as the counters have it, and what was rejected under ``rejected``."""
        return self._totals(
            "SELECT outcome, package_type, sum(value) FROM counters GROUP BY outcome, package_type"
        )

    def _totals(self, statement: str) -> dict[tuple[str, str], int]:
        return {(outcome, name): int(total) for outcome, name, total in self.rows(statement)}

    @contextmanager
    def transaction(self, end: str = "COMMIT") -> Iterator[Any]:
        """A transaction of another process, which keeps its locks until it is left."""
        with self.cursor() as cursor:
            cursor.execute(self.begin)
            yield cursor
            cursor.execute(end)

    @abstractmethod
    def locked(self) -> AbstractContextManager[None]:
        """Another process keeps everyone else from writing."""

    @abstractmethod
    def away(self) -> AbstractContextManager[None]:
        """The database can't be reached."""

    @abstractmethod
    def read_only(self) -> AbstractContextManager[None]:
        """The database takes no writes."""

    @abstractmethod
    def refuse_inserts(self, table: str) -> None:
        """Let every insertion into a table fail, as if the code were wrong."""

    @abstractmethod
    def wait_for_blocked_write(self) -> None:
        """Wait until a write waits for the lock of another."""


class SQLiteBackend(Backend):
    """A file of SQLite."""

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
    def away(self) -> Iterator[None]:
        """See :py:meth:`Backend.away`."""
        # A database is its file and its log, which may hold what the file hasn't yet.
        elsewhere = self.path.parent / "elsewhere"
        elsewhere.mkdir()
        for path in self.path.parent.glob(f"{self.path.name}*"):
            path.rename(elsewhere / path.name)
        yield
        for path in elsewhere.iterdir():
            path.rename(self.path.parent / path.name)
        elsewhere.rmdir()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """See :py:meth:`Backend.read_only`."""
        # Permissions are nothing to root. A file of a format to come may only be read.
        self._set_write_version(3)
        yield
        self._set_write_version(2)  # that of a database with a write-ahead log

    def _set_write_version(self, version: int) -> None:
        while self.rows("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]:
            time.sleep(0.01)  # it doesn't wait for another checkpoint
        # By another process: to close the file would give up all locks that this one has on
        # it (https://www.sqlite.org/howtocorrupt.html, section 2.2).
        write = ["dd", f"of={self.path}", "bs=1", "seek=18", "conv=notrunc"]
        subprocess.run(write, input=bytes([version]), stderr=subprocess.PIPE, check=True)

    def refuse_inserts(self, table: str) -> None:
        """See :py:meth:`Backend.refuse_inserts`."""
        self.rows(
            f"CREATE TRIGGER refuse BEFORE INSERT ON {table}"
            " BEGIN SELECT raise(ABORT, 'refused'); END"
        )

    def wait_for_blocked_write(self) -> None:
        """See :py:meth:`Backend.wait_for_blocked_write`."""
        time.sleep(0.1)  # SQLite doesn't tell; what is tested holds for any time


class PostgreSQLBackend(Backend):
    """A database of a PostgreSQL server.

    :param server: the URL of any database of the server, of a user who may make another.
    :param name: the name of the database to make.
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
        """Make the database."""
        self._administrate(f"CREATE DATABASE {self._name} TEMPLATE template0")

    def drop(self) -> None:
        """Remove the database."""
        self._administrate(f"DROP DATABASE {self._name} WITH (FORCE)")

    def reset(self) -> None:
        """Remove everything from the database."""
        with self.cursor() as cursor:
            cursor.execute("SET lock_timeout = '5s'")  # for a transaction that a test left open
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
    def away(self) -> Iterator[None]:
        """See :py:meth:`Backend.away`."""
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

    def refuse_inserts(self, table: str) -> None:
        """See :py:meth:`Backend.refuse_inserts`."""
        self.rows(f"ALTER TABLE {table} ADD CONSTRAINT refuse CHECK (false) NOT VALID")

    def wait_for_blocked_write(self) -> None:
        """See :py:meth:`Backend.wait_for_blocked_write`."""
        deadline = time.monotonic() + 5
        while not self.rows(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock'"
        ):
            assert time.monotonic() < deadline, "no write waits for a lock"
            time.sleep(0.01)

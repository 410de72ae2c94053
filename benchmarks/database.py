"""What a PostgreSQL server on this machine uses: CPU time, write-ahead log, disk, connections."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from benchmarks.processor import family_seconds, parent_pid

# Transactions that only read have no id. Full pages may be counted a second late.
_USAGE = """
    SELECT pg_current_wal_lsn() - '0/0', wal_fpi, pg_snapshot_xmax(pg_current_snapshot())::text
    FROM pg_stat_wal
"""
_SIZES = """
    SELECT count(*), pg_table_size('packages'), pg_relation_size('pk_packages'),
        pg_relation_size('ix_packages_recipient_id_sequence'),
        pg_relation_size('ix_packages_sequence')
    FROM packages
"""
_CONNECTIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend'
      AND pid <> pg_backend_pid()
"""
_SETTINGS = ("fsync", "full_page_writes", "wal_compression", "shared_buffers", "max_wal_size")


class Usage(NamedTuple):
    """What a server has used, in total or per package.

    :ivar processor: the CPU time of all its processes, in seconds.
    :ivar log: the bytes of write-ahead log.
    :ivar full_pages: the full pages in this log: each page that first changed after a checkpoint.
    :ivar transactions: the transactions that wrote.
    """

    processor: float
    log: float
    full_pages: float
    transactions: float


class Sizes(NamedTuple):
    """The bytes per package in the table of packages, and in each of its indexes."""

    rows: float
    ids: float
    recipients: float
    sequence: float


class Meter:
    """Measures a database, through a connection of its own.

    :param url: the URL of the database, on PostgreSQL 14 or newer.
    :raises SystemExit: if its server isn't on this machine.
    """

    def __init__(self, url: str) -> None:
        engine = create_engine(url, future=True, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        self._connection = engine.connect()
        (backend,) = self._row("SELECT pg_backend_pid()")
        program = Path(f"/proc/{backend}/comm")
        if not program.exists() or not program.read_text().startswith("postgres"):
            sys.exit("The CPU time of the database can only be measured on its own machine.")
        self._server = parent_pid(backend)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def usage(self) -> Usage:
        """What the server has used so far."""
        log, full_pages, transactions = map(float, self._row(_USAGE))
        return Usage(family_seconds(self._server), log, full_pages, transactions)

    def sizes(self) -> Sizes:
        """The bytes per package."""
        packages, *sizes = self._row(_SIZES)
        return Sizes(*(size / packages for size in sizes))

    def connections(self) -> int:
        """The number of other connections to the database."""
        return int(self._row(_CONNECTIONS)[0])

    def describe_settings(self) -> str:
        """The settings that costs depend on."""
        return ", ".join(f"{name} = {self._row(f'SHOW {name}')[0]}" for name in _SETTINGS)

    def _row(self, statement: str) -> Any:
        return self._connection.exec_driver_sql(statement).one()

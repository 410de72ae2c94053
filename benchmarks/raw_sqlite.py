"""SQLite alone: inserts the rows of batches, without the service."""

import sqlite3
import statistics
import time
import uuid
from pathlib import Path

from benchmarks.revisions import PRESENT
from benchmarks.wrk import BATCH, Run
from galaxy_express.storage.connect import database_from_config

# The pragmas that determine the speed and durability of inserts.
PRAGMAS = (
    "cache_size",
    "foreign_keys",
    "journal_mode",
    "journal_size_limit",
    "mmap_size",
    "synchronous",
    "temp_store",
    "wal_autocheckpoint",
)

_INSERT = """
    INSERT INTO packages (package_id, sender_id, recipient_id, package_type, timestamp, status)
    VALUES (?, ?, ?, ?, ?, ?)
"""


class RawSQLite:
    """A connection to a database with the service's tables and pragmas.

    :param path: the path of the new database.
    """

    def __init__(self, path: Path) -> None:
        config = {"database.url": f"sqlite:///{path}"}
        PRESENT.create_tables(config["database.url"])
        self._connection = sqlite3.connect(path, isolation_level=None)
        database = database_from_config(config)
        with database.transaction() as connection:
            values = {name: connection.select(f"PRAGMA {name}")[0][0] for name in PRAGMAS}
        database.close()
        for name, value in values.items():
            self._connection.execute(f"PRAGMA {name}={value}")

    def run(self, seconds: int) -> Run:
        """Insert packages for a while, as many per transaction as in a batch.

        The time to generate the rows isn't counted.
        """
        times: list[float] = []
        processor = 0.0
        while sum(times) < seconds:
            rows = [_row(str(uuid.uuid4())) for _ in range(BATCH)]
            start, used = time.perf_counter(), time.process_time()
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(_INSERT, rows)
            self._connection.execute("COMMIT")
            times.append(time.perf_counter() - start)
            processor += time.process_time() - used
        percentiles = statistics.quantiles(times, n=100, method="inclusive")
        return Run(
            seconds=sum(times),
            made=len(times),
            good=len(times),
            errors=0,
            p50=1e3 * percentiles[49],
            p99=1e3 * percentiles[98],
            processor=processor,
        )

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _row(package_id: str) -> tuple[str, str, str, str, int, str]:
    # The same values as in load.lua.
    package_type = "personal" if package_id[-1] < "8" else "marketing"
    return (
        package_id,
        f"sender-{package_id[0]}",
        f"recipient-{package_id[:3]}",
        package_type,
        5_432_961_600_000_000,
        "delivered",
    )

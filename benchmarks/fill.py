"""Inserts millions of packages quickly: the database generates them, without the service."""

import os
import sys

from sqlalchemy import create_engine, text

CHUNK = 500_000

# The ids are random UUIDs, like those in the load. Two calls of randomblob() in one row
# return different bytes.
_SQLITE = """
    INSERT INTO packages (package_id, sender_id, recipient_id, package_type, timestamp, status)
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers LIMIT :rows)
    SELECT lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4'
            || substr(hex(randomblob(2)), 2) || '-8' || substr(hex(randomblob(2)), 2) || '-'
            || hex(randomblob(6))),
        'sender-0', 'recipient-000', 'personal', 5432961600000000, 'delivered'
    FROM numbers
"""
_POSTGRESQL = """
    INSERT INTO packages (package_id, sender_id, recipient_id, package_type, timestamp, status)
    SELECT CAST(gen_random_uuid() AS text), 'sender-0', 'recipient-000', 'personal',
        5432961600000000, 'delivered'
    FROM generate_series(1, :rows)
"""
_COUNT = """
    INSERT INTO counters (shard, outcome, package_type, value)
    VALUES (0, 'delivered', 'personal', :rows)
"""

# Durability is not needed until all packages are inserted. The index fits into the cache.
_SQLITE_BEFORE = ("PRAGMA journal_mode=OFF", "PRAGMA synchronous=OFF", "PRAGMA cache_size=-2000000")
# Otherwise PostgreSQL would do this later, during the measurement.
_POSTGRESQL_AFTER = ("VACUUM ANALYZE packages", "CHECKPOINT")


def fill(database_url: str, packages: int) -> None:
    """Insert packages into empty tables, and set the counters."""
    engine = create_engine(database_url, future=True, isolation_level="AUTOCOMMIT")
    is_sqlite = engine.dialect.name == "sqlite"
    insert = text(_SQLITE if is_sqlite else _POSTGRESQL)
    with engine.connect() as connection:
        for pragma in _SQLITE_BEFORE if is_sqlite else ():
            connection.exec_driver_sql(pragma)
        for done in range(0, packages, CHUNK):
            print(f"\r{done:,} of {packages:,} packages stored", end="", file=sys.stderr)
            connection.execute(insert, {"rows": min(CHUNK, packages - done)})
        print(file=sys.stderr)
        connection.execute(text(_COUNT), {"rows": packages})
        for statement in () if is_sqlite else _POSTGRESQL_AFTER:
            connection.exec_driver_sql(statement)
    engine.dispose()
    os.sync()  # otherwise the system would write during the measurement

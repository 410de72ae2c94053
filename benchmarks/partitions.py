"""``python -m benchmarks.partitions``: the effect of partitions on PostgreSQL.

Copies one database, partitions each copy differently, and measures reads and writes in this
process, without HTTP.
"""

import argparse
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from galaxy_express.delivery import Package
from galaxy_express.desk import DeliveryDesk, SendRequest
from galaxy_express.models import create_schema
from galaxy_express.ops.partition import partition_packages
from galaxy_express.package_types import PACKAGE_TYPES
from galaxy_express.storage import queries
from galaxy_express.storage.connect import database_from_config
from galaxy_express.storage.database import Database
from galaxy_express.storage.queries import PageRequest
from tests.backends import PostgreSQLBackend

REPETITIONS = 100
PAGE = 100
BATCH = 500
RECIPIENTS = 1_000
NOON = datetime(2142, 3, 1, 12, tzinfo=UTC)

_FILL = """
    INSERT INTO packages
        (package_id, sender_id, recipient_id, package_type, timestamp, status, sequence)
    SELECT gen_random_uuid()::text, 'sender-0', 'recipient-' || n % {recipients}, 'personal',
        5432961600000000, 'delivered', n
    FROM generate_series(1, {packages}) AS n
"""
_SIZES = """
    SELECT sum(pg_table_size(oid)), sum(pg_indexes_size(oid))
    FROM pg_class WHERE relname ~ '^packages(_[0-9]+)?$' AND relkind = 'r'
"""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description="Measure the effect of partitions on PostgreSQL.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("url", help="any database on a server where databases can be created")
    parser.add_argument("--packages", type=int, default=10_000_000, help="the number of packages")
    parser.add_argument(
        "--partitions", type=int, nargs="*", default=[4, 16, 64], help="the numbers to compare"
    )
    settings = parser.parse_args()
    server = PostgreSQLBackend(settings.url, "postgres")
    (version,) = server.rows("SHOW server_version")[0]
    print(f"PostgreSQL {version}, {settings.packages:,} packages, {os.cpu_count()} cores")
    with _database(server, settings.url, "template0") as filled:
        create_schema(filled.config)
        filled.rows(_FILL.format(recipients=RECIPIENTS, packages=settings.packages))
        for number in (0, *settings.partitions):
            template = filled.rows("SELECT current_database()")[0][0]
            with _database(server, settings.url, template) as backend:
                _measure(backend, number, settings.packages)


@contextmanager
def _database(server: PostgreSQLBackend, url: str, template: str) -> Iterator[PostgreSQLBackend]:
    name = f"galaxy_express_bench_{uuid.uuid4().hex}"
    server.rows(f"CREATE DATABASE {name} TEMPLATE {template}")
    backend = PostgreSQLBackend(url, name)
    try:
        yield backend
    finally:
        backend.drop()


def _measure(backend: PostgreSQLBackend, number: int, packages: int) -> None:
    start = time.perf_counter()
    if number:
        partition_packages(backend.config, [str(number)])
    seconds = time.perf_counter() - start
    backend.rows("VACUUM ANALYZE packages")
    backend.rows("CHECKPOINT")
    table, indexes = map(float, backend.rows(_SIZES)[0])
    print(
        f"\n{number} partitions, made in {seconds:.0f} s: {table / 1e6:,.0f} MB of rows,"
        f" {indexes / 1e6:,.0f} MB of indexes. Milliseconds: median, 95th percentile"
    )
    database = database_from_config(backend.config)
    for name, action in _actions(database, packages).items():
        action()
        times = sorted(_milliseconds(action) for _ in range(REPETITIONS))
        median, high = times[REPETITIONS // 2], times[REPETITIONS * 95 // 100]
        print(f"  {name:<40} {median:>8.2f} {high:>8.2f}", flush=True)
    database.close()


def _actions(database: Database, packages: int) -> dict[str, Callable[[], None]]:
    desk = DeliveryDesk(database, PACKAGE_TYPES)

    def read(recipient_id: str | None, ascending: bool, after: float) -> Callable[[], None]:
        request = PageRequest(ascending, int(packages * after), PAGE)

        def action() -> None:
            with database.read_connection() as connection:
                page = queries.find_decisions_page(connection, recipient_id, request)
            assert len(page.items) == PAGE

        return action

    def find() -> None:
        with database.read_connection() as connection:
            queries.find_decision(connection, str(uuid.uuid4()))

    def send(number: int) -> Callable[[], None]:
        def action() -> None:
            ids = [str(uuid.uuid4()) for _ in range(number)]
            sent = [Package(each, "sender-0", "recipient-0", "personal", NOON) for each in ids]
            desk.commit([SendRequest(sent)])

        return action

    return {
        "feed, after 1% of the packages": read(None, True, 0.01),
        "feed, after 99%": read(None, True, 0.99),
        "list, before 99%": read(None, False, 0.99),
        "feed of a recipient, after 1%": read("recipient-1", True, 0.01),
        "list of a recipient, before 99%": read("recipient-1", False, 0.99),
        "one decision": find,
        "one send": send(1),
        f"a batch of {BATCH} sends": send(BATCH),
    }


def _milliseconds(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return 1e3 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()

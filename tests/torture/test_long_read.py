"""A long read with concurrent writes: the log grows during it, and is emptied afterwards."""

import json
import time
from itertools import count
from statistics import median, quantiles

import pytest

from galaxy_express.ops.audit import audit_database
from galaxy_express.storage.sqlite.database import LOG_BYTES
from tests.servers.http_client import head
from tests.servers.load import numbered_package
from tests.servers.running import Installation, wait_until
from tests.torture.amount import Amount
from tests.torture.conftest import Report
from tests.torture.hammer import hammer

CLIENTS = 8
BATCH = 20

MEGABYTE = 10**6


@pytest.mark.long
def test_long_read(installation: Installation, amount: Amount, report: Report) -> None:
    """The log grows during a long read, and is emptied after it, even without further writes."""
    log = installation.folder / "galaxy_express.db-wal"
    numbers = count()

    def batch(size: int) -> list[dict[str, str]]:
        return [numbered_package("package", next(numbers)) for _ in range(size)]

    def request() -> bytes:
        content = json.dumps(batch(BATCH)).encode()
        return head("POST /packages/batch HTTP/1.1", f"Content-Length: {len(content)}") + content

    with installation.gunicorn(workers=amount.workers) as server:
        seconds: list[float] = []
        with installation.database.cursor() as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM packages").fetchall()
            begun = time.monotonic()
            for hit in hammer(server.port, CLIENTS, 60 * amount.read_minutes, request):
                assert hit.status == 200
                seconds.append(hit.seconds)
            while log.stat().st_size <= LOG_BYTES:
                assert server.request("POST", "/packages/batch", batch(1000)).status == 200
            ended = time.monotonic()
        size = log.stat().st_size
        wait_until(lambda: log.stat().st_size == 0, "the log is empty")
        emptied = time.monotonic()
    audit_database(installation.database.config)
    centiles = quantiles(seconds, n=100)
    report(
        f"a long read with concurrent batches of {BATCH}, {amount.workers} workers",
        f"{(ended - begun) / 60:.1f} minutes, {next(numbers):,} packages",
        f"the log grew to {size / MEGABYTE:,.0f} MB, and was empty {emptied - ended:.0f} s after"
        f" the read; p50 {median(seconds) * 1000:.0f} ms, p99 {centiles[98] * 1000:.0f} ms",
    )

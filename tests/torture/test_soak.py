"""A long everyday load: resource usage and latency don't grow."""

import json
import random
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, quantiles

import pytest

from galaxy_express.ops.audit import audit_database
from tests.servers.http_client import head
from tests.servers.load import numbered_package, update
from tests.servers.running import Installation, Server
from tests.torture.amount import Amount
from tests.torture.conftest import Report
from tests.torture.hammer import Hit, hammer
from tests.torture.resources import open_files, resident_megabytes

CLIENTS = 32
SAMPLES = 40

# Megabytes. SQLite runs a blocking checkpoint at 84.
LARGEST_LOG = 150


@dataclass(frozen=True)
class _Sample:
    """Measurements of one part of the run.

    :param memory: memory of the largest worker, in megabytes.
    :param files: the workers' open files.
    :param log: the size of the write-ahead log, in megabytes.
    :param p50: in milliseconds, like ``p99``.
    """

    memory: float
    files: int
    log: float
    p50: float
    p99: float


@pytest.mark.soak
def test_soak(
    installation: Installation, amount: Amount, rng: random.Random, report: Report
) -> None:
    """Memory, files and latency don't grow between the second and last quarter, and the log stays
    bounded."""
    seconds = 60 * amount.soak_minutes
    requests = _Requests(rng)
    samples: list[_Sample] = []
    window: list[Hit] = []
    total = 0
    with installation.gunicorn() as server:
        started = time.monotonic()
        for hit in hammer(server.port, CLIENTS, seconds, requests):
            assert hit.status in (200, 201, 400)
            total += 1
            window.append(hit)
            if time.monotonic() > started + (len(samples) + 1) * seconds / SAMPLES:
                samples.append(_sample(server, installation.folder, window))
                window = []
    audit_database(installation.database.config)

    quarter = len(samples) // 4
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    assert _memory(late) < 1.1 * _memory(early)
    assert max(sample.files for sample in late) <= max(sample.files for sample in early) + 2
    assert max(sample.log for sample in samples) < LARGEST_LOG
    assert _p50(late) < 3 * _p50(early)  # the machine may be busy
    report(
        f"mixed load of {CLIENTS} clients",
        f"{amount.soak_minutes:g} minutes, {total:,} requests",
        f"second quarter and last: memory {_memory(early):.0f} and {_memory(late):.0f} MB,"
        f" files {early[-1].files} and {late[-1].files},"
        f" p50 {_p50(early):.0f} and {_p50(late):.0f} ms,"
        f" p99 {_p99(early):.0f} and {_p99(late):.0f} ms;"
        f" largest log {max(sample.log for sample in samples):.0f} MB",
    )


class _Requests:
    """Generates requests: new and repeated packages, batches, preferences, reads, errors."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._number = 0
        self._recent: deque[int] = deque([0], maxlen=10_000)

    def __call__(self) -> bytes:
        kind = self._rng.random()
        if kind < 0.5:
            return _request("POST", "/packages", self._new_package())
        if kind < 0.7:
            pkg = numbered_package("package", self._rng.choice(self._recent))
            return _request("POST", "/packages", pkg)
        if kind < 0.75:
            return _request("POST", "/packages/batch", [self._new_package() for _ in range(20)])
        if kind < 0.85:
            recipient = f"recipient-{self._rng.randrange(100_000)}"
            wanted = self._rng.random() < 0.5
            job = update(recipient, time.time_ns() // 1000, True, wanted)
            return _request(job.method, job.path, job.body)
        if kind < 0.98:
            path = self._rng.choice(["/statistics", "/recipients/recipient-1/preferences"])
            return head(f"GET {path} HTTP/1.1")
        return _request("POST", "/packages", "nonsense")

    def _new_package(self) -> dict[str, str]:
        self._number += 1
        self._recent.append(self._number)
        return numbered_package("package", self._number)


def _request(method: str, path: str, body: object) -> bytes:
    content = json.dumps(body).encode()
    return head(f"{method} {path} HTTP/1.1", f"Content-Length: {len(content)}") + content


def _sample(server: Server, folder: Path, window: list[Hit]) -> _Sample:
    latencies = quantiles((1e3 * hit.seconds for hit in window), n=100)
    return _Sample(
        memory=max(resident_megabytes(worker) for worker in server.workers),
        files=sum(open_files(worker) for worker in server.workers),
        log=(folder / "galaxy_express.db-wal").stat().st_size / 1e6,
        p50=latencies[49],
        p99=latencies[98],
    )


def _memory(samples: list[_Sample]) -> float:
    return mean(sample.memory for sample in samples)


def _p50(samples: list[_Sample]) -> float:
    return median(sample.p50 for sample in samples)


def _p99(samples: list[_Sample]) -> float:
    return median(sample.p99 for sample in samples)

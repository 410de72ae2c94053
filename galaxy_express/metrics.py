"""The metrics of the service, for Prometheus.

The set of labels is bounded: a package type is a registered one, or empty for a send that
was rejected, since its type can't be trusted.
"""

import os
import struct
from collections.abc import Iterable
from functools import cache
from glob import glob

from prometheus_client import Counter, Gauge, Histogram, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from galaxy_express.metric_series import Record, incrementing, observing, setting

_SENDS = Counter(
    "galaxy_express_sends_total",
    "Packages submitted, by outcome",
    ["outcome", "package_type"],
)
_PREFERENCE_UPDATES = Counter(
    "galaxy_express_preference_updates_total",
    "Preference updates, by whether they are completely current (applied) or not (stale)",
    ["result"],
)
_COMMIT_SECONDS = Histogram(
    "galaxy_express_commit_seconds",
    "Time to commit a group of writes, by whether it succeeded",
    ["success"],
    buckets=[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
)
_COMMIT_WRITES = Histogram(
    "galaxy_express_commit_writes",
    "Writes in a group that was committed",
    buckets=[1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
)
_QUEUED_PACKAGES = Gauge(
    "galaxy_express_queued_packages",
    "Packages (and other writes, each counted as one) waiting for a commit",
    multiprocess_mode="livesum",
)
_DROPPED_LOG_LINES = Counter(
    "galaxy_express_log_lines_dropped_total",
    "Log lines dropped because nothing reads the log or its disk is full",
)
_DATABASE_TIMEOUTS = Counter(
    "galaxy_express_database_timeouts_total",
    "Operations that timed out waiting for PostgreSQL, and failures to connect",
    ["operation"],
)
_UNREADY_WORKERS = Gauge(
    "galaxy_express_unready_workers",
    "Workers whose last readiness probe failed",
    multiprocess_mode="livesum",
)
_CHECKPOINT_FAILURES = Counter(
    "galaxy_express_checkpoint_failures_total",
    "Checkpoints of SQLite's write-ahead log that failed",
)
_FAILED_REQUESTS = Counter(
    "galaxy_express_failed_requests_total",
    "Requests that the service failed to handle, by the code of the problem document",
    ["code"],
)
_UNREADABLE_REQUESTS = Counter(
    "galaxy_express_unreadable_requests_total",
    "Requests that can't be read: invalid HTTP, or a head that exceeds a limit",
)

# Create the series at startup: rate() and increase() ignore the event that creates a series.
for _code in ("unavailable", "overloaded", "timed_out", "internal"):
    _FAILED_REQUESTS.labels(_code)
for _operation in ("connect", "statement", "commit"):
    _DATABASE_TIMEOUTS.labels(_operation)


# Looking up labels costs several times as much as counting, so the results are cached.
@cache
def _sends(outcome: str, package_type: str) -> Record:
    return incrementing(_SENDS.labels(outcome, package_type))


@cache
def _updates(result: str) -> Record:
    return incrementing(_PREFERENCE_UPDATES.labels(result))


@cache
def _seconds(success: bool) -> Record:
    return observing(_COMMIT_SECONDS.labels(str(success).lower()))


_writes = observing(_COMMIT_WRITES)
_set_queued = setting(_QUEUED_PACKAGES)
_set_unready = setting(_UNREADY_WORKERS)


def count_sends(outcome: str, package_type: str, number: int) -> None:
    """Count packages that were submitted.

    :param outcome: ``delivered``, ``dropped``, ``replayed`` or ``conflicting``.
    """
    _sends(outcome, package_type)(number)


def count_rejected(number: int) -> None:
    """Count sends that were rejected."""
    _sends("rejected", "")(number)


def count_preference_update(applied: bool) -> None:
    """Count a preference update."""
    _updates("applied" if applied else "stale")(1)


def count_dropped_log_line() -> None:
    """Count a log line that was lost, completely or in part."""
    _DROPPED_LOG_LINES.inc()


def count_unreadable_request() -> None:
    """Count a request that can't be read."""
    _UNREADABLE_REQUESTS.inc()


def observe_commit(writes: int, seconds: float, success: bool) -> None:
    """Record the size of a group of writes, and the duration of its commit in seconds."""
    _seconds(success)(seconds)
    if success:
        _writes(writes)


def count_checkpoint_failure() -> None:
    """Count a failed checkpoint of SQLite's write-ahead log."""
    _CHECKPOINT_FAILURES.inc()


def count_failed_request(code: str) -> None:
    """Count a request that the service failed to handle.

    :param code: ``unavailable``, ``overloaded``, ``timed_out`` or ``internal``.
    """
    _FAILED_REQUESTS.labels(code).inc()


def count_database_timeout(operation: str) -> None:
    """Count an operation that timed out waiting for PostgreSQL, or a failure to connect.

    :param operation: ``connect``, ``statement`` or ``commit``.
    """
    _DATABASE_TIMEOUTS.labels(operation).inc()


def set_ready(ready: bool) -> None:
    """Record the result of a readiness probe."""
    _set_unready(not ready)


def set_queue_length(packages: int) -> None:
    """Record the number of packages waiting for a commit."""
    _set_queued(packages)


def count_queued() -> int | None:
    """Return how many packages wait for a commit, in all workers of this instance.

    It only reads the workers' files of live gauges, so it is cheaper than the exporter.

    :returns: ``None`` if it is unknown: gunicorn's workers can only see each other's numbers in
        those files, which don't exist if metrics are off.
    """
    if "MULTIPROCESS_WORKER_ID" not in os.environ:  # the only process
        return _sum(_QUEUED_PACKAGES.collect())
    try:
        files = glob(os.path.join(os.environ["PROMETHEUS_MULTIPROC_DIR"], "gauge_livesum_*.db"))
        return _sum(MultiProcessCollector.merge(files)) if files else None
    # The folder was never created, or a file is damaged.
    except (KeyError, OSError, ValueError, RuntimeError, IndexError, struct.error):
        return None


def _sum(metrics: Iterable[Metric]) -> int:
    name = "galaxy_express_queued_packages"
    samples = (sample for metric in metrics for sample in metric.samples if sample.name == name)
    return int(sum(sample.value for sample in samples))

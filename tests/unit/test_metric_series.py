"""Values are recorded as by prometheus_client's own methods."""

from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from galaxy_express.metric_series import incrementing, observing, setting

Record = Callable[[float], object]


def exported(record: Callable[[Any], Record], kind: Any, amounts: list[float]) -> bytes:
    """Record amounts in a metric with labels; return what Prometheus reads."""
    registry = CollectorRegistry()
    series = kind("a", "A metric", ["label"], registry=registry).labels("x")
    for amount in amounts:
        record(series)(amount)
    lines = generate_latest(registry).splitlines()
    return b"\n".join(line for line in lines if b"_created" not in line)


@pytest.mark.parametrize(
    ("record", "original", "kind"),
    [
        (incrementing, lambda series: series.inc, Counter),
        (incrementing, lambda series: series.inc, Gauge),
        (setting, lambda series: series.set, Gauge),
        (observing, lambda series: series.observe, Histogram),
    ],
)
def test_recorded_values(
    record: Callable[[Any], Record], original: Callable[[Any], Record], kind: Any
) -> None:
    """Amounts below, at, between and above the bounds of buckets are recorded."""
    amounts = [0, 0.004, 0.005, 0.0051, 1, 2.5, 9.99, 10, 10.01, 1e9]
    assert exported(record, kind, amounts) == exported(original, kind, amounts)

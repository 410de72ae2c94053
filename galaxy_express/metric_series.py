"""Recording into prometheus_client's series without its checks, which take most of the time.

Every request records about ten values, so this is a tenth of the time of a request. The checks find
metrics whose labels are missing, and negative increments. Values are only reachable through private
names: ``tests/unit/test_metric_series.py`` fails if they change.
"""

from bisect import bisect_left
from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram

#: Records an amount.
Record = Callable[[float], None]


def incrementing(series: Counter | Gauge) -> Record:
    """Return a function that does the same as ``series.inc``; the amount is required.

    :param series: with values for its labels, if it has any.
    """
    increment: Record = series._value.inc  # noqa: SLF001
    return increment


def setting(series: Gauge) -> Record:
    """Return a function that does the same as ``series.set``."""
    set_: Record = series._value.set  # noqa: SLF001
    return set_


def observing(series: Histogram) -> Record:
    """Return a function that does the same as ``series.observe``."""
    bounds = series._upper_bounds  # noqa: SLF001
    counts: list[Record] = [count.inc for count in series._buckets]  # noqa: SLF001
    add: Record = series._sum.inc  # noqa: SLF001

    def observe(amount: float) -> None:
        counts[bisect_left(bounds, amount)](1)
        add(amount)

    return observe

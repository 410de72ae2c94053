"""The arithmetic of capacity planning."""

from dataclasses import replace
from statistics import median

import pytest

from benchmarks import sizing
from benchmarks.database import Sizes, Usage
from benchmarks.instances import KINDS, add_up, cost_per_package
from benchmarks.sizing import Cost, Plan, combine, pages_changed, plans_table
from benchmarks.wrk import Run

COST = Cost(
    service=345e-6,
    database=140e-6,
    log=500,
    full_pages=0,
    transactions=0.1,
    rows=150,
    ids=80,
    recipients=50,
    sequence=20,
)
PLAN = Plan(COST, rate=10_000, workers=2, pool_size=10)


def test_runs_at_the_same_time_are_one() -> None:
    """Instances add up to the sum of their responses in the longest time, with the worst p99."""
    first = Run(3.0, made=31, good=30, errors=1, p50=2, p99=8, wrk=0.1, processor=1.0)
    second = Run(3.1, made=21, good=20, errors=0, p50=4, p99=5, wrk=0.2, processor=0.5)
    together = add_up([first, second])
    assert together.seconds == 3.1
    assert (together.made, together.good, together.errors) == (52, 50, 1)
    assert (together.p50, together.p99, together.processor) == (3, 8, 1.5)


def test_cost_of_a_package() -> None:
    """What was used during a run is divided by its packages; sizes are per package already."""
    send, batch = (kind.line(2) for kind in KINDS)
    before = Usage(processor=10, log=1_000, full_pages=5, transactions=70)
    after = Usage(processor=12, log=101_000, full_pages=10, transactions=90)
    run = Run(1.0, made=100, good=100, errors=0, p50=1, p99=1, processor=4)
    sizes = Sizes(rows=150, ids=80, recipients=50, sequence=20)
    cost = cost_per_package(send, run, before, after, sizes)
    assert cost == Cost(
        service=0.04,
        database=0.02,
        log=1_000,
        full_pages=0.05,
        transactions=0.2,
        rows=150,
        ids=80,
        recipients=50,
        sequence=20,
    )
    assert cost.stored == 300
    assert cost_per_package(batch, run, before, after, sizes).log == 2


def test_costs_are_combined_figure_by_figure() -> None:
    """The highest cost has the highest of each figure, from whichever measurement."""
    others = [COST._replace(service=1), COST._replace(log=9_000)]
    assert combine(max, [COST, *others]) == COST._replace(service=1, log=9_000)
    assert combine(median, [COST, *others]) == COST


def test_pages_changed_by_few_changes() -> None:
    """A few changes among many pages each change another page."""
    assert pages_changed(1_000, 1e9) == pytest.approx(1_000, rel=1e-5)


def test_pages_changed_by_many_changes() -> None:
    """Many changes of a few pages change all of them, and never more."""
    assert pages_changed(1e9, 1_000) == 1_000


def test_pages_changed_by_as_many_changes() -> None:
    """As many random changes as there are pages miss a part of 1/e."""
    assert pages_changed(1e6, 1e6) == pytest.approx(1e6 * (1 - 0.3679), rel=1e-3)


def test_cores_are_busy_in_part() -> None:
    """Cores are the CPU time per second, divided by the part of it that may be busy."""
    assert PLAN.service_cores == pytest.approx(10_000 * 345e-6 / 0.7)
    assert PLAN.database_cores == pytest.approx(10_000 * 140e-6 / 0.7)


def test_instances_are_rounded_up() -> None:
    """Five cores need three instances of two workers, which open eleven connections each."""
    assert PLAN.service_cores == pytest.approx(4.93, abs=0.01)
    assert PLAN.instances == 3
    assert PLAN.connections == 3 * 2 * 11


def test_rates_of_the_database() -> None:
    """Transactions, log and disk space are proportional to the rate."""
    assert PLAN.transactions == pytest.approx(1_000)
    assert PLAN.log == pytest.approx(5e6)
    assert PLAN.disk_per_day == pytest.approx(10_000 * 300 * 86_400)
    assert PLAN.memory_hours == pytest.approx(256e9 / 130 / 10_000 / 3600)
    assert PLAN.hours == pytest.approx(1e9 / 10_000 / 3600)
    assert PLAN.freeze_hours == pytest.approx(200e6 / 1_000 / 3600)


def test_full_pages_in_a_large_database() -> None:
    """With many pages, each package logs one page of each index of random keys."""
    slow = replace(PLAN, rate=10)
    page = sizing.USED * sizing.PAGE
    assert slow.log_when_full == pytest.approx(10 * (500 + 2 * page), rel=0.001)


def test_full_pages_are_shared_at_high_rates() -> None:
    """A page is logged once per checkpoint, however many packages change it."""
    fast = replace(PLAN, rate=10_000_000)
    pages = 1e9 * (80 + 50) / sizing.PAGE
    once = pages * sizing.USED * sizing.PAGE / 300
    assert fast.log_when_full - fast.log == pytest.approx(once, rel=0.001)


def test_limits_are_sorted_by_use() -> None:
    """The limit that is reached first is the first one."""
    limits = replace(PLAN, rate=1_000_000).limits()
    assert next(iter(limits)) == "connections"
    assert limits["connections"] == pytest.approx(247 * 2 * 11 / 100)
    assert limits["shards of counters"] == pytest.approx(247 * 2 / 64)
    assert limits["database cores"] == pytest.approx(200 / 64)
    assert limits["memory for indexes"] == pytest.approx(130e9 / 256e9)
    assert limits["sequence numbers"] == 1
    assert list(limits.values()) == sorted(limits.values(), reverse=True)


def test_figures_are_marked() -> None:
    """Figures up to the measured rate are marked as measured, except those of a large database."""
    plans = [replace(PLAN, rate=rate) for rate in (10_000, 100_000)]
    rows = {row.split(" | ")[0]: row for row in plans_table("send", plans, 20_000).splitlines()}
    assert rows["| service cores"] == (
        "| service cores | 345 µs (measured) | 4.9 (measured) | 49 (extrapolated) |"
    )
    assert rows["| - `max_wal_size`, GB"].count("extrapolated") == 2


def test_limits_of_a_plan() -> None:
    """Limits that are reached are named, the worst first; if there are none, the next one."""
    plans = [replace(PLAN, rate=rate) for rate in (1_000, 100_000)]
    last = plans_table("send", plans, 0).splitlines()[-1]
    assert last == (
        "| limits reached, the worst first |  | none (memory for indexes 51%) | connections 550% |"
    )

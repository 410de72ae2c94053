"""Capacity planning: what a rate of sends needs, calculated from what one package costs.

Nearly everything is proportional to the rate. Full pages in the write-ahead log aren't: after a
checkpoint PostgreSQL logs each page as a whole when it first changes. Ids are random, so with many
stored packages nearly every new one changes other pages of the indexes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, expm1
from typing import NamedTuple

from benchmarks.report import table
from galaxy_express.desk import SHARDS

#: The part of a core that may be busy; the rest is for peaks.
BUSY = 0.7
#: The number of stored packages for which full pages and the indexes are calculated.
STORED = 1_000_000_000
#: Bytes of a page, and the part of it that is in use if keys are random: ln 2 on average. A logged
#: page lacks its free space.
PAGE = 8192
USED = 0.7
#: Defaults of PostgreSQL: ``checkpoint_timeout``, ``checkpoint_completion_target``,
#: ``max_connections`` and ``autovacuum_freeze_max_age``.
CHECKPOINT_SECONDS = 300
CHECKPOINT_TARGET = 0.9
MAX_CONNECTIONS = 100
FREEZE_TRANSACTIONS = 200_000_000
#: A large server: its cores, its memory, and the bytes per second that it can write to its log.
CORES = 64
MEMORY = 256e9
LOG = 1e9
#: Sequence numbers follow the clock, which counts microseconds; see ``galaxy_express_draw``.
NUMBERS = 1_000_000

ASSUMPTIONS = f"""\
Assumed:

- A package costs the most that was measured, with any number of instances.
- At most {BUSY:.0%} of a core is busy: cores = rate x CPU time per package / {BUSY}. A worker uses
  one core.
- Connections = instances x workers x (`pool_size` + 1), the most that the service opens.
- With {STORED:,} packages: ids are random, there are many recipients, and checkpoints begin every
  {CHECKPOINT_SECONDS} s. Each changed page of the indexes of ids and recipients is logged once per
  checkpoint, without its free space: {USED:.0%} of {PAGE:,} bytes.
- Limits: {MAX_CONNECTIONS} connections (the default of `max_connections`); {SHARDS} workers, one
  for each shard of the counters; {CORES} database cores; {LOG / 1e6:,.0f} MB/s of write-ahead log
  and {MEMORY / 1e9:.0f} GB of memory for the indexes of ids and recipients, both with
  {STORED:,} packages; {NUMBERS:,} sequence numbers per second, more of which would overtake
  the clock.
"""


class Cost(NamedTuple):
    """What one package costs.

    :ivar service: the CPU time of the service, in seconds.
    :ivar database: the CPU time of the database, in seconds.
    :ivar log: the bytes of write-ahead log.
    :ivar full_pages: the full pages in this log.
    :ivar transactions: the transactions that wrote.
    :ivar rows: the bytes of the table.
    :ivar ids: the bytes of the index of ids.
    :ivar recipients: the bytes of the index of recipients.
    :ivar sequence: the bytes of the index of sequence numbers.
    """

    service: float
    database: float
    log: float
    full_pages: float
    transactions: float
    rows: float
    ids: float
    recipients: float
    sequence: float

    @property
    def stored(self) -> float:
        """The bytes of the table and its indexes."""
        return self.rows + self.ids + self.recipients + self.sequence


def combine(function: Callable[[Iterable[float]], float], costs: Iterable[Cost]) -> Cost:
    """Combine each figure of several costs, for example with ``max``."""
    return Cost(*map(function, zip(*costs, strict=True)))


def pages_changed(changes: float, pages: float) -> float:
    """The expected number of pages that random changes are made to.

    :param pages: the number of pages that there are.
    """
    return pages * -expm1(-changes / pages)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rate of sends needs.

    :param rate: packages per second.
    :param workers: the number of workers of each instance.
    :param pool_size: the number of connections of each worker for reading.
    """

    cost: Cost
    rate: int
    workers: int
    pool_size: int

    @property
    def service_cores(self) -> float:
        """The cores for the service."""
        return self.rate * self.cost.service / BUSY

    @property
    def instances(self) -> int:
        """The number of instances."""
        return ceil(self.service_cores / self.workers)

    @property
    def database_cores(self) -> float:
        """The cores for the database."""
        return self.rate * self.cost.database / BUSY

    @property
    def connections(self) -> int:
        """The maximum number of connections."""
        return self.instances * self.workers * (self.pool_size + 1)

    @property
    def transactions(self) -> float:
        """Transactions per second."""
        return self.rate * self.cost.transactions

    @property
    def freeze_hours(self) -> float:
        """The hours after which older rows must be frozen: transaction ids have 32 bits."""
        return FREEZE_TRANSACTIONS / self.transactions / 3600

    @property
    def log(self) -> float:
        """Bytes of write-ahead log per second, in a small database."""
        return self.rate * self.cost.log

    @property
    def log_when_full(self) -> float:
        """Bytes of write-ahead log per second in a large database, where pages are logged."""
        pages = sum(
            pages_changed(self.rate * CHECKPOINT_SECONDS, STORED * index / PAGE)
            for index in (self.cost.ids, self.cost.recipients)
        )
        return self.log + pages * USED * PAGE / CHECKPOINT_SECONDS

    @property
    def max_wal_size(self) -> float:
        """The least ``max_wal_size`` in bytes with which checkpoints don't begin earlier."""
        return self.log_when_full * CHECKPOINT_SECONDS * (1 + CHECKPOINT_TARGET)

    @property
    def disk_per_day(self) -> float:
        """Bytes of rows and indexes per day."""
        return self.rate * self.cost.stored * 86_400

    @property
    def hours(self) -> float:
        """The hours until the database is large."""
        return STORED / self.rate / 3600

    @property
    def memory_hours(self) -> float:
        """The hours until the indexes of random keys no longer fit into memory."""
        return MEMORY / (self.cost.ids + self.cost.recipients) / self.rate / 3600

    def limits(self) -> dict[str, float]:
        """How much of each limit is used, the most first; 1 if it is reached."""
        used = {
            "connections": self.connections / MAX_CONNECTIONS,
            "shards of counters": self.instances * self.workers / SHARDS,
            "database cores": self.database_cores / CORES,
            "write-ahead log": self.log_when_full / LOG,
            "memory for indexes": STORED * (self.cost.ids + self.cost.recipients) / MEMORY,
            "sequence numbers": self.rate / NUMBERS,
        }
        return dict(sorted(used.items(), key=lambda limit: -limit[1]))


def plans_table(name: str, plans: Sequence[Plan], reached: float) -> str:
    """A table of what several rates need.

    :param name: what is sent.
    :param plans: plans with the same cost.
    :param reached: the highest rate that was measured. The figures for higher ones are marked as
        extrapolated.
    """

    def row(
        name: str, figure: Callable[[Plan], float], one: str = "", *, large: bool = False
    ) -> list[str]:
        cells = [name, one and f"{one} (measured)"]
        for plan in plans:
            mark = "extrapolated" if large or plan.rate > reached else "measured"
            cells.append(f"{_short(figure(plan))} ({mark})")
        return cells

    cost = plans[0].cost
    return table(
        (name, "per package", *(f"{plan.rate:,}/s" for plan in plans)),
        [
            row("service cores", lambda plan: plan.service_cores, f"{1e6 * cost.service:.0f} µs"),
            row(f"instances of {plans[0].workers} workers", lambda plan: plan.instances),
            row(
                "database cores", lambda plan: plan.database_cores, f"{1e6 * cost.database:.0f} µs"
            ),
            row("connections", lambda plan: plan.connections),
            row("transactions/s", lambda plan: plan.transactions, f"{cost.transactions:.3f}"),
            row("write-ahead log, MB/s", lambda plan: plan.log / 1e6, f"{cost.log:,.0f} bytes"),
            row("disk, GB/day", lambda plan: plan.disk_per_day / 1e9, f"{cost.stored:,.0f} bytes"),
            row("memory for indexes full, hours", lambda plan: plan.memory_hours, large=True),
            row(f"{STORED:,} packages, hours", lambda plan: plan.hours, large=True),
            row("- write-ahead log, MB/s", lambda plan: plan.log_when_full / 1e6, large=True),
            row("- `max_wal_size`, GB", lambda plan: plan.max_wal_size / 1e9, large=True),
            row("anti-wraparound `VACUUM` every, hours", lambda plan: plan.freeze_hours),
            ["limits reached, the worst first", "", *(_describe(plan.limits()) for plan in plans)],
        ],
    )


def _describe(limits: dict[str, float]) -> str:
    """The limits that are reached; if there are none, the one that is used most."""
    shares = [f"{name} {used:,.0%}" for name, used in limits.items()]
    reached = sum(used >= 1 for used in limits.values())
    return ", ".join(shares[:reached]) or f"none ({shares[0]})"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"

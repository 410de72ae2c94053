"""``python -m benchmarks.instances``: what a send costs with several instances and PostgreSQL.

Instances with the same database get the same load at the same time. On one machine they can't
reach a higher rate together, but what a package costs is also true of many machines: the CPU time
of the service and of the database, the write-ahead log, and the disk space. The last tables
calculate from that what higher rates need.
"""

import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from statistics import median

from benchmarks.conditions import describe_conditions
from benchmarks.database import Meter, Sizes, Usage
from benchmarks.report import Line, Results, figures_table, rate, table
from benchmarks.service import Instances, serving_instances
from benchmarks.settings import Settings, make_parser, prepare
from benchmarks.sizing import ASSUMPTIONS, Cost, Plan, combine, plans_table
from benchmarks.wrk import BATCH, Load, Run
from galaxy_express.settings import DatabaseSettings


@dataclass(frozen=True)
class Kind:
    """A kind of load, and the name of what it sends.

    :param load: the load of each instance.
    """

    name: str
    load: Load

    def line(self, number: int) -> Line:
        """The load of a number of instances together."""
        name = f"{self.name}, {number} instance{'s' if number > 1 else ''}"
        together = replace(self.load, connections=number * self.load.connections)
        return Line(name, together, self.load.packages)


KINDS = (
    Kind("send", Load("send", 64)),
    Kind(f"packages, in batches of {BATCH}", Load("batch", 4)),
)
RATES = (10_000, 100_000, 1_000_000)
POOL_SIZE = DatabaseSettings(url="").pool_size


class InstancesSettings(Settings):
    """The options of the command line.

    :param instances: the numbers of instances to compare.
    """

    instances: list[int]


class Measurement:
    """The figures of one load, sent to several instances.

    :ivar line: what all of them get together.
    :ivar runs: the runs of all of them together, one per round.
    :ivar connections: the largest number of connections to the database.
    """

    def __init__(self, kind: Kind, number: int) -> None:
        self.kind = kind
        self.line = kind.line(number)
        self.runs: list[Run] = []
        self.connections = 0
        self._costs: list[Cost] = []

    @property
    def cost(self) -> Cost:
        """What a package cost: medians over the rounds."""
        return combine(median, self._costs)

    def measure(self, instances: Instances, meter: Meter, seconds: int) -> None:
        """Measure one round."""
        before = meter.usage()
        runs = instances.load(self.kind.load, seconds)
        after = meter.usage()
        self.connections = max(self.connections, meter.connections())
        run = add_up(runs)
        self.runs.append(run)
        self._costs.append(cost_per_package(self.line, run, before, after, meter.sizes()))
        instances.enter(self.kind.load, runs)


def main() -> None:
    """Measure, and print the tables."""
    parser = make_parser("Measure the cost of a send with several instances and PostgreSQL.")
    parser.add_argument(
        "--instances",
        type=int,
        nargs="+",
        default=[1, 2, 4],
        metavar="NUMBER",
        help="the numbers of instances to compare",
    )
    settings = parser.parse_args(namespace=InstancesSettings())
    if settings.postgres is None:
        sys.exit("Several instances need PostgreSQL: set --postgres.")
    prepare(settings)
    with closing(Meter(settings.postgres)) as meter:
        conditions = f"{describe_conditions(settings)} {meter.describe_settings()}."
    measurements = [each for number in settings.instances for each in measure(settings, number)]
    measurements.sort(key=lambda each: KINDS.index(each.kind))
    results = Results()
    for each in measurements:
        for run in each.runs:
            results.add(each.line, run)
    print(conditions)
    print()
    print(figures_table(results, [each.line for each in measurements]))
    print(costs_table(measurements))
    for kind in KINDS:
        alike = [each for each in measurements if each.kind is kind]
        cost = combine(max, [each.cost for each in alike])
        reached = max(results.median(rate, each.line) for each in alike)
        plans = [Plan(cost, packages, settings.workers, POOL_SIZE) for packages in RATES]
        print(plans_table(kind.name, plans, reached))
    print(ASSUMPTIONS)


def measure(settings: InstancesSettings, number: int) -> list[Measurement]:
    """Measure all loads with a number of instances."""
    measurements = [Measurement(kind, number) for kind in KINDS]
    with (
        serving_instances(settings, number) as instances,
        closing(Meter(instances.database_url)) as meter,
    ):
        for warm_up in ("update", "send"):
            instances.run(Load(warm_up, 64), 1)
        for turn in range(settings.rounds):
            print(f"Instances: {number}; round {turn + 1} of {settings.rounds}", file=sys.stderr)
            for measurement in measurements[:: -1 if turn % 2 else 1]:
                measurement.measure(instances, meter, settings.seconds)
            instances.check()
    return measurements


def add_up(runs: Sequence[Run]) -> Run:
    """The runs of several instances at the same time as one: the median of their p50, and the
    highest p99."""
    return Run(
        seconds=max(run.seconds for run in runs),
        made=sum(run.made for run in runs),
        good=sum(run.good for run in runs),
        errors=sum(run.errors for run in runs),
        p50=median(run.p50 for run in runs),
        p99=max(run.p99 for run in runs),
        wrk=sum(run.wrk for run in runs),
        processor=sum(run.processor for run in runs),
    )


def cost_per_package(line: Line, run: Run, before: Usage, after: Usage, sizes: Sizes) -> Cost:
    """What a package cost in a run.

    :param before: what the database had used before the run.
    :param after: what it had used afterwards.
    """
    packages = line.packages * run.good
    used = Usage(*((now - then) / packages for now, then in zip(after, before, strict=True)))
    return Cost(run.processor / packages, *used, *sizes)


def costs_table(measurements: Iterable[Measurement]) -> str:
    """A table of what a package costs."""
    head = ("per package", "service µs", "database µs", "log bytes", "full pages", "transactions")
    sizes = ("table bytes", "ids bytes", "recipients bytes", "sequence bytes")
    rows = []
    for each in measurements:
        cost = each.cost
        rows.append(
            (
                each.line.name,
                *(f"{1e6 * seconds:.0f}" for seconds in (cost.service, cost.database)),
                f"{cost.log:,.0f}",
                *(f"{number:.4f}" for number in (cost.full_pages, cost.transactions)),
                *(f"{size:.0f}" for size in (cost.rows, cost.ids, cost.recipients, cost.sequence)),
                str(each.connections),
            )
        )
    return table((*head, *sizes, "connections"), rows)


if __name__ == "__main__":
    main()

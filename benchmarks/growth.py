"""``python -m benchmarks.growth``: the effect of millions of packages.

Compares sends to a server with a full database with those to a server with an initially empty one,
and the memory of a worker after many sends with that after a few.
"""

import sys

from benchmarks.conditions import describe_conditions
from benchmarks.report import (
    Goal,
    Line,
    Results,
    at_least,
    at_most,
    figures_table,
    goals_table,
    rate,
)
from benchmarks.service import Service, serving
from benchmarks.settings import Settings, make_parser, prepare
from benchmarks.wrk import Load

SEND = Load("send", 64)
EMPTY = Line("send, to an empty database", SEND)
FULL = Line("send, to a full database", SEND)
A_FEW = 10_000


class GrowthSettings(Settings):
    """The options of the command line.

    :param packages: the number of packages in the full database.
    :param sends: the number of sends after which the memory is measured again.
    """

    packages: int
    sends: int


def main() -> None:
    """Measure, and print the tables."""
    parser = make_parser("Measure the effect of millions of packages.")
    parser.add_argument(
        "--packages",
        type=int,
        default=10_000_000,
        help="the number of packages in the full database",
    )
    parser.add_argument(
        "--sends",
        type=int,
        default=1_000_000,
        help="the number of sends between the memory measurements",
    )
    settings = parser.parse_args(namespace=GrowthSettings())
    if settings.quick:
        settings.packages, settings.sends = 200_000, 2 * A_FEW
    prepare(settings)
    conditions = describe_conditions(settings)
    results = measure_sends(settings)
    memory = measure_memory(settings)
    print(conditions)
    print()
    print(figures_table(results, (EMPTY, FULL)))
    ratio = results.ratio(rate, FULL, EMPTY)
    print(
        goals_table(
            [
                at_least(f"send with {settings.packages:,} packages / none", 0.8, ratio),
                memory,
            ]
        )
    )


def measure_sends(settings: GrowthSettings) -> Results:
    """Send to the two servers alternately."""
    results = Results()
    with serving(settings, packages=settings.packages) as full, serving(settings) as empty:
        servers = {EMPTY: empty, FULL: full}
        for server in servers.values():
            server.run(SEND, 1)
        for number in range(settings.rounds):
            print(f"Round {number + 1} of {settings.rounds}", file=sys.stderr)
            for line in list(servers)[:: -1 if number % 2 else 1]:
                results.add(line, servers[line].run(SEND, settings.seconds))
            for server in servers.values():
                server.check()
    return results


def measure_memory(settings: GrowthSettings) -> Goal:
    """Send to one worker, and read its memory twice."""
    with serving(settings, workers=1) as service:
        few = _send(service, A_FEW, seconds=1)
        before = service.resident_megabytes()
        many = few + _send(service, settings.sends - few, seconds=10)
        after = service.resident_megabytes()
        service.check()
    return at_most(
        f"memory of a worker after {many:,} sends ({after:.1f} MB) / {few:,} ({before:.1f} MB)",
        1.05,
        after / before,
    )


def _send(service: Service, number: int, seconds: int) -> int:
    sent = 0
    while sent < number:
        sent += service.run(SEND, seconds).good
        print(f"\r{sent:,} of {number:,} packages sent", end="", file=sys.stderr)
    print(file=sys.stderr)
    return sent


if __name__ == "__main__":
    main()

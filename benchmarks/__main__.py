"""``python -m benchmarks``: how fast the service is, compared with other servers.

Each round measures every line once, every second round in reverse order, and compares the
statistics with the database and the responses. Another revision is measured line by line,
alternating with the current one.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.conditions import describe_conditions
from benchmarks.raw_sqlite import RawSQLite
from benchmarks.report import (
    Goal,
    Line,
    Results,
    at_least,
    at_most,
    figures_table,
    goals_table,
    p50,
    p99,
    processor,
    rate,
    ratios_table,
    tail,
)
from benchmarks.revisions import checked_out
from benchmarks.service import serving, serving_bare, serving_baseline
from benchmarks.settings import Settings, make_parser, prepare
from benchmarks.wrk import BATCH, Load, Run

GET_HEALTH = Load("get", 64, "/health")
SEND_64 = Load("send", 64)

HEALTH = Line("`GET /health`", GET_HEALTH)
LIVENESS = Line("`GET /health?type=liveness`", Load("get", 64, "/health?type=liveness"))
HEALTH_1 = Line("`GET /health`", Load("get", 1, "/health"))
SEND_1 = Line("send", Load("send", 1))
SEND_16 = Line("send", Load("send", 16))
SEND = Line("send", SEND_64)
RETRY = Line("retry", Load("retry", 64))
UPDATE = Line("update preferences", Load("update", 64))
STATISTICS = Line("read statistics", Load("get", 64, "/statistics"))
READ_PACKAGE = Line("read a package", Load("read_package", 64))
READ_PREFERENCES = Line("read preferences", Load("read_preferences", 64))
SEND_BATCH = Line(f"packages, in batches of {BATCH}", Load("batch", 4), BATCH)
RAW_SQLITE = Line(f"packages, {BATCH} per transaction, `sqlite3` alone", None, BATCH)
PLAIN_HEALTH = Line("plain ORM: `GET /health`", GET_HEALTH)
PLAIN_SEND = Line("plain ORM: send", SEND_64)
BARE = Line("bare WSGI function", GET_HEALTH)

SERVICE = (
    *(HEALTH, LIVENESS, HEALTH_1, SEND_1, SEND_16, SEND, RETRY, UPDATE, STATISTICS),
    *(READ_PACKAGE, READ_PREFERENCES, SEND_BATCH),
)
TABLE = (*SERVICE, RAW_SQLITE, PLAIN_HEALTH, PLAIN_SEND, BARE)
# Lines that are compared closely are measured one after another.
ORDER = (
    *(LIVENESS, HEALTH_1, SEND_1, SEND_16, PLAIN_HEALTH, PLAIN_SEND, SEND, BARE, HEALTH, RETRY),
    *(UPDATE, STATISTICS, READ_PACKAGE, READ_PREFERENCES, SEND_BATCH, RAW_SQLITE),
)
READS = (LIVENESS, STATISTICS, READ_PACKAGE, READ_PREFERENCES)


class BenchSettings(Settings):
    """The options of the command line.

    :param against: another revision to measure, alternating with the current one.
    """

    against: str | None


def main() -> None:
    """Measure, and print the tables."""
    parser = make_parser("Measure how fast the service is.")
    parser.add_argument(
        "--against",
        metavar="REV",
        help="also measure another revision of the repository; an old one needs port 6060",
    )
    settings = parser.parse_args(namespace=BenchSettings())
    prepare(settings)
    conditions = describe_conditions(settings)
    results, others = measure(settings)
    print(conditions)
    print()
    print(figures_table(results, TABLE))
    if settings.against is not None:
        print(f"{settings.against}:\n")
        print(figures_table(others, SERVICE))
        print(f"This revision / {settings.against}:\n")
        print(ratios_table(results, others, SERVICE))
    print(goals_table(goals(results, others, settings)))


def measure(settings: BenchSettings) -> tuple[Results, Results]:
    """Run all rounds.

    :returns: the results of this revision and of the servers that every run compares it with; and
        the results of the other revision, which are empty if there is none.
    """
    results, others = Results(), Results()
    with ExitStack() as stack:
        service = stack.enter_context(serving(settings))
        services = [(service, results)]
        if settings.against is not None:
            revision = stack.enter_context(checked_out(settings.against, settings.folder))
            services.append((stack.enter_context(serving(settings, revision)), others))
        baseline = stack.enter_context(serving_baseline(settings))
        runs: dict[Line, list[tuple[Results, Callable[[int], Run]]]] = {
            line: [(to, partial(of.run, line.load)) for of, to in services]
            for line in SERVICE
            if line.load is not None
        }
        runs[PLAIN_HEALTH] = [(results, partial(baseline.run, GET_HEALTH))]
        runs[PLAIN_SEND] = [(results, partial(baseline.run, SEND_64))]
        bare = stack.enter_context(serving_bare(settings))
        runs[BARE] = [(results, partial(bare.load, GET_HEALTH))]
        if settings.postgres is None:
            folder = TemporaryDirectory(prefix="bench-", dir=settings.folder)
            path = Path(stack.enter_context(folder)).resolve() / "raw.db"
            raw = stack.enter_context(closing(RawSQLite(path)))
            runs[RAW_SQLITE] = [(results, raw.run)]

        for warmed_up, _ in services:
            warmed_up.run(Load("update", 64), 1)
            warmed_up.send_known_packages()
        for number in range(settings.rounds):
            print(f"Round {number + 1} of {settings.rounds}", file=sys.stderr)
            direction = -1 if number % 2 else 1
            for line in [line for line in ORDER if line in runs][::direction]:
                for to, run in runs[line][::direction]:
                    to.add(line, run(settings.seconds))
            for checked in (baseline, *(each for each, _ in services)):
                checked.check()
    return results, others


def goals(results: Results, others: Results, settings: BenchSettings) -> Iterator[Goal]:
    """The goals for this run, with the measured values.

    :param others: the results of the other revision, if there is one.
    """
    per_health = results.ratio(processor, HEALTH, BARE)
    yield at_most("CPU time of `GET /health` / bare WSGI function", 1.2, per_health)
    yield at_least("send / plain ORM", 12, results.ratio(rate, SEND, PLAIN_SEND))
    if RAW_SQLITE in results:
        batches = results.ratio(rate, SEND_BATCH, RAW_SQLITE)
        yield at_least("packages in batches / `sqlite3` alone", 0.65, batches)
    for line in (HEALTH, *READS):
        yield at_most(f"p99 / p50 of {line.name}", 3, results.median(tail, line))
    yield at_most("p99 / p50 of send", 2.5, results.median(tail, SEND))
    if settings.against is not None:
        yield from _goals_against(results, others, settings)


def _goals_against(results: Results, others: Results, settings: BenchSettings) -> Iterator[Goal]:
    rev = settings.against
    if settings.postgres is not None:
        sends = results.ratio_to(others, rate, SEND)
        yield at_least(f"send / the same at {rev}, PostgreSQL", 2, sends)
        return
    for line, most in ((HEALTH, 0.33), (SEND, 0.4)):
        time = results.ratio_to(others, processor, line)
        yield at_most(f"CPU time of {line.name} / the same at {rev}", most, time)
    for line in (SEND, RETRY, UPDATE, HEALTH, *READS):
        yield at_least(
            f"{line.name} / the same at {rev}", 2.5, results.ratio_to(others, rate, line)
        )
    lone = results.ratio_to(others, p50, SEND_1)
    yield at_most(f"p50 of send, one connection / the same at {rev}", 0.6, lone)
    yield at_most(f"p99 of send / the same at {rev}", 0.6, results.ratio_to(others, p99, SEND))


if __name__ == "__main__":
    main()

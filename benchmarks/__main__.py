"""``python -m benchmarks``: what the service carries, and what is under it could.

Each round measures everything once, every other round in the opposite order, and compares
the statistics with the database and with what was answered.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.conditions import describe_conditions
from benchmarks.raw_sqlite import RawSQLite
from benchmarks.report import Goal, Line, Results, at_least, at_most, figures_table, goals_table
from benchmarks.service import serving
from benchmarks.settings import Settings, make_parser, prepare
from benchmarks.wrk import BATCH, Load, Run

BASELINE = Path(__file__).with_name("baseline.ini").read_text()

HEALTH = Line("`GET /health`", Load("get", 64, "/health"))
HEALTH_1 = Line("`GET /health`", Load("get", 1, "/health"))
LIVENESS = Line(
    "`GET /health?type=liveness`", Load("get", 64, "/health?type=liveness"), beside=HEALTH
)
SEND_1 = Line("send", Load("send", 1), beside=HEALTH_1)
SEND_16 = Line("send", Load("send", 16), beside=HEALTH)
SEND = Line("send", Load("send", 64), beside=HEALTH)
RETRY = Line("send again", Load("retry", 64), beside=HEALTH)
UPDATE = Line("update preferences", Load("update", 64), beside=HEALTH)
STATISTICS = Line("read statistics", Load("get", 64, "/statistics"), beside=HEALTH)
READ_PACKAGE = Line("read a package", Load("read_package", 64), beside=HEALTH)
READ_PREFERENCES = Line("read preferences", Load("read_preferences", 64), beside=HEALTH)
SEND_BATCH = Line(f"packages, in batches of {BATCH}", Load("batch", 4), BATCH, beside=HEALTH)
RAW_SQLITE = Line(f"packages, {BATCH} a transaction, with `sqlite3` alone", None, BATCH)
PLAIN_HEALTH = Line("plain ORM: `GET /health`", Load("get", 64, "/health"))
PLAIN_SEND = Line("plain ORM: send", Load("send", 64), beside=PLAIN_HEALTH)

TABLE = (
    *(HEALTH, LIVENESS, HEALTH_1, SEND_1, SEND_16, SEND, RETRY, UPDATE, STATISTICS),
    *(READ_PACKAGE, READ_PREFERENCES, SEND_BATCH, RAW_SQLITE, PLAIN_HEALTH, PLAIN_SEND),
)
# What is to be compared closely is measured one after the other.
ORDER = (
    *(LIVENESS, HEALTH_1, SEND_1, SEND_16, PLAIN_HEALTH, PLAIN_SEND, SEND, HEALTH, RETRY),
    *(UPDATE, STATISTICS, READ_PACKAGE, READ_PREFERENCES, SEND_BATCH, RAW_SQLITE),
)
READS = (HEALTH, LIVENESS, STATISTICS, READ_PACKAGE, READ_PREFERENCES)


def main() -> None:
    """Measure, and print the tables."""
    settings = make_parser("Measure how fast the service is.").parse_args(namespace=Settings())
    prepare(settings)
    conditions = describe_conditions(settings)
    results = measure(settings)
    print(conditions)
    print()
    print(figures_table(results, TABLE, beside="`/health`"))
    print(goals_table(goals(results)))


def measure(settings: Settings) -> Results:
    """Run all rounds."""
    results = Results()
    with ExitStack() as stack:
        service = stack.enter_context(serving(settings))
        baseline = stack.enter_context(serving(settings, config=BASELINE))
        runs: dict[Line, Callable[[int], Run]] = {}
        for line in ORDER:
            if line.load is not None:
                server = baseline if line in (PLAIN_HEALTH, PLAIN_SEND) else service
                runs[line] = partial(server.run, line.load)
            elif settings.postgres is None:
                folder = stack.enter_context(
                    TemporaryDirectory(prefix="bench-", dir=settings.folder)
                )
                raw = stack.enter_context(closing(RawSQLite(Path(folder) / "raw.db")))
                runs[line] = raw.run

        service.run(Load("update", 64), 1)
        service.get_to_know_packages()
        for number in range(settings.rounds):
            print(f"Round {number + 1} of {settings.rounds}", file=sys.stderr)
            for line, run in list(runs.items())[:: -1 if number % 2 else 1]:
                results.add(line, run(settings.seconds))
            service.check()
            baseline.check()
    return results


def goals(results: Results) -> Iterator[Goal]:
    """What is to be reached, and what was."""
    yield at_least("send / `GET /health`", 0.75, results.rate_ratio(SEND, HEALTH))
    yield at_least("send / plain ORM", 10, results.rate_ratio(SEND, PLAIN_SEND))
    yield at_most("p99 / p50 of send", 3, results.tail(SEND))
    yield at_most("p99 / p50 of each read", 5, max(map(results.tail, READS)))
    yield at_most(
        "p50 of send / `GET /health`, one connection", 3, results.p50_ratio(SEND_1, HEALTH_1)
    )
    yield at_least("send again / `GET /health`", 0.7, results.rate_ratio(RETRY, HEALTH))
    if RAW_SQLITE in results:
        yield at_least(
            "packages in batches / with `sqlite3` alone",
            0.5,
            results.rate_ratio(SEND_BATCH, RAW_SQLITE),
        )


if __name__ == "__main__":
    main()

"""``python -m benchmarks.profile``: what each part of a send costs, and an empty request.

Servers that leave out more and more of a send get the same load in turn. The processor time
is counted apart for the event loop, the other threads of the workers, and wrk.
"""

import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from statistics import median

from benchmarks.conditions import describe_conditions
from benchmarks.parts import PARTS, WHOLE
from benchmarks.processor import threads_seconds
from benchmarks.report import table
from benchmarks.service import Service, serving
from benchmarks.settings import ROOT, Settings, make_parser, prepare
from benchmarks.wrk import Load

HEALTH = "`GET /health`"

# In each database at the start, so that each look-up costs the same.
PACKAGES = 100_000


@dataclass(frozen=True, slots=True)
class Cost:
    """What a request costs, in microseconds of a processor.

    :param loop: of the workers' threads with an event loop.
    :param threads: of the workers' other threads.
    :param wrk: of the load generator.
    :param rate: how many were answered in a second.
    :param alone: how long each took on a single connection, in milliseconds (the median).
    """

    loop: float
    threads: float
    wrk: float
    rate: float
    alone: float


def main() -> None:
    """Measure, and print a table."""
    settings = make_parser("Measure what each part of a send costs.").parse_args(
        namespace=Settings()
    )
    if settings.postgres:
        sys.exit("The profile works with SQLite only; leave out the URL of PostgreSQL.")
    prepare(settings)
    conditions = describe_conditions(settings)
    costs = measure(settings)
    print(conditions)
    print()
    print(_describe(costs))


def measure(settings: Settings) -> dict[str, list[Cost]]:
    """The costs of an empty request, and of sends with more and more parts, in each round."""
    costs: dict[str, list[Cost]] = {HEALTH: [], **{name: [] for name in PARTS}}
    with ExitStack() as stack:
        services = {name: stack.enter_context(_serving_parts(settings, name)) for name in PARTS}
        loads = [(name, service, "send") for name, service in services.items()]
        loads.insert(0, (HEALTH, services[WHOLE], "get"))
        for number in range(settings.rounds):
            print(f"Round {number + 1} of {settings.rounds}", file=sys.stderr)
            for name, service, kind in loads[:: -1 if number % 2 else 1]:
                costs[name].append(_cost(service, kind, settings.seconds))
    return costs


def _serving_parts(settings: Settings, parts: str) -> AbstractContextManager[Service]:
    whole = "factory = galaxy_express.serving.wsgi:make_app\n"
    config = (ROOT / "configs/production.ini").read_text()
    assert whole in config
    some = f"factory = benchmarks.parts:make_wsgi_app\nparts = {parts}\n"
    return serving(settings, config=config.replace(whole, some), packages=PACKAGES)


def _cost(service: Service, kind: str, seconds: int) -> Cost:
    alone = service.load(Load(kind, 1, "/health"), seconds)
    before = threads_seconds(service.workers)
    run = service.load(Load(kind, 64, "/health"), seconds)
    after = threads_seconds(service.workers)
    loop, threads = (1e6 * (now - then) / run.good for now, then in zip(after, before, strict=True))
    return Cost(loop, threads, 1e6 * run.wrk / run.good, run.good / run.seconds, alone.p50)


def _describe(costs: dict[str, list[Cost]]) -> str:
    rows = []
    for name, rounds in costs.items():
        loop, threads, wrk = (
            median(getattr(cost, of) for cost in rounds) for of in ("loop", "threads", "wrk")
        )
        rate = median(cost.rate / empty.rate for cost, empty in _with_health(costs, name))
        alone = median(cost.alone / empty.alone for cost, empty in _with_health(costs, name))
        rows.append(
            (
                name if name == HEALTH else f"send, {name}",
                *(f"{microseconds:.0f}" for microseconds in (loop, threads, wrk)),
                f"{rate:.2f}",
                f"{alone:.2f}",
            )
        )
    return table(
        ("", "event loop µs", "other threads µs", "wrk µs", "rate", "p50, one connection"), rows
    )


def _with_health(costs: dict[str, list[Cost]], name: str) -> Iterable[tuple[Cost, Cost]]:
    return zip(costs[name], costs[HEALTH], strict=True)


if __name__ == "__main__":
    main()

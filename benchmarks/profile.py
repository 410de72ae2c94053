"""``python -m benchmarks.profile``: the cost of each part of a send, and of an empty request.

Servers with more and more parts of a send get the same load in turn. CPU time is measured
separately for the event loop, the other threads of the workers, and wrk.
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

# Initially in each database, so that each lookup costs the same.
PACKAGES = 100_000


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a request, as CPU time in microseconds.

    :param loop: the CPU time of the workers' event loops.
    :param threads: the CPU time of the workers' other threads.
    :param wrk: the CPU time of the load generator.
    :param rate: responses per second.
    :param alone: the median latency on a single connection, in milliseconds.
    """

    loop: float
    threads: float
    wrk: float
    rate: float
    alone: float


def main() -> None:
    """Measure, and print a table."""
    settings = make_parser("Measure the cost of each part of a send.").parse_args(
        namespace=Settings()
    )
    if settings.postgres:
        sys.exit("The profile only supports SQLite; omit the PostgreSQL URL.")
    prepare(settings)
    conditions = describe_conditions(settings)
    costs = measure(settings)
    print(conditions)
    print()
    print(_describe(costs))


def measure(settings: Settings) -> dict[str, list[Cost]]:
    """Measure an empty request, and sends with more and more parts, in each round."""
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
                name if name == HEALTH else f"send: {name}",
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

"""The primary of a cluster is killed, switched over or frozen under load, and comes back."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from galaxy_express.ops.audit import audit_database
from tests.backends import PostgreSQLBackend
from tests.servers.load import Exchange, Load, audit, finish, mixed_jobs
from tests.servers.running import Installation, Server
from tests.torture.amount import Amount
from tests.torture.conftest import Report
from tests.torture.patroni import Node, patroni_cluster, patroni_version

CLIENTS = 4  # of each instance
BATCH = 100  # requests that an instance answers as it should before the test goes on
LIMIT = 2.0  # seconds from the announcement of a primary to the next decision


class Attack(NamedTuple):
    """Something that happens to a primary, so that another node becomes the primary.

    :param name: in words.
    :param begin: lets it happen.
    :param end: lets the node come back, if it doesn't by itself.
    """

    name: str
    begin: Callable[[Node], None]
    end: Callable[[Node], None] | None


ATTACKS = [
    Attack("`SIGKILL` of the primary and its Patroni", Node.kill, Node.start),
    Attack("switchover by Patroni's REST API", Node.switch_over, None),
    Attack("`SIGSTOP` of the primary and its Patroni, killed later", Node.freeze, Node.restart),
]
# An older leader that wakes up overrules its successor, and loses what that one has answered.
THAW = Attack("`SIGSTOP` of the primary and its Patroni, `SIGCONT` later", Node.freeze, Node.thaw)
THAW_SINCE = (3, 1)


@dataclass
class Times:
    """What an instance showed in the attacks of a kind.

    :ivar pauses: for how many seconds it decided nothing.
    :ivar delays: for how many seconds of that a primary was announced already.
    """

    pauses: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)

    def note(self, exchanges: list[Exchange], begun: float, announced: float) -> None:
        """Note an attack.

        :param begun: when it began, by the monotonic clock.
        :param announced: when another primary was announced.
        """
        last, first = _longest_pause(exchanges, begun)
        self.pauses.append(first - last)
        self.delays.append(max(0.0, first - announced))

    def __str__(self) -> str:
        pauses = f"{min(self.pauses):.1f} to {max(self.pauses):.1f} s without decisions"
        return f"{pauses}, at most {max(self.delays):.1f} s of them with a new primary"


def _longest_pause(exchanges: list[Exchange], begun: float) -> tuple[float, float]:
    """When the decision before the longest pause was answered, and the one after it."""
    moments = sorted(
        exchange.ended
        for exchange in exchanges
        if exchange.answer is not None and exchange.answer.status == 201
    )
    pauses = [(last, first) for last, first in pairwise(moments) if first > begun]
    return max(pauses, key=lambda pause: pause[1] - pause[0])


def test_failover(tmp_path: Path, amount: Amount, report: Report) -> None:
    """When a primary is lost, no decision is lost, changed or repeated, and instances decide again
    two seconds after another one is announced."""
    with patroni_cluster() as cluster, ExitStack() as running:
        urls = {"several hosts in the URL": cluster.url, "HAProxy": cluster.proxied_url}
        instances = {}
        for place, (way, url) in enumerate(urls.items()):
            installation = _install(tmp_path / str(place), cluster.database, url)
            if place == 0:
                installation.create_schema()
            instances[way] = running.enter_context(installation.gunicorn())
        exchanges: list[Exchange] = []
        for attack in ATTACKS + [THAW] * (patroni_version() >= THAW_SINCE):
            times = {way: Times() for way in instances}
            before = len(exchanges)
            for number in range(amount.failovers):
                primary = cluster.primary
                others = [node for node in cluster.nodes if node is not primary]
                with (
                    ThreadPoolExecutor() as threads,
                    _loads(instances, f"{attack.begin.__name__}-{number}") as loads,
                ):
                    begun = time.monotonic()
                    beginning = threads.submit(attack.begin, primary)
                    cluster.wait_for_primary(others)
                    announced = time.monotonic()
                    beginning.result()
                    _wait_for_all(loads)
                    if attack.end is not None:
                        attack.end(primary)
                    cluster.wait_until_complete()
                for way, load in loads.items():
                    times[way].note(load.exchanges, begun, announced)
                    exchanges += finish(load.exchanges, instances[way])
                audit(exchanges, cluster.database, *instances.values())
                audit_database(cluster.database.config)
            done = exchanges[before:]
            refused = sum(exchange.is_unavailable for exchange in done)
            report(
                f"{attack.name}, under the load of {CLIENTS} clients of each of two instances",
                f"{amount.failovers} times",
                f"{len(done):,} requests, {refused:,} of them answered `503` and sent again;"
                " answers lost or changed: 0; packages decided twice: 0; counters equal rows; "
                + "; ".join(f"{way}: {seen}" for way, seen in times.items()),
            )
            for way, seen in times.items():
                assert max(seen.delays) < LIMIT, f"{attack.name}, {way}: {seen}"


def _install(folder: Path, database: PostgreSQLBackend, url: str) -> Installation:
    folder.mkdir()
    installation = Installation(folder, database)
    installation.environment["GALAXY_EXPRESS_DATABASE_URL"] = url
    return installation


@contextmanager
def _loads(instances: dict[str, Server], name: str) -> Iterator[dict[str, Load]]:
    """A load on each instance, of the same packages, which has begun."""
    with ExitStack() as stack:
        loads = {way: stack.enter_context(Load()) for way in instances}
        for place, (way, load) in enumerate(loads.items()):
            for client in range(CLIENTS):
                jobs = mixed_jobs(place * CLIENTS + client, name)
                load.add_client(instances[way].port, jobs)
        _wait_for_all(loads)
        yield loads


def _wait_for_all(loads: dict[str, Load]) -> None:
    for load in loads.values():
        load.wait_for(BATCH)

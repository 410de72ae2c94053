"""The primary of a cluster, its network or etcd fails under load, and comes back."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from galaxy_express.models import create_schema
from galaxy_express.ops.audit import audit_database
from tests.conftest import skip_or_fail
from tests.servers.load import Exchange, Load, audit, finish, mixed_jobs
from tests.servers.running import Installation, Server, wait_until
from tests.torture.amount import Amount
from tests.torture.conftest import Report
from tests.torture.patroni import Node, Patroni, patroni_cluster, patroni_version

CLIENTS = 4  # of each instance
BATCH = 100  # requests that an instance answers as it should before the test goes on
LIMIT = 2.0  # seconds from the promotion of a primary to the next decision


@contextmanager
def _fail_over(
    begin: Callable[[Node], None], end: Callable[[Node], None] | None, cluster: Patroni
) -> Iterator[float]:
    """Something happens to the primary, so that another node takes its place."""
    primary = cluster.primary
    others = [node for node in cluster.nodes if node is not primary]
    with ThreadPoolExecutor() as threads:
        beginning = threads.submit(begin, primary)
        successor = cluster.wait_for_primary(others)
        wait_until(successor.takes_writes, "the new primary takes writes")
        yield time.monotonic()
        beginning.result()
    if end is not None:
        end(primary)


@contextmanager
def _restart(begin: Callable[[Node], None], cluster: Patroni) -> Iterator[float]:
    """The primary's PostgreSQL is started again."""
    primary = cluster.primary
    before = primary.started_at()
    with ThreadPoolExecutor() as threads:
        beginning = threads.submit(begin, primary)
        wait_until(lambda: primary.started_at() not in (before, None), "PostgreSQL is restarted")
        wait_until(primary.takes_writes, "it takes writes")
        yield time.monotonic()
        beginning.result()


@contextmanager
def _lose_etcd(cluster: Patroni) -> Iterator[float]:
    """There is no etcd for longer than a primary may be silent; it remains the primary."""
    primary = cluster.primary
    cluster.etcd.kill()
    time.sleep(1.5 * cluster.ttl)
    assert primary.takes_writes()
    yield time.monotonic()
    cluster.etcd.start()


@contextmanager
def _lose_etcd_and_standby(cluster: Patroni) -> Iterator[float]:
    """There is neither etcd nor a standby for that time, so there is no primary either."""
    primary = cluster.primary
    standby = next(node for node in cluster.nodes if node is not primary)
    cluster.etcd.kill()
    standby.kill()
    time.sleep(1.5 * cluster.ttl)
    assert not primary.takes_writes()
    cluster.etcd.start()
    wait_until(lambda: any(node.takes_writes() for node in cluster.nodes), "there is a primary")
    yield time.monotonic()
    standby.start()


class Attack(NamedTuple):
    """Something that happens to a cluster.

    :param name: in words.
    :param happening: a context manager, which is entered when a primary takes writes again; its
        value is that moment, by the monotonic clock. Afterwards the cluster becomes complete.
    :param needs_network: whether it cuts the network.
    """

    name: str
    happening: Callable[[Patroni], AbstractContextManager[float]]
    needs_network: bool = False


ATTACKS = {
    "kill": Attack(
        "`SIGKILL` of the primary and its Patroni", partial(_fail_over, Node.kill, Node.start)
    ),
    "switchover": Attack(
        "switchover with Patroni's REST API", partial(_fail_over, Node.switch_over, None)
    ),
    "fence": Attack(
        "`SIGSTOP` of the primary and its Patroni, which are then killed",
        partial(_fail_over, Node.freeze, Node.restart),
    ),
    "cut": Attack(
        "the primary is cut off from everything",
        partial(_fail_over, Node.cut_off, Node.reconnect),
        needs_network=True,
    ),
    "half-cut": Attack(
        "the primary is cut off from etcd and the other nodes, not from HAProxy and the service",
        partial(_fail_over, Node.cut_off_from_peers, Node.reconnect),
        needs_network=True,
    ),
    "restart": Attack(
        "restart of the primary with Patroni's REST API", partial(_restart, Node.restart_database)
    ),
    "crash": Attack(
        "`SIGKILL` of the primary's PostgreSQL", partial(_restart, Node.crash_database)
    ),
    "etcd": Attack("loss of etcd", _lose_etcd),
    "etcd-and-standby": Attack("loss of etcd and a standby", _lose_etcd_and_standby),
}
# With older versions, a primary that wakes up overrules its successor, whose answers are lost.
if patroni_version() >= (3, 1):
    ATTACKS["thaw"] = Attack(
        "`SIGSTOP` of the primary and its Patroni, then `SIGCONT`",
        partial(_fail_over, Node.freeze, Node.thaw),
    )
# Without Patroni, tests/servers/test_failover.py has short forms of the others.
WITH_SHORT_FORM = {"kill", "switchover", "fence", "thaw"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Patroni]:
    """A cluster of three nodes."""
    with patroni_cluster() as new:
        yield new


@pytest.fixture
def instances(cluster: Patroni, tmp_path: Path) -> Iterator[dict[str, Server]]:
    """A running instance for each way to the primary, and empty tables."""
    cluster.wait_until_complete()
    database = cluster.database
    database.reset()
    create_schema(database.config)
    urls = {"several hosts in the URL": cluster.url, "HAProxy": cluster.proxied_url}
    with ExitStack() as running:
        servers = {}
        for place, (way, url) in enumerate(urls.items()):
            folder = tmp_path / str(place)
            folder.mkdir()
            installation = Installation(folder, database)
            installation.environment["GALAXY_EXPRESS_DATABASE_URL"] = url
            servers[way] = running.enter_context(installation.gunicorn())
        yield servers


@dataclass
class Times:
    """What an instance showed in the attacks of a kind.

    :ivar pauses: for how many seconds it decided nothing.
    :ivar delays: for how many seconds of that there was a primary already.
    """

    pauses: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)

    def note(self, exchanges: list[Exchange], begun: float, promoted: float) -> None:
        """Note an attack.

        :param begun: when it began, by the monotonic clock.
        :param promoted: when a primary took writes.
        """
        last, first = _longest_pause(exchanges, begun)
        self.pauses.append(first - last)
        # The longest pause may begin later, if the attack caused none.
        self.delays.append(max(0.0, first - max(last, promoted)))

    def __str__(self) -> str:
        pauses = f"{min(self.pauses):.1f} to {max(self.pauses):.1f} s without decisions"
        return f"{pauses}, at most {max(self.delays):.1f} s of them with a primary"


def _longest_pause(exchanges: list[Exchange], begun: float) -> tuple[float, float]:
    """When the decision before the longest pause was answered, and the one after it."""
    moments = sorted(
        exchange.ended
        for exchange in exchanges
        if exchange.answer is not None and exchange.answer.status == 201
    )
    pauses = [(last, first) for last, first in pairwise(moments) if first > begun]
    return max(pauses, key=lambda pause: pause[1] - pause[0])


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(attack, id=name, marks=() if name in WITH_SHORT_FORM else pytest.mark.long)
        for name, attack in ATTACKS.items()
    ],
)
def test_failover(
    attack: Attack,
    cluster: Patroni,
    instances: dict[str, Server],
    amount: Amount,
    report: Report,
) -> None:
    """When a primary is lost, no decision is lost, changed or repeated, and instances decide again
    within two seconds after there is one that takes writes."""
    if attack.needs_network and cluster.obstacle:
        skip_or_fail(cluster.obstacle)
    exchanges: list[Exchange] = []
    times = {way: Times() for way in instances}
    for number in range(amount.failovers):
        with _loads(instances, f"round-{number}") as loads:
            begun = time.monotonic()
            with attack.happening(cluster) as promoted:
                _wait_for_all(loads)
            cluster.wait_until_complete()
        for way, load in loads.items():
            times[way].note(load.exchanges, begun, promoted)
            exchanges += finish(load.exchanges, instances[way])
        audit(exchanges, cluster.database, *instances.values())
        audit_database(cluster.database.config)
    unavailable = sum(exchange.is_unavailable for exchange in exchanges)
    report(
        f"{attack.name}, under the load of {CLIENTS} clients of each of two instances",
        f"{amount.failovers} times",
        f"{len(exchanges):,} requests, {unavailable:,} of them answered `503` and sent again;"
        " answers lost or changed: 0; packages decided twice: 0; counters equal rows; "
        + "; ".join(f"{way}: {seen}" for way, seen in times.items()),
    )
    # In the short form the machine is busy with other tests.
    limit = LIMIT if amount.failovers > 1 else 10 * LIMIT
    for way, seen in times.items():
        assert max(seen.delays) < limit, f"{way}: {seen}"


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

"""Several instances on one PostgreSQL database, which may be slow or unavailable."""

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.backends import Backend, PostgreSQLBackend
from tests.conftest import skip_or_fail
from tests.servers.http_client import package
from tests.servers.load import (
    Exchange,
    Job,
    Load,
    audit,
    claim,
    finish,
    mixed_jobs,
    numbered_package,
    send,
    send_batch,
    update,
)
from tests.servers.postgresql import Cluster, cluster, find_binaries
from tests.servers.running import Installation, wait_until

# Seconds. A request mostly waits for a connection and a statement, each with a timeout of 5 by
# default.
BOUNDED = 15.0


@pytest.fixture
def shared(postgresql: PostgreSQLBackend, tmp_path: Path) -> Installation:
    """The service, with a database on the server that all tests share."""
    installation = Installation(tmp_path, postgresql)
    installation.create_schema()
    return installation


def test_instances_share_a_database(shared: Installation) -> None:
    """Two instances under concurrent, overlapping load decide each package once, at times in the
    order of the feed, and a contested id always belongs to one package."""
    single = [numbered_package("single", number) for number in range(100)]
    either = [numbered_package("either", number) for number in range(300)]
    with shared.gunicorn() as one, shared.gunicorn() as two:
        with Load() as load:
            for client in range(8):
                jobs = _jobs(client, single, either)
                load.add_client((one, two)[client % 2].port, jobs)
            load.wait()
        assert all(exchange.is_successful for exchange in load.exchanges)
        audit(load.exchanges, shared.database, one, two)

    decided_at = shared.database.rows("SELECT decided_at FROM packages ORDER BY sequence")
    assert decided_at == sorted(decided_at)

    created = Counter(
        exchange.answer.json["package_id"]
        for exchange in load.exchanges
        if exchange.answer is not None and exchange.answer.status == 201
    )
    assert {pkg["package_id"] for pkg in single} <= created.keys()

    senders = dict(shared.database.rows("SELECT package_id, sender_id FROM packages"))
    for exchange in load.exchanges:
        if 409 in exchange.job.wanted:
            pkg = exchange.job.body
            is_owner = senders[pkg["package_id"]] == pkg["sender_id"]
            assert exchange.is_rejected != is_owner


def _jobs(client: int, single: list[dict[str, str]], either: list[dict[str, str]]) -> list[Job]:
    rng = random.Random(client)
    jobs = [send(pkg) for pkg in single + rng.sample(either, 50)]
    jobs += [send_batch(rng.sample(either, 150)) for _ in range(4)]
    jobs += [
        claim(package(package_id=f"contested-{number}", sender_id=rng.choice(["zap", "kif"])))
        for number in range(50)
    ]
    for moment in range(50):
        wanted = rng.random() < 0.5, rng.random() < 0.5
        jobs.append(update(f"recipient-{moment % 7}", moment * 100 + client, *wanted))
    rng.shuffle(jobs)
    return jobs


@pytest.mark.parametrize("name", ["baseplate-serve", "gunicorn"])
def test_slow_statement_does_not_block_other_requests(shared: Installation, name: str) -> None:
    """While a read and a write wait for a database lock, other requests are served."""
    for key in ("database.lock_timeout", "database.statement_timeout", "desk.timeout"):
        shared.configure(key, "60 seconds")
    shared.configure("server_timeout.default", "60 seconds")
    shared.configure("database.application_name", "galaxy_express_slow")
    server = shared.gunicorn(workers=1) if name == "gunicorn" else shared.baseplate_serve()
    pkg = package()
    with server, ThreadPoolExecutor() as threads:
        with shared.database.transaction() as cursor:
            cursor.execute("LOCK TABLE packages IN ACCESS EXCLUSIVE MODE")
            read = threads.submit(server.request, "GET", "/packages/unheard-of")
            written = threads.submit(server.request, "POST", "/packages/batch", [pkg])
            wait_until(lambda: _waiting(shared.database) == 2, "both wait for the lock")
            assert server.is_healthy("liveness")
            assert server.request("GET", "/statistics").status == 200
            assert not read.done()
            assert not written.done()
        assert read.result().status == 404
        assert written.result().json[0]["package_id"] == pkg["package_id"]


def _waiting(database: Backend) -> int:
    ((waiting,),) = database.rows(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name = 'galaxy_express_slow' AND wait_event_type = 'Lock'"
    )
    return int(waiting)


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    """A PostgreSQL server that no other test uses."""
    binaries = find_binaries()
    if binaries is None:
        skip_or_fail("PostgreSQL's server isn't installed")
    with cluster(binaries) as own:
        yield own


def test_outage_and_recovery(own_cluster: Cluster, tmp_path: Path) -> None:
    """During an outage requests soon get a 503 and nothing is recorded wrongly; the service
    recovers by itself."""
    database = PostgreSQLBackend(own_cluster.url, "postgres")
    installation = Installation(tmp_path, database)
    installation.create_schema()
    with installation.gunicorn() as server:
        before = server.workers
        with Load() as load:
            for client in range(8):
                load.add_client(server.port, mixed_jobs(client))
            for _ in range(2):
                load.wait_for(50)
                own_cluster.stop()
                load.wait_for(10, lambda exchange: exchange.is_unavailable)
                assert not server.is_healthy("readiness")
                assert server.is_healthy("liveness")
                own_cluster.start()
                wait_until(lambda: server.is_healthy("readiness"), "the service is ready")
            load.wait_for(100)
        assert all(_is_in_order(exchange) for exchange in load.exchanges)
        audit(finish(load.exchanges, server), database, server)
        assert server.workers == before


def _is_in_order(exchange: Exchange) -> bool:
    return (exchange.is_successful or exchange.is_unavailable) and exchange.seconds < BOUNDED

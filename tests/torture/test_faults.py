"""Faults of the disk and the database file, under load and at startup."""

import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from galaxy_express.ops.audit import audit_database
from tests.backends import SQLiteBackend
from tests.servers.http_client import Answer, package
from tests.servers.load import Exchange, Load, audit, finish, mixed_jobs
from tests.servers.running import Installation, Server, wait_until
from tests.torture import faults
from tests.torture.amount import Amount
from tests.torture.conftest import Report
from tests.torture.faults import Fault

CLIENTS = 8

# Seconds. A request may wait for the lock timeouts of two workers in turn.
LOCK_TIMEOUT = 0.3
BOUNDED = 10.0


@pytest.fixture
def service(installation: Installation) -> Installation:
    """The service with a short lock timeout."""
    installation.configure("database.lock_timeout", f"{LOCK_TIMEOUT * 1000:.0f} milliseconds")
    return installation


@pytest.fixture
def on_small_disk(tmp_path: Path) -> Iterator[Installation]:
    """The service with its database on a separate small disk."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with faults.small_disk(disk) as mounted:
        if not mounted:
            pytest.skip("only root may mount a file system")
        (tmp_path / "installation").mkdir()
        database = SQLiteBackend(disk / "galaxy_express.db")
        installation = Installation(tmp_path / "installation", database)
        installation.create_schema()
        yield installation


def _attack(server: Server, installation: Installation, fault: Fault, load: Load) -> None:
    """Cause a fault under load, and end it."""
    database = installation.database
    assert isinstance(database, SQLiteBackend)
    load.wait_for(50)
    with fault(database):
        load.wait_for(20, lambda exchange: exchange.is_unavailable)
        wait_until(lambda: not server.is_healthy("readiness"), "it isn't ready")
        assert server.is_healthy("liveness")
    load.wait_for(50)
    wait_until(lambda: server.is_healthy("readiness"), "it is ready")


def _check(load: Load, server: Server, installation: Installation) -> tuple[int, int]:
    """Check that nothing was lost; return the number of requests and of those answered 503."""
    exchanges = load.exchanges
    assert [exchange for exchange in exchanges if not _is_in_order(exchange)] == []
    audit(finish(exchanges, server), installation.database, server)
    audit_database(installation.database.config)
    return len(exchanges), sum(exchange.is_unavailable for exchange in exchanges)


def _is_in_order(exchange: Exchange) -> bool:
    return (exchange.is_successful or exchange.is_unavailable) and exchange.seconds < BOUNDED


def test_faults_under_load(
    service: Installation, amount: Amount, rng: random.Random, report: Report
) -> None:
    """While the file is unusable, requests are answered 503; then the same workers continue, with
    nothing lost."""
    happening: list[Fault] = [faults.missing, faults.garbage, faults.empty, faults.locked]
    if faults.can_be_made_immutable(service.folder):
        happening.append(faults.immutable)
    with service.gunicorn() as server:
        before = server.workers
        with Load() as load:
            for client in range(CLIENTS):
                load.add_client(server.port, mixed_jobs(client))
            for _ in range(amount.faults):
                for fault in rng.sample(happening, len(happening)):
                    _attack(server, service, fault, load)
        requests, unavailable = _check(load, server, service)
        assert server.workers == before
    report(
        f"database file {', '.join(fault.__name__ for fault in happening)}, under load",
        f"{amount.faults} times each",
        f"{requests:,} requests, {unavailable:,} answered `503`; other errors: 0; lost: 0",
    )


def test_full_disk(on_small_disk: Installation, amount: Amount, report: Report) -> None:
    """While the disk is full, writes are answered 503; then the service continues, with nothing
    lost."""
    with on_small_disk.gunicorn() as server:
        with Load() as load:
            for client in range(CLIENTS):
                load.add_client(server.port, mixed_jobs(client))
            for _ in range(amount.faults):
                _attack(server, on_small_disk, faults.full, load)
        requests, unavailable = _check(load, server, on_small_disk)
    report(
        "disk full, under load",
        f"{amount.faults} times",
        f"{requests:,} requests, {unavailable:,} answered `503`; other errors: 0; lost: 0",
    )


def test_faults_at_start(
    on_small_disk: Installation, amount: Amount, rng: random.Random, report: Report
) -> None:
    """A killed server restarted during a fault is alive but answers 503; after the fault it works
    again, with all earlier decisions."""
    database = on_small_disk.database
    assert isinstance(database, SQLiteBackend)
    happening = [faults.garbage, faults.empty, faults.locked, faults.full, faults.read_only]
    happening = rng.sample(happening, min(len(happening), amount.faults))
    pkg = package()
    with on_small_disk.gunicorn() as server:
        known = server.request("POST", "/packages", pkg)
        _kill(server)
    for fault in happening:
        with ExitStack() as stack:
            with fault(database):
                server = stack.enter_context(on_small_disk.gunicorn())
                written = server.request("POST", "/packages", package())
                assert (written.status, written.is_problem) == (503, True)
                read = server.request("GET", f"/packages/{pkg['package_id']}")
                assert read.json == known.json or (read.status, read.is_problem) == (503, True)
            assert _send_until_accepted(server, package()).status == 201
            again = _send_until_accepted(server, pkg)
            assert (again.status, again.json) == (200, known.json)
            _kill(server)
        audit_database(database.config)
    report(
        f"started with the database file {', '.join(fault.__name__ for fault in happening)}",
        "once each",
        "each time alive, `503`, and working again after the fault; lost: 0",
    )


def _kill(server: Server) -> None:
    """Kill a server and its workers, which leaves the database's log."""
    workers = server.workers
    server.kill()
    wait_until(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers),
        "all processes have exited",
    )


def _send_until_accepted(server: Server, pkg: dict[str, str]) -> Answer:
    answers = []

    def is_accepted() -> bool:
        answers.append(server.request("POST", "/packages", pkg))
        return answers[-1].status != 503

    wait_until(is_accepted, "a package is accepted")
    return answers[-1]

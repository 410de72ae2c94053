"""Locks held by another transaction: only requests that need them wait."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import gevent
import pytest
from webtest import TestApp

from galaxy_express.models import create_schema
from tests.backends import Backend, PostgreSQLBackend
from tests.conftest import NO_POSTGRESQL, SKIP_POSTGRESQL, MakeApp
from tests.functional.client import ANY, UPDATE, send, send_batch, totals, update

if SKIP_POSTGRESQL:
    pytest.skip(NO_POSTGRESQL, allow_module_level=True)

INSERT = "INSERT INTO packages VALUES (%s, 'zap', 'leela', 'personal', 0, 'dropped')"
CLIENTS = 3
# Seconds. Waiting for a lock takes longer than quick decisions do on a busy machine.
LOCK_TIMEOUT = 4
QUICK = 3


@pytest.fixture
def backend(postgresql: PostgreSQLBackend) -> Backend:
    """PostgreSQL, which locks rows."""
    create_schema(postgresql.config)
    return postgresql


@pytest.fixture
def app(make_app: MakeApp, backend: Backend) -> TestApp:
    """The application with a lock timeout."""
    return make_app({"database.lock_timeout": f"{LOCK_TIMEOUT} seconds"})


@contextmanager
def resending(app: TestApp, *package_ids: str) -> Iterator[list[int]]:
    """Run clients that resend packages until they are decided; yields the statuses they got."""
    statuses: list[int] = []

    def resend(package_id: str) -> None:
        status = None
        while status not in (200, 201):
            status = send(app, ANY, package_id=package_id).status_int
            statuses.append(status)

    clients = [gevent.spawn(resend, each) for each in package_ids for _ in range(CLIENTS)]
    try:
        yield statuses
        gevent.joinall(clients, timeout=10, raise_error=True)
        assert all(client.ready() for client in clients), "some were never decided"
    finally:
        gevent.killall(clients)


def send_new_packages(app: TestApp, seconds: float) -> None:
    """Send new packages for some seconds, and check that each is decided quickly."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        started = time.monotonic()
        sent = [gevent.spawn(send, app, package_id=f"{started}-{number}") for number in range(10)]
        gevent.joinall(sent, raise_error=True)
        assert time.monotonic() - started < QUICK


@pytest.mark.parametrize("blocked", [["a"], ["a", "b", "c", "d"]])
def test_locked_package(backend: Backend, app: TestApp, blocked: list[str]) -> None:
    """While clients resend locked packages, new ones are decided quickly; the locked ones are not
    decided until the lock is released."""
    with backend.transaction("ROLLBACK") as other:
        for package_id in blocked:
            other.execute(INSERT, [package_id])
        with resending(app, *blocked) as statuses:
            send_new_packages(app, 1.5)
            assert set(statuses) <= {503}
            other.execute("ROLLBACK")
    assert backend.stored() == backend.counted()
    assert all(send(app, 200, package_id=each) for each in blocked)


def test_batch_with_a_locked_package(backend: Backend, app: TestApp) -> None:
    """A batch with a locked package waits, and other batches don't."""
    with backend.transaction() as other:
        other.execute(INSERT, ["a"])
        package = {"recipient_id": "leela", "sender_id": "zap", "package_type": "personal"}
        batch = [
            package | {"package_id": each, "timestamp": "2142-03-01T12:00:00Z"} for each in "abc"
        ]
        waiting = gevent.spawn(send_batch, app, *batch)
        send_new_packages(app, 0.3)
        assert not waiting.ready()
    results = waiting.get(timeout=10).json
    assert [result["replayed"] for result in results] == [True, False, False]


def test_locked_recipient(backend: Backend, app: TestApp) -> None:
    """An update of a locked recipient waits, and other writes don't."""
    with backend.transaction("ROLLBACK") as other:
        other.execute("SELECT pg_advisory_xact_lock(1, hashtext('leela'))")
        waiting = gevent.spawn(update, app, UPDATE, "leela", 200)
        send_new_packages(app, 0.3)
        assert update(app, UPDATE, "fry", 200).json["applied"]
        assert not waiting.ready()
    assert waiting.get(timeout=10).json["applied"]


def test_locked_counters(backend: Backend, app: TestApp) -> None:
    """While its counters are locked, a worker increments others."""
    send(app, package_id="first")
    with backend.transaction("ROLLBACK") as other:
        other.execute("UPDATE counters SET value = value")
        send_new_packages(app, 0.3)
    delivered, _, _ = totals(app)
    assert delivered > 10
    assert backend.stored() == backend.counted()

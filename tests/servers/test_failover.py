"""A PostgreSQL server stops answering, restarts, or another one takes over."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from webtest import TestApp

from galaxy_express import make_wsgi_app
from galaxy_express.application import close_application
from galaxy_express.delivery import decide as decide_package
from galaxy_express.desk import DeliveryDesk
from galaxy_express.models import create_schema, from_microseconds
from galaxy_express.package_types import PACKAGE_TYPES
from galaxy_express.storage import queries
from galaxy_express.storage.connect import database_from_config
from galaxy_express.storage.database import Database
from galaxy_express.storage.errors import DatabaseUnavailable
from galaxy_express.storage.queries import PageRequest
from tests.backends import PostgreSQLBackend
from tests.conftest import skip_or_fail
from tests.integration.values import describe
from tests.integration.values import package as make_package
from tests.integration.values import send as decide
from tests.servers.forwarder import forwarding, silent_port
from tests.servers.http_client import package
from tests.servers.load import Exchange, Load, audit, finish, mixed_jobs
from tests.servers.network import Network, find_obstacle
from tests.servers.postgresql import Cluster, cluster, find_binaries
from tests.servers.running import Installation, wait_until

HASTY = {
    "database.statement_timeout": "500 milliseconds",
    "database.connect_timeout": "1 second",
}


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    """A PostgreSQL server that no other test uses."""
    with cluster(_binaries()) as own:
        yield own


def _binaries() -> Path:
    binaries = find_binaries()
    if binaries is None:
        skip_or_fail("PostgreSQL's server isn't installed")
    return binaries


@pytest.fixture
def network() -> Iterator[Network]:
    """A network, on whose router the test runs."""
    obstacle = find_obstacle()
    if obstacle:
        skip_or_fail(obstacle)
    with ExitStack() as stack:
        new = Network(stack)
        stack.enter_context(new.router.entered())
        yield new


OpenAt = Callable[..., Database]


@pytest.fixture
def open_at() -> Iterator[OpenAt]:
    """Open a database on local servers, tried in order."""
    databases = []

    def open_(*ports: int) -> Database:
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        url = f"postgresql://postgres@{hosts}/postgres"
        databases.append(database_from_config({"database.url": url} | HASTY))
        return databases[-1]

    yield open_
    for database in databases:
        database.close()


OpenApp = Callable[[str], "TestApp[Any]"]


@pytest.fixture
def open_app() -> Iterator[OpenApp]:
    """Make the application for a database URL."""
    apps = []

    def open_(url: str) -> "TestApp[Any]":
        apps.append(TestApp(make_wsgi_app({"database.url": url} | HASTY)))
        return apps[-1]

    yield open_
    for app in apps:
        close_application(app.app)


def test_service_with_an_unresponsive_server(own_cluster: Cluster, tmp_path: Path) -> None:
    """The service skips a server that never responds, and at most one request fails when its
    connections become unresponsive."""
    with silent_port() as silent, forwarding(own_cluster.port) as forwarder:
        installation = Installation(tmp_path, PostgreSQLBackend(own_cluster.url, "postgres"))
        installation.create_schema()
        installation.environment["GALAXY_EXPRESS_DATABASE_URL"] = (
            f"postgresql://postgres@127.0.0.1:{silent},127.0.0.1:{forwarder.port}/postgres"
        )
        for key, value in HASTY.items():
            installation.configure(key, value)
        with installation.gunicorn(workers=1) as server, ThreadPoolExecutor() as threads:
            wait_until(lambda: server.is_healthy("readiness"), "the service is ready")
            assert server.request("POST", "/packages", package()).status == 201

            forwarder.mute_connections()
            waiting = threads.submit(server.request, "POST", "/packages", package())
            while not waiting.done():
                started = time.monotonic()
                assert server.is_healthy("liveness")
                assert time.monotonic() - started < 0.4, "the event loop was blocked"
            assert waiting.result().status == 503
            wait_until(
                lambda: server.request("POST", "/packages", package()).status == 201,
                "packages are decided again",
                within=3,
            )
            assert server.is_healthy("readiness")

            forwarder.mute_everything()
            wait_until(lambda: not server.is_healthy("readiness"), "the service isn't ready")
            assert server.is_healthy("liveness")
            assert "has not responded" in server.log


def test_standby_replaces_its_primary(own_cluster: Cluster, open_at: OpenAt) -> None:
    """The primary is used whatever the order of the servers; a promoted standby takes over and
    replays earlier decisions."""
    create_schema({"database.url": own_cluster.url})
    with own_cluster.standby() as standby, forwarding(own_cluster.port) as forwarder:
        database = open_at(standby.port, forwarder.port)
        desk = DeliveryDesk(database, PACKAGE_TYPES)
        # After a standby, the primary has little time to accept a connection.
        wait_until(lambda: _is_decided(desk, "a"), "the primary is found")
        wait_until(lambda: _has(standby, "a"), "the standby has the package")

        # The primary freezes: its connections stay open without responses.
        forwarder.mute_everything()
        with pytest.raises(DatabaseUnavailable):
            decide(desk, make_package("b"))
        with pytest.raises(DatabaseUnavailable, match="read-only"):
            decide(desk, make_package("b"))
        with database.read_connection() as connection:
            assert queries.find_decision(connection, "a") is not None
        standby.promote()
        started = time.monotonic()
        wait_until(lambda: _is_decided(desk, "b"), "packages are decided again", within=5)
        assert time.monotonic() - started < 3
        assert [describe(outcome) for outcome in decide(desk, make_package("a"))] == [
            "delivered again"
        ]


def test_no_decision_is_confirmed_by_a_standby(own_cluster: Cluster, open_at: OpenAt) -> None:
    """A standby doesn't replay decisions, since the next primary may not have them."""
    create_schema({"database.url": own_cluster.url})
    decide(DeliveryDesk(open_at(own_cluster.port), PACKAGE_TYPES), make_package("a"))
    with own_cluster.standby() as standby:
        desk = DeliveryDesk(open_at(standby.port), PACKAGE_TYPES)
        with pytest.raises(DatabaseUnavailable, match="standby"):
            decide(desk, make_package("a"))


def test_no_response_rests_on_a_standby(own_cluster: Cluster, open_app: OpenApp) -> None:
    """While there is only a standby, a resent package and followers of the feed get no response,
    since the next primary may not have what the standby shows; lookups do."""
    create_schema({"database.url": own_cluster.url})
    with own_cluster.standby() as standby, forwarding(own_cluster.port) as forwarder:
        url = f"postgresql://postgres@127.0.0.1:{forwarder.port},{standby.address}/postgres"
        app = open_app(url)
        app.post_json("/packages", package(package_id="a"), status=201)
        wait_until(lambda: _has(standby, "a"), "the standby has the package")

        forwarder.mute_everything()
        wait_until(
            lambda: app.get("/packages/a", status="*").status_int == 200, "reads use the standby"
        )
        for _ in range(3):
            app.post_json("/packages", package(package_id="a"), status=503)
            app.get("/packages?order=asc", status=503)
            app.get("/dashboard/status", status=503)
            app.get("/packages/a", status=200)
        standby.promote()
        wait_until(lambda: _is_answered(app, "a"), "it is answered")
        app.get("/packages?order=asc", status=200)


def test_reads_of_a_standby_can_be_disabled(own_cluster: Cluster, open_app: OpenApp) -> None:
    """With ``target_session_attrs=read-write`` in the URL, nothing is read from a standby."""
    create_schema({"database.url": own_cluster.url})
    with own_cluster.standby() as standby:
        app = open_app(f"{standby.url}?target_session_attrs=read-write")
        app.get("/statistics", status=503)
        standby.promote()
        app.get("/statistics", status=200)


def test_no_response_before_a_standby_has_the_decision(
    own_cluster: Cluster, open_app: OpenApp
) -> None:
    """After a crash, a primary shows a decision that no standby has: a resent package and followers
    of the feed get no response until the synchronous standby has it."""
    create_schema({"database.url": own_cluster.url})
    with own_cluster.standby() as standby:
        _backend(own_cluster).rows("ALTER SYSTEM SET synchronous_standby_names = '*'")
        _backend(own_cluster).rows("SELECT pg_reload_conf()")
        app = open_app(own_cluster.url)
        app.post_json("/packages", package(package_id="a"), status=201)
        standby.stop()
        app.post_json("/packages", package(package_id="b"), status=503)
        own_cluster.crash()
        own_cluster.start()
        wait_until(lambda: _has(own_cluster, "b"), "the crashed primary shows it")

        for _ in range(3):
            app.post_json("/packages", package(package_id="b"), status=503)
            app.get("/packages?order=asc", status=503)
        standby.start()
        wait_until(lambda: _is_answered(app, "b"), "it is answered")
        assert _has(standby, "b")
        app.get("/packages?order=asc", status=200)


def _is_answered(app: "TestApp[Any]", package_id: str) -> bool:
    response = app.post_json("/packages", package(package_id=package_id), status="*")
    return bool(response.status_int == 200)


def test_no_feed_is_read_from_a_standby(own_cluster: Cluster, open_at: OpenAt) -> None:
    """A standby isn't used for the feed, which would miss the decisions in progress on the primary;
    the newest decisions can be read."""
    create_schema({"database.url": own_cluster.url})
    first, second = (open_at(own_cluster.port) for _ in range(2))
    with own_cluster.standby() as standby:
        database = open_at(standby.port)
        with first.transaction(rows=1) as connection:
            now = from_microseconds(connection.read_clock())
            late = decide_package(make_package("late"), True, None, now)
            queries.record_decisions(connection, [late])
            decide(DeliveryDesk(second, PACKAGE_TYPES), make_package("after"))
            wait_until(lambda: _has(standby, "after"), "the standby has a package")
            for recipient_id in (None, "leela"):
                assert _list(database, recipient_id, ascending=False) == ["after"]
                with pytest.raises(DatabaseUnavailable, match="standby"):
                    _list(database, recipient_id, ascending=True)
            with (
                pytest.raises(DatabaseUnavailable, match="standby"),
                database.read_connection() as reading,
            ):
                queries.find_feed_position(reading)
        assert _list(first, None, ascending=True) == ["late", "after"]


def _list(database: Database, recipient_id: str | None, ascending: bool) -> list[str]:
    with database.read_connection() as connection:
        request = PageRequest(ascending=ascending, after=None, limit=10)
        page = queries.find_decisions_page(connection, recipient_id, request)
    return [decision.package.package_id for decision in page.items]


def test_reads_leave_a_standby(own_cluster: Cluster, open_at: OpenAt) -> None:
    """Reads leave a standby when there is a new primary: immediately after a write, otherwise
    within seconds."""
    create_schema({"database.url": own_cluster.url})
    with (
        own_cluster.standby() as stale,
        own_cluster.standby() as promoted,
        forwarding(own_cluster.port) as forwarder,
    ):
        writer, reader = (open_at(forwarder.port, stale.port, promoted.port) for _ in range(2))
        desk = DeliveryDesk(writer, PACKAGE_TYPES)
        decide(desk, make_package("a"))
        wait_until(lambda: _has(stale, "a") and _has(promoted, "a"), "the standbys have a package")

        forwarder.mute_everything()
        wait_until(lambda: _fails(desk, "read-only"), "a standby takes its place")
        assert _reads(writer, "a")
        assert _reads(reader, "a")
        promoted.promote()
        wait_until(lambda: _is_decided(desk, "b"), "packages are decided again", within=5)
        assert _reads(writer, "b")
        wait_until(lambda: _reads(reader, "b"), "others read it, too", within=15)


def _reads(database: Database, package_id: str) -> bool:
    with database.read_connection() as connection:
        return queries.find_decision(connection, package_id) is not None


def _fails(desk: DeliveryDesk, reason: str) -> bool:
    try:
        return not decide(desk, make_package("b"))
    except DatabaseUnavailable as error:
        return reason in str(error)


def _has(server: Cluster, package_id: str) -> bool:
    backend = PostgreSQLBackend(server.url, "postgres")
    return bool(backend.rows(f"SELECT 1 FROM packages WHERE package_id = '{package_id}'"))  # noqa: S608


def _is_decided(desk: DeliveryDesk, package_id: str) -> bool:
    try:
        return bool(decide(desk, make_package(package_id)))
    except DatabaseUnavailable:
        return False


def test_missing_synchronous_standby(own_cluster: Cluster, open_at: OpenAt) -> None:
    """While commits wait for a missing standby the service isn't ready and leaves few backends
    waiting; it recovers immediately when no standby is required."""
    create_schema({"database.url": own_cluster.url})
    backend = PostgreSQLBackend(own_cluster.url, "postgres")
    database = open_at(own_cluster.port)
    desk = DeliveryDesk(database, PACKAGE_TYPES)
    decide(desk, make_package("a"))

    backend.rows("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    backend.rows("SELECT pg_reload_conf()")
    new_ids = map(str, count())  # a decided package needs no commit
    wait_until(lambda: not _is_decided(desk, next(new_ids)), "commits wait")
    end = time.monotonic() + 3
    while time.monotonic() < end:
        assert not _is_decided(desk, "c")
        with database.read_connection() as connection, pytest.raises(DatabaseUnavailable):
            database.check_commits(connection)
    ((number,),) = backend.rows(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    )
    assert number <= 3

    backend.rows("ALTER SYSTEM RESET synchronous_standby_names")
    backend.rows("SELECT pg_reload_conf()")
    wait_until(lambda: _is_decided(desk, "c"), "packages are decided again", within=1)
    with database.read_connection() as connection:
        database.check_commits(connection)
    assert backend.stored() == backend.counted()


@contextmanager
def _loading(tmp_path: Path, *servers: Cluster) -> Iterator[Load]:
    """A load on the service, which uses the first server, and in the end the last one. Afterwards,
    responses, rows and counters agree."""
    installation = Installation(tmp_path, _backend(servers[0]))
    installation.create_schema()
    addresses = ",".join(server.address for server in servers)
    installation.environment["GALAXY_EXPRESS_DATABASE_URL"] = (
        f"postgresql://postgres@{addresses}/postgres"
    )
    for key, value in HASTY.items():
        installation.configure(key, value)
    with installation.gunicorn() as service:
        with Load() as load:
            for client in range(4):
                load.add_client(service.port, mixed_jobs(client))
            load.wait_for(100)
            yield load
            _wait_for_decisions(load)
        audit(finish(load.exchanges, service), _backend(servers[-1]), service)


def _wait_for_decisions(load: Load) -> None:
    started = time.monotonic()
    load.wait_for(100, _is_decision)
    # Less than two seconds, if the machine isn't busy with other tests.
    assert time.monotonic() - started < 10


def _is_decision(exchange: Exchange) -> bool:
    return exchange.answer is not None and exchange.answer.status == 201


def _is_unavailable(exchange: Exchange) -> bool:
    return exchange.is_unavailable


def _backend(server: Cluster) -> PostgreSQLBackend:
    return PostgreSQLBackend(server.url, "postgres")


def test_primary_is_cut_off(network: Network, tmp_path: Path) -> None:
    """When the network of a primary fails, the service continues with its synchronous standby, and
    all responses stay valid."""
    with (
        cluster(_binaries(), network.add_machine()) as primary,
        primary.standby(network.add_machine()) as standby,
    ):
        _backend(primary).rows("ALTER SYSTEM SET synchronous_standby_names = '*'")
        _backend(primary).rows("SELECT pg_reload_conf()")
        with _loading(tmp_path, primary, standby) as load:
            network.cut(primary.machine)
            load.wait_for(10, _is_unavailable)
            standby.promote()


def test_primary_steps_down_and_returns(own_cluster: Cluster, tmp_path: Path) -> None:
    """When a primary becomes a standby and then the primary again, like one of Patroni's without
    etcd, the service recovers, and all responses stay valid."""
    with _loading(tmp_path, own_cluster) as load:
        own_cluster.demote()
        load.wait_for(10, _is_unavailable)
        own_cluster.promote()


def test_primary_crashes_and_restarts(own_cluster: Cluster, tmp_path: Path) -> None:
    """When a primary is killed and restarted, the service recovers, and all responses stay
    valid."""
    with _loading(tmp_path, own_cluster) as load:
        own_cluster.crash()
        load.wait_for(10, _is_unavailable)
        own_cluster.start()

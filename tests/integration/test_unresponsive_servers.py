"""PostgreSQL stops responding: every wait times out, and other servers are used."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy.engine import URL, make_url

from galaxy_express.desk import DeliveryDesk
from galaxy_express.models import create_schema
from galaxy_express.package_types import PACKAGE_TYPES
from galaxy_express.storage import queries
from galaxy_express.storage.connect import database_from_config
from galaxy_express.storage.database import Database
from galaxy_express.storage.errors import DatabaseUnavailable
from tests.backends import Backend, PostgreSQLBackend
from tests.conftest import NO_POSTGRESQL, SKIP_POSTGRESQL
from tests.integration.values import describe, package, send, update, update_preferences
from tests.servers.forwarder import Forwarder, forwarding, silent_port

if SKIP_POSTGRESQL:
    pytest.skip(NO_POSTGRESQL, allow_module_level=True)

HASTY = {
    "database.lock_timeout": "100 milliseconds",
    "database.statement_timeout": "300 milliseconds",
    "database.connect_timeout": "600 milliseconds",
}
# Seconds: the timeouts, the extra time for PostgreSQL's own, and a margin for busy machines.
BOUNDED = 2.5

OpenAt = Callable[..., Database]


@pytest.fixture
def backend(postgresql: PostgreSQLBackend) -> Backend:
    """PostgreSQL, with empty tables."""
    create_schema(postgresql.config)
    return postgresql


@pytest.fixture
def server(backend: Backend) -> URL:
    """The URL of the database."""
    return make_url(backend.url)


@pytest.fixture
def forwarder(server: URL) -> Iterator[Forwarder]:
    """A forwarder to the server."""
    if server.host not in ("127.0.0.1", "localhost"):
        pytest.skip("the PostgreSQL server runs on another machine")
    with forwarding(server.port or 5432) as forwarder:
        yield forwarder


@pytest.fixture
def open_at(server: URL) -> Iterator[OpenAt]:
    """Open the database through local ports, tried in the given order."""
    databases = []

    def open_(
        *ports: int | None, on_timeout: Callable[[str], None] = lambda _: None, **settings: str
    ) -> Database:
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        user = f"{server.username}:{server.password or ''}"
        url = f"postgresql://{user}@{hosts}/{server.database}"
        config = {"database.url": url} | HASTY | settings
        database = database_from_config(config, on_timeout)
        databases.append(database)
        return database

    yield open_
    for database in databases:
        database.close()


def read(database: Database) -> None:
    """Execute a trivial query."""
    with database.read_connection() as connection:
        queries.find_decision(connection, "pkg-1")


def fails(action: Callable[[], object], seconds: float = BOUNDED) -> str:
    """Check that an action fails within a number of seconds, and return the error message."""
    started = time.monotonic()
    with pytest.raises(DatabaseUnavailable) as raised:
        action()
    assert time.monotonic() - started < seconds
    return str(raised.value)


def test_write_on_an_unresponsive_connection(forwarder: Forwarder, open_at: OpenAt) -> None:
    """A write on an unresponsive connection times out, and the next uses a new connection."""
    given_up: list[str] = []
    desk = DeliveryDesk(open_at(forwarder.port, on_timeout=given_up.append), PACKAGE_TYPES)
    send(desk, package("a"))
    forwarder.mute_connections()
    assert "has not responded" in fails(lambda: send(desk, package("b")))
    assert [describe(outcome) for outcome in send(desk, package("b"))] == ["delivered"]
    assert given_up == ["statement"]


def test_reads_on_unresponsive_connections(forwarder: Forwarder, open_at: OpenAt) -> None:
    """If several connections are unresponsive, only one read fails before all are replaced."""
    database = open_at(forwarder.port)
    with database.read_connection(), database.read_connection(), database.read_connection():
        pass
    forwarder.mute_connections()
    fails(lambda: read(database))
    read(database)


def test_connecting_to_an_unresponsive_server(open_at: OpenAt) -> None:
    """An attempt to connect times out."""
    with silent_port() as port:
        database = open_at(port)
        fails(lambda: read(database))
        fails(lambda: send(DeliveryDesk(database, PACKAGE_TYPES), package()))


def test_server_that_stops_responding_while_connecting(
    forwarder: Forwarder, open_at: OpenAt
) -> None:
    """The statements that set up a new connection share the timeout for connecting."""
    forwarder.mute_at(b"synchronous_commit")
    database = open_at(forwarder.port)
    fails(lambda: read(database))


def test_several_servers(server: URL, open_at: OpenAt) -> None:
    """Unresponsive servers are skipped, and the one that responded is tried first next time."""
    with silent_port() as first, silent_port() as second:
        database = open_at(first, second, server.port)
        read(database)
        started = time.monotonic()
        send(DeliveryDesk(database, PACKAGE_TYPES), package())
        assert time.monotonic() - started < 0.2


def test_several_hosts_without_ports(server: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts without a port have libpq's default port, also if there are several."""
    monkeypatch.setenv("PGPORT", str(server.port))
    text = server.render_as_string(hide_password=False)
    url = text.replace(f"@{server.host}:{server.port}/", f"@{server.host},{server.host}/")
    database = database_from_config({"database.url": url} | HASTY)
    read(database)
    database.close()


def test_address_in_the_environment(server: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host in the URL, be it a name or an address, isn't replaced by ``$PGHOSTADDR``."""
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.255")
    for host in ("127.0.0.1", "localhost"):
        url = server.set(host=host).render_as_string(hide_password=False)
        database = database_from_config({"database.url": url} | HASTY)
        read(database)
        database.close()


def test_sockets_in_the_url(backend: Backend, server: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a socket is a percent-encoded host, alone or among several."""
    ((folders,),) = backend.rows("SHOW unix_socket_directories")
    folder = folders.split(",")[0]
    if not Path(folder, f".s.PGSQL.{server.port}").exists():
        pytest.skip("the PostgreSQL server runs on another machine")
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.255")
    socket = f"{quote(folder, safe='')}:{server.port}"
    with silent_port() as silent:
        for hosts in (socket, f"127.0.0.1:{silent},{socket}"):
            url = f"postgresql://{server.username}@{hosts}/{server.database}"
            database = database_from_config({"database.url": url} | HASTY)
            with database.read_connection() as connection:
                assert connection.select("SELECT inet_server_addr()") == [(None,)]
            database.close()


def test_every_address_of_a_name_is_tried(server: URL, open_at: OpenAt) -> None:
    """All addresses of a host name are tried; the error names a host that has none."""
    url = server.set(host="localhost").render_as_string(hide_password=False)
    database = database_from_config({"database.url": url} | HASTY)
    read(database)
    database.close()
    database = database_from_config({"database.url": "postgresql://nowhere.invalid/g"} | HASTY)
    assert "nowhere.invalid" in fails(lambda: read(database))


# Only those in the test's own database, since concurrent tests share the server.
SLEEPERS = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"


def count_sleepers(backend: Backend) -> int:
    """The number of backends in a slow COMMIT."""
    ((number,),) = backend.rows(f"SELECT count(*) {SLEEPERS}")
    return int(number)


def end_sleepers(backend: Backend) -> None:
    """End the backends that are in a slow COMMIT."""
    backend.rows(f"SELECT pg_terminate_backend(pid, 5000) {SLEEPERS}")


def make_commits_hang(backend: Backend, table: str) -> None:
    """Let each COMMIT of an insertion into a table take a minute."""
    backend.rows(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$"
    )
    backend.rows(
        f"CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON {table}"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait()"
    )


def test_commits_without_a_response(backend: Backend, server: URL, open_at: OpenAt) -> None:
    """After a COMMIT without a response the next attempt is delayed, unless the server has ended
    the first one; until then the database isn't ready."""
    make_commits_hang(backend, "packages")
    database = open_at(server.port)
    desk = DeliveryDesk(database, PACKAGE_TYPES)
    assert "COMMIT" in fails(lambda: send(desk, package("a")))
    assert "got no response" in fails(lambda: send(desk, package("b")), 0.5)
    assert count_sleepers(backend) == 1
    with database.read_connection() as connection, pytest.raises(DatabaseUnavailable):
        database.check_commits(connection)

    def is_retried() -> bool:
        fails(lambda: send(desk, package("b")))
        return count_sleepers(backend) == 2

    deadline = time.monotonic() + 60  # on a busy machine each attempt takes long
    while not is_retried():
        assert time.monotonic() < deadline
    end_sleepers(backend)
    with backend.cursor() as cursor:
        cursor.execute("DROP TRIGGER wait ON packages")
    assert [describe(outcome) for outcome in send(desk, package("c"))] == ["delivered"]
    with database.read_connection() as connection:
        database.check_commits(connection)


def test_locks_of_a_commit_without_a_response(
    backend: Backend, server: URL, open_at: OpenAt
) -> None:
    """A delayed update fails at once, without waiting for the locks of the COMMIT before it."""
    make_commits_hang(backend, "preference_updates")
    desk = DeliveryDesk(open_at(server.port), PACKAGE_TYPES)
    assert "COMMIT" in fails(lambda: update_preferences(desk, update(1, personal=False)))
    later = update(2, personal=True)
    assert "got no response" in fails(lambda: update_preferences(desk, later), 0.5)
    assert count_sleepers(backend) == 1
    end_sleepers(backend)


def test_connections_are_replaced_by_age(backend: Backend, server: URL, open_at: OpenAt) -> None:
    """Connections are replaced at their maximum age, so that a changed address is picked up."""
    database = open_at(server.port, **{"database.connection_age": "1 second"})
    desk = DeliveryDesk(database, PACKAGE_TYPES)

    def backends() -> tuple[int, int]:
        pids = []
        for opened in (database.read_connection(), database.transaction()):
            with opened as connection:
                ((pid,),) = connection.select("SELECT pg_backend_pid()")
                pids.append(pid)
        return pids[0], pids[1]

    send(desk, package())
    before = backends()
    assert backends() == before
    time.sleep(1.1)
    assert not set(before) & set(backends())


def test_readers_follow_the_writer(open_at: OpenAt, forwarder: Forwarder) -> None:
    """When a write finds that a server has become read-only, reads switch servers too."""
    database = open_at(forwarder.port)
    desk = DeliveryDesk(database, PACKAGE_TYPES)
    read(database)
    accepted = forwarder.accepted
    with database.transaction() as connection:
        connection.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
    fails(lambda: send(desk, package()))
    read(database)
    assert forwarder.accepted == accepted + 2
    send(desk, package())

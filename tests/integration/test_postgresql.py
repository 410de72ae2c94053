"""Behaviour that is specific to PostgreSQL."""

import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from random import Random

import psycopg2
import pytest
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.pool import Pool

from galaxy_express.delivery import REJECTED
from galaxy_express.desk import ATTEMPTS, CountersLocked, DeliveryDesk, SendRequest
from galaxy_express.models import create_schema
from galaxy_express.package_types import PACKAGE_TYPES
from galaxy_express.preferences import Preference, PreferenceUpdate, UpdatedPreferences
from galaxy_express.storage import queries
from galaxy_express.storage.connect import database_from_config
from galaxy_express.storage.database import Database
from galaxy_express.storage.errors import DatabaseUnavailable, NotRecorded, TransactionConflict
from tests.backends import Backend, PostgreSQLBackend
from tests.conftest import NO_POSTGRESQL, SKIP_POSTGRESQL, OpenDatabase
from tests.integration.conftest import MakeDesk
from tests.integration.racing import run_concurrently
from tests.integration.values import (
    NOON,
    commit,
    describe,
    package,
    send,
    update,
    update_preferences,
)

if SKIP_POSTGRESQL:
    pytest.skip(NO_POSTGRESQL, allow_module_level=True)


@pytest.fixture
def backend(postgresql: PostgreSQLBackend) -> Backend:
    """PostgreSQL only."""
    return postgresql


THREADS = 6

NO = Preference(False, NOON)

PREFERENCE = "INSERT INTO preferences (recipient_id, package_type, wanted, timestamp) VALUES "
PREFERENCE_OF_A = PREFERENCE + "('a', 'personal', true, 0)"
PREFERENCE_OF_B = PREFERENCE + "('b', 'personal', true, 0)"

SETTINGS = {
    "database.lock_timeout": "1500 milliseconds",
    "database.statement_timeout": "2500 milliseconds",
    "database.application_name": "nimbus",
}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("lock_timeout", "1500ms"),
        ("statement_timeout", "2500ms"),
        ("application_name", "nimbus"),
        ("transaction_isolation", "read committed"),
        ("synchronous_commit", "on"),
    ],
)
def test_settings_are_applied(open_database: OpenDatabase, setting: str, value: str) -> None:
    """Configured settings apply to read and write connections."""
    database = open_database(SETTINGS)
    for opened in (database.read_connection(), database.transaction()):
        with opened as connection:
            assert connection.select(f"SHOW {setting}") == [(value,)]


def test_connecting_has_a_timeout(open_database: OpenDatabase) -> None:
    """The driver is given timeouts for a server that doesn't respond."""
    database = open_database(SETTINGS | {"database.connect_timeout": "3 seconds"})
    for opened in (database.read_connection(), database.transaction()):
        with opened as connection:
            # The server doesn't know them.
            raw = connection._raw  # noqa: SLF001
            parameters = raw.dbapi_connection.info.dsn_parameters
            assert parameters["connect_timeout"] == "3"
            assert parameters["tcp_user_timeout"] == "2500"


def test_slow_statement_times_out(open_database: OpenDatabase) -> None:
    """A statement that takes too long raises ``DatabaseUnavailable``."""
    database = open_database({"database.statement_timeout": "50 milliseconds"})
    with (
        pytest.raises(DatabaseUnavailable, match="timeout"),
        database.read_connection() as connection,
    ):
        connection.execute("SELECT pg_sleep(10)")


def test_read_connections_are_limited(open_database: OpenDatabase) -> None:
    """If all connections are in use, waiting for one times out."""
    database = open_database(
        {"database.pool_size": "1", "database.connect_timeout": "500 milliseconds"}
    )
    started = time.monotonic()
    with database.read_connection(), pytest.raises(DatabaseUnavailable), database.read_connection():
        pass
    assert time.monotonic() - started < 10
    with database.read_connection() as connection:
        assert connection.select("SELECT 1") == [(1,)]


def test_no_server() -> None:
    """If no server listens at the address, the database is unavailable."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        database = database_from_config({"database.url": f"postgresql://127.0.0.1:{port}/none"})
        with pytest.raises(DatabaseUnavailable), database.read_connection():
            pass


def test_missing_database(backend: Backend) -> None:
    """If the server lacks the database, the database is unavailable."""
    url = make_url(backend.url).set(database="nowhere_to_be_found")
    database = database_from_config({"database.url": url.render_as_string(hide_password=False)})
    with pytest.raises(DatabaseUnavailable), database.transaction():
        pass


def test_description_omits_the_password() -> None:
    """The description of a database, as logged, doesn't contain its password."""
    database = database_from_config({"database.url": "postgresql://leela:nibbler@host/name"})
    assert "nibbler" not in str(database)
    assert "host/name" in str(database)


def test_rows_are_locked_in_the_order_of_their_keys(
    backend: Backend, database: Database, desk: DeliveryDesk
) -> None:
    """A batch locks its packages in the order of their ids, so that no two batches deadlock."""
    insert = "INSERT INTO packages VALUES (%s, 'zap', 'leela', 'personal', 0, 'dropped')"
    with ThreadPoolExecutor(1) as threads:
        with backend.transaction() as first:
            first.execute(insert, "m")
            batch = threads.submit(send, desk, package("z"), package("m"), package("a"))
            backend.wait_for_blocked_write()
            with backend.transaction("ROLLBACK") as second:
                second.execute("SET LOCAL lock_timeout = '100ms'")
                second.execute(insert, "z")
                with pytest.raises(psycopg2.errors.LockNotAvailable):
                    second.execute(insert, "a")
        assert [describe(outcome) for outcome in batch.result()] == [
            "delivered",
            "dropped again",
            "delivered",
        ]


@pytest.mark.parametrize(
    ("before", "first", "second", "answer"),
    [
        pytest.param(
            update(personal=True, marketing=True),
            update(personal=False, marketing=True),
            update(personal=True, marketing=False),
            UpdatedPreferences({"personal": NO, "marketing": NO}, applied=False),
            id="ties",
        ),
        pytest.param(
            update(),
            update(personal=False),
            update(marketing=False),
            UpdatedPreferences({"personal": NO, "marketing": NO}, applied=True),
            id="no earlier preferences",
        ),
    ],
)
def test_updates_of_one_recipient_are_serialized(
    backend: Backend,
    make_desk: MakeDesk,
    before: PreferenceUpdate,
    first: PreferenceUpdate,
    second: PreferenceUpdate,
    answer: UpdatedPreferences,
) -> None:
    """An update that arrives during another one for the same recipient takes it into account, even
    if the two write different rows."""
    one, other = make_desk(), make_desk()
    update_preferences(one, before)
    with ThreadPoolExecutor(2) as threads:
        # The first update is blocked by the package that shares its transaction.
        with backend.transaction("ROLLBACK") as held:
            held.execute(
                "INSERT INTO packages VALUES ('a', 'zap', 'leela', 'personal', 0, 'dropped')"
            )
            threads.submit(commit, one, [first, SendRequest([package("a")])])
            backend.wait_for_blocked_write()
            answered = threads.submit(update_preferences, other, second)
            deadline = time.monotonic() + 5
            while waiting(backend) < 2 and not answered.done():
                assert time.monotonic() < deadline, "the second update neither waits nor ends"
                time.sleep(0.01)
        assert answered.result() == answer


def test_desk_with_locked_counters_uses_another_shard(
    database: Database, open_database: OpenDatabase
) -> None:
    """A desk whose shard is locked, by a hanging instance for example, counts in another shard."""
    desk = DeliveryDesk(open_database({"database.lock_timeout": "50 milliseconds"}), PACKAGE_TYPES)
    with database.transaction() as connection:
        queries.add_to_totals(connection, desk.shard, {REJECTED: 1})
        send(desk, rejected=1)
    with database.read_connection() as connection:
        assert queries.read_totals(connection) == {REJECTED: 2}


def test_all_counters_locked(
    backend: Backend, database: Database, open_database: OpenDatabase
) -> None:
    """If all shards are locked, the write fails after a limited number of attempts."""
    desk = DeliveryDesk(open_database({"database.lock_timeout": "50 milliseconds"}), PACKAGE_TYPES)
    with backend.transaction() as other:
        other.execute("LOCK TABLE counters IN EXCLUSIVE MODE")
        started = time.monotonic()
        with pytest.raises(CountersLocked):
            send(desk, rejected=1)
        assert time.monotonic() - started < 2
    assert backend.counted() == {}


def waiting(backend: Backend) -> int:
    """The number of transactions that wait for a lock."""
    ((number,),) = backend.rows(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return int(number)


def deadlocks(backend: Backend) -> int:
    """The number of deadlocks so far, once all other connections have been closed."""
    deadline = time.monotonic() + 5
    while backend.rows(
        "SELECT 1 FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ):
        assert time.monotonic() < deadline, "a connection was left open"
        time.sleep(0.01)
    ((number,),) = backend.rows(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    )
    return int(number)


def test_instances_do_not_deadlock(backend: Backend, open_database: OpenDatabase) -> None:
    """Instances that get the same packages in different orders never deadlock."""
    create_schema(backend.config)
    before = deadlocks(backend)

    def work(desk: DeliveryDesk, recipients: list[str], order: Random) -> None:
        updates = [
            update(minute, recipient, personal=True, marketing=False)
            for minute in range(THREADS)
            for recipient in recipients
        ]
        order.shuffle(updates)
        for start in range(0, len(updates), 10):
            packages = [package(f"{start} {each}", recipient_id=each) for each in recipients]
            order.shuffle(packages)
            commit(desk, [*updates[start : start + 10], SendRequest(packages)])

    databases = [open_database() for _ in range(THREADS)]
    desks = [DeliveryDesk(database, PACKAGE_TYPES) for database in databases]
    for number in range(5):
        recipients = [f"{number}-{n}" for n in range(10)]
        run_concurrently(
            [partial(work, desk, recipients, Random(n)) for n, desk in enumerate(desks)]
        )
    for database in databases:
        database.close()
    assert deadlocks(backend) == before


def test_deadlock_raises_a_transaction_conflict(backend: Backend, database: Database) -> None:
    """A transaction aborted by a deadlock raises ``TransactionConflict``: it can be retried."""
    with ThreadPoolExecutor(1) as threads, backend.transaction("ROLLBACK") as other:
        other.execute("SET LOCAL deadlock_timeout = '10s'")
        other.execute(PREFERENCE_OF_A)

        def lose() -> None:
            with database.transaction() as connection:
                connection.execute("SET LOCAL deadlock_timeout = '10ms'")
                connection.execute(PREFERENCE_OF_B)
                winning.append(threads.submit(other.execute, PREFERENCE_OF_B))
                backend.wait_for_blocked_write()
                connection.execute(PREFERENCE_OF_A)

        winning: list[Future[None]] = []
        with pytest.raises(TransactionConflict):
            lose()
        winning[0].result()


def test_attempts_are_limited(backend: Backend, desk: DeliveryDesk) -> None:
    """A transaction that conflicts every time fails after a limited number of attempts."""
    with backend.cursor() as cursor:
        cursor.execute("CREATE SEQUENCE attempts")  # isn't rolled back with the transaction
        cursor.execute(
            "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM nextval('attempts'); RAISE SQLSTATE '40001'; END $$"
        )
        cursor.execute(
            "CREATE TRIGGER lose BEFORE INSERT ON preferences FOR EACH ROW EXECUTE FUNCTION lose()"
        )
    with pytest.raises(DatabaseUnavailable):
        commit(desk, [SendRequest([package()]), update(personal=True)])
    assert backend.rows("SELECT last_value FROM attempts") == [(ATTEMPTS,)]
    assert backend.stored() == backend.counted() == {}


@pytest.mark.parametrize("table", ["preferences", "counters"])
@pytest.mark.parametrize("known", [False, True], ids=["first", "later"])
def test_rows_that_are_left_out_are_not_retried(
    backend: Backend, desk: DeliveryDesk, table: str, known: bool
) -> None:
    """If a trigger leaves rows out, the transaction fails at its first attempt, and says why."""
    if known:
        commit(desk, [SendRequest([package()]), update(personal=True)])
    before = backend.contents(), backend.counted()
    backend.rows("CREATE SEQUENCE attempts")
    backend.rows(
        "CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM nextval('attempts'); RETURN NULL; END $$"
    )
    backend.rows(
        f"CREATE TRIGGER leave_out BEFORE INSERT ON {table} FOR EACH ROW"
        " EXECUTE FUNCTION leave_out()"
    )
    with pytest.raises(NotRecorded, match=f"{table} were not stored; does a trigger leave them"):
        commit(desk, [SendRequest([package("b")]), update(1, personal=False)])
    assert backend.rows("SELECT last_value FROM attempts") == [(1,)]
    assert (backend.contents(), backend.counted()) == before


def test_connection_closed_between_uses(
    postgresql: PostgreSQLBackend, database: Database, desk: DeliveryDesk
) -> None:
    """Connections that the server closed between two uses are replaced without an error."""
    for name in ("a", "b"):
        assert [describe(outcome) for outcome in send(desk, package(name))] == ["delivered"]
        with database.read_connection() as connection:
            assert queries.find_decision(connection, name) is not None
        with postgresql.unavailable():
            pass


def test_new_connections_are_closed(postgresql: PostgreSQLBackend, database: Database) -> None:
    """If the server closes each connection before it is used, the database is unavailable."""

    def wait(*_: object) -> None:
        time.sleep(0.5)

    with database.read_connection():
        pass
    name = make_url(postgresql.url).database
    postgresql.rows(f"ALTER DATABASE {name} SET idle_session_timeout = 200")
    event.listen(Pool, "connect", wait)
    try:
        with postgresql.unavailable():
            pass
        with pytest.raises(DatabaseUnavailable), database.read_connection():
            pass
    finally:
        event.remove(Pool, "connect", wait)
        postgresql.rows(f"ALTER DATABASE {name} RESET idle_session_timeout")


# Connections, resources, locks and conflicts; the others are of the same classes.
OUTAGES = ["08000", "08006", "53000", "53100", "53200", "53300", "53400", "57014", "57P01", "57P02"]
OUTAGES += [
    "57P03",
    "57P04",
    "57P05",
    "25006",
    "25P03",
    "40001",
    "40P01",
    "55P03",
    "58030",
    "XX000",
]


@pytest.mark.parametrize("code", OUTAGES)
def test_errors_of_the_server_are_outages(backend: Backend, desk: DeliveryDesk, code: str) -> None:
    """Errors that a retry may avoid make the database unavailable, and nothing is recorded."""
    backend.rows(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}'; END $$"
    )
    backend.rows("CREATE TRIGGER fail BEFORE INSERT ON packages EXECUTE FUNCTION fail()")
    with pytest.raises(DatabaseUnavailable):
        send(desk, package())
    backend.rows("DROP TRIGGER fail ON packages")
    assert [describe(outcome) for outcome in send(desk, package())] == ["delivered"]
    assert backend.stored() == backend.counted() == {("delivered", "personal"): 1}


def test_connection_lost_in_a_transaction(backend: Backend, database: Database) -> None:
    """If a connection is lost, its transaction is rolled back, and the next one succeeds."""

    def write(*statements: str) -> None:
        with database.transaction() as connection:
            for statement in statements:
                connection.execute(statement)

    with pytest.raises(DatabaseUnavailable):
        write(PREFERENCE_OF_A, "SELECT pg_terminate_backend(pg_backend_pid())")
    assert backend.rows("SELECT * FROM preferences") == []
    write(PREFERENCE_OF_A)
    assert len(backend.rows("SELECT * FROM preferences")) == 1


def test_connection_lost_during_commit(backend: Backend, desk: DeliveryDesk) -> None:
    """If the connection is lost during COMMIT, the write fails, and a retry succeeds."""
    with backend.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$"
        )
        cursor.execute(
            "CREATE CONSTRAINT TRIGGER leave AFTER INSERT ON packages"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION leave()"
        )
    with pytest.raises(DatabaseUnavailable):
        send(desk, package())
    backend.rows("DROP TRIGGER leave ON packages")
    assert [describe(outcome) for outcome in send(desk, package())] == ["delivered"]
    assert backend.stored() == backend.counted() == {("delivered", "personal"): 1}


def test_text_is_ordered_by_bytes(backend: Backend, database: Database) -> None:
    """No index depends on a locale, whose order a system upgrade could change."""
    collations = backend.rows(
        "SELECT DISTINCT collation_name FROM information_schema.columns"
        " WHERE table_schema = current_schema() AND data_type = 'text'"
    )
    assert collations == [("C",)]

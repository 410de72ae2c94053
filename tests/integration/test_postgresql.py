"""What is true of PostgreSQL alone."""

import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from random import Random

import psycopg2
import pytest
from sqlalchemy.engine import make_url

from galaxy_express.delivery import REJECTED
from galaxy_express.desk import ATTEMPTS, DeliveryDesk, SendRequest
from galaxy_express.models import create_schema
from galaxy_express.package_types import PACKAGE_TYPES
from galaxy_express.preferences import Preference, PreferenceUpdate, UpdatedPreferences
from galaxy_express.storage import queries
from galaxy_express.storage.connect import database_from_config
from galaxy_express.storage.database import (
    Blocked,
    Database,
    DatabaseUnavailable,
    TransactionConflict,
)
from tests.backends import Backend, PostgreSQLBackend
from tests.conftest import NO_POSTGRESQL, SKIP_POSTGRESQL, OpenDatabase
from tests.integration.conftest import MakeDesk
from tests.integration.racing import at_once
from tests.integration.values import NOON, commit, in_words, package, say, send, update

if SKIP_POSTGRESQL:
    pytest.skip(NO_POSTGRESQL, allow_module_level=True)


@pytest.fixture
def backend(postgresql: PostgreSQLBackend) -> Backend:
    """PostgreSQL alone."""
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
def test_settings_are_in_force(open_database: OpenDatabase, setting: str, value: str) -> None:
    """What was configured holds for reads and for writes."""
    database = open_database(SETTINGS)
    for opened in (database.read_connection(), database.transaction()):
        with opened as connection:
            assert connection.select(f"SHOW {setting}") == [(value,)]


def test_a_connection_is_not_waited_for_without_end(open_database: OpenDatabase) -> None:
    """The driver knows how long to wait for a server that is silent."""
    database = open_database(SETTINGS | {"database.connect_timeout": "3 seconds"})
    for opened in (database.read_connection(), database.transaction()):
        with opened as connection:
            parameters = connection._raw.dbapi_connection.info.dsn_parameters
            assert parameters["connect_timeout"] == "3"
            assert parameters["tcp_user_timeout"] == "2500"


def test_a_slow_statement_is_ended(open_database: OpenDatabase) -> None:
    """A statement that takes too long makes the database unavailable, not the service."""
    database = open_database({"database.statement_timeout": "50 milliseconds"})
    with (
        pytest.raises(DatabaseUnavailable, match="timeout"),
        database.read_connection() as connection,
    ):
        connection.execute("SELECT pg_sleep(10)")


def test_reads_are_bounded(open_database: OpenDatabase) -> None:
    """Waiting for a connection times out if all are in use."""
    database = open_database(
        {"database.pool_size": "1", "database.connect_timeout": "50 milliseconds"}
    )
    started = time.monotonic()
    with database.read_connection(), pytest.raises(DatabaseUnavailable), database.read_connection():
        pass
    assert time.monotonic() - started < 10
    with database.read_connection() as connection:
        assert connection.select("SELECT 1") == [(1,)]


def test_a_server_that_is_not_there() -> None:
    """Where nobody listens the database is unavailable."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        database = database_from_config({"database.url": f"postgresql://127.0.0.1:{port}/none"})
        with pytest.raises(DatabaseUnavailable), database.read_connection():
            pass


def test_a_database_that_is_not_there(backend: Backend) -> None:
    """A server without the database is as good as none."""
    url = make_url(backend.url).set(database="nowhere_to_be_found")
    database = database_from_config({"database.url": url.render_as_string(hide_password=False)})
    with pytest.raises(DatabaseUnavailable), database.transaction():
        pass


def test_a_password_is_not_told() -> None:
    """What the log says of a database leaves its password out."""
    database = database_from_config({"database.url": "postgresql://leela:nibbler@host/name"})
    assert "nibbler" not in str(database)
    assert "host/name" in str(database)


def test_rows_are_locked_in_the_order_of_their_keys(
    backend: Backend, database: Database, desk: DeliveryDesk
) -> None:
    """A batch in any order locks its packages in one order, so that no two wait in a circle."""
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
        assert [in_words(outcome) for outcome in batch.result()] == [
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
            id="nothing was said before",
        ),
    ],
)
def test_updates_of_one_recipient_take_turns(
    backend: Backend,
    make_desk: MakeDesk,
    before: PreferenceUpdate,
    first: PreferenceUpdate,
    second: PreferenceUpdate,
    answer: UpdatedPreferences,
) -> None:
    """An update that comes while another is recorded is answered knowing it, though the two
    write different rows."""
    one, other = make_desk(), make_desk()
    say(one, before)
    with ThreadPoolExecutor(2) as threads:
        # What keeps the first from its end is the package that is sent with it.
        with backend.transaction("ROLLBACK") as held:
            held.execute(
                "INSERT INTO packages VALUES ('a', 'zap', 'leela', 'personal', 0, 'dropped')"
            )
            threads.submit(commit, one, [first, SendRequest([package("a")])])
            backend.wait_for_blocked_write()
            answered = threads.submit(say, other, second)
            deadline = time.monotonic() + 5
            while waiting(backend) < 2 and not answered.done():
                assert time.monotonic() < deadline, "the second neither waits nor is answered"
                time.sleep(0.01)
        assert answered.result() == answer


def test_a_desk_whose_counters_are_locked_takes_others(
    database: Database, open_database: OpenDatabase
) -> None:
    """Who finds the counters of its shard locked, by an instance that hangs, adds to another's."""
    desk = DeliveryDesk(open_database({"database.lock_timeout": "50 milliseconds"}), PACKAGE_TYPES)
    with database.transaction() as connection:
        queries.add_to_totals(connection, desk._shard, {REJECTED: 1})
        send(desk, rejected=1)
    with database.read_connection() as connection:
        assert queries.read_totals(connection) == {REJECTED: 2}


def test_when_all_counters_are_locked(
    backend: Backend, database: Database, open_database: OpenDatabase
) -> None:
    """Where no shard is free, the attempts have an end."""
    desk = DeliveryDesk(open_database({"database.lock_timeout": "50 milliseconds"}), PACKAGE_TYPES)
    with backend.transaction() as other:
        other.execute("LOCK TABLE counters IN EXCLUSIVE MODE")
        started = time.monotonic()
        with pytest.raises(Blocked):
            send(desk, rejected=1)
        assert time.monotonic() - started < 2
    assert backend.counted() == {}


def waiting(backend: Backend) -> int:
    """How many transactions wait for a lock."""
    ((number,),) = backend.rows(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return int(number)


def deadlocks(backend: Backend) -> int:
    """How many deadlocks there were, once all that were in the database have left it."""
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


def test_nothing_deadlocks(backend: Backend, open_database: OpenDatabase) -> None:
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
        at_once([partial(work, desk, recipients, Random(n)) for n, desk in enumerate(desks)])
    for database in databases:
        database.close()
    assert deadlocks(backend) == before


def test_the_loser_of_a_deadlock_may_try_again(backend: Backend, database: Database) -> None:
    """A transaction aborted by a conflict is distinguished from one that can't succeed."""
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


def test_trying_again_has_an_end(backend: Backend, desk: DeliveryDesk) -> None:
    """A transaction that meets another every time is given up after a number of attempts."""
    with backend.cursor() as cursor:
        cursor.execute("CREATE SEQUENCE attempts")  # counts what is rolled back, too
        cursor.execute(
            "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM nextval('attempts'); RETURN NULL; END $$"
        )
        cursor.execute(
            "CREATE TRIGGER lose BEFORE INSERT ON preferences FOR EACH ROW EXECUTE FUNCTION lose()"
        )
    with pytest.raises(DatabaseUnavailable):
        commit(desk, [SendRequest([package()]), update(personal=True)])
    assert backend.rows("SELECT last_value FROM attempts") == [(ATTEMPTS,)]
    assert backend.stored() == backend.counted() == {}


def test_a_connection_that_was_ended_meanwhile(
    postgresql: PostgreSQLBackend, database: Database, desk: DeliveryDesk
) -> None:
    """Where the server has ended the connections between two uses, nobody notices."""
    for name in ("a", "b"):
        assert [in_words(outcome) for outcome in send(desk, package(name))] == ["delivered"]
        with database.read_connection() as connection:
            assert queries.find_decision(connection, name) is not None
        with postgresql.away():
            pass


def test_a_connection_lost_in_a_transaction(backend: Backend, database: Database) -> None:
    """What was written on a connection that is lost is gone, and the next one serves."""

    def write(*statements: str) -> None:
        with database.transaction() as connection:
            for statement in statements:
                connection.execute(statement)

    with pytest.raises(DatabaseUnavailable):
        write(PREFERENCE_OF_A, "SELECT pg_terminate_backend(pg_backend_pid())")
    assert backend.rows("SELECT * FROM preferences") == []
    write(PREFERENCE_OF_A)
    assert len(backend.rows("SELECT * FROM preferences")) == 1


def test_a_connection_lost_during_commit(backend: Backend, desk: DeliveryDesk) -> None:
    """Whose connection is lost during COMMIT doesn't know the outcome; a retry finds it."""
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
    assert [in_words(outcome) for outcome in send(desk, package())] == ["delivered"]
    assert backend.stored() == backend.counted() == {("delivered", "personal"): 1}


def test_the_order_of_an_index_is_that_of_bytes(backend: Backend, database: Database) -> None:
    """No index depends on a language, which an upgrade of the system could change."""
    collations = backend.rows(
        "SELECT DISTINCT collation_name FROM information_schema.columns"
        " WHERE table_schema = current_schema() AND data_type = 'text'"
    )
    assert collations == [("C",)]

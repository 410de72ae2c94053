"""Database failures: nothing is recorded, and the desk works again afterwards."""

from contextlib import suppress

import pytest

from galaxy_express.desk import DeliveryDesk
from galaxy_express.models import create_schema, drop_schema
from galaxy_express.package_types import PACKAGE_TYPES
from galaxy_express.storage import queries
from galaxy_express.storage.database import Database
from galaxy_express.storage.errors import DatabaseUnavailable
from tests.backends import Backend
from tests.conftest import OpenDatabase
from tests.integration.values import describe, package, send, update, update_preferences

IMPATIENT = {"database.lock_timeout": "50 milliseconds"}


@pytest.fixture
def impatient_desk(database: Database, open_database: OpenDatabase) -> DeliveryDesk:
    """A desk with short timeouts."""
    return DeliveryDesk(open_database(IMPATIENT), PACKAGE_TYPES)


def test_without_tables(backend: Backend, open_database: OpenDatabase) -> None:
    """Without a schema the database is unavailable, until the schema is created."""
    create_schema(backend.config)
    drop_schema(backend.config)
    database = open_database()
    desk = DeliveryDesk(database, PACKAGE_TYPES)
    with pytest.raises(DatabaseUnavailable), database.read_connection() as connection:
        queries.check_schema(connection)
    with pytest.raises(DatabaseUnavailable), database.read_connection() as connection:
        queries.find_decision(connection, "pkg-1")
    with pytest.raises(DatabaseUnavailable):
        send(desk, package())
    create_schema(backend.config)
    with database.read_connection() as connection:
        queries.check_schema(connection)
    assert [describe(outcome) for outcome in send(desk, package())] == ["delivered"]


@pytest.mark.parametrize("table", ["packages", "preferences", "counters"])
def test_each_table_is_checked(backend: Backend, database: Database, table: str) -> None:
    """A schema that lacks any of the tables makes the database unavailable."""
    backend.rows(f"DROP TABLE {table}")
    with pytest.raises(DatabaseUnavailable), database.read_connection() as connection:
        queries.check_schema(connection)


def test_outage(backend: Backend, database: Database, desk: DeliveryDesk) -> None:
    """Reads and writes fail while the database is unavailable."""
    send(desk, package("before"))
    with backend.unavailable():
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable), database.read_connection() as connection:
                queries.check_schema(connection)
            with pytest.raises(DatabaseUnavailable):
                send(desk, package("during"))


def test_recovery_from_an_outage(backend: Backend, database: Database, desk: DeliveryDesk) -> None:
    """After an outage the same desk continues, with nothing lost or duplicated."""
    send(desk, package("before"))
    with backend.unavailable():
        with pytest.raises(DatabaseUnavailable), database.read_connection() as connection:
            queries.check_schema(connection)
        with pytest.raises(DatabaseUnavailable):
            send(desk, package("during"))
    assert backend.stored() == backend.counted() == {("delivered", "personal"): 1}
    sent = send(desk, package("before"), package("during"))
    assert [describe(outcome) for outcome in sent] == ["delivered again", "delivered"]
    with database.read_connection() as connection:
        assert queries.read_totals(connection) == {("delivered", "personal"): 2}


def test_waiting_for_a_lock_times_out(backend: Backend, impatient_desk: DeliveryDesk) -> None:
    """Waiting for another process's lock times out, and nothing is recorded."""
    with backend.locked():
        with pytest.raises(DatabaseUnavailable):
            send(impatient_desk, package())
        with pytest.raises(DatabaseUnavailable):
            update_preferences(impatient_desk, update(personal=False))
    assert backend.stored() == backend.counted() == {}
    assert [describe(outcome) for outcome in send(impatient_desk, package())] == ["delivered"]


def test_read_only_database(backend: Backend, database: Database, desk: DeliveryDesk) -> None:
    """On a read-only database, writes fail and reads work."""
    send(desk, package("before"))
    with backend.read_only():
        with suppress(DatabaseUnavailable), database.read_connection():
            pass  # existing connections may turn out to be lost
        with pytest.raises(DatabaseUnavailable):
            send(desk, package("during"))
        with database.read_connection() as connection:
            assert queries.find_decision(connection, "before") is not None
    assert backend.stored() == backend.counted() == {("delivered", "personal"): 1}

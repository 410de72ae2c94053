"""The tables: how they come and go, and what the database itself enforces."""

import pty
import sqlite3
from collections.abc import Callable
from io import StringIO

import psycopg2
import pytest
from sqlalchemy import inspect
from sqlalchemy.engine import Inspector

from galaxy_express.desk import DeliveryDesk
from galaxy_express.models import create_schema, drop_schema, metadata, missing_tables
from galaxy_express.storage.database import Database
from tests.backends import Backend
from tests.conftest import OpenDatabase
from tests.integration.values import describe, package, send

TABLES = ["counters", "packages", "preference_updates", "preferences"]

INTEGRITY_ERRORS = (sqlite3.IntegrityError, psycopg2.IntegrityError)


def missing(database: Database) -> list[str]:
    """The tables that the database lacks."""
    with database.snapshot() as connection:
        return missing_tables(connection)


def inspector(database: Database) -> Inspector:
    """What the database tells of itself."""
    with database.snapshot() as connection:
        return inspect(connection.engine)


def test_the_schema_is_created_and_dropped(backend: Backend, open_database: OpenDatabase) -> None:
    """The tables are there once they are created, and gone once they are dropped."""
    create_schema(backend.config)
    assert missing(open_database()) == []
    drop_schema(backend.config)
    assert missing(open_database()) == TABLES


def test_creating_it_again_is_harmless(backend: Backend, desk: DeliveryDesk) -> None:
    """Creating an existing schema changes nothing."""
    send(desk, package())
    create_schema(backend.config)
    assert backend.stored() == backend.counted() == {("delivered", "personal"): 1}


def test_dropping_it_again_is_harmless(backend: Backend) -> None:
    """Dropping a schema that isn't there is no error."""
    drop_schema(backend.config)
    drop_schema(backend.config)


SCRIPTS = pytest.mark.parametrize("script", [create_schema, drop_schema])
Script = Callable[[dict[str, str]], None]


@SCRIPTS
def test_a_wrong_setting_ends_a_script(script: Script) -> None:
    """The command fails with one sentence that names the wrong setting."""
    with pytest.raises(SystemExit, match=r"^The configuration is wrong: .*database\.url"):
        script({"database.url": "galaxy_express.db"})


@SCRIPTS
@pytest.mark.parametrize("url", ["sqlite:////nowhere/galaxy_express.db", "postgresql://[::1]:1/x"])
def test_a_database_that_is_unavailable_ends_a_script(script: Script, url: str) -> None:
    """The command fails with one sentence if the database can't be reached."""
    with pytest.raises(SystemExit, match=r"^The database .* is unavailable: "):
        script({"database.url": url})


def test_what_is_missing_is_created(backend: Backend, database: Database) -> None:
    """A database with some of the tables is told to lack the others, and is given them."""
    backend.rows("DROP TABLE counters")
    assert missing(database) == ["counters"]
    create_schema(backend.config)
    assert missing(database) == []


def test_dropping_needs_force_if_there_are_packages(
    backend: Backend, desk: DeliveryDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal to ask on, nothing is dropped that has packages, and it says how many."""
    send(desk, package("a"), package("b"))
    monkeypatch.setattr("sys.stdin", StringIO())
    with pytest.raises(SystemExit, match=r"has 2 packages\. If you mean it: FORCE=1"):
        drop_schema(backend.config)
    assert backend.stored() == {("delivered", "personal"): 2}


@pytest.mark.parametrize("answer", ["yes", "no", ""])
def test_dropping_asks_on_a_terminal(
    backend: Backend, desk: DeliveryDesk, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """On a terminal the command asks before it drops packages, and takes only yes for yes."""
    send(desk, package())
    ours, theirs = pty.openpty()
    with open(theirs) as terminal, open(ours, "wb", buffering=0) as keyboard:
        monkeypatch.setattr("sys.stdin", terminal)
        keyboard.write(f"{answer}\n".encode())
        if answer == "yes":
            drop_schema(backend.config)
            create_schema(backend.config)
            assert backend.stored() == {}
        else:
            with pytest.raises(SystemExit, match="Nothing was dropped"):
                drop_schema(backend.config)
            assert backend.stored() == {("delivered", "personal"): 1}


def test_dropping_needs_force_in_production(
    backend: Backend, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With production's configuration, not even empty tables are dropped without FORCE."""
    monkeypatch.setattr("sys.argv", ["baseplate-script", "configs/production.ini", "..."])
    with pytest.raises(SystemExit, match=r"production's configuration\. .* FORCE=1"):
        drop_schema(backend.config)
    monkeypatch.setenv("FORCE", "1")
    drop_schema(backend.config)


def test_after_dropping_and_creating_all_is_new(
    backend: Backend, desk: DeliveryDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that was decided before the tables were dropped is unknown afterwards."""
    monkeypatch.setenv("FORCE", "1")
    send(desk, package())
    drop_schema(backend.config)
    create_schema(backend.config)
    assert [describe(outcome) for outcome in send(desk, package())] == ["delivered"]
    assert backend.counted() == {("delivered", "personal"): 1}


def test_a_package_id_is_unique_in_the_database_itself(
    backend: Backend, desk: DeliveryDesk
) -> None:
    """Not even another program can store a second decision on a package."""
    send(desk, package())
    with pytest.raises(INTEGRITY_ERRORS):
        backend.rows(
            "INSERT INTO packages"
            " (package_id, sender_id, recipient_id, package_type, timestamp, status)"
            " VALUES ('pkg-1', 'a', 'b', 'c', 0, 'dropped')"
        )


def test_there_is_one_preference_for_each_recipient_and_type(
    backend: Backend, database: Database
) -> None:
    """Preferences are rows keyed by recipient and type."""
    insert = (
        "INSERT INTO preferences (recipient_id, package_type, wanted, timestamp)"
        " VALUES ('leela', 'personal', true, 0)"
    )
    backend.rows(insert)
    with pytest.raises(INTEGRITY_ERRORS):
        backend.rows(insert)


def test_there_are_two_statuses(backend: Backend, database: Database) -> None:
    """A package is delivered or dropped; the database takes no third."""
    with pytest.raises(INTEGRITY_ERRORS):
        backend.rows(
            "INSERT INTO packages"
            " (package_id, sender_id, recipient_id, package_type, timestamp, status)"
            " VALUES ('pkg-1', 'a', 'b', 'c', 0, 'lost')"
        )


@pytest.mark.parametrize("table", TABLES)
def test_what_may_be_null(database: Database, table: str) -> None:
    """Only the times of a decision may be missing: earlier versions did not record them."""
    columns = inspector(database).get_columns(table)
    assert {column["name"] for column in columns} == {*metadata.tables[table].columns.keys()}
    nullable = {column["name"] for column in columns if column["nullable"]}
    assert nullable == ({"decided_at", "declined_at"} if table == "packages" else set())


@pytest.mark.parametrize("table", TABLES)
def test_constraints_are_named_by_the_convention(database: Database, table: str) -> None:
    """Each constraint has a name that it can be found by, in either database."""
    tables = inspector(database)
    assert tables.get_pk_constraint(table)["name"] == f"pk_{table}"
    checks = [check["name"] for check in tables.get_check_constraints(table)]
    assert checks == (["ck_packages_status"] if table == "packages" else [])


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("packages", ["package_id"]),
        ("preferences", ["recipient_id", "package_type"]),
        ("counters", ["shard", "outcome", "package_type"]),
    ],
)
def test_the_keys_are_what_they_are_read_by(database: Database, table: str, key: list[str]) -> None:
    """The columns of each key come in the order in which they are looked up."""
    tables = inspector(database)
    keys = [tables.get_pk_constraint(table)["constrained_columns"]]
    keys += [unique["column_names"] for unique in tables.get_unique_constraints(table)]
    assert key in keys

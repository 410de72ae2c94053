"""Migrations of databases that an earlier version made."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import event
from sqlalchemy.engine import Engine

from galaxy_express.models import create_schema, drop_schema, metadata_for, missing_tables
from galaxy_express.ops.audit import audit
from tests.backends import Backend
from tests.conftest import DATABASES, MakeApp, OpenDatabase
from tests.functional.client import PACKAGE, send, totals

# What version 1.0 created.
OLD_TABLES = [
    """
    CREATE TABLE packages (
        package_id {text} NOT NULL, sender_id {text} NOT NULL, recipient_id {text} NOT NULL,
        package_type {text} NOT NULL, timestamp BIGINT NOT NULL, status {text} NOT NULL,
        CONSTRAINT pk_packages PRIMARY KEY (package_id),
        CONSTRAINT ck_packages_status CHECK (status IN ('delivered', 'dropped'))
    )
    """,
    """
    CREATE TABLE preferences (
        recipient_id {text} NOT NULL, package_type {text} NOT NULL, wanted BOOLEAN NOT NULL,
        timestamp BIGINT NOT NULL,
        CONSTRAINT pk_preferences PRIMARY KEY (recipient_id, package_type)
    )
    """,
    """
    CREATE TABLE counters (
        shard SMALLINT NOT NULL, outcome {text} NOT NULL, package_type {text} NOT NULL,
        value BIGINT NOT NULL,
        CONSTRAINT pk_counters PRIMARY KEY (shard, outcome, package_type)
    )
    """,
]
# As version 1.0 inserted packages.
OLD_INSERT = (
    "INSERT INTO packages (package_id, sender_id, recipient_id, package_type, timestamp, status)"
    " VALUES ('{}', 'zap', 'leela', 'personal', 5432961600000000, '{}')"
)
OLD_IDS = ["old-c", "old-a", "old-b"]


@pytest.fixture
def old(backend: Backend) -> Backend:
    """A database of version 1.0, with packages, preferences and totals."""
    text = 'TEXT COLLATE "C"' if backend.url.startswith("postgresql") else "TEXT"
    if text == "TEXT":
        backend.rows("PRAGMA journal_mode=WAL")
    for statement in OLD_TABLES:
        backend.rows(statement.format(text=text))
    for package_id in OLD_IDS:
        backend.rows(OLD_INSERT.format(package_id, "delivered"))
    backend.rows("INSERT INTO preferences VALUES ('leela', 'marketing', false, 5432961600000000)")
    backend.rows("INSERT INTO counters VALUES (3, 'delivered', 'personal', 3)")
    backend.rows("INSERT INTO counters VALUES (7, 'rejected', '', 2)")
    return backend


def listed(app: Any) -> list[str]:
    """The ids of all packages, in the order of the feed."""
    found = app.get("/packages?order=asc&limit=1000").json
    return [decision["package_id"] for decision in found["packages"]]


def test_everything_is_kept(old: Backend, make_app: MakeApp) -> None:
    """Rows, totals, preferences and the answers to retries are as before."""
    create_schema(old.config)
    app = make_app()
    assert app.get("/health").json is True
    assert totals(app) == (3, 0, 2)
    retry = send(app, 200, package_id="old-a").json
    assert (retry["decided_at"], retry["declined_at"]) == (None, None)
    assert send(app, 409, package_id="old-a", sender_id="nixon")
    preferences = app.get("/recipients/leela/preferences").json
    assert preferences["marketing_preference"] is False
    assert app.get("/recipients/leela/preferences/history").json["updates"] == []
    dropped = send(app, package_id="new", package_type="marketing").json
    assert dropped["declined_at"] == "2142-03-01T12:00:00Z"
    assert sorted(listed(app)[:3]) == sorted(OLD_IDS)
    assert listed(app)[3:] == ["new"]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_the_order_is_kept_where_it_is_known(old: Backend, make_app: MakeApp) -> None:
    """SQLite's rowids tell in which order packages were decided."""
    create_schema(old.config)
    assert listed(make_app()) == OLD_IDS


def test_nothing_is_wrong_afterwards(old: Backend, open_database: OpenDatabase) -> None:
    """The audit finds nothing wrong with a migrated database."""
    create_schema(old.config)
    assert audit(open_database()).faults == []


@pytest.mark.parametrize("start", ["new", "old"])
def test_models_and_migrations_agree(
    backend: Backend, open_database: OpenDatabase, request: pytest.FixtureRequest, start: str
) -> None:
    """The migrations make what the models describe, from nothing and from version 1.0."""
    if start == "old":
        request.getfixturevalue("old")
    create_schema(backend.config)
    with open_database().snapshot() as connection:
        context = MigrationContext.configure(
            connection, opts={"include_name": lambda name, *_: name != "alembic_version"}
        )
        assert compare_metadata(context, metadata_for(connection.dialect.name)) == []


def test_migrating_again_changes_nothing(old: Backend) -> None:
    """A database that is up to date stays as it is."""
    create_schema(old.config)
    rows = old.rows("SELECT * FROM packages ORDER BY package_id")
    create_schema(old.config)
    assert old.rows("SELECT * FROM packages ORDER BY package_id") == rows


def test_a_newer_database_is_left_alone(backend: Backend) -> None:
    """What a newer version has migrated is not touched, and a sentence says why."""
    create_schema(backend.config)
    backend.rows("UPDATE alembic_version SET version_num = '9999'")
    backend.rows("DROP TABLE counters")
    with pytest.raises(SystemExit, match=r"was not migrated: .* newer version .* '9999'"):
        create_schema(backend.config)
    with pytest.raises(Exception, match="counters"):
        backend.rows("SELECT * FROM counters")


def test_two_at_once(old: Backend, make_app: MakeApp) -> None:
    """Migrations that are run at the same time wait for each other."""
    with ThreadPoolExecutor(3) as threads:
        runs = [threads.submit(create_schema, old.config) for _ in range(3)]
    for run in runs:
        run.result()
    assert sorted(listed(make_app())) == sorted(OLD_IDS)


class Interrupted(Exception):
    """A migration was interrupted."""


@contextmanager
def before_each_statement(action: Callable[[int], None]) -> Iterator[None]:
    """Do something before each statement of a migration.

    :param action: called with the number of the statement, from 1.
    """
    numbers = count(1)

    def act(*_: Any) -> None:
        action(next(numbers))

    event.listen(Engine, "before_cursor_execute", act)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", act)


def test_an_interrupted_migration(old: Backend, make_app: MakeApp) -> None:
    """A migration that is interrupted, before each of its statements in turn, is finished by
    the next run."""

    def interrupt_at(last: int) -> Callable[[int], None]:
        def interrupt(number: int) -> None:
            if number == last:
                raise Interrupted

        return interrupt

    for last in count(1):
        try:
            with before_each_statement(interrupt_at(last)):
                create_schema(old.config)
        except Interrupted:
            continue
        break
    assert last > 10
    app = make_app()
    assert sorted(listed(app)) == sorted(OLD_IDS)
    assert totals(app) == (3, 0, 2)


@pytest.mark.parametrize("backend", DATABASES[1:], indirect=True)
def test_beside_workers_that_write(old: Backend, make_app: MakeApp) -> None:
    """What the earlier version inserts during a migration is kept, and is in the feed once."""
    beside: list[str] = []

    def insert(number: int) -> None:
        old.rows(OLD_INSERT.format(f"beside-{number}", "delivered"))
        beside.append(f"beside-{number}")

    with before_each_statement(insert):
        create_schema(old.config)
    assert len(beside) > 10
    old.rows(OLD_INSERT.format("afterwards", "delivered"))
    app = make_app()
    send(app, package_id="new")
    assert sorted(listed(app)) == sorted([*OLD_IDS, *beside, "afterwards", "new"])
    assert listed(app)[-2:] == ["afterwards", "new"]
    (numbers,) = old.rows("SELECT count(DISTINCT sequence), count(*) FROM packages")
    assert numbers[0] == numbers[1]


def test_everything_is_dropped(old: Backend, open_database: OpenDatabase) -> None:
    """Nothing of the migrations is left when the tables are dropped."""
    create_schema(old.config)
    old.rows("DELETE FROM packages")
    drop_schema(old.config)
    with open_database().snapshot() as connection:
        assert len(missing_tables(connection)) == 4
    create_schema(old.config)


def test_packages_of_the_earlier_version_are_no_new_ones(old: Backend, make_app: MakeApp) -> None:
    """A package that was decided before the migration is not decided again."""
    create_schema(old.config)
    app = make_app()
    for package_id in OLD_IDS:
        assert send(app, 200, **PACKAGE | {"package_id": package_id}).json["decided_at"] is None
    assert totals(app) == (3, 0, 2)

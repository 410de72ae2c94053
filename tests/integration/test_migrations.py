"""Migrations of databases created by an earlier version."""

import os
import re
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
from tests.conftest import DATABASES, PARTITIONS, MakeApp, OpenDatabase
from tests.functional.client import PACKAGE, send, totals

# The tables of version 1.0.
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
# The statement with which version 1.0 inserted packages.
OLD_INSERT = (
    "INSERT INTO packages (package_id, sender_id, recipient_id, package_type, timestamp, status)"
    " VALUES ('{}', 'zap', 'leela', 'personal', 5432961600000000, '{}')"
)
OLD_IDS = ["old-c", "old-a", "old-b"]
# As workers for revision 0002 insert packages on PostgreSQL.
INSERT_0002 = """
    WITH drawn AS MATERIALIZED (SELECT galaxy_express_draw(1) AS numbers)
    INSERT INTO packages (package_id, sender_id, recipient_id, package_type, timestamp, status,
                          decided_at, sequence)
    SELECT '{}', 'zap', 'leela', 'personal', 5432961600000000, 'delivered', 1800000000000000,
           numbers[1]
    FROM drawn
"""

# Tables that are not in the models: Alembic's own, and partitions.
UNMODELLED = re.compile(r"alembic_version|packages_\d+")


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


def feed_ids(app: Any) -> list[str]:
    """The ids of all packages, in feed order."""
    found = app.get("/packages?order=asc&limit=1000").json
    return [decision["package_id"] for decision in found["packages"]]


def test_migration_keeps_everything(old: Backend, make_app: MakeApp) -> None:
    """Rows, totals, preferences and the responses to retries are unchanged by a migration."""
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
    assert sorted(feed_ids(app)[:3]) == sorted(OLD_IDS)
    assert feed_ids(app)[3:] == ["new"]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_migration_keeps_the_order_if_known(old: Backend, make_app: MakeApp) -> None:
    """On SQLite, rowids provide the order in which packages were decided."""
    create_schema(old.config)
    assert feed_ids(make_app()) == OLD_IDS


def test_migrated_database_passes_the_audit(old: Backend, open_database: OpenDatabase) -> None:
    """A migrated database passes the audit."""
    create_schema(old.config)
    assert audit(open_database()).problems == []


@pytest.mark.parametrize("start", ["new", "old"])
def test_models_and_migrations_agree(
    backend: Backend, open_database: OpenDatabase, request: pytest.FixtureRequest, start: str
) -> None:
    """Migrating from nothing and from version 1.0 both yield the schema of the models."""
    if start == "old":
        request.getfixturevalue("old")
    create_schema(backend.config)
    with open_database().snapshot() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"include_name": lambda name, *_: not UNMODELLED.fullmatch(name or "")},
        )
        assert compare_metadata(context, metadata_for(connection.dialect.name)) == []


def test_migrating_again_changes_nothing(old: Backend) -> None:
    """A database that is up to date stays as it is."""
    create_schema(old.config)
    rows = old.rows("SELECT * FROM packages ORDER BY package_id")
    create_schema(old.config)
    assert old.rows("SELECT * FROM packages ORDER BY package_id") == rows


def test_newer_database_is_unchanged(backend: Backend) -> None:
    """A database migrated by a newer version isn't changed, and the error says why."""
    create_schema(backend.config)
    backend.rows("UPDATE alembic_version SET version_num = '9999'")
    backend.rows("DROP TABLE counters")
    with pytest.raises(SystemExit, match=r"was not migrated: .* newer version .* '9999'"):
        create_schema(backend.config)
    with pytest.raises(Exception, match="counters"):
        backend.rows("SELECT * FROM counters")


def test_several_revisions(backend: Backend) -> None:
    """A database with several revisions isn't changed, and the error says what to do."""
    create_schema(backend.config)
    backend.rows("INSERT INTO alembic_version VALUES ('0001')")
    with pytest.raises(SystemExit, match=r"was not migrated: .* rows: 000., 000.; keep the one"):
        create_schema(backend.config)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_revision_that_was_set_back(backend: Backend) -> None:
    """If the revision isn't that of the tables, nothing is changed, and the error says so."""
    create_schema(backend.config)
    for statement in ("UPDATE alembic_version SET version_num = '0001'", "DROP TABLE counters"):
        backend.rows(statement)
    with pytest.raises(SystemExit, match=r"was not migrated: .* already exists \(do its tables"):
        create_schema(backend.config)
    with pytest.raises(Exception, match="counters"):
        backend.rows("SELECT * FROM counters")


def test_concurrent_migrations(old: Backend, make_app: MakeApp) -> None:
    """Concurrent migrations wait for each other."""
    with ThreadPoolExecutor(3) as threads:
        runs = [threads.submit(create_schema, old.config) for _ in range(3)]
    for run in runs:
        run.result()
    assert sorted(feed_ids(make_app())) == sorted(OLD_IDS)


class Interrupted(Exception):
    """A migration was interrupted."""


@contextmanager
def before_each_statement(action: Callable[[int], None]) -> Iterator[None]:
    """Call a function before each statement of a migration.

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


def test_interrupted_migration(old: Backend, make_app: MakeApp) -> None:
    """A migration interrupted before any of its statements is completed by the next run."""

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
    assert sorted(feed_ids(app)) == sorted(OLD_IDS)
    assert totals(app) == (3, 0, 2)


@pytest.mark.skipif(PARTITIONS in os.environ, reason="no writes while packages are partitioned")
@pytest.mark.parametrize("backend", DATABASES[1:], indirect=True)
def test_migration_during_writes(old: Backend, make_app: MakeApp) -> None:
    """Packages inserted by the earlier version during a migration are kept and listed once."""
    concurrent: list[str] = []

    def insert(number: int) -> None:
        old.rows(OLD_INSERT.format(f"concurrent-{number}", "delivered"))
        concurrent.append(f"concurrent-{number}")

    with before_each_statement(insert):
        create_schema(old.config)
    assert len(concurrent) > 10
    old.rows(OLD_INSERT.format("afterwards", "delivered"))
    app = make_app()
    send(app, package_id="new")
    assert sorted(feed_ids(app)) == sorted([*OLD_IDS, *concurrent, "afterwards", "new"])
    assert feed_ids(app)[-2:] == ["afterwards", "new"]
    (numbers,) = old.rows("SELECT count(DISTINCT sequence), count(*) FROM packages")
    assert numbers[0] == numbers[1]


@pytest.mark.skipif(PARTITIONS in os.environ, reason="no writes while packages are partitioned")
@pytest.mark.parametrize("backend", DATABASES[1:], indirect=True)
def test_feed_during_migration(old: Backend, make_app: MakeApp) -> None:
    """A client that follows the feed on an instance of this version during a migration, while the
    earlier version writes, sees every package once."""
    app = make_app()
    running = False
    decided = list(OLD_IDS)
    statuses: list[int] = []
    followed: list[str] = []
    cursor = ""

    def follow() -> None:
        nonlocal cursor
        answer = app.get(f"/packages?order=asc{cursor}", status="*")
        statuses.append(answer.status_int)
        if answer.status_int == 200:
            followed.extend(decision["package_id"] for decision in answer.json["packages"])
            cursor = f"&after={answer.json['next']}"

    def write_and_follow(number: int) -> None:
        nonlocal running
        if running:  # the statement is the feed's
            return
        running = True
        old.rows(OLD_INSERT.format(f"concurrent-{number}", "delivered"))
        decided.append(f"concurrent-{number}")
        follow()
        running = False

    with before_each_statement(write_and_follow):
        create_schema(old.config)
    follow()
    assert (statuses[0], statuses[-1]) == (503, 200)
    assert sorted(followed) == sorted(decided)


@pytest.mark.parametrize("backend", DATABASES[1:], indirect=True)
def test_database_without_the_function_for_times(
    backend: Backend, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """Until a database is migrated that has everything but the function with which transactions
    begin, sends get a 503 with the remedy, and packages can be read. Workers that draw numbers
    without it keep working, before and after."""
    create_schema(backend.config)
    backend.rows("DROP FUNCTION galaxy_express_begin")
    backend.rows("UPDATE alembic_version SET version_num = '0002'")
    app = make_app()
    backend.rows(INSERT_0002.format("before"))
    assert "make migratedb" in send(app, 503).json["detail"]
    assert "make migratedb" in app.get("/health", status=503).json["detail"]
    assert "galaxy_express_begin" in caplog.text
    assert feed_ids(app) == ["before"]
    create_schema(backend.config)
    assert backend.rows("SELECT version_num FROM alembic_version") == [("0003",)]
    assert app.get("/health").json is True
    send(app, package_id="new")
    backend.rows(INSERT_0002.format("after"))
    send(app, package_id="last")
    assert feed_ids(app) == ["before", "new", "after", "last"]


def test_drop_removes_everything(old: Backend, open_database: OpenDatabase) -> None:
    """Dropping the schema removes everything that the migrations created."""
    create_schema(old.config)
    old.rows("DELETE FROM packages")
    drop_schema(old.config)
    with open_database().snapshot() as connection:
        assert len(missing_tables(connection)) == 4
        if connection.dialect.name == "postgresql":
            left = "SELECT proname FROM pg_proc WHERE proname LIKE 'galaxy_express_%%'"
            assert connection.exec_driver_sql(left).all() == []
    create_schema(old.config)


def test_packages_of_the_earlier_version_are_not_decided_again(
    old: Backend, make_app: MakeApp
) -> None:
    """A package that was decided before the migration is not decided again."""
    create_schema(old.config)
    app = make_app()
    for package_id in OLD_IDS:
        assert send(app, 200, **PACKAGE | {"package_id": package_id}).json["decided_at"] is None
    assert totals(app) == (3, 0, 2)

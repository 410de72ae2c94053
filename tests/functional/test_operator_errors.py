"""Problems for the operator to fix are 503 and fail the health check; bugs are 500."""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from uuid import uuid4

import pytest
from sqlalchemy.engine import make_url

from galaxy_express.models import create_schema
from galaxy_express.storage import queries
from galaxy_express.storage.errors import SchemaMismatch
from tests.backends import Backend, PostgreSQLBackend, SQLiteBackend
from tests.conftest import DATABASES, MakeApp, OpenDatabase
from tests.functional.client import ANY, UPDATE, problem, send, update
from tests.functional.test_concurrency import run_concurrently

REMEDY = "the database is not set up (make migratedb); a retry is safe"

BREAKAGES: dict[str, Callable[[Backend], object]] = {
    "no packages": lambda backend: backend.rows("DROP TABLE packages"),
    "no counters": lambda backend: backend.rows("DROP TABLE counters"),
    "column renamed": lambda backend: backend.rows(
        "ALTER TABLE packages RENAME COLUMN sender_id TO sender"
    ),
    "other column renamed": lambda backend: backend.rows(
        "ALTER TABLE counters RENAME COLUMN value TO amount"
    ),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_schema_of_another_version(
    backend: Backend, make_app: MakeApp, caplog: pytest.LogCaptureFixture, breakage: str
) -> None:
    """If a table or column is missing, sends and health checks are 503, and the response and the
    log say what to do."""
    create_schema(backend.config)
    app = make_app()
    BREAKAGES[breakage](backend)
    with caplog.at_level(logging.ERROR):
        assert problem(send(app, 503))["detail"] == REMEDY
    assert problem(app.get("/health", status=503))["detail"] == REMEDY
    assert "make migratedb" in caplog.text


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("content", [None, b""], ids=["missing", "empty"])
def test_missing_or_empty_file(
    sqlite: SQLiteBackend, make_app: MakeApp, content: bytes | None
) -> None:
    """A missing or empty database file is reported as not set up."""
    if content is not None:
        sqlite.path.write_bytes(content)
    assert problem(make_app().get("/health", status=503))["detail"] == REMEDY


@pytest.mark.parametrize("statement", ["SELEKT 1", "SELECT abs(1, 2)", "SELECT 1 FROM"])
def test_invalid_statement_is_a_programming_error(
    backend: Backend, open_database: OpenDatabase, statement: str
) -> None:
    """An SQL error unrelated to the schema isn't reported as an outage."""
    create_schema(backend.config)
    database = open_database()
    with (
        pytest.raises(database.driver_error),
        database.read_connection() as connection,
    ):
        connection.select(statement)


def test_missing_column_is_a_schema_mismatch(backend: Backend, open_database: OpenDatabase) -> None:
    """The schema check names the missing column."""
    create_schema(backend.config)
    backend.rows("ALTER TABLE preferences RENAME COLUMN wanted TO liked")
    with (
        pytest.raises(SchemaMismatch, match="wanted"),
        open_database().read_connection() as connection,
    ):
        queries.check_schema(connection)


@pytest.fixture
def role(postgresql: PostgreSQLBackend) -> Iterator[str]:
    """A role with the privileges that the service needs."""
    create_schema(postgresql.config)
    name = f"limited_{uuid4().hex}"
    postgresql.rows(f"CREATE ROLE {name} LOGIN")
    postgresql.rows(f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {name}")
    postgresql.rows(f"GRANT USAGE ON SCHEMA public TO {name}")
    postgresql.rows(f"GRANT SELECT, UPDATE ON galaxy_express_sequence TO {name}")
    yield name
    postgresql.rows(f"DROP OWNED BY {name}")
    postgresql.rows(f"DROP ROLE {name}")


@pytest.mark.parametrize("backend", DATABASES[1:], indirect=True)
@pytest.mark.parametrize("right", ["SELECT", "INSERT", "UPDATE"])
@pytest.mark.parametrize("table", ["packages", "preferences", "preference_updates", "counters"])
def test_missing_privilege(
    backend: Backend, role: str, make_app: MakeApp, table: str, right: str
) -> None:
    """Without a privilege that the service needs, health is 503, and no request is a 500."""
    url = make_url(backend.url).set(username=role)
    app = make_app({"database.url": url.render_as_string(hide_password=False)})
    assert app.get("/health").json is True
    backend.rows(f"REVOKE {right} ON {table} FROM {role}")
    is_needed = (table, right) not in (("packages", "UPDATE"), ("preference_updates", "UPDATE"))
    assert app.get("/health", status=ANY).status_int == (503 if is_needed else 200)
    assert send(app, ANY).status_int in (201, 503)
    assert update(app, UPDATE, status=ANY).status_int in (200, 503)


@pytest.mark.parametrize("backend", DATABASES[1:], indirect=True)
def test_later_cause_is_logged(
    backend: Backend, role: str, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """An outage with one cause doesn't hide the next one, and each is logged once, whichever
    packages, processes and rows its errors name."""
    url = make_url(backend.url).set(username=role)
    settings = {"database.lock_timeout": "50 milliseconds"}
    app = make_app({"database.url": url.render_as_string(hide_password=False)} | settings)
    names = [f"pkg-{number}" for number in range(3)]
    with backend.transaction("ROLLBACK") as other:
        for name in names:
            other.execute(
                "INSERT INTO packages"
                " (package_id, sender_id, recipient_id, package_type, timestamp, status)"
                " VALUES (%s, 'zap', 'leela', 'personal', 0, 'dropped')",
                [name],
            )
        for name in names:
            send(app, 503, package_id=name)
    backend.rows("ALTER TABLE counters RENAME TO amounts")
    for name in names:
        send(app, 503, package_id=name)
    backend.rows("ALTER TABLE amounts RENAME TO counters")
    backend.rows(f"REVOKE INSERT ON packages FROM {role}")
    for name in names:
        send(app, 503, package_id=name)
    reasons = ("lock timeout", "make migratedb", "permission denied for table packages")
    logged = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert [sum(reason in line for line in logged) for reason in reasons] == [1, 1, 1]
    assert len(logged) == len(reasons)


# What an operator may add to the tables, by what the log says about it when a row is rejected.
ADDED_TO_POSTGRESQL = {
    'violates check constraint "zz"': (
        "ALTER TABLE packages ADD CONSTRAINT zz CHECK (package_id <> 'bad') NOT VALID"
    ),
    'violates foreign key constraint "fk_sender"': (
        "CREATE TABLE senders (id text PRIMARY KEY); INSERT INTO senders VALUES ('zap');"
        "ALTER TABLE packages ADD CONSTRAINT fk_sender"
        " FOREIGN KEY (sender_id) REFERENCES senders NOT VALID"
    ),
    'violates unique constraint "one_each"': (
        "CREATE UNIQUE INDEX one_each ON packages (sender_id) WHERE sender_id <> 'zap'"
    ),
    'violates check constraint "few"': (
        "ALTER TABLE counters ADD CONSTRAINT few CHECK (package_type <> 'marketing') NOT VALID"
    ),
    "division by zero CONTEXT": "perform 1 / 0",
    "invalid input syntax for type integer": "perform 'x'::integer",
    'relation "nowhere" does not exist': "insert into nowhere values (1)",
}
ADDED_TO_SQLITE = {
    "a trigger has raised an error: no": "SELECT raise(ABORT, 'no')",
    "a trigger has raised an error: never": "SELECT raise(ROLLBACK, 'never')",
    "malformed JSON; does a trigger fail? (added)": "SELECT json_extract('{', '$')",
    "UNIQUE constraint failed: packages.sender_id": (
        "CREATE UNIQUE INDEX one_each ON packages (sender_id) WHERE sender_id <> 'zap'"
    ),
}
BAD = {"package_id": "bad", "sender_id": "nixon", "package_type": "marketing"}


def add(backend: Backend, statement: str) -> None:
    """Run a statement that an operator might; one in lower case becomes a trigger for BAD."""
    if isinstance(backend, SQLiteBackend) and not statement.startswith("CREATE"):
        statement = (
            "CREATE TRIGGER added BEFORE INSERT ON packages WHEN new.package_id = 'bad'"
            f" BEGIN {statement}; END"
        )
    elif statement[0].islower():
        statement = (
            "CREATE FUNCTION added() RETURNS trigger LANGUAGE plpgsql"
            f" AS $$BEGIN {statement}; RETURN new; END$$;"
            "CREATE TRIGGER added BEFORE INSERT ON packages FOR EACH ROW"
            " WHEN (new.package_id = 'bad') EXECUTE FUNCTION added()"
        )
    backend.rows(statement)


@pytest.mark.parametrize(
    ("backend", "reason", "statement"),
    [
        *(("postgresql", *added) for added in ADDED_TO_POSTGRESQL.items()),
        *(("sqlite", *added) for added in ADDED_TO_SQLITE.items()),
    ],
    indirect=["backend"],
)
def test_rejected_row(
    backend: Backend,
    make_app: MakeApp,
    caplog: pytest.LogCaptureFixture,
    reason: str,
    statement: str,
) -> None:
    """If a constraint, index or trigger that an operator has added rejects a row, only its request
    is 503, and the log names the reason; the instance stays ready."""
    create_schema(backend.config)
    app = make_app()
    send(app, **(BAD | {"package_id": "earlier"}))
    add(backend, statement)
    sends = [
        partial(send, app, package_id="kept-1"),
        partial(send, app, ANY, **BAD),
        partial(send, app, package_id="kept-2"),
    ]
    assert [answer.status_int for answer in run_concurrently(sends)] == [201, 503, 201]
    assert reason in caplog.text
    assert "make migratedb" not in caplog.text
    assert app.get("/health").json is True
    assert backend.stored() == backend.counted()


UNUSABLE = {
    "the tables were altered: packages is not a table": (
        "ALTER TABLE packages RENAME TO stored_packages",
        "CREATE VIEW packages AS SELECT * FROM stored_packages",
    ),
    "no such table: main.nowhere; does a trigger fail? (added)": (
        "CREATE TRIGGER added AFTER INSERT ON packages BEGIN INSERT INTO nowhere VALUES (1); END",
    ),
}


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("reason", UNUSABLE)
def test_unusable_table(
    backend: Backend, make_app: MakeApp, caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    """If a table of SQLite was replaced by a view, or has a trigger with an error, sends and
    readiness are 503, and the log names the reason."""
    create_schema(backend.config)
    app = make_app()
    for statement in UNUSABLE[reason]:
        backend.rows(statement)
    app.get("/health", status=503)
    send(app, 503)
    assert reason in caplog.text
    assert "make migratedb" not in caplog.text

"""Tables of PostgreSQL that an operator has altered: nothing is answered that isn't stored."""

import uuid
from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest
from sqlalchemy.engine import make_url
from webtest import TestApp

from galaxy_express.models import create_schema
from tests.backends import Backend
from tests.conftest import NO_POSTGRESQL, SKIP_POSTGRESQL, MakeApp
from tests.functional.client import ANY, UPDATE, send, totals, update
from tests.functional.test_concurrency import run_concurrently

if SKIP_POSTGRESQL:
    pytest.skip(NO_POSTGRESQL, allow_module_level=True)


@pytest.fixture(params=["postgresql", "partitioned"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """PostgreSQL with its tables, with and without partitions."""
    altered: Backend = request.getfixturevalue(request.param)
    create_schema(altered.config)
    return altered


@pytest.fixture
def app(backend: Backend, make_app: MakeApp) -> TestApp:
    """A service that was started before the tables were altered."""
    started: TestApp = make_app()
    return started


def leave_out(backend: Backend, table: str, condition: str = "true") -> None:
    """Make the database leave out new rows of a table, without an error."""
    backend.rows(
        "CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
    )
    backend.rows(
        f"CREATE TRIGGER leave_out BEFORE INSERT ON {table} FOR EACH ROW"
        f" WHEN ({condition}) EXECUTE FUNCTION leave_out()"
    )


@pytest.mark.parametrize("table", ["packages", "counters"])
def test_send_that_is_not_stored(app: TestApp, backend: Backend, table: str) -> None:
    """A send whose rows a trigger leaves out gets a 503, and nothing is stored or counted."""
    leave_out(backend, table)
    assert send(app, 503).json["code"] == "unavailable"
    assert backend.stored() == backend.counted() == {}
    backend.rows(f"DROP TRIGGER leave_out ON {table}")
    send(app)
    assert totals(app)[0] == 1


@pytest.mark.parametrize("table", ["preferences", "preference_updates"])
def test_update_that_is_not_stored(
    app: TestApp, backend: Backend, caplog: pytest.LogCaptureFixture, table: str
) -> None:
    """An update whose rows a trigger leaves out gets a 503, and changes nothing; the log names the
    cause."""
    leave_out(backend, table)
    assert update(app, UPDATE, status=503).json["code"] == "unavailable"
    assert "were not stored; does a trigger leave them out?" in caplog.text
    assert app.get("/recipients/leela/preferences").json["updated_at"] is None
    assert app.get("/recipients/leela/preferences/history").json["updates"] == []


def test_send_that_is_not_stored_fails_alone(app: TestApp, backend: Backend) -> None:
    """If a trigger leaves out some packages, the others of their transaction are recorded."""
    leave_out(backend, "packages", "new.package_id LIKE 'lost%'")
    names = [*(f"kept-{number}" for number in range(10)), "lost-1", "lost-2"]
    answers = run_concurrently([partial(send, app, ANY, package_id=name) for name in names])
    assert Counter(answer.status_int for answer in answers) == {201: 10, 503: 2}
    assert backend.stored() == backend.counted() == {("delivered", "personal"): 10}


def test_update_that_is_not_stored_fails_alone(app: TestApp, backend: Backend) -> None:
    """If a trigger leaves out some preferences, the other writes of their transaction are
    recorded."""
    leave_out(backend, "preferences", "new.recipient_id LIKE 'lost%'")
    updates = [partial(update, app, UPDATE, name, ANY) for name in ("leela", "lost-1", "fry")]
    answers = run_concurrently([partial(send, app, ANY), *updates])
    assert [answer.status_int for answer in answers] == [201, 200, 503, 200]


def test_send_that_a_trigger_rejects_fails_alone(app: TestApp, backend: Backend) -> None:
    """If a trigger raises an error for one package, the others of its transaction are recorded."""
    backend.rows(
        "CREATE FUNCTION object() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN IF NEW.package_id = 'lost' THEN RAISE 'no'; END IF; RETURN NEW; END$$"
    )
    backend.rows(
        "CREATE TRIGGER object BEFORE INSERT ON packages FOR EACH ROW EXECUTE FUNCTION object()"
    )
    names = ["kept-1", "lost", "kept-2"]
    answers = run_concurrently([partial(send, app, ANY, package_id=name) for name in names])
    assert [answer.status_int for answer in answers] == [201, 503, 201]


def test_send_that_is_stored_with_another_id(app: TestApp, backend: Backend) -> None:
    """A send that a trigger stores with another id gets a 503, and nothing is stored."""
    backend.rows(
        "CREATE FUNCTION rename() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN NEW.package_id := upper(NEW.package_id); RETURN NEW; END'"
    )
    backend.rows(
        "CREATE TRIGGER rename BEFORE INSERT ON packages FOR EACH ROW EXECUTE FUNCTION rename()"
    )
    send(app, 503, package_id="lower")
    assert backend.stored() == backend.counted() == {}


CHANGES = {
    "sender_id": "upper(new.sender_id)",
    "recipient_id": "upper(new.recipient_id)",
    "package_type": "'marketing'",
    "timestamp": "new.timestamp - 1",
    "status": "'dropped'",
    "decided_at": "NULL",
    "declined_at": "0",
}


@pytest.mark.parametrize("column", CHANGES)
def test_send_that_is_stored_otherwise(
    app: TestApp, backend: Backend, caplog: pytest.LogCaptureFixture, column: str
) -> None:
    """A send that a trigger changes gets a 503, and nothing is stored; others are recorded."""
    backend.rows(
        "CREATE FUNCTION alter_row() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$BEGIN NEW.{column} := {CHANGES[column]}; RETURN NEW; END$$"
    )
    backend.rows(
        "CREATE TRIGGER alter_row BEFORE INSERT ON packages FOR EACH ROW"
        " WHEN (new.package_id LIKE 'altered%') EXECUTE FUNCTION alter_row()"
    )
    names = ["kept-1", "altered", "kept-2"]
    answers = run_concurrently([partial(send, app, ANY, package_id=name) for name in names])
    assert [answer.status_int for answer in answers] == [201, 503, 201]
    assert "packages were not stored as sent; does a trigger change them?" in caplog.text
    assert backend.stored() == backend.counted() == {("delivered", "personal"): 2}


# Statements that alter the tables, and what the service says about each.
ALTERATIONS = {
    "no unique id": (
        "ALTER TABLE packages DROP CONSTRAINT pk_packages",
        "packages has no valid unique index on package_id",
    ),
    "ids in an index that isn't unique": (
        (
            "ALTER TABLE packages DROP CONSTRAINT pk_packages;"
            "CREATE INDEX pk_packages ON packages (package_id)"
        ),
        "packages has no valid unique index on package_id",
    ),
    "invalid index": (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'pk_packages'::regclass",
        "packages has no valid unique index on package_id",
    ),
    "no unique counters": (
        "ALTER TABLE counters DROP CONSTRAINT pk_counters",
        "counters has no valid unique index on shard, outcome, package_type",
    ),
    "additional column": (
        "ALTER TABLE packages ADD COLUMN planet text NOT NULL",
        "packages.planet must not be NULL, and has no default",
    ),
    "column that must not be null": (
        "ALTER TABLE packages ALTER COLUMN declined_at SET NOT NULL",
        "packages.declined_at must not be NULL, and has no default",
    ),
    "smaller numbers": (
        "ALTER TABLE packages ALTER COLUMN timestamp TYPE integer",
        "packages.timestamp has the type integer, not bigint",
    ),
    "numbers as text": (
        "ALTER TABLE counters ALTER COLUMN value TYPE text",
        "counters.value has the type text, not bigint",
    ),
    "text of limited length": (
        "ALTER TABLE packages ALTER COLUMN sender_id TYPE varchar(2)",
        "packages.sender_id has the type character varying(2), not text",
    ),
}


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_alteration(
    app: TestApp, backend: Backend, caplog: pytest.LogCaptureFixture, alteration: str
) -> None:
    """If the tables were altered so that sends would fail or be decided twice, they get a 503, and
    readiness fails with the reason, until the tables are repaired."""
    statement, reason = ALTERATIONS[alteration]
    assert app.get("/health").json is True
    backend.rows(statement)
    assert send(app, 503).json["code"] == "unavailable"
    assert reason in caplog.text
    answer = app.get("/health", status=503)
    assert answer.json["detail"].startswith("the database is not usable, since its tables were")
    assert backend.stored() == {}


UNSAFE = {
    "unlogged table": (
        "ALTER TABLE {packages} SET UNLOGGED",
        "packages is unlogged, so a crash of the server would empty it",
    ),
    "sequence with a cache": (
        "ALTER SEQUENCE galaxy_express_sequence CACHE 10",
        "galaxy_express_sequence must increment by 1, without a cache",
    ),
    "missing function": (
        "DROP FUNCTION galaxy_express_draw CASCADE",
        'function "galaxy_express_draw(integer)" does not exist (to fix this: make migratedb)',
    ),
}


@pytest.mark.parametrize("alteration", UNSAFE)
def test_unsafe_alteration(
    app: TestApp, backend: Backend, caplog: pytest.LogCaptureFixture, alteration: str
) -> None:
    """If decisions could get lost, or be missing from the feed, readiness fails with the reason."""
    statement, reason = UNSAFE[alteration]
    ((table,),) = backend.rows(
        "SELECT coalesce(to_regclass('packages_0'), to_regclass('packages'))::text"
    )
    backend.rows(statement.format(packages=table))
    app.get("/health", status=503)
    assert reason in caplog.text
    assert send(app, ANY).status_int in (201, 503)


MISSING = {
    "function that begins transactions": "DROP FUNCTION galaxy_express_begin",
    "sequence": "DROP SEQUENCE galaxy_express_sequence",
    "function": "DROP FUNCTION galaxy_express_draw CASCADE",
    "both": "DROP SEQUENCE galaxy_express_sequence; DROP FUNCTION galaxy_express_draw CASCADE",
    "both and a table": (
        "DROP SEQUENCE galaxy_express_sequence; DROP FUNCTION galaxy_express_draw CASCADE;"
        "DROP TABLE preference_updates"
    ),
}
# Later than the server's clock.
FUTURE = "SELECT setval('galaxy_express_sequence', 9000000000000000)"


@pytest.mark.parametrize("is_ahead", [False, True], ids=["", "ahead"])
@pytest.mark.parametrize("missing", MISSING)
def test_missing_numbering_is_recreated(
    app: TestApp,
    backend: Backend,
    caplog: pytest.LogCaptureFixture,
    missing: str,
    is_ahead: bool,
) -> None:
    """``make migratedb`` recreates a missing sequence or function. The numbers go on, so that the
    feed has all later decisions."""
    if is_ahead:
        backend.rows(FUTURE)
    send(app, package_id="before")
    after = app.get("/packages?order=asc").json["next"]
    backend.rows(MISSING[missing])
    if missing != "function":  # sends need it once a second, to set the sequence
        assert "make migratedb" in send(app, 503, package_id="failed").json["detail"]
    assert "make migratedb" in app.get("/health", status=503).json["detail"]
    assert "make migratedb" in caplog.text

    create_schema(backend.config)
    assert app.get("/health").json is True
    send(app, package_id="later")
    update(app, UPDATE)
    backend.rows(  # as version 1.0 does
        "INSERT INTO packages"
        " (package_id, sender_id, recipient_id, package_type, timestamp, status)"
        " VALUES ('last', 'zap', 'leela', 'personal', 0, 'delivered')"
    )
    page = app.get(f"/packages?order=asc&after={after}").json["packages"]
    assert [package["package_id"] for package in page] == ["later", "last"]


def test_altered_functions_are_recreated(app: TestApp, backend: Backend) -> None:
    """``make migratedb`` replaces functions that aren't those of this version."""
    backend.rows(
        "CREATE OR REPLACE FUNCTION galaxy_express_draw(number integer) RETURNS bigint[]"
        " LANGUAGE sql AS 'SELECT ARRAY[1::bigint]'"
    )
    create_schema(backend.config)
    drawn = "SELECT galaxy_express_draw(1) = galaxy_express_draw(1)"
    assert backend.rows(drawn) == [(False,)]
    assert send(app, package_id="later").status_int == 201


HARMLESS = {
    "unique constraint instead of the primary key": (
        "ALTER TABLE packages DROP CONSTRAINT pk_packages, ADD UNIQUE (package_id)"
    ),
    "columns that need not be named": (
        "ALTER TABLE packages ADD COLUMN planet text, ADD COLUMN seen boolean NOT NULL DEFAULT"
        " false, ADD COLUMN sender_size integer GENERATED ALWAYS AS (length(sender_id)) STORED"
    ),
    "removed column": (
        "ALTER TABLE packages ADD COLUMN x text NOT NULL; ALTER TABLE packages DROP COLUMN x"
    ),
    "more indexes": "CREATE UNIQUE INDEX ON packages (package_id, sender_id)",
    "row-level security that the owner bypasses": (
        "ALTER TABLE packages ENABLE ROW LEVEL SECURITY"
    ),
}


@pytest.mark.parametrize("alteration", HARMLESS)
def test_harmless_alteration(app: TestApp, backend: Backend, alteration: str) -> None:
    """Alterations that the service doesn't notice are allowed."""
    backend.rows(HARMLESS[alteration])
    assert app.get("/health").json is True
    send(app)
    send(app, 200)
    update(app, UPDATE)


@pytest.fixture
def role(backend: Backend) -> Iterator[str]:
    """A role that doesn't own the tables."""
    name = f"galaxy_express_{uuid.uuid4().hex}"
    backend.rows(f"CREATE ROLE {name} LOGIN")
    backend.rows(
        f"GRANT USAGE ON SCHEMA public TO {name};"
        f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {name};"
        f"GRANT SELECT, UPDATE ON galaxy_express_sequence TO {name}"
    )
    yield name
    backend.rows(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.mark.parametrize("table", ["packages", "preferences", "preference_updates", "counters"])
def test_hidden_rows(backend: Backend, role: str, make_app: MakeApp, table: str) -> None:
    """If row-level security hides rows from the service, what needs them is a 503: a preference is
    not ignored, and a total is not too small."""
    url = make_url(backend.url).set(username=role)
    app = make_app({"database.url": url.render_as_string(hide_password=False)})
    update(app, UPDATE)
    send(app, package_id="before")
    assert app.get("/health").json is True
    backend.rows(
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;"
        f"CREATE POLICY hide ON {table} FOR SELECT USING (false);"
        f"CREATE POLICY store ON {table} FOR INSERT WITH CHECK (true)"
    )
    assert app.get("/health", status=503)
    requests = {
        "packages": ["/packages/before", "/packages"],
        "preferences": ["/recipients/leela/preferences"],
        "preference_updates": ["/recipients/leela/preferences/history"],
        "counters": ["/statistics"],
    }
    for path in requests[table]:
        app.get(path, status=503)
    if table != "preference_updates":
        send(app, 503, package_id="after", package_type="marketing")
    if table in ("preferences", "preference_updates"):
        update(app, UPDATE | {"timestamp": "2142-03-02T12:00:00Z"}, status=503)
    assert backend.stored() == backend.counted() == {("delivered", "personal"): 1}


@pytest.mark.parametrize("backend", ["partitioned"], indirect=True)
def test_missing_partition(
    app: TestApp, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """If a partition is missing, sends of its packages get a 503, and readiness fails."""
    for number in range(20):
        send(app, package_id=str(number))
    ((bound,),) = backend.rows(
        "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = 'packages_1'::regclass"
    )
    backend.rows("ALTER TABLE packages DETACH PARTITION packages_1")
    answers = [send(app, ANY, package_id=str(number)).status_int for number in range(20)]
    assert set(answers) == {200, 503}
    app.get("/health", status=503)
    assert "packages lacks a partition" in caplog.text
    backend.rows(f"ALTER TABLE packages ATTACH PARTITION packages_1 {bound}")
    for number in range(20):
        send(app, 200, package_id=str(number))
    assert app.get("/health").json is True
    assert totals(app) == (20, 0, 0)


@pytest.mark.parametrize("backend", ["partitioned"], indirect=True)
def test_missing_partition_fails_alone(app: TestApp, backend: Backend) -> None:
    """If a partition is missing, packages of other partitions are recorded, whatever shares their
    transactions."""
    ((constraint,),) = backend.rows("SELECT pg_get_partition_constraintdef('packages_1'::regclass)")
    backend.rows("ALTER TABLE packages DETACH PARTITION packages_1")
    lost = {
        name
        for (name,) in backend.rows(
            "SELECT * FROM (SELECT 'pkg-' || n FROM generate_series(1, 200) AS n)"  # noqa: S608
            f" AS ids (package_id) WHERE {constraint}"
        )
    }
    assert lost
    names = [f"pkg-{number}" for number in range(1, 201)]
    answers = run_concurrently([partial(send, app, ANY, package_id=name) for name in names])
    assert [answer.status_int for answer in answers] == [
        503 if name in lost else 201 for name in names
    ]
    assert sum(backend.stored().values()) == sum(backend.counted().values()) == 200 - len(lost)

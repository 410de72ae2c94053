"""The audit of distributed tables, and connections to worker nodes of Citus.

Citus isn't installed where the tests run. They create the tables of its catalog that the service
reads, in pg_catalog like Citus, on a single PostgreSQL server. This tests what the service does
with the contents of these tables, and nothing of Citus itself.
"""

import os
from collections.abc import Callable

import pytest
from webtest import TestApp

from galaxy_express.models import create_schema
from galaxy_express.ops.audit import audit_database
from tests.backends import PostgreSQLBackend
from tests.conftest import NO_POSTGRESQL, SKIP_POSTGRESQL, MakeApp
from tests.functional.client import UPDATE, problem, read, send, update
from tests.integration.test_migrations import before_each_statement

if SKIP_POSTGRESQL:
    pytest.skip(NO_POSTGRESQL, allow_module_level=True)

# Nobody can create tables in pg_catalog, but a superuser can move them there.
CATALOG = """
    CREATE TABLE pg_dist_local_group (groupid integer PRIMARY KEY);
    INSERT INTO pg_dist_local_group VALUES (0);
    CREATE TABLE pg_dist_partition (logicalrelid regclass NOT NULL, partmethod "char" NOT NULL);
    ALTER TABLE pg_dist_local_group SET SCHEMA pg_catalog;
    ALTER TABLE pg_dist_partition SET SCHEMA pg_catalog
"""
DISTRIBUTE = "INSERT INTO pg_dist_partition VALUES ('packages', 'h'), ('preferences', 'h')"


@pytest.fixture
def backend(make_postgresql: Callable[[], PostgreSQLBackend]) -> PostgreSQLBackend:
    """A database with tables and with the catalog of a coordinator."""
    coordinator = make_postgresql()
    coordinator.rows(CATALOG)
    create_schema(coordinator.config)
    return coordinator


@pytest.fixture
def app(backend: PostgreSQLBackend, make_app: MakeApp) -> TestApp:
    """A service on the coordinator that has delivered a package."""
    started: TestApp = make_app()
    send(started)
    return started


def become_worker(backend: PostgreSQLBackend) -> None:
    """Make the server a worker node."""
    backend.rows("UPDATE pg_dist_local_group SET groupid = 1")


def test_worker_node(
    app: TestApp, backend: PostgreSQLBackend, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """On a worker node all requests get a 503, which names the reason."""
    assert app.get("/health").json is True
    become_worker(backend)
    on_worker = make_app()
    answers = [
        on_worker.get("/health", status=503),
        send(on_worker, 503, package_id="other"),
        update(on_worker, UPDATE, status=503),
        read(on_worker, "pkg-1", 503),
    ]
    for answer in answers:
        assert problem(answer)["detail"] == (
            "the database is on a worker node of Citus (connect to the coordinator);"
            " a retry is safe"
        )
    assert "connect to the coordinator" in caplog.text
    assert backend.stored() == {("delivered", "personal"): 1}


@pytest.mark.parametrize("command", [create_schema, audit_database])
def test_commands_on_a_worker_node(
    app: TestApp, backend: PostgreSQLBackend, command: Callable[[dict[str, str]], None]
) -> None:
    """On a worker node commands fail with a one-line message."""
    become_worker(backend)
    with pytest.raises(SystemExit, match=r"a worker node of Citus \(connect to the coordinator\)"):
        command(backend.config)


FAULTS = {
    "a counter": (
        "UPDATE counters SET value = value + 1 WHERE outcome = 'delivered'",
        "according to the counters.",
    ),
    "a reverted preference": (
        "DELETE FROM preferences",
        "preference_updates: 2 preferences are newer than the current ones",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("write", ["send", "update", "transaction in progress"])
def test_audit_during_writes(
    app: TestApp,
    backend: PostgreSQLBackend,
    capsys: pytest.CaptureFixture[str],
    fault: str,
    write: str,
) -> None:
    """If something is written during the audit of distributed tables, it doesn't report differences
    between tables, and asks to be run again. At rest it reports them."""
    statement, sentence = FAULTS[fault]
    update(app, UPDATE)
    backend.rows(statement)
    backend.rows(DISTRIBUTE)

    def write_during_the_audit(number: int) -> None:
        if number == 10 and write == "send":
            send(app, package_id="meanwhile")
        elif number == 10 and write == "update":
            update(app, UPDATE | {"timestamp": "2142-03-02T12:00:00Z"}, "fry")

    def audit() -> tuple[object, str]:
        with pytest.raises(SystemExit) as exit_:
            audit_database(backend.config)
        return exit_.value.code, capsys.readouterr().out

    if write == "transaction in progress":
        with backend.transaction("ROLLBACK") as cursor:
            cursor.execute("SELECT galaxy_express_draw(1)")
            code, printed = audit()
    else:
        with before_each_statement(write_during_the_audit):
            code, printed = audit()
    assert code == os.EX_TEMPFAIL
    assert sentence not in printed
    assert "No problems found" not in printed
    assert "Stop the writes, and run the audit again." in printed

    code, printed = audit()
    assert code == 1
    assert sentence in printed


def test_faults_that_writes_do_not_explain(
    app: TestApp, backend: PostgreSQLBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fault within a row is reported during writes, too."""
    backend.rows(DISTRIBUTE)
    backend.rows("UPDATE packages SET timestamp = 300000000000000000")
    with backend.transaction("ROLLBACK") as cursor:
        cursor.execute("SELECT galaxy_express_draw(1)")
        with pytest.raises(SystemExit) as exit_:
            audit_database(backend.config)
    assert exit_.value.code == 1
    assert "1 rows with an invalid id or timestamp" in capsys.readouterr().out


def test_audit_of_local_tables(
    app: TestApp, backend: PostgreSQLBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    """If no table is distributed, there is a snapshot, and the audit may run during writes."""
    backend.rows("CREATE TABLE other (id integer)")
    backend.rows("INSERT INTO pg_dist_partition VALUES ('other', 'h')")

    def send_during_the_audit(number: int) -> None:
        if number == 10:
            send(app, package_id="meanwhile")

    with before_each_statement(send_during_the_audit):
        audit_database(backend.config)
    assert "No problems found." in capsys.readouterr().out
    assert backend.stored() == {("delivered", "personal"): 2}

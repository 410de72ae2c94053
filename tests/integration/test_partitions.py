"""The command that partitions the packages of a PostgreSQL database."""

import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.engine import make_url
from webtest import TestApp

from galaxy_express.models import create_schema, drop_schema
from galaxy_express.ops.audit import audit
from galaxy_express.ops.partition import partition_packages
from galaxy_express.storage.database import LAST_SEQUENCE
from galaxy_express.storage.postgresql.statements import STATEMENTS
from tests.backends import Backend, PostgreSQLBackend, SQLiteBackend
from tests.conftest import NO_POSTGRESQL, PARTITIONS, SKIP_POSTGRESQL, MakeApp, OpenDatabase
from tests.functional.client import UPDATE, read, send, update
from tests.integration.test_migrations import Interrupted, before_each_statement

if SKIP_POSTGRESQL:
    pytest.skip(NO_POSTGRESQL, allow_module_level=True)
if PARTITIONS in os.environ:
    pytest.skip("the packages of all databases are partitioned", allow_module_level=True)

SENT = 40


@pytest.fixture
def backend(postgresql: PostgreSQLBackend) -> Backend:
    """PostgreSQL only, not partitioned yet."""
    return postgresql


@pytest.fixture
def service(backend: Backend, make_app: MakeApp) -> TestApp:
    """A service that has decided packages of several recipients."""
    create_schema(backend.config)
    app: TestApp = make_app()
    update(app, UPDATE, "recipient-1")
    for number in range(SENT):
        send(app, **sent(number))
    return app


def sent(number: int) -> dict[str, str]:
    """The ids and the type of a package."""
    return {
        "package_id": f"pkg-{number}",
        "recipient_id": f"recipient-{number % 4}",
        "package_type": "marketing" if number % 3 else "personal",
    }


def responses(app: TestApp) -> list[Any]:
    """The totals, the lists, and the feeds with their cursors."""
    paths = ["/statistics", "/packages", "/packages?order=asc&limit=1000"]
    paths += [f"/packages?order=asc&limit=7&recipient_id=recipient-{n}" for n in range(4)]
    return [app.get(path).json for path in paths]


def partitions(backend: Backend) -> list[str]:
    """The names of the partitions."""
    return [
        name
        for (name,) in backend.rows(
            "SELECT inhrelid::regclass::text FROM pg_inherits JOIN pg_class ON oid = inhparent"
            " WHERE relname = 'packages' ORDER BY inhrelid"
        )
    ]


def test_partitioning_keeps_everything(
    service: TestApp, backend: Backend, open_database: OpenDatabase
) -> None:
    """The totals, lists, cursors and responses to retries stay the same for a running service, and
    new packages follow the old ones in the feed."""
    before = responses(service)
    partition_packages(backend.config, ["5"])
    assert responses(service) == before
    for number in range(SENT):
        send(service, 200, **sent(number))
        send(service, 409, **sent(number) | {"sender_id": "nixon"})
    send(service, package_id="new")
    feed = service.get(f"/packages?order=asc&after={before[2]['next']}").json["packages"]
    assert [decision["package_id"] for decision in feed] == ["new"]
    assert audit(open_database()).problems == []


def test_packages_are_spread_over_the_partitions(
    service: TestApp, backend: Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    """There are as many partitions as requested, each with some of the packages, and the command
    prints how many were copied."""
    partition_packages(backend.config, ["5"])
    names = partitions(backend)
    assert len(names) == 5
    sizes = [backend.rows(f"SELECT count(*) FROM {name}")[0][0] for name in names]  # noqa: S608
    assert 0 not in sizes
    assert sum(sizes) == SENT
    assert capsys.readouterr().out.startswith(f"Copied {SENT} packages of {backend.url}")


def test_empty_database_is_partitioned(backend: Backend, make_app: MakeApp) -> None:
    """An empty database can be partitioned, migrated, used, dropped and created again."""
    create_schema(backend.config)
    partition_packages(backend.config, ["2"])
    create_schema(backend.config)
    send(make_app())
    backend.rows("DELETE FROM packages")
    drop_schema(backend.config)
    assert backend.rows("SELECT relname FROM pg_class WHERE relname LIKE 'packages%'") == []
    create_schema(backend.config)
    assert partitions(backend) == []


@pytest.mark.parametrize(
    "arguments",
    [[], [""], ["1"], ["65"], ["-2"], ["2.5"], ["x"], ["2", "3"], ["9" * 5000]],
    ids=str,
)
def test_invalid_number_of_partitions(backend: Backend, arguments: list[str]) -> None:
    """Anything but a number from 2 to 64 is rejected with a one-line message."""
    create_schema(backend.config)
    with pytest.raises(SystemExit, match=r"^The number of partitions must be from 2 to 64: .*$"):
        partition_packages(backend.config, arguments)
    assert partitions(backend) == []


def test_sqlite_has_no_partitions(sqlite: SQLiteBackend) -> None:
    """On SQLite the command fails with a one-line message, and doesn't create a file."""
    with pytest.raises(SystemExit, match=r"were not partitioned: this needs PostgreSQL\.$"):
        partition_packages(sqlite.config, ["2"])
    assert not sqlite.path.exists()


OBSTACLES = {
    "an empty database": ("DROP TABLE packages, alembic_version", "create or migrate the tables"),
    "a missing table": ("DROP TABLE packages", "create or migrate the tables"),
    "an earlier revision": (
        "UPDATE alembic_version SET version_num = '0001'",
        "create or migrate the tables",
    ),
    "a newer revision": ("UPDATE alembic_version SET version_num = '9999'", "newer version"),
    "an index": ("CREATE INDEX ix_mine ON packages (sender_id)", "lost.*: index ix_mine"),
    "a view": ("CREATE VIEW mine AS SELECT sender_id FROM packages", "lost.*: rule .* view mine"),
    "a foreign key": (
        "CREATE TABLE parcels (id TEXT REFERENCES packages)",
        "lost.*: constraint .* on table parcels",
    ),
    "a trigger": (
        (
            "CREATE TRIGGER mine BEFORE UPDATE ON packages FOR EACH ROW"
            " EXECUTE FUNCTION suppress_redundant_updates_trigger()"
        ),
        "lost.*: trigger mine on table packages",
    ),
    "a policy": ("CREATE POLICY mine ON packages", "lost.*: policy mine on table packages"),
    "an owned sequence": (
        "ALTER SEQUENCE galaxy_express_sequence OWNED BY packages.sequence",
        "lost.*: sequence galaxy_express_sequence",
    ),
    "privileges on columns": (
        "GRANT SELECT (sender_id) ON packages TO PUBLIC",
        "lost.*: privileges on columns",
    ),
    "storage parameters": (
        "ALTER TABLE packages SET (autovacuum_enabled = true)",
        "lost.*: storage parameters",
    ),
    "a taken name": ("CREATE TABLE packages_1 ()", '"packages_1" already exists'),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_obstacles(backend: Backend, name: str) -> None:
    """Tables of another version, or with additions that would be lost, aren't partitioned; the
    one-line message says why."""
    statement, reason = OBSTACLES[name]
    create_schema(backend.config)
    backend.rows(statement)
    with pytest.raises(SystemExit, match=rf"^The packages of .* were not partitioned: .*{reason}"):
        partition_packages(backend.config, ["2"])
    assert partitions(backend) == []


def test_partitioning_again(service: TestApp, backend: Backend) -> None:
    """Packages that are partitioned already stay as they are."""
    partition_packages(backend.config, ["2"])
    with pytest.raises(SystemExit, match=r"were not partitioned: they already are\.$"):
        partition_packages(backend.config, ["3"])
    assert len(partitions(backend)) == 2


def test_interrupted_partitioning(service: TestApp, backend: Backend) -> None:
    """An interruption before any of its statements changes nothing, and the next run succeeds."""
    before = responses(service)
    completed = False
    last = 0
    while not completed:
        last += 1
        try:
            with before_each_statement(_interrupt_at(last)):
                partition_packages(backend.config, ["2"])
            completed = True
        except Interrupted:
            assert partitions(backend) == []
        assert responses(service) == before
    assert last > 20
    assert len(partitions(backend)) == 2


def _interrupt_at(last: int) -> Any:
    def interrupt(number: int) -> None:
        if number == last:
            raise Interrupted

    return interrupt


def test_service_during_partitioning(backend: Backend, make_app: MakeApp) -> None:
    """While packages are copied, reads succeed, and sends get a 503, which records nothing."""
    create_schema(backend.config)
    app = make_app({"database.lock_timeout": "50 milliseconds"})
    send(app)
    used = 0

    def use(_: int) -> None:
        nonlocal used
        modes = {mode for (mode,) in backend.rows(LOCKS)}
        if "ExclusiveLock" in modes and "AccessExclusiveLock" not in modes:
            used += 1
            assert read(app, "pkg-1").json["status"] == "delivered"
            assert len(app.get("/packages?order=asc").json["packages"]) == 1
            assert send(app, 503, package_id="during").json["code"] == "unavailable"

    with before_each_statement(use):
        partition_packages(backend.config, ["2"])
    assert used > 5
    send(app, package_id="during")
    assert len(app.get("/packages?order=asc").json["packages"]) == 2


LOCKS = """
    SELECT mode FROM pg_locks
    WHERE relation = 'packages'::regclass AND pid <> pg_backend_pid()
"""


def test_locked_packages(service: TestApp, backend: Backend) -> None:
    """If another transaction writes to the packages for too long, nothing is changed."""
    with backend.transaction("ROLLBACK") as cursor:
        cursor.execute("DELETE FROM packages")
        with pytest.raises(SystemExit, match=r"were not partitioned: .*lock timeout"):
            partition_packages(backend.config, ["2"])
    assert partitions(backend) == []


@pytest.fixture
def roles(backend: Backend) -> Iterator[tuple[str, str]]:
    """A role that owns the tables, and one with exactly the privileges of the service."""
    owner, user = (f"galaxy_express_{uuid.uuid4().hex}" for _ in range(2))
    backend.rows(f'CREATE ROLE "{owner}" LOGIN; CREATE ROLE "{user}" LOGIN')
    backend.rows(f"GRANT ALL ON SCHEMA public TO {owner}; GRANT USAGE ON SCHEMA public TO {user}")
    yield owner, user
    backend.rows(f"DROP OWNED BY {owner}, {user}; DROP ROLE {owner}, {user}")


def test_owner_and_privileges_are_kept(
    backend: Backend, make_app: MakeApp, roles: tuple[str, str]
) -> None:
    """The tables keep their owner and privileges, whichever role runs the command."""
    owner, user = roles
    create_schema(as_role(backend, owner))
    backend.rows(
        f"GRANT SELECT, INSERT ON packages, preferences, preference_updates, counters TO {user};"
        f"GRANT UPDATE ON preferences, counters TO {user};"
        f"GRANT SELECT, UPDATE ON galaxy_express_sequence TO {user};"
        "GRANT SELECT ON packages TO PUBLIC"
    )
    before = backend.rows(PRIVILEGES)
    partition_packages(backend.config, ["2"])
    assert backend.rows(PRIVILEGES) == before
    owners = backend.rows(
        "SELECT DISTINCT tableowner FROM pg_tables WHERE tablename LIKE 'packages%'"
    )
    assert owners == [(owner,)]
    send(make_app(as_role(backend, user)))


PRIVILEGES = """
    SELECT grantee::regrole::text, privilege_type, is_grantable
    FROM pg_class, aclexplode(relacl) WHERE oid = 'packages'::regclass ORDER BY 1, 2
"""


def as_role(backend: Backend, role: str) -> dict[str, str]:
    """A configuration that connects as another role."""
    url = make_url(backend.url).set(username=role)
    return backend.config | {"database.url": url.render_as_string(hide_password=False)}


def test_role_that_does_not_own_the_table(backend: Backend, roles: tuple[str, str]) -> None:
    """A role that may not act as the owner can't partition the packages."""
    create_schema(backend.config)
    backend.rows(f"GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO {roles[0]}")
    with pytest.raises(SystemExit, match="were not partitioned: permission denied"):
        partition_packages(as_role(backend, roles[0]), ["2"])


LIMIT = 101
PLANNED = {
    "feed": (STATEMENTS.page_of_all.ascending, None),
    "list": (STATEMENTS.page_of_all.descending, None),
    "feed of a recipient": (STATEMENTS.page_of_recipient.ascending, "r-3"),
    "list of a recipient": (STATEMENTS.page_of_recipient.descending, "r-3"),
}


@pytest.fixture(scope="module")
def full(make_postgresql: Any) -> PostgreSQLBackend:
    """A partitioned database with many packages."""
    backend: PostgreSQLBackend = make_postgresql()
    create_schema(backend.config)
    backend.rows(
        "INSERT INTO packages"
        " (package_id, sender_id, recipient_id, package_type, timestamp, status, sequence)"
        " SELECT md5(n::text), 'zap', 'r-' || n % 5, 'personal', 0, 'delivered', n"
        " FROM generate_series(1, 60000) AS n"
    )
    partition_packages(backend.config, ["8"])
    return backend


@pytest.mark.parametrize("name", PLANNED)
@pytest.mark.parametrize("after", [1_000, 30_000, 59_000])
def test_cost_of_a_page(full: PostgreSQLBackend, name: str, after: int) -> None:
    """A page is merged from the indexes of the partitions: it reads as many rows as it has, and at
    most one more of each partition, wherever in the list it is."""
    sql, recipient_id = PLANNED[name]
    values = {
        "after": after,
        "settled": LAST_SEQUENCE,
        "limit": LIMIT,
        "recipient_id": recipient_id,
    }
    with full.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", values)
        ((found,),) = cursor.fetchall()
    scans = [node for node in nodes(found[0]["Plan"]) if "Relation Name" in node]
    assert {node["Node Type"] for node in scans} == {"Index Scan"}
    assert len(scans) == 8
    assert LIMIT <= sum(node["Actual Rows"] for node in scans) <= LIMIT + 8
    assert not any("Rows Removed by Filter" in node for node in scans)
    assert "Merge Append" in {node["Node Type"] for node in nodes(found[0]["Plan"])}


def test_cost_of_a_retry(full: PostgreSQLBackend) -> None:
    """The decision on a package is looked up in one partition only."""
    with full.cursor() as cursor:
        cursor.execute(f"EXPLAIN (FORMAT JSON) {STATEMENTS.find_decision}", ["x"])
        ((found,),) = cursor.fetchall()
    assert [node["Node Type"] for node in nodes(found[0]["Plan"])] == ["Index Scan"]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The nodes of a plan."""
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes(below)

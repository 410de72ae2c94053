"""The schema: creating and dropping it, and what the database itself enforces."""

import os
import pty
import sqlite3
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import psycopg2
import pytest
from sqlalchemy import inspect
from sqlalchemy.engine import Inspector, make_url

from galaxy_express.desk import DeliveryDesk
from galaxy_express.models import create_schema, drop_schema, metadata, missing_tables
from galaxy_express.ops.audit import audit_database
from galaxy_express.ops.backup import back_up
from galaxy_express.storage.database import Database
from tests.backends import Backend, SQLiteBackend
from tests.conftest import DATABASES, OpenDatabase
from tests.integration.values import describe, package, send

TABLES = ["counters", "packages", "preference_updates", "preferences"]

INTEGRITY_ERRORS = (sqlite3.IntegrityError, psycopg2.IntegrityError)


def missing(database: Database) -> list[str]:
    """The tables that the database lacks."""
    with database.snapshot() as connection:
        return missing_tables(connection)


def inspector(database: Database) -> Inspector:
    """SQLAlchemy's inspector of the database."""
    with database.snapshot() as connection:
        return inspect(connection.engine)


def test_schema_is_created_and_dropped(backend: Backend, open_database: OpenDatabase) -> None:
    """The tables exist after they are created, and don't after they are dropped."""
    create_schema(backend.config)
    assert missing(open_database()) == []
    drop_schema(backend.config)
    assert missing(open_database()) == TABLES


def test_creating_the_schema_again(backend: Backend, desk: DeliveryDesk) -> None:
    """Creating an existing schema changes nothing."""
    send(desk, package())
    create_schema(backend.config)
    assert backend.stored() == backend.counted() == {("delivered", "personal"): 1}


def test_dropping_the_schema_again(backend: Backend) -> None:
    """Dropping a missing schema isn't an error."""
    drop_schema(backend.config)
    drop_schema(backend.config)


SCRIPTS = pytest.mark.parametrize("script", [create_schema, drop_schema])
Script = Callable[[dict[str, str]], None]


@SCRIPTS
def test_invalid_setting_ends_a_script(script: Script) -> None:
    """The command fails with a one-line message that names the invalid setting."""
    with pytest.raises(SystemExit, match=r"^The configuration is invalid: .*database\.url"):
        script({"database.url": "galaxy_express.db"})


@SCRIPTS
@pytest.mark.parametrize("url", ["sqlite:////nowhere/galaxy_express.db", "postgresql://[::1]:1/x"])
def test_unavailable_database_ends_a_script(script: Script, url: str) -> None:
    """If the database is unavailable, the command fails with a one-line message."""
    with pytest.raises(SystemExit, match=r"^The database .* is unavailable: "):
        script({"database.url": url})


@pytest.mark.parametrize("content", [None, b"", b"x" * 10_000], ids=["none", "empty", "damaged"])
def test_unusable_file_ends_a_script(sqlite: SQLiteBackend, content: bytes | None) -> None:
    """The message about a missing or damaged file has no hint, or a single one that applies."""
    message = "file is not a database"
    if content is not None:
        sqlite.path.write_bytes(content)
    if not content:
        missing = f"{sqlite.path} is empty" if content == b"" else f"there is no file {sqlite.path}"
        message = f"{missing} (to fix this: make migratedb)"
    for script in (audit_database, lambda config: back_up(config, [f"{sqlite.path}.copy"])):
        with pytest.raises(SystemExit) as ended:
            script(sqlite.config)
        assert str(ended.value) == f"The database {sqlite.url} is unavailable: {message}"


def test_file_that_cannot_be_opened_ends_a_script() -> None:
    """If SQLite can't open the file, the message says what to check."""
    with pytest.raises(SystemExit, match=r"unable to open database file \(does its folder exist, "):
        create_schema({"database.url": "sqlite:////nowhere/galaxy_express.db"})


@pytest.mark.parametrize("name", ["folder", "queue", "null"])
def test_database_that_is_not_a_file(tmp_path: Path, name: str) -> None:
    """A path that isn't that of a regular file is reported as such."""
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif name == "queue":
        os.mkfifo(path)
    else:
        path.symlink_to(os.devnull)
    for script in (create_schema, drop_schema, audit_database):
        with pytest.raises(SystemExit, match=rf"is unavailable: {path} is not a regular file$"):
            script({"database.url": f"sqlite:///{path}"})


def test_folder_that_cannot_be_entered() -> None:
    """If a folder's permissions don't allow entering it, the error names the folder."""
    with TemporaryDirectory() as folder:
        closed = Path(folder) / "closed"
        (closed / "data").mkdir(parents=True)
        Path(folder).chmod(0o711)
        url = f"sqlite:///{closed}/data/galaxy_express.db"
        create_schema({"database.url": url})
        user = os.geteuid()
        closed.chmod(0o600)
        try:
            if user == 0:
                os.seteuid(65534)  # root may enter all folders
            for script in (create_schema, audit_database):
                with pytest.raises(SystemExit, match=rf"the folder {closed} don't allow entering"):
                    script({"database.url": url})
        finally:
            os.seteuid(user)
            closed.chmod(0o700)


@pytest.mark.parametrize("column", ["package_id", "decided_at"])
def test_tables_of_another_program(backend: Backend, column: str) -> None:
    """A table without the necessary columns isn't migrated, and no other table is created."""
    if column == "decided_at":  # an altered table of this version
        create_schema(backend.config)
        backend.rows("DROP TABLE counters")
        backend.rows("ALTER TABLE packages DROP COLUMN decided_at")
    else:
        backend.rows("CREATE TABLE packages (tracking_number TEXT)")
    with pytest.raises(SystemExit, match=rf"not migrated: its table packages lacks {column}.*own"):
        create_schema(backend.config)
    with pytest.raises(Exception, match="counters"):
        backend.rows("SELECT * FROM counters")


@pytest.mark.parametrize("backend", DATABASES[1:], indirect=True)
@pytest.mark.parametrize("search_path", ["public", "nowhere"])
def test_no_usable_schema(backend: Backend, search_path: str) -> None:
    """If the role can't use any schema of its search_path, the error says so."""
    create_schema(backend.config)
    role = f"limited_{uuid4().hex}"
    backend.rows(f"CREATE ROLE {role} LOGIN")
    backend.rows(f"ALTER ROLE {role} SET search_path = {search_path}")
    url = make_url(backend.url).set(username=role).render_as_string(hide_password=False)
    for script in (create_schema, audit_database):
        with pytest.raises(SystemExit) as ended:
            script({"database.url": url})
        message = f"the role {role} can't use any schema of its search_path ({search_path}): "
        assert message in str(ended.value)
        assert "make migratedb" not in str(ended.value)
    backend.rows(f"DROP ROLE {role}")


def test_missing_tables_are_created(backend: Backend, database: Database) -> None:
    """If some tables are missing, they are reported, and creating the schema adds them."""
    backend.rows("DROP TABLE counters")
    assert missing(database) == ["counters"]
    create_schema(backend.config)
    assert missing(database) == []


def test_dropping_needs_force_if_there_are_packages(
    backend: Backend, desk: DeliveryDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal, tables with packages aren't dropped; the error has their number."""
    send(desk, package("a"), package("b"))
    monkeypatch.setattr("sys.stdin", StringIO())
    with pytest.raises(SystemExit, match=r"\(2 packages\)\. To confirm, set FORCE=1"):
        drop_schema(backend.config)
    assert backend.stored() == {("delivered", "personal"): 2}


@pytest.mark.parametrize("answer", ["yes", "no", "", "\N{END OF TRANSMISSION}"])
def test_dropping_asks_on_a_terminal(
    backend: Backend, desk: DeliveryDesk, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """On a terminal the command asks before it drops packages, and accepts only "yes"."""
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


@pytest.mark.parametrize(
    "path",
    ["configs/production.ini", "./configs/production.ini", "/srv/configs/production.ini"],
)
def test_dropping_needs_force_in_production(
    backend: Backend, database: Database, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """With the production configuration, even empty tables are only dropped with FORCE=1."""
    monkeypatch.setattr("sys.argv", ["baseplate-script", path, "..."])
    with pytest.raises(SystemExit, match=r"the production configuration\. .* FORCE=1"):
        drop_schema(backend.config)
    monkeypatch.setenv("FORCE", "1")
    drop_schema(backend.config)


def test_packages_are_unknown_after_recreating_the_schema(
    backend: Backend, desk: DeliveryDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packages decided before the schema was dropped and recreated are decided again."""
    monkeypatch.setenv("FORCE", "1")
    send(desk, package())
    drop_schema(backend.config)
    create_schema(backend.config)
    assert [describe(outcome) for outcome in send(desk, package())] == ["delivered"]
    assert backend.counted() == {("delivered", "personal"): 1}


def test_package_id_is_unique_in_the_database_itself(backend: Backend, desk: DeliveryDesk) -> None:
    """The database rejects a second decision for a package, whichever program inserts it."""
    send(desk, package())
    with pytest.raises(INTEGRITY_ERRORS):
        backend.rows(
            "INSERT INTO packages"
            " (package_id, sender_id, recipient_id, package_type, timestamp, status)"
            " VALUES ('pkg-1', 'a', 'b', 'c', 0, 'dropped')"
        )


def test_one_preference_per_recipient_and_type(backend: Backend, database: Database) -> None:
    """Preferences are rows keyed by recipient and type."""
    insert = (
        "INSERT INTO preferences (recipient_id, package_type, wanted, timestamp)"
        " VALUES ('leela', 'personal', true, 0)"
    )
    backend.rows(insert)
    with pytest.raises(INTEGRITY_ERRORS):
        backend.rows(insert)


def test_only_two_statuses(backend: Backend, database: Database) -> None:
    """The database rejects any status but delivered and dropped."""
    with pytest.raises(INTEGRITY_ERRORS):
        backend.rows(
            "INSERT INTO packages"
            " (package_id, sender_id, recipient_id, package_type, timestamp, status)"
            " VALUES ('pkg-1', 'a', 'b', 'c', 0, 'lost')"
        )


@pytest.mark.parametrize("table", TABLES)
def test_nullable_columns(database: Database, table: str) -> None:
    """Only the times of a decision may be null, since earlier versions didn't record them."""
    columns = inspector(database).get_columns(table)
    assert {column["name"] for column in columns} == {*metadata.tables[table].columns.keys()}
    nullable = {column["name"] for column in columns if column["nullable"]}
    assert nullable == ({"decided_at", "declined_at"} if table == "packages" else set())


@pytest.mark.parametrize("table", TABLES)
def test_constraints_are_named_by_the_convention(database: Database, table: str) -> None:
    """Constraints have predictable names on both databases."""
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
def test_primary_keys_match_the_lookups(database: Database, table: str, key: list[str]) -> None:
    """The columns of each primary key are in the order that the queries need."""
    tables = inspector(database)
    keys = [tables.get_pk_constraint(table)["constrained_columns"]]
    keys += [unique["column_names"] for unique in tables.get_unique_constraints(table)]
    assert key in keys

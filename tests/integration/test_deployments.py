"""PostgreSQL in real deployments: poolers, encodings, privileges and settings."""

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy.engine import URL, make_url

from galaxy_express.desk import DeliveryDesk, SendRequest
from galaxy_express.models import create_schema
from galaxy_express.package_types import PACKAGE_TYPES
from galaxy_express.storage import queries
from galaxy_express.storage.connect import database_from_config
from galaxy_express.storage.database import Database
from galaxy_express.storage.errors import DatabaseUnavailable
from tests.backends import Backend, PostgreSQLBackend
from tests.conftest import NO_POSTGRESQL, SKIP_POSTGRESQL
from tests.integration.values import commit, describe, package, send, update, update_preferences
from tests.servers.pgbouncer import pgbouncer

if SKIP_POSTGRESQL:
    pytest.skip(NO_POSTGRESQL, allow_module_level=True)

OpenUrl = Callable[..., Database]


@pytest.fixture
def backend(postgresql: PostgreSQLBackend) -> Backend:
    """PostgreSQL, with empty tables."""
    create_schema(postgresql.config)
    return postgresql


@pytest.fixture
def open_url() -> Iterator[OpenUrl]:
    """Open a database by its URL."""
    databases = []

    def open_(url: URL, **settings: str) -> Database:
        text = url.render_as_string(hide_password=False)
        database = database_from_config({"database.url": text} | settings)
        databases.append(database)
        return database

    yield open_
    for database in databases:
        database.close()


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_pooler(backend: Backend, open_url: OpenUrl, mode: str) -> None:
    """The service works through PgBouncer, whatever the settings of the database, and commits stay
    synchronous."""
    alter = f"ALTER DATABASE {make_url(backend.url).database}"
    for setting in (
        "synchronous_commit = off",
        "idle_in_transaction_session_timeout = 0",
        "array_nulls = off",
        "quote_all_identifiers = on",
    ):
        backend.rows(f"{alter} SET {setting}")
    settings = {"database.lock_timeout": "1500 milliseconds"}
    try:
        with pgbouncer(make_url(backend.url), mode) as url:
            database = open_url(url, **settings)
            desk = DeliveryDesk(database, PACKAGE_TYPES)
            assert [describe(each) for each in send(desk, package("a"))] == ["delivered"]
            assert update_preferences(desk, update(personal=False)).applied
            assert [describe(each) for each in send(desk, package("b"))] == ["dropped"]
            with database.read_connection() as connection:
                queries.check_schema(connection)
                assert queries.find_decision(connection, "a") is not None
            # Another client of the pooler, which may share the server connection.
            with PostgreSQLBackend(
                url.render_as_string(False), str(url.database)
            ).cursor() as other:
                other.execute("SET synchronous_commit = off; SET lock_timeout = 0")
            with database.transaction() as connection:
                for name, value in (
                    ("synchronous_commit", "on"),
                    ("lock_timeout", "1500ms"),
                    ("statement_timeout", "5s"),
                    ("idle_in_transaction_session_timeout", "5s"),
                    ("client_encoding", "UTF8"),
                ):
                    assert connection.select(f"SHOW {name}") == [(value,)]
            with database.snapshot(unlimited=True) as administering:
                assert administering.exec_driver_sql("SHOW statement_timeout").scalar() == "0"
            database.close()
    finally:
        backend.rows(f"{alter} RESET ALL")
    assert backend.stored() == backend.counted()


def test_migrations_through_a_pooler(postgresql: PostgreSQLBackend, open_url: OpenUrl) -> None:
    """Migrations through PgBouncer in transaction mode exclude each other and direct ones, and
    leave no lock behind."""
    with pgbouncer(make_url(postgresql.url), "transaction") as url:
        pooled = postgresql.config | {"database.url": url.render_as_string(hide_password=False)}
        with ThreadPoolExecutor(3) as threads:
            with open_url(url).migrating() as connection:
                connection.commit()
                waiting = [threads.submit(create_schema, each) for each in (pooled, pooled)]
                waiting.append(threads.submit(create_schema, postgresql.config))
                time.sleep(0.5)
                assert not any(each.done() for each in waiting)
                assert postgresql.rows("SELECT to_regclass('packages')") == [(None,)]
            for each in waiting:
                each.result(30)
        assert (
            postgresql.rows(
                "SELECT pid FROM pg_locks JOIN pg_database ON pg_database.oid = database"
                " WHERE locktype = 'advisory' AND datname = current_database()"
            )
            == []
        )
    database = open_url(make_url(postgresql.url))
    with database.read_connection() as reading:
        queries.check_schema(reading)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_unsupported_encoding(backend: Backend, open_url: OpenUrl, encoding: str) -> None:
    """A database whose encoding can't store all text is rejected, and the error names it."""
    name = f"galaxy_express_test_{uuid.uuid4().hex}"
    with backend.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0 LOCALE 'C' ENCODING {encoding}")
        try:
            database = open_url(make_url(backend.url).set(database=name))
            for opened in (
                database.read_connection(),
                database.transaction(),
                database.schema_transaction(),
            ):
                with pytest.raises(DatabaseUnavailable, match=encoding), opened:
                    pass
        finally:
            cursor.execute(f"DROP DATABASE {name}")


@pytest.fixture
def role(backend: Backend) -> Iterator[str]:
    """A role with exactly the privileges that the service needs."""
    name = f"galaxy_express_{uuid.uuid4().hex}"
    backend.rows(f"CREATE ROLE {name} LOGIN")
    backend.rows(
        f"GRANT USAGE ON SCHEMA public TO {name};"
        f"GRANT SELECT, INSERT ON packages, preferences, preference_updates, counters TO {name};"
        f"GRANT UPDATE ON preferences, counters TO {name};"
        f"GRANT SELECT, UPDATE ON galaxy_express_sequence TO {name}"
    )
    yield name
    backend.rows(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.mark.parametrize(
    "right",
    [
        "SELECT ON packages",
        "INSERT ON packages",
        "SELECT ON preferences",
        "INSERT ON preferences",
        "UPDATE ON preferences",
        "INSERT ON preference_updates",
        "UPDATE ON galaxy_express_sequence",
        "SELECT ON counters",
        "INSERT ON counters",
        "UPDATE ON counters",
    ],
)
def test_missing_privilege(backend: Backend, role: str, open_url: OpenUrl, right: str) -> None:
    """Without any one of its privileges the service isn't ready, and the error says so."""
    database = open_url(make_url(backend.url).set(username=role))
    desk = DeliveryDesk(database, PACKAGE_TYPES)
    with database.read_connection() as connection:
        queries.check_schema(connection)
    send(desk, package("a"))
    update_preferences(desk, update(personal=False))
    backend.rows(f"REVOKE {right} FROM {role}")
    with pytest.raises(DatabaseUnavailable), database.read_connection() as connection:
        queries.check_schema(connection)
    with pytest.raises(DatabaseUnavailable):
        commit(desk, [update(2, personal=True), SendRequest([package("b")])])

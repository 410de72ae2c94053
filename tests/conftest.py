"""Fixtures: real databases, and the whole application on each of them.

A test that uses ``backend``, ``app``, or a fixture based on them runs once per database. If
PostgreSQL's programs are installed, the tests start their own server. Instead,
``$GALAXY_EXPRESS_TEST_POSTGRES_URL`` may name any database of another server, with a user who may
create databases; if it is empty, PostgreSQL is left out. Without PostgreSQL its tests are skipped,
except in CI, where they fail.

With ``$GALAXY_EXPRESS_TEST_PARTITIONS`` the packages of all PostgreSQL databases are in that many
partitions.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import MetaData, event
from sqlalchemy.engine import Connection
from webtest import TestApp

from galaxy_express import make_wsgi_app
from galaxy_express.application import close_application
from galaxy_express.models import create_schema, metadata_for
from galaxy_express.ops.partition import is_partitioned, partition
from galaxy_express.package_types import PACKAGE_TYPES, PackageTypeRegistry
from galaxy_express.storage.connect import database_from_config
from galaxy_express.storage.database import Database
from tests.backends import Backend, PostgreSQLBackend, SQLiteBackend
from tests.servers.postgresql import cluster, find_binaries

# The machine may be busy, and examples may share a fixture.
settings.register_profile(
    "galaxy_express",
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("galaxy_express")

POSTGRES_URL = "GALAXY_EXPRESS_TEST_POSTGRES_URL"
PARTITIONS = "GALAXY_EXPRESS_TEST_PARTITIONS"
NO_POSTGRESQL = (
    "PostgreSQL's programs aren't installed (Debian: postgresql),"
    f" and ${POSTGRES_URL} names no server"
)
# Report the skip once, not for each of hundreds of tests.
SKIP_POSTGRESQL = not (os.environ.get(POSTGRES_URL, find_binaries()) or os.environ.get("CI"))
DATABASES = ["sqlite"] if SKIP_POSTGRESQL else ["sqlite", "postgresql"]

#: Makes an application: ``make_app(settings, package_types)``, both optional.
MakeApp = Callable[..., "TestApp[Any]"]

#: Opens the database, optionally with more settings, like another process.
OpenDatabase = Callable[..., Database]


def pytest_configure(config: pytest.Config) -> None:
    """Start a PostgreSQL server for all tests, unless the environment names another one.

    The worker processes of a parallel run find it through the environment.
    """
    running = ExitStack()
    config.add_cleanup(running.close)
    if os.environ.get(PARTITIONS):
        running.enter_context(partitioned_packages(int(os.environ[PARTITIONS])))
    binaries = find_binaries()
    if POSTGRES_URL in os.environ or binaries is None:
        return
    os.environ[POSTGRES_URL] = running.enter_context(cluster(binaries)).url


@contextmanager
def partitioned_packages(number: int) -> Iterator[None]:
    """Partition the packages of each PostgreSQL database when its tables are created."""

    def partition_once(_: MetaData, connection: Connection, **__: Any) -> None:
        if not is_partitioned(connection):
            partition(connection, number)

    metadata = metadata_for("postgresql")
    event.listen(metadata, "after_create", partition_once)
    try:
        yield
    finally:
        event.remove(metadata, "after_create", partition_once)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in CI if anything was skipped."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def skip_or_fail(reason: str) -> NoReturn:
    """Skip a test because something is missing; in CI, fail it."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def make_postgresql() -> Iterator[Callable[[], PostgreSQLBackend]]:
    """Make PostgreSQL databases, and remove them after the tests."""
    url = os.environ.get(POSTGRES_URL)
    if not url:
        skip_or_fail(NO_POSTGRESQL)
    backends = []

    def make() -> PostgreSQLBackend:
        backend = PostgreSQLBackend(url, f"galaxy_express_test_{uuid.uuid4().hex}")
        backend.create()
        backends.append(backend)
        return backend

    yield make
    for backend in backends:
        backend.drop()


# A new database for each test


@pytest.fixture
def sqlite(tmp_path: Path) -> SQLiteBackend:
    """A database file that doesn't exist yet."""
    return SQLiteBackend(tmp_path / "galaxy_express.db")


@pytest.fixture(scope="session")
def postgresql_of_session(make_postgresql: Callable[[], PostgreSQLBackend]) -> PostgreSQLBackend:
    """A database that all tests use, one after another."""
    return make_postgresql()


@pytest.fixture
def postgresql(postgresql_of_session: PostgreSQLBackend) -> PostgreSQLBackend:
    """An empty database."""
    postgresql_of_session.reset()
    return postgresql_of_session


@pytest.fixture
def partitioned(postgresql: PostgreSQLBackend) -> Iterator[PostgreSQLBackend]:
    """An empty database, whose packages will be partitioned when the tables are created."""
    with partitioned_packages(3):
        yield postgresql


@pytest.fixture(params=DATABASES)
def backend(request: pytest.FixtureRequest) -> Backend:
    """An empty database, of each kind in turn."""
    return cast(Backend, request.getfixturevalue(request.param))


@pytest.fixture
def database_url(backend: Backend) -> str:
    """The URL of an empty database, of each kind in turn."""
    return backend.url


@pytest.fixture
def open_database(backend: Backend) -> Iterator[OpenDatabase]:
    """Open the database any number of times, and close it after the test."""
    databases = []

    def open_(settings: dict[str, str] | None = None) -> Database:
        database = database_from_config(backend.config | (settings or {}))
        databases.append(database)
        return database

    yield open_
    for database in databases:
        database.close()


@pytest.fixture
def database(backend: Backend, open_database: OpenDatabase) -> Database:
    """The database, with empty tables."""
    create_schema(backend.config)
    return open_database()


@pytest.fixture
def make_app(backend: Backend) -> Iterator[MakeApp]:
    """Make applications on the database, and close them after the test."""
    apps = []

    def make(
        settings: dict[str, str] | None = None, package_types: PackageTypeRegistry = PACKAGE_TYPES
    ) -> TestApp:
        app = TestApp(make_wsgi_app(backend.config | (settings or {}), package_types))
        apps.append(app)
        return app

    yield make
    for app in apps:
        close_application(app.app)


# One application for all tests that only use its public interface


@pytest.fixture(scope="session", params=DATABASES)
def app_backend(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Backend:
    """The database of ``app``."""
    if request.param == "sqlite":
        return SQLiteBackend(tmp_path_factory.mktemp("app") / "galaxy_express.db")
    return cast(Backend, request.getfixturevalue("make_postgresql")())


@pytest.fixture(scope="session")
def app_of_session(app_backend: Backend) -> Iterator[TestApp]:
    """An application that all tests use, one after another."""
    create_schema(app_backend.config)
    app = TestApp(make_wsgi_app(app_backend.config))
    yield app
    close_application(app.app)


@pytest.fixture
def app(app_of_session: TestApp, app_backend: Backend) -> TestApp:
    """The whole application, with empty tables."""
    app_backend.empty_tables()
    return app_of_session

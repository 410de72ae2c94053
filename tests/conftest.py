"""Fixtures: real databases, and the whole application on one.

A test that takes ``backend``, ``app``, or what is made of them, runs once for each database.
PostgreSQL is found through ``$GALAXY_EXPRESS_TEST_POSTGRES_URL``, the URL of any database
of a server, of a user who may create others. Without it PostgreSQL is skipped, or in CI,
where that may not happen unseen, all of its tests fail.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest
from hypothesis import HealthCheck, settings
from webtest import TestApp

from galaxy_express import make_wsgi_app
from galaxy_express.application import close_application
from galaxy_express.models import create_schema
from galaxy_express.package_types import PACKAGE_TYPES, PackageTypeRegistry
from galaxy_express.storage.connect import database_from_config
from galaxy_express.storage.database import Database
from tests.backends import Backend, PostgreSQLBackend, SQLiteBackend

# A machine may be busy, and a fixture may serve one example after the other.
settings.register_profile(
    "galaxy_express",
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("galaxy_express")

POSTGRES_URL = os.environ.get("GALAXY_EXPRESS_TEST_POSTGRES_URL")
NO_POSTGRESQL = (
    "nothing is tested on PostgreSQL:"
    " $GALAXY_EXPRESS_TEST_POSTGRES_URL doesn't say where a server is"
)
# Skipping is for a developer's machine. It is told once, not for each of hundreds of tests.
SKIP_POSTGRESQL = not POSTGRES_URL and not os.environ.get("CI")
DATABASES = ["sqlite"] if SKIP_POSTGRESQL else ["sqlite", "postgresql"]

#: Makes an application: ``make_app(settings, package_types)``, both optional.
MakeApp = Callable[..., Any]

#: Opens the database, with more settings if need be, as a process of its own would.
OpenDatabase = Callable[..., Database]


def skip_or_fail(reason: str) -> NoReturn:
    """Skip a test for want of something; in CI, where that may not happen unseen, fail it."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def make_postgresql() -> Iterator[Callable[[], PostgreSQLBackend]]:
    """Make databases of PostgreSQL, and remove them in the end."""
    if not POSTGRES_URL:
        pytest.fail(NO_POSTGRESQL)
    backends = []

    def make() -> PostgreSQLBackend:
        backend = PostgreSQLBackend(POSTGRES_URL, f"galaxy_express_test_{uuid.uuid4().hex}")
        backend.create()
        backends.append(backend)
        return backend

    yield make
    for backend in backends:
        backend.drop()


# A database of its own for each test


@pytest.fixture
def sqlite(tmp_path: Path) -> SQLiteBackend:
    """A file that isn't there yet."""
    return SQLiteBackend(tmp_path / "galaxy_express.db")


@pytest.fixture(scope="session")
def postgresql_of_session(make_postgresql: Callable[[], PostgreSQLBackend]) -> PostgreSQLBackend:
    """A database for all tests, one after the other."""
    return make_postgresql()


@pytest.fixture
def postgresql(postgresql_of_session: PostgreSQLBackend) -> PostgreSQLBackend:
    """A database with nothing in it."""
    postgresql_of_session.reset()
    return postgresql_of_session


@pytest.fixture(params=DATABASES)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each database in turn, with nothing in it."""
    return cast(Backend, request.getfixturevalue(request.param))


@pytest.fixture
def database_url(backend: Backend) -> str:
    """The URL of each database in turn, with nothing in it."""
    return backend.url


@pytest.fixture
def open_database(backend: Backend) -> Iterator[OpenDatabase]:
    """Open the database, any number of times, and close it after the test."""
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


# One application for all tests that do nothing to its database but what its users do


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
    """An application for all tests, one after the other."""
    create_schema(app_backend.config)
    app = TestApp(make_wsgi_app(app_backend.config))
    yield app
    close_application(app.app)


@pytest.fixture
def app(app_of_session: TestApp, app_backend: Backend) -> TestApp:
    """The whole application, with empty tables."""
    app_backend.empty_tables()
    return app_of_session

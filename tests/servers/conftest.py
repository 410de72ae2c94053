"""Fixtures: an installation of the service, and running servers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends import SQLiteBackend
from tests.servers.running import Installation, Server

# So that pytest shows the compared values of failed assertions in this module.
pytest.register_assert_rewrite("tests.servers.load")


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    """The service, with an SQLite database whose tables exist."""
    return _install(tmp_path)


@pytest.fixture(scope="session", params=["baseplate-serve", "gunicorn"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Each server in turn, shared by all tests that only send requests."""
    with _install(tmp_path_factory.mktemp(request.param)).server(request.param) as server:
        yield server


def _install(folder: Path) -> Installation:
    installation = Installation(folder, SQLiteBackend(folder / "galaxy_express.db"))
    installation.create_schema()
    return installation

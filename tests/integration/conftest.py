"""Fixtures: desks on a database with empty tables."""

from collections.abc import Callable
from typing import cast

import pytest

from galaxy_express.desk import DeliveryDesk
from galaxy_express.package_types import PACKAGE_TYPES
from galaxy_express.storage.database import Database
from tests.backends import Backend
from tests.conftest import DATABASES, SKIP_POSTGRESQL, OpenDatabase

#: Makes a desk with its own connection, like another process.
MakeDesk = Callable[[], DeliveryDesk]


#: The last one is PostgreSQL with partitioned packages.
BACKENDS = DATABASES if SKIP_POSTGRESQL else [*DATABASES, "partitioned"]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """An empty database, of each kind in turn."""
    return cast(Backend, request.getfixturevalue(request.param))


@pytest.fixture
def desk(database: Database) -> DeliveryDesk:
    """A desk with the registered package types."""
    return DeliveryDesk(database, PACKAGE_TYPES)


@pytest.fixture
def make_desk(database: Database, open_database: OpenDatabase) -> MakeDesk:
    """Make desks on the database, whose tables exist."""
    return lambda: DeliveryDesk(open_database(), PACKAGE_TYPES)

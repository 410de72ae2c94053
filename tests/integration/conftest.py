"""Fixtures: desks on a database with empty tables."""

from collections.abc import Callable

import pytest

from galaxy_express.desk import DeliveryDesk
from galaxy_express.package_types import PACKAGE_TYPES
from galaxy_express.storage.database import Database
from tests.conftest import OpenDatabase

#: Makes a desk with its own connection, like another process.
MakeDesk = Callable[[], DeliveryDesk]


@pytest.fixture
def desk(database: Database) -> DeliveryDesk:
    """A desk with the registered package types."""
    return DeliveryDesk(database, PACKAGE_TYPES)


@pytest.fixture
def make_desk(database: Database, open_database: OpenDatabase) -> MakeDesk:
    """Make desks on the database, whose tables exist."""
    return lambda: DeliveryDesk(open_database(), PACKAGE_TYPES)

"""Settings that are wrong stop the start, and are named."""

import pytest
from baseplate.lib.config import ConfigurationError

from galaxy_express import make_wsgi_app

DATABASE = {"database.url": "sqlite:///galaxy_express.db"}


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({}, "database.url"),
        ({"database.url": ""}, "database.url"),
        ({"database.url": "galaxy_express.db"}, "database.url"),
        ({"database.url": "mysql://localhost/galaxy"}, "database.url"),
        ({"database.url": "$GALAXY_EXPRESS_DATABASE_URL"}, "database.url"),
        ({"database.url": "sqlite://"}, "database.url"),
        ({"database.url": "sqlite:///:memory:"}, "database.url"),
        (DATABASE | {"database.lock_timeout": "soon"}, "database.lock_timeout"),
        (DATABASE | {"database.statement_timeout": "5"}, "database.statement_timeout"),
        (DATABASE | {"database.connect_timeout": "-"}, "database.connect_timeout"),
        (DATABASE | {"database.pool_size": "0"}, "database.pool_size"),
        (DATABASE | {"database.path": "x"}, "database.path"),
        (DATABASE | {"desk.max_group": "0"}, "desk.max_group"),
        (DATABASE | {"desk.max_queued": "many"}, "desk.max_queued"),
        (DATABASE | {"desk.timeout": "never"}, "desk.timeout"),
        (DATABASE | {"desk.max_grop": "10"}, "desk.max_grop"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, str], key: str) -> None:
    """A value that is missing or wrong, and a key that doesn't exist, stop the start."""
    with pytest.raises(ConfigurationError) as fault:
        make_wsgi_app(settings)
    assert fault.value.key == key

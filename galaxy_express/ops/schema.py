"""The schema, as commands for operators."""

from collections.abc import Iterator
from contextlib import contextmanager

from baseplate.lib.config import ConfigurationError, RawConfig

from galaxy_express.models import metadata
from galaxy_express.storage.connect import database_from_config
from galaxy_express.storage.database import Database, DatabaseUnavailable


def create_schema(app_config: RawConfig) -> None:
    """Create the tables that don't exist yet (a script for ``baseplate-script``).

    :raises SystemExit: with a sentence, if a setting is wrong or the database unavailable.
    """
    with (
        database_for_script(app_config) as database,
        database.schema_transaction() as connection,
    ):
        metadata.create_all(connection)


def drop_schema(app_config: RawConfig) -> None:
    """Drop the tables, and with them everything stored (a script for ``baseplate-script``).

    :raises SystemExit: see :py:func:`create_schema`.
    """
    with (
        database_for_script(app_config) as database,
        database.schema_transaction() as connection,
    ):
        metadata.drop_all(connection)


@contextmanager
def database_for_script(app_config: RawConfig) -> Iterator[Database]:
    """The database for a script of ``baseplate-script``. An error ends the script.

    :raises SystemExit: with a sentence, if a setting is wrong or the database unavailable.
    """
    try:
        database = database_from_config(app_config)
    except ConfigurationError as error:
        raise SystemExit(f"The configuration is wrong: {error}") from error
    try:
        yield database
    except DatabaseUnavailable as error:
        raise SystemExit(
            f"The database {database} is unavailable: {error}"
            " (does it exist, and can it, or the folder of its file, be written to?)"
        ) from error
    finally:
        database.close()

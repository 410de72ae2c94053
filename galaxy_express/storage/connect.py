"""Creates the database from the settings ``database.*``."""

from collections.abc import Callable
from pathlib import Path

from baseplate.lib.config import ConfigurationError, RawConfig

from galaxy_express.settings import DatabaseSettings, read_section
from galaxy_express.storage.database import Database
from galaxy_express.storage.postgresql.database import PostgreSQLDatabase
from galaxy_express.storage.sqlite.database import SQLiteDatabase
from galaxy_express.storage.url import database_url


def database_from_config(
    app_config: RawConfig, on_timeout: Callable[[str], None] = lambda _: None
) -> Database:
    """Create the database that the keys ``database.*`` describe, without connecting yet.

    :param on_timeout: see :py:class:`PostgreSQLDatabase`.
    :raises baseplate.lib.config.ConfigurationError: naming the invalid key.
    """
    settings = read_section(app_config, "database", DatabaseSettings)
    try:
        url = database_url(settings.url)
    except ValueError as error:
        raise ConfigurationError("database.url", str(error)) from error
    if url.get_backend_name() == "sqlite":
        return SQLiteDatabase(Path(url.database or ""), settings.lock_timeout)
    return PostgreSQLDatabase(
        url,
        lock_timeout=settings.lock_timeout,
        statement_timeout=settings.statement_timeout,
        connect_timeout=settings.connect_timeout,
        idle_timeout=settings.idle_timeout,
        connection_age=settings.connection_age,
        pool_size=settings.pool_size,
        application_name=settings.application_name,
        on_timeout=on_timeout,
    )

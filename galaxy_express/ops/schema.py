"""Commands for operators that create, migrate and drop the schema."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from baseplate.lib.config import ConfigurationError, RawConfig
from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from galaxy_express.models import metadata_for, missing_tables, packages
from galaxy_express.ops.output import write
from galaxy_express.storage.connect import database_from_config
from galaxy_express.storage.database import Database
from galaxy_express.storage.errors import DatabaseUnavailable, in_a_line

# SQLite's errors for a file that it can't open or write to; others say what is wrong.
_FILE_ERRORS = ("unable to open database file", "attempt to write a readonly database")


def create_schema(app_config: RawConfig) -> None:
    """Create the tables, or migrate those of an earlier version (a script for
    ``baseplate-script``).

    :raises SystemExit: with a one-line message, if a setting is invalid, or if the database is
        unavailable or newer than this version.
    """
    migrations = import_migrations()
    with database_for_script(app_config) as database:
        try:
            with database.migrating() as connection:
                revision = migrations.upgrade(connection)
        except migrations.UnknownDatabase as error:
            raise SystemExit(f"The database {database} was not migrated: {error}") from error
        except database.driver_error as error:
            raise SystemExit(
                f"The database {database} was not migrated: {in_a_line(error)} (do its tables match"
                f" the revision in {migrations.VERSION_TABLE}?)"
            ) from error
    if revision is not None:
        write(f"The tables of {database} are now at revision {revision}.\n")


def drop_schema(app_config: RawConfig) -> None:
    """Drop the tables, and everything stored in them (a script for ``baseplate-script``).

    If there are packages, it asks for confirmation on the terminal. Without a terminal, and always
    with the production configuration, ``$FORCE`` must be 1.

    :raises SystemExit: with a one-line message, if nothing was dropped; see
        :py:func:`create_schema`.
    """
    with (
        database_for_script(app_config) as database,
        database.schema_transaction() as connection,
    ):
        stored = _count_packages(connection)
        what = f"{database} ({stored:,} packages)"
        if os.environ.get("FORCE") != "1":
            is_production = "production.ini" in map(os.path.basename, sys.argv)
            _confirm(what, stored, is_production)
        metadata_for(connection.dialect.name).drop_all(connection)
        import_migrations().forget(connection)
    write(f"Dropped the tables of {what}.\n")


def import_migrations() -> ModuleType:
    """Import :py:mod:`galaxy_express.storage.migrations`, without the log of Alembic's plug-ins."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from galaxy_express.storage import migrations

    return migrations


def _count_packages(connection: Connection) -> int:
    if packages.name in missing_tables(connection):
        return 0
    return int(connection.execute(select(func.count()).select_from(packages)).scalar_one())


def _confirm(what: str, stored: int, is_production: bool) -> None:
    if is_production:
        raise SystemExit(
            f"This would drop the tables of {what}, with the production configuration."
            " To confirm, set FORCE=1"
        )
    if not stored:
        return
    if not sys.stdin.isatty():
        raise SystemExit(f"This would drop the tables of {what}. To confirm, set FORCE=1")
    try:
        answer = input(f"Drop the tables of {what}? (yes/no) ")
    except EOFError:
        answer = ""
    if answer != "yes":
        raise SystemExit("Nothing was dropped.")


@contextmanager
def database_for_script(app_config: RawConfig) -> Iterator[Database]:
    """The database for a script of ``baseplate-script``. Errors end the script.

    :raises SystemExit: with a one-line message, if a setting is invalid, or if the database is
        unavailable or rejects a statement.
    """
    try:
        database = database_from_config(app_config)
    except ConfigurationError as error:
        raise SystemExit(f"The configuration is invalid: {error}") from error
    try:
        yield database
    except database.driver_error as error:  # the tables aren't as this version expects
        raise SystemExit(f"The database {database} can't be used: {in_a_line(error)}") from error
    except DatabaseUnavailable as error:
        hint = (
            " (does its folder exist, and may you write to the folder and the file?)"
            if str(error).startswith(_FILE_ERRORS)
            else ""
        )
        raise SystemExit(f"The database {database} is unavailable: {error}{hint}") from error
    finally:
        database.close()

"""Migrations of the tables of any earlier version, with Alembic.

A migration can be rerun after an interruption at any moment, and while the previous
version of the service still writes.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from sqlalchemy import inspect
from sqlalchemy.engine import Connection

from galaxy_express.models import metadata_for
from galaxy_express.storage.migrations.numbering import restore_functions, restore_sequence

#: Alembic's table with the revision of the database.
VERSION_TABLE = "alembic_version"

# The columns that migrations add to the tables of version 1.0.
_ADDED_COLUMNS = {"sequence", "decided_at", "declined_at"}


class UnknownDatabase(Exception):
    """The database isn't one that this version can migrate; nothing was changed."""


class NewerDatabase(UnknownDatabase):
    """A newer version of the service has migrated the database."""

    def __init__(self, revision: str) -> None:
        super().__init__(
            f"it was migrated by a newer version of Galaxy Express, to {revision!r}, which this"
            " version doesn't know; nothing was changed"
        )


def upgrade(connection: Connection) -> str | None:
    """Run the migrations that the database lacks, and recreate what else is missing: tables, and on
    PostgreSQL the sequence of the feed and the functions that draw from it.

    :param connection: a connection that no other process migrates with at the same time.
    :returns: the new revision; ``None`` if no migration was needed.
    :raises UnknownDatabase: if this version doesn't know its revision or its tables.
    """
    needed = needs_upgrade(connection)
    _check_columns(connection, _ADDED_COLUMNS if needed else set())
    is_postgresql = connection.dialect.name == "postgresql"
    if needed:
        if is_postgresql:
            connection.commit()  # the migrations begin their own transactions
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    if is_postgresql:
        restore_functions(connection)
    metadata_for(connection.dialect.name).create_all(connection)
    if is_postgresql:
        restore_sequence(connection)
    revision = MigrationContext.configure(connection).get_current_revision()
    connection.commit()
    return revision if needed else None


def _check_columns(connection: Connection, added: set[str]) -> None:
    """Check that the tables that exist have the columns of this version, except some.

    :param added: the columns that migrations add.
    :raises UnknownDatabase: if they don't.
    """
    tables = metadata_for(connection.dialect.name).tables
    inspector = inspect(connection)
    for name in sorted(tables.keys() & set(inspector.get_table_names())):
        present = {column["name"] for column in inspector.get_columns(name)}
        names = [column.name for column in tables[name].columns]
        missing = [column for column in names if column not in present | added]
        if missing:
            raise UnknownDatabase(
                f"its table {name} lacks {', '.join(missing)}: either it was altered, or it belongs"
                " to another program, and Galaxy Express needs a database of its own; nothing was"
                " changed"
            )


def needs_upgrade(connection: Connection) -> bool:
    """Return whether there are migrations that the database lacks.

    :raises UnknownDatabase: if its revision is unknown.
    """
    scripts = ScriptDirectory.from_config(_config())
    revisions = MigrationContext.configure(connection).get_current_heads()
    if len(revisions) > 1:
        raise UnknownDatabase(
            f"its table {VERSION_TABLE} has several rows: {', '.join(revisions)}; keep the one of"
            " the last migration, and delete the others"
        )
    if not revisions:
        return True
    current = revisions[0]
    try:
        scripts.get_revision(current)
    except (CommandError, ResolutionError):
        raise NewerDatabase(current) from None
    return current != scripts.get_current_head()


def forget(connection: Connection) -> None:
    """Remove everything else that migrations created, after the tables were dropped."""
    connection.exec_driver_sql(f"DROP TABLE IF EXISTS {VERSION_TABLE}")
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("DROP FUNCTION IF EXISTS galaxy_express_begin")
        connection.exec_driver_sql("DROP FUNCTION IF EXISTS galaxy_express_draw")
        connection.exec_driver_sql("DROP SEQUENCE IF EXISTS galaxy_express_sequence")


def _config() -> Config:
    config = Config()
    folder = str(Path(__file__).parent)
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config

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
from sqlalchemy.engine import Connection

from galaxy_express.models import metadata_for
from galaxy_express.storage.migrations.numbering import restore_functions, restore_sequence

#: Alembic's table with the revision of the database.
VERSION_TABLE = "alembic_version"


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
    :raises UnknownDatabase: if its revision is unknown to this version.
    """
    needed = needs_upgrade(connection)
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

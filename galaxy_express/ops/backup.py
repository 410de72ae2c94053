"""A backup of an SQLite database, made while the service runs."""

import sqlite3
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from baseplate.lib.config import RawConfig

from galaxy_express.ops.audit import audit
from galaxy_express.ops.schema import database_for_script
from galaxy_express.storage.sqlite import SQLiteDatabase


def back_up(app_config: RawConfig, arguments: list[str]) -> None:
    """Copy the database, as it is at one moment, and audit the copy (for ``baseplate-script``).

    Copying the file with other tools would miss what is only in the log. Nobody waits for the
    backup, and the copy needs no log.

    :param arguments: the path of the copy, which must not exist.
    :raises SystemExit: with a sentence, if there is no copy afterwards.
    """
    path = Path(arguments[0] if arguments else "")
    if path == Path():
        raise SystemExit("Say where the copy is to be: make backupdb TO=backup.db")
    if path.exists():
        raise SystemExit(f"{path} exists already, and a backup overwrites nothing.")
    with database_for_script(app_config) as database:
        if not isinstance(database, SQLiteDatabase):
            raise SystemExit(f"{database} is backed up by pg_dump; see docs/operations.md.")
        part = path.with_name(f"{path.name}.part")
        try:
            _copy(database, part)
            faults = _audit(part)
            if faults:
                raise SystemExit("The copy is wrong, and was removed: " + " ".join(faults))
            part.rename(path)
        except OSError as error:
            raise SystemExit(f"{path} can't be written: {error}") from error
        finally:
            part.unlink(missing_ok=True)
    sys.stdout.write(f"Copied {database} to {path}. Nothing is wrong with the copy.\n")


def _copy(database: SQLiteDatabase, path: Path) -> None:
    path.touch(exist_ok=False)
    with (
        database.snapshot() as connection,
        closing(sqlite3.connect(path)) as copy,
    ):
        connection.connection.driver_connection.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")  # so that the copy is one file


def _audit(path: Path) -> list[str]:
    with closing(SQLiteDatabase(path, timedelta(seconds=5))) as copy:
        return audit(copy).faults

"""A backup of an SQLite database, made while the service runs."""

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from baseplate.lib.config import RawConfig

from galaxy_express.ops.audit import audit
from galaxy_express.ops.output import write
from galaxy_express.ops.schema import database_for_script
from galaxy_express.storage.sqlite.database import SQLiteDatabase

_PAGES = 10_000  # 20 MB


def back_up(app_config: RawConfig, arguments: list[str]) -> None:
    """Copy a snapshot of the database, and audit the copy (a script for ``baseplate-script``).

    Copying the file with other tools would miss commits that are only in the log. The backup
    doesn't block reads or writes, and the copy is a single file without a log.

    :param arguments: the path of the copy, which must not exist.
    :raises SystemExit: with a one-line message, if the backup failed.
    """
    path = Path(arguments[0] if arguments else "")
    if path == Path():
        raise SystemExit(
            "The path of the copy is missing: make backupdb TO=backup.db,"
            " or galaxy-express backup backup.db"
        )
    with database_for_script(app_config) as database:
        if not isinstance(database, SQLiteDatabase):
            raise SystemExit(f"{database} must be backed up with pg_dump; see docs/operations.md.")
        try:
            if path.exists():
                raise SystemExit(f"{path} already exists; a backup doesn't overwrite files.")
            part = path.with_name(f"{path.name}.part")
            with _exiting_on_signals():
                part.touch(exist_ok=False)
                try:
                    _copy(database, part)
                    problems = _audit(part)
                    if problems:
                        raise SystemExit(
                            "The copy has problems, and was removed: " + " ".join(problems)
                        )
                    part.rename(path)
                finally:
                    part.unlink(missing_ok=True)
                    part.with_name(f"{part.name}-journal").unlink(missing_ok=True)
        except FileExistsError as error:
            raise SystemExit(
                f"{part} already exists: another backup is writing it, or one was killed, and it"
                " must be removed."
            ) from error
        except OSError as error:
            raise SystemExit(f"{path} can't be written: {error}") from error
    write(f"Copied {database} to {path}. The audit of the copy found no problems.\n")


@contextmanager
def _exiting_on_signals() -> Iterator[None]:
    """A block that a signal ends like ``sys.exit()``, so that an unfinished copy is removed."""

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    handlers = {
        number: signal.signal(number, leave)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) != signal.SIG_IGN  # by nohup, for example
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _copy(database: SQLiteDatabase, path: Path) -> None:
    with (
        database.snapshot() as connection,
        closing(sqlite3.connect(path)) as copy,
    ):
        # If the database is locked or unreadable, this fails; the backup would wait forever.
        connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")
        try:
            # In parts, since signals are handled between them.
            connection.connection.driver_connection.backup(
                copy, pages=_PAGES, progress=lambda *_: None
            )
            copy.execute("PRAGMA journal_mode=DELETE")  # so that the copy is one file
        except sqlite3.Error as error:  # of either file
            raise SystemExit(f"Copying {database} to {path} failed: {error}") from error


def _audit(path: Path) -> list[str]:
    with closing(SQLiteDatabase(path, timedelta(seconds=5))) as copy:
        return audit(copy).problems

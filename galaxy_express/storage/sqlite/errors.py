"""What SQLite's errors mean."""

import re
import sqlite3
from collections.abc import Iterator
from itertools import chain
from typing import Any

from sqlalchemy import CheckConstraint, Table
from sqlalchemy.schema import ColumnCollectionConstraint

from galaxy_express.models import metadata_for
from galaxy_express.storage.errors import (
    DatabaseUnavailable,
    NotRecorded,
    RejectedRow,
    SchemaMismatch,
    in_a_line,
)
from galaxy_express.storage.sqlite.checks import find_unwritable

_TABLES = metadata_for("sqlite").tables

# Errors that are temporary, or that an operator has to fix: https://www.sqlite.org/rescode.html.
# The lowest byte of an extended code is its primary code.
_PRIMARY_CODE = 0xFF
_UNAVAILABLE = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOTADB,
}
# SQLite has one code for all errors in SQL. If a name that the schema defines is missing, the
# database has another version; if any other name is missing, the statement is wrong.
_MISSING = re.compile(r"(?:no such (?:table|column): |table .* has no column named )(?:.*\.)?(\w+)")
_OUR_NAMES = {name for table in _TABLES.values() for name in (table.name, *table.columns.keys())}


def _violations(table: Table) -> Iterator[str]:
    """Yield SQLite's messages for violations of the constraints that the schema defines."""
    for column in table.columns:
        if not column.nullable:
            yield f"NOT NULL constraint failed: {column}"
    for constraint in table.constraints:
        if isinstance(constraint, CheckConstraint):
            yield f"CHECK constraint failed: {constraint.name}"
        elif isinstance(constraint, ColumnCollectionConstraint):
            yield f"UNIQUE constraint failed: {', '.join(map(str, constraint.columns))}"


_OUR_VIOLATIONS = set(chain.from_iterable(map(_violations, _TABLES.values())))


def translate(error: Any, path: str) -> Exception | None:
    """Return the exception for an error of the driver: one of ``storage.errors``, or the error
    itself if it is a bug. ``None`` if the statement may have failed because of altered tables.

    :param path: the path of the database.
    """
    reason = in_a_line(error)
    code = getattr(error, "sqlite_errorcode", 0)
    if code & _PRIMARY_CODE in _UNAVAILABLE:
        return DatabaseUnavailable("; ".join([reason, *find_unwritable(path)]))
    missing = _MISSING.match(reason)
    if missing and missing[1] in _OUR_NAMES:
        return SchemaMismatch(reason)
    if code == sqlite3.SQLITE_CONSTRAINT_TRIGGER:
        return NotRecorded(f"a trigger has raised an error: {reason}")
    if not isinstance(error, sqlite3.IntegrityError):
        return None
    # If one of our own constraints was violated, it is a bug.
    violation: Exception = error if reason in _OUR_VIOLATIONS else RejectedRow(reason)
    return violation

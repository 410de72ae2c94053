"""What PostgreSQL's errors mean, by their SQLSTATE codes.

See https://www.postgresql.org/docs/current/errcodes-appendix.html.
"""

import re
from typing import Any

import psycopg2

from galaxy_express.models import metadata_for
from galaxy_express.storage.errors import (
    Blocked,
    DatabaseUnavailable,
    NotRecorded,
    RejectedRow,
    SchemaMismatch,
    TransactionConflict,
    in_a_line,
)

#: A write on a read-only server.
READ_ONLY = "25006"

_MISSING = {"42P01", "42703", "3F000"}  # table, column, schema
_MISSING_FUNCTION = "42883"
_INSUFFICIENT_PRIVILEGE = "42501"
_RETRYABLE = {"40001", "40P01"}  # serialization failure, deadlock
_LOCKED = "55P03"
# Errors that the service's own statements never raise: RAISE EXCEPTION, and unsupported features.
_RAISED_BY_TRIGGERS = {"P0001", "0A000"}
_CLASS_OF_NAMES = "42"  # missing tables or rights, for example: messages have names, no values
_CLASSES_OF_ROWS = ("22", "23")  # data exceptions, integrity constraint violations

_OUR_CONSTRAINTS = {
    constraint.name
    for table in metadata_for("postgresql").sorted_tables
    for constraint in table.constraints
}


def translate(error: Any) -> DatabaseUnavailable | None:
    """Return the exception to raise instead of the driver's.

    :returns: ``None`` if the error doesn't show its cause: the tables were altered, or it is a bug.
    """
    if error.pgcode in _RETRYABLE:
        return translate_as(TransactionConflict, error)
    if error.pgcode == _LOCKED:
        return translate_as(Blocked, error)
    if _is_of_trigger(error):
        return translate_as(NotRecorded, error)
    if error.pgcode in _MISSING or (
        error.pgcode == _MISSING_FUNCTION and "galaxy_express_" in error.diag.message_primary
    ):
        return translate_as(SchemaMismatch, error)
    if error.pgcode in _RAISED_BY_TRIGGERS:
        return translate_as(NotRecorded, error)
    if error.pgcode == _INSUFFICIENT_PRIVILEGE or isinstance(
        error, (psycopg2.OperationalError, psycopg2.InterfaceError, psycopg2.InternalError)
    ):
        return translate_as(DatabaseUnavailable, error)
    constraint = error.diag.constraint_name
    if constraint and constraint not in _OUR_CONSTRAINTS:
        return RejectedRow(error.diag.message_primary)  # without the values of the row
    return None


def translate_as(kind: type[DatabaseUnavailable], error: Any) -> DatabaseUnavailable:
    """Return an exception of a kind, with the message and the cause of the driver's."""
    translated = kind(in_a_line(error))
    translated.cause = _cause(error)
    return translated


def is_harmless(error: Any) -> bool:
    """Return whether rolling back is enough to use the connection again.

    A group of writes that is split may have many such errors.
    """
    return (
        error.pgcode in {*_RETRYABLE, _LOCKED, *_RAISED_BY_TRIGGERS}
        or is_of_row(error)
        or _is_of_trigger(error)
    )


def is_of_row(error: Any) -> bool:
    """Return whether the values of a row caused an error."""
    return str(error.pgcode).startswith(_CLASSES_OF_ROWS)


def _is_of_trigger(error: Any) -> bool:
    """Return whether a statement failed in a function that isn't ours, such as a trigger's, and not
    because of a problem of the server, such as a full disk."""
    context = error.diag.context
    return (
        bool(context)
        and "galaxy_express_" not in context
        and not isinstance(error, psycopg2.OperationalError)
    )


def _cause(error: Any) -> str | None:
    """Return what errors with the same cause have in common; ``None`` if it is their message."""
    if error.pgcode is None:  # not from the server
        return None
    diag = error.diag
    if error.pgcode.startswith(_CLASS_OF_NAMES):
        return str(diag.message_primary)
    # The outermost context is a trigger's function, or the place of a row.
    context = re.sub(r"\d+", "", (diag.context or "").rpartition("\n")[2])
    return f"{error.pgcode} {diag.constraint_name} {context}"

"""The exceptions of the databases.

::

    DatabaseUnavailable             nothing was recorded, and a retry is safe
     ├─ SchemaMismatch              the tables are missing, or of another version
     │   └─ AlteredSchema           an operator has altered the tables
     │       └─ RejectedRow         so they don't store a row (also a NotRecorded)
     ├─ WorkerNode                  the server is the wrong node of Citus
     ├─ DamagedFiles                the files were changed by another program
     ├─ TransactionConflict         another transaction was first; a retry may succeed at once
     ├─ Blocked                     another transaction has a lock
     └─ NotRecorded                 the database doesn't store a row
"""


class DatabaseUnavailable(Exception):
    """The database is locked, full, read-only, unreachable, damaged, or not set up.

    The transaction was rolled back, and a retry is safe. If the connection was lost during COMMIT,
    the outcome is unknown, and a retry finds it.

    :cvar state: the state of the database, as described in responses.
    :ivar cause: identifies the cause of the error, if the message may name rows; errors with the
        same cause are logged once.
    """

    state = "unavailable"
    cause: str | None = None


class SchemaMismatch(DatabaseUnavailable):
    """The database lacks tables or columns of this version; an operator has to migrate it."""

    state = "not set up (make migratedb)"

    def __str__(self) -> str:
        return f"{self.args[0]} (to fix this: make migratedb)"


class AlteredSchema(SchemaMismatch):
    """An operator has altered the tables, so that this version can't use them safely."""

    state = "not usable, since its tables were altered"

    def __str__(self) -> str:
        return f"the tables were altered: {self.args[0]}"


class WorkerNode(DatabaseUnavailable):
    """The server is a worker node of Citus, where locks and sequences aren't shared."""

    state = "on a worker node of Citus (connect to the coordinator)"

    def __str__(self) -> str:
        return f"it is {self.state}"


class DamagedFiles(DatabaseUnavailable):
    """The files of the database were overwritten, replaced or deleted while it was in use; an
    operator has to restore it."""

    state = "not usable, since its files were changed while it was in use (the log says what to do)"


class TransactionConflict(DatabaseUnavailable):
    """The transaction conflicted with another, was rolled back, and can be retried immediately."""


class Blocked(DatabaseUnavailable):
    """Another transaction holds a lock that this one needs; this one was rolled back."""


class NotRecorded(DatabaseUnavailable):
    """The database doesn't store a row, because of a trigger for example; the transaction was
    rolled back. Other writes may succeed."""


class RejectedRow(NotRecorded, AlteredSchema):
    """An operator has altered the tables, so that they don't store a row; others may be stored."""


def in_a_line(error: Exception) -> str:
    """The message of an exception, without line breaks."""
    return " ".join(str(error).split())

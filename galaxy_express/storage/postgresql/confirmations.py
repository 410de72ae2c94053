"""Which connections to PostgreSQL show only what a failover can't undo.

With synchronous standbys, a commit gets its response once a standby has it. But a server also shows
commits that got no response and that perhaps no other server has: after a crash, all that were
waiting; as a standby, all that its primary had sent it. If the next primary doesn't have them, they
are undone. So a response to a resent package must not rest on what such a server shows.

A commit that gets a response proves that a synchronous standby has everything before it, too
(https://www.postgresql.org/docs/current/warm-standby.html#SYNCHRONOUS-REPLICATION).
"""

from galaxy_express.storage.postgresql.limited_connection import LimitedConnection

#: An expression that writes to the log, so that the commit waits for a standby even if nothing else
#: is written. A standby can't write.
WRITE_TO_LOG = """
    CASE WHEN NOT pg_is_in_recovery() THEN pg_logical_emit_message(true, 'galaxy_express', '') END
"""


class Confirmations:
    """The last commit that got a response."""

    def __init__(self) -> None:
        self._server = ""
        self._begun = 0.0

    def note(self, connection: LimitedConnection, begun: float) -> None:
        """Note a transaction that has been committed.

        :param connection: its connection, on which this or an earlier transaction wrote to the log.
        :param begun: when it began, by the monotonic clock.
        """
        self._server, self._begun = connection.server, begun

    def cover(self, connection: LimitedConnection) -> bool:
        """Return whether a connection shows only what a failover can't undo.

        It does if it was open when the last transaction began: the server has not crashed since,
        since a crash closes all connections.
        """
        return connection.server == self._server and connection.opened_at <= self._begun

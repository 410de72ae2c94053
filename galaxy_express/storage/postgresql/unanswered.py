"""COMMITs without a response: further attempts are delayed with exponential backoff.

Each leaves a waiting backend behind, because a standby is missing or a disk hangs. If every write
tried again, the server would run out of connections.
"""

import time

from galaxy_express.storage.database import Connection

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 600.0

# Visible for backends of the same role.
_BUSY = """
SELECT coalesce(bool_or(state = 'active'), false),
       coalesce(bool_or(state = 'active' AND wait_event = 'SyncRep'), false)
FROM pg_stat_activity WHERE pid = ANY(%s)
"""


class UnansweredCommits:
    """The COMMITs without a response since the last one that got a response."""

    def __init__(self) -> None:
        self._backends: tuple[int, ...] = ()
        self._pause = _FIRST_PAUSE
        self._next_try = 0.0

    def note(self, backend: int) -> None:
        """Note a COMMIT without a response.

        :param backend: the process id of the server's backend.
        """
        self._backends = (*self._backends, backend)
        self._next_try = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def clear(self) -> None:
        """Note a COMMIT that got a response."""
        self._backends = ()
        self._pause = _FIRST_PAUSE

    def must_wait(self, connection: Connection) -> bool:
        """Return whether it is too early for another attempt. It isn't if no backend waits any
        more, or if the connection is to another server."""
        if not self._backends or time.monotonic() >= self._next_try:
            return False
        return self._look(connection)[0]

    def would_hang(self, connection: Connection) -> bool:
        """Return whether a COMMIT would probably get no response: a standby is still missing, or
        it is too early for another attempt."""
        if not self._backends:
            return False
        busy, standby_is_missing = self._look(connection)
        return standby_is_missing or (busy and time.monotonic() < self._next_try)

    def _look(self, connection: Connection) -> tuple[bool, bool]:
        ((busy, standby_is_missing),) = connection.select(_BUSY, (list(self._backends),))
        return busy, standby_is_missing

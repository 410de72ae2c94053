"""COMMITs that got no answer: the next tries keep a growing distance.

Each leaves a backend behind that waits, for a standby that is away or a disk that stands still. If
every write tried again, the server would run out of connections.
"""

import time

from galaxy_express.storage.database import Connection

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 600.0

# A user may see this of the backends of his own role.
_BUSY = """
SELECT coalesce(bool_or(state = 'active'), false),
       coalesce(bool_or(state = 'active' AND wait_event = 'SyncRep'), false)
FROM pg_stat_activity WHERE pid = ANY(%s)
"""


class UnansweredCommits:
    """What is known of the COMMITs that got no answer since the last one that did."""

    def __init__(self) -> None:
        self._backends: tuple[int, ...] = ()
        self._pause = _FIRST_PAUSE
        self._next_try = 0.0

    def note(self, backend: int) -> None:
        """Note a COMMIT that got no answer.

        :param backend: the process id of the server's backend.
        """
        self._backends = (*self._backends, backend)
        self._next_try = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def clear(self) -> None:
        """Note a COMMIT that was answered."""
        self._backends = ()
        self._pause = _FIRST_PAUSE

    def must_wait(self, connection: Connection) -> bool:
        """Return whether it is too early to try again. It isn't if no backend waits any more, or
        the connection leads to another server."""
        if not self._backends or time.monotonic() >= self._next_try:
            return False
        return self._look(connection)[0]

    def is_in_vain(self, connection: Connection) -> bool:
        """Return whether a COMMIT now would get no answer, as far as is known: a standby is still
        away, or it is too early to try again."""
        if not self._backends:
            return False
        busy, standby_is_away = self._look(connection)
        return standby_is_away or (busy and time.monotonic() < self._next_try)

    def _look(self, connection: Connection) -> tuple[bool, bool]:
        ((busy, standby_is_away),) = connection.select(_BUSY, (list(self._backends),))
        return busy, standby_is_away

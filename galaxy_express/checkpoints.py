"""Checkpoints: what was committed is moved from a log to where it belongs.

SQLite makes one within the commit after which its log is too long, and every other commit
waits, the longer the more packages there are. So most of it is moved beside the commits,
a little at a time, and what is left for that one is little.
"""

import time

import gevent
from gevent.event import AsyncResult

from galaxy_express.database import Database

INTERVAL_SECONDS = 0.25


class Checkpoints:
    """Has a database make checkpoints while it is written to, in a thread beside the event loop.

    All calls must come from one event loop.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._due = 0.0
        self._latest: AsyncResult | None = None

    def note_commit(self) -> None:
        """Begin a checkpoint, unless the latest has only just begun or is still under way."""
        now = time.monotonic()
        if now < self._due or not (self._latest is None or self._latest.ready()):
            return
        self._due = now + INTERVAL_SECONDS
        self._latest = gevent.get_hub().threadpool.spawn(self._database.checkpoint)

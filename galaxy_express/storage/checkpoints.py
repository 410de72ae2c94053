"""Checkpoints: what was committed is moved from a log to where it belongs.

SQLite makes one within the commit after which its log is too long, and every other commit
waits, the longer the more packages there are. So most of it is moved beside the commits,
a little at a time, and what is left for that one is little.
"""

import time

from galaxy_express.storage.database import Database
from galaxy_express.worker_thread import WorkerThread

INTERVAL_SECONDS = 0.25


class Checkpoints:
    """Has a database make checkpoints after commits, in a thread of their own.

    All calls must come from one event loop.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._thread = WorkerThread()
        self._under_way = False
        self._due = 0.0

    def note_commit(self) -> None:
        """Begin a checkpoint, unless the latest has only just begun or is still under way."""
        now = time.monotonic()
        if now >= self._due and not self._under_way:
            self._under_way = True
            self._due = now + INTERVAL_SECONDS
            self._thread.submit(self._database.checkpoint, self._finish)

    def _finish(self, result: BaseException | None) -> None:
        self._under_way = False

    def close(self) -> None:
        """End the thread, after the checkpoint that is under way."""
        self._thread.close()

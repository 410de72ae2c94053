"""Checkpoints: copy committed pages from the write-ahead log into the database file.

By default SQLite checkpoints inside the commit that overflows the log, while all other commits
wait, and the more packages there are, the longer it takes. So most of the work is done here, in
small portions concurrently with commits, which leaves little for that checkpoint.
"""

import logging
import time

from galaxy_express import metrics
from galaxy_express.storage.database import Database, DatabaseUnavailable
from galaxy_express.worker_thread import WorkerThread

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.25


class Checkpoints:
    """Runs checkpoints after commits, in a worker thread.

    A checkpoint that fails is counted, and retried after the next commit. Only the first of
    consecutive failures is logged. All calls must come from one event loop.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._thread = WorkerThread()
        self._running = False
        self._due = 0.0
        self._failures = 0

    def is_waiting(self) -> bool:
        """Return whether a checkpoint is running or has just been started."""
        return self._running or time.monotonic() < self._due

    def note_commit(self) -> None:
        """Start a checkpoint, unless one is running or has just been started."""
        if not self.is_waiting():
            self._running = True
            self._due = time.monotonic() + INTERVAL_SECONDS
            self._thread.submit(self._database.checkpoint, self._finish)

    def _finish(self, result: BaseException | None) -> None:
        self._running = False
        if result is not None:
            self._failures += 1
            metrics.count_checkpoint_failure()
            if self._failures == 1:
                # The reads and writes that need the database report that it is unavailable.
                level = (
                    logging.WARNING if isinstance(result, DatabaseUnavailable) else logging.ERROR
                )
                logger.log(level, "Checkpoints fail, and the log grows: %s", result)
        elif self._failures:
            logger.info("Checkpoints succeed again, after %s failures", self._failures)
            self._failures = 0

    def close(self) -> None:
        """Stop the worker thread after its current checkpoint."""
        self._thread.close()

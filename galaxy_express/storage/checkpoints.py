"""Checkpoints: copy committed pages from the write-ahead log into the database file.

By default SQLite runs a checkpoint in the commit that exceeds the size limit of the log, while all
other commits wait, and it takes longer the more packages there are. So most of the work is done
here, in small portions concurrently with commits, which leaves little for that checkpoint.

A long read, such as a backup, prevents SQLite from reusing the log from its start, so the log grows
until the read ends. Later commits shrink it; if there are none, it is truncated here.
"""

import logging
import time
from collections.abc import Callable

import gevent

from galaxy_express import metrics
from galaxy_express.storage.database import Database
from galaxy_express.storage.errors import DatabaseUnavailable
from galaxy_express.worker_thread import WorkerThread

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.25

# After this time without commits, the log is truncated if it is too large.
IDLE_SECONDS = 5


class Checkpoints:
    """Runs checkpoints after commits, and truncates the log when idle, in a worker thread.

    A checkpoint that fails is counted, and retried after the next commit. Only the first of
    consecutive failures is logged. All calls must come from one event loop.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._thread = WorkerThread()
        self._running = False
        self._due = 0.0
        self._failures = 0
        self._timer = gevent.get_hub().loop.timer(IDLE_SECONDS, IDLE_SECONDS, ref=False)
        self._timer.start(self._shrink_if_idle)

    def is_waiting(self) -> bool:
        """Return whether a checkpoint is running or has just been started."""
        return self._running or time.monotonic() < self._due

    def note_commit(self) -> None:
        """Start a checkpoint, unless one is running or has just been started."""
        if not self.is_waiting():
            self._start(self._database.checkpoint)

    def _shrink_if_idle(self) -> None:
        if not self._running and time.monotonic() > self._due + IDLE_SECONDS:
            self._start(self._database.shrink_log)

    def _start(self, work: Callable[[], None]) -> None:
        self._running = True
        self._due = time.monotonic() + INTERVAL_SECONDS
        self._thread.submit(work, self._finish)

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
        self._timer.close()
        self._thread.close()

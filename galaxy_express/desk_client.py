"""The delivery desk for requests: with a queue, spans and metrics."""

import copy
import logging
from collections import Counter as Tally
from collections.abc import Collection, Hashable, Sequence
from contextlib import nullcontext
from datetime import timedelta

import gevent
from baseplate import Span
from baseplate.clients import ContextFactory
from baseplate.lib import config

from galaxy_express import metrics
from galaxy_express.delivery import Conflict, Decision, Package, SendOutcome, replay
from galaxy_express.desk import (
    CountersLocked,
    DeliveryDesk,
    Rehearsal,
    SendRequest,
    UpdateRequest,
    WriteRequest,
)
from galaxy_express.group_commit import GroupCommit
from galaxy_express.package_types import PackageTypeRegistry
from galaxy_express.preferences import PreferenceUpdate, UpdatedPreferences
from galaxy_express.settings import DatabaseSettings, DeskSettings, read_section
from galaxy_express.shared_lookups import SharedLookups
from galaxy_express.storage import queries
from galaxy_express.storage.checkpoints import Checkpoints
from galaxy_express.storage.database import Connection, Database
from galaxy_express.storage.errors import Blocked, DatabaseUnavailable, NotRecorded
from galaxy_express.tracing import child_span

logger = logging.getLogger(__name__)

# How long a group waits for a lock, while all other groups wait for it: at first, and on retries.
FIRST_WAIT = timedelta(milliseconds=50)
NEXT_WAIT = timedelta(milliseconds=20)

# How many seconds a request that only reads waits for a write.
_SHORT_WAIT = 1.0


class DeskClient:
    """The delivery desk on the context of a request, with a child span per operation."""

    def __init__(
        self,
        database: Database,
        queue: GroupCommit[WriteRequest],
        lookups: "_Lookups",
        name: str,
        span: Span,
    ) -> None:
        self._database = database
        self._queue = queue
        self._lookups = lookups
        self._name = name
        self._span = span

    def send(self, package: Package) -> SendOutcome:
        """Decide a package, or find its earlier decision.

        :raises galaxy_express.storage.errors.DatabaseUnavailable: nothing was recorded.
        :raises galaxy_express.group_commit.Overloaded: as above, or the outcome is unknown.
        """
        with child_span(self._span, f"{self._name}.send") or nullcontext():
            outcome = self._find_replay(package)
            if outcome is None:
                (outcome,) = self._submit(SendRequest([package]))
            metrics.count_sends(*_series(package, outcome), 1)
            return outcome

    def find(self, package_id: str) -> Decision | None:
        """Find the decision on a package; ``None`` if it is unknown.

        :raises galaxy_express.storage.errors.DatabaseUnavailable: if it can't be read.
        """
        with child_span(self._span, f"{self._name}.find") or nullcontext():
            return self._lookups.find(package_id)[0]

    def _find_replay(self, package: Package) -> SendOutcome | None:
        # Answer retries from a read, so that they skip the write queue.
        earlier, is_confirmed = self._lookups.find(package.package_id)
        if earlier is None or not package.is_retry_of(earlier.package):
            return None
        if not is_confirmed:
            self._submit(SendRequest())  # a later commit confirms it
            earlier, is_confirmed = self._lookups.find(package.package_id)
            if earlier is None or not is_confirmed:
                return None
        return replay(package, earlier)

    def send_batch(self, packages: Sequence[Package], rejected: int) -> list[SendOutcome]:
        """Decide packages, in order.

        :param rejected: how many items of the batch were rejected, to be counted.
        :raises: the same exceptions as :py:meth:`send`.
        """
        with child_span(self._span, f"{self._name}.send_batch") or nullcontext():
            outcomes = self._submit(SendRequest(packages, rejected))
            for series, number in Tally(map(_series, packages, outcomes)).items():
                metrics.count_sends(*series, number)
            if rejected:
                metrics.count_rejected(rejected)
            return outcomes

    def reject(self) -> None:
        """Count a send request that was rejected.

        :raises: the same exceptions as :py:meth:`send`.
        """
        with child_span(self._span, f"{self._name}.reject") or nullcontext():
            self._submit(SendRequest(rejected=1))
            metrics.count_rejected(1)

    def check(self, connection: Connection) -> None:
        """Check that writes can be recorded: without writing, unless the last commits failed.

        :param connection: a connection to read from.
        :raises galaxy_express.storage.errors.DatabaseUnavailable: if they can't.
        :raises galaxy_express.group_commit.Overloaded: if a commit takes too long.
        """
        queries.check_schema(connection)
        self._database.check_commits(connection)
        self._queue.check()
        if self._queue.failure is not None:
            self._rehearse(self._queue.failure)

    def _rehearse(self, failure: Exception) -> None:
        """Write without an effect. An instance that isn't ready gets no sends, so only this shows
        that writes succeed again."""
        with gevent.Timeout(_SHORT_WAIT, copy.copy(failure)):
            self._queue.submit(Rehearsal())

    def confirm(self, connection: Connection) -> None:
        """Make sure that everything a connection shows is permanent: no failover undoes it.

        :param connection: a connection to read from.
        :raises galaxy_express.storage.errors.DatabaseUnavailable: if that isn't known soon.
        :raises galaxy_express.group_commit.Overloaded: as above.
        """
        if connection.is_confirmed():
            return
        # Briefly, since the connection stays in use meanwhile.
        with gevent.Timeout(_SHORT_WAIT, DatabaseUnavailable("no commit confirms what is read")):
            self._submit(SendRequest())
        if not connection.is_confirmed():
            raise DatabaseUnavailable("reads and writes reach different servers")

    def _submit(self, request: SendRequest) -> list[SendOutcome]:
        self._queue.submit(request)
        return request.outcomes

    def update_preferences(self, update: PreferenceUpdate) -> UpdatedPreferences:
        """Record a recipient's preferences, unless newer ones are current.

        :raises: the same exceptions as :py:meth:`send`.
        """
        with child_span(self._span, f"{self._name}.update_preferences") or nullcontext():
            request = UpdateRequest(update)
            self._queue.submit(request)
            metrics.count_preference_update(request.result.applied)
            return request.result


#: Decisions by package id, and whether they are confirmed.
_Lookups = SharedLookups[str, tuple[Decision | None, bool]]


def _look_up(database: Database) -> _Lookups:
    def find_one(package_id: str) -> tuple[Decision | None, bool]:
        with database.read_connection() as connection:
            return queries.find_decision(connection, package_id), connection.is_confirmed()

    def find_many(package_ids: Collection[str]) -> dict[str, tuple[Decision | None, bool]]:
        with database.read_connection() as connection:
            found = queries.find_decisions(connection, package_ids)
            is_confirmed = connection.is_confirmed()
        return {package_id: (found.get(package_id), is_confirmed) for package_id in package_ids}

    return SharedLookups(find_one, find_many)


def _keys(request: WriteRequest) -> Sequence[Hashable]:
    """The keys of the rows that a request writes, for which it may be blocked."""
    if isinstance(request, UpdateRequest):
        return [("recipient", request.update.recipient_id)]
    return [("package", package.package_id) for package in request.packages]


def _series(package: Package, outcome: SendOutcome) -> tuple[str, str]:
    """Return the outcome and the package type to count, and log conflicts."""
    if isinstance(outcome, Conflict):
        logger.debug(
            "Package %r from sender %r conflicts with an earlier package of the same id",
            package.package_id,
            package.sender_id,
        )
        return "conflicting", package.package_type
    if outcome.replayed:
        return "replayed", package.package_type
    return outcome.decision.status.value, package.package_type


class DeskContextFactory(ContextFactory):
    """Puts a :py:class:`DeskClient` on the context of each request.

    :param app_config: its keys ``desk.*`` limit the queue.
    :raises baseplate.lib.config.ConfigurationError: naming the invalid key.
    """

    def __init__(
        self, app_config: config.RawConfig, database: Database, package_types: PackageTypeRegistry
    ) -> None:
        settings = read_section(app_config, "desk", DeskSettings)
        lock_timeout = read_section(app_config, "database", DatabaseSettings).lock_timeout
        desk = DeliveryDesk(database, package_types)
        self._database = database
        self._lookups = _look_up(database)
        self._checkpoints = Checkpoints(database)
        self._queue: GroupCommit[WriteRequest] = GroupCommit(
            lambda requests: desk.commit(requests, min(FIRST_WAIT, lock_timeout)),
            shared_errors=DatabaseUnavailable,
            single_errors=(NotRecorded, Blocked),
            max_group=settings.max_group,
            max_queued=settings.max_queued,
            timeout=settings.timeout,
            on_commit=self._checkpoints.note_commit,
            blocked_errors=(Blocked, CountersLocked),
            keys=_keys,
            commit_again=lambda requests: desk.commit(requests, min(NEXT_WAIT, lock_timeout)),
            patience=lock_timeout,
        )

    def make_object_for_context(self, name: str, span: Span) -> DeskClient:
        """See :py:class:`baseplate.clients.ContextFactory`."""
        return DeskClient(self._database, self._queue, self._lookups, name, span)

    def close(self) -> None:
        """Stop the worker threads after their current calls."""
        self._queue.close()
        self._checkpoints.close()

"""The delivery desk: decides packages and records everything, in one transaction per group.

Every write goes through here. The desk reads the stored state, decides in the order of arrival,
and writes once.
"""

import random
from collections import Counter as Tally
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from galaxy_express.delivery import (
    REJECTED,
    CounterKey,
    Decision,
    Package,
    SendOutcome,
    SendResult,
    decide,
    replay,
)
from galaxy_express.models import from_microseconds
from galaxy_express.package_types import PackageTypeRegistry
from galaxy_express.preferences import (
    Preference,
    Preferences,
    PreferenceUpdate,
    ReceivedUpdate,
    UpdatedPreferences,
    apply_update,
    is_repeat,
)
from galaxy_express.storage import queries
from galaxy_express.storage.database import Connection, Database
from galaxy_express.storage.errors import (
    Blocked,
    DatabaseUnavailable,
    NotRecorded,
    TransactionConflict,
)

# Enough that two writers rarely share a shard; few enough that summing over them is cheap.
SHARDS = 64

# A retry means that the conflicting transaction committed, so some transaction always makes
# progress.
ATTEMPTS = 10

# If this many shards are locked, probably all are.
SHARD_ATTEMPTS = 3


class CountersLocked(DatabaseUnavailable):
    """Another transaction holds a lock on the counters, which every send adds to."""

    def __str__(self) -> str:
        return f"another transaction locks the counters (see pg_stat_activity): {self.args[0]}"


@dataclass(eq=False, slots=True)
class SendRequest:
    """Packages to decide, in order, and the number of items that were already rejected.

    :ivar outcomes: the outcome for each package, once the request is committed.
    """

    packages: Sequence[Package] = ()
    rejected: int = 0
    outcomes: list[SendOutcome] = field(init=False)

    @property
    def size(self) -> int:
        """The number of packages; at least one."""
        return len(self.packages) or 1


@dataclass(eq=False, slots=True)
class UpdateRequest:
    """A preference update to apply.

    :ivar result: the updated preferences, once the request is committed.
    """

    update: PreferenceUpdate
    result: UpdatedPreferences = field(init=False)

    @property
    def size(self) -> int:
        """One: an update counts like a package."""
        return 1


class Rehearsal(SendRequest):
    """A write without an effect, to find out whether writes succeed."""

    __slots__ = ()


WriteRequest = SendRequest | UpdateRequest


class DeliveryDesk:
    """Decides and records, in transactions on a database.

    :ivar shard: which of the ``SHARDS`` rows of each counter it adds to.
    """

    def __init__(self, database: Database, package_types: PackageTypeRegistry) -> None:
        self._database = database
        self._package_types = package_types
        self.shard = random.randrange(SHARDS)

    def commit(
        self, requests: Sequence[WriteRequest], lock_timeout: timedelta | None = None
    ) -> None:
        """Perform all requests, as if one after another, in one transaction.

        Each request then has its result.

        :param lock_timeout: how long to wait for another transaction's lock; by default, the
            database's setting.
        :raises galaxy_express.storage.errors.DatabaseUnavailable: nothing was recorded.
        :raises galaxy_express.storage.errors.NotRecorded: the database doesn't store a row.
        :raises galaxy_express.storage.errors.Blocked: another transaction has a lock.
        :raises CountersLocked: another transaction has a lock that all sends need.
        """
        for attempt in range(1, ATTEMPTS):
            try:
                return self._transact(requests, lock_timeout)
            except CountersLocked:
                self.shard = random.randrange(SHARDS)
                if attempt >= SHARD_ATTEMPTS:
                    raise
            except TransactionConflict:
                continue
        return self._transact(requests, lock_timeout)

    def _transact(self, requests: Sequence[WriteRequest], lock_timeout: timedelta | None) -> None:
        # On SQLite nobody else can write during the transaction, so it only does what it must.
        sends = [request for request in requests if isinstance(request, SendRequest)]
        recipients = _Recipients(requests)
        rows = len(requests) - len(sends) + sum(len(send.packages) for send in sends)
        with self._database.transaction(lock_timeout, rows, recipients.updated) as connection:
            now = from_microseconds(connection.read_clock())
            recipients.load(connection)
            decisions: dict[str, Decision] = {}
            for request in requests:
                if isinstance(request, UpdateRequest):
                    request.result = recipients.apply(request.update, now)
                    continue
                for package in request.packages:
                    if package.package_id not in decisions:
                        decisions[package.package_id] = self._decide(package, recipients, now)

            queries.record_preferences(connection, recipients.changed)
            queries.record_updates(connection, recipients.history)
            new = queries.record_decisions(connection, decisions.values())
            # If another worker has already decided a package, its decision stands.
            earlier = queries.find_decisions(connection, decisions.keys() - new)
            if new | earlier.keys() != decisions.keys():
                raise NotRecorded("packages were not stored; does a trigger leave them out?")
            decisions |= earlier

            totals = _count_decisions(decisions[package_id] for package_id in new)
            rejected = sum(send.rejected + _count_conflicts(send, decisions) for send in sends)
            if rejected or any(isinstance(send, Rehearsal) for send in sends):
                totals[REJECTED] = rejected
            try:
                queries.add_to_totals(connection, self.shard, totals)
            except Blocked as error:
                raise CountersLocked(str(error)) from error

        unclaimed = new  # packages without a result so far
        for send in sends:
            send.outcomes = [_claim(package, decisions, unclaimed) for package in send.packages]

    def _decide(self, package: Package, recipients: "_Recipients", now: datetime) -> Decision:
        preference = recipients.preferences[package.recipient_id].get(package.package_type)
        package_type = self._package_types[package.package_type]
        if preference is None:
            return decide(package, package_type.is_wanted(None), None, now)
        wanted = package_type.is_wanted(preference.wanted)
        return decide(package, wanted, preference.timestamp, now)


class _Recipients:
    """The current preferences of a group's recipients, while its updates are applied.

    :ivar updated: the recipients whose preferences are updated.
    :ivar preferences: the current preferences, by recipient.
    :ivar changed: the preferences that the updates have changed, by recipient and type.
    :ivar history: the updates, except those that only repeated what was current.
    """

    def __init__(self, requests: Iterable[WriteRequest]) -> None:
        self._addressed: set[str] = set()
        self.updated: set[str] = set()
        for request in requests:
            if isinstance(request, UpdateRequest):
                self.updated.add(request.update.recipient_id)
            else:
                self._addressed.update(package.recipient_id for package in request.packages)
        self.preferences: dict[str, Preferences] = {}
        self.changed: dict[tuple[str, str], Preference] = {}
        self.history: list[ReceivedUpdate] = []

    def load(self, connection: Connection) -> None:
        """Read the preferences. Nobody else updates those of ``updated``, which are locked."""
        recipient_ids = self._addressed | self.updated
        self.preferences.update(queries.find_preferences(connection, recipient_ids))

    def apply(self, update: PreferenceUpdate, now: datetime) -> UpdatedPreferences:
        """Apply an update to the preferences of its recipient."""
        before = self.preferences[update.recipient_id]
        result = apply_update(update, before)
        self.preferences[update.recipient_id] = result.preferences
        for package_type, preference in result.preferences.items():
            if preference != before.get(package_type):
                self.changed[update.recipient_id, package_type] = preference
        if not is_repeat(update, before):
            self.history.append(ReceivedUpdate(update, now, result.applied))
        return result


def _claim(package: Package, decisions: dict[str, Decision], unclaimed: set[str]) -> SendOutcome:
    """Return the outcome of a send. The first send gets the new decision; others are retries."""
    decision = decisions[package.package_id]
    if package.package_id not in unclaimed:
        return replay(package, decision)
    unclaimed.remove(package.package_id)
    return SendResult(decision, replayed=False)


def _count_decisions(decisions: Iterable[Decision]) -> Tally[CounterKey]:
    return Tally((decision.status.value, decision.package.package_type) for decision in decisions)


def _count_conflicts(send: SendRequest, decisions: dict[str, Decision]) -> int:
    conflicts = 0
    for package in send.packages:
        decided = decisions[package.package_id].package
        if decided is not package and not package.is_retry_of(decided):
            conflicts += 1
    return conflicts

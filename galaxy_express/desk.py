"""The delivery desk: where packages are decided of, and everything is recorded.

All that changes anything takes this road: requests that arrive together form a group;
the desk reads what is known, decides in the order of arrival, and writes once, in one
transaction.
"""

import logging
import random
from collections import Counter as Tally
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

from baseplate import Span
from baseplate.clients import ContextFactory
from baseplate.lib import config

from galaxy_express import metrics
from galaxy_express.delivery import (
    Conflict,
    Decision,
    Package,
    SendOutcome,
    SendResult,
    decide,
    replay,
)
from galaxy_express.group_commit import GroupCommit
from galaxy_express.package_types import PackageTypeRegistry
from galaxy_express.preferences import (
    Preference,
    Preferences,
    PreferenceUpdate,
    UpdatedPreferences,
    apply_update,
)
from galaxy_express.settings import parse_settings, positive_integer
from galaxy_express.storage import queries
from galaxy_express.storage.checkpoints import Checkpoints
from galaxy_express.storage.database import Connection, Database, TransactionConflict

logger = logging.getLogger(__name__)

# Enough that two writers seldom share one; few enough that a sum over them costs nothing.
SHARDS = 64

# Each time that a transaction has to be run again, the one that it met has got through.
ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class SendRequest:
    """Packages to decide of, in order, and how many more were refused beside them."""

    packages: Sequence[Package] = ()
    refused: int = 0


Write = SendRequest | PreferenceUpdate
Answer = list[SendOutcome] | UpdatedPreferences


class DeliveryDesk:
    """Decides and records, in transactions on a database."""

    def __init__(self, database: Database, package_types: PackageTypeRegistry) -> None:
        self._database = database
        self._package_types = package_types
        self._shard = random.randrange(SHARDS)

    def commit(self, writes: Sequence[Write]) -> list[Answer]:
        """Do all of the writes, as one after the other, in one transaction.

        :returns: the answer to each: to a submission an outcome for each of its
            packages, to an update the preferences in force.
        :raises galaxy_express.storage.database.DatabaseUnavailable: nothing was recorded.
        """
        for _ in range(ATTEMPTS - 1):
            try:
                return self._transact(writes)
            except TransactionConflict:
                continue
        return self._transact(writes)

    def _transact(self, writes: Sequence[Write]) -> list[Answer]:
        group = _Group(self._package_types, writes)
        with self._database.transaction() as connection:
            group.read(connection)
            group.decide()
            group.record(connection)
            answers = group.answers()
            totals = group.totals(answers)
            queries.add_to_totals(connection, self._shard, totals)
        return answers


class _Group:
    """What is known of the packages and recipients of a group of writes, and changes by it."""

    def __init__(self, package_types: PackageTypeRegistry, writes: Sequence[Write]) -> None:
        self._package_types = package_types
        self._writes = writes
        self._wanted: dict[tuple[str, str], bool] = {}
        self._preferences: dict[str, Preferences] = {}
        self._changed: dict[tuple[str, str], Preference] = {}
        self._updated: deque[UpdatedPreferences] = deque()
        self._decisions: dict[str, Decision] = {}
        self._new: set[str] = set()

    def read(self, connection: Connection) -> None:
        """Find out what is in force, and keep others from changing it."""
        recipients: set[str] = set()
        updated: set[str] = set()
        for write in self._writes:
            if isinstance(write, PreferenceUpdate):
                updated.add(write.recipient_id)
            else:
                recipients.update(package.recipient_id for package in write.packages)
        if updated:
            connection.lock(updated)
        self._preferences |= queries.find_preferences(connection, updated)
        self._wanted |= queries.find_wanted(connection, recipients)

    def decide(self) -> None:
        """Decide of each write, knowing those before it."""
        for write in self._writes:
            if isinstance(write, PreferenceUpdate):
                self._update(write)
                continue
            for package in write.packages:
                if package.package_id not in self._decisions:
                    decision = decide(package, self._is_wanted(package))
                    self._decisions[package.package_id] = decision

    def _is_wanted(self, package: Package) -> bool:
        said = self._wanted.get((package.recipient_id, package.package_type))
        return self._package_types[package.package_type].is_wanted(said)

    def _update(self, update: PreferenceUpdate) -> None:
        before = self._preferences[update.recipient_id]
        answer = apply_update(update, before)
        self._preferences[update.recipient_id] = answer.preferences
        self._updated.append(answer)
        for package_type, preference in answer.preferences.items():
            if preference != before.get(package_type):
                self._changed[update.recipient_id, package_type] = preference
                self._wanted[update.recipient_id, package_type] = preference.wanted

    def record(self, connection: Connection) -> None:
        """Write what is new. Where a package was decided of before, by whomever, that
        decision takes the place of ours."""
        queries.record_preferences(connection, self._changed)
        self._new = queries.record_decisions(connection, self._decisions.values())
        known = self._decisions.keys() - self._new
        self._decisions |= queries.find_decisions(connection, known)

    def answers(self) -> list[Answer]:
        """The answer to each write."""
        untold = set(self._new)
        answers: list[Answer] = []
        for write in self._writes:
            if isinstance(write, PreferenceUpdate):
                answers.append(self._updated.popleft())
                continue
            outcomes: list[SendOutcome] = []
            for package in write.packages:
                decision = self._decisions[package.package_id]
                if package.package_id in untold:
                    untold.remove(package.package_id)
                    outcomes.append(SendResult(decision, replayed=False))
                else:
                    outcomes.append(replay(package, decision))
            answers.append(outcomes)
        return answers

    def totals(self, answers: Iterable[Answer]) -> Tally[queries.CounterKey]:
        """How much each counter moves."""
        new = map(self._decisions.__getitem__, self._new)
        totals = Tally((decision.status.value, decision.package.package_type) for decision in new)
        rejected = sum(write.refused for write in self._writes if isinstance(write, SendRequest))
        for answer in answers:
            if isinstance(answer, list):
                rejected += sum(isinstance(outcome, Conflict) for outcome in answer)
        if rejected:
            totals[queries.REJECTED] = rejected
        return totals


class DeskClient:
    """The delivery desk as a request sees it, with a span for each thing that it does."""

    def __init__(
        self, database: Database, queue: GroupCommit[Write, Answer], name: str, span: Span
    ) -> None:
        self._database = database
        self._queue = queue
        self._name = name
        self._span = span

    def send(self, package: Package) -> SendOutcome:
        """Decide of a package, or find out what was decided.

        :raises galaxy_express.storage.database.DatabaseUnavailable: nothing was recorded.
        :raises galaxy_express.group_commit.Overloaded: as above, or the outcome is unknown.
        """
        with self._span.make_child(f"{self._name}.send"):
            outcome = self._find_replay(package)
            if outcome is None:
                (outcome,) = self._submit(SendRequest([package]))
            _count(package, outcome)
            return outcome

    def _find_replay(self, package: Package) -> SendOutcome | None:
        # A retry doesn't queue with what is to be written.
        with self._database.read_connection() as connection:
            earlier = queries.find_decision(connection, package.package_id)
        if earlier is None or not package.is_retry_of(earlier.package):
            return None
        return replay(package, earlier)

    def send_batch(self, packages: Sequence[Package], refused: int) -> list[SendOutcome]:
        """Decide of packages, in order.

        :param refused: how many items of the batch were refused, to be counted.
        :raises: what :py:meth:`send` raises.
        """
        with self._span.make_child(f"{self._name}.send_batch"):
            outcomes = self._submit(SendRequest(packages, refused))
            for package, outcome in zip(packages, outcomes, strict=True):
                _count(package, outcome)
            for _ in range(refused):
                metrics.count_send("rejected")
            return outcomes

    def refuse(self) -> None:
        """Count a request that was refused.

        :raises: what :py:meth:`send` raises.
        """
        with self._span.make_child(f"{self._name}.refuse"):
            self._submit(SendRequest(refused=1))
            metrics.count_send("rejected")

    def _submit(self, submission: SendRequest) -> list[SendOutcome]:
        return cast(list[SendOutcome], self._queue.submit(submission))

    def update_preferences(self, update: PreferenceUpdate) -> UpdatedPreferences:
        """Record a recipient's preferences, unless newer ones are in force.

        :raises: what :py:meth:`send` raises.
        """
        with self._span.make_child(f"{self._name}.update_preferences"):
            updated = cast(UpdatedPreferences, self._queue.submit(update))
            metrics.count_preference_update(updated.applied)
            return updated


def _count(package: Package, outcome: SendOutcome) -> None:
    if isinstance(outcome, Conflict):
        metrics.count_send("conflicting", package.package_type)
        logger.warning(
            "Package %r of sender %r is in conflict with an earlier one of the same id",
            package.package_id,
            package.sender_id,
        )
    elif outcome.replayed:
        metrics.count_send("replayed", package.package_type)
    else:
        metrics.count_send(outcome.decision.status.value, package.package_type)


class DeskContextFactory(ContextFactory):
    """Puts a :py:class:`DeskClient` on the context of each request.

    :param app_config: its keys ``desk.*`` are the limits of the queue.
    :raises baseplate.lib.config.ConfigurationError: naming the key that is wrong.
    """

    def __init__(
        self, app_config: config.RawConfig, database: Database, package_types: PackageTypeRegistry
    ) -> None:
        settings = parse_settings(
            app_config,
            "desk",
            {
                "max_group": config.Optional(positive_integer, 1000),
                "max_queued": config.Optional(positive_integer, 10_000),
                "timeout": config.Optional(config.Timespan, timedelta(seconds=10)),
            },
        )
        self._database = database
        self._checkpoints = Checkpoints(database)
        self._queue: GroupCommit[Write, Answer] = GroupCommit(
            DeliveryDesk(database, package_types).commit,
            weigh=lambda write: max(1, len(getattr(write, "packages", ()))),
            max_group=settings.max_group,
            max_queued=settings.max_queued,
            timeout=settings.timeout,
            after_commit=self._checkpoints.note_commit,
        )

    def make_object_for_context(self, name: str, span: Span) -> DeskClient:
        """See :py:class:`baseplate.clients.ContextFactory`."""
        return DeskClient(self._database, self._queue, name, span)

    def close(self) -> None:
        """End the threads, after what they are doing."""
        self._queue.close()
        self._checkpoints.close()

"""Queries and writes for decisions, preferences and totals; converts rows and domain values."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

from galaxy_express.delivery import CounterKey, Decision, Package, Status
from galaxy_express.models import from_microseconds, to_microseconds
from galaxy_express.preferences import Preference, PreferenceUpdate, ReceivedUpdate
from galaxy_express.storage.database import LAST_SEQUENCE, Connection, Pages
from galaxy_express.storage.errors import NotRecorded, TransactionConflict

Item = TypeVar("Item")


class PageRequest(NamedTuple):
    """The page of a list to read.

    :param after: the sequence number of the last item of the previous page, if any.
    :param limit: the largest number of items.
    """

    ascending: bool
    after: int | None
    limit: int


@dataclass(frozen=True)
class Page(Generic[Item]):
    """A page of a list.

    :param last: the sequence number of the last item; ``None`` if there are no items.
    :param more: whether there are further items.
    """

    items: list[Item]
    last: int | None
    more: bool


#: Each counter's outcome, package type and total.
TOTALS = "SELECT outcome, package_type, sum(value) FROM counters GROUP BY outcome, package_type"

# Names every column of every table, and reads no rows.
_CHECK_SCHEMA = """
SELECT EXISTS (SELECT sequence, package_id, sender_id, recipient_id, package_type, timestamp,
                      status, decided_at, declined_at
               FROM packages),
       EXISTS (SELECT sequence, recipient_id, timestamp, received_at, wanted, applied
               FROM preference_updates),
       EXISTS (SELECT recipient_id, package_type, wanted, timestamp FROM preferences),
       EXISTS (SELECT shard, outcome, package_type, value FROM counters)
"""


def find_decision(connection: Connection, package_id: str) -> Decision | None:
    """Return the decision on a package; ``None`` if it is unknown."""
    rows = connection.select(connection.statements.find_decision, (package_id,))
    return _decision(rows[0]) if rows else None


def find_decisions(connection: Connection, package_ids: Collection[str]) -> dict[str, Decision]:
    """Return the decisions on the packages that are known, by package id."""
    if not package_ids:
        return {}
    rows = connection.find(connection.statements.find_decisions, package_ids)
    decisions = map(_decision, rows)
    return {decision.package.package_id: decision for decision in decisions}


def _decision(row: Sequence[Any]) -> Decision:
    (
        package_id,
        sender_id,
        recipient_id,
        package_type,
        timestamp,
        status,
        decided_at,
        declined_at,
    ) = row
    sent = from_microseconds(timestamp)
    package = Package(package_id, sender_id, recipient_id, package_type, sent)
    return Decision(package, Status(status), _moment(decided_at), _moment(declined_at))


def _moment(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else from_microseconds(microseconds)


def _microseconds(moment: datetime | None) -> int | None:
    return None if moment is None else to_microseconds(moment)


def record_decisions(connection: Connection, decisions: Iterable[Decision]) -> set[str]:
    """Record new decisions.

    :returns: the ids of the packages whose decisions were recorded. Any other package was
        decided before, and that decision stands.
    :raises galaxy_express.storage.errors.NotRecorded: if the database stores other values.
    """
    rows = [
        (
            package.package_id,
            package.sender_id,
            package.recipient_id,
            package.package_type,
            to_microseconds(package.timestamp),
            decision.status.value,
            _microseconds(decision.decided_at),
            _microseconds(decision.declined_at),
        )
        for decision in decisions
        for package in [decision.package]
    ]
    return connection.insert_packages(rows) if rows else set()


def find_preferences(
    connection: Connection, recipient_ids: Collection[str]
) -> dict[str, dict[str, Preference]]:
    """Return the current preferences of recipients, by recipient and package type."""
    found: dict[str, dict[str, Preference]] = {recipient: {} for recipient in recipient_ids}
    if found:
        rows = connection.find(connection.statements.find_preferences, found)
        for recipient_id, package_type, wanted, timestamp in rows:
            preference = Preference(bool(wanted), from_microseconds(timestamp))
            found[recipient_id][package_type] = preference
    return found


def record_preferences(
    connection: Connection, changed: Mapping[tuple[str, str], Preference]
) -> None:
    """Record preferences that have become current, by recipient and package type.

    :raises galaxy_express.storage.errors.TransactionConflict: if another transaction has
        recorded preferences that supersede these.
    :raises galaxy_express.storage.errors.NotRecorded: if the database leaves any out.
    """
    rows = [
        (recipient_id, package_type, preference.wanted, to_microseconds(preference.timestamp))
        for (recipient_id, package_type), preference in changed.items()
    ]
    if rows and connection.upsert(connection.statements.upsert_preferences, rows) != len(rows):
        stored = find_preferences(connection, {recipient_id for recipient_id, _ in changed})
        for (recipient_id, package_type), preference in changed.items():
            if preference.supersedes(stored[recipient_id].get(package_type)):
                raise NotRecorded("preferences were not stored; does a trigger leave them out?")
        raise TransactionConflict("another transaction has recorded newer preferences")


def record_updates(connection: Connection, updates: Iterable[ReceivedUpdate]) -> None:
    """Record preference updates in the history, in the order given.

    :raises galaxy_express.storage.errors.NotRecorded: if the database leaves any out.
    """
    rows = [
        (
            received.update.recipient_id,
            to_microseconds(received.update.timestamp),
            to_microseconds(received.received_at),
            json.dumps(dict(received.update.wanted)),
            received.applied,
        )
        for received in updates
    ]
    if rows and connection.insert_updates(rows) != len(rows):
        raise NotRecorded("preference updates were not stored; does a trigger leave them out?")


def delete_preferences(connection: Connection, recipient_id: str) -> None:
    """Delete all preferences of a recipient, and their history."""
    connection.execute(connection.statements.delete_preferences, (recipient_id,))
    connection.execute(connection.statements.delete_updates, (recipient_id,))


def find_decisions_page(
    connection: Connection, recipient_id: str | None, page: PageRequest
) -> Page[Decision]:
    """Return decisions in commit order, or in reverse.

    :param recipient_id: the recipient of the packages; ``None`` for all.
    """
    statements = connection.statements
    pages = statements.page_of_all if recipient_id is None else statements.page_of_recipient
    return _find_page(connection, pages, recipient_id, page, _decision)


def find_feed_position(connection: Connection) -> int:
    """Return the sequence number after which the feed continues from now on.

    Every decision up to it is committed, and every one that commits later has a larger number. Some
    larger ones may be committed already: the feed has them once they are settled.
    """
    # The newest settled decision: SQLite's last settled number is larger than all future ones.
    before = min(connection.last_settled(), LAST_SEQUENCE - 1) + 1
    page = PageRequest(ascending=False, after=before, limit=1)
    return find_decisions_page(connection, None, page).last or 0


def find_updates_page(
    connection: Connection, recipient_id: str, page: PageRequest
) -> Page[ReceivedUpdate]:
    """Return a recipient's preference updates in commit order, or in reverse."""
    pages = connection.statements.page_of_updates
    return _find_page(connection, pages, recipient_id, page, _received_update)


def _received_update(row: Sequence[Any]) -> ReceivedUpdate:
    recipient_id, timestamp, received_at, wanted, applied = row
    update = PreferenceUpdate(recipient_id, from_microseconds(timestamp), json.loads(wanted))
    return ReceivedUpdate(update, from_microseconds(received_at), bool(applied))


def _find_page(
    connection: Connection,
    pages: Pages,
    recipient_id: str | None,
    request: PageRequest,
    parse: Callable[[Sequence[Any]], Item],
) -> Page[Item]:
    # Read one more row than requested, to find out whether another page follows.
    values: dict[str, object] = {"recipient_id": recipient_id, "limit": request.limit + 1}
    if request.ascending:
        values |= {"after": request.after or 0, "settled": connection.last_settled()}
        rows = connection.select(pages.ascending, values)
    else:
        values["after"] = LAST_SEQUENCE if request.after is None else request.after
        rows = connection.select(pages.descending, values)
    shown = rows[: request.limit]
    return Page([parse(row[1:]) for row in shown], shown[-1][0] if shown else None, rows != shown)


def add_to_totals(connection: Connection, shard: int, increments: Mapping[CounterKey, int]) -> None:
    """Add to counters, in the same transaction as the rows that they count.

    :param shard: the writer's shard.
    :raises galaxy_express.storage.errors.NotRecorded: if the database leaves any out.
    """
    rows = [(shard, *key, increment) for key, increment in increments.items()]
    if rows and connection.upsert(connection.statements.upsert_counters, rows) != len(rows):
        raise NotRecorded("counters were not stored; does a trigger leave them out?")


def read_totals(connection: Connection) -> dict[CounterKey, int]:
    """Return the total of each counter. Counters that were never incremented are absent."""
    return as_totals(connection.select(TOTALS))


def as_totals(rows: Iterable[Any]) -> dict[CounterKey, int]:
    """Convert the rows of :py:data:`TOTALS` to totals."""
    return {(outcome, package_type): int(total) for outcome, package_type, total in rows}


def check_schema(connection: Connection) -> None:
    """Check that the database has all tables and columns, and that they are writable.

    :raises Exception: the driver's, if the query fails, or something is missing.
    :raises galaxy_express.storage.errors.DatabaseUnavailable: if it isn't writable.
    """
    connection.select(_CHECK_SCHEMA)
    connection.check_writable()

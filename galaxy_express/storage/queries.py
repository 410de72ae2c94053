"""Reading and recording decisions, preferences and totals: rows from and to domain values."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from galaxy_express.delivery import CounterKey, Decision, Package, Status
from galaxy_express.models import from_microseconds, to_microseconds
from galaxy_express.preferences import Preference
from galaxy_express.storage.database import Connection, Row

#: Each counter's outcome, package type and total.
TOTALS = "SELECT outcome, package_type, sum(value) FROM counters GROUP BY outcome, package_type"

# Every column of every table; none is read.
_CHECK_SCHEMA = """
SELECT EXISTS (SELECT package_id, sender_id, recipient_id, package_type, timestamp, status
               FROM packages),
       EXISTS (SELECT recipient_id, package_type, wanted, timestamp FROM preferences),
       EXISTS (SELECT shard, outcome, package_type, value FROM counters)
"""


def find_decision(connection: Connection, package_id: str) -> Decision | None:
    """Return the decision on a package; ``None`` if it is unknown."""
    rows = connection.select(connection.statements.find_decision, (package_id,))
    return _decision(rows[0]) if rows else None


def find_decisions(connection: Connection, package_ids: Collection[str]) -> dict[str, Decision]:
    """Return the decisions on those of the packages that are known, by package id."""
    if not package_ids:
        return {}
    rows = connection.find(connection.statements.find_decisions, package_ids)
    decisions = map(_decision, rows)
    return {decision.package.package_id: decision for decision in decisions}


def _decision(row: Row) -> Decision:
    package_id, sender_id, recipient_id, package_type, timestamp, status = row
    sent = from_microseconds(timestamp)
    package = Package(package_id, sender_id, recipient_id, package_type, sent)
    return Decision(package, Status(status))


def record_decisions(connection: Connection, decisions: Iterable[Decision]) -> set[str]:
    """Record new decisions.

    :returns: the ids of the packages whose decision was recorded. Any other package was
        decided before, and that decision stands.
    """
    rows = [
        (
            package.package_id,
            package.sender_id,
            package.recipient_id,
            package.package_type,
            to_microseconds(package.timestamp),
            decision.status.value,
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


def find_wanted(
    connection: Connection, recipient_ids: Collection[str]
) -> dict[tuple[str, str], bool]:
    """Return the current choices of recipients, by recipient and package type: as much of
    :py:func:`find_preferences` as a send needs."""
    if not recipient_ids:
        return {}
    rows = connection.find(connection.statements.find_wanted, recipient_ids)
    return {(recipient_id, name): bool(wanted) for recipient_id, name, wanted in rows}


def record_preferences(
    connection: Connection, changed: Mapping[tuple[str, str], Preference]
) -> None:
    """Record preferences that have become current, by recipient and package type.

    :raises galaxy_express.storage.database.TransactionConflict: if another instance recorded
        one that supersedes one of these in the meantime.
    """
    rows = [
        (recipient_id, package_type, preference.wanted, to_microseconds(preference.timestamp))
        for (recipient_id, package_type), preference in changed.items()
    ]
    if rows:
        connection.upsert(connection.statements.upsert_preferences, rows)


def delete_preferences(connection: Connection, recipient_id: str) -> None:
    """Delete all preferences of a recipient."""
    connection.execute(connection.statements.delete_preferences, (recipient_id,))


def add_to_totals(connection: Connection, shard: int, increments: Mapping[CounterKey, int]) -> None:
    """Add to counters, in the transaction of the rows that they count.

    :param shard: the writer's own, so that no row is a point of contention.
    """
    rows = [(shard, *key, increment) for key, increment in increments.items()]
    if rows:
        connection.upsert(connection.statements.upsert_counters, rows)


def read_totals(connection: Connection) -> dict[CounterKey, int]:
    """Return the total of each counter. A counter that was never added to is absent."""
    return as_totals(connection.select(TOTALS))


def as_totals(rows: Iterable[Any]) -> dict[CounterKey, int]:
    """Convert the rows of :py:data:`TOTALS` to totals."""
    return {(outcome, package_type): int(total) for outcome, package_type, total in rows}


def check_schema(connection: Connection) -> None:
    """Check that the database has every table and column, and that they can be written to.

    :raises Exception: the driver's, if the database can't answer, or something is missing.
    :raises galaxy_express.storage.database.DatabaseUnavailable: if it can't be written to.
    """
    connection.select(_CHECK_SCHEMA)
    connection.check_writable()

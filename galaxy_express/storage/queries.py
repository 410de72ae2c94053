"""How decisions, preferences and totals are read from the tables, and written to them."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sqlalchemy import and_, bindparam, delete, func, or_, select

from galaxy_express import models
from galaxy_express.delivery import CounterKey, Decision, Package, Status
from galaxy_express.models import from_microseconds, to_microseconds
from galaxy_express.preferences import Preference
from galaxy_express.storage.database import Connection, Row, Upsert

_packages = models.packages
_preferences = models.preferences
_counters = models.counters

_one_decision = select(_packages).where(_packages.c.package_id == bindparam("package_id"))
_what_is_wanted = (
    _preferences.c.recipient_id,
    _preferences.c.package_type,
    _preferences.c.wanted,
)
_preference_upsert = Upsert(
    _preferences,
    update=lambda new: {"wanted": new.wanted, "timestamp": new.timestamp},
    # Preference.supersedes, once more, in SQL.
    only_if=lambda new: or_(
        new.timestamp > _preferences.c.timestamp,
        and_(new.timestamp == _preferences.c.timestamp, _preferences.c.wanted, ~new.wanted),
    ),
)
_no_preferences = delete(_preferences).where(
    _preferences.c.recipient_id == bindparam("recipient_id")
)
_counter_upsert = Upsert(_counters, update=lambda new: {"value": _counters.c.value + new.value})

#: Each counter's outcome, package type and total.
TOTALS = select(
    _counters.c.outcome, _counters.c.package_type, func.sum(_counters.c.value)
).group_by(_counters.c.outcome, _counters.c.package_type)

# Every column of every table; none is read.
_CHECK_SCHEMA = """
SELECT EXISTS (SELECT package_id, sender_id, recipient_id, package_type, timestamp, status
               FROM packages),
       EXISTS (SELECT recipient_id, package_type, wanted, timestamp FROM preferences),
       EXISTS (SELECT shard, outcome, package_type, value FROM counters)
"""


def find_decision(connection: Connection, package_id: str) -> Decision | None:
    """The decision on a package, or ``None`` if nothing is known of it."""
    rows = connection.select(_one_decision, (package_id,))
    return _decision(rows[0]) if rows else None


def find_decisions(connection: Connection, package_ids: Collection[str]) -> dict[str, Decision]:
    """The decisions on those of the packages that are known, by their id."""
    if not package_ids:
        return {}
    rows = connection.find(tuple(_packages.c), _packages.c.package_id, package_ids)
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
        decided of before, and that decision stands.
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
    return connection.insert_new(_packages, rows) if rows else set()


def find_preferences(
    connection: Connection, recipient_ids: Collection[str]
) -> dict[str, dict[str, Preference]]:
    """What each of the recipients said, by recipient and name of package type."""
    found: dict[str, dict[str, Preference]] = {recipient: {} for recipient in recipient_ids}
    if found:
        rows = connection.find(tuple(_preferences.c), _preferences.c.recipient_id, found)
        for recipient_id, package_type, wanted, timestamp in rows:
            said = Preference(bool(wanted), from_microseconds(timestamp))
            found[recipient_id][package_type] = said
    return found


def find_wanted(
    connection: Connection, recipient_ids: Collection[str]
) -> dict[tuple[str, str], bool]:
    """Whether a package type is wanted, by recipient and name of package type, where the
    recipient said so: as much of :py:func:`find_preferences` as a send needs."""
    if not recipient_ids:
        return {}
    rows = connection.find(_what_is_wanted, _preferences.c.recipient_id, recipient_ids)
    return {(recipient_id, name): bool(wanted) for recipient_id, name, wanted in rows}


def record_preferences(
    connection: Connection, changed: Mapping[tuple[str, str], Preference]
) -> None:
    """Record preferences that came into force, by recipient and name of package type.

    :raises galaxy_express.storage.database.TransactionConflict: if another instance recorded
        one that supersedes one of these in the meantime.
    """
    rows = [
        (recipient_id, package_type, said.wanted, to_microseconds(said.timestamp))
        for (recipient_id, package_type), said in changed.items()
    ]
    if rows:
        connection.upsert(_preference_upsert, rows)


def delete_preferences(connection: Connection, recipient_id: str) -> None:
    """Delete all preferences of a recipient."""
    connection.execute(_no_preferences, (recipient_id,))


def add_to_totals(connection: Connection, shard: int, increments: Mapping[CounterKey, int]) -> None:
    """Move counters, in the same transaction as the rows that they count.

    :param shard: the writer's own, so that it waits for no other's counters.
    """
    rows = [(shard, *key, increment) for key, increment in increments.items()]
    if rows:
        connection.upsert(_counter_upsert, rows)


def read_totals(connection: Connection) -> dict[CounterKey, int]:
    """Each counter's total. One that never moved is absent."""
    return as_totals(connection.select(TOTALS))


def as_totals(rows: Iterable[Any]) -> dict[CounterKey, int]:
    """The totals that the rows of :py:data:`TOTALS` tell."""
    return {(outcome, package_type): int(total) for outcome, package_type, total in rows}


def check_schema(connection: Connection) -> None:
    """Check that the database has every table and column, and that they can be written to.

    :raises Exception: the driver's, if the database can't answer, or something is missing.
    :raises galaxy_express.storage.database.DatabaseUnavailable: if it can't be written to.
    """
    connection.select(_CHECK_SCHEMA)
    connection.check_writable()

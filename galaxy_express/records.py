"""How decisions, preferences and totals are read from the tables, and written to them."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sqlalchemy import and_, bindparam, func, literal, or_, select
from sqlalchemy.engine import Connection

from galaxy_express import models
from galaxy_express.database import Database, Upsert
from galaxy_express.delivery import Decision, Package, Status
from galaxy_express.preferences import Preference

#: What a counter counts: an outcome and a package type, which is empty where the
#: outcome is ``rejected``.
CounterKey = tuple[str, str]
REJECTED: CounterKey = ("rejected", "")

_packages = models.Package.__table__
_preferences = models.Preference.__table__
_counters = models.Counter.__table__

_one_decision = select(_packages).where(_packages.c.package_id == bindparam("package_id"))
_decisions = select(_packages).where(
    _packages.c.package_id.in_(bindparam("package_ids", expanding=True))
)
_preferences_of = select(_preferences).where(
    _preferences.c.recipient_id.in_(bindparam("recipient_ids", expanding=True))
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
_counter_upsert = Upsert(_counters, update=lambda new: {"value": _counters.c.value + new.value})
_totals = select(
    _counters.c.outcome, _counters.c.package_type, func.sum(_counters.c.value)
).group_by(_counters.c.outcome, _counters.c.package_type)

_schema_check = select(
    *(
        select(literal(1)).select_from(table).limit(1).scalar_subquery()
        for table in (_packages, _preferences, _counters)
    )
)


def find_decision(connection: Connection, package_id: str) -> Decision | None:
    """The decision on a package, or ``None`` if nothing is known of it."""
    row = connection.execute(_one_decision, {"package_id": package_id}).first()
    return None if row is None else _decision(row)


def find_decisions(connection: Connection, package_ids: Collection[str]) -> dict[str, Decision]:
    """The decisions on those of the packages that are known, by their id."""
    if not package_ids:
        return {}
    rows = connection.execute(_decisions, {"package_ids": list(package_ids)})
    return {row.package_id: _decision(row) for row in rows}


def _decision(row: Any) -> Decision:
    package_id, sender_id, recipient_id, package_type, timestamp, status = row
    package = Package(package_id, sender_id, recipient_id, package_type, timestamp)
    return Decision(package, Status(status))


def record_decisions(
    database: Database, connection: Connection, decisions: Iterable[Decision]
) -> set[str]:
    """Record new decisions.

    :returns: the ids of the packages whose decision was recorded. Any other was decided
        by another instance in the meantime, and that decision stands.
    """
    rows = [
        {
            "package_id": decision.package.package_id,
            "sender_id": decision.package.sender_id,
            "recipient_id": decision.package.recipient_id,
            "package_type": decision.package.package_type,
            "timestamp": decision.package.timestamp,
            "status": decision.status.value,
        }
        for decision in decisions
    ]
    return database.insert_new(connection, _packages, rows) if rows else set()


def find_preferences(
    connection: Connection, recipient_ids: Collection[str]
) -> dict[str, dict[str, Preference]]:
    """What each of the recipients said, by recipient and name of package type."""
    found: dict[str, dict[str, Preference]] = {recipient: {} for recipient in recipient_ids}
    if found:
        rows = connection.execute(_preferences_of, {"recipient_ids": list(found)})
        for recipient_id, package_type, wanted, timestamp in rows:
            found[recipient_id][package_type] = Preference(wanted, timestamp)
    return found


def record_preferences(
    database: Database,
    connection: Connection,
    changed: Mapping[tuple[str, str], Preference],
) -> None:
    """Record preferences that came into force, by recipient and name of package type.

    :raises galaxy_express.database.TransactionConflict: if another instance recorded
        one that supersedes one of these in the meantime.
    """
    if not changed:
        return
    database.upsert(
        connection,
        _preference_upsert,
        [
            {
                "recipient_id": recipient_id,
                "package_type": package_type,
                "wanted": preference.wanted,
                "timestamp": preference.timestamp,
            }
            for (recipient_id, package_type), preference in changed.items()
        ],
    )


def add_to_totals(
    database: Database, connection: Connection, shard: int, increments: Mapping[CounterKey, int]
) -> None:
    """Move counters, in the same transaction as the rows that they count.

    :param shard: the writer's own, so that it waits for no other's counters.
    """
    rows = [
        {"shard": shard, "outcome": outcome, "package_type": package_type, "value": increment}
        for (outcome, package_type), increment in increments.items()
    ]
    if rows:
        database.upsert(connection, _counter_upsert, rows)


def read_totals(connection: Connection) -> dict[CounterKey, int]:
    """Each counter's total. One that never moved is absent."""
    return {
        (outcome, package_type): int(total)
        for outcome, package_type, total in connection.execute(_totals)
    }


def check_schema(connection: Connection) -> None:
    """Ask each table for a row.

    :raises sqlalchemy.exc.DBAPIError: if the database can't answer, or a table is missing.
    """
    connection.execute(_schema_check)

"""The audit: check that counters match rows, and that rows satisfy the invariants."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from baseplate.lib.config import RawConfig
from sqlalchemy import CheckConstraint, Integer, Table, and_, cast, func, inspect, not_, select
from sqlalchemy.engine import Connection

from galaxy_express import models
from galaxy_express.delivery import REJECTED, CounterKey, Status
from galaxy_express.ops.schema import database_for_script
from galaxy_express.storage import queries
from galaxy_express.storage.database import Database

_packages = models.packages
_preferences = models.preferences
_counters = models.counters


def _is_identifier(column: Any) -> Any:
    return func.length(column).between(1, 255)


def _is_timestamp(column: Any) -> Any:
    first, last = (moment.replace(tzinfo=UTC) for moment in (datetime.min, datetime.max))
    return column.between(models.to_microseconds(first), models.to_microseconds(last))


# The invariants of each row, beside the constraints of the tables.
_RULES = {
    "have a status that is neither delivered nor dropped": (
        _packages,
        _packages.c.status.in_([status.value for status in Status]),
    ),
    "have ids or a timestamp that no send could have had": (
        _packages,
        and_(
            _is_identifier(_packages.c.package_id),
            _is_identifier(_packages.c.sender_id),
            _is_identifier(_packages.c.recipient_id),
            _is_timestamp(_packages.c.timestamp),
        ),
    ),
    "have an id, a value or a timestamp that no update could have had": (
        _preferences,
        and_(
            _is_identifier(_preferences.c.recipient_id),
            cast(_preferences.c.wanted, Integer).in_([0, 1]),
            _is_timestamp(_preferences.c.timestamp),
        ),
    ),
    "are below zero": (_counters, _counters.c.value >= 0),
}


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    :param totals: how many packages there are by status and type: first as counted from
        the rows, then as the counters have it.
    :param rejected: how many requests were rejected; there are no rows to count.
    :param faults: what is wrong, one sentence each.
    """

    totals: dict[CounterKey, tuple[int, int]]
    rejected: int
    faults: list[str]


def audit(database: Database) -> Audit:
    """Examine everything that is stored, as it is at one moment, without blocking anyone.

    While it lasts, SQLite can't reuse its write-ahead log, which grows if there are writes.

    :raises galaxy_express.storage.database.DatabaseUnavailable: if it can't be read.
    """
    with database.snapshot(unlimited=True) as connection:
        missing = models.missing_tables(connection)
        if missing:
            return Audit({}, 0, [f"There is no table {name}." for name in missing])
        counted = queries.as_totals(connection.exec_driver_sql(queries.TOTALS))
        rejected = counted.pop(REJECTED, 0)
        stored = _count_packages(connection)
        totals = {
            key: (stored.get(key, 0), counted.get(key, 0))
            for key in sorted(stored.keys() | counted.keys())
        }
        faults = [
            f"The file is damaged: {damage}" for damage in database.check_integrity(connection)
        ]
        faults += _wrong_counters(totals)
        for table in models.metadata.sorted_tables:
            faults += _lost_constraints(connection, table)
            faults += _repeated_keys(connection, table)
        faults += _broken_rules(connection)
    return Audit(totals, rejected, faults)


def _count_packages(connection: Connection) -> dict[CounterKey, int]:
    groups = (_packages.c.status, _packages.c.package_type)
    rows = connection.execute(select(*groups, func.count()).group_by(*groups))
    return {(status, package_type): number for status, package_type, number in rows}


def _wrong_counters(totals: dict[CounterKey, tuple[int, int]]) -> Iterator[str]:
    for (outcome, package_type), (stored, counted) in totals.items():
        if stored != counted:
            yield (
                f"Of {package_type!r} packages, {stored} are {outcome},"
                f" and the counters say {counted}."
            )


def _lost_constraints(connection: Connection, table: Table) -> Iterator[str]:
    there = inspect(connection)
    key = there.get_pk_constraint(table.name)["constrained_columns"]
    if key != [column.name for column in table.primary_key]:
        yield f"The table {table.name} has lost its primary key."
    checks = {check["name"] for check in there.get_check_constraints(table.name)}
    for constraint in table.constraints:
        if isinstance(constraint, CheckConstraint) and constraint.name not in checks:
            yield f"The table {table.name} has lost its constraint {constraint.name}."


def _repeated_keys(connection: Connection, table: Table) -> Iterator[str]:
    key = list(table.primary_key)
    repeated = select(*key).group_by(*key).having(func.count() > 1).limit(10)
    for row in connection.execute(repeated):
        yield f"In {table.name}, the key {tuple(row)} is there more than once."


def _broken_rules(connection: Connection) -> Iterator[str]:
    for what, (table, rule) in _RULES.items():
        first = table.primary_key.columns[0]
        number, example = connection.execute(
            select(func.count(), func.min(first)).select_from(table).where(not_(rule))
        ).one()
        if number:
            yield f"In {table.name}, {number} rows {what}, one of them of {first.name} {example!r}."


def audit_database(app_config: RawConfig) -> None:
    """Print what an audit finds (a script for ``baseplate-script``).

    :raises SystemExit: if anything is wrong, or can't be found out; the exit code is 1.
    """
    with database_for_script(app_config) as database:
        found = audit(database)
    sys.stdout.write(f"{database}\n\n{_report(found)}\n")
    if found.faults:
        raise SystemExit(1)


def _report(found: Audit) -> str:
    lines = [f"{'outcome':<12} {'package type':<24} {'rows':>12} {'counters':>12}"]
    for (outcome, package_type), (stored, counted) in found.totals.items():
        lines.append(f"{outcome:<12} {package_type:<24} {stored:>12,} {counted:>12,}")
    lines += [f"{'rejected':<12} {'':<24} {'':>12} {found.rejected:>12,}", ""]
    lines += found.faults or ["Nothing is wrong."]
    return "\n".join(lines)

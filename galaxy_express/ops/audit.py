"""The audit: check that counters match rows, and that rows satisfy the invariants."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from baseplate.lib.config import RawConfig
from sqlalchemy import (
    CheckConstraint,
    Column,
    Integer,
    Table,
    UniqueConstraint,
    and_,
    cast,
    func,
    inspect,
    not_,
    or_,
    select,
)
from sqlalchemy.engine import Connection

from galaxy_express import models
from galaxy_express.delivery import REJECTED, CounterKey, Status
from galaxy_express.ops.output import write
from galaxy_express.ops.schema import database_for_script
from galaxy_express.storage import queries
from galaxy_express.storage.database import Database

_packages = models.packages
_preferences = models.preferences
_updates = models.preference_updates
_counters = models.counters


def _is_identifier(column: Any) -> Any:
    return func.length(column).between(1, 255)


def _is_in_order(column: Any) -> Any:
    # Lists in ascending order begin after zero, so they omit other rows.
    return and_(column.is_not(None), column > 0)


def _is_timestamp(column: Any) -> Any:
    first, last = (moment.replace(tzinfo=UTC) for moment in (datetime.min, datetime.max))
    return column.between(models.to_microseconds(first), models.to_microseconds(last))


# The invariants of rows, by what is wrong with a row that violates them.
_RULES = {
    "a status that is neither delivered nor dropped": (
        _packages,
        _packages.c.status.in_([status.value for status in Status]),
    ),
    "an invalid id or timestamp": (
        _packages,
        and_(
            _is_identifier(_packages.c.package_id),
            _is_identifier(_packages.c.sender_id),
            _is_identifier(_packages.c.recipient_id),
            _is_timestamp(_packages.c.timestamp),
        ),
    ),
    "declined_at although they were delivered": (
        _packages,
        or_(_packages.c.status != Status.DELIVERED.value, _packages.c.declined_at.is_(None)),
    ),
    "no place in the feed": (_packages, _is_in_order(_packages.c.sequence)),
    "no place in the history": (_updates, _is_in_order(_updates.c.sequence)),
    "an invalid id, value or timestamp": (
        _preferences,
        and_(
            _is_identifier(_preferences.c.recipient_id),
            cast(_preferences.c.wanted, Integer).in_([0, 1]),
            _is_timestamp(_preferences.c.timestamp),
        ),
    ),
    "a negative value": (_counters, _counters.c.value >= 0),
}


_EXAMPLE_COLUMNS = {
    _packages.name: _packages.c.package_id,
    _updates.name: _updates.c.recipient_id,
}

# PostgreSQL: the feed ends at the last number that was drawn.
_HIDDEN_PACKAGES = """
SELECT count(*), min(package_id) FROM packages
WHERE sequence > (SELECT last_value FROM galaxy_express_sequence)
"""


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    :param totals: the number of packages by status and type: first as counted from the rows, then
        according to the counters.
    :param rejected: the number of rejected requests, according to the counters.
    :param problems: the problems that were found, one sentence each.
    :param is_complete: whether tables could be compared with each other.
    """

    totals: dict[CounterKey, tuple[int, int]]
    rejected: int
    problems: list[str]
    is_complete: bool = True


def audit(database: Database) -> Audit:
    """Examine a snapshot of everything that is stored, without blocking reads or writes.

    While it runs, SQLite can't reuse its write-ahead log, which grows if there are writes. In a
    distributed database, tables are only compared with each other if nothing is written meanwhile.

    :raises galaxy_express.storage.errors.DatabaseUnavailable: if it can't be read.
    """
    settled = None
    if database.is_distributed():
        # Before the snapshot: a transaction in progress has drawn numbers, or will.
        with database.read_connection() as reader:
            settled = reader.last_settled()
    with database.snapshot(unlimited=True) as connection:
        missing = models.missing_tables(connection)
        if missing:
            return Audit({}, 0, [f"The table {name} is missing." for name in missing])
        counted = queries.as_totals(connection.exec_driver_sql(queries.TOTALS))
        rejected = counted.pop(REJECTED, 0)
        stored = _count_packages(connection)
        totals = {
            key: (stored.get(key, 0), counted.get(key, 0))
            for key in sorted(stored.keys() | counted.keys())
        }
        problems = [
            f"The file is damaged: {damage}" for damage in database.check_integrity(connection)
        ]
        for table in models.metadata_for(connection.dialect.name).sorted_tables:
            problems += _lost_constraints(connection, table)
            for key in _keys(table):
                problems += _repeated_keys(connection, table, key)
        # The sequence must be unique even where it isn't a key.
        problems += _repeated_keys(connection, _packages, [_packages.c.sequence])
        problems += _broken_rules(connection)
        hidden = _hidden_packages(connection) if connection.dialect.name == "postgresql" else []
        differences = [*hidden, *_wrong_counters(totals), *_contradictions(connection)]
        is_complete = settled is None or not _has_drawn(connection, settled)
        if is_complete:
            problems += differences
    return Audit(totals, rejected, problems, is_complete)


def _has_drawn(connection: Connection, settled: int) -> bool:
    """Return whether a write has drawn sequence numbers larger than a settled one."""
    last = connection.exec_driver_sql("SELECT last_value FROM galaxy_express_sequence")
    return bool(last.scalar_one() > settled)


def _count_packages(connection: Connection) -> dict[CounterKey, int]:
    groups = (_packages.c.status, _packages.c.package_type)
    rows = connection.execute(select(*groups, func.count()).group_by(*groups))
    return {(status, package_type): number for status, package_type, number in rows}


def _wrong_counters(totals: dict[CounterKey, tuple[int, int]]) -> Iterator[str]:
    for (outcome, package_type), (stored, counted) in totals.items():
        if stored != counted:
            yield (
                f"{package_type!r} packages {outcome}: {stored} according to the rows,"
                f" {counted} according to the counters."
            )


def _lost_constraints(connection: Connection, table: Table) -> Iterator[str]:
    inspector = inspect(connection)
    primary, *others = [[column.name for column in key] for key in _keys(table)]
    if inspector.get_pk_constraint(table.name)["constrained_columns"] != primary:
        yield f"The table {table.name} lacks its primary key."
    unique = [found["column_names"] for found in inspector.get_unique_constraints(table.name)]
    for key in others:
        if key not in unique:
            yield f"The table {table.name} lacks its unique constraint on {', '.join(key)}."
    checks = {check["name"] for check in inspector.get_check_constraints(table.name)}
    for constraint in table.constraints:
        if isinstance(constraint, CheckConstraint) and constraint.name not in checks:
            yield f"The table {table.name} lacks its constraint {constraint.name}."


def _keys(table: Table) -> list[list[Column[Any]]]:
    unique = [rule for rule in table.constraints if isinstance(rule, UniqueConstraint)]
    return [list(key.columns) for key in [table.primary_key, *unique]]


def _repeated_keys(connection: Connection, table: Table, key: list[Column[Any]]) -> Iterator[str]:
    repeated = select(*key).group_by(*key).having(func.count() > 1).limit(10)
    for row in connection.execute(repeated):
        yield f"{table.name}: the key {tuple(row)} is not unique."


# The preferences that an update in the history named, with the type as key.
_NAMED = {
    "sqlite": "json_each(updates.wanted)",
    "postgresql": "jsonb_each_text(updates.wanted::jsonb)",
}

# The first condition is that of Preference.supersedes. Preferences may be older than the history.
_CONTRADICTIONS = {
    "preference_updates: {} preferences are newer than the current ones, for example of"
    " recipient_id {!r}.": """
        SELECT count(*), min(updates.recipient_id)
        FROM preference_updates AS updates CROSS JOIN {named} AS named
        LEFT JOIN preferences AS present ON present.recipient_id = updates.recipient_id
                                        AND present.package_type = named.key
        WHERE present.timestamp IS NULL OR updates.timestamp > present.timestamp
           OR updates.timestamp = present.timestamp
              AND present.wanted AND NOT CAST(named.value AS BOOLEAN)
    """,
    "packages: {} rows were dropped by an update that did not decline them, for example"
    " package_id {!r}.": """
        SELECT count(*), min(package_id) FROM (
            SELECT package_id
            FROM packages JOIN preference_updates AS updates
                 ON updates.recipient_id = packages.recipient_id
                AND updates.timestamp = packages.declined_at
            CROSS JOIN {named} AS named
            WHERE named.key = packages.package_type
            GROUP BY package_id
            HAVING sum(CASE WHEN CAST(named.value AS BOOLEAN) THEN 0 ELSE 1 END) = 0
        ) AS contradicted
    """,
}


def _contradictions(connection: Connection) -> Iterator[str]:
    for sentence, query in _CONTRADICTIONS.items():
        sql = query.format(named=_NAMED[connection.dialect.name])
        number, example = connection.exec_driver_sql(sql).one()
        if number:
            yield sentence.format(number, example)


def _broken_rules(connection: Connection) -> Iterator[str]:
    for what, (table, rule) in _RULES.items():
        first = _EXAMPLE_COLUMNS.get(table.name, table.primary_key.columns.values()[0])
        number, example = connection.execute(
            select(func.count(), func.min(first)).select_from(table).where(not_(rule))
        ).one()
        if number:
            yield f"{table.name}: {number} rows with {what}, for example {first.name} {example!r}."


def _hidden_packages(connection: Connection) -> Iterator[str]:
    if not inspect(connection).has_sequence("galaxy_express_sequence"):
        yield "The sequence galaxy_express_sequence is missing (make migratedb)."
        return
    number, example = connection.exec_driver_sql(_HIDDEN_PACKAGES).one()
    if number:
        yield (
            f"packages: {number} rows are not in the feed until the next write, since"
            f" galaxy_express_sequence is behind, for example package_id {example!r}."
        )


def audit_database(app_config: RawConfig) -> None:
    """Print the result of an audit (a script for ``baseplate-script``).

    :raises SystemExit: with exit code 1, if there are problems or the audit fails; with 75 (try
        again later), if there are none, but tables couldn't be compared.
    """
    with database_for_script(app_config) as database:
        found = audit(database)
    write(f"{database}\n\n{_report(found)}\n")
    if found.problems:
        raise SystemExit(1)
    if not found.is_complete:
        raise SystemExit(os.EX_TEMPFAIL)


def _report(found: Audit) -> str:
    lines = [f"{'outcome':<12} {'package type':<24} {'rows':>12} {'counters':>12}"]
    for (outcome, package_type), (stored, counted) in found.totals.items():
        lines.append(f"{outcome:<12} {package_type:<24} {stored:>12,} {counted:>12,}")
    lines += [f"{'rejected':<12} {'':<24} {'':>12} {found.rejected:>12,}", ""]
    lines += found.problems
    if not found.is_complete:
        lines.append(
            "Something was written while the audit ran, and there is no snapshot of several"
            " servers: tables were not compared with each other. Stop the writes, and run the audit"
            " again."
        )
    elif not found.problems:
        lines.append("No problems found.")
    return "\n".join(lines)

"""What an operator has altered in the tables of PostgreSQL, according to its catalog.

A statement that relies on what is missing may fail, or worse, succeed: without the unique index,
packages would be decided twice.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql

from galaxy_express.models import metadata_for

_TABLES = metadata_for("postgresql").tables

#: Describes alterations of anything but the tables, one per row.
DESCRIBE_NUMBERING = """
SELECT 'galaxy_express_sequence must increment by 1, without a cache'
FROM pg_sequence
WHERE seqrelid = to_regclass('galaxy_express_sequence') AND (seqincrement <> 1 OR seqcache <> 1)
"""

#: The tables as they are: a row for each. The columns are arrays of the number, the name, the type,
#: and whether an insert must name the column; the unique indexes are arrays of numbers.
DESCRIBE_TABLES = f"""
SELECT relname, relkind IN ('r', 'p'), row_security_active(oid),
       relpersistence <> 'p' OR EXISTS (
            SELECT FROM pg_inherits JOIN pg_class AS part ON part.oid = inhrelid
            WHERE inhparent = pg_class.oid AND part.relpersistence <> 'p'),
       EXISTS (SELECT FROM pg_partitioned_table WHERE partrelid = pg_class.oid AND partstrat = 'h')
       AND (SELECT coalesce(sum(1.0 / substring(
                pg_get_expr(part.relpartbound, part.oid) FROM 'modulus (\\d+)')::integer), 0)
            FROM pg_inherits JOIN pg_class AS part ON part.oid = inhrelid
            WHERE inhparent = pg_class.oid) < 0.9999,
       (SELECT json_agg(json_build_array(
            attnum, attname, format_type(atttypid, atttypmod),
            attnotnull AND NOT atthasdef AND attidentity = ''))
        FROM pg_attribute WHERE attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped),
       (SELECT json_agg(indkey[0:indnkeyatts - 1]) FROM pg_index
        WHERE indrelid = pg_class.oid
          AND indisunique AND indisvalid AND indimmediate AND indpred IS NULL)
FROM pg_class WHERE oid IN ({", ".join(f"'{name}'::regclass" for name in _TABLES)})
"""  # noqa: S608 - our own names


class _Column(NamedTuple):
    number: int
    name: str
    type: str
    is_needed: bool


def find_alterations(described: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Describe the differences that keep the service from using the tables safely.

    :param described: the rows of :py:data:`DESCRIBE_TABLES`.
    """
    for name, is_table, is_filtered, is_unlogged, is_incomplete, columns, indexes in described:
        if not is_table:
            yield f"{name} is not a table"
        if is_filtered:
            yield f"row-level security of {name} applies to this role"
        if is_unlogged:
            yield f"{name} is unlogged, so a crash of the server would empty it"
        if is_incomplete:
            yield f"{name} lacks a partition"
        yield from _compare(_TABLES[name], [_Column(*column) for column in columns], indexes or [])


def _compare(
    table: Table, columns: Iterable[_Column], indexes: Iterable[Iterable[int]]
) -> Iterator[str]:
    names = {column.number: column.name for column in columns}
    key = set(table.primary_key.columns.keys())
    if not any({names.get(number) for number in index} == key for index in indexes):
        yield f"{table} has no valid unique index on {', '.join(table.primary_key.columns.keys())}"
    for column in columns:
        expected = table.columns.get(column.name)
        # The statements leave out other columns, and may store NULL in these.
        if column.is_needed and (expected is None or expected.nullable):
            yield f"{table}.{column.name} must not be NULL, and has no default"
        # The type is quoted if quote_all_identifiers is on.
        if expected is not None and column.type.strip('"') != _type(expected.type):
            yield f"{table}.{column.name} has the type {column.type}, not {_type(expected.type)}"


@cache
def _type(declared: Any) -> str:
    # TEXT COLLATE "C" is text.
    return str(declared.compile(postgresql.dialect())).split()[0].lower()

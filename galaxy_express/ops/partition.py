"""Partitions the table of packages on PostgreSQL; a command for operators."""

from collections.abc import Iterator

from baseplate.lib.config import RawConfig
from sqlalchemy.engine import Connection

from galaxy_express.models import metadata_for, missing_tables
from galaxy_express.ops.output import write
from galaxy_express.ops.schema import database_for_script, import_migrations
from galaxy_express.storage.errors import DatabaseUnavailable, in_a_line
from galaxy_express.storage.postgresql.database import PostgreSQLDatabase

# A page of the feed reads an index of every partition: with 256 it takes a tenth of a second.
_MAX_PARTITIONS = 64

_INDEXES = {
    str(index.name): ", ".join(column.name for column in index.columns)
    for index in metadata_for("postgresql").tables["packages"].indexes
}

_IS_PARTITIONED = "SELECT relkind = 'p' FROM pg_class WHERE oid = 'packages'::regclass"
_OWNER = "SELECT relowner::regrole FROM pg_class WHERE oid = 'packages'::regclass"
_GRANTS = """
SELECT 'GRANT ' || privilege_type || ' ON packages_new TO '
       || CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END
       || CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
FROM pg_class, aclexplode(relacl) WHERE oid = 'packages'::regclass
"""

# What an operator has added to the table, and would lose with it.
_ADDITIONS = """
SELECT DISTINCT pg_describe_object(classid, objid, 0)
FROM pg_depend LEFT JOIN pg_constraint ON classid = 'pg_constraint'::regclass AND objid = oid
WHERE refclassid = 'pg_class'::regclass AND refobjid = 'packages'::regclass
  AND deptype <> 'i' AND classid <> 'pg_attrdef'::regclass
  AND (conrelid = refobjid AND contype IN ('p', 'c', 'n')) IS NOT TRUE
  AND objid <> ALL (%(indexes)s::regclass[])
UNION SELECT 'privileges on columns' FROM pg_attribute
WHERE attrelid = 'packages'::regclass AND attacl IS NOT NULL
UNION SELECT 'storage parameters' FROM pg_class
WHERE oid = 'packages'::regclass AND reloptions IS NOT NULL
UNION SELECT 'a tablespace' FROM pg_class
WHERE oid = 'packages'::regclass AND reltablespace <> 0
ORDER BY 1
"""


def partition_packages(app_config: RawConfig, arguments: list[str]) -> None:
    """Partition ``packages`` by hash of ``package_id`` (a script for ``baseplate-script``).

    :param arguments: the number of partitions, from 2 to 64.
    :raises SystemExit: with a one-line message, if nothing was changed.
    """
    number = arguments[0] if len(arguments) == 1 else ""
    if number not in map(str, range(2, _MAX_PARTITIONS + 1)):
        raise SystemExit(
            f"The number of partitions must be from 2 to {_MAX_PARTITIONS}:"
            " make partitiondb PARTITIONS=16, or galaxy-express partition 16"
        )
    with database_for_script(app_config) as database:
        failure = f"The packages of {database} were not partitioned"
        if not isinstance(database, PostgreSQLDatabase):
            raise SystemExit(f"{failure}: this needs PostgreSQL.")
        try:
            with database.migrating() as connection:
                obstacle = next(_obstacles(connection), None)
                if obstacle:
                    raise SystemExit(f"{failure}: {obstacle}.")
                copied = partition(connection, int(number))
                connection.commit()
        except (database.driver_error, DatabaseUnavailable) as error:
            raise SystemExit(f"{failure}: {in_a_line(error)}") from error
    write(f"Copied {copied:,} packages of {database} to {number} partitions.\n")


def _obstacles(connection: Connection) -> Iterator[str]:
    migrations = import_migrations()
    try:
        if migrations.needs_upgrade(connection) or missing_tables(connection):
            yield "create or migrate the tables first (make migratedb)"
    except migrations.UnknownDatabase as error:
        yield str(error)
    if is_partitioned(connection):
        yield "they already are"
    additions = connection.exec_driver_sql(_ADDITIONS, {"indexes": list(_INDEXES)}).scalars().all()
    if additions:
        yield f"drop what would be lost, and add it again afterwards: {', '.join(additions)}"


def is_partitioned(connection: Connection) -> bool:
    """Return whether ``packages`` is partitioned."""
    return bool(connection.exec_driver_sql(_IS_PARTITIONED).scalar_one())


def partition(connection: Connection, number: int) -> int:
    """Replace ``packages`` by a partitioned copy. Reads are possible until the end; writes wait.

    :param connection: a connection without timeouts, in a transaction to be committed.
    :param number: the number of partitions.
    :returns: the number of packages.
    """
    run = connection.exec_driver_sql
    run(f"SET LOCAL ROLE {run(_OWNER).scalar_one()}")
    run("SET LOCAL lock_timeout = '5s'")
    run("LOCK TABLE packages IN EXCLUSIVE MODE")
    run("SET LOCAL lock_timeout = 0")
    run(
        "CREATE TABLE packages_new (LIKE packages INCLUDING ALL EXCLUDING INDEXES)"
        " PARTITION BY HASH (package_id)"
    )
    for remainder in range(number):
        run(
            f"CREATE TABLE packages_{remainder} PARTITION OF packages_new"
            f" FOR VALUES WITH (MODULUS {number}, REMAINDER {remainder})"
        )
    for grant in run(_GRANTS).scalars().all():
        run(grant)
    copied = int(run("INSERT INTO packages_new SELECT * FROM packages").rowcount)
    run("ALTER TABLE packages_new ADD CONSTRAINT pk_packages_new PRIMARY KEY (package_id)")
    for name, columns in _INDEXES.items():
        run(f"CREATE INDEX {name}_new ON packages_new ({columns})")
    run("ANALYZE packages_new")
    run("DROP TABLE packages")
    run("ALTER TABLE packages_new RENAME TO packages")
    for name in ["pk_packages", *_INDEXES]:
        run(f"ALTER INDEX {name}_new RENAME TO {name}")
    return copied

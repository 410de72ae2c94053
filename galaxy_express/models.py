"""The tables: packages with their decisions, preferences with their history, and counters."""

from datetime import UTC, datetime, timedelta

from baseplate.lib.config import RawConfig
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    inspect,
    text,
)
from sqlalchemy.engine import Connection

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_microseconds(timestamp: datetime) -> int:
    """Convert an aware datetime to whole microseconds since 1970 in UTC.

    Timestamps are stored in this form: eight bytes that sort and compare alike in every database,
    from year 1 to 9999.
    """
    return (timestamp - _EPOCH) // _MICROSECOND


def from_microseconds(microseconds: int) -> datetime:
    """Convert microseconds since 1970 to a datetime in UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)


# Text is compared byte by byte: ids have no language, and an index that depends on the
# operating system's collation can be corrupted by an upgrade of it.
OpaqueText = Text().with_variant(Text(collation="C"), "postgresql")


def _define_tables(dialect: str) -> MetaData:
    # The sequence numbers of packages and of preference updates increase in commit order.
    # In SQLite they are the rowids, so that reading in this order needs no additional index.
    # In PostgreSQL a function draws them, and no unique constraint keeps the tables from being
    # partitioned by package and by recipient.
    rowids = dialect == "sqlite"
    sequence_type = Integer if rowids else BigInteger
    drawn = None if rowids else text("(galaxy_express_draw(1))[1]")
    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )

    #: A package and its decision: written once, never changed. The unique id guarantees that
    #: a package is decided once: the database itself enforces it.
    packages = Table(
        "packages",
        metadata,
        Column("sequence", sequence_type, nullable=False, server_default=drawn),
        Column("package_id", OpaqueText, nullable=False),
        Column("sender_id", OpaqueText, nullable=False),
        Column("recipient_id", OpaqueText, nullable=False),
        Column("package_type", OpaqueText, nullable=False),
        Column("timestamp", BigInteger, nullable=False),
        Column("status", OpaqueText, nullable=False),
        Column("decided_at", BigInteger),  # not recorded by versions before 1.1
        Column("declined_at", BigInteger),
        CheckConstraint("status IN ('delivered', 'dropped')", name="status"),
    )

    #: Each preference update that was received: its preferences, and whether it was applied.
    updates = Table(
        "preference_updates",
        metadata,
        Column("sequence", sequence_type, nullable=False, server_default=drawn),
        Column("recipient_id", OpaqueText, nullable=False),
        Column("timestamp", BigInteger, nullable=False),
        Column("received_at", BigInteger, nullable=False),
        Column("wanted", OpaqueText, nullable=False),  # by package type, as a JSON object
        Column("applied", Boolean, nullable=False),
    )

    if rowids:
        packages.append_constraint(PrimaryKeyConstraint("sequence"))
        packages.append_constraint(UniqueConstraint("package_id"))
        Index(None, packages.c.recipient_id)  # followed by the rowid, like all indexes in SQLite
        updates.append_constraint(PrimaryKeyConstraint("sequence"))
        Index(None, updates.c.recipient_id)
    else:
        packages.append_constraint(PrimaryKeyConstraint("package_id"))
        Index(None, packages.c.sequence)
        Index(None, packages.c.recipient_id, packages.c.sequence)
        updates.append_constraint(PrimaryKeyConstraint("recipient_id", "sequence"))

    #: A recipient's current preference for one package type.
    Table(
        "preferences",
        metadata,
        Column("recipient_id", OpaqueText, primary_key=True),
        Column("package_type", OpaqueText, primary_key=True),
        Column("wanted", Boolean, nullable=False),
        Column("timestamp", BigInteger, nullable=False),
    )

    #: Running totals. Each writer adds to the rows of its own shard, so that no single row
    #: becomes a point of contention; a total is the sum over the shards. ``package_type`` is
    #: empty for rejected requests, which never became a package.
    Table(
        "counters",
        metadata,
        Column("shard", SmallInteger, primary_key=True, autoincrement=False),
        Column("outcome", OpaqueText, primary_key=True),
        Column("package_type", OpaqueText, primary_key=True),
        Column("value", BigInteger, nullable=False),
    )
    return metadata


_METADATA = {dialect: _define_tables(dialect) for dialect in ("sqlite", "postgresql")}


def metadata_for(dialect: str) -> MetaData:
    """Return the tables for a kind of database; names and columns are the same for all.

    :param dialect: ``sqlite`` or ``postgresql``.
    """
    return _METADATA[dialect]


metadata = metadata_for("sqlite")
packages = metadata.tables["packages"]
preferences = metadata.tables["preferences"]
preference_updates = metadata.tables["preference_updates"]
counters = metadata.tables["counters"]


def missing_tables(connection: Connection) -> list[str]:
    """Return the names of the tables that the database lacks."""
    return sorted(set(metadata.tables) - set(inspect(connection).get_table_names()))


# Kept for deployments that run these scripts by their former names (``baseplate-script``).


def create_schema(app_config: RawConfig) -> None:
    """Create or migrate the tables; see :py:func:`galaxy_express.ops.schema.create_schema`."""
    from galaxy_express.ops import schema

    schema.create_schema(app_config)


def drop_schema(app_config: RawConfig) -> None:
    """Drop the tables; see :py:func:`galaxy_express.ops.schema.drop_schema`."""
    from galaxy_express.ops import schema

    schema.drop_schema(app_config)

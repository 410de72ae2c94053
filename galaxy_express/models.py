"""The tables: packages as they were decided, current preferences, and counters."""

from datetime import UTC, datetime, timedelta

from baseplate.lib.config import RawConfig
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    MetaData,
    SmallInteger,
    Table,
    Text,
    inspect,
)
from sqlalchemy.engine import Connection

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_microseconds(timestamp: datetime) -> int:
    """Convert an aware datetime to whole microseconds since 1970 in UTC.

    Timestamps are stored so: eight bytes that sort and compare alike in every database,
    from year 1 to 9999.
    """
    return (timestamp - _EPOCH) // _MICROSECOND


def from_microseconds(microseconds: int) -> datetime:
    """Convert microseconds since 1970 to a datetime in UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)


# Compared byte by byte: opaque text has no language, and an index that depends on the
# operating system's collation would be corrupted by an upgrade of it.
OpaqueText = Text().with_variant(Text(collation="C"), "postgresql")

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    }
)

#: A package and its decision: written once, never changed. The primary key is what makes a
#: decision happen once: the database itself enforces it.
packages = Table(
    "packages",
    metadata,
    Column("package_id", OpaqueText, primary_key=True),
    Column("sender_id", OpaqueText, nullable=False),
    Column("recipient_id", OpaqueText, nullable=False),
    Column("package_type", OpaqueText, nullable=False),
    Column("timestamp", BigInteger, nullable=False),
    Column("status", OpaqueText, nullable=False),
    CheckConstraint("status IN ('delivered', 'dropped')", name="status"),
)

#: A recipient's current preference for one package type.
preferences = Table(
    "preferences",
    metadata,
    Column("recipient_id", OpaqueText, primary_key=True),
    Column("package_type", OpaqueText, primary_key=True),
    Column("wanted", Boolean, nullable=False),
    Column("timestamp", BigInteger, nullable=False),
)

#: Running totals. Each writer adds to the rows of its own shard, so that no single row becomes
#: a point of contention; a total is the sum over the shards. ``package_type`` is empty for
#: rejected requests, which never became a package.
counters = Table(
    "counters",
    metadata,
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("outcome", OpaqueText, primary_key=True),
    Column("package_type", OpaqueText, primary_key=True),
    Column("value", BigInteger, nullable=False),
)


def missing_tables(connection: Connection) -> list[str]:
    """Name the tables that the database lacks; empty if all are there."""
    return sorted(set(metadata.tables) - set(inspect(connection).get_table_names()))


# The scripts' former place, which deployments name (``baseplate-script``).


def create_schema(app_config: RawConfig) -> None:
    """Create the missing tables; see :py:func:`galaxy_express.ops.schema.create_schema`."""
    from galaxy_express.ops import schema

    schema.create_schema(app_config)


def drop_schema(app_config: RawConfig) -> None:
    """Drop the tables; see :py:func:`galaxy_express.ops.schema.drop_schema`."""
    from galaxy_express.ops import schema

    schema.drop_schema(app_config)

"""What is stored: packages as they were decided, preferences in force, and counters."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from baseplate.lib.config import ConfigurationError, RawConfig
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    MetaData,
    SmallInteger,
    Text,
    inspect,
)
from sqlalchemy.orm import declarative_base
from sqlalchemy.types import TypeDecorator

from galaxy_express.storage.database import Database, DatabaseUnavailable
from galaxy_express.storage.dialects import database_from_config

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_microseconds(timestamp: datetime) -> int:
    """An aware datetime as whole microseconds since 1970 in UTC."""
    return (timestamp - _EPOCH) // _MICROSECOND


def from_microseconds(microseconds: int) -> datetime:
    """The datetime in UTC that so many microseconds since 1970 stand for."""
    return _EPOCH + timedelta(microseconds=microseconds)


class UtcTimestamp(TypeDecorator[datetime]):
    """An aware datetime, kept as whole microseconds since 1970 in UTC.

    Eight bytes that order and compare alike in every database, from year 1 to 9999.
    """

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> int | None:
        """Aware datetime in, microseconds out."""
        return None if value is None else to_microseconds(value)

    def process_result_value(self, value: int | None, dialect: Any) -> datetime | None:
        """Microseconds in, datetime in UTC out."""
        return None if value is None else from_microseconds(value)


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
Base: Any = declarative_base(metadata=metadata)


class Package(Base):
    """A package and what was decided of it: written once, never changed.

    That ``package_id`` is unique is what makes a decision happen once, so the
    database itself enforces it.
    """

    __tablename__ = "packages"
    __table_args__ = (CheckConstraint("status IN ('delivered', 'dropped')", name="status"),)

    package_id = Column(OpaqueText, primary_key=True)
    sender_id = Column(OpaqueText, nullable=False)
    recipient_id = Column(OpaqueText, nullable=False)
    package_type = Column(OpaqueText, nullable=False)
    timestamp = Column(UtcTimestamp, nullable=False)
    status = Column(OpaqueText, nullable=False)


class Preference(Base):
    """What one recipient said last of one package type."""

    __tablename__ = "preferences"

    recipient_id = Column(OpaqueText, primary_key=True)
    package_type = Column(OpaqueText, primary_key=True)
    wanted = Column(Boolean, nullable=False)
    timestamp = Column(UtcTimestamp, nullable=False)


class Counter(Base):
    """A running total, in as many parts as there are shards.

    Each writer adds to the rows of its own shard, so that no row is a lock for which
    all writers queue; a total is the sum over the shards. ``package_type`` is empty
    for requests that were rejected, since those never became a package.
    """

    __tablename__ = "counters"

    shard = Column(SmallInteger, primary_key=True, autoincrement=False)
    outcome = Column(OpaqueText, primary_key=True)
    package_type = Column(OpaqueText, primary_key=True)
    value = Column(BigInteger, nullable=False)


def missing_tables(connection: Any) -> list[str]:
    """The names of the tables that the database lacks; empty when the schema is there."""
    return sorted(set(metadata.tables) - set(inspect(connection).get_table_names()))


def create_schema(app_config: RawConfig) -> None:
    """Create the tables that aren't there yet (a script for ``baseplate-script``).

    :raises SystemExit: with a sentence, if a setting is wrong or the database unavailable.
    """
    with _administering(app_config) as connection:
        metadata.create_all(connection)


def drop_schema(app_config: RawConfig) -> None:
    """Drop the tables, and with them everything stored (a script for ``baseplate-script``).

    :raises SystemExit: as :py:func:`create_schema` does.
    """
    with _administering(app_config) as connection:
        metadata.drop_all(connection)


@contextmanager
def _administering(app_config: RawConfig) -> Iterator[Any]:
    with database_for_script(app_config) as database, database.schema_transaction() as connection:
        yield connection


@contextmanager
def database_for_script(app_config: RawConfig) -> Iterator[Database]:
    """The database for a script of ``baseplate-script``, which a fault ends with a sentence.

    :raises SystemExit: with that sentence, if a setting is wrong or the database unavailable.
    """
    try:
        database = database_from_config(app_config)
    except ConfigurationError as error:
        raise SystemExit(f"The configuration is wrong: {error}") from error
    try:
        yield database
    except DatabaseUnavailable as fault:
        raise SystemExit(
            f"The database {database} is unavailable: {fault}"
            " (is it there, and may it, or the folder of its file, be written to?)"
        ) from fault
    finally:
        database.close()

"""Add the order, time and reason of decisions, and the history of preferences.

Packages decided before this migration keep their order if it is known (SQLite's rowids), have
smaller numbers than all later ones, and have no time of decision.
"""

from alembic import op
from sqlalchemy import text

from galaxy_express.storage.migrations.numbering import DRAW

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns and the table."""
    if op.get_bind().dialect.name == "sqlite":
        _upgrade_sqlite()
    else:
        _upgrade_postgresql()


# SQLite: everything in one transaction, since its primary keys can't be changed. Workers of the
# previous version keep working afterwards: a package that they insert gets the next rowid.


def _upgrade_sqlite() -> None:
    op.execute(
        """
        CREATE TABLE packages_0002 (
            sequence INTEGER NOT NULL,
            package_id TEXT NOT NULL,
            sender_id TEXT NOT NULL,
            recipient_id TEXT NOT NULL,
            package_type TEXT NOT NULL,
            timestamp BIGINT NOT NULL,
            status TEXT NOT NULL,
            decided_at BIGINT,
            declined_at BIGINT,
            CONSTRAINT pk_packages PRIMARY KEY (sequence),
            CONSTRAINT uq_packages_package_id UNIQUE (package_id),
            CONSTRAINT ck_packages_status CHECK (status IN ('delivered', 'dropped'))
        )
        """
    )
    op.execute(
        """
        INSERT INTO packages_0002
        SELECT rowid, package_id, sender_id, recipient_id, package_type, timestamp, status,
               NULL, NULL
        FROM packages ORDER BY rowid
        """
    )
    op.execute("DROP TABLE packages")
    op.execute("ALTER TABLE packages_0002 RENAME TO packages")
    op.execute("CREATE INDEX ix_packages_recipient_id ON packages (recipient_id)")
    op.execute(
        """
        CREATE TABLE preference_updates (
            sequence INTEGER NOT NULL,
            recipient_id TEXT NOT NULL,
            timestamp BIGINT NOT NULL,
            received_at BIGINT NOT NULL,
            wanted TEXT NOT NULL,
            applied BOOLEAN NOT NULL,
            CONSTRAINT pk_preference_updates PRIMARY KEY (sequence)
        )
        """
    )
    op.execute(
        "CREATE INDEX ix_preference_updates_recipient_id ON preference_updates (recipient_id)"
    )


# PostgreSQL: in many short transactions, while workers of the previous version write. Each step can
# be repeated. Workers of this version need all columns, and the last ones are added at the end.
# Otherwise they would show a feed without the old packages, which get smaller numbers later.

# Sequence numbers that follow the clock are larger.
_MAX_OLD = 1_000_000_000_000
_BATCH = 10_000


def _upgrade_postgresql() -> None:
    with op.get_context().autocommit_block():
        op.execute("SET statement_timeout = 0")
        op.execute("SET lock_timeout = '5s'")
        op.execute("CREATE SEQUENCE IF NOT EXISTS galaxy_express_sequence")
        op.execute(DRAW)
        op.execute(
            """
            ALTER TABLE packages
                ADD COLUMN IF NOT EXISTS sequence BIGINT,
                ALTER COLUMN sequence SET DEFAULT (galaxy_express_draw(1))[1]
            """
        )
        op.execute(
            """
            CREATE TABLE IF NOT EXISTS preference_updates (
                sequence BIGINT NOT NULL DEFAULT (galaxy_express_draw(1))[1],
                recipient_id TEXT COLLATE "C" NOT NULL,
                timestamp BIGINT NOT NULL,
                received_at BIGINT NOT NULL,
                wanted TEXT COLLATE "C" NOT NULL,
                applied BOOLEAN NOT NULL,
                CONSTRAINT pk_preference_updates PRIMARY KEY (recipient_id, sequence)
            )
            """
        )
        op.execute("SELECT galaxy_express_draw(1)")  # numbers up to this one are settled
        _number_old_packages()
        op.execute("SET lock_timeout = 0")
        for columns in ("sequence", "recipient_id, sequence"):
            name = f"ix_packages_{columns.replace(', ', '_')}"
            # An interrupted build leaves an invalid index.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON packages ({columns})")
        # A validated constraint avoids a scan of the whole table under an exclusive lock.
        op.execute("SET lock_timeout = '5s'")
        op.execute("ALTER TABLE packages DROP CONSTRAINT IF EXISTS ck_packages_sequence")
        op.execute(
            "ALTER TABLE packages ADD CONSTRAINT ck_packages_sequence"
            " CHECK (sequence IS NOT NULL) NOT VALID"
        )
        op.execute("ALTER TABLE packages VALIDATE CONSTRAINT ck_packages_sequence")
        op.execute("ALTER TABLE packages ALTER COLUMN sequence SET NOT NULL")
        op.execute(
            """
            ALTER TABLE packages
                DROP CONSTRAINT ck_packages_sequence,
                ADD COLUMN IF NOT EXISTS decided_at BIGINT,
                ADD COLUMN IF NOT EXISTS declined_at BIGINT
            """
        )


def _number_old_packages() -> None:
    connection = op.get_bind()
    number = connection.execute(
        text("SELECT coalesce(max(sequence), 0) FROM packages WHERE sequence < :max"),
        {"max": _MAX_OLD},
    ).scalar_one()
    last = ""
    while last is not None:
        last = connection.execute(
            text(
                """
                WITH batch AS (
                    SELECT package_id, row_number() OVER (ORDER BY package_id) AS place
                    FROM (SELECT package_id FROM packages
                          WHERE package_id > :last AND sequence IS NULL
                          ORDER BY package_id LIMIT :batch) AS next
                ), numbered AS (
                    UPDATE packages SET sequence = :number + place
                    FROM batch WHERE packages.package_id = batch.package_id
                    RETURNING packages.package_id
                )
                SELECT max(package_id) FROM numbered
                """
            ),
            {"last": last, "batch": _BATCH, "number": number},
        ).scalar_one()
        number += _BATCH

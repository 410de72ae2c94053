"""Create the tables of version 1.0, unless they exist."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    text = 'TEXT COLLATE "C"' if op.get_bind().dialect.name == "postgresql" else "TEXT"
    op.execute(
        f"""
        CREATE TABLE IF NOT EXISTS packages (
            package_id {text} NOT NULL,
            sender_id {text} NOT NULL,
            recipient_id {text} NOT NULL,
            package_type {text} NOT NULL,
            timestamp BIGINT NOT NULL,
            status {text} NOT NULL,
            CONSTRAINT pk_packages PRIMARY KEY (package_id),
            CONSTRAINT ck_packages_status CHECK (status IN ('delivered', 'dropped'))
        )
        """
    )
    op.execute(
        f"""
        CREATE TABLE IF NOT EXISTS preferences (
            recipient_id {text} NOT NULL,
            package_type {text} NOT NULL,
            wanted BOOLEAN NOT NULL,
            timestamp BIGINT NOT NULL,
            CONSTRAINT pk_preferences PRIMARY KEY (recipient_id, package_type)
        )
        """
    )
    op.execute(
        f"""
        CREATE TABLE IF NOT EXISTS counters (
            shard SMALLINT NOT NULL,
            outcome {text} NOT NULL,
            package_type {text} NOT NULL,
            value BIGINT NOT NULL,
            CONSTRAINT pk_counters PRIMARY KEY (shard, outcome, package_type)
        )
        """
    )

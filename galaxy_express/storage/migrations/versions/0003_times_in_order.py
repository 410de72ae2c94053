"""On PostgreSQL, add the function that draws sequence numbers and reads the clock at once.

Workers of the previous version keep working: they draw numbers with the function that exists.
"""

from alembic import op

from galaxy_express.storage.migrations.numbering import BEGIN

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the function."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(BEGIN)

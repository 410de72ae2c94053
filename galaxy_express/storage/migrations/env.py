"""What Alembic runs to migrate the database of a connection that it is given."""

from alembic import context

from galaxy_express.models import metadata_for

connection = context.config.attributes["connection"]
context.configure(
    connection,
    target_metadata=metadata_for(connection.dialect.name),
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()

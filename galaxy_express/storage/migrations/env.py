"""Alembic's environment: migrates the database of the given connection."""

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

"""Alembic's entry: runs on the connection `cataloger.database.upgrade` hands it, in that connection's transaction."""

from alembic import context

from cataloger.models import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=connection.dialect.name == "sqlite")
with context.begin_transaction():
    context.run_migrations()

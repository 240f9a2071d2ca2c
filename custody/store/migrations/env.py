"""Alembic's entry: runs the revisions over the connection that ``custody.store.upgrade`` hands in."""

from alembic import context
from sqlalchemy import Connection

VERSION_TABLE = "fleet_schema_version"


def run() -> None:
    connection: Connection = context.config.attributes["connection"]
    context.configure(connection=connection, version_table=VERSION_TABLE, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


run()

"""Drains of the house's own coins at a former treasury."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0033"
down_revision = "0030"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0033_house_drains.sql")

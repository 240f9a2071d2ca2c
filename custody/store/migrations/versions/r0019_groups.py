"""Payouts of several payments at once, fees that are paid out, and parts of what is held."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0019"
down_revision = "0020"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0019_groups.sql")

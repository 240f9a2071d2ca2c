"""Batches of sweeps, what gas they cost each payment, and the one method of an address."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0023"
down_revision = "0024"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0023_sweep_batches.sql")

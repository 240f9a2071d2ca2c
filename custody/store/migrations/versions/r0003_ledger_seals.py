"""Seals of the ledger (design §4)."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0003_ledger_seals.sql")

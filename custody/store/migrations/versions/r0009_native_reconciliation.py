"""Facts that only a balance tells of are found by their block (L8)."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0009_native_reconciliation.sql")

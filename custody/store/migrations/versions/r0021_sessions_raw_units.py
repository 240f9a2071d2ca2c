"""Sessions of signers at their API (R6), and payouts whose amount is read in smallest units (R2)."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0021"
down_revision = "0023"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0021_sessions_raw_units.sql")

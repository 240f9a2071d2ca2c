"""The CHECKs that every entry pays for, in one expression each (same rules, same names)."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0008_posting_cost.sql")

"""The CHECKs that every entry pays for, in one expression each (same rules, same names)."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0010"
down_revision = "0005"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0010_posting_cost.sql")

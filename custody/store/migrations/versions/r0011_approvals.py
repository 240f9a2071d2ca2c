"""Approvals by devices, accepted versions of signed files, and an address book of signed entries."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0011_approvals.sql")

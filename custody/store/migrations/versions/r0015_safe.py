"""A Safe as treasury: SafeTx bytes, its owners' signatures, and the release payer's lane and book."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0015"
down_revision = "0013"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0015_safe.sql")

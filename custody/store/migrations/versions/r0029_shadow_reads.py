"""Reads of both stores that were compared."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0029"
down_revision = "0028"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0029_shadow_reads.sql")

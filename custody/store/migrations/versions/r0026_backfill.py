"""How far a backfill came, and gaps found by the document they are about."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0026"
down_revision = "0019"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0026_backfill.sql")

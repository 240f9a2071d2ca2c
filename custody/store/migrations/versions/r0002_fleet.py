"""Schema fleet and the ledger's tables (design §3, §4)."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0002_fleet.sql")
    run_sql(op.get_bind(), "custody.ledger.sql", "ledger_tables.sql")

"""Schema fleet and the ledger: tables, posting rules, post_entry() (design §3, §4)."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0002_fleet.sql")
    for name in ("ledger_tables.sql", "canonical.sql", "posting_rules.sql", "post_entry.sql"):
        run_sql(op.get_bind(), "custody.ledger.sql", name)

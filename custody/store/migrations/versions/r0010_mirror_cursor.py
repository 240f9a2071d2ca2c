"""The mirror follows the ledger by its transactions, instead of an outbox row an entry."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0010_mirror_cursor.sql")

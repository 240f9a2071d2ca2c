"""Block hashes of the watched window, agreement of nodes, and the fence of a chain's one watcher (L12 to L14)."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0005_chain_watching.sql")

"""Gas payers' nonce lanes: leases, every signature of a nonce, cancels, and lanes that are frozen."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0024"
down_revision = "0018"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0024_payer_lanes.sql")

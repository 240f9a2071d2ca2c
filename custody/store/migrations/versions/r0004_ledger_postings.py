"""The ledger's batches, adjustments by hand, and the payments' state machine in the database (design §4, R10)."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for package, name in (
        ("custody.store.migrations.sql", "0004_payment_transitions.sql"),
        ("custody.payments.sql", "payment_transitions.sql"),
        ("custody.ledger.sql", "fact_sums.sql"),
        ("custody.store.migrations.sql", "0004_ledger_postings.sql"),
    ):
        run_sql(op.get_bind(), package, name)

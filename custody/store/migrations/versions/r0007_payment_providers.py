"""Intents of the scanner, the look behind each delivery, and how far an API of payments was read."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0007_payment_providers.sql")

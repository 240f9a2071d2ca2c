"""Intents of the scanner, the look behind each delivery, and how far an API of payments was read."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0006_payment_providers.sql")

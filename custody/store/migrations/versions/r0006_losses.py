"""Losses, what leaves the treasury without us, and going on after a pause (L5, L14, R5, R10)."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    for package, name in (
        ("custody.store.sql", "chain_pauses.sql"),
        ("custody.store.migrations.sql", "0006_losses.sql"),
    ):
        run_sql(op.get_bind(), package, name)

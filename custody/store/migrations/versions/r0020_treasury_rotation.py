"""Rotation of a treasury: instructions that move coins from the one before, and the orders for them."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0020"
down_revision = "0021"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0020_treasury_rotation.sql")

"""The marketplace's own schema as its migrations leave it at 0017 (seed, "Postgres Migration Inventory")."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0001_seed_state_0017.sql")

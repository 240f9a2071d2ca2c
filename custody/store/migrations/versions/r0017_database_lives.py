"""A restored database is known as such, so that the fleet starts paused on it."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0017"
down_revision = "0014"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0017_database_lives.sql")

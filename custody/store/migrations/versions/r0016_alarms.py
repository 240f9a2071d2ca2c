"""Alarms: what came to need people, until somebody knows of it."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    for package, name in (
        ("custody.store.sql", "alarms.sql"),
        ("custody.store.migrations.sql", "0016_alarms.sql"),
    ):
        run_sql(op.get_bind(), package, name)

"""When enough of a Safe's owners had signed a rejection: from then on it waits for the chain alone."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0018"
down_revision = "0025"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0018_rejection_signed.sql")

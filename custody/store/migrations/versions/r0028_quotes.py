"""Oracle quotes: what is asked, what each was made of, and which signed price files were seen."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0028_quotes.sql")

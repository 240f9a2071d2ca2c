"""Whether MongoDB and Postgres hold the same: what verification found."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0027_mirror_agreement.sql")

"""Which store decides of a domain: what two persons cut it over to."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0031"
down_revision = "0030"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0031_cutovers.sql")

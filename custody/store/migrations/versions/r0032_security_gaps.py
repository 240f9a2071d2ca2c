"""Security gaps pause payments until two persons close them (R7, R10)."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0032"
down_revision = "0031"


def upgrade() -> None:
    for package, name in (
        ("custody.store.sql", "security_gaps_closing.sql"),
        ("custody.store.migrations.sql", "0032_security_gaps.sql"),
    ):
        run_sql(op.get_bind(), package, name)

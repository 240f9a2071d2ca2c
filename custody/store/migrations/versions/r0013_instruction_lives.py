"""Every digest of a nonce, requests to cancel or outbid, disputes in the books, refund addresses."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0013"
down_revision = "0017"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0013_instruction_lives.sql")

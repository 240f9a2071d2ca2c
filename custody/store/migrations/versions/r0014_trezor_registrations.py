"""Invitations, challenges and proofs of marketplace Trezors; audits of destinations."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0014"
down_revision = "0011"


def upgrade() -> None:
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0014_trezor_registrations.sql")
    run_sql(op.get_bind(), "custody.store.migrations.sql", "0014_destination_audits.sql")

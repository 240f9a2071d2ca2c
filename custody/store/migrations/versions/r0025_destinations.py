"""Quarantine that only two persons lift, sanctioned senders, totals that follow from the sweeps, accounts without a key (R10, R13, R20)."""

from alembic import op

from custody.store.sql_files import run_sql

revision = "0025"
down_revision = "0016"


def upgrade() -> None:
    for package, name in (
        ("custody.store.migrations.sql", "0025_sanctions.sql"),
        ("custody.destinations.sql", "quarantine.sql"),
        ("custody.destinations.sql", "sanctions.sql"),
        ("custody.destinations.sql", "sweep_totals.sql"),
        ("custody.store.migrations.sql", "0025_destinations.sql"),
        ("custody.store.migrations.sql", "0025_forwarders.sql"),
    ):
        run_sql(op.get_bind(), package, name)

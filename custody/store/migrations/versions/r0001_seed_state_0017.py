"""The marketplace's own schema as its migrations leave it at 0017 (seed, "Postgres Migration Inventory")."""

from typing import Final

from alembic import op

from custody.store.sql_files import run_sql

revision = "0001"
down_revision = None

BASELINE: Final = (
    "enums",
    "bridge",
    "users",
    "categories",
    "purchase_requests",
    "payments",
    "ledger",
    "destinations",
    "trezor",
    "config",
    "storefront",
    "conversations",
)
"""One file a domain, in the order in which tables refer to one another."""


def upgrade() -> None:
    for domain in BASELINE:
        run_sql(op.get_bind(), "custody.store.migrations.sql.baseline", f"{domain}.sql")

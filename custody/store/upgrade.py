"""``fleet db upgrade``: roles, revisions, functions, grants, in that order. Safe to repeat and to run twice at once."""

from importlib.resources import files
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, text

from custody.store.roles import OWNER_ROLE, ensure_roles
from custody.store.sql_files import run_sql

_UPGRADE_LOCK: Final = 0x666C6565_74646200  # advisory lock: two upgrades of one database run one after the other


# An upgrade may wait for another one and rewrites big tables: a process's limits would cut it off half-way. They
# end it before an operator gives up watching.
_UPGRADE_LIMITS_MS: Final = {
    "lock_timeout": 600_000,
    "statement_timeout": 1_800_000,
    "transaction_timeout": 3_600_000,
    "idle_in_transaction_session_timeout": 60_000,
}


REPEATED_SQL: Final = (
    ("custody.ledger.sql", "canonical.sql"),
    ("custody.ledger.sql", "posting_rules.sql"),
    ("custody.ledger.sql", "posting_checks.sql"),
    ("custody.ledger.sql", "post_entry.sql"),
    ("custody.ledger.sql", "post_entries.sql"),
    ("custody.ledger.sql", "operator_actions.sql"),
    ("custody.ledger.sql", "disputes.sql"),
    ("custody.store.sql", "chain_pauses.sql"),
    ("custody.store.sql", "database_lives.sql"),
    ("custody.ledger.sql", "fact_sums.sql"),
    ("custody.payments.sql", "payment_transitions.sql"),
    ("custody.store.sql", "scanner_intents.sql"),
    ("custody.store.sql", "entry_mirroring.sql"),
    ("custody.store.sql", "alarms.sql"),
    ("custody.store.sql", "break_glass.sql"),
    ("custody.store.sql", "security_gaps_closing.sql"),
    ("custody.store.sql", "security_gaps.sql"),
    ("custody.store.sql", "cutovers.sql"),
    ("custody.destinations.sql", "quarantine.sql"),
    ("custody.destinations.sql", "sanctions.sql"),
    ("custody.destinations.sql", "sweep_totals.sql"),
    ("custody.store.sql", "grants.sql"),
)
"""Functions, rules and grants are not revised but replaced by what the files say, at the end of every upgrade."""


def alembic_config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("custody.store").joinpath("migrations")))
    config.set_main_option("version_locations", str(files("custody.store").joinpath("migrations/versions")))
    config.set_main_option("path_separator", "newline")
    config.attributes["connection"] = connection
    return config


def upgrade_database(admin: Engine, passwords_dir: Path, revision: str = "head") -> None:
    """Bring the database to ``revision``: make the login roles, run the revisions as the owner, then REPEATED_SQL.

    ``admin``: a superuser, or who may create roles and SET ROLE to the owner. Raises RolePasswordMissing, RoleTooStrong, or the database's own error.
    """
    with admin.connect() as connection:
        for name, milliseconds in _UPGRADE_LIMITS_MS.items():
            connection.execute(
                text("SELECT set_config(:name, :value, false)"), {"name": name, "value": str(milliseconds)}
            )
        connection.commit()
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _UPGRADE_LOCK})
        connection.commit()
        try:
            with connection.begin():
                ensure_roles(connection, passwords_dir)
            connection.execute(text(f"SET ROLE {OWNER_ROLE}"))
            connection.commit()
            command.upgrade(alembic_config(connection), revision)
            connection.commit()
            with connection.begin():
                for package, name in REPEATED_SQL:
                    run_sql(connection, package, name)
            connection.execute(text("RESET ROLE"))
            connection.commit()
        finally:
            connection.rollback()
            connection.execute(text("RESET ROLE"))
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _UPGRADE_LOCK})
            connection.execute(text("RESET ALL"))
            connection.commit()

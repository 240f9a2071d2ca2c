"""``fleet db adopt``: the fleet joins a living database. What it finds stays; what would hurt money stops it.

After it the money tables are the fleet owner's, the backend's role keeps what it needs on them and loses INSERT on the
ledger (L20), and the schema is stamped as revision 0001, so that ``fleet db upgrade`` adds the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from alembic import command
from sqlalchemy import Connection, Engine, text

from custody.store.adoption.catalogue import Catalogue, baseline_statements, expected_catalogue, read_catalogue
from custody.store.adoption.differences import LEDGER, Difference, Severity, differences, renames
from custody.store.roles import OWNER_ROLE, ensure_roles
from custody.store.upgrade import alembic_config

BASELINE_REVISION: Final = "0001"
LOCK_TIMEOUT_MS: Final = 5_000  # a living database goes on: rather give up than make its writers wait

MONEY_TABLES: Final = (
    "payments",
    "payment_quotes",
    LEDGER,
    "derived_destinations",
    "derived_destination_sweeps",
    "trezor_accounts",
    "trezor_derived_addresses",
    "config_settings",
    "config_setting_history",
    "id_map",
    "pg_dualwrite_gaps",
)
"""Tables that later revisions add columns, keys or triggers to, and whose owner could undo every guard on the ledger."""

_BACKEND_RIGHTS: Final = "SELECT, INSERT, UPDATE, DELETE, REFERENCES"
_OWNER_RIGHTS: Final = "SELECT, INSERT, UPDATE, DELETE, REFERENCES, TRIGGER"


class AdoptionRefused(Exception):
    """The database is not adopted. The message says why and what to do; ``found`` are the differences, if it was read."""

    def __init__(self, message: str, found: Sequence[Difference] = ()) -> None:
        super().__init__(message)
        self.found = tuple(found)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What adoption would find: the differences, and the ledger's rows from before the fleet."""

    differences: tuple[Difference, ...]
    ledger_rows: int
    payments: int

    @property
    def blocking(self) -> int:
        """How many differences stop adoption."""
        return sum(item.severity is Severity.BLOCKING for item in self.differences)


def compare(admin: Engine) -> Comparison:
    """Compare ``public`` with state 0017; changes nothing. Raises AdoptionRefused for a database that is adopted already."""
    with admin.connect() as connection:
        _limit(connection)
        try:
            return _compared(connection)[0]
        finally:
            connection.rollback()


def adopt(admin: Engine, passwords_dir: Path, *, backend_role: str) -> Comparison:
    """Adopt the database in one transaction, and return what was compared. ``admin`` as for ``upgrade_database``.

    Raises AdoptionRefused, with nothing changed; RolePasswordMissing and RoleTooStrong as an upgrade does.
    """
    with admin.begin() as connection:
        _limit(connection)
        compared, expected, found = _compared(connection)
        if compared.blocking:
            raise AdoptionRefused(
                f"{compared.blocking} differences stand against it: close each with its statement, then run this again",
                compared.differences,
            )
        _require_backend_role(connection, backend_role)
        ensure_roles(connection, passwords_dir)
        _take_over(connection, found, backend_role)
        for statement in renames(expected, found, MONEY_TABLES):
            connection.execute(text(statement))
        connection.execute(text(f"SET LOCAL ROLE {OWNER_ROLE}"))
        command.stamp(alembic_config(connection), BASELINE_REVISION)
        return compared


def _limit(connection: Connection) -> None:
    connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))


def _compared(connection: Connection) -> tuple[Comparison, Catalogue, Catalogue]:
    if connection.execute(text("SELECT to_regclass('public.fleet_schema_version') IS NOT NULL")).scalar_one():
        raise AdoptionRefused("this database is the fleet's already: run fleet db upgrade")
    expected, found = expected_catalogue(connection), read_catalogue(connection)
    if not found.tables:
        raise AdoptionRefused("there is nothing to adopt in schema public: run fleet db upgrade, which builds it")

    def rows(table: str) -> int:
        if table not in found.tables:
            return 0
        return connection.execute(text(f"SELECT count(*) FROM public.{table}")).scalar_one()  # noqa: S608 - our own names

    compared = Comparison(tuple(differences(expected, found, baseline_statements())), rows(LEDGER), rows("payments"))
    return compared, expected, found


def _require_backend_role(connection: Connection, role: str) -> None:
    """Rights can be taken from an ordinary role only."""
    found = connection.execute(
        text(
            "SELECT rolsuper, pg_has_role(rolname, current_user, 'USAGE') AS is_ours FROM pg_roles WHERE rolname = :role"
        ),
        {"role": role},
    ).one_or_none()
    if found is None:
        raise AdoptionRefused(
            f"backend role: no role {role!r} in this server; expected the one the backend logs in with"
        )
    if found.rolsuper or found.is_ours:
        raise AdoptionRefused(
            f"backend role: {role} is a superuser or a member of the administrator's role, so that nothing can be taken "
            "from it (L20): give the backend a role of its own, NOSUPERUSER, and run this again"
        )


def _take_over(connection: Connection, found: Catalogue, backend_role: str) -> None:
    quote = connection.dialect.identifier_preparer.quote
    backend = quote(backend_role)
    for name in found.tables:
        table = f"public.{quote(name)}"
        if name in MONEY_TABLES:
            connection.execute(text(f"ALTER TABLE {table} OWNER TO {OWNER_ROLE}"))
            connection.execute(text(f"REVOKE ALL ON {table} FROM PUBLIC, {backend}"))
            rights = "SELECT, REFERENCES" if name == LEDGER else _BACKEND_RIGHTS
            connection.execute(text(f"GRANT {rights} ON {table} TO {backend}"))
        else:
            connection.execute(text(f"GRANT {_OWNER_RIGHTS} ON {table} TO {OWNER_ROLE} WITH GRANT OPTION"))

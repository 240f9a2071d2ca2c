"""One database role a process, with the least it needs (custody-rules R9)."""

from pathlib import Path
from typing import Final

from sqlalchemy import Connection, text

OWNER_ROLE: Final = "fleet_owner"
"""Owns every object of the fleet; cannot log in, so no process can drop a trigger."""

PROCESS_ROLES: Final = (
    "fleet_ingress",
    "fleet_webhooks",
    "fleet_watcher",
    "fleet_confirmations",
    "fleet_sweeps",
    "fleet_releases",
    "fleet_signer_api",
    "fleet_mirror",
    "fleet_housekeeping",
    "fleet_relay",
    "fleet_operator",
)
"""Login roles. Each process connects as its own; ``fleet_operator`` is the ``fleet`` command's."""

_PASSWORD_MAXIMUM_BYTES: Final = 512  # a password file is one line; anything longer is the wrong file


class RolePasswordMissing(Exception):
    """A role has no password file. The message names the file to write."""


def read_role_password(directory: Path, role: str) -> str:
    """The password of ``role``, from the file of that name in ``directory`` (a secrets folder).

    Raises RolePasswordMissing if the file is missing, empty or longer than a password is.
    """
    path = directory / role
    if not path.is_file():
        raise RolePasswordMissing(f"no password for {role}: write one line to {path} (mode 0600)")
    raw = path.read_bytes()
    if not raw.strip() or len(raw) > _PASSWORD_MAXIMUM_BYTES:
        raise RolePasswordMissing(f"{path} must hold one line of at most {_PASSWORD_MAXIMUM_BYTES} bytes")
    return raw.decode("utf-8").strip()


def ensure_roles(connection: Connection, passwords_dir: Path) -> None:
    """Create the owner and the login roles, and set each password. Idempotent; run as an administrator."""
    driver = connection.connection.driver_connection
    assert driver is not None
    for role in (OWNER_ROLE, *PROCESS_ROLES):
        # Two upgrades at once may both see the role missing: the second finds it made, and goes on.
        connection.execute(
            text(
                f"DO $$ BEGIN CREATE ROLE {role} NOLOGIN; "
                "EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
            )
        )
    from psycopg import sql  # the only place a literal must be quoted into DDL

    for role in PROCESS_ROLES:
        password = read_role_password(passwords_dir, role)
        statement = sql.SQL("ALTER ROLE {} LOGIN NOINHERIT PASSWORD {}").format(
            sql.Identifier(role), sql.Literal(password)
        )
        driver.execute(statement)
    database = connection.execute(text("SELECT current_database()")).scalar_one()
    driver.execute(
        sql.SQL("GRANT CREATE, CONNECT ON DATABASE {} TO {}").format(
            sql.Identifier(database), sql.Identifier(OWNER_ROLE)
        )
    )
    connection.execute(text(f"GRANT CREATE, USAGE ON SCHEMA public TO {OWNER_ROLE}"))

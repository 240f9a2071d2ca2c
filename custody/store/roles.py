"""One database role a process, with the least it needs (custody-rules R9)."""

import os
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
    "fleet_follower",
    "fleet_housekeeping",
    "fleet_relay",
    "fleet_sealer",
    "fleet_operator",
)
"""Login roles. Each process connects as its own; ``fleet_operator`` is the ``fleet`` command's."""

_PASSWORD_MAXIMUM_BYTES: Final = 512  # a password file is one line; anything longer is the wrong file


class RolePasswordMissing(Exception):
    """A role has no password file that can be used. The message names the file, never its content."""


class RoleTooStrong(Exception):
    """A role of the fleet stands already with more than R9 gives it. The message says what to take away."""


def read_role_password(directory: Path, role: str) -> str:
    """The password of ``role``, from the file of that name in ``directory`` (a secrets folder).

    Raises RolePasswordMissing if the file is missing, can be read by others, or is no single line of text.
    """
    path = directory / role
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(_PASSWORD_MAXIMUM_BYTES + 1)
    except OSError:
        raise RolePasswordMissing(f"no password for {role}: write one line to {path} (mode 0600)") from None
    if mode & 0o077:
        raise RolePasswordMissing(f"{path} can be read by others; run: chmod 600 {path}")
    try:
        password = raw.decode("utf-8").strip()
    except UnicodeDecodeError:
        password = ""
    if not password or len(password.splitlines()) > 1 or len(raw) > _PASSWORD_MAXIMUM_BYTES:
        raise RolePasswordMissing(f"{path} must hold one line of text of at most {_PASSWORD_MAXIMUM_BYTES} bytes")
    return password


def ensure_roles(connection: Connection, passwords_dir: Path) -> None:
    """Create the owner and the login roles, and set each password. Idempotent; run as an administrator."""
    driver = connection.connection.driver_connection
    assert driver is not None
    # Roles are the cluster's: upgrades of two databases at once would update the same rows. Logins go on meanwhile.
    if connection.execute(text("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")).scalar_one():
        connection.execute(text("LOCK TABLE pg_catalog.pg_authid IN SHARE ROW EXCLUSIVE MODE"))
    for role in (OWNER_ROLE, *PROCESS_ROLES):
        # Two upgrades at once may both see the role missing: the second finds it made, and goes on.
        connection.execute(
            text(
                f"DO $$ BEGIN CREATE ROLE {role} NOLOGIN; "
                "EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
            )
        )
    from psycopg import sql  # the only place a literal must be quoted into DDL

    _refuse_strong_roles(connection)
    connection.execute(text(f"ALTER ROLE {OWNER_ROLE} NOLOGIN PASSWORD NULL"))
    for role in PROCESS_ROLES:
        password = read_role_password(passwords_dir, role)
        # The verifier, not the password: the server's log may show a statement that failed.
        verifier = driver.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
        statement = sql.SQL("ALTER ROLE {} LOGIN NOINHERIT PASSWORD {}").format(
            sql.Identifier(role), sql.Literal(verifier.decode())
        )
        driver.execute(statement)
    database = connection.execute(text("SELECT current_database()")).scalar_one()
    driver.execute(
        sql.SQL("GRANT CREATE, CONNECT ON DATABASE {} TO {}").format(
            sql.Identifier(database), sql.Identifier(OWNER_ROLE)
        )
    )
    connection.execute(text(f"GRANT CREATE, USAGE ON SCHEMA public TO {OWNER_ROLE}"))
    # Databases made before PostgreSQL 15 let everybody create there.
    connection.execute(text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))


def _refuse_strong_roles(connection: Connection) -> None:
    """Refuse roles that an earlier hand made strong: grants cannot bind a superuser or a member of the owner."""
    strong = connection.execute(
        text(
            """
            SELECT r.rolname FROM pg_roles r WHERE r.rolname = ANY(:roles) AND (
                r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication OR r.rolbypassrls
                OR EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid))
            ORDER BY r.rolname
            """
        ),
        {"roles": [OWNER_ROLE, *PROCESS_ROLES]},
    ).scalars()
    if names := ", ".join(strong):
        raise RoleTooStrong(
            f"{names}: expected a role without attributes and in no other role; take them away (ALTER ROLE ... "
            "NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS; REVOKE ... FROM ...) and run this again"
        )

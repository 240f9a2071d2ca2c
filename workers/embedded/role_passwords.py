"""A random password for each database role, in the state folder (mode 0600)."""

from pathlib import Path

from custody.store.roles import PROCESS_ROLES
from workers.embedded.state_folder import StateFolder, secret


def ensure_role_passwords(state_dir: Path | str) -> Path:
    """Make the passwords that are missing and return their folder, for DATABASE_ROLE_PASSWORDS_DIR."""
    folder = StateFolder.open(state_dir).root / "secrets" / "database_roles"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for role in PROCESS_ROLES:
        secret(folder / role)
    return folder

"""``fleet broker``: the broker's users, one a process (R24)."""

import secrets
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import unquote, urlsplit

import typer

from custody.settings.environment import SettingsError, read_secret_file
from workers.broker_access import RULES, acl_lines, user_url

ACL_FILE: Final = "valkey_acl"
PASSWORD_BYTES: Final = 24

broker = typer.Typer(no_args_is_help=True, help="The broker's users, one a process.")


@broker.callback()
def _group() -> None:
    """Keeps ``acl`` a command of its own while it is the only one."""


@broker.command()
def acl(
    folder: Annotated[Path, typer.Argument(help="docker compose's secrets folder")],
    host: Annotated[str, typer.Option(help="HOST:PORT of Valkey, as the processes reach it")] = "valkey:6379",
) -> None:
    """Write Valkey's ACL file and each process's BROKER_URL into FOLDER.

    URLs that are there stay: to change a password delete its file, run this again, and restart Valkey and the process.
    """
    if not folder.is_dir():
        raise SettingsError(f"{folder} is no folder: make it first")
    passwords: dict[str, str] = {}
    for name in RULES:
        path = folder / f"broker_url_{name.replace('-', '_')}"
        if not path.exists():
            _write(path, user_url(f"redis://{host}/0", name, secrets.token_urlsafe(PASSWORD_BYTES)))
        parts = urlsplit(read_secret_file(path, what=path.name))
        if parts.username != name or not parts.password:
            raise SettingsError(f"{path}: expected redis://{name}:PASSWORD@HOST:PORT/0, the user of that process")
        passwords[name] = unquote(parts.password)
    _write(folder / ACL_FILE, "\n".join(["user default off", *acl_lines(passwords)]))
    typer.echo(f"{folder / ACL_FILE}: {len(passwords)} users, each with its own broker_url_… beside it")


def _write(path: Path, content: str) -> None:
    part = path.with_name(f"{path.name}.part")
    part.touch(mode=0o600)
    part.write_text(content + "\n", encoding="utf-8")
    part.replace(path)


def register(app: typer.Typer) -> None:
    app.add_typer(broker, name="broker")

"""The ``fleet`` command."""

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import typer

from custody.settings.environment import SettingsError
from workers.telemetry.logging import configure_logging

OPERATOR_ENVIRONMENT: Final = "operator.env"
"""Written by ``fleet up``: the settings an operator's commands need, so that they work from the next shell on."""

app = typer.Typer(
    name="fleet",
    help="The Amanat custody fleet: webhook, confirmed, swept, released, every step in the ledger.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

_MAKE_IT: Final = (["up"], ["demo"])
"""The commands that write that file: from it, their own servers would look like servers that somebody gave them."""

_WITHOUT_IT: Final = ["keys", "agent"]
"""The keys agent refuses to start where a database's or broker's URL is set."""

_COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    "system": ("up", "down", "status"),
    "database": ("db",),
    "payments": ("explain", "release", "delivery", "stuck", "look", "confirmations"),
    "releases": ("releases",),
    "intents": ("intents",),
    "ledger": ("books", "ledger"),
    "settings": ("settings",),
    "chain": ("chain",),
    "alarms": ("alarms",),
    "pause": ("pause", "unpause"),
    "break_glass": ("break-glass",),
    "treasury": ("treasury",),
    "processes": ("run", "watch"),
    "demo": ("demo",),
    "signer": ("signer",),
    "approve": ("signer",),
    "device_lost": ("signer",),
    "device_test": ("signer",),
    "register": ("trezor", "signer"),
    "sessions": ("sessions",),
    "broker": ("broker",),
    "mirror": ("mirror",),
    "gaps": ("gaps",),
    "cutover": ("cutover",),
    "policy": ("policy",),
    "genesis": ("genesis",),
    "keys": ("keys",),
    "deposits": ("deposits",),
    "sweeps": ("sweeps",),
    "contracts": ("contracts",),
    "destinations": ("destinations",),
    "sanctions": ("sanctions",),
    "payers": ("payers",),
    "quotes": ("quotes",),
}
"""Each module with the commands that it adds. Only those of the command that is asked for are imported: all of them together
take seconds, of which ``fleet status`` has no use."""


@app.callback()
def fleet() -> None:
    """With a callback, one command alone stays a command with a name."""


def register_commands(asked: str | None) -> None:
    """Add the commands of the word after ``fleet``; all of them for any other word, or none."""
    chosen = [module for module, commands in _COMMANDS.items() if asked in commands] or list(_COMMANDS)
    for name in chosen:
        importlib.import_module(f"workers.cli.{name}").register(app)


def main() -> None:
    """Entry point: errors that people can act on are one sentence and exit code 2, never a traceback."""
    environment = Path(os.environ.get("FLEET_STATE_DIR", ".fleet")) / OPERATOR_ENVIRONMENT
    makes_it = sys.argv[1:2] in _MAKE_IT or sys.argv[1:3] == _WITHOUT_IT
    if "FLEET_ENV_FILE" not in os.environ and environment.is_file() and not makes_it:
        os.environ["FLEET_ENV_FILE"] = str(environment)
    # People read what a command prints; its log lines only matter when something is wrong.
    configure_logging(level="warning", log_format="console")
    register_commands(sys.argv[1] if len(sys.argv) > 1 else None)
    try:
        app()
    except _refusals() as error:
        typer.secho(str(error), fg="red", err=True)
        sys.exit(2)


def _refusals() -> tuple[type[Exception], ...]:
    """The errors whose message already says what to do."""
    found: list[type[Exception]] = [SettingsError]
    for module, name in (
        ("custody.settings.thresholds", "SettingRefused"),
        ("custody.store.roles", "RolePasswordMissing"),
        ("custody.store.roles", "RoleTooStrong"),
        ("custody.chain.errors", "ChainUnavailable"),
        ("custody.chain.errors", "WrongChain"),
        ("custody.chain.depth", "UnknownChain"),
        ("workers.embedded.errors", "EmbeddedServiceError"),
        ("workers.demo.provision", "StateFolderOfAnotherChain"),
        ("workers.demo.development_chain", "NotDevelopmentChain"),
    ):
        # Only what a command has already imported can have been raised.
        loaded = sys.modules.get(module)
        if loaded is not None:
            found.append(getattr(loaded, name))
    return tuple(found)

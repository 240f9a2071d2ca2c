"""The ``fleet`` command."""

import importlib
import os
import sys
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

_GROUPS: Final = (
    "system",
    "database",
    "payments",
    "releases",
    "intents",
    "ledger",
    "settings",
    "chain",
    "alarms",
    "pause",
    "break_glass",
    "treasury",
    "processes",
    "demo",
    "signer",
    "approve",
    "device_lost",
    "device_test",
    "sessions",
    "broker",
    "mirror",
    "gaps",
    "policy",
    "genesis",
    "keys",
    "deposits",
    "sweeps",
    "contracts",
    "destinations",
    "sanctions",
    "payers",
    "quotes",
    "register",
    "mirror",
)


def _register() -> None:
    for name in _GROUPS:
        importlib.import_module(f"workers.cli.{name}").register(app)


def main() -> None:
    """Entry point: errors that people can act on are one sentence and exit code 2, never a traceback."""
    environment = Path(os.environ.get("FLEET_STATE_DIR", ".fleet")) / OPERATOR_ENVIRONMENT
    makes_it = sys.argv[1:2] in _MAKE_IT or sys.argv[1:3] == _WITHOUT_IT
    if "FLEET_ENV_FILE" not in os.environ and environment.is_file() and not makes_it:
        os.environ["FLEET_ENV_FILE"] = str(environment)
    # People read what a command prints; its log lines only matter when something is wrong.
    configure_logging(level="warning", log_format="console")
    _register()
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

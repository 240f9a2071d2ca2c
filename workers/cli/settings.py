"""``fleet settings``: thresholds now, with their history."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from sqlalchemy import Connection, text

from custody.chain.depth import effective_threshold, floor
from custody.settings.environment import settings as read_settings
from custody.settings.thresholds import (
    KEY_PREFIX,
    SettingRefused,
    lock_threshold,
    newest_threshold,
    set_threshold,
)
from custody.store.engine import open_engine, transaction
from workers.cli.terminal import shown

settings = typer.Typer(
    help="Settings that bind while the fleet runs, each change with its history.", no_args_is_help=True
)


def _chain_id(key: str) -> int:
    number = key.removeprefix(KEY_PREFIX)
    if not key.startswith(KEY_PREFIX) or not (number.isascii() and number.isdecimal()):
        raise SettingRefused(f"{key}: expected {KEY_PREFIX}CHAIN_ID, e.g. {KEY_PREFIX}31337")
    return int(number)


def _binding(connection: Connection, chain_id: int) -> int:
    try:
        newest = newest_threshold(connection, chain_id)
        return effective_threshold(chain_id, None if newest is None else newest.value_blocks)
    except (SettingRefused, ValueError):
        # A row that no judgement can use stops the chain; any legal value repairs it.
        return floor(chain_id)


@settings.command("set")
def set_(
    key: Annotated[str, typer.Argument(help="confirmation_threshold:CHAIN_ID")],
    value: Annotated[int, typer.Argument(help="blocks")],
    by: Annotated[str, typer.Option(help="who changes it (a label, never an authority)")],
    reason: Annotated[str, typer.Option(help="why")],
) -> None:
    """Write a setting and its history row; it binds on the next judgement, within 30 s.

    Lowering a threshold on a chain with real money needs two signatures and is refused here (custody-rules R10).
    """
    chain_id = _chain_id(key)
    configured = read_settings()
    engine = open_engine(configured.secret("database_url"), application="fleet-settings", pool_size=1)
    try:
        with transaction(engine) as connection:
            lock_threshold(connection, chain_id)
            now = _binding(connection, chain_id)
            if value < now and floor(chain_id) > 1:
                raise SettingRefused(
                    f"{key} is {now}; lowering it to {value} needs the signatures of two persons (R10), "
                    "which this version cannot take"
                )
            row = set_threshold(connection, chain_id, value, floor_blocks=floor(chain_id), by=by, reason=reason)
    finally:
        engine.dispose()
    typer.echo(f"{key} = {value} blocks (history row {row.history_id})")


@settings.command()
def show() -> None:
    """Every threshold: what binds, since when, who changed it and why."""
    engine = open_engine(read_settings().secret("database_url"), application="fleet-settings", pool_size=1)
    table = Table(Column("key", overflow="fold"), "blocks", "was", "changed", "by", "reason")
    with engine.connect() as connection:
        for row in connection.execute(
            text(
                "SELECT key, new_value, old_value, changed_at, changed_by_label, reason "
                "FROM public.config_setting_history ORDER BY key, changed_at DESC, id DESC LIMIT 200"
            )
        ):
            table.add_row(
                shown(row.key),
                str(int(row.new_value)),
                "" if row.old_value is None else str(int(row.old_value)),
                f"{row.changed_at:%Y-%m-%d %H:%M:%S}",
                shown(row.changed_by_label or ""),
                shown(row.reason or ""),
            )
    engine.dispose()
    Console().print(table)


def register(app: typer.Typer) -> None:
    app.add_typer(settings, name="settings")

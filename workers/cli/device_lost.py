"""``fleet signer device lost``: an approver's device is gone or not to be trusted any more (R3, R22)."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import text

from custody.policy import PolicyRefused
from custody.policy.documents import read_toml
from custody.policy.succession import Head, revoke_approver
from custody.policy.verified import GENESIS_FILE, POLICY_FILE
from custody.sessions import bar
from custody.settings.environment import settings
from custody.store.engine import open_engine, transaction
from workers.cli.signer import EXIT_REFUSED, signer

device = typer.Typer(help="Devices: lost ones, and ones to be tried out.", no_args_is_help=True)


@device.callback()
def _group() -> None:
    """Keeps ``lost`` a command of its own wherever it is the only one that is loaded."""


@device.command()
def lost(
    person: Annotated[str, typer.Argument(help="whose device it was, as the genesis names them")],
    folder: Annotated[Path | None, typer.Option(help="a working copy of the signed files; default POLICY_DIR")] = None,
) -> None:
    """Draft the genesis in which a person approves no more. The others sign it; from then on nothing of theirs counts.

    With DATABASE_URL set, the address book's head is put into it, so that entries which this person signed stand, and
    the device's sessions at the signer API end at once, before anybody has signed anything.
    """
    where = folder or settings().path("policy_dir")
    try:
        drafted = revoke_approver(where, person, datetime.now(UTC).replace(microsecond=0), book=_book_head())
    except PolicyRefused as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(EXIT_REFUSED) from None
    if (address := _bar(person, where)) is not None:
        typer.echo(f"{address} logs in at the signer API no more, from now on.")
    history = where / "history" / f"genesis-{drafted.version - 1}.toml"
    typer.echo(
        f"{where / GENESIS_FILE} is version {drafted.version}: {person} approves no more once {drafted.k} sign it."
    )
    typer.echo("Each of the others, on a machine of their own:")
    for name in (GENESIS_FILE, POLICY_FILE):
        by = history if name == GENESIS_FILE else where / GENESIS_FILE
        typer.echo(f"  fleet policy sign {where / name} --genesis {by} --as PERSON --device PATH")
    typer.echo(
        "Then put the folder where the workers read it (POLICY_DIR). What only they had approved is asked again."
    )


def _book_head() -> Head | None:
    """The address book's length and last hash, where a database is at hand."""
    configured = settings()
    if configured.database_url is None:
        return None
    engine = open_engine(configured.secret("database_url"), application="fleet-device-lost", pool_size=1)
    try:
        with transaction(engine) as connection:
            row = connection.execute(
                text(
                    "SELECT number, hash FROM fleet.address_book WHERE number IS NOT NULL ORDER BY number DESC LIMIT 1"
                )
            ).one_or_none()
    finally:
        engine.dispose()
    return None if row is None else (row.number, row.hash)


def _bar(person: str, folder: Path) -> str | None:
    """End the lost device's sessions, where a database is at hand; returns its address."""
    configured = settings()
    if configured.database_url is None:
        return None
    before = read_toml(folder / GENESIS_FILE)["approvers"]
    address: str = [each["address"] for each in before if each["person"] == person][-1]
    engine = open_engine(configured.secret("database_url"), application="fleet-device-lost", pool_size=1)
    try:
        with transaction(engine) as connection:
            bar(connection, address, by="fleet signer device lost", reason=f"the device of {person} is lost")
    finally:
        engine.dispose()
    return address


def register(_app: typer.Typer) -> None:
    signer.add_typer(device, name="device")

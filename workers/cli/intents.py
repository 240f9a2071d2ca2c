"""``fleet intents issue``: what the scanner is told about a payment, with the secret of its callbacks."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from custody.payments.story import PaymentUnknown, find_payment
from custody.providers.amn_scanner.intents import IntentRefused, issue_intent
from custody.settings.environment import settings
from custody.store.engine import open_engine, transaction

intents = typer.Typer(help="Intents of the amn.scanner rail.", no_args_is_help=True)


@intents.callback()
def _group() -> None:
    """Keeps ``issue`` a command of its own while it is the only one."""


@intents.command()
def issue(
    payment: Annotated[str, typer.Argument(help="payment id, Mongo id, payment reference or transaction hash")],
    callback_url: Annotated[str, typer.Option(help="https://HOST/webhooks/amn-scanner as the scanner reaches it")],
    to: Annotated[Path, typer.Option(help="a new file (mode 0600) for the body of the scanner's POST /intents")],
) -> None:
    """Issue an intent of a payment, and write what the scanner is to be told into a private file.

    The file holds the secret that signs the scanner's callbacks: hand it over and delete it. It is shown nowhere else.
    """
    try:
        descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        typer.secho(f"{to} cannot be made: {error.strerror}; expected the path of a new file", fg="red", err=True)
        raise typer.Exit(1) from None
    engine = open_engine(settings().secret("database_url"), application="fleet-intents", pool_size=1)
    written = False
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            with transaction(engine) as connection:
                issued = issue_intent(connection, find_payment(connection, payment))
            # After the commit: a file never names an intent that does not exist.
            json.dump(issued.request(callback_url), file, indent=2)
        written = True
        typer.echo(f"intent {issued.intent_id}: hand {to} to the scanner (POST /intents), then delete it")
    except (IntentRefused, PaymentUnknown) as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(1) from None
    finally:
        engine.dispose()
        if not written:
            to.unlink()


def register(app: typer.Typer) -> None:
    app.add_typer(intents, name="intents")

"""``fleet signer login``, ``logout`` and ``whoami``: sessions at the signer API, opened by a device (R6)."""

import json
from typing import Annotated

import typer
from rich.console import Console

from custody.trezor import DeviceRejected
from workers.cli.signer.desk import (
    EXIT_REFUSED,
    EXIT_REJECTED,
    SENTENCES,
    approver_login,
    client_of,
    fail,
    session_file,
    signer,
    signing_login,
)
from workers.signer import SignerApiError
from workers.signer.client import UNAUTHORISED
from workers.signer.logging_in import OneSession
from workers.signer.session_file import KeptSession


@signer.command()
def login(
    person: Annotated[
        str | None,
        typer.Option("--as", help="log in as this approver; default: the device that signs for the treasury"),
    ] = None,
) -> None:
    """Log in at the signer API with your device. Other commands do it by themselves when they need to.

    The session is kept in FLEET_STATE_DIR, for you alone. Exit codes: 0 logged in, 2 refused or failed, 3 rejected on
    the device.
    """
    access = signing_login() if person is None else approver_login()
    try:
        with client_of(access) as api:
            session = access.log_in(api)
        if person is not None and session.person != person:
            raise SignerApiError(
                f"The device is {session.person or session.role}'s, not {person}'s; its session is kept as what it is."
            )
    except DeviceRejected as error:
        raise fail(error, EXIT_REJECTED) from None
    except SENTENCES as error:
        raise fail(error) from None
    Console().print(_said(session), soft_wrap=True, highlight=False)


@signer.command()
def logout() -> None:
    """End this machine's sessions at the signer API at once, and forget them."""
    ended = 0
    try:
        for session in _here():
            try:
                with client_of(OneSession(session.token)) as api:
                    api.delete("/v1/session")
            except SignerApiError as error:
                if error.status != UNAUTHORISED:
                    raise
            session_file().remove(session.token)
            ended += 1
    except SENTENCES as error:
        raise fail(error) from None
    Console().print(f"{ended} sessions ended." if ended != 1 else "1 session ended.")


@signer.command()
def whoami(as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False) -> None:
    """Who this machine is logged in as, by the signer API's own word. Exit code 2 when it is nobody."""
    known: list[KeptSession] = []
    try:
        for session in _here():
            try:
                with client_of(OneSession(session.token)) as api:
                    api.get("/v1/session")
            except SignerApiError as error:
                if error.status != UNAUTHORISED:
                    raise
                session_file().remove(session.token)
                continue
            known.append(session)
    except SENTENCES as error:
        raise fail(error) from None
    if as_json:
        typer.echo(
            json.dumps(
                [
                    {
                        "address": each.address,
                        "role": each.role,
                        "person": each.person,
                        "expires_at": each.expires_at.isoformat(),
                    }
                    for each in known
                ],
                indent=2,
            )
        )
    else:
        for each in known:
            Console().print(_said(each), soft_wrap=True, highlight=False)
    if not known:
        typer.secho("Nobody is logged in here: fleet signer login.", fg="red", err=True)
        raise typer.Exit(EXIT_REFUSED)


def _here() -> list[KeptSession]:
    """This machine's sessions at the API that it is set to."""
    place = signing_login().place
    return [each for each in session_file().sessions() if each.is_at(place)]


def _said(session: KeptSession) -> str:
    who = f"{session.person} ({session.address})" if session.person else f"{session.role} {session.address}"
    return f"Logged in as {who} until {session.expires_at:%Y-%m-%d %H:%M:%S} UTC."

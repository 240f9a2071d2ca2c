"""``fleet signer register`` on a signer's machine, and ``fleet trezor`` for the operators who invite and revoke."""

from collections.abc import Callable
from typing import Annotated, TypeVar
from uuid import UUID

import typer
from rich.console import Console
from rich.panel import Panel
from sqlalchemy import Connection, text

from custody.payments.story import PaymentUnknown, find_payment
from custody.registration import RegistrationRefused, invite, issue_address, revoke
from custody.registration.accounts import PURPOSE, find_user
from custody.settings.environment import SettingsError, settings
from custody.store.engine import open_engine, ring_relay, transaction
from custody.trezor import DeviceError, DeviceRejected
from custody.trezor.text_rows import TextNotShowable, rows_of
from workers.cli.signer import EXIT_REFUSED, EXIT_REJECTED, signer
from workers.cli.signer.desk import ask_pin, client_of, trust
from workers.signer.certificate import place_at
from workers.signer.client import SignerApiError
from workers.signer.registering import RegisteringDesk, RegistrationFailed, register_device

trezor = typer.Typer(no_args_is_help=True, help="Trezors of the marketplace's users: invite, revoke, addresses.")

_Result = TypeVar("_Result")
_User = Annotated[str, typer.Argument(help="the user's id or Mongo id")]
_By = Annotated[str, typer.Option(help="who asks; a label, never an authority")]


def register_this_device(
    user: Annotated[str, typer.Option(help="id of the user the device is registered for")],
    label: Annotated[str | None, typer.Option(help="what to call the device")] = None,
) -> None:
    """Register the attached Trezor for a marketplace user: it signs a text that is built and shown here.

    Asks for the code of `fleet trezor invite`. Exit codes: 0 registered, 2 refused or failed, 3 rejected on the device.
    """
    try:
        configured = settings().require("trezor_path")
        known = trust()
        desk = RegisteringDesk(
            device_path=configured.trezor_path or "",
            place=place_at(
                configured.signer_api_url, pinned=known.api.certificate_sha256 if known and known.api else None
            ),
            user_id=UUID(user),
            approval_timeout_seconds=configured.trezor_approval_timeout_seconds,
            label=label,
            pin_callback=ask_pin,
        )
        # Asked for, not an argument: process lists show arguments.
        invitation = typer.prompt("invitation code", hide_input=True).strip()
        with client_of(None) as api:  # the invitation is what lets in
            made = register_device(api, desk, invitation, show=_show_text)
    except DeviceRejected as error:
        raise _fail(str(error), EXIT_REJECTED) from None
    except ValueError as error:
        raise _fail(
            f"{error}; expected the user's id, a UUID" if not isinstance(error, TextNotShowable) else str(error)
        ) from None
    except (RegistrationFailed, SignerApiError, DeviceError, SettingsError) as error:
        raise _fail(str(error)) from None
    Console().print(f"Registered: device {made.device_fingerprint}, address {made.address}, for user {desk.user_id}.")


@trezor.command("invite")
def invite_user(user: _User, by: _By) -> None:
    """Make a code with which one device is registered for the user, within an hour."""

    def work(connection: Connection) -> tuple[UUID, str, str]:
        user_id = find_user(connection, user)
        code, expires_at = invite(connection, user_id, by=by)
        return user_id, code, f"{expires_at:%Y-%m-%d %H:%M} UTC"

    user_id, code, ends = _as_operator(work)
    typer.echo(f"invitation code {code}, until {ends}. On the signer's machine: fleet signer register --user {user_id}")


@trezor.command("revoke")
def revoke_account(user: _User, by: _By, reason: Annotated[str, typer.Option(help="why")]) -> None:
    """Revoke the user's registered account at once: no address of it is issued any more."""
    fingerprint = _as_operator(
        lambda connection: revoke(connection, find_user(connection, user), by=by, reason=reason), rings=True
    )
    typer.echo(f"account {fingerprint} is revoked; addresses issued before stay in the books")


@trezor.command("address")
def issue_an_address(
    user: _User,
    payment: Annotated[str, typer.Argument(help="payment id, Mongo id or payment reference")],
    purpose: Annotated[str, typer.Option(help="what it is for")] = PURPOSE,
) -> None:
    """The address of the user's account for a payment; the same payment has the same address."""
    issued = _as_operator(
        lambda connection: issue_address(
            connection, find_user(connection, user), find_payment(connection, payment), purpose=purpose
        ),
        rings=True,
    )
    typer.echo(f"{issued.address}  {issued.path}")


@trezor.command("list")
def list_accounts() -> None:
    """Registered accounts, the newest first, and what was refused lately."""

    def work(connection: Connection) -> list[str]:
        rows = connection.execute(
            text(
                """
                SELECT a.user_id, a.xpub_fingerprint, a.active, a.next_address_index, a.device_label, r.device_model,
                    r.device_fingerprint
                FROM public.trezor_accounts a LEFT JOIN LATERAL (
                    SELECT device_model, device_fingerprint FROM fleet.trezor_registrations r
                    WHERE r.trezor_account_id = a.id ORDER BY r.received_at DESC LIMIT 1) r ON true
                ORDER BY a.created_at DESC LIMIT 100
                """
            )
        ).all()
        refused = connection.execute(
            text(
                "SELECT received_at, address, reason FROM fleet.trezor_registrations WHERE state = 'refused' "
                "ORDER BY received_at DESC LIMIT 10"
            )
        ).all()
        return [
            f"{row.user_id}  {row.xpub_fingerprint}  {'active' if row.active else 'revoked':8}"
            f"{row.next_address_index - 1} addresses  {row.device_model or ''} {row.device_fingerprint or ''} "
            f"{row.device_label or ''}".rstrip()
            for row in rows
        ] + [f"refused {row.received_at:%Y-%m-%d %H:%M} {row.address}: {row.reason}" for row in refused]

    for line in _as_operator(work):
        typer.echo(line)


def _show_text(shown: str) -> None:
    Console().print(Panel("\n".join(rows_of(shown)), title="the device shows exactly this", expand=False))


def _as_operator(work: Callable[[Connection], _Result], *, rings: bool = False) -> _Result:
    engine = open_engine(settings().secret("database_url"), application="fleet-trezor", pool_size=1)
    try:
        with transaction(engine) as connection:
            made = work(connection)
        if rings:
            ring_relay(engine)
    except (RegistrationRefused, PaymentUnknown) as error:
        raise _fail(str(error), 1) from None
    finally:
        engine.dispose()
    return made


def _fail(sentence: str, code: int = EXIT_REFUSED) -> typer.Exit:
    typer.secho(sentence, fg="red", err=True)
    return typer.Exit(code)


def register(app: typer.Typer) -> None:
    if not any(command.name == "register" for command in signer.registered_commands):
        signer.command("register")(register_this_device)
    app.add_typer(trezor, name="trezor")

"""``fleet signer``: what a signer does. It talks to the signer API and to the device, never to a database."""

import json
import time
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from custody.settings.chains import Chains, load_chains
from custody.settings.environment import SettingsError, read_secret_file, settings
from custody.trezor import DeviceError, DeviceRejected
from custody.trezor.derivation import DerivationPathError
from workers.signer import (
    ApiInstruction,
    Event,
    InstructionRefused,
    SignerApiError,
    SignerClient,
    SigningDeskSettings,
    check_instruction,
    sign_instruction,
    sign_open_instructions,
)
from workers.signer.safe_desk import check_safe_instruction, describe_safe
from workers.signer.session import describe

EXIT_REFUSED: Final = 2
EXIT_REJECTED: Final = 3
"""The person said no on the device; the instruction stays open with that reason."""
WATCH_SECONDS: Final = 1.0

signer = typer.Typer(help="Sign releases on the treasury device.", no_args_is_help=True)
console = Console()

ChainsFile = Annotated[
    Path | None, typer.Option("--chains-file", help="this machine's own chains file; default CHAINS_FILE")
]


def _client() -> SignerClient:
    configured = settings()
    token = read_secret_file(configured.path("signer_api_token_file"), what="SIGNER_API_TOKEN_FILE")
    return SignerClient(configured.signer_api_url, token)


def _chains(given: Path | None) -> Chains:
    return load_chains(given or settings().path("chains_file"))


def _desk() -> SigningDeskSettings:
    configured = settings().require("trezor_path")
    return SigningDeskSettings(
        device_path=configured.trezor_path or "",
        derivation_path=configured.trezor_derivation_path,
        approval_timeout_seconds=configured.trezor_approval_timeout_seconds,
        fee_cap_wei=configured.release_max_total_fee_wei,
        pin_callback=_ask_pin,
        passphrase=None,
    )


def _ask_pin() -> str:
    return typer.prompt("PIN: the positions on the grid that the device shows (1 to 9)", hide_input=True)


def _fail(error: Exception, code: int = EXIT_REFUSED) -> typer.Exit:
    typer.secho(str(error), fg="red", err=True)
    return typer.Exit(code)


_SENTENCES = (SignerApiError, InstructionRefused, DeviceError, DerivationPathError, SettingsError)


@signer.command()
def inbox(as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False) -> None:
    """Instructions that have not ended: those that wait for a signer first."""
    try:
        with _client() as client:
            found = client.instructions()
    except _SENTENCES as error:
        raise _fail(error) from None
    if as_json:
        typer.echo(json.dumps([each.model_dump(exclude={"evidence"}) for each in found], indent=2))
        return
    console.print(_table(found))


@signer.command()
def show(instruction_id: Annotated[str, typer.Argument()], chains_file: ChainsFile = None) -> None:
    """One instruction: what this machine decodes from its bytes, and the evidence behind it."""
    try:
        with _client() as client:
            claimed = client.instruction(instruction_id)
        console.print_json(json.dumps(claimed.model_dump()))
        if claimed.unsigned_bytes is not None:
            fee_cap = settings().release_max_total_fee_wei
            if claimed.unsigned_kind == "safe_transaction":
                lines = describe_safe(check_safe_instruction(claimed, _chains(chains_file), fee_cap_wei=fee_cap))
            else:
                lines = describe(check_instruction(claimed, _chains(chains_file), fee_cap_wei=fee_cap))
            console.print(Panel("\n".join(lines), title="decoded here", title_align="left"))
    except _SENTENCES as error:
        raise _fail(error) from None


@signer.command()
def sign(
    instruction_id: Annotated[str | None, typer.Argument(help="default: the one that waits")] = None,
    every: Annotated[bool, typer.Option("--all", help="one after another until none is open")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask here; the device always asks")] = False,
    wait: Annotated[
        int,
        typer.Option("--wait", min=0, max=86_400, help="with --all: seconds to wait for more when none is open"),
    ] = 0,
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="with --all: end after this many signatures")
    ] = None,
    chains_file: ChainsFile = None,
) -> None:
    """Check an instruction on this machine, show it as the device will, and sign it there.

    Exit codes: 0 signed, 2 refused or failed, 3 rejected on the device.
    """
    if every and instruction_id is not None:
        raise typer.BadParameter("give an instruction or --all, not both")

    def confirm(_checked: object, _screens: tuple[str, ...]) -> bool:
        return yes or typer.confirm("Send it to the device?")

    try:
        chains, desk = _chains(chains_file), _desk()
        with _client() as client:
            if every:
                outcome = sign_open_instructions(
                    client,
                    chains,
                    desk,
                    wait_seconds=wait,
                    count=count,
                    progress=_print_event,
                    confirm=confirm,
                )
                console.print(f"{len(outcome.signed)} signed.")
                if outcome.rejected:
                    raise typer.Exit(EXIT_REJECTED)
                if outcome.errors:
                    typer.secho(outcome.errors[-1], fg="red", err=True)
                    raise typer.Exit(EXIT_REFUSED)
                return
            chosen = instruction_id or _one_that_waits(client)
            if not sign_instruction(client, chains, desk, chosen, progress=_print_event, confirm=confirm):
                console.print("Nothing was sent to the device; the instruction stays open.")
    except DeviceRejected as error:
        raise _fail(error, EXIT_REJECTED) from None
    except _SENTENCES as error:
        raise _fail(error) from None


@signer.command()
def reject(
    instruction_id: Annotated[str, typer.Argument()],
    reason: Annotated[str, typer.Option(help="why; shown to operators")],
) -> None:
    """Say that an instruction is not signed, and why. It stays open with that reason."""
    try:
        with _client() as client:
            client.submit_rejection(instruction_id, reason)
    except _SENTENCES as error:
        raise _fail(error) from None
    console.print(f"Instruction {instruction_id} stays open: {reason}")


@signer.command()
def watch() -> None:
    """Tell of each instruction that starts to wait for a signer, until interrupted."""
    seen: set[str] = set()
    try:
        with _client() as client:
            while True:
                for each in client.instructions():
                    if each.waits_for_signer and each.id not in seen:
                        seen.add(each.id)
                        console.print(
                            f"{each.id}  {each.amount} {each.symbol} to {each.label or each.recipient}: "
                            f"fleet signer sign {each.id}"
                        )
                time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        return
    except _SENTENCES as error:
        raise _fail(error) from None


def _one_that_waits(client: SignerClient) -> str:
    for each in client.instructions():
        if each.state == "handed_out":
            return each.id
    raise InstructionRefused("No instruction is handed out; see `fleet signer inbox`.")


def _print_event(event: Event) -> None:
    if event.kind == "checked":
        console.print(Panel("\n".join(event.lines), title="decoded on this machine", title_align="left"))
        for number, screen in enumerate(event.screens, start=1):
            console.print(Panel(screen, title=f"device screen {number}", title_align="left", expand=False))
        console.print(event.text, style="dim")
    elif event.kind == "signed":
        console.print(event.text, style="green")
    elif event.kind in {"rejected", "refused", "device_error"}:
        typer.secho(event.text, fg="red", err=True)
    else:
        console.print(event.text, style="dim")


def _table(found: list[ApiInstruction]) -> Table:
    table = Table("instruction", "state", "amount", "to", "chain", "nonce", "since", "why it waits")
    for each in found:
        table.add_row(
            each.id,
            each.state,
            f"{each.amount} {each.symbol}",
            each.label or each.recipient,
            str(each.chain_id),
            "" if each.nonce is None else str(each.nonce),
            (each.handed_out_at or each.created_at)[:19],
            each.rejected_reason or each.held_reason or "",
        )
    return table


def register(app: typer.Typer) -> None:
    app.add_typer(signer, name="signer")

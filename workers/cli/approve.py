"""``fleet signer approve``: an approver's device signs what waits for approval. No database, no policy of a server."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.panel import Panel

from custody.policy import PolicyRefused, load_folder
from custody.settings.environment import SettingsError, settings
from custody.trezor import DeviceError, DeviceRejected
from workers.cli.signer import EXIT_REFUSED, EXIT_REJECTED, signer
from workers.cli.signer.desk import approver_client, ask_pin
from workers.signer import InstructionRefused, SignerApiError
from workers.signer.approving import ApproverDesk, approvable_instruction, approve, approve_open


def _desk(person: str) -> ApproverDesk:
    configured = settings().require("trezor_path", "policy_dir", "genesis_hash")
    verified = load_folder(configured.path("policy_dir"), root=configured.genesis_hash, now=datetime.now(UTC))
    return ApproverDesk(
        verified=verified,
        person=person,
        device_path=configured.trezor_path or "",
        approval_timeout_seconds=configured.trezor_approval_timeout_seconds,
        fee_cap_wei=configured.release_max_total_fee_wei,
        pin_callback=ask_pin,
    )


def approve_command(
    person: Annotated[str, typer.Option("--as", help="who approves, as the genesis names them")],
    instruction_id: Annotated[str | None, typer.Argument(help="an instruction; default: what waits")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="address book entries and instructions, one after another")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask here; the device always asks")] = False,
    wait: Annotated[
        int, typer.Option("--wait", min=0, max=86_400, help="with --all: seconds to wait for more when nothing waits")
    ] = 0,
) -> None:
    """Approve releases and address book entries on your own device.

    This machine's POLICY_DIR and GENESIS_HASH say who may be paid and who approves; whatever differs from them is
    refused. Compare the rows with what the device shows. Exit codes: 0 approved, 2 refused or failed, 3 rejected on the
    device.
    """
    if every and instruction_id is not None:
        raise typer.BadParameter("give an instruction or --all, not both")

    def confirm(_rows: tuple[str, ...]) -> bool:
        return yes or typer.confirm("Send it to the device?")

    try:
        desk = _desk(person)
        with approver_client(desk.approver().address) as client:
            if instruction_id is not None:
                wanted = [approvable_instruction(client.instruction(instruction_id), desk, datetime.now(UTC))]
                approve(client, desk, wanted, progress=_print, confirm=confirm)
                return
            outcome = approve_open(client, desk, wait_seconds=wait if every else 0, progress=_print, confirm=confirm)
    except DeviceRejected as error:
        raise _failed(error, EXIT_REJECTED) from None
    except (SignerApiError, InstructionRefused, DeviceError, SettingsError, PolicyRefused) as error:
        raise _failed(error, EXIT_REFUSED) from None
    Console().print(f"{len(outcome.approved)} approved.")
    for sentence in outcome.refused.values():
        typer.secho(sentence, fg="red", err=True)
    if outcome.refused:
        raise typer.Exit(EXIT_REFUSED)


def _print(sentence: str, rows: tuple[str, ...]) -> None:
    Console().print(sentence, soft_wrap=True, markup=False)
    if rows:
        Console().print(Panel("\n".join(rows), title="the device shows", title_align="left", expand=False))


def _failed(error: Exception, code: int) -> typer.Exit:
    typer.secho(str(error), fg="red", err=True)
    return typer.Exit(code)


def register(_app: typer.Typer) -> None:
    signer.command("approve")(approve_command)

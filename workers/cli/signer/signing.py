"""``fleet signer sign`` and ``reject``: the two answers to an instruction."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.panel import Panel

from custody.trezor import DeviceRejected
from workers.cli.signer.desk import (
    EXIT_REFUSED,
    EXIT_REJECTED,
    SENTENCES,
    ChainsFile,
    VerifyRpc,
    chains,
    client,
    desk,
    fail,
    open_journal,
    signer,
)
from workers.signer import (
    Event,
    SignerClient,
    SigningDeskSettings,
    sign_instruction,
    sign_open_instructions,
)
from workers.signer.inbox import items, next_item
from workers.signer.offline import sign_bundle


@signer.command()
def sign(
    instruction_id: Annotated[str | None, typer.Argument(help="default: the next one that waits")] = None,
    every: Annotated[bool, typer.Option("--all", help="one after another until none is open")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask here; the device always asks")] = False,
    wait: Annotated[
        int,
        typer.Option("--wait", min=0, max=86_400, help="with --all: seconds to wait for more when none is open"),
    ] = 0,
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="with --all: end after this many signatures")
    ] = None,
    offline: Annotated[
        Path | None, typer.Option("--offline", metavar="BUNDLE", help="sign this bundle, without any network")
    ] = None,
    verify_rpc: VerifyRpc = None,
    chains_file: ChainsFile = None,
) -> None:
    """Check an instruction on this machine, show it as the device will, and sign it there.

    Exit codes: 0 signed, 2 refused or failed, 3 rejected on the device.
    """
    if every and instruction_id is not None:
        raise typer.BadParameter("give an instruction or --all, not both")

    def confirm(_checked: object, _screens: tuple[str, ...]) -> bool:
        return yes or typer.confirm("Send it to the device?")

    if offline is not None and (every or instruction_id is not None):
        raise typer.BadParameter("--offline names its instruction by its bundle")
    try:
        known = chains(chains_file)
        if offline is not None:
            with open_journal(known) as journal:
                answer = sign_bundle(known, desk(journal, None), offline, progress=print_event, confirm=confirm)
            Console().print(
                "Nothing was sent to the device."
                if answer is None
                else f"Take {answer} to the machine with the network.",
                soft_wrap=True,
            )
            return
        with open_journal(known) as journal, client() as api:
            place = desk(journal, verify_rpc)
            if every:
                outcome = sign_open_instructions(
                    api,
                    known,
                    place,
                    wait_seconds=wait,
                    count=count,
                    progress=print_event,
                    confirm=confirm,
                )
                Console().print(f"{len(outcome.signed)} signed.")
                if outcome.rejected:
                    raise typer.Exit(EXIT_REJECTED)
                if outcome.errors:
                    typer.secho(outcome.errors[-1], fg="red", err=True)
                    raise typer.Exit(EXIT_REFUSED)
                return
            chosen = instruction_id or _next(api, place)
            if not sign_instruction(api, known, place, chosen, progress=print_event, confirm=confirm):
                Console().print("Nothing was sent to the device; the instruction stays open.")
    except DeviceRejected as error:
        raise fail(error, EXIT_REJECTED) from None
    except SENTENCES as error:
        raise fail(error) from None


@signer.command("next")
def sign_next(
    yes: Annotated[bool, typer.Option("--yes", help="do not ask here; the device always asks")] = False,
    verify_rpc: VerifyRpc = None,
    chains_file: ChainsFile = None,
) -> None:
    """Sign the next one that waits: first what was interrupted here, then the longest handed out."""
    sign(yes=yes, verify_rpc=verify_rpc, chains_file=chains_file)


@signer.command()
def reject(
    instruction_id: Annotated[str, typer.Argument()],
    reason: Annotated[str, typer.Option(help="why; shown to operators")],
) -> None:
    """Say that an instruction is not signed, and why. It stays open with that reason."""
    try:
        with client() as api:
            api.submit_rejection(instruction_id, reason)
    except SENTENCES as error:
        raise fail(error) from None
    Console().print(f"Instruction {instruction_id} stays open: {reason}")


def print_event(event: Event) -> None:
    """Show what happens at the desk."""
    if event.kind == "checked":
        Console().print(Panel("\n".join(event.lines), title="decoded on this machine", title_align="left"))
        for number, screen in enumerate(event.screens, start=1):
            Console().print(Panel(screen, title=f"device screen {number}", title_align="left", expand=False))
        Console().print(event.text, style="dim")
    elif event.kind == "signed":
        Console().print(event.text, style="green")
    elif event.kind in {"rejected", "refused", "device_error"}:
        typer.secho(event.text, fg="red", err=True)
    else:
        Console().print(event.text, style="dim")


def _next(api: SignerClient, place: SigningDeskSettings) -> str:
    found = items(api.instructions(), place.journal, datetime.now(UTC))
    return next_item(found).instruction.id

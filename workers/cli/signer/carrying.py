"""``fleet signer export`` and ``submit``: signing on a machine that has no network."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.panel import Panel

from custody.settings.environment import settings
from workers.cli.signer.desk import (
    SENTENCES,
    ChainsFile,
    VerifyRpc,
    chains,
    client,
    fail,
    signer,
    trust,
    who,
)
from workers.signer.inbox import items, next_item
from workers.signer.offline import export, submit_answer

BundleFile = Annotated[Path, typer.Argument(metavar="BUNDLE")]


@signer.command("export")
def export_bundle(
    bundle: BundleFile,
    instruction_id: Annotated[str | None, typer.Argument(help="default: the next one that waits")] = None,
    since_seal: Annotated[
        int | None,
        typer.Option("--since-seal", min=1, help="last seal of the other machine: its fleet signer journal show"),
    ] = None,
    verify_rpc: VerifyRpc = None,
    chains_file: ChainsFile = None,
) -> None:
    """Have this machine's nodes confirm an instruction's evidence, and write it to BUNDLE for a machine without network.

    There: fleet signer sign --offline BUNDLE. It writes BUNDLE.answer; back here: fleet signer submit BUNDLE.
    """
    try:
        known = chains(chains_file)
        with client(takes_any=True) as api:
            chosen = instruction_id or next_item(items(api.instructions(), None, datetime.now(UTC))).instruction.id
            judged = export(
                api,
                known,
                trust(),
                chosen,
                bundle,
                fee_cap_wei=settings().release_max_total_fee_wei,
                verify_rpc=verify_rpc or (),
                since_seal=since_seal,
                by=who(),
            )
    except SENTENCES as error:
        raise fail(error) from None
    Console().print(Panel("\n".join(judged.lines), title="checked here", title_align="left"))
    Console().print(f"Instruction {judged.checked.claimed.id} is in {bundle}.", soft_wrap=True)


@signer.command()
def submit(bundle: BundleFile, chains_file: ChainsFile = None) -> None:
    """Hand in BUNDLE.answer, which the machine without network wrote. Handing it in twice is harmless."""
    try:
        known = chains(chains_file)
        with client(takes_any=True) as api:
            done = submit_answer(api, known, bundle, fee_cap_wei=settings().release_max_total_fee_wei)
    except SENTENCES as error:
        raise fail(error) from None
    Console().print(done, soft_wrap=True)

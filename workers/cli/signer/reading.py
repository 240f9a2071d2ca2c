"""``fleet signer inbox``, ``show`` and ``watch``: what waits, and what stands behind it."""

import json
import time
from typing import Annotated, Final

import typer
from rich.panel import Panel
from rich.table import Table

from custody.settings.environment import settings
from workers.cli.signer.desk import (
    SENTENCES,
    ChainsFile,
    VerifyRpc,
    chains,
    client,
    console,
    fail,
    open_journal,
    signer,
    trust,
)
from workers.signer import ApiInstruction, check_instruction
from workers.signer.judgement import Judge
from workers.signer.session import describe

WATCH_SECONDS: Final = 1.0


@signer.command()
def inbox(as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False) -> None:
    """Instructions that have not ended: those that wait for a signer first."""
    try:
        with client() as api:
            found = api.instructions()
    except SENTENCES as error:
        raise fail(error) from None
    if as_json:
        typer.echo(json.dumps([each.model_dump(exclude={"evidence"}) for each in found], indent=2))
        return
    console.print(_table(found))


@signer.command()
def show(
    instruction_id: Annotated[str, typer.Argument()],
    verify_rpc: VerifyRpc = None,
    chains_file: ChainsFile = None,
) -> None:
    """One instruction: what this machine decodes from its bytes, the evidence, and whether it may be signed."""
    try:
        with client() as api:
            claimed = api.instruction(instruction_id)
            console.print_json(json.dumps(claimed.model_dump()))
            if claimed.unsigned_bytes is None:
                return
            known = chains(chains_file)
            checked = check_instruction(claimed, known, fee_cap_wei=settings().release_max_total_fee_wei)
            console.print(Panel("\n".join(describe(checked)), title="decoded here", title_align="left"))
            with open_journal(known) as journal:
                judged = Judge(trust(), journal, verify_rpc or ()).judge(checked, api.seals_after)
        console.print(Panel("\n".join(judged.lines), title="checked here", title_align="left"))
    except SENTENCES as error:
        raise fail(error) from None


@signer.command()
def watch() -> None:
    """Tell of each instruction that starts to wait for a signer, until interrupted."""
    seen: set[str] = set()
    try:
        with client() as api:
            while True:
                for each in api.instructions():
                    if each.waits_for_signer and each.id not in seen:
                        seen.add(each.id)
                        console.print(
                            f"{each.id}  {each.amount} {each.symbol} to {each.label or each.recipient}: "
                            f"fleet signer sign {each.id}"
                        )
                time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        return
    except SENTENCES as error:
        raise fail(error) from None


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

"""``fleet signer inbox``, ``show`` and ``watch``: what waits, and what stands behind it."""

import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from custody.settings.environment import settings
from workers.cli.signer.desk import (
    SENTENCES,
    ChainsFile,
    VerifyRpc,
    chains,
    client,
    fail,
    journal_path,
    open_journal,
    signer,
    trust,
)
from workers.signer import Journal
from workers.signer.inbox import Item, items
from workers.signer.journal import JournalNotFree
from workers.signer.judgement import Judge
from workers.signer.safe_checks import CheckedSafe, check, describe_safe
from workers.signer.session import describe

WATCH_SECONDS: Final = 1.0


@signer.command()
def inbox(as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False) -> None:
    """Instructions that have not ended: interrupted ones first, then those that wait for a signer."""
    try:
        with client(takes_any=True) as api, _journal_if_any() as journal:
            found = items(api.instructions(), journal, datetime.now(UTC))
    except SENTENCES as error:
        raise fail(error) from None
    if as_json:
        typer.echo(json.dumps([each.as_json() for each in found], indent=2))
        return
    Console().print(_table(found))


@signer.command()
def show(
    instruction_id: Annotated[str, typer.Argument()],
    verify_rpc: VerifyRpc = None,
    chains_file: ChainsFile = None,
) -> None:
    """One instruction: what this machine decodes from its bytes, the evidence, and whether it may be signed."""
    try:
        with client(takes_any=True) as api:
            claimed = api.instruction(instruction_id)
            Console().print_json(claimed.model_dump_json())
            if claimed.unsigned_bytes is None:
                return
            known = chains(chains_file)
            checked = check(claimed, known, fee_cap_wei=settings().release_max_total_fee_wei)
            lines = describe_safe(checked) if isinstance(checked, CheckedSafe) else describe(checked)
            Console().print(Panel("\n".join(lines), title="decoded here", title_align="left"))
            with open_journal(known) as journal:
                judged = Judge(trust(), journal, verify_rpc or ()).judge(checked, api.seals_after)
        Console().print(Panel("\n".join(judged.lines), title="checked here", title_align="left"))
    except SENTENCES as error:
        raise fail(error) from None


@signer.command()
def watch() -> None:
    """Tell of each instruction that starts to wait for a signer, until interrupted."""
    seen: set[str] = set()
    try:
        with client(takes_any=True) as api:
            while True:
                for each in api.instructions():
                    if each.waits_for_signer and each.id not in seen:
                        seen.add(each.id)
                        Console().print(
                            f"{each.id}  {each.amount} {each.symbol} to {each.label or each.recipient}: "
                            f"fleet signer sign {each.id}"
                        )
                time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        return
    except SENTENCES as error:
        raise fail(error) from None


@contextmanager
def _journal_if_any() -> Generator[Journal | None]:
    """The journal to look into, None when there is none yet or another signer has it open: an inbox only reads."""
    try:
        journal = Journal(journal_path(), create=False)
    except JournalNotFree:
        yield None
        return
    with journal:
        yield journal


def _table(found: list[Item]) -> Table:
    table = Table("instruction", "state", "age", "amount", "seller", "expires", "presses", "who must act")
    for item in found:
        each = item.instruction
        table.add_row(
            each.id,
            f"{each.state}, interrupted here" if item.is_resumed else each.state,
            _age(item.age_seconds),
            f"{each.amount} {each.symbol}" + (f" of {len(each.payments)} payments" if each.payments else ""),
            each.label or each.recipient,
            "" if each.approval is None else f"{each.approval.expires_at:%Y-%m-%d %H:%M}",
            "" if item.presses is None else str(item.presses),
            item.who_acts,
        )
    return table


def _age(seconds: int) -> str:
    for length, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds // length} {name}"
    return f"{seconds} s"

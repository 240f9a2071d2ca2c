"""``fleet signer journal``: what this machine has asked its device, and whether that file is whole."""

import json
from collections import Counter
from typing import Annotated, Any

import typer
from rich.console import Console

from workers.cli.signer.desk import SENTENCES, fail, journal_path, signer
from workers.signer import InstructionRefused, Journal
from workers.signer.journal_records import Asked, SealSeen

journal = typer.Typer(help="What this machine has asked its device.", no_args_is_help=True)
signer.add_typer(journal, name="journal")


@journal.command()
def start() -> None:
    """Start the journal of a new machine. One that exists is never touched."""
    path = journal_path()
    try:
        if path.exists() or path.is_symlink():
            raise InstructionRefused(
                f"{path} exists already: fleet signer journal show. Move a damaged one away first."
            )
        Journal(path, create=True).close()
    except SENTENCES as error:
        raise fail(error) from None
    Console().print(f"Started {path}. Keep a copy elsewhere after each signing day.", soft_wrap=True)


@journal.command()
def show(as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False) -> None:
    """Check the whole file, and say the highest nonce of each treasury: after a restore the fleet must be above it."""
    try:
        with Journal(journal_path(), create=False) as found:
            lines = found.lines
    except SENTENCES as error:
        raise fail(error) from None
    nonces: dict[tuple[int, str], int] = {}
    for each in lines:
        if isinstance(each, Asked):
            key = (each.chain_id, each.treasury)
            nonces[key] = max(nonces.get(key, 0), each.transaction.nonce)
    seals = {each.environment: each.seal["seal_no"] for each in lines if isinstance(each, SealSeen)}
    said: dict[str, Any] = {
        "path": str(journal_path()),
        "lines": dict(Counter(each.kind for each in lines)),
        "highest_nonces": [
            {"chain_id": chain_id, "treasury": treasury, "nonce": nonce}
            for (chain_id, treasury), nonce in sorted(nonces.items())
        ],
        "last_seals": seals,
    }
    if as_json:
        typer.echo(json.dumps(said, indent=2))
        return
    Console().print(f"{said['path']}: whole, {len(lines)} lines", soft_wrap=True)
    for (chain_id, treasury), nonce in sorted(nonces.items()):
        Console().print(f"chain {chain_id} treasury {treasury}: highest nonce asked {nonce}", soft_wrap=True)
    for environment, number in seals.items():
        Console().print(f"fleet {environment}: last seal {number}")

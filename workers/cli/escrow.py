"""``fleet ledger escrow``: the proof that every coin owed is where the books say (L22)."""

import json
import sys
from collections import defaultdict
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Column, Table

from custody.ledger.reports.escrow import JudgedBlockGone, NothingJudged, Proof, prove_escrow, whole
from custody.settings.chains import load_chains
from custody.settings.environment import settings
from custody.store.engine import open_engine
from workers.cli.terminal import shown

WIDTH_MINIMUM: Final = 160  # characters; below it amounts would be cut


def escrow(
    chain_id: Annotated[
        int | None, typer.Option("--chain", help="one chain's id; default: every chain of CHAINS_FILE")
    ] = None,
    at_block: Annotated[
        int | None, typer.Option("--at-block", min=0, help="an older block; default: the last one the watcher judged")
    ] = None,
    addresses: Annotated[bool, typer.Option("--addresses", help="show every address, also those that agree")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="the same as JSON, amounts as text")] = False,
) -> None:
    """Proof of escrow: what the books hold at each address against the chain at one block, and what is owed to whom.

    Coins under way are listed one by one. Exit code 1 if anything is left unexplained, 2 if a chain cannot be read.
    """
    from custody.chain import ChainClient, connections

    configured = settings()
    chains = load_chains(configured.path("chains_file"))
    engine = open_engine(configured.secret("database_url"), application="fleet-ledger-escrow", pool_size=1)
    proofs: list[Proof] = []
    missing: list[str] = []
    try:
        for chain in chains.chains if chain_id is None else (chains.chain(chain_id),):
            client = ChainClient(connections(chain)[0])
            try:
                client.require_identity(chain.id, chain.genesis_hash)
                proofs.append(prove_escrow(engine, client, chain, at_block))
            except (NothingJudged, JudgedBlockGone) as error:
                missing.append(str(error))
            finally:
                client.close()
    finally:
        engine.dispose()
    if as_json:
        sys.stdout.write(json.dumps([as_dict(proof) for proof in proofs], indent=2, ensure_ascii=False) + "\n")
    else:
        for proof in proofs:
            _print(proof, all_addresses=addresses)
    for sentence in missing:
        typer.secho(sentence, fg="red", err=True)
    if not all(proof.holds for proof in proofs):
        raise typer.Exit(1)
    if missing:
        raise typer.Exit(2)


def as_dict(proof: Proof) -> dict[str, Any]:
    """The proof for programs; amounts in whole tokens as text."""
    return {
        "chain_id": proof.chain_id,
        "chain": proof.name,
        "block": proof.block,
        "block_hash": proof.block_hash,
        "holds": proof.holds,
        "assets": [
            {
                "token": asset.token,
                "symbol": asset.symbol,
                "address": asset.address,
                "booked": f"{whole(asset.booked, asset.decimals):f}",
                "in_transit": f"{whole(asset.in_transit, asset.decimals):f}",
                "on_chain": f"{whole(asset.found, asset.decimals):f}",
                "remainder": f"{whole(asset.remainder, asset.decimals):f}",
            }
            for asset in proof.assets
        ],
        "in_transit": [
            {
                "why": item.why,
                "token": item.place[0],
                "address": item.place[1],
                "amount": f"{whole(item.units, proof.tokens[item.place[0]].decimals):f}",
                "transaction_hash": item.transaction_hash,
                "block_number": item.block_number,
                "entry_id": None if item.entry_id is None else str(item.entry_id),
            }
            for item in proof.in_transit
        ],
        "accounts": [
            {"token": total.token, "account": total.account, "side": total.side, "amount": f"{total.amount:f}"}
            for total in proof.totals
        ],
        "imbalances": list(proof.imbalances),
    }


def _print(proof: Proof, *, all_addresses: bool) -> None:
    console = Console(soft_wrap=True)
    console.width = max(console.width, WIDTH_MINIMUM)
    console.print(f"\n{proof.name} ({proof.chain_id}) at block {proof.block} {proof.block_hash}", style="bold")
    console.print(_sums(proof))
    differing = [asset for asset in proof.assets if all_addresses or not asset.equal]
    if differing:
        table = _table("token", Column("address", overflow="fold"), title="addresses")
        for asset in differing:
            amounts = (asset.booked, asset.in_transit, asset.found, asset.remainder)
            table.add_row(
                asset.symbol,
                asset.address,
                *(_amount(units, asset.decimals) for units in amounts),
                style="red" if asset.remainder else None,
            )
        console.print(table)
    if proof.in_transit:
        table = Table(
            "token",
            Column("address", overflow="fold"),
            Column("amount", justify="right", no_wrap=True),
            Column("why", no_wrap=True),
            Column("transaction or entry", overflow="fold", min_width=34),
            title="in transit",
        )
        for item in proof.in_transit:
            token = proof.tokens[item.place[0]]
            table.add_row(
                token.symbol,
                item.place[1],
                _amount(item.units, token.decimals),
                shown(item.why),
                shown(item.transaction_hash or str(item.entry_id or "")),
            )
        console.print(table)
    owed = Table(
        "token", "account", Column("debit", justify="right"), Column("credit", justify="right"), title="accounts"
    )
    for total in proof.totals:
        amount = f"{total.amount:f}"
        owed.add_row(total.symbol, total.account, *((amount, "") if total.side == "debit" else ("", amount)))
    console.print(owed)
    for sentence in proof.imbalances:
        console.print(shown(f"out of balance: {sentence}; see: fleet ledger verify"), style="red")
    if proof.holds:
        under_way = f", {len(proof.in_transit)} items in transit" if proof.in_transit else ""
        console.print(f"books equal chain: every coin is explained{under_way}", style="green")
    else:
        console.print(f"{len(proof.remainders)} addresses hold more or less than is explained", style="red")


def _amount(units: int, decimals: int) -> str:
    """In whole tokens, exact, without zeros at the end."""
    written = f"{whole(units, decimals):f}"
    return written.rstrip("0").rstrip(".") if "." in written else written


def _table(*columns: str | Column, title: str) -> Table:
    table = Table(*columns, title=title)
    for name in ("booked", "in transit", "on chain", "remainder"):
        table.add_column(name, justify="right")
    return table


def _sums(proof: Proof) -> Table:
    sums: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0, 0])
    for asset in proof.assets:
        values = (1, asset.booked, asset.in_transit, asset.found, asset.remainder)
        sums[asset.token] = [old + new for old, new in zip(sums[asset.token], values, strict=True)]
    table = _table("token", Column("addresses", justify="right"), title="assets")
    for token, (count, *amounts) in sums.items():
        named = proof.tokens[token]
        table.add_row(named.symbol, str(count), *(_amount(units, named.decimals) for units in amounts))
    return table

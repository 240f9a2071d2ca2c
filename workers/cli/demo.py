"""``fleet demo``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from custody.ledger.reports.escrow import AssetAt, whole
from workers.cli.system import bring_down, bring_up
from workers.demo.fleet import DevelopmentFleet
from workers.demo.provision import StateFolderOfAnotherTreasury, TreasuryKind
from workers.demo.run import PAYMENTS_DEFAULT, PAYMENTS_MAXIMUM, Demo, DemoResult, write_json
from workers.demo.stages import STAGES, DemoStalled
from workers.demo.sweep_strategies import STRATEGY_DEFAULT, DemoStrategy, StateFolderOfForwarders

_MEANING = {
    "opened": "payment, offer and derived destination made",
    "paid": "buyers paid through Request Network's proxy",
    "announced": "webhooks delivered, each payment four times",
    "detected": "transfer seen on chain and booked",
    "held": "deep enough: in escrow",
    "swept": "moved to the treasury",
    "approved": "two of three approvers agreed on their devices",
    "signed": "release signed on the Trezor",
    "released": "seller paid, purchase request seller_paid",
    "mirrored": "payment and entries in MongoDB",
}


def demo(
    payments: Annotated[int, typer.Option(min=1, max=PAYMENTS_MAXIMUM, help="how many payments")] = PAYMENTS_DEFAULT,
    webhooks: Annotated[
        bool, typer.Option("--webhooks/--no-webhooks", help="announce each payment, or let the watcher find them alone")
    ] = True,
    treasury: Annotated[
        TreasuryKind | None,
        typer.Option(help="a new folder's treasury: an account of one device (eoa), or a Safe of three owners"),
    ] = None,
    strategy: Annotated[
        DemoStrategy,
        typer.Option(
            help="how deposits are swept; auto: whatever is cheapest, as the fleet does it in production; create2_forwarder: "
            "buyers pay to addresses that no key rules, which takes a Safe as treasury"
        ),
    ] = STRATEGY_DEFAULT,
    keep: Annotated[bool, typer.Option("--keep", help="leave services and data running")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the result as JSON; - is stdout")] = None,
) -> None:
    """Take real payments on a real EVM chain through the whole fleet, and compare the books with the chain.

    Exit code 1 if a payment is not released or a book differs.
    """
    console = Console(stderr=str(json_file) == "-")
    try:
        fleet = bring_up(console, treasury, strategy)
        result = _run(console, fleet, payments, webhooks=webhooks)
    except (DemoStalled, StateFolderOfAnotherTreasury, StateFolderOfForwarders) as stalled:
        console.print(str(stalled), style="red", soft_wrap=True)
        raise typer.Exit(1) from None
    finally:
        if not keep:
            bring_down(console)
    _print(console, result, fleet.provisioned.secrets.flower, keep=keep)
    if json_file is not None:
        write_json(result, json_file)
    if not result.succeeded:
        raise typer.Exit(1)


def _run(console: Console, fleet: DevelopmentFleet, payments: int, *, webhooks: bool) -> DemoResult:
    bars = Progress(
        TextColumn("{task.fields[stage]:<10}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("[dim]{task.fields[meaning]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,  # the table of stages takes their place
    )
    tasks: dict[str, TaskID] = {
        stage: bars.add_task("", total=payments, stage=stage, meaning=_MEANING[stage])
        for stage in ("opened", "paid", *(("announced",) if webhooks else ()), *STAGES)
    }
    try:
        with bars:
            demo_run = Demo(fleet, lambda stage, count: bars.update(tasks[stage], completed=count))
            return demo_run.run(payments, webhooks=webhooks)
    finally:
        _print_stages(console, bars)


def _print_stages(console: Console, bars: Progress) -> None:
    stages = Table("stage", "payments", "after", "what happened", title="stages", title_justify="left")
    for task in bars.tasks:
        reached = f"{task.completed:.0f} of {task.total:.0f}"
        after = "" if task.finished_time is None else f"{task.finished_time:.0f} s"
        stages.add_row(task.fields["stage"], reached, after, task.fields["meaning"], style=None if after else "red")
    console.print(stages)


def _print(console: Console, result: DemoResult, flower_credentials: Path, *, keep: bool) -> None:
    entries = Table("ledger entry", "count", title="what the ledger holds of this run", title_justify="left")
    for entry_type, count in result.entries.items():
        entries.add_row(entry_type, str(count))
    books: dict[str, list[int]] = {}
    for row in result.books:
        books.setdefault(row.symbol, [0, 0])[0 if row.equal else 1] += 1
    compared = Table(
        "token",
        "addresses equal",
        "addresses off",
        title=f"books against chain at block {result.block}",
        title_justify="left",
    )
    for symbol, (equal, off) in sorted(books.items()):
        compared.add_row(symbol, str(equal), str(off), style="red" if off else None)
    console.print(entries)
    console.print(compared)
    for row in result.books:
        if not row.equal:
            console.print(f"{row.symbol} at {row.address}: {_gap(row)}", style="red")
    console.print(
        f"{result.released} of {result.payments} payments released in {result.seconds:.0f} s, "
        f"{result.deliveries} webhook deliveries, books {'equal' if result.books_equal_chain else 'DIFFER FROM'} chain",
        style="green" if result.succeeded else "red",
    )
    console.print(f"Flower: {result.flower_url} (user and password: {flower_credentials})", soft_wrap=True)
    if keep:
        console.print(f"one payment's story: fleet explain {result.payment_ids[0]}", soft_wrap=True)
    else:
        console.print("The fleet is stopped and its data kept: `fleet up` starts it again at the same addresses.")


def _gap(row: AssetAt) -> str:
    booked, found = whole(row.booked, row.decimals), whole(row.found, row.decimals)
    return f"booked {booked:f}, in transit {whole(row.in_transit, row.decimals):f}, chain has {found:f}"


def register(app: typer.Typer) -> None:
    app.command()(demo)

"""``fleet explain`` and ``fleet release``."""

import json
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.panel import Panel
from rich.table import Column, Table

from custody.payments.story import PaymentUnknown, Story, find_payment, tell
from custody.settings.chains import load_chains
from custody.settings.environment import settings
from custody.store.engine import open_engine, ring_relay, transaction
from custody.store.outbox import ring
from workers.cli import attention, confirmations
from workers.cli.confirmations import chain_as_json, chain_table, transfer_as_json, transfer_table
from workers.cli.quotes import print_story, story_json
from workers.cli.terminal import ago, shown


def explain(
    payment: Annotated[
        str, typer.Argument(help="payment id, Mongo id, request id, payment reference or transaction hash")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="the same as JSON")] = False,
) -> None:
    """The whole story of a payment: what happened, what it waits for, since when, what unblocks it.

    A transfer that is not deep enough yet is shown with its confirmations, the threshold and where that comes from,
    and about how long it still takes; while something else blocks it (a pause, a lost quorum) no time is promised.
    A payment that was quoted shows the quote, what it was made of, and how what was paid stands to it.
    """
    engine = open_engine(settings().secret("database_url"), application="fleet-explain", pool_size=1)
    try:
        with engine.connect() as connection:
            story = tell(connection, find_payment(connection, payment))
    except PaymentUnknown as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(1) from None
    finally:
        engine.dispose()
    if as_json:
        typer.echo(json.dumps(_as_json(story), indent=2))
    else:
        _print(story)


def _print(story: Story) -> None:
    console = Console()
    balances = ", ".join(f"{account} {amount:f}" for account, amount in story.balances.items()) or "nothing booked"
    console.print(
        Panel(
            f"{story.amount:f} {story.currency} on chain {story.chain_id} at {story.destination}\n"
            f"status [bold]{story.status}[/bold], escrow [bold]{story.escrow_state or 'none'}[/bold]\n{balances}",
            title=f"payment {story.payment_id}",
            title_align="left",
        )
    )
    table = Table("when", "step", Column("what happened", overflow="fold"), box=None, pad_edge=False)
    for item in story.happenings:
        table.add_row(f"{item.at:%H:%M:%S.%f}"[:-3], item.step, shown(item.what))
    console.print(table)
    now = datetime.now(UTC)
    if story.quote is not None:
        console.print()
        print_story(console, story.quote, now, is_judged=settings().oracle_quoting_enabled)
    if story.depths:
        console.print()
        console.print(chain_table(story.chains, now))
        for chain in story.chains:
            source = f"threshold of chain {chain.state.chain_id}: {chain.threshold.blocks}, {chain.threshold_source}"
            console.print(shown(source))
        console.print(transfer_table(story.depths, now, console.width))
    if not story.waits:
        console.print("\nIt waits for nothing.", style="green")
        return
    waits = Table(Column("it waits for", overflow="fold"), "since", "what unblocks it", box=None, pad_edge=False)
    for wait in story.waits:
        waits.add_row(shown(wait.what), "" if wait.since is None else ago(wait.since, now), shown(wait.unblocks))
    console.print()
    console.print(waits)


def _as_json(story: Story) -> dict[str, Any]:
    return {
        "payment": str(story.payment_id),
        "status": story.status,
        "escrow_state": story.escrow_state,
        "amount": f"{story.amount:f}",
        "currency": story.currency,
        "chain_id": story.chain_id,
        "destination": story.destination,
        "balances": {account: f"{amount:f}" for account, amount in story.balances.items()},
        "happenings": [{"at": item.at.isoformat(), "step": item.step, "what": item.what} for item in story.happenings],
        "waits": [
            {
                "what": wait.what,
                "since": None if wait.since is None else wait.since.isoformat(),
                "unblocks": wait.unblocks,
            }
            for wait in story.waits
        ],
        "depths": [transfer_as_json(transfer) for transfer in story.depths],
        "chains": [chain_as_json(chain) for chain in story.chains],
        "quote": None if story.quote is None else story_json(story.quote, is_judged=settings().oracle_quoting_enabled),
    }


def release(
    payment: Annotated[
        str, typer.Argument(help="payment id, Mongo id, request id, payment reference or transaction hash")
    ],
    again: Annotated[
        bool, typer.Option("--again", help="a new instruction, after the last one ended without paying")
    ] = False,
    amount: Annotated[
        str | None, typer.Option("--amount", help="a part of what is held, whole tokens before fees; with --part")
    ] = None,
    part: Annotated[
        str | None, typer.Option("--part", help="the part's name: the same name again is the same part, never a second")
    ] = None,
) -> None:
    """Make a payment's release instruction now, or say what stops it.

    With --amount and --part a part of what is held is paid; approved and signed like the whole, one part after the other.
    The rest stays held: for further parts, for a refund (fleet releases refund --amount), or for the seller once the buyer
    completes the request.

    The releases worker then checks the dispute and the purchase request, reserves the money and hands the instruction
    out; the person at the treasury device has the last word. Exit code 1 if something stops it.
    """
    from custody.policy import PolicyRefused, read_in_force
    from custody.policy.safekeeping import signed_folder
    from custody.releases.fees import FeeRates
    from custody.releases.gate import ReleaseStopped
    from custody.releases.instructions import WHOLE, draft_release, next_request_key, part_key

    configured = settings()
    chains = load_chains(configured.path("chains_file"))
    signed = signed_folder(configured, chains)
    engine = open_engine(configured.secret("database_url"), application="fleet-release", pool_size=1)
    try:
        with transaction(engine) as connection:
            payment_id = find_payment(connection, payment)
            if (amount is None) != (part is None) or (again and part is not None):
                raise ValueError("--amount and --part belong together, and --again to neither")
            key = next_request_key(connection, payment_id) if again else WHOLE if part is None else part_key(part)
            book = None if signed is None else read_in_force(connection, signed, datetime.now(UTC)).book
            rates = FeeRates(configured.platform_fee_basis_points, configured.provider_fee_basis_points)
            instruction = draft_release(
                connection,
                payment_id,
                chains,
                request_key=key,
                book=book,
                rates=rates,
                amount=None if amount is None else Decimal(amount),
            )
            ring(connection, "releases")
        ring_relay(engine)
    except InvalidOperation:
        typer.secho(f"--amount {amount!r} is no number", fg="red", err=True)
        raise typer.Exit(1) from None
    except (ReleaseStopped, PaymentUnknown, PolicyRefused, ValueError) as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(1) from None
    finally:
        engine.dispose()
    typer.echo(
        f"instruction {instruction.id} is {instruction.state}: {instruction.amount.normalize():f} to "
        f"{instruction.recipient}. Follow it with: fleet explain {instruction.payment_id}"
    )


def register(app: typer.Typer) -> None:
    app.command()(explain)
    app.command()(release)
    attention.register(app)
    confirmations.register(app)

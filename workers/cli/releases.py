"""``fleet releases``: what an operator asks of an instruction. The worker does it, the treasury device signs it (R1)."""

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from custody.payments.story import PaymentUnknown, find_payment
from custody.settings.environment import settings
from custody.store.engine import open_engine, ring_relay, transaction
from workers.cli import fee_payouts, release_views
from workers.cli.terminal import shown

if TYPE_CHECKING:
    from custody.releases.requests import RequestKind

releases = typer.Typer(help="Cancel, outbid and follow release instructions.", no_args_is_help=True)

InstructionArgument = Annotated[UUID, typer.Argument(help="instruction id, as fleet signer inbox shows it")]
By = Annotated[str, typer.Option("--by", help="who asks; a label for the record, not an authority")]


@releases.command()
def cancel(
    instruction: InstructionArgument,
    reason: Annotated[str, typer.Option("--reason", help="why; it stands in the books")],
    by: By = "operator",
) -> None:
    """End an instruction without paying it.

    Before hand-out it ends at once. From hand-out on a signature is assumed to exist: the fleet prepares a transaction
    of nothing on the same nonce, which the treasury device signs (fleet signer sign). If the payout is mined first, it
    was paid.
    """
    _ask(instruction, "cancel", reason, by)


@releases.command()
def bump(
    instruction: InstructionArgument,
    reason: Annotated[str, typer.Option("--reason", help="why; it stands in the log")] = "nothing is mined",
    by: By = "operator",
) -> None:
    """Ask for the same transaction with fees an eighth higher, which the treasury device signs again."""
    _ask(instruction, "bump", reason, by)


@releases.command("raw-units")
def raw_units(
    instruction: InstructionArgument,
    reason: Annotated[str, typer.Option("--reason", help="why no definition of the token is at hand")],
    by: By = "operator",
) -> None:
    """Let a core model sign a token that it cannot name, read in smallest units, with one more approval (R2).

    Before it is approved: its approvers are asked again, and see RAW behind its number. First try to have the device
    name the token: fleet signer definitions fetch. A Trezor One refuses all the same.
    """
    _ask(instruction, "raw_units", reason, by)


@releases.command("requests")
def list_requests() -> None:
    """What was asked lately, and what came of it or what it waits for."""
    engine = open_engine(settings().secret("database_url"), application="fleet-releases-cli", pool_size=1)
    try:
        with engine.connect() as connection:
            found = connection.execute(
                text(
                    """
                    SELECT r.requested_at, r.kind, r.instruction_id, r.requested_by, r.reason, r.state, r.answer,
                        i.state AS instruction_state
                    FROM fleet.release_requests r JOIN fleet.release_instructions i ON i.id = r.instruction_id
                    ORDER BY r.state = 'received' DESC, r.requested_at DESC LIMIT 50
                    """
                )
            ).all()
    finally:
        engine.dispose()
    table = Table("asked", "what", "instruction", "which is", "by", "why", "answer")
    for row in found:
        table.add_row(
            f"{row.requested_at:%Y-%m-%d %H:%M:%S}",
            row.kind,
            str(row.instruction_id),
            row.instruction_state,
            shown(row.requested_by),
            shown(row.reason),
            shown(row.answer or row.state),
        )
    Console().print(table)


@releases.command()
def refund(
    payment: Annotated[str, typer.Argument(help="payment id, Mongo id, request id, reference or transaction hash")],
    reason: Annotated[str, typer.Option("--reason", help="why; it stands in the books, and one reason is one refund")],
    amount: Annotated[
        str | None, typer.Option("--amount", help="whole tokens; default: all that the account has")
    ] = None,
    source: Annotated[str, typer.Option("--source", help="held, disputed or suspense (a surplus)")] = "held",
    by: By = "operator",
) -> None:
    """Order money back to its buyer, to an address that the buyer proved (refund-address) or the address book has.

    The releases worker drafts it; the treasury device signs it. An open dispute holds it back.
    """
    from decimal import Decimal, InvalidOperation

    from custody.releases.refunds import OrderRefused, order_by_hand

    engine = open_engine(settings().secret("database_url"), application="fleet-releases-cli", pool_size=1)
    try:
        with transaction(engine) as connection:
            ordered = order_by_hand(
                connection,
                find_payment(connection, payment),
                amount=None if amount is None else Decimal(amount),
                source=source,
                reason=reason,
                by=by,
            )
        ring_relay(engine)
    except InvalidOperation:
        raise _refused(f"--amount {amount!r} is no number") from None
    except (OrderRefused, PaymentUnknown) as error:
        raise _refused(str(error)) from None
    finally:
        engine.dispose()
    typer.echo(
        f"A refund of {ordered.normalize():f} from what is {source} is ordered. Follow it with: fleet explain {payment}"
    )


@releases.command("refund-address")
def refund_address(
    payment: Annotated[str, typer.Argument(help="payment id, Mongo id, request id, reference or transaction hash")],
    address: Annotated[str, typer.Argument(help="the buyer's address, with its checksum")],
    signed_at: Annotated[
        str | None, typer.Option("--signed-at", help="the time in the text, 2026-05-01T12:00:00Z; with --signature")
    ] = None,
    signature: Annotated[
        str | None, typer.Option("--signature", help="65 bytes in hex, as a wallet's personal_sign gives them")
    ] = None,
    by: By = "operator",
) -> None:
    """Hand in a buyer's proof of a refund address (R21); without --signature, print the text that the buyer signs.

    Who hands it in must have met the buyer: the signature proves that the address has an owner, not who it is.
    """
    from datetime import UTC, datetime

    from custody.releases.refund_proof import ProofRefused, read_signature, refund_text, require_recent
    from custody.releases.refunds import record_proof

    engine = open_engine(settings().secret("database_url"), application="fleet-releases-cli", pool_size=1)
    try:
        with transaction(engine) as connection:
            payment_id = find_payment(connection, payment)
            chain_id = connection.execute(
                text("SELECT chain_id FROM fleet.payment_routes WHERE payment_id = :id"), {"id": payment_id}
            ).scalar_one_or_none()
            if chain_id is None:
                raise _refused(f"payment {payment_id} has no route: nothing of it can be refunded")
            now = datetime.now(UTC).replace(microsecond=0)
            if signature is None or signed_at is None:
                typer.echo(refund_text(payment_id, chain_id, address, now))
                typer.echo(f"Then: --signed-at {now:%Y-%m-%dT%H:%M:%SZ} --signature 0x…", err=True)
                return
            at = datetime.fromisoformat(signed_at)
            require_recent(at if at.tzinfo else at.replace(tzinfo=UTC), now)
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
            record_proof(connection, payment_id, chain_id, address, at, read_signature(signature), by=by)
        ring_relay(engine)
    except (ProofRefused, PaymentUnknown, ValueError) as error:
        raise _refused(str(error)) from None
    finally:
        engine.dispose()
    typer.echo(f"{address} is proved. Refunds of payment {payment_id} go there from now on.")


def _refused(sentence: str) -> typer.Exit:
    typer.secho(sentence, fg="red", err=True)
    return typer.Exit(1)


def _ask(instruction: UUID, kind: "RequestKind", reason: str, by: str) -> None:
    from custody.releases.requests import RequestRefused, ask

    engine = open_engine(settings().secret("database_url"), application="fleet-releases-cli", pool_size=1)
    try:
        with transaction(engine) as connection:
            is_new = ask(connection, instruction, kind, reason=reason, by=by)
        ring_relay(engine)
    except (LookupError, RequestRefused) as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(1) from None
    finally:
        engine.dispose()
    said = "is asked for" if is_new else "was asked for already"
    typer.echo(
        f"The {kind.replace('_', ' ')} of instruction {instruction} {said}. Follow it with: fleet releases requests"
    )


def register(app: typer.Typer) -> None:
    release_views.register(releases)
    fee_payouts.register(releases)
    app.add_typer(releases, name="releases")

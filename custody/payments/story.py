"""``fleet explain``: what happened to a payment, what it waits for, since when, and what unblocks it (design §2, rule 8).

Reads only Postgres; nothing here changes anything.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from custody.payments.chain_waits import Wait, chains_of, waits_for_chain, waits_for_depth
from custody.payments.release_waits import waits_for_disputes, waits_for_release, waits_for_sanctions
from custody.payments.standing import OPEN_STATUSES
from custody.payments.waiting import Waiting, WatchedChain, waiting
from custody.quotes import QuoteStory, quote_of
from custody.store.security_pauses import pauses_of


class PaymentUnknown(LookupError):
    """No payment has that id, legacy id, request id, payment reference or transaction hash."""


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened: when, which step of the fleet, what."""

    at: datetime
    step: str
    what: str


@dataclass(frozen=True, slots=True)
class Story:
    """A payment's whole story. ``amount`` in whole tokens; ``depths`` of its transfers that are not judged yet."""

    payment_id: UUID
    status: str
    escrow_state: str | None
    amount: Decimal
    currency: str
    chain_id: int | None
    destination: str | None
    balances: dict[str, Decimal]
    happenings: list[Happening]
    waits: list[Wait]
    depths: list[Waiting]
    chains: list[WatchedChain]
    quote: QuoteStory | None


def find_payment(connection: Connection, name: str) -> UUID:
    """The payment called ``name``: its id, Mongo id, request id, payment reference or transaction hash.

    Raises PaymentUnknown.
    """
    row = connection.execute(
        text(
            """
            SELECT p.id FROM public.payments p LEFT JOIN fleet.payment_routes r ON r.payment_id = p.id
            WHERE p.id::text = ANY(:names) OR p.legacy_object_id = ANY(:names) OR p.provider_payment_id = ANY(:names)
               OR r.request_id = ANY(:names) OR p.payment_reference = ANY(:names)
               OR r.payment_reference = ANY(:names) OR p.transaction_hash = ANY(:names)
               OR p.id IN (SELECT f.payment_id FROM fleet.chain_facts f WHERE f.transaction_hash = ANY(:names))
            ORDER BY p.created_at, p.id LIMIT 1
            """
        ),
        # As written, since other providers' ids have capitals, and as hex digits are stored.
        {"names": [name.strip(), name.strip().lower()]},
    ).one_or_none()
    if row is None:
        raise PaymentUnknown(
            f"no payment is called {name}: expected a payment id, a Mongo id, a Request Network request id, "
            "a payment reference or a transaction hash"
        )
    return row.id


def tell(connection: Connection, payment_id: UUID) -> Story:
    """Gather the story of one payment. Raises PaymentUnknown."""
    payment = connection.execute(
        text(
            """
            SELECT p.*, p.status::text AS status_text, p.escrow_state::text AS escrow_text,
                   d.address AS destination, d.status::text AS destination_status, d.quarantine_reason, d.id AS destination_id
            FROM public.payments p LEFT JOIN fleet.payment_routes r ON r.payment_id = p.id
            LEFT JOIN public.derived_destinations d ON d.id = r.destination_id WHERE p.id = :id
            """
        ),
        {"id": payment_id},
    ).one_or_none()
    if payment is None:
        raise PaymentUnknown(f"there is no payment {payment_id}")
    happenings = sorted(_happenings(connection, payment), key=lambda item: item.at)
    chains = chains_of(connection, payment_id, payment.chain_id)
    depths = waiting(connection, payment_id)
    quote = quote_of(connection, payment_id, connection.execute(text("SELECT clock_timestamp()")).scalar_one())
    waits = [*_waits_for_quote(quote), *_waits(connection, payment, chains, depths)]
    return Story(
        payment_id=payment_id,
        status=payment.status_text,
        escrow_state=payment.escrow_text,
        amount=payment.amount.normalize(),
        currency=payment.currency,
        chain_id=payment.chain_id,
        destination=payment.destination,
        balances=_balances(connection, payment_id),
        happenings=happenings,
        waits=waits,
        depths=depths,
        chains=chains,
        quote=quote,
    )


_ACCOUNTS = (
    "destination",
    "treasury",
    "detected",
    "held",
    "disputed",
    "releasing",
    "refunding",
    "paying_fees",
    "platform_fees",
    "provider_fees",
    "suspense",
    "transfer_cost",
    "loss",
    "overdraft",
)


def _balances(connection: Connection, payment_id: UUID) -> dict[str, Decimal]:
    row = connection.execute(
        text("SELECT * FROM fleet.ledger_balances WHERE book_id = :id AND is_primary"), {"id": payment_id}
    ).one_or_none()
    if row is None:
        return {}
    found = row._mapping
    return {account: found[account].normalize() for account in _ACCOUNTS if found[account]}


def _rows(connection: Connection, statement: str, **values: Any) -> list[Any]:
    return list(connection.execute(text(statement), values))


def _happenings(connection: Connection, payment: Any) -> Iterator[Happening]:
    yield Happening(payment.created_at, "payment", f"opened for {payment.amount.normalize():f} {payment.currency}")
    for row in _rows(
        connection,
        "SELECT received_at, delivery_key, event, state, reason FROM fleet.webhook_deliveries "
        "WHERE payment_id = :id ORDER BY id LIMIT 100",
        id=payment.id,
    ):
        reason = f": {row.reason}" if row.reason else ""
        yield Happening(row.received_at, "webhook", f"{row.event or 'delivery'} {row.delivery_key} {row.state}{reason}")
    for row in _rows(
        connection,
        """
        SELECT e.created_at, e.entry_type::text AS entry_type, e.reason, e.debit, e.credit, e.amount, e.currency,
               e.poster_role, e.metadata, f.transaction_hash, f.block_number
        FROM public.funds_ledger_entries e LEFT JOIN fleet.chain_facts f ON f.id = e.fact_id
        WHERE e.payment_id = :id ORDER BY e.created_at LIMIT 500
        """,
        id=payment.id,
    ):
        where = f", block {row.block_number} {row.transaction_hash}" if row.transaction_hash else ""
        evidence = row.metadata or {}
        judged = (
            f", threshold {evidence['threshold']} at head {evidence.get('head_number')}"
            if "threshold" in evidence
            else ""
        )
        yield Happening(
            row.created_at,
            "ledger",
            f"{row.entry_type} : {row.reason} {row.debit} / {row.credit} {row.amount.normalize():f} {row.currency}"
            f"{judged}{where}",
        )
    for row in _rows(
        connection,
        """
        SELECT t.created_at, t.broadcast_at, t.final_at, t.purpose, t.nonce, t.sender, t.transaction_hash, t.state
        FROM fleet.chain_transactions t
        WHERE t.subject_id IN (
            SELECT coalesce(group_id, id) FROM fleet.release_instructions WHERE payment_id = :id
            UNION ALL SELECT id FROM fleet.sweep_jobs WHERE destination_id = :destination
            UNION ALL SELECT i.batch_id FROM fleet.sweep_batch_items i JOIN fleet.sweep_jobs j ON j.id = i.job_id
                WHERE j.destination_id = :destination)
        ORDER BY t.created_at LIMIT 200
        """,
        id=payment.id,
        destination=payment.destination_id,
    ):
        name = f"{row.purpose} nonce {row.nonce} of {row.sender}"
        yield Happening(row.created_at, "transaction", f"{name}: nonce taken")
        if row.broadcast_at is not None:
            yield Happening(row.broadcast_at, "transaction", f"{name}: sent as {row.transaction_hash}")
        if row.final_at is not None:
            yield Happening(row.final_at, "transaction", f"{name}: {row.state}")
    for row in _rows(
        connection,
        """
        SELECT i.id, i.purpose, i.created_at, i.recipient, i.handed_out_at, i.signed_at, i.final_at, i.amount AS whole, i.group_id,
            coalesce(g.nonce, i.nonce) AS nonce, g.created_at AS grouped_at, g.amount AS together, (
            SELECT count(*) FROM fleet.release_instructions m WHERE m.group_id = g.id) AS payments
        FROM fleet.release_instructions i LEFT JOIN fleet.release_instructions g ON g.id = i.group_id
        WHERE i.payment_id = :id ORDER BY i.created_at
        """,
        id=payment.id,
    ):
        name = f"{row.purpose} {str(row.id)[-8:]}"
        yield Happening(row.created_at, "release", f"{name} drafted: {row.whole.normalize():f} to {row.recipient}")
        for at, what in (
            (
                row.grouped_at,
                f"{name} is paid with others: {row.payments} payments, {(row.together or Decimal(0)).normalize():f} in all, group {row.group_id}",
            ),
            (row.handed_out_at, f"{name} handed out to the signer with nonce {row.nonce}"),
            (row.signed_at, f"{name} signed by the treasury device"),
            (row.final_at, f"{name} final"),
        ):
            if at is not None:
                yield Happening(at, "release", what)
    for row in _rows(
        connection,
        """
        SELECT s.received_at, s.kind, s.state, s.reason, s.refused_reason, s.instruction_id
        FROM fleet.signature_submissions s
        JOIN fleet.release_instructions i ON s.instruction_id = coalesce(i.group_id, i.id)
        WHERE i.payment_id = :id ORDER BY s.received_at LIMIT 100
        """,
        id=payment.id,
    ):
        detail = row.refused_reason or row.reason or ""
        yield Happening(row.received_at, "signer", f"{row.kind} {row.state} {detail}".strip())
    yield from _happened_in_disputes(connection, payment.id)


def _happened_in_disputes(connection: Connection, payment_id: UUID) -> Iterator[Happening]:
    """Disputes as the books know them, and what was asked of instructions."""
    for row in _rows(
        connection,
        "SELECT * FROM fleet.payment_disputes WHERE payment_id = :id ORDER BY opened_at LIMIT 100",
        id=payment_id,
    ):
        yield Happening(row.opened_at, "dispute", f"{row.dispute_id} opened: the money is frozen")
        if row.closed_at is not None:
            part = f", {row.refund_amount.normalize():f} to the buyer" if row.refund_amount else ""
            yield Happening(row.closed_at, "dispute", f"{row.dispute_id} closed as {row.outcome}{part}")
    for row in _rows(
        connection,
        """
        SELECT r.requested_at, r.kind, r.requested_by, r.reason, r.state, r.answer
        FROM fleet.release_requests r JOIN fleet.release_instructions i ON r.instruction_id IN (i.id, i.group_id)
        WHERE i.payment_id = :id ORDER BY r.requested_at LIMIT 100
        """,
        id=payment_id,
    ):
        said = f": {row.answer}" if row.answer else ""
        yield Happening(row.requested_at, "release", f"{row.kind} asked by {row.requested_by} ({row.reason}){said}")


def _waits(connection: Connection, payment: Any, chains: list[WatchedChain], depths: list[Waiting]) -> Iterator[Wait]:
    for pause in pauses_of(connection, [payment.id]):
        yield Wait(f"it is paused: security {pause.what}", pause.since, pause.unblocks)
    yield from waits_for_disputes(connection, payment.id)
    yield from waits_for_sanctions(connection, payment.id)
    if payment.status_text in {"completed", "refunded", "cancelled", "failed"}:
        return
    for row in _rows(
        connection,
        "SELECT created_at, queue, reason, unblocks FROM fleet.dead_work "
        "WHERE payment_id = :id AND resolved_at IS NULL ORDER BY created_at",
        id=payment.id,
    ):
        yield Wait(f"{row.queue} gave up: {row.reason}", row.created_at, row.unblocks)
    yield from waits_for_chain(chains, looking=bool(depths) or payment.status_text in OPEN_STATUSES)
    if payment.disputed:
        yield Wait("a dispute is open", None, "the dispute's resolution")
    seen = _rows(
        connection,
        "SELECT 1 FROM fleet.chain_facts WHERE payment_id = :id AND direction = 'inbound' AND live LIMIT 1",
        id=payment.id,
    )
    if not seen:
        yield from _waits_for_money(connection, payment)
        return
    yield from waits_for_depth(depths)
    if payment.escrow_text == "partial":
        yield Wait("the rest of the amount", None, "the buyer's further transfer to the same address")
    yield from _waits_for_sweep(connection, payment)
    yield from waits_for_release(connection, payment)


def _waits_for_quote(quote: QuoteStory | None) -> Iterator[Wait]:
    if quote is not None and quote.state in {"asked", "waits_for_people"}:
        yield Wait(
            f"its quote: {quote.reason or 'not tried yet'}",
            quote.asked_at,
            "approvers sign prices.toml with an anchor of the pair, if the price is right"
            if quote.state == "waits_for_people"
            else "usable sources: fleet quotes sources",
        )


def _waits_for_money(connection: Connection, payment: Any) -> Iterator[Wait]:
    looks = _rows(
        connection,
        "SELECT transaction_hash, state, outcome, last_error, created_at FROM fleet.chain_looks "
        "WHERE payment_id = :id ORDER BY created_at",
        id=payment.id,
    )
    for look in looks:
        yield Wait(
            f"transaction {look.transaction_hash}: {look.outcome or look.last_error or 'not looked at yet'}",
            look.created_at,
            "a canonical block that holds it" if look.state == "due" else "another transaction that pays this address",
        )
    if not looks:
        yield Wait("a transfer to its address", payment.created_at, f"a payment to {payment.destination}")


def _waits_for_sweep(connection: Connection, payment: Any) -> Iterator[Wait]:
    if payment.destination_status == "quarantined":
        yield Wait(
            f"its destination is quarantined: {payment.quarantine_reason}",
            None,
            f"two persons release it: fleet destinations release {payment.destination_id}",
        )
        return
    jobs = _rows(
        connection,
        "SELECT state, reason, created_at FROM fleet.sweep_jobs "
        "WHERE destination_id = :id AND state IN ('planned', 'funding', 'transferring') ORDER BY created_at",
        id=payment.destination_id,
    )
    for job in jobs:
        yield Wait(f"its sweep is {job.state}", job.created_at, job.reason or "the chain's next blocks")
    if not jobs and payment.status_text == "confirmed":
        for row in _rows(
            connection,
            "SELECT destination, updated_at FROM fleet.ledger_balances "
            "WHERE book_id = :id AND is_primary AND destination > 0",
            id=payment.id,
        ):
            yield Wait(
                f"{row.destination.normalize():f} of it is not swept yet",
                row.updated_at,
                "the sweeps worker's next pass",
            )

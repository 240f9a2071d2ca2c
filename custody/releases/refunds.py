"""Money that goes back to its buyer (R21): ordered, drafted once there is an address, reserved, and then like a release.

An order says how much of which account and why; its instruction is made when the buyer proved an address, or an
address-book entry names one. Until then it waits as ``refund_address_missing``.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal, get_args
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, text

from custody.chain.assets import to_units
from custody.ledger import Entry, post
from custody.payments import lock_payment
from custody.policy import AddressBook
from custody.releases import rows
from custody.releases.gate import ReleaseStopped, Stop, chain_stops, security_stops, why_recipient_refused
from custody.releases.refund_proof import ProofRefused, require_proof
from custody.releases.rows import Instruction
from custody.releases.treasuries import treasury_of, why_apart
from custody.settings.chains import Chains
from custody.settings.environment import SettingsError
from custody.store.engine import transaction
from custody.store.outbox import ring
from custody.store.work import backoff_seconds
from custody.trezor.transaction import Signature, SignatureError

log = structlog.get_logger(__name__)

REFUND: Final = "refund"
Source = Literal["held", "disputed", "suspense"]
CAUSE_CHARACTERS: Final = 200
PROOFS_LIMIT: Final = 20  # of one payment that are tried, the newest first; more is an attack


@dataclass(frozen=True, slots=True)
class RefundOrder:
    """An order without an instruction. ``amount``: whole tokens of the payment's primary asset."""

    id: UUID
    payment_id: UUID
    cause: str
    source: str
    amount: Decimal
    attempts: int


def order_refund(
    connection: Connection, payment_id: UUID, *, amount: Decimal, source: Source, cause: str, by: str
) -> bool:
    """Order a refund once per (payment, cause), and ring; False if it stands already."""
    made = connection.execute(
        text(
            """
            INSERT INTO fleet.refund_orders (payment_id, cause, source, amount, ordered_by)
            VALUES (:payment, :cause, :source, :amount, :by) ON CONFLICT DO NOTHING
            """
        ),
        {"payment": payment_id, "cause": cause, "source": source, "amount": amount, "by": by},
    )
    ring(connection, "releases")
    return made.rowcount == 1


class OrderRefused(Exception):
    """Nothing was ordered. The message says why."""


def order_by_hand(
    connection: Connection, payment_id: UUID, *, amount: Decimal | None, source: str, reason: str, by: str
) -> Decimal:
    """An operator's order of ``amount`` (None: all) of what is held, disputed or in suspense; the amount ordered.

    Raises OrderRefused: an unknown account, more than it has, more decimals than the token has, an open dispute, or a
    reason that ordered one already.
    """
    if source not in get_args(Source):
        raise OrderRefused(f"source {source!r}: expected one of {', '.join(get_args(Source))}")
    row = connection.execute(
        text(
            """
            SELECT t.decimals, t.symbol, b.dispute_open,
                CASE :source WHEN 'held' THEN b.held WHEN 'disputed' THEN b.disputed ELSE b.suspense - fleet.sanctioned_of(b.book_id, b.chain_id, b.token) END - (
                    SELECT coalesce(sum(o.amount), 0) FROM fleet.refund_orders o
                    LEFT JOIN fleet.release_instructions i ON i.id = o.instruction_id
                    WHERE o.payment_id = b.book_id AND o.source = :source AND (i.id IS NULL OR i.state = 'drafted')
                ) AS has
            FROM fleet.payment_routes r
            JOIN fleet.ledger_balances b ON b.book_id = r.payment_id AND b.chain_id = r.chain_id AND b.token = r.token
            JOIN fleet.tokens t ON t.chain_id = b.chain_id AND t.token = b.token
            WHERE r.payment_id = :payment
            """
        ),
        {"payment": payment_id, "source": source},
    ).one_or_none()
    if row is None:
        raise OrderRefused(f"payment {payment_id} has nothing in the books: there is nothing to refund")
    if row.dispute_open:
        raise OrderRefused(f"{row.dispute_open} dispute(s) are open: their resolution says who is paid (L4)")
    wanted = row.has if amount is None else amount
    if not wanted.is_finite() or wanted <= 0 or wanted > row.has:
        raise OrderRefused(
            f"{row.has.normalize():f} {row.symbol} are {source} and not ordered yet; {wanted:f} is not among them"
        )
    if wanted % Decimal(1).scaleb(-row.decimals):
        raise OrderRefused(f"{wanted:f}: {row.symbol} has {row.decimals} decimals")
    cause = f"operator:{reason}"
    if len(cause) > CAUSE_CHARACTERS:
        raise OrderRefused(f"reason: expected at most {CAUSE_CHARACTERS - len('operator:')} characters")
    chosen: Source = "held" if source == "held" else "disputed" if source == "disputed" else "suspense"
    if not order_refund(connection, payment_id, amount=wanted, source=chosen, cause=cause, by=by):
        raise OrderRefused(f"a refund for {reason!r} was ordered before; give another reason for another refund")
    return wanted


def draft_refunds(engine: Engine, chains: Chains, limit: int, *, book: AddressBook | None = None) -> int:
    """Make the instructions of orders whose buyer has an address now; how many were made. ``book``: see release_gate."""
    with transaction(engine) as connection:
        due = [
            RefundOrder(row.id, row.payment_id, row.cause, row.source, row.amount, row.attempts)
            for row in connection.execute(
                text(
                    "SELECT id, payment_id, cause, source, amount, attempts FROM fleet.refund_orders "
                    "WHERE instruction_id IS NULL AND run_after <= clock_timestamp() ORDER BY run_after, id LIMIT :limit"
                ),
                {"limit": limit},
            )
        ]
    return sum(_draft(engine, chains, order, book) for order in due)


def _draft(engine: Engine, chains: Chains, order: RefundOrder, book: AddressBook | None) -> int:
    with transaction(engine) as connection:
        route = connection.execute(
            text(
                """
                SELECT r.chain_id, r.token, t.decimals, p.buyer_id, b.release_epoch
                FROM public.payments p JOIN fleet.payment_routes r ON r.payment_id = p.id
                JOIN fleet.tokens t ON t.chain_id = r.chain_id AND t.token = r.token
                JOIN fleet.ledger_balances b ON b.book_id = p.id AND b.chain_id = r.chain_id AND b.token = r.token
                WHERE p.id = :payment
                """
            ),
            {"payment": order.payment_id},
        ).one()
        address = refund_address(connection, order.payment_id, route.chain_id, route.buyer_id, book=book)
        if address is None:
            return _wait(
                connection,
                order,
                "refund_address_missing: the buyer has proved no address and none is in the address book (R21); "
                f"hand in the buyer's signature: fleet releases refund-address {order.payment_id}",
            )
        try:
            chain = chains.chain(route.chain_id)
        except SettingsError as error:
            return _wait(connection, order, f"chain_unknown: {error}.")
        made = connection.execute(
            text(
                """
                INSERT INTO fleet.release_instructions (payment_id, purpose, request_key, chain_id, treasury, token,
                    recipient, amount, amount_units, release_epoch, source, cause)
                VALUES (:payment, 'refund', :key, :chain, :treasury, :token, :recipient, :amount, :units, :epoch,
                    :source, :cause)
                ON CONFLICT (payment_id, purpose, request_key) DO NOTHING RETURNING id
                """
            ),
            {
                "payment": order.payment_id,
                "key": _request_key(connection, order),
                "chain": route.chain_id,
                "treasury": treasury_of(connection, chain, order.payment_id, route.token, order.amount),
                "token": route.token,
                "recipient": address,
                "amount": order.amount,
                "units": to_units(order.amount, route.decimals),
                "epoch": route.release_epoch,
                "source": order.source,
                "cause": order.cause,
            },
        ).scalar_one_or_none()
        if made is None:
            return 0  # another worker made it
        connection.execute(
            text("UPDATE fleet.refund_orders SET instruction_id = :made, held_reason = NULL WHERE id = :id"),
            {"made": made, "id": order.id},
        )
    log.info("refund_drafted", payment_id=str(order.payment_id), instruction_id=str(made), cause=order.cause)
    return 1


def _request_key(connection: Connection, order: RefundOrder) -> str:
    """One instruction an order (L19), and another one after each that was voided with its treasury (R22) or for a security gap (R7)."""
    made = connection.execute(
        text(
            "SELECT count(*) FROM fleet.release_instructions WHERE payment_id = :payment AND purpose = 'refund' "
            "AND starts_with(request_key, :order) AND state IN ('expired', 'cancelled')"
        ),
        {"payment": order.payment_id, "order": str(order.id)},
    ).scalar_one()
    return str(order.id) if made == 0 else f"{order.id}-{made + 1}"


def refund_address(
    connection: Connection, payment_id: UUID, chain_id: int, buyer_id: UUID, *, book: AddressBook | None = None
) -> str | None:
    """The newest address that its own key signed for, else the buyer's address-book entry, else None.

    ``book`` holds the signed entries; None where no approvals are required.
    """
    if (proved := _proved_addresses(connection, payment_id, chain_id)) != []:
        return proved[0]
    if book is not None:
        entry = book.payee_of(str(buyer_id), chain_id)
        return None if entry is None else entry.address
    return connection.execute(
        text(
            "SELECT address FROM fleet.address_book WHERE user_id = :buyer AND chain_id = :chain "
            "AND coalesce(action, 'add') = 'add' ORDER BY created_at DESC, id DESC LIMIT 1"
        ),
        {"buyer": buyer_id, "chain": chain_id},
    ).scalar_one_or_none()


def is_proved(connection: Connection, instruction: Instruction) -> bool:
    """Whether the instruction's recipient is an address that its own key signed for (R21)."""
    payment_id = instruction.payment_id
    return payment_id is not None and instruction.recipient in _proved_addresses(
        connection, payment_id, instruction.chain_id
    )


def _proved_addresses(connection: Connection, payment_id: UUID, chain_id: int) -> list[str]:
    """Those whose signature recovers now, the newest first: whoever wrote the row is not believed (R9)."""
    proofs = connection.execute(
        text(
            "SELECT address, signed_at, y_parity, r, s FROM fleet.refund_addresses "
            "WHERE payment_id = :payment AND chain_id = :chain ORDER BY created_at DESC, id DESC LIMIT :limit"
        ),
        {"payment": payment_id, "chain": chain_id, "limit": PROOFS_LIMIT},
    )
    found: list[str] = []
    for proof in proofs:
        try:
            signature = Signature(proof.y_parity, int(proof.r), int(proof.s))
            require_proof(payment_id, chain_id, proof.address, proof.signed_at, signature)
        except (ProofRefused, SignatureError) as error:
            log.error("refund_proof_refused", payment_id=str(payment_id), address=proof.address, reason=str(error))
            continue
        found.append(proof.address)
    return found


def record_proof(
    connection: Connection,
    payment_id: UUID,
    chain_id: int,
    address: str,
    signed_at: datetime,
    signature: Signature,
    *,
    by: str,
) -> None:
    """Keep a buyer's signature, and let waiting orders be looked at. Raises ProofRefused."""
    require_proof(payment_id, chain_id, address, signed_at, signature)
    connection.execute(
        text(
            """
            INSERT INTO fleet.refund_addresses (payment_id, chain_id, address, signed_at, y_parity, r, s, added_by)
            VALUES (:payment, :chain, :address, :at, :y, :r, :s, :by)
            """
        ),
        {
            "payment": payment_id,
            "chain": chain_id,
            "address": address,
            "at": signed_at,
            "y": signature.y_parity,
            "r": signature.r,
            "s": signature.s,
            "by": by,
        },
    )
    ring(connection, "releases")


def reserve_refund(connection: Connection, instruction: Instruction, chains: Chains) -> Instruction:
    """drafted -> awaiting_approval, with ``refund:reserve`` of its source / refunding.

    The caller holds the instruction's lock. Raises ReleaseStopped, or a LedgerRefusal; the transaction must then be
    rolled back.
    """
    assert instruction.payment_id is not None  # a refund is never grouped: its address is proved for its payment alone
    payment_id = instruction.payment_id
    lock_payment(connection, payment_id)
    book = _book(connection, instruction)
    if stops := _stops(connection, instruction, chains, book):
        raise ReleaseStopped(payment_id, tuple(stops))
    instruction = rows.pay_from(connection, instruction, _treasury(connection, instruction, chains))
    rows.move(connection, instruction, "awaiting_approval", release_epoch=book.release_epoch)
    evidence: dict[str, Any] = {
        "recipient": instruction.recipient,
        "cause": instruction.cause,
    }
    if instruction.source == "disputed":
        evidence["dispute_resolution_id"] = instruction.cause
    post(
        connection,
        Entry(
            book_kind="payment",
            book_id=payment_id,
            chain_id=instruction.chain_id,
            token=instruction.token,
            entry_type=REFUND,
            reason="reserve",
            debit=instruction.source,
            credit="refunding",
            amount=instruction.amount,
            key=f"release:{instruction.id}:reserve:1",
            instruction_id=instruction.id,
            evidence=evidence,
        ),
    )
    log.info("refund_reserved", payment_id=str(instruction.payment_id), instruction_id=str(instruction.id))
    return rows.lock(connection, instruction.id)


def _book(connection: Connection, instruction: Instruction) -> Any:
    return connection.execute(
        text(
            """
            SELECT b.treasury - b.releasing - b.refunding - b.paying_fees AS free, b.overdraft, b.dispute_open,
                b.release_epoch, CASE :source WHEN 'held' THEN b.held WHEN 'disputed' THEN b.disputed
                    ELSE b.suspense - fleet.sanctioned_of(b.book_id, b.chain_id, b.token) END AS left_over
            FROM fleet.ledger_balances b WHERE b.book_id = :book AND b.chain_id = :chain AND b.token = :token
            """
        ),
        {
            "source": instruction.source,
            "book": instruction.payment_id,
            "chain": instruction.chain_id,
            "token": instruction.token,
        },
    ).one()


def _stops(connection: Connection, instruction: Instruction, chains: Chains, book: Any) -> list[Stop]:
    stops: list[Stop] = []
    try:
        chain = chains.chain(instruction.chain_id)
    except SettingsError as error:
        return [Stop("chain_unknown", f"{error}; add it, or refund where it is configured.")]
    treasury = _treasury(connection, instruction, chains)
    stops += security_stops(connection, instruction.payment_ids[0])
    stops += chain_stops(connection, chain.at(treasury))
    if why := why_recipient_refused(connection, chain, instruction.recipient):
        stops.append(Stop("recipient_refused", why))
    if book.dispute_open:
        stops.append(Stop("dispute_open", f"{book.dispute_open} dispute(s) open; resolve them first (L4)."))
    if book.left_over < instruction.amount:
        stops.append(
            Stop("nothing_to_refund", f"{book.left_over.normalize():f} are {instruction.source}, less than it refunds.")
        )
    if book.free - book.overdraft < instruction.amount:
        stops.append(Stop("not_swept", "its coins are not free in the treasury; the sweep must bring them first (L3)."))
    elif why := why_apart(
        connection, chain, instruction.payment_ids[0], instruction.token, instruction.amount, treasury
    ):
        stops.append(Stop(*why.split(": ", 1)))
    return stops


def _treasury(connection: Connection, instruction: Instruction, chains: Chains) -> str:
    chain = chains.chain(instruction.chain_id)
    return treasury_of(connection, chain, instruction.payment_ids[0], instruction.token, instruction.amount)


def _wait(connection: Connection, order: RefundOrder, why: str) -> int:
    connection.execute(
        text(
            """
            UPDATE fleet.refund_orders SET held_reason = :why, attempts = attempts + 1,
                run_after = clock_timestamp() + make_interval(secs => :seconds)
            WHERE id = :id AND instruction_id IS NULL
            """
        ),
        {
            "id": order.id,
            "why": why[: rows.REASON_CHARACTERS],
            "seconds": min(rows.HOLD_MAXIMUM_SECONDS, backoff_seconds(order.attempts + 1)),
        },
    )
    log.info("refund_waits", payment_id=str(order.payment_id), reason=why)
    return 0

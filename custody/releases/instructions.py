"""Making release instructions: which payments are due, the draft, and the reservation in the ledger.

An instruction is made once per (payment, purpose, request key), L19. Drafting writes a row and nothing else, so
an operator's role can do it; only the releases worker's role can reserve (R9).
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, text

from custody.ledger import Entry, post
from custody.payments import move_payment
from custody.policy import AddressBook
from custody.releases import rows
from custody.releases.fees import NO_FEES, FeeRates, charge
from custody.releases.gate import Gate, ReleaseStopped, Stop, release_gate
from custody.releases.rows import Instruction
from custody.releases.states import ENDED
from custody.settings.chains import Chains
from custody.store.engine import transaction
from custody.store.outbox import ring

log = structlog.get_logger(__name__)

RELEASE: Final = "release"
WHOLE: Final = "whole"
PART: Final = "part:"
"""The request key of a part begins so; the rest of it is the name that whoever ordered it gave it."""
REQUEST_KEY_CHARACTERS: Final = 64  # a label such as whole-2; more is a mistake

_INSERT: Final = text(
    """
    INSERT INTO fleet.release_instructions
        (payment_id, purpose, request_key, chain_id, treasury, token, recipient, amount, amount_units, release_epoch, cause,
        platform_fee, provider_fee)
    VALUES (:payment, :purpose, :key, :chain, :treasury, :token, :recipient, :amount, :units, :epoch, :cause, :platform_fee, :provider_fee)
    ON CONFLICT (payment_id, purpose, request_key) DO NOTHING
    """
)

# Funded, swept and undisputed in the books, and never asked for: what is left to ask is the marketplace.
_CANDIDATES: Final = text(
    """
    SELECT p.id FROM public.payments p
    JOIN fleet.payment_routes r ON r.payment_id = p.id
    JOIN fleet.ledger_balances b ON b.book_id = p.id AND b.chain_id = r.chain_id AND b.token = r.token
    WHERE p.escrow_state IN ('funded', 'releasable') AND p.status = 'confirmed' AND NOT p.disputed
      AND b.held > 0 AND b.dispute_open = 0
      AND b.treasury - b.releasing - b.refunding - b.paying_fees >= b.held
      AND p.id > :after
      -- A part that was paid leaves the rest to be found; one that is under way comes first.
      AND NOT EXISTS (SELECT FROM fleet.release_instructions i WHERE i.payment_id = p.id AND i.purpose = 'release'
                      AND (i.request_key NOT LIKE 'part:%' OR i.state NOT IN ('final', 'cancelled', 'expired', 'failed')))
    ORDER BY p.id LIMIT :limit
    """
)

FIRST: Final = UUID(int=0)


def candidates(connection: Connection, limit: int, after: UUID = FIRST) -> list[UUID]:
    """Payments whose coins are ready and that no instruction was ever made for, by id after ``after``.

    The caller goes on where it stopped: payments that wait for their buyer must not hide those that do not.
    """
    return list(connection.execute(_CANDIDATES, {"limit": limit, "after": after}).scalars())


def draft_release(
    connection: Connection,
    payment_id: UUID,
    chains: Chains,
    *,
    request_key: str = WHOLE,
    book: AddressBook | None = None,
    cause: str | None = None,
    rates: FeeRates = NO_FEES,
    amount: Decimal | None = None,
) -> Instruction:
    """The instruction to pay a payment's whole held amount to its seller: made if it is new, else as it stands.

    ``amount``: a part of it, whole tokens before fees; its request key is a part_key.
    Rings the releases queue; the worker reserves it. ``book``: see release_gate. ``cause``: what orders it in place of
    the buyer's word. Raises ReleaseStopped when the gate is closed, LookupError
    for an unknown payment, ValueError for a bad request key.
    """
    if not 0 < len(request_key) <= REQUEST_KEY_CHARACTERS:
        raise ValueError(f"request key: expected 1 to {REQUEST_KEY_CHARACTERS} characters")
    standing = rows.find(connection, payment_id, RELEASE, request_key)
    if standing is not None:
        if amount is not None and gross_of(standing) != amount:
            said = f"{request_key} was made of {gross_of(standing).normalize():f}; give another part another name."
            raise ReleaseStopped(payment_id, (Stop("part_differs", said),))
        return standing
    gate = release_gate(connection, payment_id, chains, book=book, rates=rates, amount=amount).require_open()
    under_way = _under_way(connection, payment_id)
    if under_way is not None and (is_part(request_key) or is_part(under_way.request_key)):
        said = f"instruction {under_way.id} ({under_way.request_key}) is {under_way.state}; it ends first."
        raise ReleaseStopped(payment_id, (Stop("release_under_way", said),))
    connection.execute(
        _INSERT,
        {
            "payment": payment_id,
            "purpose": RELEASE,
            "key": request_key,
            "chain": gate.chain_id,
            "treasury": gate.treasury,
            "token": gate.token,
            "recipient": gate.recipient,
            "amount": gate.amount,
            "units": gate.amount_units,
            "epoch": gate.release_epoch,
            "cause": cause,
            "platform_fee": gate.fees.platform,
            "provider_fee": gate.fees.provider,
        },
    )
    ring(connection, "releases")
    made = rows.find(connection, payment_id, RELEASE, request_key)
    assert made is not None
    return made


def part_key(name: str) -> str:
    """The request key of a part: the same name again is the same part (L19). Raises ValueError."""
    if not name.strip() or len(PART + name) > REQUEST_KEY_CHARACTERS:
        raise ValueError(f"part: expected a name of 1 to {REQUEST_KEY_CHARACTERS - len(PART)} characters")
    return PART + name


def is_part(request_key: str) -> bool:
    """Whether a request key is a part's."""
    return request_key.startswith(PART)


def gross_of(instruction: Instruction) -> Decimal:
    """What a release takes out of what is held: its amount and the fees beside it, whole tokens."""
    return instruction.amount + instruction.platform_fee + instruction.provider_fee


def _under_way(connection: Connection, payment_id: UUID) -> Instruction | None:
    """A release of the payment that has not ended: its next one is judged on what that leaves."""
    found = rows.select(
        connection,
        "i.payment_id = :payment AND i.purpose = 'release' AND i.state <> ALL (:ended)",
        {"payment": payment_id, "ended": sorted(ENDED)},
        suffix="ORDER BY i.created_at LIMIT 1",
    )
    return found[0] if found else None


def next_request_key(connection: Connection, payment_id: UUID) -> str:
    """The request key of a release after those that ended without paying; an open or paid one is itself the answer.

    Two operators who ask at once get the same key, and with it one instruction (L19).
    """
    made = rows.select(
        connection,
        "i.payment_id = :payment AND i.purpose = :purpose AND i.request_key NOT LIKE :parts",
        {"payment": payment_id, "purpose": RELEASE, "parts": f"{PART}%"},
        suffix="ORDER BY i.created_at, i.id",
    )
    if not made:
        return WHOLE
    last = made[-1]
    return f"{WHOLE}-{len(made) + 1}" if last.state in {"failed", "cancelled", "expired"} else last.request_key


def draft_again(
    engine: Engine, chains: Chains, ended: Iterable[Any], *, book: AddressBook | None = None, rates: FeeRates = NO_FEES
) -> int:
    """Draft these payments' releases once more, each in its own transaction; how many were.

    ``ended``: ``payment_id`` and ``cause`` of what was ended for a reason that is settled. ``book``, ``rates``: see release_gate.
    """
    drafted = 0
    for row in ended:
        with transaction(engine) as connection:
            try:
                draft_release(
                    connection,
                    row.payment_id,
                    chains,
                    request_key=next_request_key(connection, row.payment_id),
                    book=book,
                    cause=row.cause,
                    rates=rates,
                )
                drafted += 1
            except ReleaseStopped as error:
                log.info("release_stopped", payment_id=str(row.payment_id), reason=str(error.stops[0]))
    return drafted


def reserve(
    connection: Connection,
    instruction: Instruction,
    chains: Chains,
    *,
    book: AddressBook | None = None,
    rates: FeeRates = NO_FEES,
) -> Instruction:
    """drafted -> awaiting_approval, with ``release:reserve`` held / releasing in the same transaction.

    The caller holds the instruction's lock. What the gate says now must still be what was drafted. Raises
    ReleaseStopped, or a LedgerRefusal; the transaction (or savepoint) must then be rolled back.
    """
    assert instruction.payment_id is not None
    move_payment(connection, instruction.payment_id, "became_releasable")
    part = gross_of(instruction) if is_part(instruction.request_key) else None
    gate = release_gate(connection, instruction.payment_id, chains, book=book, rates=rates, amount=part).require_open()
    if stops := _differences(gate, instruction):
        raise ReleaseStopped(instruction.payment_id, stops)
    payment_id = instruction.payment_id
    instruction = rows.pay_from(connection, instruction, gate.treasury)
    rows.move(connection, instruction, "awaiting_approval", release_epoch=gate.release_epoch)
    post(
        connection,
        Entry(
            book_kind="payment",
            book_id=payment_id,
            chain_id=instruction.chain_id,
            token=instruction.token,
            entry_type="release",
            reason="reserve",
            debit="held",
            credit="releasing",
            amount=instruction.amount,
            key=f"release:{instruction.id}:reserve:1",
            instruction_id=instruction.id,
            evidence={"recipient": instruction.recipient},
        ),
    )
    charge(connection, instruction)
    move_payment(connection, payment_id, "release_reserved")
    log.info("release_reserved", payment_id=str(instruction.payment_id), instruction_id=str(instruction.id))
    return rows.lock(connection, instruction.id)


def _differences(gate: Gate, instruction: Instruction) -> tuple[Stop, ...]:
    compared: Sequence[tuple[str, object, object]] = (
        ("recipient", gate.recipient, instruction.recipient),
        ("amount", gate.amount_units, instruction.amount_units),
        ("platform fee", gate.fees.platform, instruction.platform_fee),
        ("provider fee", gate.fees.provider, instruction.provider_fee),
    )
    return tuple(
        Stop(
            "draft_outdated",
            f"its {field} was drafted as {drafted} and is {now} now; draft it again with a new request key.",
        )
        for field, now, drafted in compared
        if now != drafted
    )

"""Native coin that no transaction of its own told us of: what an address holds beyond its books is booked (L8).

Contracts move coins inside transactions; neither the transaction nor a log says so. So the balances of native
destinations that expect money are read every few blocks, and a difference becomes a fact of that block. It is a guess
about nothing but the moment: if the transaction is looked at later, detect() puts its own facts in the place of this one.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Final, Protocol
from uuid import UUID

import structlog
from eth_utils.address import to_checksum_address
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from custody.chain import facts, looks
from custody.chain.addresses import ZERO_ADDRESS
from custody.chain.assets import NATIVE, to_amount, to_units
from custody.chain.attribution import attribute
from custody.chain.blocks import BlockHeader
from custody.chain.cursor import watched_window
from custody.chain.detection import Sighting, detect
from custody.chain.facts import Arrival, Destination
from custody.chain.fence import Fence
from custody.chain.house_funding import NATIVE_DECIMALS
from custody.chain.native import BALANCE, NativeInbound, NativeTransfer
from custody.destinations.balance import show_balance
from custody.ledger import LedgerRefusal, post
from custody.payments.standing import OPEN_STATUSES, settle_state
from custody.payments.transitions import TransitionRefused, lock_payment
from custody.settings.chains import Chain
from custody.store.engine import attempts, forbid_inside_transaction, is_retryable, ring_relay, transaction
from custody.store.outbox import ring
from custody.store.work import bury

log = structlog.get_logger(__name__)

NATIVE_RECONCILIATION_BLOCKS: Final = 64
"""How often balances are compared: a coin moved inside a contract is seen within so many blocks."""

DESTINATIONS_AT_ONCE: Final = 200
"""Addresses a read of the books and a round of balances: a statement of a few ms, two requests of a hundred calls."""

DESTINATIONS_MAXIMUM: Final = 5_000
"""Addresses a run, so that a run ends within seconds; beyond it each run takes others of them."""

_SCHEDULE: Final = "native_reconciliation"
# What may be wrong with one address alone.
_FAILURES: Final = (LedgerRefusal, TransitionRefused, LookupError, DBAPIError)


class CoinReader(Protocol):
    """Who says what accounts hold and which blocks stand: one node, or several of which only the common word counts."""

    def balances(self, addresses: Collection[str], block_hash: str, /) -> dict[str, int]: ...

    def headers(self, numbers: Collection[int], /) -> dict[int, BlockHeader]: ...


@dataclass(frozen=True, slots=True)
class _Place:
    """An address at rest: ``booked`` in whole coins is what payments, the house and nobody's facts say lies there."""

    id: UUID
    address: str
    booked: Decimal


def reconcile_native(engine: Engine, reader: CoinReader, chain: Chain, fence: Fence, head: BlockHeader) -> int:
    """Bring the books of native destinations to their balances at ``head``; return how many facts came or went.

    First what a block that left the chain had told is taken back, at every call. Then, once in
    NATIVE_RECONCILIATION_BLOCKS, the balances are read: one call an address that expects native money, in batched
    requests pinned to the head's hash. Raises ChainUnavailable, Fenced; what was not compared then is compared at the next call.
    """
    changed = _take_back(engine, reader, chain, fence, head)
    slot = head.number // NATIVE_RECONCILIATION_BLOCKS
    with transaction(engine) as connection:
        wanted = [] if _was_done(connection, chain.id, slot) else _expecting(connection, chain.id, slot)
    for start in range(0, len(wanted), DESTINATIONS_AT_ONCE):
        with transaction(engine) as connection:
            places = _at_rest(connection, chain.id, head.number, wanted[start : start + DESTINATIONS_AT_ONCE])
        forbid_inside_transaction("reading balances")
        balances = reader.balances([place.address for place in places], head.hash) if places else {}
        for place in places:
            excess = balances[place.address] - to_units(place.booked, NATIVE_DECIMALS)
            if excess > 0:
                changed += _apart(
                    engine,
                    chain,
                    fence,
                    place.address,
                    partial(_book, chain=chain, head=head, place=place, excess=excess),
                )
            elif excess < 0:
                log.error(
                    "native_destination_short", chain_id=chain.id, address=place.address, missing_wei=str(-excess)
                )
    with fence.transaction(engine) as connection:
        connection.execute(
            text("INSERT INTO fleet.schedule_runs (name, slot) VALUES (:name, :slot) ON CONFLICT DO NOTHING"),
            {"name": f"{_SCHEDULE}:{chain.id}", "slot": slot},
        )
    if changed:
        ring_relay(engine)
    return changed


def _was_done(connection: Connection, chain_id: int, slot: int) -> bool:
    return connection.execute(
        text("SELECT EXISTS (SELECT FROM fleet.schedule_runs WHERE name = :name AND slot = :slot)"),
        {"name": f"{_SCHEDULE}:{chain_id}", "slot": slot},
    ).scalar_one()


def _expecting(connection: Connection, chain_id: int, slot: int) -> list[UUID]:
    """The destinations that an open payment expects native coin at, or that hold some by the books."""
    found = list(
        connection.execute(
            text(
                """
                SELECT wanted.id FROM (
                    SELECT r.destination_id AS id
                    FROM fleet.payment_routes r JOIN public.payments p ON p.id = r.payment_id
                    WHERE r.chain_id = :chain_id AND r.token = :native AND p.status::text = ANY(:open)
                    UNION
                    SELECT f.destination_id
                    FROM fleet.ledger_balances b JOIN fleet.chain_facts f
                        ON f.payment_id = b.book_id AND f.chain_id = b.chain_id AND f.token = b.token
                    WHERE b.chain_id = :chain_id AND b.token = :native AND b.book_kind = 'payment'
                        AND b.destination > 0 AND f.live AND f.direction = 'inbound' AND f.destination_id IS NOT NULL
                ) AS wanted
                ORDER BY md5(wanted.id::text || CAST(:slot AS text)) LIMIT :limit
                """
            ),
            {
                "chain_id": chain_id,
                "native": NATIVE,
                "open": sorted(OPEN_STATUSES),
                "slot": str(slot),
                "limit": DESTINATIONS_MAXIMUM + 1,
            },
        ).scalars()
    )
    if len(found) > DESTINATIONS_MAXIMUM:
        log.warning("native_reconciliation_partial", chain_id=chain_id, compared=DESTINATIONS_MAXIMUM)
    return found[:DESTINATIONS_MAXIMUM]


def _at_rest(connection: Connection, chain_id: int, head_number: int, ids: Sequence[UUID]) -> list[_Place]:
    """Those of the destinations of which a difference can be nothing but an inflow that nobody told us of.

    Not one that our own transactions come to or go from, nor one that a due look may tell of, nor one whose books
    know a later block than the node.
    """
    rows = connection.execute(
        text(
            """
            SELECT d.id, d.address,
                coalesce((
                    SELECT sum(CASE WHEN e.debit = 'destination' THEN e.amount ELSE -e.amount END)
                    FROM public.funds_ledger_entries e
                    WHERE e.chain_id = :chain_id AND e.token = :native AND e.book_id IN (
                            SELECT f.payment_id FROM fleet.chain_facts f
                            WHERE f.destination_id = d.id AND f.token = :native AND f.payment_id IS NOT NULL)
                        AND (e.debit = 'destination' AND e.debit_address = d.address
                            OR e.credit = 'destination' AND e.credit_address = d.address)), 0)
                + coalesce((SELECT sum(e.amount) FROM public.funds_ledger_entries e
                    WHERE e.debit = 'gas_float' AND e.debit_address = d.address AND e.chain_id = :chain_id), 0)
                - coalesce((SELECT sum(e.amount) FROM public.funds_ledger_entries e
                    WHERE e.credit = 'gas_float' AND e.credit_address = d.address AND e.chain_id = :chain_id), 0)
                + coalesce((SELECT sum(f.amount_units) FROM fleet.chain_facts f
                    WHERE f.destination_id = d.id AND f.chain_id = :chain_id AND f.token = :native AND f.live
                        AND f.direction = 'inbound' AND f.payment_id IS NULL), 0) * CAST(1e-18 AS numeric) AS booked
            FROM public.derived_destinations d
            WHERE d.id = ANY(:ids)
                AND NOT EXISTS (SELECT FROM fleet.chain_transactions t
                    WHERE t.chain_id = :chain_id AND t.state IN ('intent', 'signed', 'broadcast')
                        AND d.address IN (t.sender, t.recipient))
                AND NOT EXISTS (SELECT FROM fleet.chain_transactions t
                    WHERE t.chain_id = :chain_id AND t.sender = d.address AND t.block_number > :head)
                AND NOT EXISTS (SELECT FROM fleet.chain_facts f
                    WHERE f.destination_id = d.id AND f.chain_id = :chain_id AND f.token = :native AND f.live
                        AND f.block_number > :head)
                AND NOT EXISTS (SELECT FROM fleet.chain_looks l
                    WHERE l.chain_id = :chain_id AND l.state = 'due' AND (
                        l.payment_id IS NULL AND l.attempts = 0
                        OR l.payment_id IN (
                            SELECT r.payment_id FROM fleet.payment_routes r WHERE r.destination_id = d.id)))
            ORDER BY d.id
            """
        ),
        {"chain_id": chain_id, "native": NATIVE, "ids": list(ids), "head": head_number},
    )
    return [_Place(row.id, row.address, row.booked) for row in rows]


def _apart(engine: Engine, chain: Chain, fence: Fence, address: str, step: Callable[[Connection], int]) -> int:
    """One address, one transaction. One that fails is shown to an operator and stops no other."""
    for attempt in attempts():
        try:
            with fence.transaction(engine) as connection:
                return step(connection)
        except _FAILURES as error:
            if is_retryable(error) and attempt < max(attempts()):
                continue
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                raise
            reason = f"{address}: {type(error).__name__}: {error}"
            log.error("native_reconciliation_failed", chain_id=chain.id, reason=reason)
            with fence.transaction(engine) as connection:
                bury(
                    connection,
                    queue=looks.QUEUE,
                    subject_kind="native_destination",
                    subject_id=f"{chain.id}:{address}",
                    reason=f"its balance differs from its books, and the difference cannot be booked: {reason}",
                    unblocks="repair what the reason names; it is compared again "
                    f"within {NATIVE_RECONCILIATION_BLOCKS} blocks",
                    attempts=attempt,
                )
    return 0


def _book(connection: Connection, *, chain: Chain, head: BlockHeader, place: _Place, excess: int) -> int:
    facts.lock_destinations(connection, [place.id])
    transaction_id = f"native:{chain.id}:{place.address}:{head.hash}"
    # The books as they were before the balance was read: anything booked since then would be counted twice.
    if _at_rest(connection, chain.id, head.number, [place.id]) != [place] or facts.lock_standing_facts(
        connection, chain.id, [transaction_id]
    ):
        return 0
    transfer = NativeTransfer(
        chain_id=chain.id,
        block_number=head.number,
        block_hash=head.hash,
        transaction_hash=transaction_id,
        log_index=BALANCE,
        sender=ZERO_ADDRESS,
        recipient=to_checksum_address(place.address),
        amount=excess,
    )
    arrival = Arrival(
        NativeInbound(transfer, BALANCE, None), Destination(place.id, place.address), NATIVE, NATIVE_DECIMALS
    )
    attributed = attribute(connection, [(place.id, None)])[place.id, None]
    if attributed is None:
        [fact_id] = facts.insert_facts(connection, chain.id, [(arrival, None)])
        bury(
            connection,
            queue=looks.QUEUE,
            subject_kind="chain_fact",
            subject_id=fact_id,
            reason=f"{excess} wei lie at {place.address} beyond its books: no payment is there",
            unblocks="find in a block explorer where they came from, and give the address a payment",
            attempts=1,
        )
        return 1
    payment_id, basis = attributed
    lock_payment(connection, payment_id)
    [fact_id] = facts.insert_facts(connection, chain.id, [(arrival, payment_id)])
    evidence = {"booked_before": f"{place.booked:f}"}
    post(
        connection,
        facts.seen_entry(fact_id, arrival, excess, payment_id=payment_id, basis=basis, evidence=evidence),
    )
    settle_state(connection, payment_id)
    show_balance(connection, place.id)
    ring(connection, "confirmations")
    log.info(
        "native_reconciled",
        chain_id=chain.id,
        payment_id=str(payment_id),
        fact_id=str(fact_id),
        address=place.address,
        amount=f"{to_amount(excess, NATIVE_DECIMALS):f}",
        attribution=basis,
    )
    return 1


def _take_back(engine: Engine, reader: CoinReader, chain: Chain, fence: Fence, head: BlockHeader) -> int:
    """Reverse what was reconciled at a block that left the chain (L1). A node that is only behind proves nothing."""
    with transaction(engine) as connection:
        standing = connection.execute(
            text(
                """
                SELECT transaction_hash, block_number, block_hash, recipient FROM fleet.chain_facts
                WHERE chain_id = :chain_id AND live AND log_index = -2 AND block_number > :lowest
                ORDER BY block_number DESC, id
                """
            ),
            {"chain_id": chain.id, "lowest": head.number - watched_window(chain.id)},
        ).all()
    if not standing:
        return 0
    forbid_inside_transaction("reading headers")
    headers = reader.headers({row.block_number for row in standing})
    taken = 0
    for row in standing:
        header = headers.get(row.block_number)
        if header is None or header.hash == row.block_hash:
            continue
        sighting = Sighting(row.transaction_hash, None, head, headers)
        taken += _apart(engine, chain, fence, row.recipient, partial(_take_back_one, chain=chain, sighting=sighting))
    return taken


def _take_back_one(connection: Connection, *, chain: Chain, sighting: Sighting) -> int:
    return detect(connection, chain, sighting).reversed_facts

"""Moving coins from a former treasury to the active one, by the old treasury's own device (R22).

A move is an instruction like any other: judged by the policy, approved by k, one nonce, ended by its nonce alone (R1). It
is drafted for everything that lies at a compromised treasury, the largest amounts first, and for a draining one when an
operator orders it. Coins that another instruction has promised stay until it has ended (L3). The house's own go last
(house_drains).
"""

from typing import Any, Final

import structlog
from sqlalchemy import Connection, Engine, text

from custody.chain.assets import to_units
from custody.payments import lock_payment
from custody.policy import AddressBook
from custody.releases import rows
from custody.releases.drain_entries import book_drain_promised
from custody.releases.fees import NO_FEES, FeeRates
from custody.releases.gate import ReleaseStopped, Stop
from custody.releases.house_drains import draft_house_drain, reserve_house_drain
from custody.releases.instructions import draft_again
from custody.releases.rows import Instruction
from custody.releases.states import ENDED
from custody.releases.treasuries import compromised, free_coins
from custody.releases.voiding import void_before_hand_out
from custody.settings.chains import Chain, Chains
from custody.store.engine import transaction
from custody.store.outbox import ring
from custody.store.work import bury

log = structlog.get_logger(__name__)

VOIDED: Final = "treasury_compromised"
"""The reason of what was voided with its treasury, and is drafted again once its coins are at the active one."""
REASON: Final = f"{VOIDED}: nobody is paid from this treasury any more; its coins are moved first (R22)"
OUTDATED: Final = "treasury_rotated: the active treasury is another one now; it is drafted again (R22)"
BY_CHARACTERS: Final = 100

_TO_VOID: Final = """
    i.chain_id = :chain AND i.group_id IS NULL AND i.state IN ('drafted', 'awaiting_approval', 'ready')
    AND CASE i.purpose WHEN 'drain' THEN i.recipient <> :active ELSE i.treasury = ANY (:compromised) END
"""
# Books of payments with coins in a treasury; which of them lie at this one, the entries say. What an operator or the chain
# ended is not drafted again before it is ordered again; what ran out, or was drafted for another treasury, is.
_TO_DRAFT: Final = text(
    """
    SELECT b.book_id, b.token, b.release_epoch, t.decimals, (
        SELECT count(*) FROM fleet.release_instructions i
        WHERE i.payment_id = b.book_id AND i.purpose = 'drain' AND i.treasury = :treasury AND i.token = b.token) AS made
    FROM fleet.ledger_balances b JOIN fleet.tokens t ON t.chain_id = b.chain_id AND t.token = b.token
    WHERE b.chain_id = :chain AND b.book_kind = 'payment'
      AND b.treasury - b.releasing - b.refunding - b.paying_fees > 0
      AND EXISTS (SELECT FROM public.funds_ledger_entries e WHERE e.book_id = b.book_id AND e.chain_id = b.chain_id
                  AND e.token = b.token AND e.debit = 'treasury' AND e.debit_address = :treasury)
      AND NOT EXISTS (
        SELECT FROM fleet.release_instructions i
        WHERE i.payment_id = b.book_id AND i.purpose = 'drain' AND i.treasury = :treasury AND i.token = b.token
          AND (i.state <> ALL (:ended) OR i.updated_at > coalesce(CAST(:ordered_at AS timestamptz), '-infinity')
               AND (i.state IN ('failed', 'cancelled')
                    OR i.state = 'expired' AND starts_with(i.held_reason, 'cancelled by'))))
    ORDER BY b.treasury DESC, b.book_id LIMIT :limit
    """
)
_VOIDED_RELEASES: Final = text(
    """
    SELECT i.payment_id, i.cause FROM fleet.release_instructions i
    WHERE i.purpose = 'release' AND i.state = 'expired' AND starts_with(i.held_reason, :reason)
      AND EXISTS (SELECT FROM fleet.ledger_balances b
                  WHERE b.book_id = i.payment_id AND b.chain_id = i.chain_id AND b.token = i.token AND b.held > 0
                    AND b.dispute_open = 0 AND b.treasury - b.releasing - b.refunding - b.paying_fees >= b.held)
      AND NOT EXISTS (SELECT FROM fleet.release_instructions o
                      WHERE o.payment_id = i.payment_id AND o.purpose = 'release' AND (o.created_at, o.id) > (i.created_at, i.id))
    ORDER BY i.updated_at LIMIT :limit
    """
)


def order_drain(connection: Connection, chain: Chain, treasury: str, *, by: str) -> None:
    """Order that what lies at a former treasury is moved, or moved again where a move failed; rings the releases worker.

    Raises LookupError for a treasury that is not draining or compromised, ValueError for a label that is none.
    """
    former = chain.former(treasury)
    if former is None or former.state == "retired":
        raise LookupError(f"{treasury} is {former.state if former else 'no former treasury'} of chain {chain.id}")
    if not 1 <= len(by) <= BY_CHARACTERS:
        raise ValueError(f"by: expected 1 to {BY_CHARACTERS} characters, got {len(by)}")
    connection.execute(
        text(
            """
            INSERT INTO fleet.treasury_drains (chain_id, treasury, ordered_by) VALUES (:chain, :treasury, :by)
            ON CONFLICT (chain_id, treasury) DO UPDATE SET ordered_by = excluded.ordered_by, ordered_at = clock_timestamp()
            """
        ),
        {"chain": chain.id, "treasury": treasury, "by": by},
    )
    ring(connection, "releases")


def follow_rotations(
    engine: Engine,
    chains: Chains,
    limit: int,
    *,
    fee_ceiling_wei: int,
    book: AddressBook | None = None,
    rates: FeeRates = NO_FEES,
) -> int:
    """Void what a compromised treasury may not pay, draft the moves, and draft again what they brought; how many moved.

    ``fee_ceiling_wei``: what one transaction's whole fee may cost.
    """
    moved = 0
    for chain in chains.chains:
        if not chain.former_treasuries:
            continue
        moved += _void(engine, chain, limit)
        for former in chain.former_treasuries:
            if former.state != "retired":
                is_ordered = former.state == "compromised"
                moved += _draft(engine, chain, former.address, limit, fee_ceiling_wei, is_ordered=is_ordered)
        _alarm(engine, chain)
    return moved + _draft_again(engine, chains, limit, book, rates)


def reserve_drain(connection: Connection, instruction: Instruction) -> Instruction:
    """drafted -> awaiting_approval, with its coins in transit. The caller holds its lock.

    Raises ReleaseStopped, LedgerRefusal; the transaction must then be rolled back.
    """
    if instruction.house_id is not None:
        return reserve_house_drain(connection, instruction)
    assert instruction.payment_id is not None  # a drain is never grouped
    lock_payment(connection, instruction.payment_id)
    free = free_coins(connection, instruction.payment_id, instruction.chain_id, instruction.token)
    found = free.get(instruction.treasury, 0)
    if found < instruction.amount:
        sentence = f"{found} of it are free at {instruction.treasury}, {instruction.amount} would be moved; cancel it."
        raise ReleaseStopped(instruction.payment_id, (Stop("coins_promised", sentence),))
    epoch = connection.execute(
        text("SELECT release_epoch FROM fleet.ledger_balances WHERE book_id = :b AND chain_id = :c AND token = :t"),
        {"b": instruction.payment_id, "c": instruction.chain_id, "t": instruction.token},
    ).scalar_one()
    rows.move(connection, instruction, "awaiting_approval", release_epoch=epoch)
    book_drain_promised(connection, instruction)
    log.info("drain_reserved", payment_id=str(instruction.payment_id), instruction_id=str(instruction.id))
    return rows.lock(connection, instruction.id)


def _void(engine: Engine, chain: Chain, limit: int) -> int:
    values = {"chain": chain.id, "active": chain.treasury, "compromised": compromised(chain), "limit": limit}
    with transaction(engine) as connection:
        found = rows.select(connection, _TO_VOID, values, suffix="ORDER BY i.id LIMIT :limit")
    for each in found:
        with transaction(engine) as connection:
            instruction = rows.lock(connection, each.id)
            if instruction.state != each.state:
                continue  # handed out meanwhile: only its nonce ends it (R1)
            void_before_hand_out(connection, instruction, OUTDATED if instruction.is_drain else REASON)
            connection.execute(  # a refund is owed all the same: its order makes another one
                text(
                    "UPDATE fleet.refund_orders SET instruction_id = NULL, held_reason = NULL WHERE instruction_id = :id"
                ),
                {"id": instruction.id},
            )
        log.warning("instruction_voided", instruction_id=str(each.id), treasury=each.treasury, purpose=each.purpose)
    return len(found)


def _draft(engine: Engine, chain: Chain, treasury: str, limit: int, fee_ceiling_wei: int, *, is_ordered: bool) -> int:
    with transaction(engine) as connection:
        ordered_at = connection.execute(
            text("SELECT ordered_at FROM fleet.treasury_drains WHERE chain_id = :chain AND treasury = :treasury"),
            {"chain": chain.id, "treasury": treasury},
        ).scalar_one_or_none()
        if ordered_at is None and not is_ordered:
            return 0
        values = {"chain": chain.id, "treasury": treasury, "ended": sorted(ENDED), "limit": limit}
        found = connection.execute(_TO_DRAFT, {**values, "ordered_at": ordered_at}).all()
        drafted = sum(_draft_one(connection, chain, treasury, row) for row in found)
        return drafted or draft_house_drain(
            connection, chain, treasury, ordered_at=ordered_at, fee_ceiling_wei=fee_ceiling_wei
        )


def _draft_one(connection: Connection, chain: Chain, treasury: str, row: Any) -> int:
    amount = free_coins(connection, row.book_id, chain.id, row.token).get(treasury)
    if amount is None:
        return 0
    made = connection.execute(
        text(
            """
            INSERT INTO fleet.release_instructions (payment_id, purpose, request_key, chain_id, treasury, token, recipient,
                amount, amount_units, release_epoch, cause)
            VALUES (:payment, 'drain', :key, :chain, :treasury, :token, :recipient, :amount, :units, :epoch, 'rotation')
            ON CONFLICT (payment_id, purpose, request_key) DO NOTHING
            """
        ),
        {
            "payment": row.book_id,
            "key": f"{treasury[2:]}-{row.token[2:10]}-{row.made + 1}",
            "chain": chain.id,
            "treasury": treasury,
            "token": row.token,
            "recipient": chain.treasury,
            "amount": amount,
            "units": to_units(amount, row.decimals),
            "epoch": row.release_epoch,
        },
    )
    return made.rowcount


def _draft_again(engine: Engine, chains: Chains, limit: int, book: AddressBook | None, rates: FeeRates) -> int:
    """Draft what was voided with its treasury, once its coins lie where it may be paid from."""
    with transaction(engine) as connection:
        found = connection.execute(_VOIDED_RELEASES, {"reason": VOIDED, "limit": limit}).all()
    return draft_again(engine, chains, found, book=book, rates=rates)


def _alarm(engine: Engine, chain: Chain) -> None:
    """Say once of each compromised treasury that people must act, in the list that alarms are made of."""
    for treasury in compromised(chain):
        subject = f"{chain.id}:{treasury}"
        with transaction(engine) as connection:
            known = connection.execute(
                text(
                    "SELECT 1 FROM fleet.dead_work WHERE queue = 'releases' AND subject_kind = 'treasury' AND subject_id = :id"
                ),
                {"id": subject},
            ).one_or_none()
            if known is None:
                bury(
                    connection,
                    queue="releases",
                    subject_kind="treasury",
                    subject_id=subject,
                    reason=f"treasury_compromised: somebody else may sign for {treasury} on {chain.name}; nothing is paid "
                    "before its coins are moved",
                    unblocks=f"approve and sign the moves, the largest first: fleet treasury status {chain.id}",
                    attempts=1,
                )
                log.error("treasury_compromised", chain_id=chain.id, treasury=treasury)

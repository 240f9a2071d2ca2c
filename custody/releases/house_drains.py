"""Moving the house's own coins from a former treasury to the active one, once nothing else is left there (R22).

They paid the fees of every other move, so they go last: tokens first, then the chain's own coin. An account pays its last
fee out of what it leaves behind, so one ceiling of a fee (RELEASE_MAX_TOTAL_FEE_WEI) stays for it, and what the fee did
not take is the dust that remains. A Safe pays no fee and is left with nothing.
"""

from datetime import datetime
from typing import Any, Final

import structlog
from sqlalchemy import Connection, text

from custody.chain.assets import NATIVE, to_amount, to_units
from custody.ledger.house import house_account
from custody.releases import rows
from custody.releases.drain_entries import book_drain_promised
from custody.releases.gate import ReleaseStopped, Stop
from custody.releases.rows import Instruction
from custody.releases.states import ENDED
from custody.settings.chains import Chain

log = structlog.get_logger(__name__)

_ETHER_DECIMALS: Final = 18

# The next coins to move, while nothing at the treasury may still need a fee. What an operator or the chain ended is not
# drafted again before it is ordered again, as with a payment's coins.
_TO_DRAFT: Final = text(
    """
    SELECT h.id AS house_id, b.token, b.treasury_house - b.overdraft AS amount, b.release_epoch, t.decimals, (
        SELECT count(*) FROM fleet.release_instructions i WHERE i.house_id = h.id AND i.token = b.token) AS made
    FROM fleet.house_accounts h
    JOIN fleet.ledger_balances b ON b.book_id = h.id AND b.chain_id = h.chain_id
    JOIN fleet.tokens t ON t.chain_id = b.chain_id AND t.token = b.token
    WHERE h.chain_id = :chain AND h.address = :treasury AND h.kind = 'treasury'
      AND b.treasury_house - b.overdraft > CASE WHEN b.token = :native THEN CAST(:stays AS numeric) ELSE 0 END
      AND NOT EXISTS (SELECT FROM fleet.release_instructions i
                      WHERE i.chain_id = :chain AND i.treasury = :treasury AND i.state <> ALL (:ended))
      AND NOT EXISTS (SELECT FROM fleet.chain_transactions x
                      WHERE x.chain_id = :chain AND x.sender = :treasury AND x.state IN ('intent', 'signed', 'broadcast'))
      AND NOT EXISTS (SELECT FROM fleet.sweep_jobs j WHERE j.chain_id = :chain AND j.treasury = :treasury
                        AND j.state IN ('planned', 'funding', 'transferring'))
      AND NOT EXISTS (
        SELECT FROM fleet.release_instructions i
        WHERE i.house_id = h.id AND i.token = b.token
          AND i.updated_at > coalesce(CAST(:ordered_at AS timestamptz), '-infinity')
          AND (i.state IN ('failed', 'cancelled') OR i.state = 'expired' AND starts_with(i.held_reason, 'cancelled by')))
      AND NOT EXISTS (
        SELECT FROM fleet.ledger_balances p
        WHERE p.chain_id = :chain AND p.book_kind = 'payment' AND greatest(p.treasury, p.in_transit) > 0
          AND (SELECT sum(leg.amount) FROM public.funds_ledger_entries e
               CROSS JOIN LATERAL (VALUES (e.debit, e.debit_address, e.amount), (e.credit, e.credit_address, -e.amount))
                   AS leg (account, address, amount)
               WHERE e.book_id = p.book_id AND e.chain_id = p.chain_id AND e.token = p.token
                 AND leg.account IN ('treasury', 'in_transit') AND leg.address = :treasury) > 0)
    ORDER BY b.token = :native, b.token LIMIT 1
    """
)


def draft_house_drain(
    connection: Connection, chain: Chain, treasury: str, *, ordered_at: datetime | None, fee_ceiling_wei: int
) -> int:
    """Draft the next move of the house's own coins away from ``treasury``; 1 if one was drafted, else 0.

    ``fee_ceiling_wei``: what one transaction's whole fee may cost; it is left to an account that pays its own fee. Less
    than twice that is not worth its fee, and stays.
    """
    kept = to_amount(0 if chain.at(treasury).safe is not None else fee_ceiling_wei, _ETHER_DECIMALS)
    values = {
        "chain": chain.id,
        "treasury": treasury,
        "native": NATIVE,
        "stays": 2 * kept,
        "ended": sorted(ENDED),
        "ordered_at": ordered_at,
    }
    row = connection.execute(_TO_DRAFT, values).one_or_none()
    if row is None:
        return 0
    amount = row.amount - (kept if row.token == NATIVE else 0)
    made = connection.execute(
        text(
            """
            INSERT INTO fleet.release_instructions (house_id, purpose, request_key, chain_id, treasury, token, recipient,
                amount, amount_units, release_epoch, cause)
            VALUES (:house, 'drain', :key, :chain, :treasury, :token, :recipient, :amount, :units, :epoch, 'rotation')
            ON CONFLICT DO NOTHING
            """
        ),
        {
            "house": row.house_id,
            "key": str(row.made + 1),
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


def reserve_house_drain(connection: Connection, instruction: Instruction) -> Instruction:
    """drafted -> awaiting_approval, with the house's coins in transit. The caller holds its lock.

    Raises ReleaseStopped, LedgerRefusal; the transaction must then be rolled back.
    """
    if house_account(connection, instruction.chain_id, instruction.recipient, "treasury") is None:
        sentence = f"treasury {instruction.recipient} has no house account; fleet treasury rotate registers it."
        raise ReleaseStopped(instruction.book_id, (Stop("treasury_unknown", sentence),))
    book = _book(connection, instruction)
    if book.found < instruction.amount:
        sentence = (
            f"the house has {book.found.normalize():f} of it at {instruction.treasury}, {instruction.amount.normalize():f} "
            "would be moved; cancel it."
        )
        raise ReleaseStopped(instruction.book_id, (Stop("coins_gone", sentence),))
    rows.move(connection, instruction, "awaiting_approval", release_epoch=book.release_epoch)
    book_drain_promised(connection, instruction)
    log.info("house_drain_reserved", treasury=instruction.treasury, instruction_id=str(instruction.id))
    return rows.lock(connection, instruction.id)


def _book(connection: Connection, instruction: Instruction) -> Any:
    return connection.execute(
        text(
            "SELECT treasury_house - overdraft AS found, release_epoch FROM fleet.ledger_balances "
            "WHERE book_id = :b AND chain_id = :c AND token = :t"
        ),
        {"b": instruction.house_id, "c": instruction.chain_id, "t": instruction.token},
    ).one()

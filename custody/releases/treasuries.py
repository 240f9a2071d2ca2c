"""Which of a chain's treasuries an instruction pays from (R22): one where the payment's coins lie, while it may pay.

While a treasury is drained, a payment's coins may lie at the old one, at the new one, or at both. The entries of the
``treasury`` account say at which address; what an instruction promised is promised at its own treasury (L3).
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from custody.ledger.positions import treasury_position
from custody.releases.rows import DRAIN, Instruction
from custody.releases.states import ENDED
from custody.settings.chains import Chain

_PROMISES: Final = ("releasing", "refunding", "paying_fees")
_FREE: Final = text(
    """
    WITH legs AS (
        SELECT CASE WHEN e.debit = 'treasury' THEN e.debit_address ELSE e.credit_address END AS address,
            CASE WHEN e.debit = 'treasury' THEN e.amount ELSE -e.amount END AS amount
        FROM public.funds_ledger_entries e
        WHERE e.book_id = :book AND e.chain_id = :chain AND e.token = :token AND 'treasury' IN (e.debit, e.credit)
        UNION ALL
        SELECT i.treasury, CASE WHEN e.credit = ANY (:promises) THEN -e.amount ELSE e.amount END
        FROM public.funds_ledger_entries e JOIN fleet.release_instructions i ON i.id = e.instruction_id
        WHERE e.book_id = :book AND e.chain_id = :chain AND e.token = :token
          AND (e.credit = ANY (:promises) OR e.debit = ANY (:promises)))
    SELECT address, sum(amount) AS amount FROM legs GROUP BY address HAVING sum(amount) > 0 ORDER BY address
    """
)
_DRAINS_OPEN: Final = text(
    "SELECT count(*) FROM fleet.release_instructions "
    "WHERE chain_id = :chain AND treasury = ANY (:treasuries) AND purpose = :drain AND state <> ALL (:ended) "
    "AND house_id IS NULL"  # what is the house's own keeps no seller waiting
)


def free_coins(connection: Connection, book_id: UUID, chain_id: int, token: str) -> Mapping[str, Decimal]:
    """What of a payment's coins is promised to nobody, by the treasury where it lies; whole tokens, above zero."""
    values = {"book": book_id, "chain": chain_id, "token": token, "promises": list(_PROMISES)}
    return {row.address: row.amount for row in connection.execute(_FREE, values)}


def paying_treasuries(chain: Chain) -> tuple[str, ...]:
    """Those that coins still leave by an order of ours: a compromised one first (R22), a retired one never."""
    former = [each for each in chain.former_treasuries if each.state != "retired"]
    former.sort(key=lambda each: each.state != "compromised")
    return (*(each.address for each in former), chain.treasury)


def compromised(chain: Chain) -> list[str]:
    """The chain's treasuries that somebody else may sign for."""
    return [each.address for each in chain.former_treasuries if each.state == "compromised"]


def treasury_of(connection: Connection, chain: Chain, book_id: UUID, token: str, amount: Decimal) -> str:
    """The treasury that ``amount`` whole tokens of a payment are paid from: the active one, or one that is drained.

    The active one too where none has that much: ``why_apart`` says why it then waits.
    """
    if not chain.former_treasuries:
        return chain.treasury
    free = free_coins(connection, book_id, chain.id, token)
    draining = [each.address for each in chain.former_treasuries if each.state == "draining"]
    return next((each for each in (chain.treasury, *draining) if free.get(each, 0) >= amount), chain.treasury)


def why_apart(
    connection: Connection, chain: Chain, book_id: UUID, token: str, amount: Decimal, treasury: str
) -> str | None:
    """Why ``amount`` cannot be paid from ``treasury``, as a sentence with its short name; None if its coins lie there."""
    if not chain.former_treasuries:
        return None
    free = free_coins(connection, book_id, chain.id, token)
    if free.get(treasury, 0) >= amount:
        return None
    states = {each.address: each.state for each in chain.former_treasuries}
    lying = "; ".join(f"{found:f} at {at} ({states.get(at, 'active')})" for at, found in free.items()) or "nothing"
    return (
        f"coins_elsewhere: {amount:f} must lie at one treasury that may pay, and there lie {lying}. Move them to the active "
        f"one first: fleet treasury rotate {chain.id} --drain (R22)."
    )


def goes_on_while_paused(chain: Chain, instruction: Instruction) -> bool:
    """Moving coins away from whoever else can sign is what a pause is for: it is the one thing that none stops (R22)."""
    return instruction.is_drain and instruction.treasury in compromised(chain)


def why_not_from(connection: Connection, chain: Chain, instruction: Instruction) -> str | None:
    """Why an instruction may not be handed out as its treasury stands now (R22), as a sentence; None if it may."""
    former = chain.former(instruction.treasury)
    if instruction.is_drain:
        if former is None or instruction.recipient != chain.treasury:
            return (
                f"drain_outdated: it moves coins from {instruction.treasury} to {instruction.recipient}; the active treasury is "
                f"{chain.treasury}. It is drafted again."
            )
        return None if former.state == "compromised" else _why_full(connection, chain, instruction)
    if former is not None and former.state != "draining":
        return f"treasury_{former.state}: nobody is paid from {former.address} any more (R22)."
    first = drains_first(connection, chain)
    if first:
        return (
            f"treasury_compromised: {first} move(s) of coins away from {', '.join(compromised(chain))} go first (R22): "
            f"fleet treasury status {chain.id}"
        )
    return None


def _why_full(connection: Connection, chain: Chain, instruction: Instruction) -> str | None:
    """R5 follows the rotation: an EOA holds no more because coins came from another one. What must get away does anyhow."""
    token = chain.token(instruction.token)
    if chain.safe is not None or token is None or instruction.house_id is not None:
        return None
    after = treasury_position(connection, chain.id, instruction.token, chain.treasury, is_only=False)
    if after <= token.treasury_maximum:
        return None
    return (
        f"treasury_full: {chain.name}'s treasury would hold {after.normalize():f} {token.symbol} with all that is moved to it, "
        f"an EOA may hold {token.treasury_maximum.normalize():f} (R5); wait for releases, or rotate to a Safe."
    )


def drains_first(connection: Connection, chain: Chain) -> int:
    """How many moves of payments' coins away from compromised treasuries are open: nothing else is handed out meanwhile."""
    treasuries = compromised(chain)
    if not treasuries:
        return 0
    values = {"chain": chain.id, "treasuries": treasuries, "drain": DRAIN, "ended": sorted(ENDED)}
    return connection.execute(_DRAINS_OPEN, values).scalar_one()

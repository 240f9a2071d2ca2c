"""What the ledger says lies at a deposit address, payment by payment and fact by fact (L11). Units: smallest."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from sqlalchemy import Connection, text

from custody.chain.assets import to_units


@dataclass(frozen=True, slots=True)
class BookedFact:
    """What is left at the address of one inbound fact after earlier sweeps took its payment's oldest coins."""

    payment_id: UUID
    block_number: int
    log_index: int
    is_judged: bool
    units: int


@dataclass(frozen=True, slots=True)
class Share:
    """A payment's share of a sweep."""

    payment_id: UUID
    units: int


# L5: coins whose loss sits elsewhere were swept from here, and what recovered a loss here is here again.
_SEEN = text(
    """
    SELECT e.payment_id, f.block_number, f.log_index, f.judged_at IS NOT NULL AS is_judged, e.amount
    FROM public.funds_ledger_entries e JOIN fleet.chain_facts f ON f.id = e.fact_id
    WHERE e.payment_id = ANY(:payments) AND e.chain_id = :chain AND e.token = :token AND e.debit_address = :address
      AND CASE e.reason
          WHEN 'seen' THEN f.live OR EXISTS (SELECT FROM public.funds_ledger_entries l
              WHERE l.fact_id = f.id AND l.reason = 'reorg_loss' AND l.credit_address <> :address)
          WHEN 'recovered' THEN f.live
          ELSE false END
    ORDER BY f.block_number, f.log_index
    """
)
# A reversed sweep debits the destination again; a reversed sight credits it, but its fact is dead and left out above.
_TAKEN = text(
    """
    SELECT e.payment_id, sum(CASE WHEN e.credit = 'destination' THEN e.amount ELSE -e.amount END) AS amount
    FROM public.funds_ledger_entries e
    WHERE e.payment_id = ANY(:payments) AND e.chain_id = :chain AND e.token = :token
      AND ((e.credit = 'destination' AND e.credit_address = :address AND e.reason IN ('sweep', 'token_fee'))
           OR (e.debit = 'destination' AND e.debit_address = :address AND e.reason = 'reorg'))
    GROUP BY e.payment_id
    """
)
_PAYMENTS_AT = text(
    """
    SELECT DISTINCT f.payment_id FROM fleet.chain_facts f
    WHERE f.destination_id = :destination AND f.chain_id = :chain AND f.token = :token AND f.payment_id IS NOT NULL
    UNION SELECT r.payment_id FROM fleet.payment_routes r WHERE r.destination_id = :destination
    """
)
_NATIVE_FLOATS = text(
    """
    SELECT e.book_id, sum(CASE WHEN e.debit = 'gas_float' AND e.debit_address = :address THEN e.amount ELSE 0 END)
                    - sum(CASE WHEN e.credit = 'gas_float' AND e.credit_address = :address THEN e.amount ELSE 0 END) AS amount
    FROM public.funds_ledger_entries e
    WHERE e.chain_id = :chain AND (e.debit = 'gas_float' AND e.debit_address = :address
                                   OR e.credit = 'gas_float' AND e.credit_address = :address)
    GROUP BY e.book_id ORDER BY amount DESC, e.book_id
    """
)


def facts_at(
    connection: Connection, *, destination_id: UUID, chain_id: int, token: str, address: str, decimals: int
) -> list[BookedFact]:
    """Every inbound fact that still has coins at the address, oldest first, judged ones before the others."""
    payments = list(
        connection.execute(_PAYMENTS_AT, {"destination": destination_id, "chain": chain_id, "token": token}).scalars()
    )
    values = {"payments": payments, "chain": chain_id, "token": token, "address": address}
    taken: dict[UUID, int] = {
        row.payment_id: to_units(max(row.amount, Decimal(0)), decimals) for row in connection.execute(_TAKEN, values)
    }
    left: list[BookedFact] = []
    for row in connection.execute(_SEEN, values):
        units = to_units(row.amount, decimals)
        gone = min(units, taken.get(row.payment_id, 0))
        if gone:
            taken[row.payment_id] -= gone
        if units > gone:
            left.append(BookedFact(row.payment_id, row.block_number, row.log_index, row.is_judged, units - gone))
    return sorted(left, key=lambda fact: (not fact.is_judged, fact.block_number, fact.log_index))


def split(facts: Iterable[BookedFact], units: int) -> tuple[list[Share], int]:
    """Split ``units`` over the facts in their order; return the payments' shares by payment id, and the rest
    that no fact covers.
    """
    shares: dict[UUID, int] = defaultdict(int)
    for fact in facts:
        part = min(fact.units, units)
        if part == 0:
            break
        shares[fact.payment_id] += part
        units -= part
    return [Share(payment, shares[payment]) for payment in sorted(shares)], units


def native_floats(connection: Connection, *, chain_id: int, address: str) -> list[tuple[UUID, int]]:
    """What each payer's house book says of its native coin lies at a deposit address, wei; the most first."""
    rows = connection.execute(_NATIVE_FLOATS, {"chain": chain_id, "address": address})
    return [(row.book_id, to_units(max(row.amount, Decimal(0)), 18)) for row in rows]

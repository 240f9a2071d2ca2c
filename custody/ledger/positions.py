"""Where the books say the coins are: the asset accounts by chain, token and address (design §4)."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from sqlalchemy import Connection, text

ASSET_ACCOUNTS: Final = (
    "destination", "treasury", "gas_payer", "gas_float", "treasury_house", "in_transit", "overdraft",
)  # fmt: skip
"""Whose legs carry an address. ``overdraft`` counts against the coins there: a credit raises it (L5)."""


@dataclass(frozen=True, slots=True)
class Position:
    """What the books hold of one token at one address. ``amount`` in whole tokens."""

    chain_id: int
    token: str
    address: str
    amount: Decimal


_TREASURY: Final = """
    SELECT coalesce(sum(b.treasury), 0) FROM fleet.ledger_balances b
    WHERE b.chain_id = :chain AND b.token = :token AND b.treasury > 0
"""
_TREASURY_AT: Final = """
    SELECT (SELECT coalesce(sum(CASE WHEN e.debit = 'treasury' AND e.debit_address = :address THEN e.amount
                                     WHEN e.credit = 'treasury' AND e.credit_address = :address THEN -e.amount ELSE 0 END), 0)
            FROM fleet.ledger_balances b JOIN public.funds_ledger_entries e
                ON e.book_id = b.book_id AND e.chain_id = b.chain_id AND e.token = b.token
            WHERE b.chain_id = :chain AND b.token = :token AND b.treasury > 0 AND 'treasury' IN (e.debit, e.credit))
        + (SELECT coalesce(sum(b.in_transit), 0) FROM fleet.ledger_balances b
           WHERE b.chain_id = :chain AND b.token = :token AND b.book_kind = 'payment' AND b.in_transit > 0)
"""


def treasury_position(connection: Connection, chain_id: int, token: str, address: str, *, is_only: bool) -> Decimal:
    """What payments have in the active treasury at ``address``, and what is moved to it; whole tokens.

    ``is_only``: the chain never had another treasury, so that the balance rows alone say it. Where it had, the entries of
    the books that have coins in any do (R22).
    """
    return connection.execute(
        text(_TREASURY if is_only else _TREASURY_AT), {"chain": chain_id, "token": token, "address": address}
    ).scalar_one()


def asset_positions(connection: Connection, chain_id: int) -> list[Position]:
    """Every address that ever held a coin in the books of ``chain_id``, with what it should hold now."""
    rows = connection.execute(
        text(
            """
            SELECT token, address, sum(amount) AS amount FROM (
                SELECT token, debit_address AS address, amount FROM public.funds_ledger_entries
                WHERE chain_id = :chain_id AND debit = ANY(:accounts)
                UNION ALL
                SELECT token, credit_address, -amount FROM public.funds_ledger_entries
                WHERE chain_id = :chain_id AND credit = ANY(:accounts)) AS legs
            GROUP BY token, address ORDER BY token, address
            """
        ),
        {"chain_id": chain_id, "accounts": list(ASSET_ACCOUNTS)},
    )
    return [Position(chain_id, row.token, row.address, row.amount) for row in rows]

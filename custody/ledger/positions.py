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

"""A payment's statement: every entry of its book with the balances it left, asset by asset (L10)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from uuid import UUID

from sqlalchemy import Connection, text

from custody.ledger.accounts import ACCOUNTS, DEBIT_ACCOUNTS


@dataclass(frozen=True, slots=True)
class Line:
    """One entry. Amounts in whole tokens, exact; ``number`` counts the book's entries of this asset from 1."""

    entry_id: UUID
    at: datetime
    number: int
    movement: str
    """``type:reason``, as posting_rules names it."""
    debit: str
    credit: str
    amount: Decimal
    debit_after: Decimal
    credit_after: Decimal
    poster: str
    transaction_hash: str | None
    fact_id: UUID | None
    instruction_id: UUID | None
    reverses: int | None
    """The number of the entry that this one takes back."""
    reversed_by: int | None


@dataclass(frozen=True, slots=True)
class AssetStatement:
    """One asset of the payment. ``closing`` has each account that is not empty, in the chart's order."""

    chain_id: int
    token: str
    symbol: str
    lines: Sequence[Line]
    closing: dict[str, Decimal]


# Running balances are summed by PostgreSQL: its numeric is exact, Python's Decimal rounds at 28 digits.
_LINES = text(
    """
    WITH legs AS (
        SELECT e.id, e.book_seq, e.chain_id, e.token, a.side, a.account,
            sum(a.amount) OVER (PARTITION BY e.chain_id, e.token, a.account ORDER BY e.book_seq) AS balance
        FROM public.funds_ledger_entries e CROSS JOIN LATERAL (VALUES
            ('debit', e.debit, CASE WHEN e.debit = ANY(:debit_side) THEN e.amount ELSE -e.amount END),
            ('credit', e.credit, CASE WHEN e.credit = ANY(:debit_side) THEN -e.amount ELSE e.amount END)
        ) AS a (side, account, amount)
        WHERE e.book_id = :book AND e.book_kind = 'payment')
    SELECT e.id, e.created_at, e.book_seq, e.entry_type || ':' || e.reason AS movement, e.debit, e.credit,
        trim_scale(e.amount) AS amount, trim_scale(d.balance) AS debit_after, trim_scale(c.balance) AS credit_after,
        e.poster_role, e.chain_id, e.token, e.currency, f.transaction_hash, e.fact_id, e.instruction_id,
        taken_back.book_seq AS reverses, r.book_seq AS reversed_by
    FROM public.funds_ledger_entries e
    JOIN legs d ON d.id = e.id AND d.side = 'debit' JOIN legs c ON c.id = e.id AND c.side = 'credit'
    LEFT JOIN fleet.chain_facts f ON f.id = e.fact_id
    LEFT JOIN public.funds_ledger_entries taken_back ON taken_back.id = e.reverses_entry_id
    LEFT JOIN public.funds_ledger_entries r ON r.reverses_entry_id = e.id
    WHERE e.book_id = :book AND e.book_kind = 'payment'
    ORDER BY e.chain_id, e.currency, e.token, e.book_seq
    """
)


def statement(connection: Connection, payment_id: UUID) -> list[AssetStatement]:
    """The payment's assets, each with its entries in order; empty when nothing is booked."""
    rows = connection.execute(_LINES, {"book": payment_id, "debit_side": list(DEBIT_ACCOUNTS)}).all()
    found: list[AssetStatement] = []
    for (chain_id, symbol, token), group in groupby(rows, key=lambda row: (row.chain_id, row.currency, row.token)):
        lines = [
            Line(
                entry_id=row.id,
                at=row.created_at,
                number=row.book_seq,
                movement=row.movement,
                debit=row.debit,
                credit=row.credit,
                amount=row.amount,
                debit_after=row.debit_after,
                credit_after=row.credit_after,
                poster=row.poster_role,
                transaction_hash=row.transaction_hash,
                fact_id=row.fact_id,
                instruction_id=row.instruction_id,
                reverses=row.reverses,
                reversed_by=row.reversed_by,
            )
            for row in group
        ]
        last: dict[str, Decimal] = {}
        for line in lines:
            last[line.debit], last[line.credit] = line.debit_after, line.credit_after
        closing = {account: last[account] for account in ACCOUNTS if last.get(account)}
        found.append(AssetStatement(chain_id, token, symbol, lines, closing))
    return found

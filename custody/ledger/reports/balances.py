"""Account totals: from the balance rows, or as they were at a moment, from the entries up to it (design §4)."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal
from uuid import UUID

from sqlalchemy import Connection, text

from custody.ledger.accounts import ACCOUNTS, DEBIT_ACCOUNTS

Side = Literal["debit", "credit"]


@dataclass(frozen=True, slots=True)
class AccountTotal:
    """What an account holds of one token, over all books or one. ``amount`` in whole tokens, exact."""

    chain_id: int
    token: str
    symbol: str
    account: str
    amount: Decimal

    @property
    def side(self) -> Side:
        """``debit`` for assets and expenses, ``credit`` for liabilities, equity and overdraft."""
        return "debit" if self.account in DEBIT_ACCOUNTS else "credit"


_COLUMNS: Final = ", ".join(f"('{account}', b.{account})" for account in ACCOUNTS)
_OF_ROWS = text(
    f"""
    SELECT b.chain_id, b.token, t.symbol, a.account, trim_scale(sum(a.amount)) AS amount
    FROM fleet.ledger_balances b JOIN fleet.tokens t ON t.chain_id = b.chain_id AND t.token = b.token
    CROSS JOIN LATERAL (VALUES {_COLUMNS}) AS a (account, amount)
    WHERE (CAST(:book AS uuid) IS NULL OR b.book_id = :book) AND (CAST(:chain AS bigint) IS NULL OR b.chain_id = :chain)
    GROUP BY b.chain_id, b.token, t.symbol, a.account HAVING sum(a.amount) <> 0
    """  # noqa: S608 - the accounts are the ledger's own constant
)
_OF_ENTRIES = text(
    """
    SELECT e.chain_id, e.token, t.symbol, a.account, trim_scale(sum(a.amount)) AS amount
    FROM public.funds_ledger_entries e JOIN fleet.tokens t ON t.chain_id = e.chain_id AND t.token = e.token
    CROSS JOIN LATERAL (VALUES
        (e.debit, CASE WHEN e.debit = ANY(:debit_side) THEN e.amount ELSE -e.amount END),
        (e.credit, CASE WHEN e.credit = ANY(:debit_side) THEN -e.amount ELSE e.amount END)) AS a (account, amount)
    WHERE e.book_id IS NOT NULL AND e.created_at <= :at
      AND (CAST(:book AS uuid) IS NULL OR e.book_id = :book) AND (CAST(:chain AS bigint) IS NULL OR e.chain_id = :chain)
    GROUP BY e.chain_id, e.token, t.symbol, a.account HAVING sum(a.amount) <> 0
    """
)


def account_totals(
    connection: Connection, *, at: datetime | None = None, payment_id: UUID | None = None, chain_id: int | None = None
) -> list[AccountTotal]:
    """Every account that is not empty, by chain and token, in the order of the chart of accounts.

    ``at``: recomputed from the entries that were made up to then (their created_at); without it from the balance
    rows. Both must say the same of now; ``fleet ledger verify`` compares them row by row.
    """
    values = {"book": payment_id, "chain": chain_id}
    if at is None:
        rows = connection.execute(_OF_ROWS, values)
    else:
        rows = connection.execute(_OF_ENTRIES, {**values, "at": at, "debit_side": list(DEBIT_ACCOUNTS)})
    found = [AccountTotal(row.chain_id, row.token, row.symbol, row.account, row.amount) for row in rows]
    return sorted(found, key=lambda one: (one.chain_id, one.symbol, one.token, ACCOUNTS.index(one.account)))


def by_asset(totals: Iterable[AccountTotal]) -> dict[tuple[int, str], list[AccountTotal]]:
    """The totals by (chain id, token), each in the order given."""
    found: dict[tuple[int, str], list[AccountTotal]] = {}
    for total in totals:
        found.setdefault((total.chain_id, total.token), []).append(total)
    return found

"""House funding: native coin that people sent to the fleet's own accounts enters the books (L6).

Only what an account holds beyond the books, and only while nothing of ours from it or to it is under way: then a
difference can be nothing but an inflow.
"""

from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Protocol
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, text

from custody.chain.assets import NATIVE, to_amount
from custody.chain.blocks import BlockHeader
from custody.chain.fence import Fence
from custody.ledger import Entry, post
from custody.settings.chains import Chain
from custody.store.engine import forbid_inside_transaction, transaction

log = structlog.get_logger(__name__)

NATIVE_DECIMALS: Final = 18
_ACCOUNTS: Final = {"gas_payer": "gas_payer", "release_payer": "gas_payer", "treasury": "treasury_house"}


class BalanceReader(Protocol):
    """Who says what accounts hold: one node, or several of which only the common word counts."""

    def balances(self, addresses: Collection[str], block_hash: str, /) -> dict[str, int]: ...


@dataclass(frozen=True, slots=True)
class _HouseBook:
    """A house account at rest: ``booked`` in whole coins (at a treasury also what payments have there), ``seq`` of its
    book, and the last block that a transaction of ours from it or to it was mined in."""

    id: UUID
    address: str
    account: str
    booked: Decimal
    seq: int
    last_block: int


def book_funding(engine: Engine, client: BalanceReader, chain: Chain, fence: Fence, head: BlockHeader) -> int:
    """Book what came into the house's accounts up to ``head``; return how many entries were made.

    One batched request, pinned to the head's hash. Raises ChainUnavailable, Fenced.
    """
    with transaction(engine) as connection:
        # A node that fell behind an account's own last transaction shows coins that were spent since.
        books = [book for book in _at_rest(connection, chain.id) if book.last_block <= head.number]
    if not books:
        return 0
    forbid_inside_transaction("reading the house's balances")
    balances = client.balances([book.address for book in books], head.hash)
    booked = 0
    for book in books:
        inflow = to_amount(balances[book.address], NATIVE_DECIMALS) - book.booked
        if inflow > 0:
            with fence.transaction(engine) as connection:
                booked += _book(connection, chain.id, book, head, inflow)
        elif inflow < 0:
            # What left the treasury without us is booked block by block (custody/chain/outflows.py).
            log.error("house_account_short", chain_id=chain.id, address=book.address, missing=str(-inflow))
    return booked


def _at_rest(connection: Connection, chain_id: int) -> list[_HouseBook]:
    rows = connection.execute(
        text(
            """
            SELECT h.id, h.address, h.kind, coalesce(b.seq, 0) AS seq,
                coalesce(CASE h.kind WHEN 'treasury' THEN b.treasury_house + b.in_transit ELSE b.gas_payer END - b.overdraft, 0)
                + CASE WHEN h.kind = 'treasury' THEN coalesce((
                    SELECT sum(leg.amount)
                    FROM fleet.ledger_balances p JOIN public.funds_ledger_entries e
                        ON e.book_id = p.book_id AND e.chain_id = p.chain_id AND e.token = p.token
                    CROSS JOIN LATERAL (VALUES (e.debit, e.debit_address, e.amount), (e.credit, e.credit_address, -e.amount))
                        AS leg (account, address, amount)
                    WHERE p.chain_id = h.chain_id AND p.token = :native AND p.book_kind = 'payment'
                        AND (p.treasury > 0 OR p.overdraft > 0 OR p.in_transit > 0)
                        AND leg.account IN ('treasury', 'overdraft', 'in_transit') AND leg.address = h.address), 0)
                    ELSE 0 END AS booked,
                greatest(0,
                    (SELECT max(t.block_number) FROM fleet.chain_transactions t
                     WHERE t.chain_id = h.chain_id AND t.sender = h.address),
                    (SELECT max(t.block_number) FROM fleet.chain_transactions t
                     WHERE t.chain_id = h.chain_id AND t.recipient = h.address)) AS last_block
            FROM fleet.house_accounts h LEFT JOIN fleet.ledger_balances b
                ON b.book_id = h.id AND b.chain_id = h.chain_id AND b.token = :native
            WHERE h.chain_id = :chain_id AND NOT EXISTS (
                SELECT FROM fleet.chain_transactions t
                WHERE t.chain_id = h.chain_id AND t.state IN ('intent', 'signed', 'broadcast')
                    AND h.address IN (t.sender, t.recipient))
                -- A Safe's execution names the Safe alone: what it moves to another treasury of ours is told here (R22).
                AND NOT EXISTS (
                    SELECT FROM fleet.release_instructions i
                    WHERE i.chain_id = h.chain_id AND i.token = :native AND i.recipient = h.address
                        AND i.state IN ('handed_out', 'signed', 'broadcast', 'cancelling'))
            ORDER BY h.id
            """
        ),
        {"chain_id": chain_id, "native": NATIVE},
    )
    return [_HouseBook(row.id, row.address, _ACCOUNTS[row.kind], row.booked, row.seq, row.last_block) for row in rows]


def _book(connection: Connection, chain_id: int, book: _HouseBook, head: BlockHeader, inflow: Decimal) -> int:
    # The book as it was before the balance was read: anything booked since then would be counted twice.
    if book not in _at_rest(connection, chain_id):
        return 0
    posted = post(
        connection,
        Entry(
            book_kind="house",
            book_id=book.id,
            chain_id=chain_id,
            token=NATIVE,
            entry_type="adjustment",
            reason="funding",
            debit=book.account,
            credit="gas_funding",
            amount=inflow,
            key=f"native:{chain_id}:{book.address}:{head.hash}",
            debit_address=book.address,
            evidence={
                "block_number": head.number,
                "block_hash": head.hash,
                "booked_before": str(book.booked),
            },
        ),
    )
    log.info("house_funded", chain_id=chain_id, address=book.address, amount=str(inflow))
    return int(posted.is_new)

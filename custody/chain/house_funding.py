"""House funding: native coin that people sent to the fleet's own accounts enters the books (L6).

Only what an account holds beyond its book, and only while nothing of its own is under way: then a difference can be
nothing but an inflow.
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
    """A house account at rest: ``booked`` in whole coins, ``seq`` of its book, and its last mined block."""

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
                coalesce(CASE h.kind WHEN 'treasury' THEN b.treasury_house ELSE b.gas_payer END - b.overdraft, 0) AS booked,
                coalesce((SELECT max(t.block_number) FROM fleet.chain_transactions t
                          WHERE t.chain_id = h.chain_id AND t.sender = h.address), 0) AS last_block
            FROM fleet.house_accounts h LEFT JOIN fleet.ledger_balances b
                ON b.book_id = h.id AND b.chain_id = h.chain_id AND b.token = :native
            WHERE h.chain_id = :chain_id AND NOT EXISTS (
                SELECT FROM fleet.chain_transactions t WHERE t.chain_id = h.chain_id AND t.sender = h.address
                    AND t.state IN ('intent', 'signed', 'broadcast'))
            ORDER BY h.id
            """
        ),
        {"chain_id": chain_id, "native": NATIVE},
    )
    return [_HouseBook(row.id, row.address, _ACCOUNTS[row.kind], row.booked, row.seq, row.last_block) for row in rows]


def _book(connection: Connection, chain_id: int, book: _HouseBook, head: BlockHeader, inflow: Decimal) -> int:
    # The book as it was before the balance was read: anything booked since then would be counted twice.
    if not any(now.id == book.id and now.seq == book.seq for now in _at_rest(connection, chain_id)):
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

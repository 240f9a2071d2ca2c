"""What the chain at block B and the books do not place alike, item by item, each with the transaction that explains it.

An item is evidence, not a guess: a log, a receipt of a transaction we signed, or an entry. What none of them explains
is the remainder of the proof (L22).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from custody.chain.assets import NATIVE
from custody.chain.logs import TRANSFER_TOPIC, TransferLog, decode_transfer
from custody.chain.receipts import Receipt
from custody.chain.rpc import ChainClient
from custody.ledger.reports.escrow_books import Books, OwnTransaction, Place

BLOCKS_AT_ONCE: Final = 500  # of one question for logs: what the strictest large providers allow
ADDRESSES_AT_ONCE: Final = 100


@dataclass(frozen=True, slots=True)
class InTransit:
    """Coins at one place: the chain at B has ``units`` (smallest unit, signed) more than the books."""

    why: str
    place: Place
    units: int
    transaction_hash: str | None = None
    block_number: int | None = None
    entry_id: UUID | None = None


def listed(books: Books, client: ChainClient) -> list[InTransit]:
    """Everything under way that the fleet knows of: our own transactions, announced deposits, later entries."""
    items = [
        InTransit(
            f"{one.movement} was booked from a block after this one",
            one.place,
            -one.units,
            one.transaction_hash,
            one.block_number,
            one.entry_id,
        )
        for one in books.later
    ]
    items += [
        InTransit(
            "seen, but booked to nobody: the address has no payment",
            (fact.token, fact.recipient),
            fact.units,
            fact.transaction_hash,
            fact.block_number,
        )
        for fact in books.unattributed
    ]
    by_hash = {own.hash: own for own in books.own}
    found = client.receipts_and_headers([*by_hash, *books.announced])
    for transaction_hash in found.receipts:
        receipt = found.canonical(transaction_hash)
        if receipt is None or receipt.block_number > books.block:
            continue
        own = by_hash.get(transaction_hash)
        if own is not None:
            items += _own_moves(books, own, receipt)
        else:
            items += _deposits(books, _transfers(books, receipt), "announced, not booked yet")
    headers = client.headers({fact.block_number for fact in books.doubtful})
    for fact in books.doubtful:
        header = headers.get(fact.block_number)
        if header is not None and header.hash != fact.block_hash:
            items.append(
                InTransit(
                    "its block left the chain; the next look takes it back",
                    (fact.token, fact.recipient),
                    -fact.units,
                    fact.transaction_hash,
                    fact.block_number,
                )
            )
    return items


def unannounced(books: Books, client: ChainClient, places: Iterable[Place], oldest: int) -> list[InTransit]:
    """Deposits that nobody told us of: Transfers to these places from block ``oldest`` to B that no fact has."""
    by_token: dict[str, list[str]] = defaultdict(list)
    for token, address in places:
        if token != NATIVE:
            by_token[token].append(address)
    known = set(books.announced)
    items: list[InTransit] = []
    for token, addresses in by_token.items():
        for start in range(0, len(addresses), ADDRESSES_AT_ONCE):
            for first in range(max(oldest, 0), books.block + 1, BLOCKS_AT_ONCE):
                transfers = client.transfers_to(
                    [token],
                    addresses[start : start + ADDRESSES_AT_ONCE],
                    first,
                    min(first + BLOCKS_AT_ONCE - 1, books.block),
                )
                fresh = [transfer for transfer in transfers if transfer.transaction_hash not in known]
                items += _deposits(books, fresh, "nobody announced it; ask for it: fleet look")
    return items


def _transfers(books: Books, receipt: Receipt) -> Iterator[TransferLog]:
    for log in receipt.logs:
        if log.event == TRANSFER_TOPIC and log.address in books.tokens:
            yield decode_transfer(log)


def _deposits(books: Books, transfers: Iterable[TransferLog], why: str) -> Iterator[InTransit]:
    """What came to addresses we issued and stands in no fact. The house's own addresses take no deposits."""
    for transfer in transfers:
        if (
            transfer.recipient in books.addresses - books.house
            and transfer.sender != transfer.recipient
            and transfer.amount > 0
            and (transfer.transaction_hash, transfer.block_hash, transfer.log_index) not in books.booked
        ):
            yield InTransit(
                f"deposit: {why}",
                (transfer.token, transfer.recipient),
                transfer.amount,
                transfer.transaction_hash,
                transfer.block_number,
            )


def _own_moves(books: Books, own: OwnTransaction, receipt: Receipt) -> list[InTransit]:
    """Where a mined transaction of ours moved coins: its logs, its value, its fee (L6)."""
    moves: list[tuple[Place, int]] = [((NATIVE, receipt.sender), -receipt.fee)]
    if receipt.succeeded:
        moves += [((NATIVE, own.sender), -own.value_wei), ((NATIVE, own.recipient), own.value_wei)]
        for transfer in _transfers(books, receipt):
            moves += [
                ((transfer.token, transfer.sender), -transfer.amount),
                ((transfer.token, transfer.recipient), transfer.amount),
            ]
    return _summed(books, f"{own.purpose.replace('_', '-')}: mined, not deep enough to be booked", moves, receipt)


def _summed(books: Books, why: str, moves: Sequence[tuple[Place, int]], receipt: Receipt) -> list[InTransit]:
    at: dict[Place, int] = defaultdict(int)
    for place, units in moves:
        if place in books.held or place[1] in books.addresses:
            at[place] += units
    return [
        InTransit(why, place, units, receipt.transaction_hash, receipt.block_number)
        for place, units in at.items()
        if units
    ]

"""Proof of escrow at a block (L22): chain(address, asset, B) = books at that address + what is in transit, listed.

B is the last block the watcher judged, or an older one. Only a remainder fails: coins more or less than books and
listed transactions explain. Units: smallest unit of each token.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from sqlalchemy import Engine
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_fixed

from custody.chain import ChainClient, to_amount
from custody.chain.assets import NATIVE
from custody.chain.cursor import watched_window
from custody.ledger.reports.balances import AccountTotal
from custody.ledger.reports.escrow_books import Books, NothingJudged, Place, Token, read_books
from custody.ledger.reports.in_transit import InTransit, listed, unannounced
from custody.ledger.reports.moment import moment
from custody.ledger.reports.native_deposits import native_deposits
from custody.settings.chains import Chain
from custody.store.engine import forbid_inside_transaction

ATTEMPTS: Final = 20  # x 0.5 s: a watcher that is alive judges the block that replaced another within 10 s
RETRY_SECONDS: Final = 0.5

__all__ = ["AssetAt", "InTransit", "JudgedBlockGone", "NothingJudged", "Proof", "prove_escrow", "whole"]


class JudgedBlockGone(Exception):
    """The node does not have the judged block: it was replaced, or the node is behind. Nothing can be compared."""


@dataclass(frozen=True, slots=True)
class AssetAt:
    """One token at one address: what the books hold, what is in transit, what the chain has after B."""

    token: str
    symbol: str
    decimals: int
    address: str
    booked: int
    in_transit: int
    found: int

    @property
    def remainder(self) -> int:
        """Coins that nothing explains: more on the chain above zero, missing below."""
        return self.found - self.booked - self.in_transit

    @property
    def equal(self) -> bool:
        """The books alone equal the chain: nothing is under way here either."""
        return self.found == self.booked and self.in_transit == 0


@dataclass(frozen=True, slots=True)
class Proof:
    """A chain's books and coins at one block. ``liabilities``: the credit accounts now, ``expenses`` the other costs."""

    chain_id: int
    name: str
    block: int
    block_hash: str
    assets: Sequence[AssetAt]
    in_transit: Sequence[InTransit]
    totals: Sequence[AccountTotal]
    imbalances: Sequence[str]
    tokens: Mapping[str, Token]

    @property
    def remainders(self) -> list[AssetAt]:
        return [asset for asset in self.assets if asset.remainder]

    @property
    def holds(self) -> bool:
        """Whether every coin is explained and the books are in balance."""
        return not self.remainders and not self.imbalances


def prove_escrow(engine: Engine, client: ChainClient, chain: Chain, at_block: int | None = None) -> Proof:
    """Compare the books of ``chain`` with its coins at a judged block, also while money is moving.

    The books are read at one moment, then the chain at one block: what one has and the other has not yet is listed.
    A block that is replaced meanwhile is tried again. Raises NothingJudged, JudgedBlockGone, ChainUnavailable.
    """
    window = watched_window(chain.id)

    @retry(
        retry=retry_if_exception_type(JudgedBlockGone),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_fixed(RETRY_SECONDS),
        reraise=True,
    )
    def attempt() -> Proof:
        with moment(engine) as connection:
            books = read_books(connection, chain, at_block, window)
        return _compare(books, client, chain, window)

    return attempt()


def whole(units: int, decimals: int) -> Decimal:
    """``units`` (signed) in whole tokens, exact."""
    amount = to_amount(abs(units), decimals)
    return amount.copy_negate() if units < 0 else amount


def _compare(books: Books, client: ChainClient, chain: Chain, window: int) -> Proof:
    forbid_inside_transaction("reading the chain's balances")
    block_hash = _judged_block(books, client, chain)
    items = listed(books, client)
    places = set(books.held) | {item.place for item in items if item.place[0] in books.tokens}
    found = _balances(client, places, block_hash)
    known = _at_places(items)
    above = {place for place in places if found[place] > books.held.get(place, 0) + known[place]}
    items += unannounced(
        books, client, above - {place for place in above if place[1] in books.house}, books.block - window
    )
    known = _at_places(items)
    surplus = {place: found[place] - books.held.get(place, 0) - known[place] for place in above}
    surplus = {place: units for place, units in surplus.items() if place[1] not in books.house}
    items += native_deposits(books, client, chain, surplus, books.block - window)
    known = _at_places(items)
    for place in sorted(above):
        # What came in on top is the only way a house account can hold more; the watcher books it by the same
        # difference, while nothing of the account's own is under way (L6).
        surplus = found[place] - books.held.get(place, 0) - known[place]
        if surplus > 0 and place[0] == NATIVE and place[1] in books.house:
            items.append(InTransit("funding of a house account, not booked yet", place, surplus))
    known = _at_places(items)
    if _judged_block(books, client, chain) != block_hash:
        raise JudgedBlockGone(f"block {books.block} of {chain.name} was replaced while its balances were read")
    return Proof(
        chain_id=chain.id,
        name=chain.name,
        block=books.block,
        block_hash=block_hash,
        assets=[_asset(books, place, known[place], found[place]) for place in sorted(places)],
        in_transit=items,
        totals=books.totals,
        imbalances=books.imbalances,
        tokens=books.tokens,
    )


def _judged_block(books: Books, client: ChainClient, chain: Chain) -> str:
    """The hash of B, once the node shows the very block that the watcher judged."""
    headers = client.headers({books.block, books.judged_number})
    judged, block = headers.get(books.judged_number), headers.get(books.block)
    if judged is None or block is None or judged.hash != books.judged_hash:
        raise JudgedBlockGone(
            f"{chain.name}: the node does not have block {books.judged_number} {books.judged_hash}, which the watcher "
            "judged last; it was replaced, or the node is behind. Run this again; if it stays, see: fleet status"
        )
    return block.hash


def _balances(client: ChainClient, places: set[Place], block_hash: str) -> dict[Place, int]:
    coins = client.balances([address for token, address in places if token == NATIVE], block_hash)
    found: dict[Place, int] = {(NATIVE, address): wei for address, wei in coins.items()}
    return found | client.token_balances([place for place in places if place[0] != NATIVE], block_hash)


def _at_places(items: Sequence[InTransit]) -> defaultdict[Place, int]:
    sums: defaultdict[Place, int] = defaultdict(int)
    for item in items:
        sums[item.place] += item.units
    return sums


def _asset(books: Books, place: Place, in_transit: int, found: int) -> AssetAt:
    token = books.tokens[place[0]]
    return AssetAt(place[0], token.symbol, token.decimals, place[1], books.held.get(place, 0), in_transit, found)

"""Chainlink aggregators as a price source: one batched request a node, at one block, and a quorum that answers alike.

Source: Chainlink's AggregatorV3Interface. A round counts only when it is complete, above zero, of this feed, and young.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError

from custody.chain import wire
from custody.chain.assets import to_amount
from custody.chain.erc20 import DECIMALS, selector
from custody.chain.errors import ChainUnavailable, WrongChain
from custody.chain.rpc import CallRequest, ChainClient
from custody.quotes.feeds import Feed
from custody.quotes.prices import Answer, Price, Unusable

if TYPE_CHECKING:
    from custody.chain.nodes import ChainNodes
    from custody.chain.transport import Call

LATEST_ROUND_DATA: Final = selector("latestRoundData()")
DESCRIPTION: Final = selector("description()")
_ASKED: Final = (DECIMALS, DESCRIPTION, LATEST_ROUND_DATA)
_ROUND: Final = ("uint80", "int256", "uint256", "uint256", "uint80")

CLOCK_SKEW_SECONDS: Final = 60  # a block's time may be ahead of ours by this; a later answer is not of this world
PRICE_MAXIMUM: Final = 10**12  # dollars; above it a wrong feed is likelier than a price
_REVERTED: Final = 3


class _NoRound(Exception):
    """A feed that says nothing to go by. The message is one sentence."""


class ChainlinkFeeds:
    """Feeds of any number of chains. ``nodes`` by chain id; ``margin_seconds`` on top of each heartbeat."""

    def __init__(self, feeds: Sequence[Feed], nodes: Mapping[int, "ChainNodes"], *, margin_seconds: int) -> None:
        self._feeds = tuple(feeds)
        self._nodes = nodes
        self._margin = margin_seconds

    def answers(self, pairs: Collection[str], now: datetime) -> Sequence[Answer]:
        """Each feed's price, or why it has none. Not inside a database transaction (L15)."""
        wanted = [feed for feed in self._feeds if feed.pair in pairs]
        found: list[Answer] = []
        for chain in sorted({feed.chain for feed in wanted}):
            found += self._of_chain(chain, [feed for feed in wanted if feed.chain == chain], now)
        return found

    def _of_chain(self, chain: int, feeds: Sequence[Feed], now: datetime) -> list[Answer]:
        nodes = self._nodes.get(chain)
        if nodes is None:
            return [_unusable(feed, f"chain {chain} is not in the chains file") for feed in feeds]
        try:
            # Nodes are a block apart: only at one height can they be asked to agree.
            height = nodes.common_height()
            said = nodes.agreed(lambda client: _read(client, feeds, height))
        except WrongChain as error:
            return [_unusable(feed, f"the node is of another chain: {error}") for feed in feeds]
        except ChainUnavailable as error:
            return [_unusable(feed, f"the chain says nothing: {error}") for feed in feeds]
        calls = len(_ASKED)
        return [self._answer(feed, said[place * calls : (place + 1) * calls], now) for place, feed in enumerate(feeds)]

    def _answer(self, feed: Feed, said: Sequence[bytes | None], now: datetime) -> Answer:
        value: Decimal | None = None
        as_of: datetime | None = None
        try:
            _require_identity(feed, said)
            round_id, units, _, updated_at, answered_in = _round(said[2])
            if updated_at == 0 or round_id == 0:
                raise _NoRound(f"round {round_id} is not complete")
            if updated_at > wire.TIMESTAMP_MAXIMUM:
                raise _NoRound(f"its answer is dated {updated_at}, which no calendar has")
            as_of = datetime.fromtimestamp(updated_at, UTC)
            if answered_in < round_id:
                raise _NoRound(f"round {round_id} has the answer of round {answered_in}: it is not complete")
            if units <= 0:
                raise _NoRound(f"its answer is {units}, expected more than 0")
            if units >= PRICE_MAXIMUM * 10**feed.decimals:
                raise _NoRound(f"its answer is over {PRICE_MAXIMUM} dollars")
            value = to_amount(units, feed.decimals).normalize()
            self._require_young(feed, as_of, now)
        except _NoRound as error:
            return Unusable(feed.pair, feed.source, str(error), value, as_of)
        return Price(feed.pair, feed.source, value, as_of)

    def _require_young(self, feed: Feed, as_of: datetime, now: datetime) -> None:
        if as_of > now + timedelta(seconds=CLOCK_SKEW_SECONDS):
            raise _NoRound(f"its answer is dated {as_of:%Y-%m-%d %H:%M:%S} UTC, which has not come yet")
        age, most = int((now - as_of).total_seconds()), feed.heartbeat_seconds + self._margin
        if age > most:
            raise _NoRound(
                f"its answer is {age} s old, more than {most} s (heartbeat {feed.heartbeat_seconds} s and a margin)"
            )


def _unusable(feed: Feed, why: str) -> Unusable:
    return Unusable(feed.pair, feed.source, why)


def _read(client: ChainClient, feeds: Sequence[Feed], height: int) -> tuple[bytes | None, ...]:
    """What each call of each feed answered after the block of that height; None for one that reverted.

    The chain's identity is read in the same request (R17). Raises WrongChain, ChainUnavailable.
    """
    calls: list[Call] = [("eth_chainId", []), ("eth_getBlockByNumber", ["0x0", False])]
    for feed in feeds:
        for data in _ASKED:
            calls.append(("eth_call", [CallRequest(to=feed.address, data=data).as_json(), hex(height)]))
    answers = client.ask(calls)
    chain = client.chain
    found: list[bytes | None] = []
    try:
        for answer in answers[:2]:
            if answer.error is not None:
                raise ChainUnavailable(chain.chain_id, chain.masked_url, chain.redact(answer.error.words))
        chain_id = wire.quantity(answers[0].result, "chainId")
        genesis = wire.hash32(wire.member(answers[1].result, "block 0").get("hash"), "hash")
        if chain_id != chain.chain_id or genesis != (chain.genesis_hash or genesis).lower():
            raise WrongChain(chain.chain_id, chain.masked_url, f"it is chain {chain_id} with genesis {genesis}")
        for answer in answers[2:]:
            if answer.error is None:
                found.append(wire.data(answer.result, "call"))
            elif answer.error.code == _REVERTED or "revert" in answer.error.words.lower():
                found.append(None)
            else:
                raise ChainUnavailable(chain.chain_id, chain.masked_url, chain.redact(answer.error.words))
    except wire.MalformedAnswer as error:
        raise ChainUnavailable(chain.chain_id, chain.masked_url, chain.redact(str(error))) from None
    return tuple(found)


def _require_identity(feed: Feed, said: Sequence[bytes | None]) -> None:
    """The contract is the feed that the file names: its decimals and its description are those."""
    if not any(said):
        raise _NoRound(f"no aggregator answers at {feed.address} on chain {feed.chain}")
    decimals = _decoded(("uint8",), said[0], "decimals()")[0]
    if decimals != feed.decimals:
        raise _NoRound(f"it has {decimals} decimals, the quotes file says {feed.decimals}")
    description = str(_decoded(("string",), said[1], "description()")[0])
    if description != feed.said:
        raise _NoRound(f"it is the feed of {description[:64]!r}, the quotes file says {feed.said!r}")


def _round(said: bytes | None) -> tuple[int, int, int, int, int]:
    found = _decoded(_ROUND, said, "latestRoundData()")
    return found[0], found[1], found[2], found[3], found[4]


def _decoded(types: Sequence[str], said: bytes | None, name: str) -> tuple[int, ...]:
    if said is None:
        raise _NoRound(f"{name} reverted: it has no answer")
    try:
        return tuple(decode(types, said))
    except (DecodingError, OverflowError, UnicodeDecodeError):
        raise _NoRound(f"{name} answered {len(said)} bytes that are none: no aggregator") from None

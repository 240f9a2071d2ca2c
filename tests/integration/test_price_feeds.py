"""Chainlink feeds on a real EVM: every way a feed has nothing to say is one sentence, and none of it becomes a price."""

from collections.abc import Callable, Iterator
from decimal import Decimal

import pytest

from custody.chain import ChainClient, connections
from custody.chain.nodes import ChainNodes
from custody.chain.transport import Transport
from custody.quotes import Price, Unusable
from custody.quotes.chainlink import ChainlinkFeeds
from custody.quotes.feeds import Feed
from tests.price_feeds import CHAIN_ID, HEARTBEAT, MARGIN, NOW, FeedChain, feed_chain

NOWHERE = "0x" + "33" * 20


@pytest.fixture(scope="module")
def chain() -> Iterator[FeedChain]:
    with feed_chain() as made:
        yield made


def only(source: ChainlinkFeeds, pair: str = "EUR/USD") -> Price | Unusable:
    [answer] = source.answers([pair], NOW)
    return answer


def test_a_complete_young_round_is_a_price(chain: FeedChain) -> None:
    feed = chain.feed("EUR/USD")
    chain.say(feed, "1.08341", age=HEARTBEAT + MARGIN)
    found = only(chain.source(feed))
    assert isinstance(found, Price)
    assert (found.value, (NOW - found.as_of).total_seconds()) == (Decimal("1.08341"), HEARTBEAT + MARGIN)
    assert found.source == f"chainlink {CHAIN_ID} {feed.address}"
    coarse = chain.feed("TRY/USD", decimals=18)
    chain.say(coarse, "0.023456789012345678")
    assert only(chain.source(coarse), "TRY/USD") == Price(
        "TRY/USD",
        coarse.source,
        Decimal("0.023456789012345678"),
        found.as_of.fromtimestamp(int(NOW.timestamp()) - 10, NOW.tzinfo),
    )


Say = Callable[[FeedChain, Feed], object]
REFUSED: dict[str, tuple[Say, str]] = {
    "stale": (lambda c, f: c.say(f, "1.08", age=HEARTBEAT + MARGIN + 1), "its answer is 3901 s old, more than 3900 s"),
    "zero": (lambda c, f: c.say(f, "0"), "its answer is 0, expected more than 0"),
    "negative": (lambda c, f: c.say(f, "-1.08"), "its answer is -108000000, expected more than 0"),
    "carried over": (lambda c, f: c.say(f, "1.08", answered_in=6), "round 7 has the answer of round 6"),
    "round without an answer": (lambda c, f: c.say(f, "1.08", updated_at=0), "round 7 is not complete"),
    "no round yet": (lambda _, __: None, "round 0 is not complete"),
    "from tomorrow": (lambda c, f: c.say(f, "1.08", age=-86_400), "2026-11-28 12:00:00 UTC, which has not come yet"),
    "from no calendar": (lambda c, f: c.say(f, "1.08", updated_at=2**256 - 1), "which no calendar has"),
    "absurd": (lambda c, f: c.call(f, "say", 7, 2**255 - 1, int(NOW.timestamp()), 7), "is over 1000000000000 dollars"),
    "silent": (lambda c, f: c.call(f, "hush", True), "latestRoundData() reverted: it has no answer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_feed_without_a_whole_answer_is_refused_with_its_sentence(chain: FeedChain, case: str) -> None:
    say, sentence = REFUSED[case]
    feed = chain.feed("EUR/USD")
    say(chain, feed)
    found = only(chain.source(feed))
    assert isinstance(found, Unusable)
    assert sentence in found.why


CONFIGURED: dict[str, tuple[dict[str, object], str]] = {
    "wrong decimals": ({"decimals": 18}, "it has 8 decimals, the quotes file says 18"),
    "another feed": ({"description": "GBP / USD"}, "it is the feed of 'EUR / USD', the quotes file says 'GBP / USD'"),
    "no contract": ({"address": NOWHERE}, f"no aggregator answers at {NOWHERE}"),
    "a chain that is not configured": ({"chain": 8453}, "chain 8453 is not in the chains file"),
}


@pytest.mark.parametrize("case", CONFIGURED)
def test_a_feed_that_is_not_what_the_file_says_is_refused(chain: FeedChain, case: str) -> None:
    changed, sentence = CONFIGURED[case]
    feed = chain.feed("EUR/USD")
    chain.say(feed, "1.08")
    found = only(chain.source(feed.model_copy(update=changed)))
    assert isinstance(found, Unusable)
    assert sentence in found.why


def test_what_is_no_aggregator_is_said_so(chain: FeedChain) -> None:
    code = bytes.fromhex("6001600c60003960016000f300")  # an account whose code stops at once, and answers nothing
    address, sent = chain.wallet.deploy(code)
    chain.wallet.wait(sent)
    feed = chain.feed("EUR/USD").model_copy(update={"address": address})
    found = only(chain.source(feed))
    assert isinstance(found, Unusable)
    assert "no aggregator answers" in found.why


@pytest.mark.parametrize("changed", [{"genesis": "0x" + "12" * 32}, {"chain_id": 1337}])
def test_a_node_of_another_chain_has_no_price(chain: FeedChain, changed: dict[str, object]) -> None:
    feed = chain.feed("EUR/USD")
    chain.say(feed, "1.08")
    feed = feed.model_copy(update={"chain": changed.get("chain_id", CHAIN_ID)})
    found = only(chain.source(feed, **changed))  # pyright: ignore[reportArgumentType]
    assert isinstance(found, Unusable)
    assert "the node is of another chain" in found.why


def test_a_node_that_is_away_has_no_price(chain: FeedChain) -> None:
    feed = chain.feed("EUR/USD")
    away = chain.described().model_copy(update={"rpc_urls": ("http://127.0.0.1:1",)})
    nodes = ChainNodes(away, [ChainClient(each) for each in connections(away)])
    found = only(ChainlinkFeeds([feed], {CHAIN_ID: nodes}, margin_seconds=MARGIN))
    assert isinstance(found, Unusable)
    assert "the chain says nothing" in found.why


def test_all_feeds_of_a_chain_are_one_batched_request_a_node(chain: FeedChain, monkeypatch: pytest.MonkeyPatch) -> None:
    feeds = [chain.feed(pair) for pair in ("EUR/USD", "TRY/USD", "USDC/USD", "USDT/USD")]
    for feed in feeds:
        chain.say(feed, "1")
    source = chain.source(*feeds, nodes=2)
    sizes: list[int] = []
    read = Transport.read

    def counted(self: Transport, calls: list[tuple[str, list[object]]]) -> object:
        sizes.append(len(calls))
        return read(self, calls)

    monkeypatch.setattr(Transport, "read", counted)
    answers = source.answers([feed.pair for feed in feeds], NOW)
    assert [type(each) for each in answers] == [Price] * 4
    # Each node: its head, then chain id, genesis block and three calls a feed.
    assert sorted(sizes) == [1, 1, 14, 14]

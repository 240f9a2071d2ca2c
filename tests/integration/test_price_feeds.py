"""Chainlink feeds on a real EVM: every way a feed has nothing to say is one sentence, and none of it becomes a price."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from custody.chain import ChainClient, connections
from custody.chain.nodes import ChainNodes
from custody.chain.transport import Transport
from custody.policy.toml_text import toml_text
from custody.quotes import Price, QuoteRefused, Unusable, Wanted, decide
from custody.quotes.chainlink import ChainlinkFeeds
from custody.quotes.feeds import Feed
from custody.settings.environment import load_settings, settings
from tasks.housekeeping import build_quotes
from tests.conftest import Database
from tests.marketplace import TOKEN, Marketplace
from tests.price_feeds import CHAIN_ID, HEARTBEAT, MARGIN, NOW, FeedChain, feed_chain
from tests.quote_scene import BOUNDS, unrouted
from workers.cli import quotes as commands

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


def test_feeds_that_disagree_are_no_price(chain: FeedChain) -> None:
    one, two, usdc = chain.feed("EUR/USD"), chain.feed("EUR/USD"), chain.feed("USDC/USD")
    for feed, price in ((one, "1.08"), (two, "1.0909"), (usdc, "1")):
        chain.say(feed, price)
    wanted = Wanted(Decimal(100), "EUR", CHAIN_ID, TOKEN, "USDC", 6)
    answers = chain.source(one, two, usdc).answers(["EUR/USD", "USDC/USD"], NOW)
    with pytest.raises(
        QuoteRefused, match=r"EUR/USD: chainlink .* says 1.08 and chainlink .* says 1.0909, more than 100 bps"
    ):
        decide(wanted, answers, anchors={}, bounds=BOUNDS, now=NOW)
    chain.say(two, "1.0908")
    answers = chain.source(one, two, usdc).answers(["EUR/USD", "USDC/USD"], NOW)
    assert decide(wanted, answers, anchors={}, bounds=BOUNDS, now=NOW).fx_rate == Decimal("1.0908")


# The whole way: settings, files, a node, the worker's step, the command ---------------------------------------------


@dataclass
class Deployed:
    """A chains file, a quotes file and an environment as a worker and an operator have them."""

    market: Marketplace
    chain: FeedChain
    usdc: Feed
    eur: Feed
    run: Callable[..., Any]


@pytest.fixture
def deployed(
    chain: FeedChain, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Deployed]:
    usdc, eur = chain.feed("USDC/USD"), chain.feed("EUR/USD")
    described = chain.described().model_dump(
        mode="json", include={"id", "name", "genesis_hash", "rpc_urls", "treasury", "fee_proxy"}
    )
    tokens = [
        {"symbol": "USDC", "address": TOKEN, "decimals": 6},
        {"symbol": "ETH", "address": "native", "decimals": 18},
    ]
    (tmp_path / "chains.toml").write_text(toml_text({"chains": [{**described, "tokens": tokens}]}))
    feeds = [feed.model_dump(mode="json", exclude_none=True) for feed in (usdc, eur)]
    (tmp_path / "quotes.toml").write_text(toml_text({"feeds": feeds}))
    for name, value in {
        "ORACLE_QUOTING_ENABLED": "true",
        "CHAINS_FILE": str(tmp_path / "chains.toml"),
        "QUOTES_FILE": str(tmp_path / "quotes.toml"),
        "TREZOR_SAFEKEEPING_REQUIRED": "false",
        "DATABASE_URL": database.url("fleet_operator"),
        "COLUMNS": "300",
    }.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    app = typer.Typer()
    commands.register(app)
    now = datetime.now(UTC)
    chain.say(usdc, "0.9999", now=now)
    chain.say(eur, "1.08341", now=now, age=100)
    yield Deployed(Marketplace(database), chain, usdc, eur, lambda *words: CliRunner().invoke(app, list(words)))
    settings.cache_clear()


def test_the_worker_quotes_from_the_chain(deployed: Deployed, database: Database) -> None:
    payment = unrouted(deployed.market)
    step = build_quotes(database.engine("fleet_housekeeping"), load_settings())
    assert step() == 2
    [row] = deployed.market.execute("SELECT * FROM public.payment_quotes WHERE payment_id = :id", id=payment)
    # 108.341 dollars at 0.9999 are 108.3518... tokens, and whole cents above that.
    assert (row.fx_rate, row.token_price_usd, row.settle_amount) == (
        Decimal("1.08341"), Decimal("0.9999"), Decimal("108.36"),
    )  # fmt: skip
    assert row.depeg_adjustment_bps == 2
    assert step() == 0


def test_the_command_shows_each_source_and_what_would_be_quoted(deployed: Deployed) -> None:
    shown = deployed.run("quotes", "sources")
    assert shown.exit_code == 0, shown.output
    assert f"chainlink {CHAIN_ID} {deployed.eur.address}" in shown.output
    assert "no source is configured for IRR/USD, TRY/USD, USDT/USD" in shown.output
    priced = deployed.run("quotes", "price", "100", "EUR", "USDC", "--chain", str(CHAIN_ID))
    assert priced.exit_code == 0, priced.output
    assert (
        "100 EUR is 108.36 USDC on chain 31337: rate 1.08341, token at 0.9999, 2 bps added for the depeg"
        in priced.output
    )
    said = json.loads(deployed.run("quotes", "price", "100", "EUR", "USDC", "--chain", str(CHAIN_ID), "--json").stdout)
    assert (said["settle_amount"], said["depeg_adjustment_bps"]) == ("108.36", 2)
    assert {each["pair"]: each["usable"] for each in said["answers"]} == {"EUR/USD": True, "USDC/USD": True}
    assert deployed.market.execute("SELECT count(*) AS n FROM fleet.quotes")[0].n == 0


def test_the_command_names_the_bound_that_refuses(deployed: Deployed) -> None:
    chain, now = deployed.chain, datetime.now(UTC)
    words = ("quotes", "price", "100", "EUR", "USDC", "--chain", str(CHAIN_ID))
    chain.say(deployed.usdc, "0.90", now=now)
    depeg = deployed.run(*words)
    assert (depeg.exit_code, "refused by depeg: USDC/USD is 0.9, 1000 bps from its peg" in depeg.output) == (1, True)
    chain.say(deployed.usdc, "1", now=now, age=HEARTBEAT + MARGIN + 60)
    stale = json.loads(deployed.run(*words, "--json").stdout)
    assert stale["refused"] == "sources"
    assert "s old, more than 3900 s" in stale["because"]
    told = json.loads(deployed.run("quotes", "sources", "--json").stdout)
    assert [(each["pair"], each["usable"]) for each in told] == [("EUR/USD", True), ("USDC/USD", False)]
    assert deployed.run("quotes", "sources").exit_code == 1


def test_a_signed_file_without_safekeeping_is_a_refused_source(
    deployed: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUOTE_PRICES_FILE", str(tmp_path / "prices.toml"))
    settings.cache_clear()
    told = json.loads(deployed.run("quotes", "sources", "--json").stdout)
    assert {each["why_not"] for each in told if each["source"] == "prices.toml"} == {
        "it is refused: prices.toml: signatures: expected safekeeping: without a genesis nobody says whose signature counts"
    }

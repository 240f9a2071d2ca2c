"""Quotes from given prices: each bound refuses with its sentence, and the buyer's amount is what the rules say (facts §7)."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from custody.quotes import (
    Answer,
    Bounds,
    Price,
    PriceJumped,
    Quote,
    QuoteRefused,
    StoredQuote,
    Unusable,
    Wanted,
    decide,
    judge_paid,
)
from custody.quotes.feeds import load_feeds
from custody.quotes.verdicts import Paid
from custody.settings.environment import SettingsError, load_settings

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
TOKEN = "0x" + "Aa" * 20
BOUNDS = Bounds(
    lifetime_seconds=900, feed_margin_seconds=300, deviation_bps=100, jump_bps=1_000, depeg_bps=500, sources_minimum=1
)


def price(pair: str, value: str, source: str = "one") -> Price:
    return Price(pair, source, Decimal(value), NOW - timedelta(seconds=5))


def wanted(owed: str, currency: str = "USD", symbol: str = "USDC", decimals: int = 6) -> Wanted:
    return Wanted(Decimal(owed), currency, 1, TOKEN, symbol, decimals)


def quote(
    what: Wanted, *answers: Answer, anchors: Mapping[str, Sequence[Decimal]] | None = None, **bounds: Any
) -> Quote:
    limits = Bounds(**{**{name: getattr(BOUNDS, name) for name in BOUNDS.__slots__}, **bounds})
    return decide(what, answers, anchors=anchors or {}, bounds=limits, now=NOW)


def test_the_bounds_are_the_settings() -> None:
    assert Bounds.of(load_settings()) == BOUNDS
    assert load_settings().oracle_quoting_enabled is False


@pytest.mark.parametrize(
    ("what", "prices", "amount", "depeg"),
    [
        (wanted("100"), {"USDC/USD": "1"}, "100", 0),
        (wanted("100"), {"USDC/USD": "0.97"}, "103.10", 310),  # the facts' example: 103.0927... is owed
        (wanted("100"), {"USDC/USD": "1.004"}, "100", 0),  # above the peg it counts as one dollar
        (wanted("100", "EUR"), {"EUR/USD": "1.0834", "USDC/USD": "1"}, "108.34", 0),
        (wanted("100", "EUR"), {"EUR/USD": "1.08341", "USDC/USD": "1"}, "108.35", 0),
        (wanted("5000000", "IRR"), {"IRR/USD": "0.0000010526", "USDC/USD": "1"}, "5.27", 0),
        (wanted("100", "USDC"), {"USDC/USD": "0.97"}, "100", 0),  # a price in the token itself meets no rate
        (wanted("100", "USDT"), {"USDT/USD": "0.99", "USDC/USD": "1"}, "99", 0),
        (wanted("100", "USDT"), {"USDT/USD": "1", "USDC/USD": "0.99"}, "101.02", 102),
        (wanted("0.10000001"), {"USDC/USD": "1"}, "0.100001", 0),  # a cent up would be 9 %: the token's own decimals
        (wanted("0.335", decimals=18), {"USDC/USD": "1"}, "0.34", 0),
        (wanted("100.5", decimals=0), {"USDC/USD": "1"}, "101", 0),
    ],
)
def test_the_amount_is_what_is_owed_rounded_up(what: Wanted, prices: dict[str, str], amount: str, depeg: int) -> None:
    found = quote(what, *(price(pair, value) for pair, value in prices.items()))
    assert found.settlement.amount == Decimal(amount)
    assert found.settlement.depeg_adjustment_bps == depeg
    assert found.settlement.units == Decimal(amount) * 10**what.decimals
    assert found.expires_at == NOW + timedelta(seconds=900)
    assert {each.pair for each in found.prices} == set(prices)


REFUSED: dict[str, tuple[str, str, Wanted, list[Answer], dict[str, Any]]] = {
    "no source": ("sources", "IRR/USD has 0 usable sources of the 1 it needs: none is configured",
                  wanted("1", "IRR"), [price("USDC/USD", "1")], {}),
    "a stale source": ("sources", "USDC/USD has 0 usable sources of the 1 it needs: two: too old",
                       wanted("1"), [Unusable("USDC/USD", "two", "too old")], {}),
    "fewer than asked for": ("sources", "USDC/USD has 1 usable sources of the 2 it needs: two: too old",
                             wanted("1"), [price("USDC/USD", "1"), Unusable("USDC/USD", "two", "too old")],
                             {"sources_minimum": 2}),
    "sources that disagree": ("deviation", "USDC/USD: one says 0.98 and two says 1, more than 100 bps apart",
                              wanted("1"), [price("USDC/USD", "1", "two"), price("USDC/USD", "0.98")], {}),
    "below the band": ("depeg", "USDC/USD is 0.9499, 501 bps from its peg, more than 500 bps",
                       wanted("1"), [price("USDC/USD", "0.9499")], {}),
    "above the band": ("depeg", "USDC/USD is 1.0501, 501 bps from its peg",
                       wanted("1"), [price("USDC/USD", "1.0501")], {}),
    "dust of a coarse token": ("rounding", "would add more than 3 %",
                               wanted("1.5", decimals=0), [price("USDC/USD", "1")], {}),
    "more than anybody buys": ("amount", "no purchase is that large",
                               wanted("10000000000000000000"), [price("USDC/USD", "1")], {}),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_each_bound_refuses_with_its_sentence(case: str) -> None:
    bound, sentence, what, answers, bounds = REFUSED[case]
    with pytest.raises(QuoteRefused) as refused:
        quote(what, *answers, **bounds)
    assert (refused.value.bound, sentence in refused.value.sentence) == (bound, True), refused.value.sentence


def test_a_jump_waits_for_people_and_a_level_that_they_vouch_for_ends_it() -> None:
    answers = [price("TRY/USD", "0.02"), price("USDC/USD", "1")]
    last = {"TRY/USD": [Decimal("0.0235")], "USDC/USD": [Decimal(1)]}
    with pytest.raises(PriceJumped, match=r"TRY/USD is 0.02, more than 1000 bps from 0.0235, which was accepted last"):
        quote(wanted("1000", "TRY"), *answers, anchors=last)
    vouched = {**last, "TRY/USD": [Decimal("0.0235"), Decimal("0.0201")]}
    assert quote(wanted("1000", "TRY"), *answers, anchors=vouched).settlement.amount == 20
    assert quote(wanted("1000", "TRY"), *answers).fx_rate == Decimal("0.02")  # the first of all


def test_of_sources_that_agree_the_buyer_pays_the_dearer_one() -> None:
    answers = [
        price("EUR/USD", "1.08", "a"), price("EUR/USD", "1.085", "b"), price("USDC/USD", "0.999", "a"),
        price("USDC/USD", "1.001", "b"), Unusable("USDC/USD", "c", "too old"),
    ]  # fmt: skip
    found = quote(wanted("100", "EUR"), *answers)
    assert (found.fx_rate, found.token_price_usd) == (Decimal("1.085"), Decimal("0.999"))
    assert quote(wanted("100", "EUR"), *reversed(answers)) == found


# What was paid -----------------------------------------------------------------------------------------------------

GIVEN = StoredQuote(
    Decimal(1), Decimal(1), 0, Decimal(100), 1, TOKEN, "USDC", NOW - timedelta(minutes=5), NOW, Decimal(100), "USD"
)


def paid(amount: str, late: int = 0, token: str = TOKEN, chain: int = 1) -> Paid:
    return Paid(chain, token, Decimal(amount), NOW + timedelta(seconds=late))


@pytest.mark.parametrize(
    ("transfers", "outcome", "sentence"),
    [
        ([paid("100")], "as_quoted", "100 of 100 USDC came before the quote expired"),
        ([paid("40"), paid("60.5", -9)], "as_quoted", "100.5 of 100 USDC"),
        ([paid("40"), paid("60", 1)], "late", "only 40 before the quote expired"),
        ([paid("99.999999")], "too_little", "99.999999 of 100 USDC came"),
        ([paid("100", token="0x" + "bB" * 20)], "other_coin", "quoted in 0xAa"),
        ([paid("100", chain=56)], "other_coin", "paid in 0xAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAa on chain 56"),
        ([], "not_paid", "good until 2026-11-27 12:00:00 UTC"),
    ],
)
def test_what_was_paid_is_judged_by_its_quote(transfers: list[Paid], outcome: str, sentence: str) -> None:
    found = judge_paid(GIVEN, transfers, route=(1, TOKEN, Decimal(100)), now=NOW)
    assert (found.outcome, sentence in found.sentence) == (outcome, True), found


def test_an_expired_quote_and_a_route_of_another_amount_are_said() -> None:
    assert judge_paid(GIVEN, [], route=None, now=NOW + timedelta(seconds=1)).outcome == "expired_unpaid"
    other = judge_paid(GIVEN, [paid("90")], route=(1, TOKEN, Decimal(90)), now=NOW)
    assert (other.outcome, other.sentence.startswith("its route expects 90 of")) == ("other_route", True)


# The quotes file ---------------------------------------------------------------------------------------------------

FEED = """
[[feeds]]
pair = "EUR/USD"
chain = 1
address = "0xb49f677943BC038e9857d61E7d053CaA2C1734C1"
heartbeat_seconds = 86400
decimals = 8
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('"EUR/USD"', '"USD/EUR"'), "feeds.0.pair"),
        (("0xb49f", "0xB49f"), "feeds.0.address: the EIP-55 checksum is wrong"),
        (("86400", "0"), "feeds.0.heartbeat_seconds"),
        (("decimals = 8", "decimals = 19"), "feeds.0.decimals"),
        (("decimals = 8", "decimals = 8\ncolour = 1"), "feeds.0.colour"),
        (("decimals = 8", "decimals = 8" + FEED), "two feeds share a chain and an address"),
        (("pair =", "pair"), "is no TOML"),
    ],
)
def test_a_wrong_quotes_file_is_refused_by_field(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    path = tmp_path / "quotes.toml"
    path.write_text(FEED)
    [feed] = load_feeds(path).feeds
    assert (feed.said, feed.chain, feed.decimals) == ("EUR / USD", 1, 8)
    path.write_text(FEED.replace(*change, 1))
    with pytest.raises(SettingsError, match="QUOTES_FILE") as refused:
        load_feeds(path)
    assert said in str(refused.value)

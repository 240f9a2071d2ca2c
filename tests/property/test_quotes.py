"""Whatever is owed and whatever sources say: never too little, at most 3 % too much, the same in any order (facts §7)."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from custody.quotes import Answer, Bounds, Price, Quote, QuoteRefused, Wanted, decide, settle

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
LOOSE = Bounds(
    lifetime_seconds=900,
    feed_margin_seconds=0,
    deviation_bps=10_000,
    jump_bps=10_000,
    depeg_bps=10_000,
    sources_minimum=1,
)
OWED = st.decimals("0.00000001", "9999999999", places=8)  # numeric(18,8), as offers have it
RATES = st.decimals("0.000000000000000001", "100000", places=18)
PEGGED = st.decimals("0.5", "1.5", places=8)
DECIMALS = st.integers(0, 18)


@given(OWED, RATES, PEGGED, DECIMALS, st.booleans())
def test_never_below_what_is_owed_and_never_three_percent_above(
    owed: Decimal, rate: Decimal, price: Decimal, decimals: int, same: bool
) -> None:
    fx = price if same else rate
    try:
        found = settle(owed, fx_rate=fx, token_price=price, is_same_coin=same, decimals=decimals)
    except QuoteRefused:
        # Only rounding refuses here: half a unit of a coarse token, or more tokens than anybody buys.
        exact = Fraction(owed) if same else Fraction(Fraction(owed) * Fraction(fx), Fraction(min(price, Decimal(1))))
        assert exact > 10**18 or exact * 3 * 10**decimals < 100
        return
    amount, counted = Fraction(found.amount), Fraction(min(price, Decimal(1)))
    assert Fraction(found.units, 10**decimals) == amount
    # What the database holds as well (0028): both with the token at its price, and at most at its peg.
    assert amount * Fraction(price) >= Fraction(owed) * Fraction(fx)
    assert amount * counted * 100 <= Fraction(owed) * Fraction(fx) * 103
    assert found.exact <= amount
    assert amount * 100 <= found.exact * 103


@given(OWED, PEGGED, DECIMALS)
def test_below_the_peg_the_buyer_sends_more_and_above_it_never_less(
    owed: Decimal, price: Decimal, decimals: int
) -> None:
    def exact(at: Decimal) -> tuple[Fraction, int]:
        try:
            found = settle(owed, fx_rate=Decimal(1), token_price=at, is_same_coin=False, decimals=decimals)
        except QuoteRefused:
            return Fraction(0), -1
        return found.exact, found.depeg_adjustment_bps

    (at_peg, none), (found, added) = exact(Decimal(1)), exact(price)
    if none < 0 or added < 0:
        return
    assert none == 0
    assert (found > at_peg) == (price < 1) == (added > 0)
    assert found >= at_peg
    assert found * 10_000 <= at_peg * (10_000 + added)


PRICES = st.lists(
    st.builds(
        Price,
        pair=st.sampled_from(["EUR/USD", "USDC/USD"]),
        source=st.sampled_from(["a", "b", "c"]),
        value=PEGGED,
        as_of=st.just(NOW - timedelta(seconds=1)),
    ),
    max_size=6,
)


@given(PRICES, st.randoms(use_true_random=False))
def test_the_order_of_sources_changes_nothing(prices: list[Answer], random: Random) -> None:
    wanted = Wanted(Decimal("12.34"), "EUR", 1, "0x" + "aa" * 20, "USDC", 6)

    def outcome(answers: list[Answer]) -> Quote | tuple[str, str]:
        try:
            return decide(wanted, answers, anchors={}, bounds=LOOSE, now=NOW)
        except QuoteRefused as refused:
            return refused.bound, refused.sentence

    shuffled = [*prices]
    random.shuffle(shuffled)
    assert outcome(shuffled) == outcome(prices)

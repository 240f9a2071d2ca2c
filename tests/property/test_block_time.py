"""The time a block takes and what is promised by it: exact, never too soon, the same whatever the scale (L13)."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from custody.chain.block_time import (
    BLOCK_SECONDS,
    BLOCKS_LEAST,
    BlockTime,
    MinedAt,
    about,
    block_time,
    seconds_text,
    until_deep,
)
from custody.chain.depth import FLOORS, UnknownChain

START = datetime(2026, 11, 26, tzinfo=UTC)
UNITS = {"s": 1, "min": 60, "h": 3_600, "days": 86_400}

chains = st.sampled_from(sorted(FLOORS))
paces = st.fractions(min_value=Fraction(1, 1000), max_value=60)
depths = st.integers(0, 10_000)


def said(text: str) -> tuple[int, int]:
    """The number and its unit in seconds."""
    word, number, unit = text.split(" ")
    assert word == "about"
    return int(number), UNITS[unit]


def test_every_chain_with_a_floor_has_a_documented_pace() -> None:
    assert BLOCK_SECONDS.keys() == FLOORS.keys()
    assert all(isinstance(seconds, Fraction) and seconds > 0 for seconds in BLOCK_SECONDS.values())


@given(chains, st.integers(0, 2**40), st.integers(BLOCKS_LEAST, 10_000), st.integers(1, 10**13))
def test_the_pace_is_what_the_two_headers_say_exactly(chain: int, first: int, blocks: int, microseconds: int) -> None:
    last = MinedAt(first + blocks, START + timedelta(microseconds=microseconds))
    found = block_time(chain, MinedAt(first, START), last)
    assert found.is_measured
    assert found.seconds * blocks == Fraction(microseconds, 1_000_000)


@given(chains, st.integers(-10, BLOCKS_LEAST - 1), st.integers(-(10**9), 10**9))
def test_too_few_blocks_say_nothing(chain: int, blocks: int, seconds: int) -> None:
    last = MinedAt(1_000 + blocks, START + timedelta(seconds=seconds))
    documented = BlockTime(BLOCK_SECONDS[chain], is_measured=False)
    assert block_time(chain, MinedAt(1_000, START), last) == documented
    assert block_time(chain, None, None) == block_time(chain, None, last) == documented


@given(chains, st.integers(BLOCKS_LEAST, 10_000), st.integers(-(10**6), 0))
def test_clocks_that_stand_still_or_run_backwards_say_nothing(chain: int, blocks: int, seconds: int) -> None:
    found = block_time(chain, MinedAt(0, START), MinedAt(blocks, START + timedelta(seconds=seconds)))
    assert found == BlockTime(BLOCK_SECONDS[chain], is_measured=False)


def test_a_chain_without_a_documented_pace_is_refused_until_it_is_measured() -> None:
    with pytest.raises(UnknownChain, match="chain 7 "):
        block_time(7, None, None)
    assert block_time(7, MinedAt(0, START), MinedAt(100, START + timedelta(seconds=50))).seconds == Fraction(1, 2)


@given(depths, depths, paces)
def test_l13_the_time_left_is_the_missing_blocks_times_the_pace(have: int, need: int, pace: Fraction) -> None:
    left = until_deep(have, need, BlockTime(pace, is_measured=True))
    assert left == (need - have) * pace if have < need else left == 0


@given(depths, depths, paces)
def test_each_block_brings_it_nearer_by_one_pace_and_never_below_zero(have: int, need: int, pace: Fraction) -> None:
    now, next_ = (until_deep(depth, need, BlockTime(pace, is_measured=False)) for depth in (have, have + 1))
    assert now - next_ == (pace if have < need else 0)
    assert next_ >= 0


@given(st.fractions(min_value=0, max_value=10**7))
@example(Fraction(119))
@example(Fraction(120))
@example(Fraction(7_199))
@example(Fraction(172_800))
def test_what_is_said_is_near_what_is_true(seconds: Fraction) -> None:
    number, unit = said(about(seconds))
    assert number >= 1
    assert number * unit >= seconds if unit == 1 else abs(number * unit - seconds) <= Fraction(unit, 2) + 1


@given(st.fractions(min_value=0, max_value=10**7), st.fractions(min_value=0, max_value=10**7))
def test_the_longer_wait_is_never_said_to_be_the_shorter(one: Fraction, other: Fraction) -> None:
    assume(one <= other)
    (less, small), (more, large) = said(about(one)), said(about(other))
    assert less * small <= more * large


@pytest.mark.parametrize(
    ("seconds", "text"),
    [("0", "1 s"), ("0.2", "1 s"), ("40", "40 s"), ("119.1", "2 min"), ("720", "12 min"), ("9000", "3 h")],
)
def test_how_it_is_said(seconds: str, text: str) -> None:
    assert about(Fraction(seconds)) == f"about {text}"


@given(st.integers(1, 10**9))
def test_seconds_a_block_are_written_exactly(microseconds: int) -> None:
    seconds = Fraction(microseconds, 1_000_000)
    written = seconds_text(seconds)
    assert Fraction(written) == seconds
    assert "." not in written or not written.endswith(("0", "."))

"""Gas is split over payments by largest remainder, exact to the wei (L6)."""

from fractions import Fraction
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.destinations.sweeps.gas_shares import equal_weights, shares_of

PAYMENTS = [uuid4() for _ in range(7)]
WEIGHTS = st.dictionaries(st.sampled_from(PAYMENTS), st.fractions(min_value=0, max_value=10**12), max_size=7)


@given(wei=st.integers(0, 10**30), weights=WEIGHTS)
def test_shares_are_the_whole_and_each_within_a_wei_of_its_part(wei: int, weights: dict[UUID, Fraction]):
    shares = shares_of(wei, weights)
    total = sum(weights.values())
    if total == 0:
        assert shares == {}
        return
    assert sum(shares.values()) == wei
    for payment, weight in weights.items():
        assert abs(shares.get(payment, 0) - Fraction(wei) * weight / total) < 1
        assert weight > 0 or payment not in shares


@given(units=st.dictionaries(st.sampled_from(PAYMENTS), st.integers(1, 10**30), min_size=1))
def test_a_destination_weighs_one_whatever_it_holds(units: dict[UUID, int]):
    assert sum(equal_weights(units).values()) == 1


def test_what_rounding_leaves_goes_to_the_largest_remainder():
    first, second = sorted(PAYMENTS[:2])
    assert shares_of(10, {first: Fraction(1), second: Fraction(2)}) == {first: 3, second: 7}
    assert shares_of(1, {first: Fraction(1), second: Fraction(1)}) == {first: 1}
    with pytest.raises(ValueError, match="negative"):
        shares_of(-1, {first: Fraction(1)})

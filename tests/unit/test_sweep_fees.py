"""What a sweep may pay for gas."""

import pytest

from custody.destinations.sweeps.fees import (
    GAS_LIMIT_MAXIMUM,
    GWEI,
    MAX_FEE_PER_GAS_WEI,
    TOTAL_FEE_MAXIMUM_WEI,
    FeeQuote,
    FeesTooHigh,
    GasTerms,
    gas_limit_for,
)


def test_fees_are_capped_and_leave_room():
    quote = FeeQuote.capped(10 * 10**9, 10**9)
    assert quote.max_fee == 21 * 10**9
    terms = quote.terms(50_000)
    assert terms == GasTerms(50_000, 21 * 10**9, 10**9)
    # What the next block takes at most is enough; a wei a gas less is not.
    assert quote.terms(50_000, 50_000 * quote.least_fee) == GasTerms(50_000, quote.least_fee, 10**9)
    assert quote.terms(50_000, 50_000 * quote.least_fee - 1) is None
    with pytest.raises(FeesTooHigh):
        FeeQuote.capped(MAX_FEE_PER_GAS_WEI, 1)
    assert gas_limit_for(100_001) == 110_002
    with pytest.raises(FeesTooHigh):
        gas_limit_for(GAS_LIMIT_MAXIMUM)


def test_the_whole_fee_is_capped_as_the_keys_agent_caps_it():
    dear = FeeQuote.capped(200 * GWEI, GWEI)
    assert dear.max_fee_for(60_000) == dear.max_fee
    terms = dear.terms(500_000)
    assert terms is not None
    assert terms.cost <= TOTAL_FEE_MAXIMUM_WEI
    assert terms.max_fee < dear.max_fee
    with pytest.raises(FeesTooHigh, match="600000 gas at 226000000000 wei cost more than the cap"):
        dear.terms(600_000)

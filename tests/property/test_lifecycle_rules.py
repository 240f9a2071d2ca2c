"""The pure rules of an instruction's life: what outbids what (R1), who gets how much (R14, R21), what proves an address."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from hypothesis import given
from hypothesis import strategies as st

from custody.releases.dispute_outcomes import Outcome, Undecided, outcome_of
from custody.releases.outbidding import cancel_of, outbid, payout_again
from custody.releases.payout import FeeOverCeiling
from custody.releases.refund_proof import ProofRefused, refund_text, require_proof, require_recent
from custody.trezor.transaction import Signature, UnsignedTransaction

TREASURY = "0x" + "11" * 20
FEES = st.integers(0, 10**12)
PAYMENT = UUID(int=7)
AT = datetime(2026, 5, 1, 12, tzinfo=UTC)


def bid(max_fee: int, priority: int) -> UnsignedTransaction:
    return UnsignedTransaction(31337, 4, min(max_fee, priority), max_fee, 60_000, TREASURY, 0, b"\x01")


@given(st.lists(st.tuples(FEES, FEES), min_size=1, max_size=8), FEES, FEES)
def test_a_bid_replaces_every_digest_of_the_nonce(known: list[tuple[int, int]], base: int, priority: int) -> None:
    before = [bid(*each) for each in known]
    fees = outbid(before, base_fee=base, priority_fee=priority)
    for made in (
        payout_again(before[-1], fees, ceiling_wei=10**30),
        cancel_of(before[-1], TREASURY, fees, gas=21_000, ceiling_wei=10**30),
    ):
        assert made.nonce == 4
        assert made.max_fee_per_gas >= 2 * base + priority
        for each in before:
            assert made.max_fee_per_gas * 8 >= each.max_fee_per_gas * 9
            assert made.max_priority_fee_per_gas * 8 >= each.max_priority_fee_per_gas * 9


@given(FEES, st.integers(21_000, 1_000_000))
def test_a_bid_over_the_ceiling_is_refused_at_one_wei(fee: int, gas: int) -> None:
    before = bid(fee, fee)
    fees = outbid([before], base_fee=0, priority_fee=1)
    needed = before.gas_limit * fees.max_fee
    assert payout_again(before, fees, ceiling_wei=needed).max_total_fee_wei == needed
    with pytest.raises(FeeOverCeiling, match="fee_over_ceiling"):
        payout_again(before, fees, ceiling_wei=needed - 1)
    cancel = cancel_of(before, TREASURY, fees, gas=gas, ceiling_wei=10**30)
    assert (cancel.to, cancel.value, cancel.data) == (TREASURY, 0, b"")
    with pytest.raises(FeeOverCeiling, match="the cancel"):
        cancel_of(before, TREASURY, fees, gas=gas, ceiling_wei=cancel.max_total_fee_wei - 1)


@given(st.integers(1, 10**24), st.integers(0, 18), st.integers(1, 9_999))
def test_a_percentage_leaves_the_remainder_to_the_seller(units: int, decimals: int, hundredths: int) -> None:
    disputed = Decimal(units).scaleb(-decimals)
    percent = Decimal(hundredths) / 100
    refund = outcome_of({"action": "split", "refundPercent": str(percent)}).refund_of(disputed, decimals)
    exact = units * hundredths // 10_000
    assert refund == Decimal(exact).scaleb(-decimals)
    assert 0 <= refund < disputed
    assert refund + (disputed - refund) == disputed


@given(st.integers(1, 10**15), st.integers(1, 10**15))
def test_an_amount_is_taken_to_the_last_unit_or_not_at_all(disputed: int, wanted: int) -> None:
    outcome = outcome_of({"action": "refund", "refundAmount": str(Decimal(wanted).scaleb(-6))})
    if wanted > disputed:
        with pytest.raises(Undecided, match="that are disputed"):
            outcome.refund_of(Decimal(disputed).scaleb(-6), 6)
    else:
        assert outcome.refund_of(Decimal(disputed).scaleb(-6), 6) == Decimal(wanted).scaleb(-6)


def test_who_a_resolution_is_for() -> None:
    assert outcome_of("no_action") == Outcome("release")
    assert outcome_of({"action": "warning_seller"}) == Outcome("release")
    assert outcome_of({"action": "release"}) == Outcome("release", orders_release=True)
    assert outcome_of({"action": "refund"}) == Outcome("refund")
    assert outcome_of({"action": "split", "refundPercent": 100}) == Outcome("refund")
    for unclear in (None, "replacement", {}, {"action": ["refund"]}, {"action": "split", "refundAmount": True}):
        with pytest.raises((Undecided, TypeError)):
            outcome_of(unclear)


def signed(address_key: str, text: str) -> Signature:
    made = Account.from_key(address_key).sign_message(encode_defunct(text=text))
    return Signature(made.v - 27, made.r, made.s)


def test_only_the_addresss_own_key_over_exactly_this_text_proves_it() -> None:
    key = "0x" + "42" * 32
    address = Account.from_key(key).address
    signature = signed(key, refund_text(PAYMENT, 1, address, AT))
    require_proof(PAYMENT, 1, address, AT, signature)
    other = Account.from_key("0x" + "43" * 32).address
    wrong: list[tuple[UUID, int, str, datetime]] = [
        (UUID(int=8), 1, address, AT),
        (PAYMENT, 2, address, AT),
        (PAYMENT, 1, other, AT),
        (PAYMENT, 1, address.lower(), AT),
        (PAYMENT, 1, address, AT + timedelta(seconds=1)),
    ]
    for each in wrong:
        with pytest.raises(ProofRefused):
            require_proof(*each, signature)
    text = refund_text(PAYMENT, 1, address, AT)
    assert text.isascii()
    assert text.isprintable()
    assert text.startswith("REFUND ")
    assert len(text) > 32  # R6: never mistaken for a digest


def test_a_proof_is_handed_in_while_it_is_recent() -> None:
    require_recent(AT, AT + timedelta(days=29))
    for now in (AT + timedelta(days=31), AT - timedelta(minutes=6)):
        with pytest.raises(ProofRefused, match="sign it anew"):
            require_recent(AT, now)

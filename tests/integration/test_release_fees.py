"""L7: what the house keeps of a release is a line of its own, posted with it and given back with it."""

from decimal import Decimal

import pytest
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from custody.releases.fees import BASIS_POINTS, FeeRates
from custody.releases.requests import ask
from custody.store.engine import transaction
from tests.counts import sampled
from tests.dispute_scene import entries, prove_address, resolve, work_on
from tests.release_scene import AMOUNT, UNITS, Scene

RATES = FeeRates(platform=250, provider=33)
PLATFORM, PROVIDER = Decimal("2.5"), Decimal("0.33")
SELLERS = AMOUNT - PLATFORM - PROVIDER


def test_the_fees_are_lines_of_the_release_and_the_rest_is_the_sellers(scene: Scene) -> None:
    scene.step.rates = RATES
    payment = scene.payment()
    work_on(scene)
    assert entries(scene, payment) == [
        ("release", "reserve", "held", "releasing", SELLERS),
        ("platform_fee", "charged", "held", "platform_fees", PLATFORM),
        ("provider_fee", "charged", "held", "provider_fees", PROVIDER),
        ("release", "final", "releasing", "treasury", SELLERS),
    ]
    row = scene.instruction(payment)
    assert (row.state, row.amount, row.platform_fee, row.provider_fee) == ("final", SELLERS, PLATFORM, PROVIDER)
    assert scene.paid_to(payment) == SELLERS * 10**6
    assert scene.market.state(payment) == ("completed", "released")
    assert scene.market.balance(payment)["treasury"] == PLATFORM + PROVIDER
    scene.require_books_equal_chain()


@pytest.mark.parametrize("is_disputed", sampled([False, True]), ids=sampled(["cancelled", "disputed"]))
def test_fees_are_given_back_with_what_bore_them(scene: Scene, *, is_disputed: bool) -> None:
    scene.step.rates = RATES
    payment = scene.payment()
    scene.run()
    if is_disputed:
        scene.open_dispute(payment)
    else:
        with transaction(scene.database.engine("fleet_operator")) as connection:
            ask(connection, scene.instruction(payment).id, "cancel", reason="wrong seller", by="ada")
    work_on(scene)
    back = "disputed" if is_disputed else "held"
    assert entries(scene, payment)[3:] == [
        ("release", "void", "releasing", back, SELLERS),
        ("platform_fee", "returned", "platform_fees", back, PLATFORM),
        ("provider_fee", "returned", "provider_fees", back, PROVIDER),
    ]
    assert scene.market.balance(payment)[back] == AMOUNT
    scene.require_books_equal_chain()


def test_only_the_sellers_part_of_a_split_bears_fees(scene: Scene) -> None:
    scene.step.rates = RATES
    payment = scene.payment(completed=False)
    buyer = Account.create()
    prove_address(scene, payment, buyer)
    resolve(scene, payment, action="split", refundAmount="50")
    work_on(scene)
    assert scene.token_balance(buyer.address) == UNITS // 2
    balance = scene.market.balance(payment)
    assert (balance["platform_fees"], balance["provider_fees"]) == (PLATFORM / 2, PROVIDER / 2)
    scene.require_books_equal_chain()


def test_a_rate_that_changed_since_the_draft_is_drafted_anew(scene: Scene) -> None:
    payment = scene.payment()
    scene.step._find(10, None)
    scene.step.rates = RATES
    scene.run()
    row = scene.instruction(payment)
    assert row.state == "drafted"
    assert row.held_reason.startswith("draft_outdated")


@given(st.integers(1, 10**15), st.integers(0, 4_999), st.integers(0, 4_999), st.integers(0, 18))
def test_no_unit_is_made_or_lost(units: int, platform: int, provider: int, decimals: int) -> None:
    held = Decimal(units).scaleb(-decimals)
    fees = FeeRates(platform, provider).of(held, decimals)
    for fee, rate in ((fees.platform, platform), (fees.provider, provider)):
        assert fee.scaleb(decimals) == units * rate // BASIS_POINTS
    assert 0 < held - fees.total <= held

"""Parts of what is held: exact, one after the other, never more than is held (L3), each name once (L19); and fees paid out."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from eth_account import Account

from custody.releases import ReleaseStopped, draft_release
from custody.releases.fee_payouts import Ordered, OrderRefused, order_fees
from custody.releases.fees import FeeRates
from custody.releases.instructions import part_key
from custody.releases.refunds import OrderRefused as RefundRefused
from custody.releases.refunds import order_by_hand
from custody.store.engine import transaction
from tests.dispute_scene import prove_address, work_on
from tests.release_scene import AMOUNT, UNITS, Scene


def release_part(scene: Scene, payment: UUID, name: str, amount: str) -> Any:
    with transaction(scene.database.engine("fleet_operator")) as connection:
        return draft_release(
            connection,
            payment,
            scene.step.chains,
            request_key=part_key(name),
            rates=scene.step.rates,
            amount=Decimal(amount),
        )


def refund(scene: Scene, payment: UUID, amount: str | None, reason: str) -> Decimal:
    with transaction(scene.database.engine("fleet_operator")) as connection:
        wanted = None if amount is None else Decimal(amount)
        return order_by_hand(connection, payment, amount=wanted, source="held", reason=reason, by="ada")


def held(scene: Scene, payment: UUID) -> Decimal:
    return scene.market.balance(payment)["held"]


def pay_fees(scene: Scene, kind: Any = "platform_fee") -> Ordered:
    with transaction(scene.database.engine("fleet_operator")) as connection:
        return order_fees(connection, kind, scene.pinned, scene.chain.token, by="ada")


def fee_payee(scene: Scene) -> str:
    address = Account.create().address
    scene.market.execute(
        "INSERT INTO fleet.address_book (chain_id, address, label, added_by, number, environment, previous, hash, action, "
        "role, owner, added_at) VALUES (31337, :address, 'fees', 'test', 1, 'dev0', repeat('0', 64), repeat('1', 64), 'add', "
        "'fee_payee', 'house', now())",
        address=address,
    )
    return address


def test_parts_add_up_to_what_is_held_and_the_last_ends_the_payment(scene: Scene) -> None:
    payment = scene.payment()
    scene.set_request(payment, "delivered")  # the buyer's word is not there yet: nothing goes by itself
    first = release_part(scene, payment, "first", "33.333333")
    assert release_part(scene, payment, "first", "33.333333").id == first.id
    with pytest.raises(ReleaseStopped, match=r"part_differs: part:first was made of 33\.333333"):
        release_part(scene, payment, "first", "33")
    with pytest.raises(ReleaseStopped, match="release_under_way"):
        release_part(scene, payment, "second", "1")
    work_on(scene)
    assert scene.market.state(payment) == ("confirmed", "funded")
    assert scene.paid_to(payment) == 33_333_333
    assert held(scene, payment) == Decimal("66.666667")
    for amount, why in (("66.666668", "66.666667 USDT are held"), ("0.0000001", "has 6 decimals"), ("0", "no part")):
        with pytest.raises(ReleaseStopped, match=f"amount_refused: .*{why}"):
            release_part(scene, payment, "too-much", amount)
    release_part(scene, payment, "second", "60")
    work_on(scene)
    assert scene.market.state(payment) == ("confirmed", "funded")
    assert scene.run() == 0
    scene.set_request(payment, "completed")
    work_on(scene)
    assert scene.market.state(payment) == ("completed", "released")
    assert scene.paid_to(payment) == UNITS
    assert [amount for reason, amount in scene.release_entries(payment) if reason == "final"] == [
        Decimal("33.333333"),
        Decimal(60),
        Decimal("6.666667"),
    ]
    scene.require_books_equal_chain()


def test_a_part_released_and_the_rest_refunded_ends_released_and_parts_of_a_refund_alone_refunded(scene: Scene) -> None:
    split, back = scene.payment(completed=False), scene.payment(completed=False)
    buyer = Account.create()
    for each in (split, back):
        prove_address(scene, each, buyer)
        scene.set_request(each, "delivered")
    release_part(scene, split, "first", "40")
    refund(scene, back, "99.999999", "broken")
    work_on(scene)
    assert scene.market.state(back) == ("confirmed", "funded")
    with pytest.raises(RefundRefused, match=r"0.000001 USDT are held"):
        refund(scene, back, "0.000002", "the rest")
    refund(scene, back, None, "the rest")
    refund(scene, split, None, "broken")
    work_on(scene)
    assert scene.market.state(back) == ("refunded", "refunded")
    assert scene.market.state(split) == ("completed", "released")
    assert scene.token_balance(buyer.address) == UNITS + 60_000_000
    scene.require_books_equal_chain()


def test_a_dispute_during_a_part_gives_all_of_it_back_and_the_rest_is_disputed(scene: Scene) -> None:
    payment = scene.payment()
    scene.set_request(payment, "delivered")
    release_part(scene, payment, "first", "40")
    scene.run()
    scene.open_dispute(payment)
    work_on(scene)
    assert scene.instruction(payment).state == "cancelled"
    assert scene.market.balance(payment)["disputed"] == AMOUNT
    assert scene.paid_to(payment) == 0
    scene.require_books_equal_chain()


def test_fees_of_several_payments_are_paid_out_once_by_one_transfer(scene: Scene) -> None:
    scene.step.rates = FeeRates(platform=250, provider=100)
    with pytest.raises(OrderRefused, match="no signed fee_payee"):
        pay_fees(scene)
    house = fee_payee(scene)
    payments = [scene.payment() for _ in range(3)]
    assert pay_fees(scene).payments == 0
    work_on(scene)
    part, _, _ = payments
    ordered = pay_fees(scene)
    assert (ordered.payments, ordered.amount, ordered.recipient) == (3, Decimal("7.5"), house)
    assert pay_fees(scene).payments == 0  # asked again nothing is paid twice
    assert pay_fees(scene, "provider_fee").amount == Decimal(3)
    work_on(scene)
    assert pay_fees(scene).payments == pay_fees(scene, "provider_fee").payments == 0
    assert scene.token_balance(house) == 10_500_000
    entries = scene.market.execute(
        "SELECT entry_type::text AS kind, reason, debit, credit, sum(amount) AS amount, count(*) AS count "
        "FROM public.funds_ledger_entries WHERE reason IN ('reserve', 'final') AND entry_type::text LIKE '%_fee' "
        "GROUP BY 1, 2, 3, 4 ORDER BY 1, 2 DESC"
    )
    assert [(each.kind, each.reason, each.debit, each.credit, each.amount, each.count) for each in entries] == [
        ("platform_fee", "reserve", "platform_fees", "paying_fees", Decimal("7.5"), 3),
        ("platform_fee", "final", "paying_fees", "treasury", Decimal("7.5"), 3),
        ("provider_fee", "reserve", "provider_fees", "paying_fees", Decimal(3), 3),
        ("provider_fee", "final", "paying_fees", "treasury", Decimal(3), 3),
    ]
    sent = scene.market.execute(
        "SELECT count(*) AS count FROM fleet.release_instructions WHERE payment_id IS NULL AND purpose LIKE '%_fee'"
    )
    assert sent[0].count == 2
    assert scene.market.balance(part)["treasury"] == 0
    scene.require_books_equal_chain()


def test_fees_that_are_cancelled_return_to_their_account(scene: Scene) -> None:
    scene.step.rates = FeeRates(platform=250)
    fee_payee(scene)
    payment = scene.payment()
    work_on(scene)
    pay_fees(scene)
    scene.run()
    assert scene.market.balance(payment)["paying_fees"] == Decimal("2.5")
    scene.market.execute(
        "INSERT INTO fleet.release_requests (instruction_id, kind, reason, requested_by) "
        "SELECT id, 'cancel', 'wrong wallet', 'ada' FROM fleet.release_instructions WHERE purpose = 'platform_fee'"
    )
    work_on(scene)
    balance = scene.market.balance(payment)
    assert (balance["paying_fees"], balance["platform_fees"]) == (0, Decimal("2.5"))
    assert pay_fees(scene).payments == 1
    work_on(scene)
    assert scene.market.balance(payment)["platform_fees"] == 0
    scene.require_books_equal_chain()

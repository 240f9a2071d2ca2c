"""R21: money goes back only to an address that its buyer proved, by disputes, surplus and operators; and the timer."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from bson import Decimal128, ObjectId
from eth_account import Account
from eth_account.messages import encode_defunct
from typer.testing import CliRunner

from custody.policy import load_folder
from custody.releases import release_gate
from custody.releases.refund_proof import BUYER_SIGNED, ProofRefused
from custody.releases.refunds import OrderRefused, order_by_hand
from custody.settings.environment import settings
from custody.store.engine import transaction
from tests.conftest import Database
from tests.counts import sampled
from tests.dispute_scene import entries, of_purpose, prove_address, resolve, work_on
from tests.release_scene import AMOUNT, UNITS, Scene, approval_scenes
from tests.signer_api_server import client_at, serving
from tests.token_chain import TokenChain
from workers.cli.releases import releases
from workers.embedded.services import Services
from workers.signer import InstructionRefused
from workers.signer.approving import ApproverDesk, approvable_instruction

# Refunds and splits (R21)


def test_a_refund_waits_for_an_address_that_the_buyer_proved(scene: Scene) -> None:
    payment = scene.payment()
    scene.open_dispute(payment)
    scene.run()
    resolve(scene, payment, action="refund")
    work_on(scene)
    assert scene.instruction(payment) is None
    [order] = scene.market.execute("SELECT * FROM fleet.refund_orders")
    assert (order.amount, order.source) == (AMOUNT, "disputed")
    assert order.held_reason.startswith("refund_address_missing")
    buyer = Account.create()
    with pytest.raises(ProofRefused, match="not of the address that it names"):
        prove_address(scene, payment, Account.create(), named=buyer.address)
    prove_address(scene, payment, buyer)
    work_on(scene)
    row = of_purpose(scene, payment, "refund")
    assert (row.state, row.recipient, row.amount) == ("final", buyer.address, AMOUNT)
    assert entries(scene, payment) == [
        ("dispute_hold", "opened", "held", "disputed", AMOUNT),
        ("refund", "reserve", "disputed", "refunding", AMOUNT),
        ("refund", "final", "refunding", "treasury", AMOUNT),
    ]
    assert scene.market.state(payment) == ("refunded", "refunded")
    assert scene.token_balance(buyer.address) == UNITS
    scene.require_books_equal_chain()


def test_a_forged_proof_in_the_database_is_not_believed(scene: Scene) -> None:
    payment = scene.payment()
    resolve(scene, payment, action="refund")
    scene.market.execute(
        "INSERT INTO fleet.refund_addresses (payment_id, chain_id, address, signed_at, y_parity, r, s, added_by) "
        "VALUES (:id, 31337, :address, now(), 0, 1, 1, 'a thief')",
        id=payment,
        address=Account.create().address,
    )
    work_on(scene)
    [order] = scene.market.execute("SELECT * FROM fleet.refund_orders")
    assert order.held_reason.startswith("refund_address_missing")


SPLITS: list[tuple[dict[str, Any], int]] = [
    ({"action": "split", "refundAmount": "30.5"}, 30_500_000),
    ({"action": "compensation", "refundAmount": Decimal128("0.000001")}, 1),
    ({"action": "refund", "refundAmount": 99}, 99_000_000),
    ({"action": "split", "refundPercent": "33.33"}, 33_330_000),
]


@pytest.mark.parametrize(("resolution", "refunded"), sampled(SPLITS), ids=str)
def test_a_split_pays_both_and_the_two_add_up(scene: Scene, resolution: dict[str, Any], refunded: int) -> None:
    payment = scene.payment(completed=False)  # the resolution itself orders the release
    scene.set_request(payment, "delivery")
    buyer = Account.create()
    prove_address(scene, payment, buyer)
    scene.open_dispute(payment)
    scene.run()
    resolve(scene, payment, **resolution)
    work_on(scene)
    refund, release = of_purpose(scene, payment, "refund"), of_purpose(scene, payment, "release")
    assert (refund.state, release.state) == ("final", "final")
    assert refund.amount + release.amount == AMOUNT
    assert scene.token_balance(buyer.address) == refunded
    assert scene.token_balance(release.recipient) == UNITS - refunded
    assert scene.market.state(payment) == ("completed", "released")
    balance = scene.market.balance(payment)
    assert all(balance[account] == 0 for account in ("held", "disputed", "releasing", "refunding", "treasury"))
    scene.require_books_equal_chain()


def test_a_split_pays_the_seller_while_the_buyer_has_no_address(scene: Scene) -> None:
    payment = scene.payment()
    resolve(scene, payment, action="split", refundAmount="40")
    work_on(scene)
    assert of_purpose(scene, payment, "release").amount == Decimal(60)
    assert scene.market.balance(payment)["disputed"] == Decimal(40)
    buyer = Account.create()
    prove_address(scene, payment, buyer)
    work_on(scene)
    assert scene.token_balance(buyer.address) == 40_000_000
    scene.require_books_equal_chain()


def test_two_disputes_each_take_their_part_and_nothing_is_paid_until_both_end(scene: Scene) -> None:
    payment = scene.payment()
    prove_address(scene, payment, Account.create())
    scene.open_dispute(payment)
    scene.documents.disputes.insert_one(
        {"_id": ObjectId(), "purchaseRequestId": scene.request_id(payment), "status": "open"}
    )
    scene.run()
    assert scene.market.balance(payment)["dispute_open"] == 2
    resolve(scene, payment, action="split", refundAmount="25")
    work_on(scene)
    assert scene.instruction(payment).held_reason.startswith("dispute_open")
    assert scene.market.balance(payment)["disputed"] == AMOUNT
    scene.documents.disputes.update_one(
        {"purchaseRequestId": scene.request_id(payment)},
        {"$set": {"status": "closed", "resolution": {"action": "split", "refundPercent": "50"}}},
    )
    work_on(scene)
    paid = scene.market.execute(
        "SELECT purpose, amount FROM fleet.release_instructions WHERE state = 'final' ORDER BY amount, purpose"
    )
    assert [(row.purpose, row.amount) for row in paid] == [
        ("refund", Decimal(25)), ("refund", Decimal("37.5")), ("release", Decimal("37.5")),
    ]  # fmt: skip
    scene.require_books_equal_chain()


# Orders by hand, surplus, and the timer


def by_hand(scene: Scene, payment: UUID, **order: Any) -> Decimal:
    with transaction(scene.database.engine("fleet_operator")) as connection:
        terms: dict[str, Any] = {"amount": None, "source": "held", "reason": "no stock", "by": "ada"}
        return order_by_hand(connection, payment, **(terms | order))


def test_an_operator_orders_a_part_back_and_the_rest_is_the_sellers(scene: Scene) -> None:
    payment = scene.payment(completed=False)
    buyer = Account.create()
    assert by_hand(scene, payment, amount=Decimal("30.5")) == Decimal("30.5")
    with scene.database.engine("fleet_operator").connect() as connection:
        assert "refund_ordered" in [stop.reason for stop in release_gate(connection, payment, scene.step.chains).stops]
    prove_address(scene, payment, buyer)
    scene.set_request(payment, "completed")
    work_on(scene)
    assert scene.token_balance(buyer.address) == 30_500_000
    assert scene.token_balance(of_purpose(scene, payment, "release").recipient) == UNITS - 30_500_000
    assert scene.market.state(payment) == ("completed", "released")
    scene.require_books_equal_chain()


def test_an_operator_orders_nothing_that_is_not_there(scene: Scene) -> None:
    payment = scene.payment(completed=False)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"amount": Decimal(101)}, "is not among them"),
        ({"amount": Decimal(0)}, "is not among them"),
        ({"amount": Decimal("NaN")}, "is not among them"),
        ({"amount": Decimal("1.0000001")}, "has 6 decimals"),
        ({"source": "treasury"}, "expected one of held, disputed, suspense"),
        ({"source": "suspense"}, "0 USDT are suspense"),
        ({"reason": "x" * 200}, "at most"),
    ]
    for order, words in wrong:
        with pytest.raises(OrderRefused, match=words):
            by_hand(scene, payment, **order)
    by_hand(scene, payment, amount=Decimal(60))
    with pytest.raises(OrderRefused, match="40 USDT are held"):
        by_hand(scene, payment, amount=Decimal(50), reason="another")
    with pytest.raises(OrderRefused, match="ordered before"):
        by_hand(scene, payment, amount=Decimal(1))
    scene.open_dispute(payment)
    scene.run()
    with pytest.raises(OrderRefused, match="dispute"):
        by_hand(scene, payment, amount=Decimal(1), reason="third")


def test_a_whole_refund_ends_the_payment(scene: Scene) -> None:
    payment = scene.payment(completed=False)
    buyer = Account.create()
    prove_address(scene, payment, buyer)
    by_hand(scene, payment)
    work_on(scene)
    assert scene.market.state(payment) == ("refunded", "refunded")
    assert scene.token_balance(buyer.address) == UNITS
    scene.require_books_equal_chain()


def test_a_surplus_goes_back_to_its_buyer_once(scene: Scene) -> None:
    payment = scene.payment(completed=False)
    buyer = Account.create()
    prove_address(scene, payment, buyer)
    for surplus in (7_000_000, 500_000):
        fact = scene.market.fact(payment, surplus)
        amount = Decimal(surplus) / 10**6
        scene.post(
            "fleet_watcher", payment, "payment_detected", "seen", "destination", "detected", amount,
            key=f"fact:{fact}:seen", debit_address="0x" + "11" * 20, fact_id=fact,
        )  # fmt: skip
        scene.post(
            "fleet_confirmations", payment, "adjustment", "surplus", "detected", "suspense", amount,
            key=f"fact:{fact}:suspense", fact_id=fact,
        )  # fmt: skip
        scene.sweep(payment, surplus)
    work_on(scene)
    assert scene.instruction(payment) is None  # off until it is set
    scene.step.surplus_refund_minimum = Decimal(1)
    work_on(scene)
    assert scene.token_balance(buyer.address) == 7_000_000
    assert scene.market.state(payment) == ("confirmed", "funded")
    scene.set_request(payment, "completed")
    work_on(scene)
    assert scene.market.state(payment) == ("completed", "released")
    assert scene.market.balance(payment)["suspense"] == Decimal("0.5")
    scene.require_books_equal_chain()


def test_the_timer_pays_a_delivery_that_nobody_disputed(scene: Scene) -> None:
    late, fresh, disputed, silent = (scene.payment(completed=False) for _ in range(4))
    now = datetime.now(UTC)
    for payment, at in ((late, now - timedelta(hours=25)), (fresh, now), (disputed, now - timedelta(hours=25))):
        scene.set_request(payment, "delivered")
        scene.documents.purchaserequests.update_one(
            {"_id": ObjectId(scene.request_id(payment))}, {"$set": {"deliveredAt": at}}
        )
    scene.set_request(silent, "delivered")
    scene.open_dispute(disputed)
    work_on(scene)
    assert scene.instruction(late) is None  # off until it is set
    scene.step.auto_release_hours = 24
    work_on(scene)
    assert scene.instruction(late).state == "final"
    assert [scene.instruction(each) for each in (fresh, disputed, silent)] == [None, None, None]


def test_the_operators_commands(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", scene.database.url("fleet_operator"))
    settings.cache_clear()
    runner = CliRunner()
    payment = scene.payment(completed=False)
    buyer = Account.create()
    shown = runner.invoke(releases, ["refund-address", str(payment), buyer.address])
    line = shown.stdout.splitlines()[0]
    assert line.startswith(f"REFUND payment {payment} on chain 31337 to {buyer.address} signed ")
    at = line.rpartition("signed ")[2].replace(" ", "T")
    signature = "0x" + buyer.sign_message(encode_defunct(text=line)).signature.hex()
    wrong = runner.invoke(
        releases, ["refund-address", str(payment), buyer.address, "--signed-at", at, "--signature", signature[:-4]]
    )
    assert (wrong.exit_code, "65 bytes" in wrong.output) == (1, True)
    done = runner.invoke(
        releases, ["refund-address", str(payment), buyer.address, "--signed-at", at, "--signature", signature]
    )
    assert (done.exit_code, "is proved" in done.stdout) == (0, True), done.output
    assert runner.invoke(releases, ["refund", str(payment), "--reason", "x", "--amount", "many"]).exit_code == 1
    assert runner.invoke(releases, ["refund", str(payment), "--reason", "no stock"]).exit_code == 0
    scene.run()
    row = scene.instruction(payment)
    assert (row.purpose, row.state) == ("refund", "handed_out")
    assert runner.invoke(releases, ["bump", str(row.id)]).exit_code == 0
    asked = runner.invoke(releases, ["cancel", str(row.id), "--reason", "wrong buyer", "--by", "ada"])
    assert (asked.exit_code, "is asked for" in asked.stdout) == (0, True)
    scene.run()
    work_on(scene)
    row = scene.instruction(payment)
    assert (row.state, row.held_reason) == ("cancelled", "cancelled by ada: wrong buyer")
    assert scene.market.balance(payment)["held"] == AMOUNT
    assert "wrong buyer" in runner.invoke(releases, ["requests"], env={"COLUMNS": "300"}).stdout
    late = runner.invoke(releases, ["cancel", str(row.id), "--reason", "again"])
    assert (late.exit_code, "nothing can be changed" in late.output) == (1, True)
    scene.require_books_equal_chain()
    settings.cache_clear()


# Approvals


@pytest.fixture
def refunding_scene(
    token_chain: TokenChain, database: Database, services: Services, mongo_database: str, tmp_path: Path
) -> Iterator[Scene]:
    """Two of three persons approve releases to the address book, and refunds to addresses that buyers signed."""
    rules: list[dict[str, Any]] = [
        {"name": "sellers", "kind": "recipients", "purposes": ["release"], "sources": ["address_book"], "cool_down_seconds": 0},
        {"name": "buyers", "kind": "recipients", "purposes": ["refund"], "sources": ["buyer_signature"], "cool_down_seconds": 0},
        {"name": "payouts", "kind": "allow", "purposes": ["release", "refund"]},
    ]  # fmt: skip
    yield from approval_scenes(token_chain, database, services.mongo_url, mongo_database, tmp_path, rules)


def test_a_refund_waits_for_approvals_and_the_policy_knows_that_its_buyer_signed(refunding_scene: Scene) -> None:
    scene = refunding_scene
    payment = scene.payment()
    scene.run()
    assert scene.instruction(payment).state == "awaiting_approval"
    scene.open_dispute(payment)
    scene.run()
    assert scene.instruction(payment).state == "expired"
    buyer = Account.create()
    prove_address(scene, payment, buyer)
    resolve(scene, payment, action="refund")
    work_on(scene)
    row = of_purpose(scene, payment, "refund")
    assert (row.state, row.recipient) == ("awaiting_approval", buyer.address)
    assert row.held_reason.startswith("needs_approvals")
    scene.approve(payment, "ada")
    scene.approve(payment, "cyd")
    work_on(scene)
    assert of_purpose(scene, payment, "refund").state == "final"
    assert scene.token_balance(buyer.address) == UNITS
    scene.require_books_equal_chain()


def test_a_refund_that_nobody_approves_gives_back_what_it_reserved(refunding_scene: Scene) -> None:
    """L4: from its own account, to where it came from; the worker goes on with what else waits."""
    scene = refunding_scene
    payment = scene.payment()
    scene.run()
    scene.open_dispute(payment)
    scene.run()
    prove_address(scene, payment, Account.create())
    resolve(scene, payment, action="refund")
    work_on(scene)
    row = of_purpose(scene, payment, "refund")
    assert (row.state, scene.market.balance(payment)["refunding"]) == ("awaiting_approval", AMOUNT)
    scene.market.execute(
        "UPDATE fleet.release_instructions SET expires_at = now() - interval '1 minute', run_after = now() WHERE id = :id "
        "RETURNING id",
        id=row.id,
    )
    scene.step.run_once(50)
    ended = scene.market.execute("SELECT state, held_reason FROM fleet.release_instructions WHERE id = :id", id=row.id)[
        0
    ]
    assert (ended.state, ended.held_reason.partition(":")[0]) == ("expired", "expired")
    [void] = scene.market.execute(
        "SELECT debit, credit, amount FROM public.funds_ledger_entries WHERE instruction_id = :id AND reason = 'void'",
        id=row.id,
    )
    assert (void.debit, void.credit, void.amount) == ("refunding", row.source, AMOUNT)


def test_an_approvers_machine_knows_a_refund_by_its_buyers_proof(refunding_scene: Scene) -> None:
    """R4, R21: the proof is recovered again on the approver's own machine; a changed one is nobody's."""
    scene = refunding_scene
    payment = scene.payment()
    scene.run()
    scene.open_dispute(payment)
    scene.run()
    prove_address(scene, payment, Account.create())
    resolve(scene, payment, action="refund")
    work_on(scene)
    row = of_purpose(scene, payment, "refund")
    verified = load_folder(scene.signed.folder, root=scene.signed.root, now=datetime.now(UTC))
    desk = ApproverDesk(verified, "ada", "udp:127.0.0.1:1", 1.0, 10**16)
    with serving(scene.database) as api, client_at(api) as client:
        claimed = client.instruction(str(row.id))
    asked = approvable_instruction(claimed, desk, datetime.now(UTC))
    assert BUYER_SIGNED in asked.text
    assert asked.digest == bytes(row.intent_hash).hex()
    assert claimed.evidence is not None
    [proof] = claimed.evidence["refund_proofs"]
    for change in (
        {"r": str(int(proof["r"]) ^ 1)},
        {"payment_id": str(uuid4())},
        {"signed_at": "2026-01-01T00:00:00+00:00"},
    ):
        forged = {**claimed.evidence, "refund_proofs": [proof | change]}
        with pytest.raises(InstructionRefused, match="no entry with 2 approvers' signatures"):
            approvable_instruction(claimed.model_copy(update={"evidence": forged}), desk, datetime.now(UTC))

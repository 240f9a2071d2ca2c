"""The releases step on a real chain, PostgreSQL and MongoDB: the way to seller_paid, and what stops it."""

from decimal import Decimal

import pytest
from bson import ObjectId
from eth_account import Account

from custody.releases import ReleaseStopped, draft_release, release_gate
from custody.store.engine import transaction
from custody.store.outbox import ask_for_entries
from custody.trezor import UnsignedTransaction, decode_erc20_transfer
from tests.counts import Counts, declared
from tests.release_scene import AMOUNT, FEE_PROXY, UNITS, Scene

DUST = declared(1_000, 10)


def test_a_completed_request_is_paid_once_and_the_books_equal_the_chain(scene: Scene) -> None:
    payment = scene.payment()
    scene.run()
    handed_out = scene.instruction(payment)
    assert handed_out.state == "handed_out"
    assert scene.market.state(payment) == ("confirmed", "releasing")
    scene.submit(payment, scene.sign(payment))
    scene.run()
    done = scene.instruction(payment)
    assert (done.state, done.held_reason) == ("final", None)
    assert scene.market.state(payment) == ("completed", "released")
    assert scene.release_entries(payment) == [("reserve", AMOUNT), ("final", AMOUNT)]
    assert scene.paid_to(payment) == UNITS
    request = scene.market.execute(
        "SELECT r.status::text FROM public.payments p JOIN public.purchase_requests r "
        "ON r.id = p.purchase_request_id WHERE p.id = :id",
        id=payment,
    )
    assert request[0].status == "seller_paid"
    receipt = scene.receipt(payment)
    gas = scene.market.execute(
        "SELECT debit, credit, amount FROM public.funds_ledger_entries WHERE book_id = :id AND reason = 'gas'",
        id=scene.house,
    )
    assert [(row.debit, row.credit, row.amount * 10**18) for row in gas] == [
        ("gas_spent", "treasury_house", receipt.fee)
    ]
    scene.require_books_equal_chain()
    with transaction(scene.market.database.engine("fleet_relay")) as connection:
        ask_for_entries(connection, 100)
    mirrored = {
        row.collection for row in scene.market.execute("SELECT collection FROM fleet.outbox WHERE queue = 'mirror'")
    }
    assert {"payments", "purchaserequests", "fundsledgerentries"} <= mirrored
    assert scene.run() == 0


def test_the_bytes_are_exactly_the_transfer_within_its_ceiling(scene: Scene) -> None:
    payment = scene.payment()
    scene.run()
    row = scene.instruction(payment)
    unsigned = UnsignedTransaction.from_signing_bytes(bytes(row.unsigned_bytes))
    assert (unsigned.chain_id, unsigned.nonce, unsigned.to, unsigned.value) == (31337, 0, scene.chain.token, 0)
    assert len(unsigned.data) == 68
    assert decode_erc20_transfer(unsigned.data) == (row.recipient, UNITS)
    assert unsigned.gas_limit * unsigned.max_fee_per_gas == row.max_total_fee_wei
    assert unsigned.max_total_fee_wei <= scene.settings.release_max_total_fee_wei
    assert bytes(row.signing_hash) == unsigned.signing_hash()


def test_one_instruction_a_treasury_is_handed_out_and_the_next_follows(scene: Scene) -> None:
    payments = [scene.payment() for _ in range(3)]
    paid: list[int] = []
    for _ in payments:
        scene.run()
        out = [payment for payment in payments if scene.instruction(payment).state == "handed_out"]
        assert len(out) == 1
        paid.append(scene.instruction(out[0]).nonce)
        scene.submit(out[0], scene.sign(out[0]))
    scene.run()
    assert sorted(paid) == [0, 1, 2]
    assert [scene.instruction(payment).state for payment in payments] == ["final"] * 3
    scene.require_books_equal_chain()


def test_the_payout_waits_for_the_chains_threshold(scene: Scene) -> None:
    scene.set_threshold(3)
    payment = scene.payment()
    scene.run()
    scene.submit(payment, scene.sign(payment))
    scene.run()
    assert scene.instruction(payment).state == "broadcast"
    scene.chain.development.mine(1)
    assert scene.run() == 0
    assert scene.release_entries(payment) == [("reserve", AMOUNT)]
    scene.chain.development.mine(1)
    scene.run()
    assert scene.instruction(payment).state == "final"


def test_a_second_release_is_the_first_one(scene: Scene) -> None:
    payment = scene.payment()
    scene.run()
    first = scene.instruction(payment).id
    with transaction(scene.database.engine("fleet_operator")) as connection:
        assert draft_release(connection, payment, scene.step.chains).id == first
    with (
        transaction(scene.database.engine("fleet_operator")) as connection,
        pytest.raises(ReleaseStopped, match="payment_not_releasable"),
    ):
        draft_release(connection, payment, scene.step.chains, request_key="again")
    scene.submit(payment, scene.sign(payment))
    scene.run()
    with (
        transaction(scene.database.engine("fleet_operator")) as connection,
        pytest.raises(ReleaseStopped, match="payment_not_releasable"),
    ):
        draft_release(connection, payment, scene.step.chains, request_key="again")
    assert scene.paid_to(payment) == UNITS


def test_an_operators_draft_is_reserved_by_the_worker(scene: Scene) -> None:
    payment = scene.payment(completed=False)
    scene.set_request(payment, "delivered")
    scene.run()
    assert scene.instruction(payment) is None
    with transaction(scene.database.engine("fleet_operator")) as connection:
        assert draft_release(connection, payment, scene.step.chains).state == "drafted"
    scene.run()
    assert scene.instruction(payment).state == "handed_out"


def test_the_gate_stops_with_a_sentence_and_nothing_is_reserved(scene: Scene) -> None:
    destination = scene.market.execute(
        "SELECT d.address FROM fleet.payment_routes r JOIN public.derived_destinations d ON d.id = r.destination_id "
        "WHERE r.payment_id = :id",
        id=scene.market.payment(),
    )[0].address
    refused = [
        "0x" + "00" * 20,
        FEE_PROXY,
        scene.chain.token,
        scene.treasury,
        destination,
        "0x52908400098527886E0F7030069857D2E4169eE7",  # one letter's case changed
        "vitalik.eth",
        "TJRabPrwbZy45sbavfcjinPJC18kjpRTv8",
        "EQCD39VS5jcptHL8vMjEXrzGaRcCVYto7HUn4bpAOg8xqB2N",
    ]
    stopped = {scene.payment(recipient=address): "recipient_refused" for address in refused}
    stopped |= {scene.payment(swept=False): "not_swept", scene.payment(recipient=None): "recipient_missing"}
    stopped |= {scene.market.payment(): "payment_not_releasable"}
    scene.run()
    for payment, reason in stopped.items():
        assert scene.instruction(payment) is None
        with scene.database.engine("fleet_operator").connect() as connection:
            gate = release_gate(connection, payment, scene.step.chains)
        assert gate.stops[0].reason == reason
        assert all(stop.sentence.endswith(".") for stop in gate.stops)


def test_a_payment_cannot_spend_what_was_swept_for_another(scene: Scene) -> None:
    swept, unswept = scene.payment(), scene.payment(swept=False)
    scene.run()
    assert scene.instruction(swept).state == "handed_out"
    assert scene.instruction(unswept) is None


def test_a_contract_is_no_recipient(scene: Scene) -> None:
    build = scene.chain.deployer.deploy(bytes.fromhex("6001600c60003960016000f300"))
    scene.chain.deployer.wait(build[1])
    payment = scene.payment(recipient=build[0])
    scene.run()
    row = scene.instruction(payment)
    assert row.state == "ready"
    assert row.held_reason.startswith("recipient_refused")
    assert row.nonce is None


def test_a_paused_chain_hands_nothing_out_until_it_is_resumed(scene: Scene) -> None:
    payment = scene.payment()
    scene.market.execute("UPDATE fleet.chain_cursors SET paused_reason = 'drill', paused_at = now()")
    scene.run()
    assert scene.instruction(payment) is None
    scene.market.execute("UPDATE fleet.chain_cursors SET paused_reason = NULL, paused_at = NULL")
    scene.run()
    assert scene.instruction(payment).state == "handed_out"


def test_fees_above_the_ceiling_and_an_empty_house_book_wait_with_their_reason(scene: Scene) -> None:
    payment = scene.payment()
    scene.step.release_max_total_fee_wei = 21_000
    scene.run()
    assert scene.instruction(payment).held_reason.startswith("fee_over_ceiling")
    scene.step.release_max_total_fee_wei = scene.settings.release_max_total_fee_wei
    scene.market.execute(
        "UPDATE fleet.ledger_balances SET treasury_house = 0, gas_funding = 0 WHERE book_id = :id", id=scene.house
    )
    scene.due_now()
    scene.run()
    row = scene.instruction(payment)
    assert row.held_reason.startswith("house_float_low")
    assert (row.state, row.nonce) == ("ready", None)
    assert scene.market.execute("SELECT count(*) AS n FROM fleet.chain_transactions")[0].n == 0


# Disputes (R14)


def test_only_a_dispute_settled_for_the_seller_lets_a_release_go(scene: Scene) -> None:
    cases = {
        ("open", None): False,
        ("under_whatever_is_new", None): False,
        ("resolved", "refund"): False,
        ("resolved", None): False,
        ("resolved", "no_action"): True,
        ("closed", "warning_seller"): True,
    }
    payments = {case: scene.payment() for case in cases}
    for (status, action), payment in payments.items():
        scene.set_dispute(payment, status, action)
    scene.run()
    assert {case: scene.instruction(payment) is not None for case, payment in payments.items()} == cases


def test_a_dispute_in_postgres_counts_where_the_domain_was_cut_over(scene: Scene) -> None:
    payment = scene.payment()
    scene.documents.drop_collection("purchaserequests")
    scene.step.sources.repo_dispute = scene.step.sources.repo_marketplace = "pg"
    scene.run()
    assert scene.instruction(payment) is None
    request = scene.market.execute(
        "UPDATE public.purchase_requests r SET status = 'completed' FROM public.payments p "
        "WHERE p.id = :id AND r.id = p.purchase_request_id RETURNING r.id",
        id=payment,
    )[0].id
    scene.market.execute(
        "INSERT INTO public.disputes (purchase_request_id, buyer_id, seller_id, reason) "
        "VALUES (:id, 'a', 'b', 'broken')",
        id=str(request),
    )
    scene.run()
    assert scene.instruction(payment) is None
    scene.market.execute(
        "UPDATE public.disputes SET status = 'resolved', resolution = CAST('{\"action\": \"no_action\"}' AS jsonb)"
    )
    scene.run()
    assert scene.instruction(payment).state == "handed_out"


def test_mongodb_away_holds_only_what_still_needs_its_word(scene: Scene) -> None:
    """One sent, one signed, one ready, one never drafted: only the sent one goes on."""
    payments = [scene.payment() for _ in range(3)]
    scene.set_threshold(2)
    scene.run()
    sent = scene.handed_out(payments)
    scene.submit(sent, scene.sign(sent))
    scene.run()
    signed = scene.handed_out(payments)
    ready = next(each for each in payments if each not in {sent, signed})
    assert scene.instruction(sent).state == "broadcast"
    with scene.mongodb_away():
        undrafted = scene.payment()
        scene.submit(signed, scene.sign(signed))
        scene.chain.development.mine(1)
        scene.run()
        found = {each: scene.instruction(each) for each in payments}
        assert [found[each].state for each in (sent, signed, ready)] == ["final", "signed", "ready"]
        assert found[signed].held_reason.startswith("source_unreadable")
        assert found[ready].held_reason.startswith("source_unreadable")
        assert scene.instruction(undrafted) is None
    scene.due_now()
    scene.run()
    scene.chain.development.mine(1)
    scene.run()
    assert scene.instruction(signed).state == "final"
    assert scene.instruction(ready).state == "handed_out"
    assert scene.instruction(undrafted).state == "ready"


def test_dust_does_not_move_the_epoch_and_a_second_promise_is_judged_again(scene: Scene, counts: Counts) -> None:
    counts("transfers of dust during an approval (R12)", DUST)
    first, second = scene.payment(), scene.payment()
    scene.run()
    waiting = next(each for each in (first, second) if scene.instruction(each).state == "ready")
    epoch = scene.instruction(waiting).release_epoch
    for _ in range(DUST):
        fact = scene.market.fact(waiting, 1)
        scene.post(
            "fleet_watcher", waiting, "payment_detected", "seen", "destination", "detected", Decimal("0.000001"),
            key=f"fact:{fact}:seen", debit_address="0x" + "11" * 20, fact_id=fact,
        )  # fmt: skip
    assert scene.market.balance(waiting)["release_epoch"] == epoch
    scene.market.execute(
        "UPDATE fleet.ledger_balances SET release_epoch = release_epoch + 1 WHERE book_id = :id", id=waiting
    )
    out = next(each for each in (first, second) if each != waiting)
    scene.submit(out, scene.sign(out))
    scene.run()
    row = scene.instruction(waiting)
    assert (row.state, row.release_epoch) == ("handed_out", epoch + 1)


def test_the_marketplaces_ids_may_be_texts_or_object_ids(scene: Scene) -> None:
    payment = scene.payment()
    scene.documents.disputes.insert_one(
        {"_id": ObjectId(), "purchaseRequestId": scene.request_id(payment), "status": "open"}
    )
    scene.run()
    assert scene.instruction(payment) is None


def test_an_address_book_entry_newer_than_the_draft_stops_it(scene: Scene) -> None:
    payment = scene.payment()
    with transaction(scene.database.engine("fleet_operator")) as connection:
        draft_release(connection, payment, scene.step.chains)
    seller = scene.market.execute("SELECT seller_id FROM public.payments WHERE id = :id", id=payment)[0].seller_id
    scene.address_book(seller, Account.create().address)
    scene.run()
    row = scene.instruction(payment)
    assert row.state == "drafted"
    assert row.held_reason.startswith("draft_outdated")
    assert scene.release_entries(payment) == []


def test_an_instruction_is_paid_only_from_its_own_reservation(scene: Scene) -> None:
    """Two instructions of one payment and one reservation: the second would pay the seller again."""
    scene.payment(completed=False)  # whose coins it would take
    payment = scene.payment()
    scene.run()
    scene.set_threshold(5)
    scene.submit(payment, scene.sign(payment))
    scene.market.execute(
        "INSERT INTO fleet.release_instructions (payment_id, purpose, request_key, chain_id, treasury, token, recipient, "
        "amount, amount_units, release_epoch, state) SELECT payment_id, purpose, 'again', chain_id, treasury, token, "
        "recipient, amount, amount_units, release_epoch, 'ready' FROM fleet.release_instructions WHERE payment_id = :id",
        id=payment,
    )
    scene.run()
    forged = scene.instruction(payment)
    assert (forged.request_key, forged.state, forged.held_reason[:12]) == ("again", "ready", "not_reserved")

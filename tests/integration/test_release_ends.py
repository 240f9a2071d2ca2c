"""How releases end: only a canonical transaction on the nonce, at depth, ends one (R1, L19)."""

from collections.abc import Mapping, Sequence
from uuid import UUID

import pytest

from custody.chain.erc20 import selector
from custody.chain.nodes import Mined
from custody.payments.story import tell
from custody.releases import finality
from custody.releases.instructions import draft_release, next_request_key
from custody.store.engine import transaction
from custody.trezor import Signature, UnsignedTransaction
from tests.release_scene import AMOUNT, UNITS, Scene


def test_a_foreign_transaction_on_the_nonce_fails_the_release_and_pauses_the_chain(scene: Scene) -> None:
    payment = scene.payment()
    scene.run()
    scene.open_dispute(payment)  # so that the signed bytes are not sent
    scene.submit(payment, scene.sign(payment))
    scene.run()
    _spend_nonce(scene)
    scene.due_now()
    scene.run()
    row = scene.instruction(payment)
    assert row.state == "failed"
    assert row.held_reason.startswith("nonce_taken")
    assert scene.release_entries(payment) == [("reserve", AMOUNT), ("void", AMOUNT)]
    assert scene.market.state(payment) == ("confirmed", "releasable")
    paused = scene.market.execute("SELECT paused_reason FROM fleet.chain_cursors")[0].paused_reason
    assert paused.startswith("nonce_taken")


def test_a_payout_that_its_signer_sent_himself_is_found_on_the_chain(scene: Scene) -> None:
    """R1: his signature never reached the fleet, and the mined transaction has it."""
    payment = scene.payment()
    scene.run()
    _send_past_the_fleet(scene, payment)
    scene.due_now()
    scene.run()
    assert scene.instruction(payment).state == "final"
    assert scene.paid_to(payment) == UNITS
    scene.require_books_equal_chain()


def test_a_spent_nonce_that_no_node_can_explain_keeps_the_reservation(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R1: the signer may have sent the bytes himself; his signature then ends it as paid."""
    payment = scene.payment()
    scene.run()
    signature = _send_past_the_fleet(scene, payment)
    scene.due_now()

    def nobody_knows(*_: object) -> None:
        return None

    with monkeypatch.context() as patch:
        patch.setattr(finality, "spender_of", nobody_knows)
        scene.run()
    row = scene.instruction(payment)
    assert (row.state, row.held_reason[:11]) == ("handed_out", "nonce_taken")
    assert scene.market.balance(payment)["releasing"] == AMOUNT
    scene.submit(payment, signature)
    scene.due_now()
    scene.run()
    assert scene.instruction(payment).state == "final"
    assert scene.paid_to(payment) == UNITS
    scene.require_books_equal_chain()


def test_a_reverted_payout_is_voided_and_its_fee_is_booked(scene: Scene) -> None:
    payment = scene.payment()
    scene.run()
    scene.submit(payment, scene.sign(payment))
    # The treasury's tokens go elsewhere first, in the block of the payout: a device that signed something else.
    scene.chain.development.set_automine(enabled=False)
    try:
        _drain_token(scene)
        scene.step.run_once(10)
        assert scene.instruction(payment).state == "broadcast"
        scene.chain.development.mine(1)
    finally:
        scene.chain.development.set_automine(enabled=True)
    scene.run()
    row = scene.instruction(payment)
    assert row.state == "failed"
    assert row.held_reason.startswith("reverted")
    assert scene.release_entries(payment) == [("reserve", AMOUNT), ("void", AMOUNT)]
    assert scene.market.balance(payment)["held"] == AMOUNT
    assert scene.treasury_in_books()["coins"] * 10**18 == scene.chain.deployer.client.balance(scene.treasury)
    # It is not paid again by itself; explain says so, and an operator may.
    scene.market.execute("UPDATE fleet.chain_facts SET judged_at = now()")
    scene.market.execute("UPDATE public.purchase_requests SET status = 'completed'")
    with transaction(scene.database.engine("fleet_operator")) as connection:
        [wait] = tell(connection, payment).waits
        assert wait.what.startswith("its release failed: reverted")
        assert "fleet release" in wait.unblocks
        key = next_request_key(connection, payment)
        draft = draft_release(connection, payment, scene.step.chains, request_key=key)
        assert (draft.state, draft.request_key) == ("drafted", "whole-2")
        assert next_request_key(connection, payment) == "whole-2"


def test_a_payout_mined_between_two_questions_to_the_node_is_no_foreign_one(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Voiding it would pay it twice."""
    payment = scene.payment()
    scene.run()
    scene.submit(payment, scene.sign(payment))
    nodes = scene.step.nodes[31337]
    ask = nodes.mined

    def mined_right_after(hashes: Sequence[str]) -> Mapping[str, Mined]:
        found = ask(hashes)
        scene.chain.development.mine(1)
        return found

    scene.chain.development.set_automine(enabled=False)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(nodes, "mined", mined_right_after)
            scene.step.run_once(10)
    finally:
        scene.chain.development.set_automine(enabled=True)
    assert scene.instruction(payment).state == "broadcast"
    assert scene.paid_to(payment) == UNITS
    scene.run()
    assert scene.instruction(payment).state == "final"
    assert scene.release_entries(payment) == [("reserve", AMOUNT), ("final", AMOUNT)]
    scene.require_books_equal_chain()


def test_a_payout_on_whose_receipt_nodes_disagree_waits_and_says_so(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment = scene.payment()
    scene.run()
    scene.submit(payment, scene.sign(payment))

    def agree_on_none(_hashes: Sequence[str]) -> Mapping[str, Mined]:
        return {}

    with monkeypatch.context() as patch:
        patch.setattr(scene.step.nodes[31337], "mined", agree_on_none)
        scene.run()
        row = scene.instruction(payment)
        assert (row.state, row.held_reason[:14]) == ("broadcast", "nodes_disagree")
        assert scene.release_entries(payment) == [("reserve", AMOUNT)]
    scene.run()
    assert scene.instruction(payment).state == "final"


def test_a_payout_that_the_node_forgot_is_sent_again(scene: Scene) -> None:
    payment = scene.payment()
    scene.run()
    scene.submit(payment, scene.sign(payment))
    scene.chain.development.set_automine(enabled=False)
    try:
        scene.run()
        assert scene.instruction(payment).state == "broadcast"
        [lane] = scene.market.execute(
            "SELECT * FROM fleet.chain_transactions WHERE subject_id = :id", id=scene.instruction(payment).id
        )
        scene.chain.development._request("anvil_dropTransaction", [lane.transaction_hash])
    finally:
        scene.chain.development.set_automine(enabled=True)
    scene.run()
    assert scene.paid_to(payment) == 0  # a moment later it may still come
    scene.market.execute("UPDATE fleet.chain_transactions SET broadcast_at = now() - interval '2 minutes'")
    scene.run()
    assert scene.instruction(payment).state == "final"
    assert scene.paid_to(payment) == UNITS
    scene.require_books_equal_chain()


def _send_past_the_fleet(scene: Scene, payment: UUID) -> Signature:
    signature = scene.sign(payment)
    unsigned = UnsignedTransaction.from_signing_bytes(bytes(scene.instruction(payment).unsigned_bytes))
    scene.chain.deployer.wait(scene.chain.deployer.client.send_raw(unsigned.signed_raw(signature)))
    return signature


def _spend_nonce(scene: Scene) -> None:
    account = scene.account()
    signed = account.sign_transaction(
        {
            "type": 2,
            "chainId": 31337,
            "nonce": 0,
            "to": account.address,
            "value": 0,
            "gas": 21_000,
            "maxFeePerGas": 10**10,
            "maxPriorityFeePerGas": 10**9,
        }
    )
    scene.chain.deployer.wait(scene.chain.deployer.client.send_raw(bytes(signed.raw_transaction)))


def _drain_token(scene: Scene) -> None:
    """The token's owner takes the treasury's coins: Tether can destroy what a blacklisted account holds."""
    word = bytes(12) + bytes.fromhex(scene.treasury[2:])
    scene.chain.deployer.send(scene.chain.token, selector("addBlackList(address)") + word)

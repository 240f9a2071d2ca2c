"""Releases of a Safe on a real chain with real Safe contracts: two owners sign, the release payer executes (R1, R16, L19)."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct

from custody.chain import erc20
from custody.releases import rows
from custody.releases.safe_rejection import begin_rejection
from custody.safe.contract import FALLBACK_HANDLER_SLOT, GUARD_SLOT, SENTINEL
from custody.store.engine import transaction
from custody.trezor import Signature
from tests.conftest import Database
from tests.counts import sampled
from tests.release_scene import AMOUNT, UNITS
from tests.safe_scene import SafeScene, safe_scenes
from tests.safe_world import OTHER, OwnedSafe, list_slot, sign_hash, state_of
from tests.token_chain import TokenChain
from workers.demo.contract_packages import safe_contract
from workers.demo.safe_contracts import SafeContracts
from workers.embedded.services import Services


@pytest.fixture
def scene(
    token_chain: TokenChain,
    database: Database,
    services: Services,
    mongo_database: str,
    tmp_path: Path,
    contracts: SafeContracts,
) -> Iterator[SafeScene]:
    yield from safe_scenes(token_chain, database, services.mongo_url, mongo_database, tmp_path, contracts)


def test_a_group_is_one_safe_transaction_and_one_execution(scene: SafeScene) -> None:
    first = scene.payment()
    second = scene.payment(seller_of=first)
    scene.run()
    group = scene.group(first)
    assert (group.state, group.unsigned_kind, group.amount) == ("handed_out", "safe_transaction", 2 * AMOUNT)
    scene.two_sign(first)
    scene.run()
    assert scene.instruction_row(group.id).state == "final"
    assert scene.paid_to(first) == 2 * UNITS
    for each in (first, second):
        assert scene.release_entries(each) == [("reserve", AMOUNT), ("final", AMOUNT)]
        assert scene.market.state(each) == ("completed", "released")
    scene.require_books_equal_chain()


def test_two_owners_sign_and_the_seller_is_paid_once(scene: SafeScene) -> None:
    payment = scene.payment()
    scene.run()
    row = scene.instruction(payment)
    assert (row.state, row.unsigned_kind, row.nonce) == ("handed_out", "safe_transaction", 0)
    transaction = scene.transaction(payment)
    assert (transaction.to, transaction.value, len(transaction.data)) == (scene.chain.token, 0, 68)
    assert bytes(row.rejection_hash) == transaction.rejection().hash()
    scene.submit(payment, scene.owner_signs(payment, scene.owners[2]))
    scene.run()
    assert scene.instruction(payment).state == "handed_out"
    scene.submit(payment, scene.owner_signs(payment, scene.owners[0]))
    scene.run()
    done = scene.instruction(payment)
    assert (done.state, done.held_reason) == ("final", None)
    assert scene.market.state(payment) == ("completed", "released")
    assert scene.release_entries(payment) == [("reserve", AMOUNT), ("final", AMOUNT)]
    assert scene.paid_to(payment) == UNITS
    receipt = scene.receipt(payment)
    assert receipt.sender == scene.payer.address
    gas = scene.market.execute(
        "SELECT debit, credit, amount FROM public.funds_ledger_entries WHERE book_id = :id AND reason = 'gas'",
        id=scene.payer_house,
    )
    assert [(row.debit, row.credit, row.amount * 10**18) for row in gas] == [("gas_spent", "gas_payer", receipt.fee)]
    scene.require_books_equal_chain()
    assert scene.run() == 0


def test_one_after_another_each_on_its_own_nonce(scene: SafeScene) -> None:
    payments = [scene.payment() for _ in range(3)]
    for nonce in range(3):
        scene.run()
        payment = scene.handed_out(payments)
        assert scene.instruction(payment).nonce == nonce
        scene.two_sign(payment)
    scene.run()
    assert [scene.instruction(each).state for each in payments] == ["final"] * 3
    scene.require_books_equal_chain()


REFUSED = {
    "a stranger": "not_an_owner",
    "an owner twice": "signed_twice: owner",
    "over another nonce": "not_an_owner",
    "over the rejection": "not_an_owner",
    "an eth_sign text": "not_an_owner",
    "another Safe": "not_an_owner",
}


@pytest.mark.parametrize("case", sampled(REFUSED), ids=[each.replace(" ", "-") for each in sampled(REFUSED)])
def test_what_does_not_count_is_refused_and_said(scene: SafeScene, case: str) -> None:
    payment = scene.payment()
    scene.run()
    owner, handed_out = scene.owners[0], scene.transaction(payment)
    expected: list[tuple[str, str | None]] = []
    if case == "a stranger":
        signature = scene.owner_signs(payment, Account.create())
    elif case == "an owner twice":
        scene.submit(payment, scene.owner_signs(payment, owner))
        expected = [("accepted", None)]
        signature = scene.owner_signs(payment, owner)
    elif case == "over another nonce":
        signature = sign_hash(owner, replace(handed_out, nonce=1).hash())
    elif case == "over the rejection":
        signature = sign_hash(owner, handed_out.rejection().hash())
    elif case == "an eth_sign text":
        signed = owner.sign_message(encode_defunct(handed_out.hash()))
        signature = Signature(signed.v - 27, signed.r, signed.s)
    else:
        signature = sign_hash(owner, replace(handed_out, safe=scene.contracts.singleton).hash())
    scene.submit(payment, signature)
    scene.run()
    assert scene.instruction(payment).state == "handed_out"
    *before, (state, reason) = scene.submissions(payment)
    assert before == expected
    assert state == "refused"
    assert reason
    assert REFUSED[case] in reason
    assert scene.paid_to(payment) == 0


def _swap_owner(safe: OwnedSafe) -> None:
    first, second, *_ = state_of(safe).owners
    safe.write(list_slot(first, 2), int(OTHER, 16))
    safe.write(list_slot(OTHER, 2), int.from_bytes(_stored(safe, list_slot(second, 2))))
    safe.write(list_slot(second, 2), 0)


def _lower_threshold(safe: OwnedSafe) -> None:
    safe.write(4, 1)


def _enable_module(safe: OwnedSafe) -> None:
    safe.write(list_slot(SENTINEL, 1), int(OTHER, 16))
    safe.write(list_slot(OTHER, 1), int(SENTINEL, 16))


def _set_guard(safe: OwnedSafe) -> None:
    safe.write(GUARD_SLOT, int(OTHER, 16))


def _change_handler(safe: OwnedSafe) -> None:
    safe.write(FALLBACK_HANDLER_SLOT, int(OTHER, 16))


def _change_singleton(safe: OwnedSafe) -> None:
    build = safe_contract(safe.contracts.package, "SafeL2")
    other, sent = safe.wallet.deploy(build.initcode())
    safe.wallet.wait(sent)
    safe.write(0, int(other, 16))


def _stored(safe: OwnedSafe, slot: int) -> bytes:
    [answer] = safe.wallet.client.ask([("eth_getStorageAt", [safe.address, hex(slot), "latest"])])
    return bytes.fromhex(str(answer.result)[2:])


CHANGES: dict[str, tuple[Callable[[OwnedSafe], None], str]] = {
    "owner-swapped": (_swap_owner, "can sign for it and is no pinned owner"),
    "threshold-lowered": (_lower_threshold, "its threshold is 1, pinned is 2"),
    "module-enabled": (_enable_module, "it has modules, which move coins without its owners"),
    "guard-set": (_set_guard, f"its guard is {OTHER}, pinned is none"),
    "handler-changed": (_change_handler, f"its fallback handler is {OTHER}"),
    "singleton-changed": (_change_singleton, "its singleton"),
}


@pytest.mark.parametrize("moment", ["before hand-out", "after signing"], ids=["hand-out", "broadcast"])
@pytest.mark.parametrize(("change", "sentence"), sampled(CHANGES.values()), ids=sampled(CHANGES))
def test_a_changed_safe_stops_hand_out_and_broadcast(
    scene: SafeScene, change: Callable[[OwnedSafe], None], sentence: str, moment: str
) -> None:
    payment = scene.payment()
    if moment == "after signing":
        scene.run()
        scene.two_sign(payment)
    change(scene.safe)
    scene.run()
    row = scene.instruction(payment)
    assert row.state == ("ready" if moment == "before hand-out" else "signed")
    assert row.held_reason.startswith("safe_differs: at block ")
    assert sentence in row.held_reason
    assert scene.chain_transactions(payment) == []
    assert scene.market.execute("SELECT count(*) AS n FROM fleet.nonce_lanes")[0].n == 0


def test_an_owners_change_between_hand_out_and_broadcast_spends_the_nonce(scene: SafeScene) -> None:
    """Whatever the owners do to their Safe is an execution: the payout that was signed can never be sent (L19)."""
    payment = scene.payment()
    scene.run()
    scene.two_sign(payment)
    scene.safe.change("changeThreshold", 1)
    scene.run()
    assert scene.instruction(payment).state == "failed"
    assert scene.release_entries(payment) == [("reserve", AMOUNT), ("void", AMOUNT)]


def test_a_front_runner_pays_the_same_payout_and_it_is_booked_once(scene: SafeScene) -> None:
    payment = scene.payment()
    scene.run()
    scene.set_threshold(3)
    scene.two_sign(payment)
    other = scene.chain.development.new_account()
    receipt = scene.execute_elsewhere(payment, other)
    scene.run()
    assert scene.paid_to(payment) == UNITS
    assert scene.instruction(payment).state == "signed"
    scene.chain.development.mine(3)
    scene.due_now()
    scene.run()
    assert scene.instruction(payment).state == "final"
    assert scene.release_entries(payment) == [("reserve", AMOUNT), ("final", AMOUNT)]
    assert scene.chain_transactions(payment) == []
    fact = scene.market.execute(
        "SELECT transaction_hash, direction FROM fleet.chain_facts WHERE payment_id = :id AND direction = 'outbound'",
        id=payment,
    )
    assert [row.transaction_hash for row in fact] == [receipt.transaction_hash]
    scene.require_books_equal_chain()


def test_a_foreign_transaction_on_the_safes_nonce_fails_it_and_pauses(scene: SafeScene) -> None:
    payment = scene.payment()
    scene.run()
    scene.safe.run(OTHER, value=1)
    scene.run()
    row = scene.instruction(payment)
    assert row.state == "failed"
    assert row.held_reason.startswith("nonce_taken: nonce 0 of the Safe")
    assert scene.release_entries(payment) == [("reserve", AMOUNT), ("void", AMOUNT)]
    assert "nonce_taken" in scene.market.execute("SELECT paused_reason FROM fleet.chain_cursors")[0].paused_reason
    scene.submit(payment, scene.owner_signs(payment, scene.owners[0]))
    scene.run()
    assert scene.submissions(payment)[-1][0] == "refused"
    assert scene.token_balance(row.recipient) == 0


def test_the_owners_rejection_gives_the_promise_back(scene: SafeScene) -> None:
    payment = scene.payment()
    scene.run()
    scene.safe.run(scene.safe.address)
    scene.run()
    row = scene.instruction(payment)
    assert row.state == "cancelled"
    assert row.held_reason.startswith("rejected: nonce 0 of the Safe")
    assert scene.release_entries(payment) == [("reserve", AMOUNT), ("void", AMOUNT)]
    assert scene.market.execute("SELECT paused_reason FROM fleet.chain_cursors")[0].paused_reason is None


def test_a_reverted_execution_spends_nothing_and_is_tried_again(scene: SafeScene) -> None:
    payment = scene.payment()
    scene.run()
    scene.two_sign(payment)
    deployer, token = scene.chain.deployer, scene.chain.token
    blocked = erc20.selector("addBlackList(address)") + erc20.encode_balance_of(scene.safe.address)[4:]
    deployer.wait(deployer.send(token, blocked))
    scene.run()
    row = scene.instruction(payment)
    assert row.state == "signed"
    assert "would_revert: the Safe refuses the signed transaction now" in row.held_reason
    free = erc20.selector("removeBlackList(address)") + erc20.encode_balance_of(scene.safe.address)[4:]
    deployer.wait(deployer.send(token, free))
    scene.due_now()
    scene.run()
    assert scene.instruction(payment).state == "final"
    assert scene.paid_to(payment) == UNITS
    scene.require_books_equal_chain()


def test_without_payer_genesis_or_coins_it_waits_with_a_sentence(scene: SafeScene) -> None:
    payment = scene.payment()
    pinned = scene.step.safes[31337, scene.treasury].pinned
    scene.pin(None)
    scene.run()
    assert scene.instruction(payment).held_reason.startswith("safe_not_pinned: the chains file says")
    scene.pin(pinned)
    scene.due_now()
    scene.run()
    scene.two_sign(payment)
    scene.without_payer()
    scene.run()
    assert scene.instruction(payment).held_reason.startswith("release_payer_missing: set RELEASE_PAYER_KEY_FILE")
    scene.pin(pinned)
    scene.step.release_max_total_fee_wei = 1
    scene.market.execute("UPDATE fleet.release_instructions SET max_total_fee_wei = :fee", fee=20 * 10**18)
    scene.due_now()
    scene.run()
    assert scene.instruction(payment).held_reason.startswith("release_payer_short: its book has")
    scene.market.execute("UPDATE fleet.release_instructions SET max_total_fee_wei = 1")
    scene.due_now()
    scene.run()
    assert scene.instruction(payment).held_reason.startswith("fee_over_ceiling: executing it may cost")
    scene.market.execute("UPDATE fleet.release_instructions SET max_total_fee_wei = :fee", fee=10**16)
    scene.due_now()
    scene.run()
    assert scene.instruction(payment).state == "final"
    assert Decimal(scene.paid_to(payment)) == UNITS


def _begin_rejection(scene: SafeScene, payment: UUID) -> None:
    with transaction(scene.database.engine("fleet_releases")) as connection:
        begin_rejection(connection, rows.lock(connection, scene.instruction(payment).id))


def test_a_payout_is_rejected_by_its_owners_through_the_fleet(scene: SafeScene) -> None:
    payment = scene.payment()
    scene.run()
    scene.submit(payment, scene.owner_signs(payment, scene.owners[0]))
    scene.run()
    _begin_rejection(scene, payment)
    scene.run()
    waits = scene.instruction(payment)
    assert waits.held_reason.startswith("waits_for_cancel: 0 of 2 owners have signed the rejection of nonce 0")
    rejection = scene.transaction(payment).rejection()
    for owner in scene.owners[1:]:
        scene.submit(payment, sign_hash(owner, rejection.hash()))
    # Its payout's signature counts no more, though it was an owner's.
    scene.submit(payment, scene.owner_signs(payment, scene.owners[2]))
    scene.due_now()
    scene.run()
    row = scene.instruction(payment)
    assert row.state == "cancelled"
    assert scene.release_entries(payment) == [("reserve", AMOUNT), ("void", AMOUNT)]
    assert scene.submissions(payment)[-1][0] == "refused"
    assert scene.token_balance(row.recipient) == 0
    scene.require_books_equal_chain()


def test_a_rejection_takes_the_place_of_an_unmined_execution(scene: SafeScene) -> None:
    payment = scene.payment()
    scene.run()
    scene.two_sign(payment)
    scene.chain.development.set_automine(enabled=False)
    try:
        scene.run()
        assert scene.instruction(payment).state == "broadcast"
        _begin_rejection(scene, payment)
        rejection = scene.transaction(payment).rejection()
        for owner in scene.owners[:2]:
            scene.submit(payment, sign_hash(owner, rejection.hash()))
        scene.run()
        [lane] = scene.chain_transactions(payment)
        assert (lane.state, len(lane.hashes)) == ("broadcast", 2)
        assert bytes(lane.data) == rejection.calldata(scene.safe.packed(rejection))
        scene.chain.development.mine(1)
    finally:
        scene.chain.development.set_automine(enabled=True)
    scene.due_now()
    scene.run()
    assert scene.instruction(payment).state == "cancelled"
    assert scene.paid_to(payment) == 0
    scene.require_books_equal_chain()

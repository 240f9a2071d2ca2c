"""Approvals bind what is paid, to whom and under which policy; nothing goes out without them (R3, R8, R9, R18, R19, R24)."""

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from custody.policy import read_in_force
from custody.policy.documents import document_hash, read_toml
from custody.policy.toml_text import toml_text
from custody.releases import rows
from custody.releases.approvals import decide
from custody.store.engine import transaction
from tests.counts import Counts, declared, sampled
from tests.policy_files import genesis_file, key, policy_file, write_signed
from tests.release_scene import AMOUNT, UNITS, Scene

PARALLEL = declared(32, 12)
HIGH_S = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def waits(scene: Scene, payment: Any) -> tuple[str, str]:
    row = scene.instruction(payment)
    return row.state, (row.held_reason or "").partition(":")[0]


def refusals(scene: Scene) -> list[str]:
    rows = scene.market.execute("SELECT refused_reason FROM fleet.approvals WHERE state = 'refused' ORDER BY id")
    return [row.refused_reason.partition(":")[0] for row in rows]


def next_policy(scene: Scene, *, rules: list[dict[str, Any]]) -> None:
    """Version 2 of the policy, signed and in place, version 1 in the history."""
    folder = scene.signed.folder
    before = read_toml(folder / "policy.toml")
    (folder / "history").mkdir(exist_ok=True)
    (folder / "policy.toml").rename(folder / "history" / "policy-1.toml")
    (folder / "policy.toml.sig").rename(folder / "history" / "policy-1.toml.sig")
    said = before | {"version": 2, "previous": document_hash("policy", before), "rules": rules}
    write_signed(folder / "policy.toml", policy_file(said))


def revoke(scene: Scene, person: str) -> None:
    """Genesis version 2, in which a person approves no more."""
    folder = scene.signed.folder
    before = read_toml(folder / "genesis.toml")
    (folder / "history").mkdir(exist_ok=True)
    for name in ("genesis.toml", "genesis.toml.sig"):
        (folder / name).rename(folder / "history" / name.replace("genesis", "genesis-1"))
    said = before | {
        "version": 2,
        "previous": document_hash("genesis", before),
        "approvers": [
            each | ({"revoked_at": before["issued_at"] + timedelta(days=1)} if each["person"] == person else {})
            for each in before["approvers"]
        ],
    }
    write_signed(folder / "genesis.toml", genesis_file(said))
    others = [each for each in ("ada", "bob", "cyd") if each != person]
    write_signed(folder / "policy.toml", policy_file(read_toml(folder / "policy.toml"), *others))


def test_two_persons_approve_and_the_decision_is_kept(approved_scene: Scene) -> None:
    scene = approved_scene
    payment = scene.payment()
    scene.run()
    assert waits(scene, payment) == ("awaiting_approval", "needs_approvals")
    scene.approve(payment, "ada")
    scene.run()
    assert waits(scene, payment) == ("awaiting_approval", "needs_approvals")
    assert "1 more of 2 persons must approve (ada did)" in scene.instruction(payment).held_reason
    scene.approve(payment, "cyd")
    scene.run()
    assert scene.instruction(payment).state == "handed_out"
    scene.submit(payment, scene.sign(payment))
    scene.run()
    assert scene.instruction(payment).state == "final"
    assert scene.release_entries(payment) == [("reserve", AMOUNT), ("final", AMOUNT)]
    assert scene.paid_to(payment) == UNITS
    kept = scene.market.execute(
        "SELECT moment, outcome, rule, approved_by, policy_hash FROM fleet.policy_decisions WHERE subject_id = :id "
        "AND outcome = 'allowed' ORDER BY id",
        id=scene.instruction(payment).id,
    )
    [accepted] = scene.market.execute("SELECT hash FROM fleet.accepted_documents WHERE kind = 'policy'")
    assert [(row.moment, row.rule, row.approved_by, row.policy_hash) for row in kept] == [
        (moment, "payouts", ["ada", "cyd"], accepted.hash) for moment in ("approval", "hand_out", "broadcast")
    ]
    scene.require_books_equal_chain()


def test_a_seller_whose_entry_one_person_signed_is_not_paid(approved_scene: Scene) -> None:
    scene = approved_scene
    payment = scene.payment(recipient=None)
    seller = scene.market.execute("SELECT seller_id FROM public.payments WHERE id = :id", id=payment)[0].seller_id
    wallet = key("a wallet").address
    scene.address_book(seller, wallet, "ada")
    scene.run()
    assert scene.instruction(payment) is None
    scene.address_book(seller, wallet)
    scene.run()
    assert (scene.instruction(payment).state, scene.instruction(payment).recipient) == ("awaiting_approval", wallet)


MUTATIONS: dict[str, Callable[[bytes], bytes]] = {
    "v is 0": lambda raw: raw[:64] + bytes([raw[64] - 27]),
    "v is 31": lambda raw: raw[:64] + bytes([raw[64] + 4]),
    "high s": lambda raw: (
        raw[:32] + (HIGH_S - int.from_bytes(raw[32:64], "big")).to_bytes(32, "big") + bytes([55 - raw[64]])
    ),
    "r is zero": lambda raw: bytes(32) + raw[32:],
    "s is zero": lambda raw: raw[:32] + bytes(32) + raw[64:],
}


def test_an_approval_that_does_not_hold_is_refused(approved_scene: Scene, subtests: pytest.Subtests) -> None:
    scene = approved_scene
    payment, other = scene.payment(), scene.payment()
    scene.run()
    scene.approve(payment, "ada")
    scene.approve(other, "bob")
    scene.run()
    of_another = bytes(
        scene.market.execute(
            "SELECT signature FROM fleet.approvals WHERE subject_id = :id", id=scene.instruction(other).id
        )[0].signature
    )
    own = scene.approval_signature(payment, "bob")
    attempts: dict[str, tuple[str, dict[str, Any], str]] = {
        "of a stranger": ("eve", {}, "not_an_approver"),
        "in another's name": ("bob", {"person": "cyd"}, "not_an_approver"),
        "of another digest": ("bob", {"digest": bytes(32)}, "outdated"),
        "of another text": ("bob", {"signature": of_another}, "wrong_signer"),
    } | {
        name: ("bob", {"signature": change(own)}, "malformed_signature") for name, change in sampled(MUTATIONS.items())
    }
    for name, (person, changed, expected) in attempts.items():
        with subtests.test(name):
            before = len(refusals(scene))
            scene.approve(payment, person, **changed)
            scene.run()
            assert refusals(scene)[before:] == [expected]
            assert waits(scene, payment) == ("awaiting_approval", "needs_approvals")
    scene.approve(payment, "bob")
    scene.run()
    assert scene.instruction(payment).state == "handed_out"


def test_every_bit_of_an_approval_counts(approved_scene: Scene, counts: Counts) -> None:
    """R18: one flipped bit anywhere in the signature, and it is nobody's or another's."""
    scene = approved_scene
    payment = scene.payment()
    scene.run()
    scene.approve(payment, "ada")
    own = scene.approval_signature(payment, "bob")
    refused = 0
    for place, bit in itertools.product(range(0, 65, declared(1, 8)), range(0, 8, declared(1, 7))):
        changed = bytearray(own)
        changed[place] ^= 1 << bit
        scene.approve(payment, "bob", signature=bytes(changed))
        scene.run()
        refused += 1
        assert len(refusals(scene)) == refused
        assert scene.instruction(payment).state == "awaiting_approval"
    counts("approvals with one changed bit, each refused", refused)


CHANGES = {
    "recipient": ("recipient", lambda: key("a thief").address),
    "amount": ("amount_units", lambda: UNITS - 1),
    "treasury": ("treasury", lambda: key("another").address),
    "fee ceiling": ("fee_ceiling_wei", lambda: 10**18),
    "epoch": ("release_epoch", lambda: 99),
    "expiry": ("expires_at", lambda: datetime.fromisoformat("2999-01-01T00:00:00+00:00")),
    "policy": ("policy_version", lambda: 7),
}


def test_a_row_changed_after_approval_is_not_handed_out(approved_scene: Scene, subtests: pytest.Subtests) -> None:
    """R9, R19: the approvals are verified again over what the row says at hand-out."""
    scene = approved_scene
    payments = [scene.payment() for _ in range(1 + len(CHANGES))]
    scene.run()
    for payment in payments:
        scene.approve(payment, "ada", "bob")
    scene.run()
    handed_out = scene.handed_out(payments)
    waiting = [payment for payment in payments if payment != handed_out]
    assert {scene.instruction(payment).state for payment in waiting} == {"ready"}
    approved = {payment: scene.instruction(payment) for payment in waiting}
    for payment, (column, value) in zip(waiting, CHANGES.values(), strict=True):
        scene.market.execute(
            f"UPDATE fleet.release_instructions SET {column} = :value WHERE id = :id RETURNING id",
            value=value(),
            id=approved[payment].id,
        )
    scene.submit(handed_out, scene.sign(handed_out))
    scene.due_now()
    scene.run()
    assert scene.instruction(handed_out).state == "final"
    for payment, (name, (column, _)) in zip(waiting, CHANGES.items(), strict=True):
        with subtests.test(name):
            now = scene.instruction(payment)
            assert scene.release_entries(payment) == [("reserve", AMOUNT)]
            if now.state == "handed_out":
                # Put before its approvers anew, it says again what they agreed to, to the letter.
                assert getattr(now, column) == getattr(approved[payment], column)
                assert now.intent_hash == approved[payment].intent_hash
            else:
                assert now.state in {"awaiting_approval", "ready"}
                assert now.unsigned_bytes is None


def test_an_approver_revoked_mid_quorum_counts_no_more(approved_scene: Scene) -> None:
    scene = approved_scene
    first, second = (scene.payment(recipient=None) for _ in range(2))
    for payment in (first, second):
        seller = scene.market.execute("SELECT seller_id FROM public.payments WHERE id = :id", id=payment)[0].seller_id
        scene.address_book(seller, key(f"wallet {payment}").address, "ada", "cyd")
    scene.run()
    for payment in (first, second):
        scene.approve(payment, "ada", "bob")
    scene.run()
    handed_out = scene.handed_out([first, second])
    waiting = second if handed_out == first else first
    scene.submit(handed_out, scene.sign(handed_out))
    revoke(scene, "bob")
    # What bob approved is signed by the treasury, and stays with us.
    scene.due_now()
    scene.run()
    assert scene.instruction(handed_out).state == "signed"
    assert "waits_for_cancel" in scene.instruction(handed_out).held_reason
    assert scene.instruction(waiting).state == "awaiting_approval"
    assert "(ada did)" in scene.instruction(waiting).held_reason
    scene.approve(waiting, "cyd")
    scene.run()
    assert scene.instruction(waiting).state == "handed_out"


def test_a_new_policy_asks_everybody_again(approved_scene: Scene) -> None:
    scene = approved_scene
    payment = scene.payment()
    scene.run()
    scene.approve(payment, "ada")
    scene.run()
    old = bytes(scene.instruction(payment).intent_hash)
    rules = read_toml(scene.signed.folder / "policy.toml")["rules"]
    next_policy(
        scene, rules=[*rules, {"name": "sums", "kind": "limit_per_transaction", "currency": "USDT", "maximum": "150"}]
    )
    scene.due_now()
    scene.run()
    row = scene.instruction(payment)
    assert (row.state, row.policy_version) == ("awaiting_approval", 2)
    assert bytes(row.intent_hash) != old
    scene.approve(payment, "bob")
    scene.run()
    assert "1 more of 2 persons must approve (bob did)" in scene.instruction(payment).held_reason
    scene.approve(payment, "ada")
    scene.run()
    assert scene.instruction(payment).state == "handed_out"


def test_loosening_waits_a_day_beside_the_old_policy(approved_scene: Scene) -> None:
    """R8: the old limit binds while the new one is young; the files of before must lie there."""
    scene = approved_scene
    payment = scene.payment()
    scene.run()
    rules = [rule for rule in read_toml(scene.signed.folder / "policy.toml")["rules"] if rule["name"] != "two-persons"]
    next_policy(
        scene,
        rules=[*rules, {"name": "one", "kind": "approvals", "purposes": ["release"], "tiers": [{"from": "0", "k": 1}]}],
    )
    scene.due_now()
    scene.run()
    scene.approve(payment, "ada")
    scene.run()
    assert waits(scene, payment) == ("awaiting_approval", "needs_approvals")
    scene.market.execute(
        "UPDATE fleet.accepted_documents SET first_seen_at = now() - interval '25 hours' WHERE version = 2 RETURNING version"
    )
    scene.due_now()
    scene.run()
    assert scene.instruction(payment).state == "handed_out"


def test_files_that_do_not_hold_stop_everything_new(approved_scene: Scene) -> None:
    scene = approved_scene
    payment = scene.payment()
    scene.run()
    scene.approve(payment, "ada", "bob")
    path = scene.signed.folder / "policy.toml"
    whole = path.read_text()
    path.write_text(whole.replace('maximum = "250"', 'maximum = "999999"'))
    assert "999999" in path.read_text()
    scene.run()
    assert scene.instruction(payment).state == "awaiting_approval"
    path.write_text(whole)
    scene.due_now()
    scene.run()
    assert scene.instruction(payment).state == "handed_out"


def test_an_older_policy_is_refused_once_a_newer_was_seen(approved_scene: Scene) -> None:
    scene = approved_scene
    folder = scene.signed.folder
    scene.run()
    old = {name: (folder / name).read_text() for name in ("policy.toml", "policy.toml.sig")}
    next_policy(
        scene, rules=[{**rule} for rule in read_toml(folder / "policy.toml")["rules"] if rule["name"] != "a-day"]
    )
    scene.run()
    for name, content in old.items():
        (folder / name).write_text(content)
    payment = scene.payment()
    scene.run()
    assert scene.instruction(payment) is None


def test_a_daily_limit_counts_from_hand_out(approved_scene: Scene) -> None:
    """R24: 250 a day, three payments of 100, all approved: two go out."""
    scene = approved_scene
    payments = [scene.payment() for _ in range(3)]
    scene.run()
    for payment in payments:
        scene.approve(payment, "ada", "bob")
    for _ in range(3):
        scene.due_now()
        scene.run()
        for payment in payments:
            if scene.instruction(payment).state == "handed_out":
                scene.submit(payment, scene.sign(payment))
    scene.run()
    states = sorted(waits(scene, payment) for payment in payments)
    assert states == [("final", ""), ("final", ""), ("ready", "policy_denied")]


def test_a_daily_limit_under_32_parallel_hand_outs(approved_scene: Scene, counts: Counts) -> None:
    """R24: each judges and hands out under one lock, so 250 a day lets two of 32 times 100 through, whoever comes first."""
    scene = approved_scene
    payments = [scene.payment() for _ in range(PARALLEL)]
    scene.run(rounds=4 * PARALLEL)
    for payment in payments:
        scene.approve(payment, "ada", "bob")
    engine, begin = scene.database.engine("fleet_releases"), threading.Barrier(PARALLEL)
    outcomes: list[str] = []

    def hand_out(payment: UUID) -> None:
        begin.wait()
        with transaction(engine) as connection:
            instruction = rows.lock(connection, scene.instruction(payment).id)
            moment = rows.now(connection)
            in_force = read_in_force(connection, scene.signed, moment)
            decision = decide(connection, instruction, in_force, moment, moment="hand_out")
            outcomes.append(decision.outcome)
            if decision.is_allowed:
                connection.execute(
                    text("UPDATE fleet.release_instructions SET handed_out_at = clock_timestamp() WHERE id = :id"),
                    {"id": instruction.id},
                )

    scene.market.execute("UPDATE fleet.approvals SET state = 'accepted'")
    threads = [threading.Thread(target=hand_out, args=(payment,)) for payment in payments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(outcomes) == {"allowed": 2, "denied": PARALLEL - 2}
    counts("hand-outs at once under one daily limit, two let through", PARALLEL)


def test_what_nobody_approves_expires_and_gives_its_coins_back(approved_scene: Scene) -> None:
    scene = approved_scene
    payment = scene.payment()
    scene.run()
    scene.market.execute(
        "UPDATE fleet.release_instructions SET expires_at = now() - interval '1 minute', run_after = now() WHERE id = :id "
        "RETURNING id",
        id=scene.instruction(payment).id,
    )
    scene.run()
    assert scene.instruction(payment).state == "expired"
    assert scene.market.state(payment) == ("confirmed", "releasable")
    assert scene.release_entries(payment) == [("reserve", AMOUNT), ("void", AMOUNT)]


def test_what_a_new_policy_denies_is_signed_and_not_sent(approved_scene: Scene) -> None:
    """R1, R9: the last look before broadcast; its signature exists, so only its nonce's end ends it."""
    scene = approved_scene
    payment = scene.payment()
    scene.run()
    scene.approve(payment, "ada", "bob")
    scene.run()
    signature = scene.sign(payment)
    rules = read_toml(scene.signed.folder / "policy.toml")["rules"]
    denial = {"name": "stop", "kind": "deny", "purposes": ["release"], "reason": "a recall"}
    next_policy(scene, rules=[denial, *[rule for rule in rules if rule["name"] == "into-the-treasury"]])
    scene.submit(payment, signature)
    scene.run()
    row = scene.instruction(payment)
    assert row.state == "signed"
    assert row.held_reason.startswith("policy_denied: a recall")
    assert scene.paid_to(payment) == 0


def test_a_treasury_that_the_genesis_does_not_name_stops_releases(approved_scene: Scene) -> None:
    scene = approved_scene
    folder = scene.signed.folder
    said = read_toml(folder / "genesis.toml")
    said["chains"][0]["treasury"]["address"] = key("another treasury").address
    (folder / "genesis.toml").write_text(toml_text(said))
    write_signed(folder / "genesis.toml", genesis_file(said))
    payment = scene.payment()
    scene.run()
    assert scene.instruction(payment) is None

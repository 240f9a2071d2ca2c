"""What raises an alarm, in which words, and that a raised one stays as it was raised."""

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from custody.alarms.rows import acknowledge, acknowledged_by_receiver, count_open, newest_open
from custody.chain.pauses import go_on, pause, propose_go_on
from custody.ledger.adjustments import open_actions
from custody.store.engine import sqlstate, transaction
from custody.store.roles import PROCESS_ROLES
from tests.alarm_receiver import give_up
from tests.conftest import Database
from tests.marketplace import CHAIN_ID, Marketplace, object_id
from tests.release_scene import Scene


@pytest.fixture
def market(database: Database) -> Marketplace:
    return Marketplace(database)


def raised(market: Marketplace) -> list[tuple[str, str, str, str]]:
    return [
        (row.kind, row.subject_kind, row.subject_id, row.sentence)
        for row in market.execute("SELECT * FROM fleet.alarms ORDER BY id")
    ]


def known(market: Marketplace) -> None:
    """Whatever is open is acknowledged by a person."""
    with transaction(market.database.engine("fleet_operator")) as connection:
        for alarm in newest_open(connection):
            acknowledge(connection, alarm.id, by="mina")


def test_dead_work_is_an_alarm_when_it_comes_and_when_it_comes_again(market: Marketplace) -> None:
    for reason in ("nonce_taken: by\nsomebody", "nonce_taken: again"):
        give_up(market.database, 7, reason)
    first = ("dead_work", "sweeps/chain_transaction", "7", "sweeps gave up on chain_transaction 7: nonce_taken: by")
    assert raised(market) == [first]
    market.execute("UPDATE fleet.dead_work SET resolved_at = now(), resolved_by = 'test'")
    give_up(market.database, 7)  # still open: who looks at it finds the newest reason
    assert raised(market) == [first]
    known(market)
    give_up(market.database, 7, "nothing new: it was never resolved")
    assert len(raised(market)) == 1
    market.execute("UPDATE fleet.dead_work SET resolved_at = now(), resolved_by = 'test'")
    give_up(market.database, 7, "reopened")
    assert raised(market)[1:] == [(*first[:3], "sweeps gave up on chain_transaction 7: reopened")]


def test_each_pause_is_an_alarm(market: Marketplace) -> None:
    market.execute(
        "INSERT INTO fleet.chain_cursors (chain_id, head_number, head_hash, head_timestamp) VALUES (:c, 1, '0x', now())",
        c=CHAIN_ID,
    )
    operator = market.database.engine("fleet_operator")
    with transaction(operator) as connection:
        assert pause(connection, CHAIN_ID, reason="it looks odd", by="mina")
    with transaction(operator) as connection:
        assert not pause(connection, CHAIN_ID, reason="to me too", by="omid")
    with transaction(market.database.engine("fleet_watcher")) as connection:
        connection.execute(text("UPDATE fleet.chain_cursors SET head_number = 2"))
    paused = ("chain_paused", "chain", str(CHAIN_ID), f"chain {CHAIN_ID} is paused: paused by mina: it looks odd")
    assert raised(market) == [paused]


def test_a_pause_after_going_on_is_a_new_alarm(market: Marketplace) -> None:
    test_each_pause_is_an_alarm(market)
    known(market)
    operator = market.database.engine("fleet_operator")
    with transaction(operator) as connection:
        action = propose_go_on(connection, CHAIN_ID, reason="looked at", by="mina")
        [agreed] = [one.hash for one in open_actions(connection, "go_on")]
    with transaction(operator) as connection:
        go_on(connection, action, agreed_hash=agreed, by="omid")
    assert len(raised(market)) == 1
    with transaction(market.database.engine("fleet_releases")) as connection:
        connection.execute(text("SELECT fleet.pause_chain(:c, 'nonce_taken: by a stranger')"), {"c": CHAIN_ID})
    assert raised(market)[1][3] == f"chain {CHAIN_ID} is paused: nonce_taken: by a stranger"


def test_a_security_gap_is_an_alarm_without_the_document_that_was_refused(market: Marketplace) -> None:
    payment = market.payment()
    document = market.execute("SELECT legacy_object_id AS id FROM public.payments WHERE id = :id", id=payment)[0].id
    for severity, object_ in (("error", object_id()), ("security", document), ("security", None)):
        market.execute(
            "INSERT INTO public.pg_dualwrite_gaps (collection, op, legacy_object_id, payload, severity, reason) "
            "VALUES ('payments', 'update', :object, CAST(:payload AS jsonb), :severity, 'amount is the fleet''s to write')",
            object=object_,
            payload='{"password": "hunter2"}',
            severity=severity,
        )
    found = raised(market)
    assert [(kind, subject) for kind, subject, _, _ in found] == [("security_gap", "payments")] * 2
    assert found[0][3] == f"payments {document} was not applied (update): amount is the fleet's to write"
    assert "hunter2" not in str(market.execute("SELECT * FROM fleet.alarms"))
    assert market.execute("SELECT payment_id FROM fleet.alarms ORDER BY id LIMIT 1")[0].payment_id == payment


def test_an_approval_that_is_refused_and_an_expired_release_are_alarms(approved_scene: Scene) -> None:
    payment = approved_scene.payment()
    approved_scene.run()
    approved_scene.approve(payment, "ada", approver="0x" + "11" * 20)
    approved_scene.run()
    instruction = approved_scene.instruction(payment)
    [refused] = [one for one in raised(approved_scene.market) if one[0] == "approval_refused"]
    assert refused[1:3] == ("release_instruction", str(instruction.id))
    assert "in the name of ada was refused: not_an_approver: 0x1111" in refused[3]
    approved_scene.market.execute(
        "UPDATE fleet.release_instructions SET expires_at = now() - interval '1 minute', run_after = now()"
    )
    approved_scene.run()
    [expired] = [one for one in raised(approved_scene.market) if one[0] == "release_expired"]
    assert expired[1:3] == ("release_instruction", str(instruction.id))
    assert expired[3].startswith(f"the release of payment {payment} expired: expired: approvals were asked for until ")
    payments = approved_scene.market.execute("SELECT DISTINCT payment_id FROM fleet.alarms")
    assert [row.payment_id for row in payments] == [payment]


def test_a_signature_that_is_refused_and_a_release_that_fails_are_alarms(scene: Scene) -> None:
    payment = scene.payment()
    scene.run()
    instruction = scene.instruction(payment)
    signature = scene.sign(payment)
    for s in (signature.s ^ 1, signature.s ^ 2):
        scene.submit(payment, (signature.y_parity, signature.r, s))
    scene.run()
    assert [state for state, _ in scene.submissions(payment)] == ["refused", "refused"]
    [refused] = raised(scene.market)
    assert refused[:3] == ("signature_refused", "release_instruction", str(instruction.id))
    assert refused[3].startswith(f"what a signer handed in for instruction {instruction.id} was refused: ")
    # Its reason is written in the same transaction, after the state.
    with scene.database.engine("fleet_releases").begin() as connection:
        connection.execute(text("UPDATE fleet.release_instructions SET state = 'failed'"))
        connection.execute(text("UPDATE fleet.release_instructions SET held_reason = 'reverted: on chain'"))
    assert raised(scene.market)[1][0] == "release_failed"
    assert raised(scene.market)[1][3] == f"the release of payment {payment} failed: reverted: on chain"


def test_texts_of_any_length_and_kind_never_keep_the_work_from_being_written(market: Marketplace) -> None:
    for number, reason in enumerate(("", " \n", "x" * 2000, "a\x1b[31mred\tone", "\U0001f4a3" * 2000)):
        give_up(market.database, f"{number}-" + "9" * 400 * (number == 2), reason)
    found = [sentence for *_, sentence in raised(market)]
    assert len(found) == 5
    assert len(found[2]) == 500
    assert found[2].endswith("...")
    assert found[3].endswith("a [31mred one")
    assert max(len(subject) for _, _, subject, _ in raised(market)) == 200


def test_what_was_raised_and_who_acknowledged_it_is_never_changed(market: Marketplace) -> None:
    give_up(market.database, 1)
    known(market)
    changes = (
        "sentence = 'nothing'",
        "kind = 'other'",
        "acknowledged_at = NULL, acknowledged_by = NULL",
        "acknowledged_by = 'omid'",
    )
    statements = [f"UPDATE fleet.alarms SET {change}" for change in changes]
    for statement in (*statements, "DELETE FROM fleet.alarms", "TRUNCATE fleet.alarms"):
        for preparation in ("SELECT 1", "SET session_replication_role = replica"):
            with market.database.engine().connect() as connection:
                connection.execute(text(preparation))
                with pytest.raises(DBAPIError, match="only grows") as refused:
                    connection.execute(text(statement))
                assert sqlstate(refused.value) == "FL006"


def test_no_process_raises_changes_or_silences_an_alarm(market: Marketplace) -> None:
    """R9: triggers raise; housekeeping delivers; a person acknowledges by a function that names the person."""
    give_up(market.database, 1)
    attempts: dict[str, set[str]] = {}
    for name, statement in {
        "raise": "INSERT INTO fleet.alarms (kind, subject_kind, subject_id, sentence) VALUES ('a', 'b', 'c', 'd')",
        "call": "SELECT fleet.raise_alarm('a', 'b', 'c', 'd', NULL)",
        "rewrite": "UPDATE fleet.alarms SET sentence = 'nothing'",
        "forge": "UPDATE fleet.alarms SET acknowledged_at = now(), acknowledged_by = 'mina'",
        "deliver": "UPDATE fleet.alarms SET acknowledged_at = now()",
        "acknowledge": "SELECT fleet.acknowledge_alarm(id, 'mina') FROM fleet.alarms",
        "delete": "DELETE FROM fleet.alarms",
    }.items():
        for role in PROCESS_ROLES:
            with market.database.engine(role).connect() as connection:
                try:
                    connection.execute(text(statement))
                    attempts.setdefault(name, set()).add(role)
                except DBAPIError as error:
                    if sqlstate(error) != "42501":
                        raise
    assert attempts == {"deliver": {"fleet_housekeeping"}, "acknowledge": {"fleet_operator"}}


def test_an_acknowledgement_counts_once(market: Marketplace) -> None:
    give_up(market.database, 1)
    give_up(market.database, 2)
    with transaction(market.database.engine("fleet_operator")) as connection:
        second, first = newest_open(connection)
        assert (first.subject_id, second.subject_id) == ("1", "2")
        assert [acknowledge(connection, first.id, by=by) for by in ("mina", "omid")] == [True, False]
        assert count_open(connection) == 1
    with transaction(market.database.engine("fleet_housekeeping")) as connection:
        assert acknowledged_by_receiver(connection, [first.id, second.id, uuid4()]) == 1
    rows: list[Any] = market.execute("SELECT acknowledged_by, attempts FROM fleet.alarms ORDER BY id")
    assert [tuple(row) for row in rows] == [("mina", 0), (None, 1)]

"""Verification on a real database: every state, exactly one look, and poison that hurts nobody else."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from custody.providers.request_network import PROVIDER
from custody.providers.verification import run_once
from tests.conftest import Database
from tests.marketplace import CHAIN_ID, Marketplace
from tests.webhooks import body_of, paying_event

HASH = "0x" + "ef" * 32
OTHER_HASH = "0x" + "ee" * 32
FLAVOURS = ("payment.confirmed", "payment.confirmed.client_id", "payment.confirmed.checkout")


class Inbox:
    """A marketplace, and deliveries put into its inbox as the ingress puts them."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.marketplace = Marketplace(database)

    def receive(self, body: bytes, *, is_test: bool = False, key: str | None = None) -> UUID:
        rows = self.marketplace.execute(
            "INSERT INTO fleet.webhook_deliveries (provider, delivery_key, body_sha256, headers, body, is_test) "
            "VALUES (:provider, :key, :digest, '{}', :body, :is_test) RETURNING id",
            provider=PROVIDER,
            key=key or uuid4().hex,
            digest=hashlib.sha256(body).digest(),
            body=body,
            is_test=is_test,
        )
        return rows[0].id

    def event(self, payment: UUID, transaction_hash: str | None = HASH, **fields: Any) -> bytes:
        (route,) = self.marketplace.execute("SELECT * FROM fleet.payment_routes WHERE payment_id = :id", id=payment)
        return body_of(paying_event(route.request_id, route.payment_reference, transaction_hash) | fields)

    def run(self, limit: int = 100, **limits: int) -> int:
        return run_once(self.database.engine("fleet_webhooks"), limit, **limits)

    def row(self, delivery: UUID) -> Any:
        (row,) = self.marketplace.execute("SELECT * FROM fleet.webhook_deliveries WHERE id = :id", id=delivery)
        return row

    def looks(self) -> list[Any]:
        return self.marketplace.execute("SELECT * FROM fleet.chain_looks ORDER BY id")

    def poison(self, transaction_hash: str) -> None:
        """Make the database refuse a look at this transaction."""
        self.marketplace.execute(
            f"""
            CREATE FUNCTION fleet.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.transaction_hash = '{transaction_hash}' THEN RAISE EXCEPTION 'poisoned'; END IF;
                RETURN NEW;
            END $$
            """
        )
        self.marketplace.execute("GRANT EXECUTE ON FUNCTION fleet.refuse() TO fleet_webhooks")
        self.marketplace.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON fleet.chain_looks FOR EACH ROW EXECUTE FUNCTION fleet.refuse()"
        )

    def heal(self) -> None:
        self.marketplace.execute("DROP TRIGGER refuse ON fleet.chain_looks")


@pytest.fixture
def inbox(database: Database) -> Inbox:
    return Inbox(database)


def test_a_paying_event_is_linked_and_asks_for_one_look(inbox: Inbox) -> None:
    payment = inbox.marketplace.payment()
    delivery = inbox.receive(inbox.event(payment))
    assert inbox.run() == 1
    assert inbox.run() == 0
    row = inbox.row(delivery)
    assert (row.state, row.payment_id, row.event) == ("linked", payment, "payment.confirmed")
    assert row.processed_at is not None
    (look,) = inbox.looks()
    assert (look.chain_id, look.transaction_hash, look.payment_id) == (CHAIN_ID, HASH, payment)
    assert (look.state, look.requested_by) == ("due", "webhook")
    assert inbox.marketplace.state(payment) == ("pending", None)
    assert inbox.marketplace.entries(payment) == 0


def test_flavours_repeats_and_replays_are_one_look(inbox: Inbox) -> None:
    payment = inbox.marketplace.payment()
    deliveries = [
        inbox.receive(inbox.event(payment, event=flavour))
        for flavour in FLAVOURS
        for _ in range(3)  # each under a delivery id of its own
    ]
    assert inbox.run(limit=4) == 4
    while inbox.run(limit=4):
        pass
    assert {inbox.row(delivery).state for delivery in deliveries} == {"linked"}
    assert len(inbox.looks()) == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [("due", "due"), ("seen", "seen"), ("missing", "due"), ("nothing_of_ours", "due")],
)
def test_an_existing_look_is_asked_again_only_if_it_found_nothing(inbox: Inbox, before: str, after: str) -> None:
    payment = inbox.marketplace.payment()
    inbox.marketplace.execute(
        "INSERT INTO fleet.chain_looks (chain_id, transaction_hash, requested_by, state, attempts, run_after) "
        "VALUES (:chain, :hash, 'scan', :state, 7, now() + interval '1 hour')",
        chain=CHAIN_ID,
        hash=HASH,
        state=before,
    )
    inbox.receive(inbox.event(payment))
    assert inbox.run() == 1
    (look,) = inbox.looks()
    again = before != after
    assert (look.state, look.attempts) == (after, 0 if again else 7)
    assert (look.run_after <= look.updated_at) == again
    assert look.requested_by == "scan"


def test_each_delivery_ends_in_its_own_state_with_a_reason(inbox: Inbox) -> None:
    one, two = inbox.marketplace.payment(), inbox.marketplace.payment()
    other = json.loads(inbox.event(two))
    expected = {
        inbox.receive(inbox.event(one), is_test=True): ("test", None),
        inbox.receive(b"\x00\xff", is_test=True): ("test", None),
        inbox.receive(body_of({"event": "payment.teleported"})): ("unknown_event", None),
        inbox.receive(b"no json"): ("malformed", None),
        inbox.receive(b"\x00"): ("malformed", None),
        inbox.receive(b"[" * 60_000): ("malformed", None),
        inbox.receive(inbox.event(one, txHash="0x12")): ("malformed", None),
        inbox.receive(inbox.event(one, requestId="a\x00", requestID="a\x00")): ("malformed", None),
        inbox.receive(body_of(paying_event("01" + "00" * 32, "0x" + "00" * 8, HASH))): ("unknown_request", None),
        inbox.receive(inbox.event(one, None)): ("no_transaction", one),
        inbox.receive(inbox.event(one, paymentReference=other["paymentReference"])): ("mismatched", None),
        inbox.receive(inbox.event(one, network="base")): ("mismatched", one),
        inbox.receive(inbox.event(one, event="payment.failed")): ("kept", one),
        inbox.receive(inbox.event(one, event="payment.refunded")): ("kept", one),
        inbox.receive(body_of({"event": "compliance.updated", "kycStatus": "a\x00b"})): ("kept", None),
    }
    assert inbox.run() == len(expected)
    for delivery, (state, payment) in expected.items():
        row = inbox.row(delivery)
        assert (row.state, row.payment_id) == (state, payment), row.reason
        assert row.reason
    assert inbox.looks() == []


def test_amounts_in_events_decide_nothing(inbox: Inbox) -> None:
    payment = inbox.marketplace.payment()
    for n, amount in enumerate(("0.000001", "1" + "0" * 40, "nonsense")):
        delivery = inbox.receive(inbox.event(payment, "0x" + f"{n:064x}", amount=amount))
        inbox.run()
        assert inbox.row(delivery).state == "linked"
    assert len(inbox.looks()) == 3


def test_the_look_is_on_the_chain_of_the_payments_route(database: Database) -> None:
    inbox = Inbox(database)
    inbox.marketplace.chain_id = 8453
    inbox.marketplace.execute(
        "INSERT INTO fleet.tokens VALUES (8453, :token, 'USDC', 6)", token=inbox.marketplace.token
    )
    payment = inbox.marketplace.payment()
    inbox.receive(inbox.event(payment, network=None))
    inbox.run()
    assert [look.chain_id for look in inbox.looks()] == [8453]


def test_a_poisoned_row_is_put_off_and_the_others_go_on(inbox: Inbox) -> None:
    payments = [inbox.marketplace.payment() for _ in range(3)]
    inbox.poison(OTHER_HASH)
    good = [inbox.receive(inbox.event(payments[0], "0x" + "11" * 32))]
    bad = inbox.receive(inbox.event(payments[1], OTHER_HASH))
    good.append(inbox.receive(inbox.event(payments[2], "0x" + "99" * 32)))
    assert inbox.run() == 3
    assert [inbox.row(delivery).state for delivery in good] == ["linked", "linked"]
    row = inbox.row(bad)
    assert (row.state, row.attempts) == ("received", 1)
    assert "poisoned" in row.last_error
    assert row.run_after > row.received_at
    assert inbox.run() == 0  # it is not due yet


def test_a_row_that_keeps_failing_is_buried_where_an_operator_sees_it(inbox: Inbox) -> None:
    payment = inbox.marketplace.payment()
    inbox.poison(HASH)
    delivery = inbox.receive(inbox.event(payment))
    for _ in range(3):
        inbox.marketplace.execute("UPDATE fleet.webhook_deliveries SET run_after = now()")
        assert inbox.run(attempts_limit=3) == 1
    row = inbox.row(delivery)
    assert (row.state, row.attempts) == ("dead", 3)
    (dead,) = inbox.marketplace.execute("SELECT * FROM fleet.dead_work")
    assert (dead.queue, dead.subject_id, dead.attempts) == ("webhooks", str(delivery), 3)
    assert "poisoned" in dead.reason
    assert dead.unblocks
    assert inbox.run() == 0


def test_a_poisoned_row_is_linked_once_its_cause_is_gone(inbox: Inbox) -> None:
    payment = inbox.marketplace.payment()
    inbox.poison(HASH)
    delivery = inbox.receive(inbox.event(payment))
    assert inbox.run() == 1
    inbox.heal()
    inbox.marketplace.execute("UPDATE fleet.webhook_deliveries SET run_after = now()")
    assert inbox.run() == 1
    row = inbox.row(delivery)
    assert (row.state, row.last_error) == ("linked", None)
    assert len(inbox.looks()) == 1


def test_rows_that_another_worker_holds_are_left_to_it(inbox: Inbox) -> None:
    payment = inbox.marketplace.payment()
    held = inbox.receive(inbox.event(payment))
    free = inbox.receive(inbox.event(payment, OTHER_HASH))
    with inbox.database.engine().connect() as other:
        other.execute(text("SELECT 1 FROM fleet.webhook_deliveries WHERE id = :id FOR UPDATE"), {"id": held})
        assert inbox.run() == 1
    assert inbox.row(free).state == "linked"
    assert inbox.row(held).state == "received"
    assert inbox.run() == 1


def test_workers_that_run_at_once_make_each_look_once(inbox: Inbox) -> None:
    payment = inbox.marketplace.payment()
    hashes = [f"0x{n:064x}" for n in range(20)]
    deliveries = [inbox.receive(inbox.event(payment, hash_)) for _ in range(5) for hash_ in (*hashes, *hashes[::-1])]

    def work(_: int) -> int:
        done = 0
        while taken := inbox.run(limit=7):
            done += taken
        return done

    with ThreadPoolExecutor(4) as pool:
        taken = sum(pool.map(work, range(4)))
    assert taken == len(deliveries)
    assert sorted(look.transaction_hash for look in inbox.looks()) == hashes
    states = inbox.marketplace.execute("SELECT DISTINCT state FROM fleet.webhook_deliveries")
    assert [row.state for row in states] == ["linked"]

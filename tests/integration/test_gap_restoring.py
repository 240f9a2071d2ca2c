"""R7, R10: what two persons make of a changed document: the fleet's values again, or left as it is; and how each stays so."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from bson import Decimal128, ObjectId

from custody.ledger.adjustments import ActionRefused
from custody.mirror import run_once
from custody.mirror.agreement import Outcome, verify
from custody.mirror.collections import COLLECTIONS
from custody.mirror.documents import SUBJECTS
from custody.mirror.restoring import is_ours
from custody.store.mongo import open_mongo
from tests.conftest import Database
from tests.counts import Counts
from tests.security_gaps import close_gap, open_gap
from tests.two_stores import LONG_AGO, OFFER, REQUEST, USER, Mongo, TwoStores, in_mongo, one, payment
from workers.embedded.services import Services


@pytest.fixture
def mongo(services: Services, mongo_database: str) -> Iterator[Mongo]:
    with open_mongo(services.mongo_url, application="test-restoring") as client:
        yield client[mongo_database]


@pytest.fixture
def stores(database: Database, mongo: Mongo) -> TwoStores:
    made = TwoStores(database.engine(), mongo)
    # A development chain: two labels are two persons there.
    made.execute(
        "INSERT INTO fleet.chain_cursors (chain_id, head_number, head_hash, head_timestamp) VALUES (31337, 1, '0x', now())"
    )
    return made


def look(database: Database, mongo: Mongo, collection: str = "payments") -> Outcome:
    """A round of verification as the mirror's schedule makes it; what was changed moments ago counts as long ago."""
    return one(verify(database.engine("fleet_mirror"), mongo, [collection], heal=True))


def deeds(outcome: Outcome) -> list[str]:
    return [deed.value for _, deed in outcome.looks]


def referred_rows(stores: TwoStores) -> None:
    """The rows that a payment refers to: the mirror writes no document whose references have none."""
    user, request, offer = (
        stores.ids.uuid(*each) for each in (("users", USER), ("purchaserequests", REQUEST), ("selleroffers", OFFER))
    )
    stores.execute("INSERT INTO public.users (id, legacy_object_id) VALUES (:id, :o)", id=user, o=str(USER))
    stores.execute(
        "INSERT INTO public.purchase_requests (id, legacy_object_id, buyer_id, title) VALUES (:id, :o, :user, 'A lamp')",
        id=request, o=str(REQUEST), user=user,
    )  # fmt: skip
    stores.execute(
        "INSERT INTO public.seller_offers (id, legacy_object_id, seller_id, purchase_request_id, title, price_amount, "
        "price_currency) VALUES (:id, :o, :user, :request, 'A lamp', 12.5, 'USDT')",
        id=offer, o=str(OFFER), user=user, request=request,
    )  # fmt: skip


def open_gaps(stores: TwoStores) -> list[UUID]:
    return [
        row.id
        for row in stores.execute(
            "SELECT id FROM public.pg_dualwrite_gaps WHERE resolved_at IS NULL ORDER BY created_at"
        )
    ]


def differences(stores: TwoStores) -> list[tuple[str, bool]]:
    rows = stores.execute(
        "SELECT state, resolved_at IS NULL AS is_open FROM fleet.mirror_differences ORDER BY object_id"
    )
    return [tuple(row) for row in rows]


def test_left_as_it_is_opens_no_gap_again_while_it_stays_the_same(
    database: Database, stores: TwoStores, mongo: Mongo
) -> None:
    document = payment(1)
    stores.put("payments", [document])
    in_mongo({"$set": {"amount.amount": Decimal128("13")}})(stores, mongo, document)
    assert deeds(look(database, mongo)) == ["security gap"]
    [gap] = open_gaps(stores)
    close_gap(database, gap)
    for _ in range(3):  # the next minutes' looks
        outcome = look(database, mongo)
        assert deeds(outcome) == ["left as it is by two persons"]
        assert outcome.counted.different == 1  # it is no less a difference
        assert open_gaps(stores) == []
    assert differences(stores) == [("accepted", True)]
    # What MongoDB owns of it is healed again, and another value of the same field is another gap.
    in_mongo({"$set": {"metadata": {"note": "b"}}})(stores, mongo, document)
    look(database, mongo)
    assert stores.execute("SELECT metadata FROM public.payments")[0].metadata == {"note": "b"}
    in_mongo({"$set": {"amount.amount": Decimal128("14")}})(stores, mongo, document)
    assert deeds(look(database, mongo)) == ["security gap"]
    [another] = open_gaps(stores)
    assert another != gap


def test_a_difference_that_was_gone_and_comes_back_is_asked_anew(
    database: Database, stores: TwoStores, mongo: Mongo
) -> None:
    document = payment(1)
    stores.put("payments", [document])
    changed, as_it_was = {"$set": {"amount.amount": Decimal128("13")}}, {"$set": {"amount.amount": Decimal128("12.5")}}
    in_mongo(changed)(stores, mongo, document)
    look(database, mongo)
    close_gap(database, open_gaps(stores)[0])
    in_mongo(as_it_was)(stores, mongo, document)
    assert look(database, mongo).is_equal
    assert differences(stores) == [("security", False)]
    in_mongo(changed)(stores, mongo, document)
    assert deeds(look(database, mongo)) == ["security gap"]
    assert len(open_gaps(stores)) == 1


def test_the_fleets_values_are_written_again_and_the_next_look_finds_both_equal(
    database: Database, stores: TwoStores, mongo: Mongo, counts: Counts
) -> None:
    """Every money field at once, one that only a creation sets among them, and a version that would fend off each write."""
    document = payment(1)
    stores.put("payments", [document])
    change = {
        "$set": {
            "amount": {"amount": Decimal128("1250"), "currency": "USDC"}, "buyerId": ObjectId(), "direction": "out",
            "status": "completed", "escrowState": "released", "blockchain.confirmations": 99, "providerPaymentId": "another",
            "blockchain.chainId": 1, "fleetVersion": 2**60, "metadata": {"note": "the backend's own"},
        },
    }  # fmt: skip
    in_mongo(change)(stores, mongo, document)
    referred_rows(stores)
    [found] = look(database, mongo).looks
    assert found[1].value == "security gap"
    [gap] = open_gaps(stores)
    close_gap(database, gap, write_again=True)
    waiting = look(database, mongo)  # before the mirror has written: nobody is asked again
    assert [each.verdict.value for each, _ in waiting.looks] == ["waiting"]
    assert open_gaps(stores) == []
    assert run_once(database.engine("fleet_mirror"), mongo, 10) == 1
    assert deeds(look(database, mongo)) == ["healed"]  # what the backend owns, now that nothing else differs
    assert look(database, mongo).is_equal
    assert [is_open for _, is_open in differences(stores)] == [False]
    [written] = mongo.payments.find({})
    assert (written["amount"], written["direction"], written["status"]) == (
        {"amount": Decimal128("12.5"), "currency": "USDT"}, "in", "processing",
    )  # fmt: skip
    assert "chainId" not in written["blockchain"]
    assert written["metadata"] == {"note": "the backend's own"}
    assert written["fleetVersion"] < 1_000
    assert stores.execute("SELECT written_at IS NULL AS due FROM fleet.mirror_restorations")[0].due is False
    counts("fields of a payment that somebody changed, written again", 9)


def test_a_ledger_entry_is_written_again_though_it_is_written_once(
    database: Database, stores: TwoStores, mongo: Mongo
) -> None:
    entry = {
        "_id": ObjectId(), "type": "hold", "amount": Decimal128("5"), "currency": "USDT", "metadata": {}, "createdAt": LONG_AGO,
    }  # fmt: skip
    stores.put("fundsledgerentries", [entry])
    mongo.fundsledgerentries.update_one(
        {"_id": entry["_id"]}, {"$set": {"amount": Decimal128("50"), "currency": "USDC"}}
    )
    assert deeds(look(database, mongo, "fundsledgerentries")) == ["security gap"]
    close_gap(database, open_gaps(stores)[0], write_again=True)
    assert run_once(database.engine("fleet_mirror"), mongo, 10) == 1
    assert look(database, mongo, "fundsledgerentries").is_equal
    [written] = mongo.fundsledgerentries.find({})
    assert (written["amount"], written["currency"], "fleetVersion" in written) == (Decimal128("5"), "USDT", False)


def test_one_that_the_mirror_could_not_write_is_asked_again(
    database: Database, stores: TwoStores, mongo: Mongo
) -> None:
    document = payment(1)
    stores.put("payments", [document])
    in_mongo({"$set": {"amount.amount": Decimal128("13")}})(stores, mongo, document)
    look(database, mongo)
    close_gap(database, open_gaps(stores)[0], write_again=True)
    stores.execute("DELETE FROM fleet.outbox")  # given up
    assert deeds(look(database, mongo)) == ["security gap"]
    assert len(open_gaps(stores)) == 1


def test_what_the_mirror_does_not_write_is_put_right_by_hand(database: Database, stores: TwoStores) -> None:
    gap = open_gap(database, "disputes", str(ObjectId()))
    with pytest.raises(
        ActionRefused, match="the mirror writes no disputes of that id: put it right in MongoDB by hand"
    ):
        close_gap(database, gap, write_again=True)
    close_gap(database, gap)
    assert open_gaps(stores) == []


def test_only_what_the_fleet_owns_is_written_again(counts: Counts) -> None:
    """Each field that the mirror writes: the mapping says whose it is (R7)."""
    assert not is_ours("payments", "metadata")
    assert not is_ours("payments", "createdAt")
    assert is_ours("fundsledgerentries", "createdAt")
    assert is_ours("fundsledgerentries", "entryHash")  # not mapped: nobody else's
    for name in (
        "amount",
        "buyerId",
        "sellerId",
        "blockchain.network",
        "blockchain.chainId",
        "status",
        "providerPaymentId",
    ):
        assert is_ours("payments", name), name
    written = {name for name, subject in SUBJECTS.items() if subject.into is None}
    assert written <= set(COLLECTIONS)
    counts("collections that can be written again", len(written))


def test_a_gap_that_changes_after_the_proposal_is_proposed_anew(
    database: Database, stores: TwoStores, mongo: Mongo
) -> None:
    """Evidence is never changed; a second finding of the same document is a gap of its own."""
    document = payment(1)
    stores.put("payments", [document])
    in_mongo({"$set": {"amount.amount": Decimal128("13")}})(stores, mongo, document)
    look(database, mongo)
    in_mongo({"$set": {"status": "completed", "updatedAt": LONG_AGO + timedelta(hours=1)}})(stores, mongo, document)
    look(database, mongo)
    gaps: list[Any] = open_gaps(stores)
    assert len(gaps) == 2
    for gap in gaps:
        close_gap(database, gap)
    assert open_gaps(stores) == []

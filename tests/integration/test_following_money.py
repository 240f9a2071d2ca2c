"""R7: what only the fleet may change is compared and never taken; each change of it in MongoDB is a security gap, once."""

import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import Decimal128, ObjectId
from sqlalchemy import text

from custody.mirror import run_once
from custody.mirror.collections import COLLECTIONS
from custody.mirror.collections.marks import Owner
from custody.mirror.following import committing
from custody.store.engine import transaction
from custody.store.mongo import open_mongo
from custody.store.outbox import mirror
from tests.backfilling import fill, run
from tests.conftest import Database
from tests.counts import Counts
from tests.following import Following, Mongo, following
from tests.legacy_documents import Legacy
from tests.security_gaps import close_gap
from workers.embedded.services import Services

OTHER: dict[str, Any] = {
    "purchaseRequestId": "template-checkout-tampered",
    "sellerOfferId": "template-tc-tampered",
    "sellerId": "template-checkout-seller",
    "amount.amount": Decimal128("999999.5"),
    "amount.currency": "DAI",
    "provider": "shkeeper",
    "direction": "out",
    "blockchain.network": "polygon",
    "blockchain.chainId": 137,
    "blockchain.tokenAddress": "0xevil",
    "blockchain.transactionHash": "0x" + "ee" * 32,
    "blockchain.sender": "0xthief",
    "blockchain.confirmations": 4242,
    "providerPaymentId": "another",
    "paymentReference": "another",
}
"""Another value of each of the fleet's fields of a payment; status, escrowState and buyerId follow from the payment."""


@pytest.fixture
def mongo(services: Services, mongo_database: str) -> Iterator[Mongo]:
    with open_mongo(services.mongo_url, application="test-following") as client:
        yield client[mongo_database]


@pytest.fixture
def scene(database: Database, mongo: Mongo) -> Iterator[Following]:
    with following(database, mongo) as made:
        yield made


@pytest.fixture
def legacy(request: pytest.FixtureRequest, database: Database, mongo: Mongo, scene: Following) -> Legacy:
    """Both stores hold the same, and the follower has caught up."""
    made = fill(mongo, getattr(request, "param", 6))
    # A null has no fields that could be set.
    mongo["payments"].update_many({"blockchain": None}, {"$unset": {"blockchain": ""}})
    run(database, mongo, batch=500)
    scene.follow()
    assert scene.gaps() == []
    return made


def rows(scene: Following, table: str = "payments") -> dict[str, tuple[Any, ...]]:
    return {row.legacy_object_id: tuple(row) for row in scene.execute(f"SELECT * FROM public.{table}")}


def security(scene: Following, **chosen: Any) -> list[Any]:
    return scene.gaps(severity="security", **chosen)


@pytest.mark.parametrize("legacy", [20], indirect=True)
def test_every_field_that_is_the_fleet_s_changed_in_mongodb_is_a_gap_and_none_is_applied(
    scene: Following, legacy: Legacy, mongo: Mongo, counts: Counts
) -> None:
    fields = guarded_fields()
    assert len(fields) >= 18
    payments = dict(zip(fields, legacy.documents["payments"], strict=False))
    assert len(payments) == len(fields)
    before = rows(scene)
    expected: set[tuple[str, str]] = set()
    for field, document in payments.items():
        value = changed(field, document, legacy)
        update: dict[str, Any] = {"$set": {field: value, "disputed": False}}
        assert mongo["payments"].update_one({"_id": document["_id"]}, update).modified_count == 1
        expected.add((str(document["_id"]), field))
    scene.follow()
    found = security(scene)
    assert {(gap.object_id, gap.reason.partition(":")[0]) for gap in found} == expected
    assert {gap.op for gap in found} == {"follow"}
    # Neither the field nor anything else of its document, which also had its `disputed` changed.
    applied = [key for key, row in rows(scene).items() if row != before[key]]
    sys.stdout.write(f"{len(fields)} fields changed in MongoDB: {len(found)} gaps, {len(applied)} applied\n")
    counts("fields of the fleet changed in MongoDB", len(fields))
    assert applied == []
    alarms = scene.execute("SELECT subject_id, sentence FROM fleet.alarms WHERE kind = 'security_gap'")
    assert {alarm.subject_id for alarm in alarms} == {key for key, _ in expected}
    # Said once, however often it is looked at.
    for document in payments.values():
        mongo["payments"].update_one({"_id": document["_id"]}, {"$set": {"seen": ObjectId()}})
    scene.follow()
    scene.hasten()
    scene.follow()
    assert len(security(scene)) == len(found)


def guarded_fields() -> list[str]:
    """Every field of a payment that MongoDB does not own, as MongoDB spells it."""
    from custody.mirror.agreement.plan import plan

    leaves = plan(COLLECTIONS["payments"], lambda table, column: True).leaves
    return [leaf.name for leaf in leaves if leaf.owner is not Owner.MONGO]


def changed(field: str, document: dict[str, Any], legacy: Legacy) -> Any:
    if field == "status":
        return "refunded" if document["status"] != "refunded" else "completed"
    if field == "escrowState":
        return "refunded" if document.get("escrowState") != "refunded" else "released"
    if field == "buyerId":
        return next(user["_id"] for user in legacy.documents["users"] if str(user["_id"]) != str(document["buyerId"]))
    return OTHER[field]


UNREADABLE: list[tuple[str, Any]] = [
    ("status", "bogus"), ("amount", "all of it"), ("amount.amount", Decimal128("-1")), ("blockchain.confirmations", -5),
    ("blockchain", "none"), ("buyerId", "nobody"),
]  # fmt: skip


def test_money_that_can_no_longer_be_read_is_a_security_gap_as_well(
    scene: Following, legacy: Legacy, mongo: Mongo
) -> None:
    before = rows(scene)
    for (field, value), document in zip(UNREADABLE, legacy.documents["payments"], strict=False):
        mongo["payments"].update_one({"_id": document["_id"]}, {"$set": {field: value, "disputed": "perhaps"}})
    scene.follow()
    assert {gap.object_id for gap in security(scene)} == {
        str(document["_id"]) for document in legacy.documents["payments"][: len(UNREADABLE)]
    }
    assert rows(scene) == before


Tampering = Callable[[Mongo, Legacy], ObjectId]


def of_destination(mongo: Mongo, legacy: Legacy) -> ObjectId:
    document = next(each for each in legacy.documents["deriveddestinations"] if each["sweeps"])
    mongo["deriveddestinations"].update_one({"_id": document["_id"]}, {"$set": {"sweeps.0.to": "0xthief"}})
    return document["_id"]


def of_device(mongo: Mongo, legacy: Legacy) -> ObjectId:
    document = legacy.documents["trezoraccounts"][0]
    mongo["trezoraccounts"].update_one({"_id": document["_id"]}, {"$set": {"xpub": "xpubthief"}})
    return document["_id"]


def of_entry(mongo: Mongo, legacy: Legacy) -> ObjectId:
    document = legacy.documents["fundsledgerentries"][0]
    mongo["fundsledgerentries"].update_one({"_id": document["_id"]}, {"$set": {"amount": 12345}})
    return document["_id"]


def of_setting(mongo: Mongo, legacy: Legacy) -> ObjectId:
    document = legacy.documents["configsettings"][0]
    mongo["configsettings"].update_one({"_id": document["_id"]}, {"$set": {"value": {"b": 1}}})
    return document["_id"]


def of_offer(mongo: Mongo, legacy: Legacy) -> ObjectId:
    document = legacy.documents["selleroffers"][0]
    mongo["selleroffers"].update_one(
        {"_id": document["_id"]}, {"$set": {"price.amount": Decimal128("0.25"), "title": "cheap"}}
    )
    return document["_id"]


def of_dispute(mongo: Mongo, legacy: Legacy) -> ObjectId:
    document = legacy.documents["disputes"][0]
    mongo["disputes"].update_one({"_id": document["_id"]}, {"$set": {"buyerId": str(ObjectId())}})
    return document["_id"]


def of_no_payment(mongo: Mongo, legacy: Legacy) -> ObjectId:
    document = legacy.documents["payments"][3]
    mongo["payments"].delete_one({"_id": document["_id"]})
    return document["_id"]


def of_new_destination(mongo: Mongo, legacy: Legacy) -> ObjectId:
    return _another(mongo, legacy, "deriveddestinations", address="0x" + "ab" * 20, sweeps=[])


def of_new_entry(mongo: Mongo, legacy: Legacy) -> ObjectId:
    return _another(mongo, legacy, "fundsledgerentries", idempotencyKey="release:mine")


def of_new_device(mongo: Mongo, legacy: Legacy) -> ObjectId:
    return _another(mongo, legacy, "trezoraccounts", xpubFingerprint="0xfeed", addresses=[])


def of_new_setting(mongo: Mongo, legacy: Legacy) -> ObjectId:
    return _another(mongo, legacy, "configsettings", key="confirmation_threshold:1")


def _another(mongo: Mongo, legacy: Legacy, collection: str, **changed: Any) -> ObjectId:
    made = {**legacy.documents[collection][0], "_id": ObjectId(), **changed}
    mongo[collection].insert_one(made)
    return made["_id"]


TAMPERED: list[Tampering] = [
    of_destination, of_device, of_entry, of_setting, of_offer, of_dispute, of_no_payment, of_new_destination, of_new_entry,
    of_new_device, of_new_setting,
]  # fmt: skip
TABLES = (
    "payments", "derived_destinations", "derived_destination_sweeps", "trezor_accounts", "trezor_derived_addresses",
    "funds_ledger_entries", "config_settings", "seller_offers", "disputes",
)  # fmt: skip


def test_what_the_fleet_makes_is_taken_from_nobody_else(scene: Following, legacy: Legacy, mongo: Mongo) -> None:
    def everything() -> list[list[str]]:
        return [
            sorted(row.said for row in scene.execute(f"SELECT t::text AS said FROM public.{table} t"))
            for table in TABLES
        ]

    before = everything()
    expected = {str(tamper(mongo, legacy)) for tamper in TAMPERED}
    scene.follow()
    assert {gap.object_id for gap in security(scene)} == expected
    assert [gap for gap in scene.gaps() if gap.severity != "security"] == []
    assert everything() == before


def test_a_new_payment_begins_as_the_fleet_begins_one(scene: Following, legacy: Legacy, mongo: Mongo) -> None:
    honest = {
        **legacy.documents["payments"][0], "_id": ObjectId(), "status": "pending", "escrowState": None,
        "purchaseRequestId": "template-checkout-new", "blockchain": {"network": "bsc", "chainId": 56}, "metadata": {"n": 1},
    }  # fmt: skip
    forged = {
        **honest, "_id": ObjectId(), "status": "completed", "escrowState": "released", "purchaseRequestId": "template-checkout-forged",
        "blockchain": {"network": "bsc", "chainId": 56, "transactionHash": "0xnone", "confirmations": 9000},
    }  # fmt: skip
    mongo["payments"].insert_many([honest, forged])
    scene.follow()
    found = {
        row.legacy_object_id: (row.status, row.escrow_state, row.transaction_hash, row.confirmations, row.chain_id)
        for row in scene.execute(
            "SELECT *, status::text AS status FROM public.payments WHERE legacy_object_id = ANY(:ids)",
            ids=[str(honest["_id"]), str(forged["_id"])],
        )
    }
    assert found == {str(each["_id"]): ("pending", None, None, None, 56) for each in (honest, forged)}
    (gap,) = security(scene)
    assert (gap.object_id, gap.reason.partition(":")[0]) == (
        str(forged["_id"]),
        "blockchain.transactionHash, blockchain.confirmations, status, escrowState",
    )
    # What is its own still follows in the honest one alone.
    for document in (honest, forged):
        mongo["payments"].update_one({"_id": document["_id"]}, {"$set": {"metadata": {"n": 2}}})
    scene.follow()
    metadata = scene.execute("SELECT legacy_object_id, metadata FROM public.payments WHERE metadata ->> 'n' = '2'")
    assert [row.legacy_object_id for row in metadata] == [str(honest["_id"])]


# What is no tampering ----------------------------------------------------------------------------------------------------


def move(scene: Following, document: dict[str, Any], *, also: str = "") -> Any:
    """The fleet changes a payment, and asks the mirror to write it."""
    with transaction(scene.database.engine()) as connection:
        row = connection.execute(
            text(
                f"UPDATE public.payments SET confirmations = coalesce(confirmations, 0) + 1, updated_at = clock_timestamp() {also} "
                "WHERE legacy_object_id = :id RETURNING id"
            ),
            {"id": str(document["_id"])},
        ).one()
        mirror(connection, "payments", row.id)
    return row.id


def test_a_document_that_the_mirror_has_still_to_write_is_older_and_nobody_s_doing(
    scene: Following, legacy: Legacy, mongo: Mongo
) -> None:
    document = legacy.documents["payments"][0]
    move(scene, document)
    mongo["payments"].update_one(
        {"_id": document["_id"]}, {"$set": {"metadata": {"by": "the backend"}, "updatedAt": datetime.now(UTC) + timedelta(hours=1)}}
    )  # fmt: skip
    scene.follow()
    scene.hasten()
    scene.follow()
    assert scene.gaps() == []
    (row,) = scene.execute("SELECT metadata FROM public.payments WHERE legacy_object_id = :id", id=str(document["_id"]))
    assert row.metadata == {"by": "the backend"}  # which is the backend's to say
    assert run_once(scene.database.engine("fleet_mirror"), mongo, 100) == 1
    scene.hasten()
    scene.follow()
    assert scene.gaps() == []
    assert scene.revisits() == []


def test_the_mirror_writing_between_two_reads_is_no_tampering(
    scene: Following, legacy: Legacy, mongo: Mongo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The document was read before the mirror wrote it, and the row after its outbox row was gone."""
    document = legacy.documents["payments"][0]
    commit = committing.Writer.commit
    mirrored: list[int] = []

    def between(writer: Any, part: Any, *arguments: Any) -> Any:
        if not mirrored and any(changes for _, changes in part):
            move(scene, document)
            mirrored.append(run_once(scene.database.engine("fleet_mirror"), mongo, 100))
        return commit(writer, part, *arguments)

    monkeypatch.setattr(committing.Writer, "commit", between)
    later = {"metadata": {"n": 7}, "updatedAt": datetime.now(UTC) + timedelta(hours=1)}
    mongo["payments"].update_one({"_id": document["_id"]}, {"$set": later})
    scene.follow()
    scene.hasten()
    scene.follow()
    assert mirrored == [1]
    assert scene.gaps() == []
    assert scene.revisits() == []


def test_who_sets_the_document_s_time_back_hides_nothing_for_long(
    scene: Following, legacy: Legacy, mongo: Mongo
) -> None:
    document = legacy.documents["payments"][0]
    mongo["payments"].update_one(
        {"_id": document["_id"]}, {"$set": {"status": "refunded", "updatedAt": datetime(2020, 1, 1, tzinfo=UTC)}}
    )
    scene.follow()
    assert security(scene) == []
    assert [row.reason for row in scene.revisits()] == ["behind"]
    scene.execute("UPDATE fleet.mirror_revisits SET since = since - interval '11 minutes'")
    scene.hasten()
    scene.follow()
    assert [gap.reason.partition(":")[0] for gap in security(scene)] == ["status"]


def test_a_setting_that_the_fleet_has_changed_since_is_no_tampering(
    scene: Following, legacy: Legacy, mongo: Mongo
) -> None:
    """Nobody writes settings to MongoDB: there they stay as they were."""
    document = legacy.documents["configsettings"][0]
    scene.execute(
        "UPDATE public.config_settings SET value = '7', updated_at = clock_timestamp() WHERE legacy_object_id = :id",
        id=str(document["_id"]),
    )
    mongo["configsettings"].update_one({"_id": document["_id"]}, {"$set": {"description": "as before"}})
    scene.follow()
    scene.hasten()
    scene.follow()
    assert scene.gaps() == []
    (row,) = scene.execute(
        "SELECT value, description FROM public.config_settings WHERE legacy_object_id = :id", id=str(document["_id"])
    )
    assert (row.value, row.description) == (7, "as before")


# What persons decide -----------------------------------------------------------------------------------------------------


def close(scene: Following) -> None:
    # A development chain: two labels are two persons there.
    scene.execute(
        "INSERT INTO fleet.chain_cursors (chain_id, head_number, head_hash, head_timestamp) VALUES (31337, 1, '0x', now())"
    )
    for row in scene.execute("SELECT id FROM public.pg_dualwrite_gaps WHERE resolved_at IS NULL"):
        close_gap(scene.database, row.id)


def test_a_document_follows_again_once_persons_have_closed_its_gap(
    scene: Following, legacy: Legacy, mongo: Mongo
) -> None:
    document = legacy.documents["payments"][0]
    original = mongo["payments"].find_one({"_id": document["_id"]}) or {}
    mongo["payments"].update_one({"_id": document["_id"]}, {"$set": {"status": "refunded", "metadata": {"n": 8}}})
    scene.follow()
    # Put right by hand: the gap stays, and so does the row.
    mongo["payments"].update_one({"_id": document["_id"]}, {"$set": {"status": original["status"]}})
    scene.follow()
    assert len(security(scene)) == 1
    assert rows_of_metadata(scene, document) != {"n": 8}
    close(scene)
    scene.hasten()
    scene.follow()
    assert rows_of_metadata(scene, document) == {"n": 8}
    assert scene.gaps() == []


def rows_of_metadata(scene: Following, document: dict[str, Any]) -> Any:
    return scene.execute("SELECT metadata FROM public.payments WHERE legacy_object_id = :id", id=str(document["_id"]))[
        0
    ].metadata


def test_what_persons_have_seen_is_said_again_only_when_it_is_written_again(
    scene: Following, legacy: Legacy, mongo: Mongo
) -> None:
    document = legacy.documents["payments"][0]
    mongo["payments"].update_one({"_id": document["_id"]}, {"$set": {"status": "refunded"}})
    scene.follow()
    close(scene)
    for _ in range(3):
        scene.hasten()
        scene.follow()
    assert security(scene) == []
    mongo["payments"].update_one({"_id": document["_id"]}, {"$set": {"disputed": not document.get("disputed", False)}})
    scene.follow()
    assert len(security(scene)) == 1


def test_a_row_that_was_never_brought_over_is_no_crime(database: Database, mongo: Mongo, scene: Following) -> None:
    """Before a backfill MongoDB holds money of before the fleet: it comes by the backfill alone, with its state."""
    made = fill(mongo, 6)
    scene.follow()
    for collection in ("payments", "deriveddestinations", "fundsledgerentries"):
        for document in made.documents[collection]:
            mongo[collection].update_one({"_id": document["_id"]}, {"$set": {"touched": True}})
    scene.follow()
    assert security(scene) == []
    assert {gap.severity for gap in scene.gaps(collection="fundsledgerentries")} == {"error"}
    assert scene.execute("SELECT FROM public.payments WHERE status <> 'pending'") == []
    run(database, mongo, batch=500)
    for _ in range(3):
        scene.hasten()
        scene.follow()
    assert scene.gaps() == []
    assert len(rows(scene)) == len(made.documents["payments"])

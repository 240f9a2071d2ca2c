"""What verification does about a difference (R7), by which role, in rounds of the schedule, and as a command."""

import json
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

import pytest
import typer
from bson import Decimal128
from sqlalchemy import text
from typer.testing import CliRunner

from custody.mirror.agreement import Outcome, standings, verify
from custody.mirror.agreement.scheduled import verify_next
from custody.mirror.agreement.sharing import processes
from custody.mirror.agreement.verifying import readable_plans
from custody.mirror.collections import COLLECTIONS
from custody.mirror.collections.marks import Owner
from custody.store.mongo import open_mongo
from tests.conftest import Database
from tests.counts import ONLY_LONG
from tests.two_stores import ANOTHER, LONG_AGO, USER, Mongo, TwoStores, in_mongo, one, payment, request, told
from workers.cli.mirror import register
from workers.embedded.services import Services

CREDENTIALS: Final = {"email", "password", "token_hash", "init_data_fingerprint"}
UNHEALED: Final = {"public.users", "public.telegram_links", "public.telegram_sessions"}
"""By no role of the fleet: who is an administrator, and who logs in as whom, is not a worker's to write."""


@pytest.fixture
def mongo(services: Services, mongo_database: str) -> Iterator[Mongo]:
    with open_mongo(services.mongo_url, application="test-verify") as client:
        yield client[mongo_database]


@pytest.fixture
def stores(database: Database, mongo: Mongo) -> TwoStores:
    return TwoStores(database.engine(), mongo)


# What is done about it --------------------------------------------------------------------------------------------


def after(outcome: Outcome) -> dict[str, str]:
    return {look.object_id: deed.value for look, deed in outcome.looks}


def outbox(stores: TwoStores) -> list[Any]:
    return stores.execute("SELECT collection, document_id FROM fleet.outbox WHERE queue = 'mirror' ORDER BY id")


def test_healing_heals_what_mongodb_owns_and_nothing_else(database: Database, stores: TwoStores, mongo: Mongo) -> None:
    payments = [payment(number) for number in range(1, 4)]
    requests = [request(number) for number in range(1, 4)]
    stores.put("payments", payments)
    stores.put("purchaserequests", requests)
    ours, theirs = (
        in_mongo({"$set": {"disputed": True, "metadata": {"note": "b"}}}),
        in_mongo({"$set": {"title": "A bed"}}),
    )
    ours(stores, mongo, payments[0])
    theirs(stores, mongo, requests[0])
    in_mongo({"$set": {"specifications": [{"key": "size", "value": "2 m"}]}})(stores, mongo, requests[1])
    in_mongo({"$set": {"amount.amount": Decimal128("12.500000000000000001"), "disputed": True}})(
        stores, mongo, payments[1]
    )
    names = ["payments", "purchaserequests"]
    unhealed = verify(database.engine(), mongo, names)
    assert [outcome.counted.different for outcome in unhealed] == [2, 2]
    healed = verify(database.engine("fleet_mirror"), mongo, names, heal=True)
    assert after(healed[0]) == {
        str(payments[0]["_id"]): "healed",
        str(payments[1]["_id"]): "security gap",  # and its other fields stay as evidence
    }
    assert after(healed[1]) == {str(requests[0]["_id"]): "healed", str(requests[1]["_id"]): "healed"}
    again = verify(database.engine("fleet_mirror"), mongo, names, heal=True)
    assert [outcome.counted.different for outcome in again] == [1, 0]
    rows = stores.execute("SELECT amount, disputed, metadata FROM public.payments ORDER BY legacy_object_id")
    assert [(row.amount, row.disputed, row.metadata) for row in rows] == [
        (Decimal("12.5"), True, {"note": "b"}),
        (Decimal("12.5"), False, {"note": "a"}),
        (Decimal("12.5"), False, {"note": "a"}),
    ]
    assert outbox(stores) == []
    # Said once, however often it is found.
    (gap,) = stores.execute("SELECT * FROM public.pg_dualwrite_gaps")
    assert (gap.collection, gap.legacy_object_id, gap.severity) == ("payments", str(payments[1]["_id"]), "security")
    assert gap.payload == {
        "amount.amount": {"mongo": {"$numberDecimal": "12.500000000000000001"}, "postgres": {"$numberDecimal": "12.5"}}
    }
    (alarm,) = stores.execute("SELECT kind, subject_id FROM fleet.alarms")
    assert tuple(alarm) == ("security_gap", str(payments[1]["_id"]))


def test_what_the_fleet_owns_is_written_again_or_is_a_security_gap(
    database: Database, stores: TwoStores, mongo: Mongo
) -> None:
    behind, changed, missing = (payment(number) for number in range(1, 4))
    stores.put("payments", [behind, changed])
    stores.row("payments", missing)
    # The row moved on, and the mirror never brought it.
    moved = "UPDATE public.payments SET confirmations = 7, updated_at = updated_at + interval '1 hour' WHERE legacy_object_id = :id"
    stores.execute(moved, id=str(behind["_id"]))
    # MongoDB has the present row's time, and another status than the fleet wrote with it.
    mongo["payments"].update_one({"_id": changed["_id"]}, {"$set": {"status": "confirmed"}})
    outcome = one(verify(database.engine("fleet_mirror"), mongo, ["payments"], heal=True))
    again = "the mirror writes it again"
    assert after(outcome) == {
        str(behind["_id"]): again,
        str(changed["_id"]): "security gap",
        str(missing["_id"]): again,
    }
    assert sorted(row.document_id for row in outbox(stores)) == sorted(
        stores.ids.uuid("payments", each["_id"]) for each in (behind, missing)
    )
    gaps = stores.execute("SELECT legacy_object_id, severity, reason FROM public.pg_dualwrite_gaps")
    assert [tuple(gap) for gap in gaps] == [
        (str(changed["_id"]), "security", "status: MongoDB holds another value than the fleet wrote")
    ]
    row = stores.execute("SELECT status::text, updated_at FROM public.payments WHERE confirmations = 7")[0]
    assert (row.status, row.updated_at) == ("processing", LONG_AGO + timedelta(hours=1))


def test_the_mirror_s_role_may_write_only_what_mongodb_owns(database: Database) -> None:
    with database.engine().connect() as connection:
        every = readable_plans(connection)
        for plan in every.values():
            for leaf in plan.leaves:
                if leaf.table is not plan.document.table:
                    continue
                for column in leaf.columns:
                    may_write: bool = connection.execute(
                        text("SELECT has_column_privilege('fleet_mirror', :table, :column, 'UPDATE')"),
                        {"table": plan.table, "column": column},
                    ).scalar_one()
                    healable = leaf.owner is Owner.MONGO and plan.table not in UNHEALED
                    assert may_write is (healable and column not in CREDENTIALS), (plan.table, column)


def test_no_role_of_the_fleet_compares_credentials(database: Database, stores: TwoStores, mongo: Mongo) -> None:
    document = {
        "_id": USER, "email": "a@example.org", "password": "hash", "firstName": "Ann", "createdAt": LONG_AGO,
        "updatedAt": LONG_AGO, "passkeys": [{"id": "k", "publicKey": "p", "createdAt": LONG_AGO}],
    }  # fmt: skip
    stores.put("users", [document])
    session = {
        "_id": ANOTHER, "telegramUserId": "7", "tokenHash": "t", "initDataFingerprint": "f", "expiresAt": LONG_AGO,
        "createdAt": LONG_AGO,
    }  # fmt: skip
    stores.put("telegramsessions", [session])
    stores.execute("UPDATE public.users SET password = 'another', first_name = 'Bea'")
    names = ["users", "telegramsessions"]
    users, sessions = verify(database.engine("fleet_mirror"), mongo, names)
    assert (users.left_out, sessions.left_out) == (
        ("email", "password", "passkeys"),
        ("tokenHash", "initDataFingerprint"),
    )
    assert told(users) == [(str(USER), "fields differ", [("firstName", '"Ann"', '"Bea"')])]
    assert sessions.is_equal
    as_administrator = one(verify(database.engine(), mongo, ["users"]))
    assert told(as_administrator)[0][2] == [("password", '"hash"', '"another"'), ("firstName", '"Ann"', '"Bea"')]


# Rounds of the schedule -------------------------------------------------------------------------------------------


@ONLY_LONG
def test_rounds_of_the_schedule_come_past_every_document(database: Database, stores: TwoStores, mongo: Mongo) -> None:
    made = [payment(number) for number in range(1, 8)]
    stores.put("payments", made)
    stores.execute(
        "UPDATE public.payments SET provider_payment_id = 'x' WHERE legacy_object_id = :id", id=str(made[5]["_id"])
    )
    engine = database.engine("fleet_mirror")
    for _ in range(60):  # three each of seven documents, and one each of the empty collections
        verify_next(engine, mongo, size=3)
    with database.engine("fleet_operator").connect() as connection:
        found = {standing.collection: standing for standing in standings(connection)}
    assert set(found) == set(COLLECTIONS)
    assert all(standing.finished_at is not None for standing in found.values())
    payments = found["payments"]
    assert (payments.documents, payments.rows, payments.equal, payments.different, payments.open) == (7, 7, 6, 1, 1)
    # Set right by a person: the next round finds nothing, and nothing stays open.
    stores.execute("UPDATE public.payments SET provider_payment_id = 'pp6' WHERE provider_payment_id = 'x'")
    for _ in range(60):
        verify_next(engine, mongo, size=3)
    with database.engine("fleet_operator").connect() as connection:
        (payments,) = [each for each in standings(connection) if each.collection == "payments"]
    assert (payments.equal, payments.different, payments.open) == (7, 0, 0)


@ONLY_LONG
def test_a_range_of_a_snapshot_is_read_by_another_process(
    database: Database, stores: TwoStores, mongo: Mongo, services: Services
) -> None:
    made = [payment(number) for number in range(1, 30)]
    stores.put("payments", made)
    mongo["payments"].update_one({"_id": made[7]["_id"]}, {"$set": {"metadata": {}}})
    with processes(services.mongo_url, mongo.name, 1) as sharing:
        outcome = one(verify(database.engine(), mongo, ["payments"], sharing=sharing))
    assert outcome.is_snapshot
    assert (outcome.counted.equal, outcome.counted.different) == (28, 1)


def test_the_command_says_what_differs_and_ends_with_1(
    database: Database, stores: TwoStores, mongo: Mongo, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores.put("payments", [payment(number) for number in range(1, 4)])
    monkeypatch.setenv("DATABASE_ADMIN_URL", database.url())
    monkeypatch.setenv("MONGO_URL", services.mongo_url)
    monkeypatch.setenv("MONGO_DATABASE", mongo.name)
    app = typer.Typer()
    register(app)
    chosen = ["mirror", "verify", "--processes", "1", "--collection", "payments"]
    assert CliRunner().invoke(app, chosen).exit_code == 0
    mongo["payments"].update_many({"providerPaymentId": "pp2"}, {"$set": {"disputed": True}})
    result = CliRunner().invoke(app, [*chosen, "--json"])
    assert result.exit_code == 1, result.output
    (said_of,) = json.loads(result.stdout)
    assert (said_of["collection"], said_of["equal"], said_of["different"]) == ("payments", 2, 1)
    assert said_of["differences"][0]["fields"] == [
        {"field": "disputed", "owner": "mongo", "mongo": "true", "postgres": "false"}
    ]
    result = CliRunner().invoke(app, [*chosen, "--heal"])
    assert result.exit_code == 1
    assert "healed" in result.output
    assert CliRunner().invoke(app, chosen).exit_code == 0

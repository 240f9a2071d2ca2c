"""``fleet mirror backfill`` and ``fleet gaps`` as an operator uses them."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from sqlalchemy import text
from typer.testing import CliRunner, Result

from custody.ledger.adjustments import open_actions
from custody.mirror.gaps import listed
from custody.settings.environment import settings
from custody.store.engine import transaction
from custody.store.mongo import open_mongo
from tests.brought_over import Mongo, differences
from tests.conftest import Database
from tests.legacy_documents import Legacy
from tests.marketplace import Marketplace
from tests.security_gaps import gap_of_payment, open_gap
from workers.cli import gaps as gaps_command
from workers.cli import mirror as mirror_command
from workers.embedded.services import Services


@pytest.fixture
def mongo(services: Services, mongo_database: str) -> Iterator[Mongo]:
    with open_mongo(services.mongo_url, application="test-gaps") as client:
        yield client[mongo_database]


@pytest.fixture
def configured(
    database: Database, mongo: Mongo, services: Services, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.MonkeyPatch]:
    for name, value in {
        "DATABASE_URL": database.url("fleet_operator"),
        "DATABASE_ADMIN_URL": database.url(),
        "MONGO_URL": services.mongo_url,
        "MONGO_DATABASE": mongo.name,
        "COLUMNS": "250",
    }.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    yield monkeypatch
    settings.cache_clear()


def fleet(*arguments: str) -> Result:
    app = typer.Typer()
    mirror_command.register(app)
    gaps_command.register(app)
    return CliRunner().invoke(app, list(arguments))


def planted(mongo: Mongo) -> Legacy:
    """A marketplace with two payments that no column takes."""
    legacy = Legacy(seed=3, size=6)
    for collection, documents in legacy.documents.items():
        mongo[collection].insert_many(documents)
    for number, change in enumerate([{"amount.amount": None}, {"status": "done", "callbackSecret": "SECRET"}]):
        mongo.payments.update_one({"_id": legacy.documents["payments"][number]["_id"]}, {"$set": change})
    return legacy


def open_gaps(database: Database) -> list[Any]:
    with transaction(database.engine()) as connection:
        return listed(connection)


def test_an_operators_way_from_a_backfill_to_no_gap(database: Database, mongo: Mongo, configured: Any) -> None:
    legacy = planted(mongo)
    looked = fleet("mirror", "backfill", "--dry-run", "--batch", "4")
    assert looked.exit_code == 1, looked.output
    assert "payments: 6 documents, 2 would be refused" in looked.output
    assert open_gaps(database) == []

    done = fleet("mirror", "backfill", "--batch", "4")
    assert done.exit_code == 1, done.output
    assert re.search(r"payments +6 +4 +0 +2", done.output), done.output
    assert "fleet gaps list" in done.output

    there = fleet("gaps", "list", "--collection", "payments")
    assert there.exit_code == 1
    assert "amount.amount: Field required" in there.output
    assert there.output.count("payments 6774") == 2
    assert fleet("gaps", "list", "--collection", "users").output == "no gap is open\n"
    assert fleet("gaps", "list", "--severity", "security").exit_code == 0

    by_reason = {gap.reason.partition(":")[0]: gap for gap in open_gaps(database) if gap.collection == "payments"}
    shown = fleet("gaps", "show", str(by_reason["status"].id))
    assert shown.exit_code == 0, shown.output
    assert '"status": "done"' in shown.output
    assert '"callbackSecret": "withheld"' in shown.output

    still = fleet("gaps", "replay", str(by_reason["status"].id))
    assert (still.exit_code, "status: Input should be" in still.output) == (1, True), still.output
    for number in (0, 1):
        paid = legacy.documents["payments"][number]
        mongo.payments.replace_one({"_id": paid["_id"]}, paid)
    assert fleet("gaps", "replay", str(by_reason["status"].id)).output.endswith(": brought over\n")
    rest = fleet("gaps", "replay")
    assert rest.exit_code == 0, rest.output
    assert fleet("gaps", "replay").output == "no gap of a backfill or of following is open\n"
    assert fleet("gaps", "list").output == "no gap is open\n"
    everything = fleet("gaps", "list", "--all")
    assert everything.exit_code == 0
    assert "backfill: a later write of it succeeded" in everything.output
    with database.engine().connect() as connection:
        assert differences(connection, mongo) == []


def test_a_person_closes_a_gap_and_says_why(database: Database, mongo: Mongo, configured: Any) -> None:
    planted(mongo)
    fleet("mirror", "backfill", "--collection", "payments")
    gap = next(gap for gap in open_gaps(database) if gap.reason.startswith("status"))
    resolve = ("gaps", "resolve", str(gap.id), "--by", "N. Azizi")
    refused = fleet(*resolve, "--reason", " ")
    assert (refused.exit_code, refused.output) == (2, "reason: expected 1 to 500 characters\n")
    assert fleet(*resolve, "--reason", "a test payment").output == "closed\n"
    assert fleet(*resolve, "--reason", "again").output == "it was closed already\n"
    shown = fleet("gaps", "show", str(gap.id))
    assert "resolved_by: N. Azizi" in shown.output
    assert "resolution: a test payment" in shown.output


def test_a_security_gap_takes_two_persons_and_is_shown_with_what_it_pauses(database: Database, configured: Any) -> None:
    market = Marketplace(database)
    payment = market.payment()
    market.execute(
        "INSERT INTO fleet.chain_cursors (chain_id, head_number, head_hash, head_timestamp) VALUES (31337, 1, '0x', now())"
    )
    gap = gap_of_payment(database, payment)
    assert f"pauses payment {payment}" in fleet("gaps", "show", str(gap)).output
    refused = fleet("gaps", "resolve", str(open_gap(database, "payments", None, severity="error")), "--by", "m",
                    "--reason", "x", "--write-again")  # fmt: skip
    assert (refused.exit_code, "only for an open gap of severity security" in refused.output) == (2, True)
    proposed = fleet("gaps", "resolve", str(gap), "--by", "mina", "--reason", "a script of ours", "--write-again")
    assert proposed.exit_code == 0, proposed.output
    with transaction(database.engine("fleet_operator")) as connection:
        [action] = open_actions(connection, "resolve_gap")
    listed_now = fleet("gaps", "list").output
    for part in (str(action.id), action.hash, f"{gap}, written again", "mina"):
        assert part in listed_now, part
    alone = fleet("gaps", "agree", str(action.id), "--hash", action.hash, "--by", "mina")
    assert (alone.exit_code, "another person executes it" in alone.output) == (2, True)
    other = fleet("gaps", "agree", str(action.id), "--hash", "00", "--by", "omid")
    assert (other.exit_code, "other parameters than were shown" in other.output) == (2, True)
    agreed = fleet("gaps", "agree", str(action.id), "--hash", action.hash, "--by", "omid")
    assert (agreed.exit_code, f"gap {gap} is closed" in agreed.output) == (0, True), agreed.output
    again = fleet("gaps", "resolve", str(gap), "--by", "mina", "--reason", "x")
    assert again.output == "it was closed already\n"
    asked = market.execute("SELECT document_id FROM fleet.outbox WHERE queue = 'mirror' AND collection = 'payments'")
    assert [row.document_id for row in asked] == [payment]


def test_what_is_gone_or_no_gap_is_said(database: Database, mongo: Mongo, configured: Any) -> None:
    planted(mongo)
    fleet("mirror", "backfill", "--collection", "payments")
    gap = next(gap for gap in open_gaps(database) if gap.reason.startswith("status"))
    mongo.payments.delete_one({"status": "done"})
    gone = fleet("gaps", "replay", str(gap.id))
    assert (gone.exit_code, "no longer in MongoDB" in gone.output) == (1, True)
    unknown = fleet("gaps", "show", "00000000-0000-0000-0000-000000000000")
    assert (unknown.exit_code, "there is no gap" in unknown.output) == (2, True)
    with database.engine().begin() as connection:
        other = connection.execute(
            text(
                "INSERT INTO public.pg_dualwrite_gaps (collection, op, payload, severity, reason) "
                "VALUES ('payments', 'mirror', '{}', 'error', 'x') RETURNING id"
            )
        ).scalar_one()
    refused = fleet("gaps", "replay", str(other))
    assert (refused.exit_code, "only those of a backfill" in refused.output) == (2, True)


def test_a_database_elsewhere_is_not_written_to(
    mongo: Mongo, database: Database, configured: pytest.MonkeyPatch
) -> None:
    planted(mongo)
    configured.setenv("BACKFILL_DATABASE_HOSTS", "db.example.org")
    settings.cache_clear()
    for command in (("mirror", "backfill"), ("mirror", "backfill", "--dry-run"), ("gaps", "replay")):
        refused = fleet(*command)
        assert refused.exit_code == 2, command
        assert "BACKFILL_DATABASE_HOSTS allows db.example.org" in refused.output
    assert open_gaps(database) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--since", "yesterday"), "since: expected a time such as"),
        (("--collection", "levelconfigs"), "no collection levelconfigs; expected some of users"),
    ],
)
def test_what_an_operator_mistypes_is_one_sentence(
    mongo: Mongo, configured: Any, arguments: tuple[str, ...], words: str
) -> None:
    refused = fleet("mirror", "backfill", *arguments)
    assert (refused.exit_code, words in refused.output) == (2, True), refused.output


def test_only_how_it_was_closed_is_an_operators_to_write(database: Database) -> None:
    with database.engine("fleet_operator").connect() as connection:
        rights = connection.execute(
            text(
                "SELECT has_table_privilege('public.pg_dualwrite_gaps', 'INSERT, UPDATE, DELETE') AS whole, "
                "has_column_privilege('public.pg_dualwrite_gaps', 'reason', 'UPDATE') AS reason, "
                "has_column_privilege('public.pg_dualwrite_gaps', 'resolved_by', 'UPDATE') AS closing"
            )
        ).one()
    assert tuple(rights) == (False, False, True)

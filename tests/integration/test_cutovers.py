"""Which store decides of a domain: cut over by two persons (R10) while it is clean, followed without a restart."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from bson import ObjectId
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from typer.testing import CliRunner

from custody.cutovers import cut_over_to, require_beginnings
from custody.ledger.adjustments import ActionRefused, open_actions
from custody.mirror.agreement import verify
from custody.releases import build
from custody.releases.sources import Sources, references
from custody.settings.environment import SettingsError, load_settings, settings
from custody.store.engine import sqlstate, transaction
from custody.store.mongo import open_mongo
from custody.store.roles import PROCESS_ROLES
from custody.trezor.text_rows import rows_of
from tests.backfilling import fill, run
from tests.conftest import Database
from tests.counts import Counts
from tests.cutting_over import COLLECTIONS, Cutting
from tests.release_scene import Scene
from workers.celery_app import _refuse_store
from workers.cli import cutover as command_module
from workers.embedded.services import Services


@pytest.fixture
def cutting(database: Database, tmp_path: Path) -> Cutting:
    made = Cutting(database, tmp_path)
    made.begin("marketplace", "dual")
    made.begin("dispute", "dual")
    return made


# Who may


def test_two_devices_cut_over_and_nobody_alone(cutting: Cutting) -> None:
    cutting.clean("dispute")
    action = cutting.propose("dispute", "pg")
    assert cutting.stores() == {"marketplace": "dual", "dispute": "dual"}
    with pytest.raises(ActionRefused, match="nobody signed: each runs fleet signer approve"):
        cutting.execute(action)
    cutting.sign(action.id, "ada")
    with pytest.raises(ActionRefused, match="ada signed"):
        cutting.execute(action)
    cutting.sign(action.id, "cyd")
    with pytest.raises(ActionRefused, match="another person"):
        cutting.execute(action, by="mina")
    number = cutting.execute(action)
    assert cutting.stores() == {"marketplace": "dual", "dispute": "pg"}
    with pytest.raises(ActionRefused, match="is executed"):
        cutting.execute(action)
    [row] = cutting.market.execute("SELECT * FROM fleet.cutovers")
    assert (row.number, row.domain, row.from_store, row.to_store, row.action_id) == (
        number, "dispute", "dual", "pg", action.id,
    )  # fmt: skip
    assert row.evidence["shadow_reads"]["agreed"] == 1_000
    assert row.evidence["collections"][0]["round"]["equal"] == 7


def test_a_device_shows_which_domain_and_where_to(cutting: Cutting) -> None:
    cutting.clean("marketplace")
    rows = rows_of(cutting.shown(cutting.propose("marketplace", "pg").id).text("amn1"))
    assert [each.strip() for each in rows[:5]] == [
        "POLICY amn1",
        "cutover",
        rows[2].strip(),
        "marketplace",
        "dual > pg",
    ]
    assert len(rows) <= 12


def test_no_role_and_no_owner_writes_or_changes_a_cutover(cutting: Cutting) -> None:
    cutting.clean("dispute")
    cutting.cut("dispute", "pg")
    codes: set[str | None] = set()
    for role in (None, *PROCESS_ROLES):
        for statement in (
            "UPDATE fleet.cutovers SET to_store = 'mongo'",
            "DELETE FROM fleet.cutovers",
            "TRUNCATE fleet.cutovers",
        ):
            with cutting.database.engine(role).connect() as connection, pytest.raises(DBAPIError) as refused:
                connection.execute(text(statement))
            codes.add(sqlstate(refused.value))
    assert codes == {"42501", "23001"}
    for role in PROCESS_ROLES:
        with cutting.database.engine(role).connect() as connection, pytest.raises(DBAPIError) as refused:
            connection.execute(text("INSERT INTO fleet.cutovers (domain) VALUES ('dispute')"))
        assert sqlstate(refused.value) == "42501", role


# When


Spoil = Callable[[Cutting], Any]


def update(statement: str) -> Spoil:
    return lambda cutting: cutting.market.execute(statement)


DIRTY: dict[str, tuple[Spoil, str]] = {
    "a backfill that is not finished": (
        update("UPDATE fleet.backfill_progress SET finished_at = NULL WHERE collection = 'selleroffers'"),
        "selleroffers: its backfill is not finished",
    ),
    "no backfill": (update("DELETE FROM fleet.backfill_progress WHERE collection = 'categories'"), "categories: its backfill"),
    "an open gap": (
        update("INSERT INTO public.pg_dualwrite_gaps (collection, op, legacy_object_id, payload, severity, reason) "
               "VALUES ('purchaserequests', 'backfill', '65', '{}', 'warning', 'x')"),
        "purchaserequests: 1 gap(s) are open",
    ),
    "stores never compared": (
        update("DELETE FROM fleet.mirror_agreements WHERE collection = 'requesttemplates'"),
        "requesttemplates: both stores were never compared",
    ),
    "an old comparison": (
        update("UPDATE fleet.mirror_agreements SET began_at = now() - interval '25 hours' WHERE collection = 'categories'"),
        "categories: both stores were compared before",
    ),
    "a difference": (
        update("UPDATE fleet.mirror_agreements SET different = 1 WHERE collection = 'categories'"),
        "categories: the stores differ in 1 document(s)",
    ),
    "an unreadable document": (
        update("UPDATE fleet.mirror_agreements SET unreadable = 2 WHERE collection = 'categories'"), "2 are unreadable",
    ),
    "a difference that the round under way found": (
        update("INSERT INTO fleet.mirror_differences (collection, object_id, verdict, reason, fields, state) "
               "VALUES ('selleroffers', '65', 'fields differ', '', '{status}', 'open')"),
        "selleroffers: the stores differ in 1 document(s)",
    ),
    "too few shadow reads since the last that differed": (
        update("UPDATE fleet.shadow_reads SET mismatched = 1, agreed = 999"), "999 answers of both stores agreed",
    ),
    "no shadow read": (update("DELETE FROM fleet.shadow_reads"), "0 answers of both stores agreed"),
    "MongoDB alone": (lambda cutting: cutting.begin("marketplace", "mongo"), "it is read from MongoDB alone"),
    "nobody who reads": (update("DELETE FROM fleet.domain_beginnings"), "nobody has said where marketplace is read"),
}  # fmt: skip


def test_each_thing_that_is_not_clean_refuses_by_name_also_at_the_last_moment(
    cutting: Cutting, subtests: pytest.Subtests, counts: Counts
) -> None:
    cutting.clean("marketplace")
    signed = cutting.propose("marketplace", "pg")
    cutting.sign(signed.id, "ada", "bob")
    for name, (spoil, words) in DIRTY.items():
        with subtests.test(name):
            spoil(cutting)
            with pytest.raises(ActionRefused) as refused:
                cutting.propose("marketplace", "pg")
            assert words in str(refused.value)
            with pytest.raises(ActionRefused):
                cutting.execute(signed)
            assert cutting.stores()["marketplace"] != "pg"
        cutting.market.execute("UPDATE public.pg_dualwrite_gaps SET resolved_at = now() WHERE severity = 'warning'")
        cutting.begin("marketplace", "dual")
        cutting.clean("marketplace")
    cutting.execute(signed)  # the signatures were good all the time
    assert cutting.stores()["marketplace"] == "pg"
    counts("states of a domain that refuse its cutover", len(DIRTY))


def test_back_from_postgres_goes_by_dual_while_mongodb_has_everything(cutting: Cutting) -> None:
    cutting.clean("dispute")
    cutting.cut("dispute", "pg")
    with pytest.raises(ActionRefused, match="cut it over to dual first"):
        cutting.propose("dispute", "mongo")
    with pytest.raises(ActionRefused, match="not compared since Postgres took over"):
        cutting.propose("dispute", "dual")
    cutting.clean("dispute")  # compared after it
    cutting.market.execute(
        "INSERT INTO fleet.outbox (queue, collection, document_id) VALUES ('mirror', 'disputes', uuidv7())"
    )
    with pytest.raises(ActionRefused, match=r"the mirror has still to write 1 document\(s\)"):
        cutting.propose("dispute", "dual")
    cutting.clean("dispute")
    cutting.cut("dispute", "dual")
    assert cutting.stores()["dispute"] == "dual"
    [reads] = cutting.market.execute("SELECT compared, agreed FROM fleet.shadow_reads WHERE domain = 'dispute'")
    assert tuple(reads) == (0, 0)  # what was read before counts for nothing
    assert cutting.refusals("dispute") == (
        "0 answers of both stores agreed since the last that differed, expected 1000: let the releases worker read on",
    )
    cutting.cut("dispute", "mongo")
    cutting.cut("dispute", "dual")
    steps = cutting.market.execute("SELECT from_store, to_store FROM fleet.cutovers ORDER BY number")
    assert [tuple(each) for each in steps] == [("dual", "pg"), ("pg", "dual"), ("dual", "mongo"), ("mongo", "dual")]


def test_what_was_signed_for_another_beginning_is_not_executed(cutting: Cutting) -> None:
    cutting.clean("dispute")
    back = cutting.propose("dispute", "mongo")
    cutting.sign(back.id, "ada", "bob")
    cutting.cut("dispute", "pg")
    cutting.clean("dispute")
    with pytest.raises(ActionRefused, match="dispute is read as pg now, and was as dual when"):
        cutting.execute(back)


# The worker follows


def test_a_setting_of_pg_that_nobody_cut_over_is_refused_and_says_what_to_run(scene: Scene) -> None:
    said = load_settings(
        chains_file=scene.folder / "chains.toml", mongo_url=scene.mongo_url, mongo_database=scene.mongo_database,
        trezor_safekeeping_required=False, repo_dispute="pg",
    )  # fmt: skip
    with pytest.raises(SettingsError, match=r"REPO_DISPUTE is pg.*set it to dual.*fleet cutover dispute --to pg"):
        build(scene.database.engine("fleet_releases"), said)
    worker = said.model_copy(update={"database_url": SecretStr(scene.database.url("fleet_releases"))})
    with pytest.raises(SystemExit, match="fleet cutover dispute --to pg"):
        _refuse_store(worker)  # at the worker's start, before it takes a message
    _refuse_store(worker.model_copy(update={"repo_dispute": "dual"}))


def test_the_worker_says_where_it_begins_and_follows_a_cutover_in_its_next_round(scene: Scene) -> None:
    """One worker, never restarted: MongoDB decides, then Postgres, and MongoDB's word is worth nothing any more."""
    scene.step.sources.repo_dispute = scene.step.sources.repo_marketplace = "dual"
    waiting = scene.payment(completed=False)
    scene.run()
    begun = scene.market.execute("SELECT domain, store FROM fleet.domain_beginnings ORDER BY domain")
    assert [tuple(each) for each in begun] == [("dispute", "dual"), ("marketplace", "dual")]
    action = scene.market.execute(
        "INSERT INTO fleet.operator_actions (kind, chain_id, parameters, parameter_hash, reason, proposed_by) "
        "VALUES ('cutover', 0, '{}', 'x', 'x', 'x') RETURNING id"
    )[0].id
    scene.market.execute(
        "INSERT INTO fleet.cutovers (domain, from_store, to_store, action_id, evidence) "
        "VALUES ('marketplace', 'dual', 'pg', :a, '{}')",
        a=action,
    )
    scene.set_request(waiting, "completed")  # MongoDB's word
    scene.run()
    assert scene.instruction(waiting) is None
    assert scene.step.sources.store_of("marketplace") == "pg"
    assert scene.step.sources.store_of("dispute") == "dual"
    scene.market.execute(
        "UPDATE public.purchase_requests r SET status = 'completed' FROM public.payments p "
        "WHERE p.id = :id AND r.id = p.purchase_request_id",
        id=waiting,
    )
    scene.run()
    assert scene.instruction(waiting).state == "handed_out"
    with transaction(scene.database.engine("fleet_releases")) as connection:
        require_beginnings(connection, {"marketplace": "pg", "dispute": "dual"})


# From an empty Postgres to Postgres alone, by command


def fleet(*arguments: str) -> Any:
    app = typer.Typer(rich_markup_mode="rich")
    command_module.register(app)
    return CliRunner().invoke(app, ["cutover", *arguments])


@pytest.fixture
def configured(
    database: Database, services: Services, mongo_database: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    for name, value in {
        "DATABASE_URL": database.url("fleet_operator"),
        "MONGO_URL": services.mongo_url,
        "MONGO_DATABASE": mongo_database,
        "COLUMNS": "250",
    }.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def opened() -> Iterator[list[Sources]]:
    """Sources whose connections are closed at the end, whatever became of the test."""
    made: list[Sources] = []
    yield made
    for each in made:
        each.close()


def test_an_operators_way_from_mongodb_to_postgres(
    database: Database, services: Services, mongo_database: str, configured: None, tmp_path: Path, opened: list[Sources]
) -> None:
    cutting = Cutting(database, tmp_path)
    with open_mongo(services.mongo_url, application="test-cutover") as client:
        mongo = client[mongo_database]
        fill(mongo, 12)
        unknown = fleet("status")
        assert unknown.exit_code == 0, unknown.output
        assert "nobody has said where dispute is read" in unknown.output
        sources = Sources(
            database.engine("fleet_releases"), None, mongo_database, "dual", "dual",
            open_client=lambda: open_mongo(services.mongo_url, application="test-sources"),
        )  # fmt: skip
        opened.append(sources)
        sources.follow_cutovers()
        [before, _] = json.loads(fleet("status", "--json").stdout)
        assert (before["domain"], before["store"], before["backfilled_percent"]) == ("marketplace", "dual", "0.0")
        refused = fleet("dispute", "--to", "pg", "--by", "mina", "--reason", "too early")
        assert (refused.exit_code, "disputes: its backfill is not finished" in refused.output) == (2, True)
        run(database, mongo)
        assert all(each.is_equal for each in verify(database.engine("fleet_mirror"), mongo))
        with transaction(database.engine("fleet_releases")) as connection:
            payments = [row.id for row in connection.execute(text("SELECT id FROM public.payments"))]
            named = list(references(connection, payments).values())
        for _ in range(-(-1_000 // len(named))):
            sources.read(named)
        shown = fleet("status")
        assert "dispute: nothing stands against --to pg" in shown.output, shown.output
        for domain in COLLECTIONS:
            proposed = fleet(domain, "--to", "pg", "--by", "mina", "--reason", "equal for a week")
            assert proposed.exit_code == 0, proposed.output
            with transaction(database.engine("fleet_operator")) as connection:
                [action] = open_actions(connection, "cutover")
            assert action.hash in fleet("status").output
            assert fleet("agree", str(action.id), "--hash", action.hash, "--by", "omid").exit_code == 2
            cutting.sign(action.id, "ada", "bob")
            agreed = fleet("agree", str(action.id), "--hash", action.hash, "--by", "omid")
            assert agreed.exit_code == 0, agreed.output
        before_it = sources.read(named)
        sources.follow_cutovers()
        assert {sources.store_of(domain) for domain in COLLECTIONS} == {"pg"}
        # MongoDB's word reaches Postgres no more: neither by a comparison nor by a backfill.
        mongo.disputes.update_many({}, {"$set": {"status": "closed_by_a_thief", "updatedAt": datetime.now(UTC)}})
        mongo.purchaserequests.update_many({}, {"$set": {"title": "stolen", "updatedAt": datetime.now(UTC)}})
        one = mongo.disputes.find_one() or {}
        planted = ObjectId()
        mongo.disputes.insert_one({**one, "_id": planted, "status": "resolved", "resolution": {"action": "no_action"}})
        verify(database.engine("fleet_mirror"), mongo, ["disputes", "purchaserequests"], heal=True)
        run(database, mongo)
        found = cutting.market.execute(
            "SELECT g.reason, EXISTS (SELECT FROM public.disputes d WHERE d.legacy_object_id = g.legacy_object_id) AS taken "
            "FROM public.pg_dualwrite_gaps g WHERE g.legacy_object_id = :id AND g.op = 'backfill'",
            id=str(planted),
        )
        assert [(row.reason.partition(":")[0], row.taken) for row in found] == [("_id", False)]
        assert "Postgres alone decides of disputes" in found[0].reason
        rows = cutting.market.execute("SELECT status FROM public.disputes")
        assert rows
        assert "closed_by_a_thief" not in {row.status for row in rows}
        assert cutting.market.execute("SELECT 1 FROM public.purchase_requests WHERE title = 'stolen'") == []
        back = fleet("dispute", "--to", "dual", "--by", "mina", "--reason", "back")
        assert (back.exit_code, "had just been changed" in back.output) == (2, True), back.output
        client.drop_database(mongo_database)
        after = sources.read(named)
        assert {name: (each.status, {one.said for one in each.disputes}) for name, each in after.items()} == {
            name: (each.status, {one.said for one in each.disputes}) for name, each in before_it.items()
        }
    with transaction(database.engine("fleet_releases")) as connection:
        assert cut_over_to(connection) == {"marketplace": "pg", "dispute": "pg"}

"""R10, R13, R20: any one guard stops a deposit address at once; two persons' devices let it go, nothing else does."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import typer
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from typer.testing import CliRunner

from custody.destinations.audit import audit_destinations
from custody.destinations.derivation import account_xpub_from_seed, address_at
from custody.destinations.issuing import Destination, OfferRef, issue_destination, register_deposit_account
from custody.destinations.quarantine import propose_release, quarantine, release
from custody.ledger.adjustments import Action, ActionRefused, open_actions
from custody.policy import SignedFolder
from custody.policy.operator_actions import SignableAction
from custody.releases.approving import judge_approvals
from custody.settings.environment import settings
from custody.store.engine import sqlstate, transaction
from custody.store.roles import PROCESS_ROLES
from custody.trezor.text_rows import rows_of
from tests.approvals import hand_in_approval
from tests.conftest import Database
from tests.marketplace import Marketplace
from tests.policy_files import Fleet
from tests.sweeping import SweepingFleet, World, call, sweeping_world
from workers.cli import destinations

REAL = 56
UNIT = 1_000_000
RULES = [{"name": "books", "kind": "allow", "purposes": ["adjustment"]}]


class Addresses:
    """Addresses issued on a chain with real money; ada, bob and cyd may sign."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.market = Marketplace(database, chain_id=REAL)
        self.operator = database.engine("fleet_operator")
        self.signed = SignedFolder(folder, Fleet(rules=RULES).write_without_book(folder))
        with transaction(self.operator) as connection:
            register_deposit_account(connection, account_xpub_from_seed(b"\x05" * 64))

    def issue(self, name: str = "offer") -> Destination:
        with transaction(self.operator) as connection:
            offer = OfferRef("template", external=name)
            return issue_destination(connection, buyer_id=self.market.user(), offer=offer, chain_id=REAL)

    def stop(self, destination: UUID, reason: str = "odd money", by: str = "mina") -> bool:
        with transaction(self.operator) as connection:
            return quarantine(connection, destination, reason=reason, by=by)

    def standing(self, destination: UUID) -> tuple[str, str | None]:
        [row] = self.market.execute(
            "SELECT status::text, quarantine_reason FROM public.derived_destinations WHERE id = :d", d=destination
        )
        return row.status, row.quarantine_reason

    def propose(self, destination: UUID) -> Action:
        with transaction(self.operator) as connection:
            action = propose_release(connection, destination, reason="looked at", by="mina")
            return next(each for each in open_actions(connection, "readmit") if each.id == action)

    def let_go(self, action: Action, by: str = "omid") -> UUID:
        with transaction(self.operator) as connection:
            return release(connection, action.id, agreed_hash=action.hash, by=by)

    def shown(self, action: Action) -> SignableAction:
        [row] = self.market.execute(
            "SELECT kind, chain_id, parameters::text AS said FROM fleet.operator_actions WHERE id = :i", i=action.id
        )
        return SignableAction(str(action.id), row.kind, row.chain_id, row.said)

    def sign(self, action: Action, *people: str) -> None:
        found = self.shown(action)
        for person in people:
            hand_in_approval(
                self.database.engine("fleet_signer_api"),
                "operator_action",
                action.id,
                found.hash(),
                found.text("amn1"),
                person,
            )
        judge_approvals(self.database.engine("fleet_releases"), self.signed, 100)


@pytest.fixture
def addresses(database: Database, tmp_path: Path) -> Addresses:
    return Addresses(database, tmp_path)


def test_one_guard_stops_and_two_devices_let_go(addresses: Addresses) -> None:
    issued = addresses.issue()
    assert addresses.stop(issued.id)
    assert addresses.standing(issued.id) == ("quarantined", "by mina: odd money")
    assert not addresses.stop(issued.id, "me too", by="omid")  # the first reason stands
    action = addresses.propose(issued.id)
    assert addresses.standing(issued.id)[0] == "quarantined"
    with pytest.raises(ActionRefused, match="nobody signed: each runs fleet signer approve"):
        addresses.let_go(action)
    addresses.sign(action, "ada")
    with pytest.raises(ActionRefused, match="ada signed"):
        addresses.let_go(action)
    with pytest.raises(IntegrityError, match="approvals_one_a_person"):
        addresses.sign(action, "ada")  # once more is no second person
    with pytest.raises(ActionRefused, match="ada signed"):
        addresses.let_go(action)
    addresses.sign(action, "cyd")
    with pytest.raises(ActionRefused, match="another person"):
        addresses.let_go(action, by="mina")
    assert addresses.let_go(action) == issued.id
    assert addresses.standing(issued.id) == ("active", None)
    with pytest.raises(ActionRefused, match="is executed"):
        addresses.let_go(action)
    changes = addresses.market.execute(
        "SELECT count(*) AS n FROM fleet.outbox WHERE collection = 'deriveddestinations' AND document_id = :d",
        d=issued.id,
    )
    assert changes[0].n == 3  # issued, stopped, let go


def test_a_device_shows_which_address_and_why_it_was_stopped(addresses: Addresses) -> None:
    issued = addresses.issue()
    addresses.stop(issued.id, "sanctioned: 5 of it came from a mixer")
    rows = rows_of(addresses.shown(addresses.propose(issued.id)).text("amn1"))
    assert rows[0].strip() == "PAUSE amn1"
    assert rows[1].strip() == "readmit 56"
    assert "".join(rows[3:6]).strip() == issued.address
    assert "".join(rows[6:8]).strip() == "by mina: sanctioned: 5 of it came fr"
    assert len(rows) == 12


def test_what_happens_after_the_proposal_is_proposed_anew(addresses: Addresses) -> None:
    issued = addresses.issue()
    addresses.stop(issued.id)
    action = addresses.propose(issued.id)
    addresses.sign(action, "ada", "bob")
    addresses.market.execute(
        "UPDATE public.derived_destinations SET quarantine_reason = 'sanctioned: it is worse' WHERE id = :d",
        d=issued.id,
    )
    with pytest.raises(ActionRefused, match="no longer as it was"):
        addresses.let_go(action)
    assert addresses.standing(issued.id)[0] == "quarantined"
    addresses.market.execute(
        "UPDATE fleet.operator_actions SET parameters = jsonb_set(parameters, '{quarantine_reason}', '\"fine\"') "
        "WHERE id = :i RETURNING id",
        i=action.id,
    )
    with pytest.raises(ActionRefused, match="other parameters than were shown"):
        addresses.let_go(action)


def test_nobody_signs_that_a_stranger_s_address_is_ours(addresses: Addresses) -> None:
    issued = addresses.issue()
    theirs = address_at(account_xpub_from_seed(b"\x07" * 64), 0)
    addresses.market.execute("UPDATE public.derived_destinations SET address = :a WHERE id = :d", a=theirs, d=issued.id)
    audit_destinations(addresses.database.engine("fleet_housekeeping"))
    assert addresses.standing(issued.id)[0] == "quarantined"
    [alarm] = addresses.market.execute("SELECT sentence FROM fleet.alarms WHERE kind = 'quarantine'")
    assert theirs in alarm.sentence
    with pytest.raises(ActionRefused, match="does not come from its deposit account"):
        addresses.propose(issued.id)
    # Restored from a backup, it is audited again, and people may let it go.
    addresses.market.execute(
        "UPDATE public.derived_destinations SET address = :a WHERE id = :d", a=issued.address, d=issued.id
    )
    audit_destinations(addresses.database.engine("fleet_housekeeping"))
    action = addresses.propose(issued.id)
    addresses.sign(action, "ada", "bob")
    addresses.let_go(action)
    assert addresses.standing(issued.id)[0] == "active"


def test_no_process_lets_an_address_go(addresses: Addresses) -> None:
    issued = addresses.issue()
    addresses.stop(issued.id)
    codes: set[str | None] = set()
    for role in PROCESS_ROLES:
        for statement in (
            "UPDATE public.derived_destinations SET status = 'active'",
            "UPDATE public.derived_destinations SET status = 'swept', quarantine_reason = NULL, updated_at = now()",
            f"SELECT fleet.execute_readmission('{issued.id}', '\\x00', 'x')",
            "DELETE FROM public.derived_destinations",
        ):
            with addresses.database.engine(role).connect() as connection, pytest.raises(DBAPIError) as refused:
                connection.execute(text(statement))
            codes.add(sqlstate(refused.value))
    assert codes == {"42501", "FL006"}
    assert addresses.standing(issued.id) == ("quarantined", "by mina: odd money")


def test_totals_follow_from_the_sweeps_and_nobody_writes_them(addresses: Addresses) -> None:
    issued, other = addresses.issue(), addresses.issue("another")
    sweep = (
        "INSERT INTO public.derived_destination_sweeps (derived_destination_id, chain_id, token_address, transaction_hash, "
        "log_index, from_address, to_address, amount) VALUES (:d, 56, 't', :h, 0, 'f', 'to', :n)"
    )
    with transaction(addresses.database.engine("fleet_sweeps")) as connection:
        for number, amount in enumerate((5, 7)):
            connection.execute(text(sweep), {"d": issued.id, "h": f"0x{number}", "n": amount})

    def totals() -> list[tuple[int, int]]:
        rows = addresses.market.execute(
            "SELECT sweep_count, total_swept FROM public.derived_destinations ORDER BY derivation_index"
        )
        return [(row.sweep_count, int(row.total_swept)) for row in rows]

    assert totals() == [(2, 12), (0, 0)]
    for statement in (
        "UPDATE public.derived_destinations SET total_swept = 13",
        "UPDATE public.derived_destinations SET sweep_count = 1",
        "UPDATE public.derived_destination_sweeps SET amount = 6",
        "DELETE FROM public.derived_destination_sweeps",
        "TRUNCATE public.derived_destination_sweeps",
    ):
        for role in PROCESS_ROLES:
            with addresses.database.engine(role).connect() as connection, pytest.raises(DBAPIError) as refused:
                connection.execute(text(statement))
            assert sqlstate(refused.value) == "42501", (role, statement)
        # Not even whoever could: the triggers refuse.
        with (
            addresses.database.engine().connect() as connection,
            pytest.raises(DBAPIError, match=r"append-only|follow from"),
        ):
            connection.execute(text(statement))
    assert totals() == [(2, 12), (0, 0)]
    assert other.id != issued.id


# With sweeps under way ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with sweeping_world() as made:
        yield made


Run = Callable[..., Any]


@pytest.fixture
def command(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    app = typer.Typer(rich_markup_mode="rich")
    destinations.register(app)
    monkeypatch.setenv("DATABASE_URL", database.url("fleet_operator"))
    monkeypatch.setenv("COLUMNS", "250")
    settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(app, ["destinations", *arguments])
    settings.cache_clear()


def test_a_refused_address_is_released_by_command_and_swept(world: World, database: Database, command: Run) -> None:
    fleet = SweepingFleet(world, database, world.contracts.usdt)
    payment = fleet.payment(UNIT)
    fleet.pay(payment, UNIT)
    address = fleet.address(payment)
    assert command("quarantine", address, "--by", "mina", "--reason", "a look first").exit_code == 0
    fleet.run()
    assert fleet.jobs() == []
    listed = command("list", "--status", "quarantined")
    assert address in listed.output
    assert "by mina: a look first" in listed.output
    again = command("quarantine", address, "--by", "omid", "--reason", "me too")
    assert "its reason stands: by mina: a look first" in again.output
    proposed = command("release", address, "--by", "mina", "--reason", "looked at")
    assert proposed.exit_code == 0, proposed.output
    with database.engine("fleet_operator").connect() as connection:
        [action] = open_actions(connection, "readmit")
    shown = command("show", address)
    for part in (address, action.hash, str(payment), "quarantined: by mina: a look first"):
        assert part in shown.output
    assert command("agree", str(action.id), "--hash", "00", "--by", "omid").exit_code == 2
    agreed = command("agree", str(action.id), "--hash", action.hash, "--by", "omid")
    assert agreed.exit_code == 0, agreed.output
    fleet.run()
    assert fleet.destination(payment) == ("swept", 1, UNIT, None)
    assert command("release", address, "--by", "mina", "--reason", "x").exit_code == 2
    assert command("show", "nowhere").exit_code == 2
    fleet.assert_books_equal_chain()


def test_a_sweep_stopped_on_its_way_goes_on_where_it_stood(world: World, database: Database) -> None:
    fleet = SweepingFleet(world, database, world.contracts.usdt)
    payment = fleet.payment(UNIT)
    fleet.pay(payment, UNIT)
    assert fleet.round() > 0  # the top-up is sent
    [row] = fleet.market.execute(
        "SELECT id FROM public.derived_destinations WHERE address = :a", a=fleet.address(payment)
    )
    operator = database.engine("fleet_operator")
    with transaction(operator) as connection:
        assert quarantine(connection, row.id, reason="a look first", by="mina")
    fleet.run()
    assert [reason for _, reason in fleet.jobs()] == ["quarantined"]
    assert fleet.count("SELECT count(*) FROM fleet.chain_transactions WHERE purpose = 'sweep'") == 0
    with transaction(operator) as connection:
        propose_release(connection, row.id, reason="looked at", by="mina")
        [action] = open_actions(connection, "readmit")
        release(connection, action.id, agreed_hash=action.hash, by="omid")
    assert fleet.destination(payment)[0] == "sweeping"
    fleet.run()
    assert fleet.destination(payment) == ("swept", 1, UNIT, None)
    fleet.assert_books_equal_chain()


def test_what_people_were_told_of_a_failed_sweep_is_settled_with_it(world: World, database: Database) -> None:
    fleet = SweepingFleet(world, database, world.contracts.usdt)
    payment = fleet.payment(UNIT)
    fleet.pay(payment, UNIT)
    call(world, fleet.token, "addBlackList(address)", fleet.address(payment))
    fleet.run()
    assert fleet.destination(payment)[0] == "quarantined"
    call(world, fleet.token, "removeBlackList(address)", fleet.address(payment))
    operator = database.engine("fleet_operator")
    [row] = fleet.market.execute(
        "SELECT id FROM public.derived_destinations WHERE address = :a", a=fleet.address(payment)
    )
    [dead] = fleet.market.execute("SELECT unblocks FROM fleet.dead_work WHERE resolved_at IS NULL")
    assert f"fleet destinations release {row.id}" in dead.unblocks
    with transaction(operator) as connection:
        propose_release(connection, row.id, reason="off the list", by="mina")
        [action] = open_actions(connection, "readmit")
        release(connection, action.id, agreed_hash=action.hash, by="omid")
    assert fleet.count("SELECT count(*) FROM fleet.dead_work WHERE resolved_at IS NULL") == 0
    fleet.run()
    assert fleet.destination(payment)[0] == "swept"
    fleet.assert_books_equal_chain()

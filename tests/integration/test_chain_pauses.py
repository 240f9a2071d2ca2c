"""Going on after a pause (L14, R10): any one guard stops a chain, two persons let it go on, and what it was for is settled."""

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
import typer
from typer.testing import CliRunner

from custody.chain import erc20
from custody.chain.house_funding import book_funding
from custody.chain.outflows import watch_outflows
from custody.chain.pauses import chain_states, go_on, pause, propose_go_on
from custody.ledger import Entry, post
from custody.ledger.adjustments import ActionRefused, execute, open_actions, propose_cover, withdraw
from custody.settings.environment import settings
from custody.store.engine import transaction
from custody.store.work import bury
from tests.conftest import Database
from tests.integration.chain_fixtures import WatchingFleet, units
from tests.losing import LosingFleet
from tests.marketplace import CHAIN_ID, Marketplace
from tests.scanning import scanned
from workers.cli import chain as command


@pytest.fixture
def market(database: Database) -> Marketplace:
    made = Marketplace(database)
    made.execute(
        "INSERT INTO fleet.chain_cursors (chain_id, head_number, head_hash, head_timestamp, agreed_number) "
        "VALUES (31337, 12, '0xhead', now(), 9)"
    )
    return made


def proposed(database: Database, by: str = "mina") -> tuple[UUID, str]:
    with transaction(database.engine("fleet_operator")) as connection:
        action = propose_go_on(connection, CHAIN_ID, reason="looked at", by=by)
        return action, next(one.hash for one in open_actions(connection, "go_on") if one.id == action)


def gone_on(database: Database, action: UUID, agreed: str, by: str = "omid") -> int:
    with transaction(database.engine("fleet_operator")) as connection:
        return go_on(connection, action, agreed_hash=agreed, by=by)


def paused(database: Database, chain_id: int = CHAIN_ID, by: str = "mina") -> bool:
    with transaction(database.engine("fleet_operator")) as connection:
        return pause(connection, chain_id, reason="it looks odd", by=by)


def bury_outflow(database: Database, place: int) -> None:
    with transaction(database.engine("fleet_watcher")) as connection:
        bury(
            connection, queue="watcher", subject_kind="treasury_transaction", subject_id=f"31337:0x99:{place}",
            reason="r", unblocks="u", attempts=1,
        )  # fmt: skip


def test_one_guard_pauses_at_once_and_the_first_reason_stands(market: Marketplace) -> None:
    assert paused(market.database)
    assert not paused(market.database, by="omid")
    with transaction(market.database.engine("fleet_operator")) as connection:
        [state] = chain_states(connection)
    assert state.paused_reason == "paused by mina: it looks odd"
    with pytest.raises(LookupError, match="no watcher has seen"):
        paused(market.database, 1337)


def test_another_person_lets_it_go_on_once(market: Marketplace) -> None:
    database = market.database
    with pytest.raises(ActionRefused, match="is not paused"):
        proposed(database)
    paused(database)
    action, agreed = proposed(database)
    with pytest.raises(ActionRefused, match="another person executes it"):
        gone_on(database, action, agreed, by="mina")
    with pytest.raises(ActionRefused, match="other parameters"):
        gone_on(database, action, "00" * 32)
    with pytest.raises(ActionRefused, match="of kind go_on"), transaction(database.engine("fleet_operator")) as c:
        execute(c, action, agreed_hash=agreed, by="omid")
    assert gone_on(database, action, agreed) == 0
    [cursor] = market.execute("SELECT paused_reason, paused_at FROM fleet.chain_cursors")
    assert tuple(cursor) == (None, None)
    with pytest.raises(ActionRefused, match="only a proposed one"):
        gone_on(database, action, agreed)


def test_what_happened_since_it_was_proposed_was_not_agreed_on(market: Marketplace) -> None:
    """More work behind the pause, or another pause: the two look again."""
    database = market.database
    paused(database)
    bury_outflow(database, 1)
    action, agreed = proposed(database)
    bury_outflow(database, 2)
    with pytest.raises(ActionRefused, match="no longer as it was"):
        gone_on(database, action, agreed)
    with transaction(database.engine("fleet_operator")) as connection:
        withdraw(connection, action, by="mina")
    second, agreed_now = proposed(database)
    third, agreed_too = proposed(database, by="omid")
    assert gone_on(database, second, agreed_now) == 2
    paused(database)
    with pytest.raises(ActionRefused, match="no longer as it was"):
        gone_on(database, third, agreed_too, by="mina")


def test_only_what_the_pause_was_for_is_settled(market: Marketplace) -> None:
    """A deposit without a payment waits for one, and another chain's theft for its own people."""
    database = market.database
    waiting = market.fact(market.payment())
    with transaction(database.engine("fleet_watcher")) as connection:
        for kind, subject in (("chain_fact", str(waiting)), ("treasury_transaction", "1:0x99:0"), ("chain_look", "x")):
            bury(
                connection, queue="watcher", subject_kind=kind, subject_id=subject, reason="r", unblocks="u", attempts=1
            )
    paused(database)
    bury_outflow(database, 1)
    assert gone_on(database, *proposed(database)) == 1
    left = market.execute("SELECT subject_kind FROM fleet.dead_work WHERE resolved_at IS NULL")
    assert sorted(row.subject_kind for row in left) == ["chain_fact", "chain_look", "treasury_transaction"]
    [done] = market.execute("SELECT resolved_by FROM fleet.dead_work WHERE resolved_at IS NOT NULL")
    assert done.resolved_by.startswith("action:")


def test_where_money_is_real_it_waits_for_signatures(market: Marketplace) -> None:
    market.execute(
        "INSERT INTO fleet.chain_cursors (chain_id, head_number, head_hash, head_timestamp, paused_reason, paused_at) "
        "VALUES (1, 1, '0x', now(), 'a theft', now())"
    )
    with transaction(market.database.engine("fleet_operator")) as connection:
        action = propose_go_on(connection, 1, reason="r", by="mina")
        agreed = next(one.hash for one in open_actions(connection, "go_on") if one.id == action)
    with pytest.raises(ActionRefused, match="signatures of two persons, nobody signed"):
        gone_on(market.database, action, agreed)


# After a loss --------------------------------------------------------------------------------------------------------


@pytest.fixture
def losing(fleet: WatchingFleet) -> Iterator[LosingFleet]:
    made = LosingFleet(fleet)
    yield made
    made.close()


def test_a_chain_goes_on_after_a_deep_reorganisation(losing: LosingFleet) -> None:
    """The lost deposit and its vanished sweep are settled with the pause, and stop nobody again (L14)."""
    fleet = losing.fleet
    expected, _ = losing.held()
    losing.sweep(expected)
    losing.reorganise(2)
    losing.see()
    assert len(losing.dead_work()) == 2
    assert gone_on(fleet.database, *proposed(fleet.database)) == 2
    assert (losing.paused(), losing.dead_work()) == (None, {})
    fleet.world.chain.mine()
    losing.reorganise(1)
    losing.see()
    assert losing.paused() is None
    losing.require_books_equal_chain()
    losing.held()  # the fleet works: the next payment is held


def test_the_house_covers_a_loss_with_its_own_coins(losing: LosingFleet) -> None:
    """covered: the payment has its coins again, the loss is the house's, and no coin moved (L5, L22)."""
    fleet, database = losing.fleet, losing.fleet.database
    expected, _ = losing.held()
    losing.sweep(expected)
    losing.reorganise(2)
    losing.see()
    with transaction(database.engine("fleet_watcher")) as connection:
        post(
            connection,
            Entry(
                book_kind="house", book_id=losing.house, chain_id=CHAIN_ID, token=fleet.token, entry_type="adjustment",
                reason="funding", debit="treasury_house", credit="gas_funding", amount=Decimal(100), key="own coins",
                debit_address=losing.chain.treasury,
            ),
        )  # fmt: skip
    world = fleet.world
    world.buyer.wait(world.buyer.send(fleet.token, _transfer(losing.chain.treasury, 100)))
    fleet.watch()
    losing.require_books_equal_chain()
    with transaction(database.engine("fleet_operator")) as connection:
        action = propose_cover(connection, expected.payment, Decimal(100), reason="insured", by="mina")
        [agreed] = [one.hash for one in open_actions(connection) if one.id == action]
    with transaction(database.engine("fleet_operator")) as connection:
        execute(connection, action, agreed_hash=agreed, by="omid")
    balance = fleet.market.balance(expected.payment)
    assert (balance["treasury"], balance["held"], balance["loss"], balance["overdraft"]) == (100, 100, 0, 0)
    house = fleet.market.balance(losing.house)
    assert (house["treasury_house"], house["loss"]) == (0, 100)
    losing.require_books_equal_chain()
    with pytest.raises(LookupError, match="no loss"), transaction(database.engine("fleet_operator")) as connection:
        propose_cover(connection, expected.payment, Decimal(1), reason="again", by="mina")
    # What comes back after it was covered is new money: it is seen, and nothing is recovered twice.
    fleet.watch(fleet.pay(expected, 7))
    losing.require_books_equal_chain()


def test_a_loss_is_never_covered_on_one_side_only(losing: LosingFleet) -> None:
    fleet, database = losing.fleet, losing.fleet.database
    expected, _ = losing.held()
    losing.sweep(expected)
    losing.reorganise(2)
    losing.see()
    one_side = {
        "book_kind": "payment", "book_id": str(expected.payment), "chain_id": CHAIN_ID, "token": fleet.token,
        "reason": "covered", "debit": "overdraft", "credit": "loss", "amount": "100",
        "debit_address": losing.chain.treasury,
    }  # fmt: skip
    other_amount = {
        "book_kind": "house", "book_id": str(losing.house), "chain_id": CHAIN_ID, "token": fleet.token,
        "reason": "covered", "debit": "loss", "credit": "treasury_house", "amount": "1",
        "credit_address": losing.chain.treasury,
    }  # fmt: skip
    for parameters in (one_side, other_amount, {**one_side, "house": other_amount}):
        [action] = fleet.market.execute(
            "SELECT fleet.propose_adjustment(CAST(:p AS jsonb), 'r', 'mina') AS id", p=json.dumps(parameters)
        )
        [row] = fleet.market.execute("SELECT * FROM fleet.operator_actions WHERE id = :id", id=action.id)
        with pytest.raises(ActionRefused, match="one side only"), transaction(database.engine("fleet_operator")) as c:
            execute(c, row.id, agreed_hash=bytes(row.parameter_hash).hex(), by="omid")


def _transfer(recipient: str, amount: int) -> bytes:
    return erc20.encode_transfer(recipient, units(amount))


# The commands --------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(market: Marketplace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    app = typer.Typer()
    command.register(app)
    monkeypatch.setenv("DATABASE_URL", market.database.url("fleet_operator"))
    monkeypatch.setenv("COLUMNS", "400")
    settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(app, ["chain", *arguments])
    settings.cache_clear()


def test_fleet_chain(market: Marketplace, run: Callable[..., Any]) -> None:
    market.execute(
        "INSERT INTO fleet.chain_nodes (chain_id, place, url, state, reason, head_number) VALUES "
        "(31337, 0, 'http://one', 'healthy', NULL, 12), (31337, 1, 'http://two', 'aside', '[red]it lies[/red]', 7)"
    )
    answer = run("status")
    assert answer.exit_code == 0
    for expected in ("12", "9", "3 blocks", "http://two", "aside", "[red]it lies[/red]"):
        assert expected in answer.output
    assert run("pause", "31337", "--by", "mina", "--reason", "it looks odd").exit_code == 0
    assert "already" in run("pause", "31337", "--by", "omid", "--reason", "me too").output
    said = run("go-on", "31337", "--by", "mina", "--reason", "it was nothing")
    assert said.exit_code == 0
    action = said.output.split()[2].rstrip(";")
    [row] = market.execute("SELECT encode(parameter_hash, 'hex') AS h FROM fleet.operator_actions")
    shown = run("status")
    assert (shown.exit_code, action in shown.output, row.h in shown.output) == (1, True, True)
    assert "paused by mina: it looks odd" in shown.output
    [state] = json.loads(run("status", "--json").output)
    assert (state["lag_blocks"], state["paused_reason"]) == (3, "paused by mina: it looks odd")
    refused = run("agree", action, "--by", "mina", "--hash", row.h)
    assert (refused.exit_code, "another person" in refused.output) == (2, True)
    assert run("agree", action, "--by", "omid", "--hash", "nonsense").exit_code == 2
    assert run("agree", action, "--by", "omid", "--hash", row.h).exit_code == 0
    assert run("status").exit_code == 0
    assert run("withdraw", action, "--by", "omid").exit_code == 2
    assert run("go-on", "31337", "--by", "mina", "--reason", "again").exit_code == 2


def test_a_theft_that_was_settled_stops_nobody_again(losing: LosingFleet) -> None:
    """R5, R10: the same block looked at again, and the next ones."""
    fleet, world = losing.fleet, losing.fleet.world
    expected, _ = losing.held()
    losing.sweep(expected)
    book_funding(fleet.watcher, world.client, losing.chain, fleet.block_watch.fence, world.client.head())
    losing.treasury.wait(losing.treasury.send(fleet.token, _transfer(expected.destination, 10)))
    theft = world.client.head().number
    fleet.watch()

    def watch(number: int) -> int:
        with transaction(fleet.watcher) as connection:
            return watch_outflows(connection, losing.chain, scanned(world, losing.chain.treasury, number))

    assert watch(theft) == 3
    assert gone_on(fleet.database, *proposed(fleet.database)) == 3
    world.chain.mine()
    assert (watch(theft), watch(theft + 1), losing.paused()) == (0, 0, None)

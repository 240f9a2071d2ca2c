"""R13: a sanctioned sender's money is locked for good, and only more than dust of it stops a deposit address."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import typer
from eth_account import Account
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from typer.testing import CliRunner

from custody.chain import erc20
from custody.ledger import BookTooSmall, Entry, LedgerRefusal, post
from custody.ledger.adjustments import ActionRefused, execute, open_actions, propose
from custody.payments.sanctions_lists import SanctionsList, delist, load_list, propose_delisting
from custody.releases.refunds import OrderRefused, order_by_hand
from custody.releases.surplus import order_surplus
from custody.settings.environment import settings
from custody.store.engine import transaction
from tests.integration.chain_fixtures import (
    ChainWorld,
    Died,
    Expected,
    WatchingFleet,
    dying_at,
    snapshot,
    units,
)
from tests.marketplace import CHAIN_ID
from tests.payment_scene import waits
from workers.cli import sanctions
from workers.demo.contracts import mint
from workers.demo.wallet import Wallet


@pytest.fixture(scope="module")
def crook(watched_world: ChainWorld) -> Wallet:
    """A payer whom the list names."""
    world = watched_world
    wallet = Wallet.open(world.chain.rpc_url, world.chain.new_account())
    world.deployer.wait(mint(world.deployer, world.contracts, world.contracts.usdc, wallet.address, units(10_000)))
    return wallet


def list_of(*addresses: str, version: int = 1) -> SanctionsList:
    return SanctionsList(version=version, source="a test", addresses=addresses)


def load(fleet: WatchingFleet, found: SanctionsList) -> int | None:
    with transaction(fleet.database.engine("fleet_operator")) as connection:
        return load_list(connection, found, by="mina")


@pytest.fixture
def listed(fleet: WatchingFleet, crook: Wallet) -> SanctionsList:
    found = list_of(crook.address, Account.create().address)
    assert load(fleet, found) == 2
    return found


def sent_by(wallet: Wallet, fleet: WatchingFleet, to: Expected, amount: str) -> str:
    sent = wallet.send(fleet.token, erc20.encode_transfer(to.destination, units(Decimal(amount))))
    wallet.wait(sent)
    return sent


def settle(fleet: WatchingFleet, *sent: str) -> None:
    fleet.watch(*sent)
    fleet.hold()
    assert fleet.books_equal_chain()


def locked(fleet: WatchingFleet, payment: UUID) -> Decimal:
    [row] = fleet.market.execute("SELECT fleet.sanctioned_of(:p, :c, :t) AS n", p=payment, c=CHAIN_ID, t=fleet.token)
    return row.n


def test_it_waits_in_suspense_and_its_address_is_stopped(
    fleet: WatchingFleet, crook: Wallet, listed: SanctionsList
) -> None:
    payment = fleet.payment(100)
    settle(fleet, sent_by(crook, fleet, payment, "100"))
    assert fleet.books(payment.payment) == {"PAID": {"destination": Decimal(100), "suspense": Decimal(100)}}
    assert fleet.market.state(payment.payment) == ("processing", None)
    status, reason = fleet.standing_of(payment.destination)
    assert status == "quarantined"
    assert reason == f"sanctioned: 100 of {fleet.token} came for payment {payment.payment} from {crook.address}"
    [entry] = fleet.market.execute("SELECT reason, metadata FROM public.funds_ledger_entries WHERE credit = 'suspense'")
    assert entry.reason == "sanctioned"
    assert (entry.metadata["sanctions_version"], entry.metadata["sanctions_hash"]) == (1, listed.hash())
    [alarm] = fleet.market.execute("SELECT sentence FROM fleet.alarms WHERE kind = 'quarantine'")
    assert payment.destination in alarm.sentence
    [locked_wait, *_] = waits(fleet.market, payment.payment)
    assert locked_wait[0].startswith(f"100 PAID came from {crook.address}, whom a sanctions list names")
    assert "fleet sanctions delist" in locked_wait[1]


@pytest.mark.parametrize(
    ("expected", "parts", "status"),
    [
        (100, ["0.999999"], "active"),
        (100, ["1"], "quarantined"),
        (100, ["0.6", "0.6"], "quarantined"),
        (1_000, ["9.999999"], "active"),
        (1_000, ["10"], "quarantined"),
    ],
)
def test_less_than_a_unit_and_a_hundredth_freezes_no_honest_buyer(
    fleet: WatchingFleet, crook: Wallet, listed: SanctionsList, expected: int, parts: list[str], status: str
) -> None:
    payment = fleet.payment(expected)
    settle(fleet, *(sent_by(crook, fleet, payment, part) for part in parts), fleet.pay(payment))
    total = sum(map(Decimal, parts))
    assert fleet.books(payment.payment)["PAID"] == {
        "destination": expected + total, "held": Decimal(expected), "suspense": total,
    }  # fmt: skip
    assert fleet.market.state(payment.payment) == ("confirmed", "funded")
    assert fleet.standing_of(payment.destination)[0] == status
    assert locked(fleet, payment.payment) == total


def test_parts_that_are_dust_each_add_up_over_rounds(
    fleet: WatchingFleet, crook: Wallet, listed: SanctionsList
) -> None:
    payment = fleet.payment(100)
    settle(fleet, sent_by(crook, fleet, payment, "0.7"))
    assert fleet.standing_of(payment.destination)[0] == "active"
    settle(fleet, sent_by(crook, fleet, payment, "0.7"))
    status, reason = fleet.standing_of(payment.destination)
    assert (status, (reason or "")[:18]) == ("quarantined", "sanctioned: 1.4 of")


def test_no_way_out_takes_the_locked_share(fleet: WatchingFleet, crook: Wallet, listed: SanctionsList) -> None:
    """Neither two persons, nor a refund, nor a posting of the releases worker's own; what an honest buyer paid too much
    goes back."""
    payment = fleet.payment(100)
    settle(fleet, sent_by(crook, fleet, payment, "0.5"), fleet.pay(payment, 130))
    book = payment.payment
    assert fleet.books(book)["PAID"]["suspense"] == Decimal("30.5")
    operator, releases = (fleet.database.engine(role) for role in ("fleet_operator", "fleet_releases"))
    with transaction(operator) as connection:
        action = propose(connection, book, "accepted", Decimal("30.1"), reason="all of it", by="mina")
        [shown] = open_actions(connection)
    with transaction(operator) as connection, pytest.raises(LedgerRefusal, match="never released"):
        execute(connection, action, agreed_hash=shown.hash, by="omid")
    with transaction(operator) as connection, pytest.raises(OrderRefused, match="30 PAID are suspense"):
        order_by_hand(connection, book, amount=Decimal("30.1"), source="suspense", reason="all", by="mina")
    # The coins are in the treasury by now, and the worker asks for them itself.
    sweep = fleet.market.moved_fact(units(Decimal("130.5")), "sweep", fleet.chain.treasury)
    instruction = fleet.market.execute(
        "INSERT INTO fleet.release_instructions (payment_id, purpose, chain_id, treasury, token, recipient, amount, "
        "amount_units, release_epoch, source) VALUES (:p, 'refund', :c, :a, :t, :a, 30.1, 30100000, 0, 'suspense') "
        "RETURNING id",
        p=book,
        c=CHAIN_ID,
        a=fleet.chain.treasury,
        t=fleet.token,
    )[0].id

    def entry(entry_type: str, reason: str, debit: str, credit: str, amount: str, **more: Any) -> Entry:
        return Entry(
            book_kind="payment", book_id=book, chain_id=CHAIN_ID, token=fleet.token, entry_type=entry_type, reason=reason,
            debit=debit, credit=credit, amount=Decimal(amount), key=f"test:{reason}:{amount}", **more,
        )  # fmt: skip

    with transaction(fleet.database.engine("fleet_sweeps")) as connection:
        moved = {"debit_address": fleet.chain.treasury, "credit_address": payment.destination, "fact_id": sweep}
        post(connection, entry("adjustment", "sweep", "treasury", "destination", "130.5", **moved))
    with transaction(releases) as connection, pytest.raises(BookTooSmall, match="never released"):
        post(connection, entry("refund", "reserve", "suspense", "refunding", "30.1", instruction_id=instruction))
    assert order_surplus(releases, Decimal(1), 10) == 1
    with transaction(releases) as connection:
        post(connection, entry("refund", "reserve", "suspense", "refunding", "30", instruction_id=instruction))
    assert fleet.books(book)["PAID"]["suspense"] == Decimal("0.5") == locked(fleet, book)


def test_a_judgement_that_dies_anywhere_leaves_nothing_half_done(
    fleet: WatchingFleet, crook: Wallet, listed: SanctionsList
) -> None:
    payment = fleet.payment(100)
    fleet.watch(sent_by(crook, fleet, payment, "40"), fleet.pay(payment))
    before = snapshot(fleet.database)
    deaths = 0
    while snapshot(fleet.database) == before:  # each death before the commit left everything as it was
        deaths += 1
        with dying_at(fleet.confirmations, deaths), suppress(Died):
            fleet.hold()
    assert deaths > 15
    assert fleet.hold() == 0  # judged once
    assert fleet.books(payment.payment)["PAID"] == {
        "destination": Decimal(140), "held": Decimal(100), "suspense": Decimal(40),
    }  # fmt: skip
    assert fleet.standing_of(payment.destination)[0] == "quarantined"


def test_two_persons_take_an_address_off_on_one_chain(
    fleet: WatchingFleet, crook: Wallet, listed: SanctionsList
) -> None:
    payment = fleet.payment(100)
    settle(fleet, sent_by(crook, fleet, payment, "0.5"))
    assert locked(fleet, payment.payment) == Decimal("0.5")
    operator = fleet.database.engine("fleet_operator")
    with transaction(operator) as connection, pytest.raises(ActionRefused, match="no sanctions list names"):
        propose_delisting(connection, CHAIN_ID, Account.create().address, reason="r", by="mina")
    with transaction(operator) as connection:
        elsewhere = propose_delisting(connection, 56, crook.address, reason="acquitted", by="mina")
        action = propose_delisting(connection, CHAIN_ID, crook.address, reason="acquitted", by="mina")
        found = {each.id: each for each in open_actions(connection, "delist")}
    # Where money is real two devices must have signed.
    with transaction(operator) as connection, pytest.raises(ActionRefused, match="nobody signed"):
        delist(connection, elsewhere, agreed_hash=found[elsewhere].hash, by="omid")
    with transaction(operator) as connection, pytest.raises(ActionRefused, match="another person"):
        delist(connection, action, agreed_hash=found[action].hash, by="mina")
    with transaction(operator) as connection:
        assert delist(connection, action, agreed_hash=found[action].hash, by="omid") == crook.address
    assert locked(fleet, payment.payment) == 0
    settle(fleet, sent_by(crook, fleet, payment, "99.5"))
    assert fleet.books(payment.payment)["PAID"]["held"] == Decimal("99.5")
    with fleet.database.engine("fleet_confirmations").connect() as connection:
        named = connection.execute(text("SELECT fleet.sanctioned_among(56, :s)"), {"s": [crook.address]}).scalars()
        assert list(named) == [crook.address]


def test_a_list_only_adds_and_no_older_one_is_taken(fleet: WatchingFleet) -> None:
    first, second, third = (Account.create().address for _ in range(3))
    assert load(fleet, list_of(first, second, version=5)) == 2
    assert load(fleet, list_of(second, first, version=5)) is None
    for other in (list_of(first, third, version=5), list_of(third, version=4)):
        with pytest.raises(ActionRefused, match="expected a newer version"):
            load(fleet, other)
    assert load(fleet, list_of(third, version=6)) == 1
    with fleet.database.engine("fleet_operator").connect() as connection:
        named = connection.execute(
            text("SELECT fleet.sanctioned_among(1, :s)"), {"s": [first, second, third]}
        ).scalars()
        assert set(named) == {first, second, third}
        with pytest.raises(DBAPIError, match="they changed on the way"):
            connection.execute(
                text("SELECT fleet.load_sanctions(7, :a, :h, 's', 'mina')"), {"a": [first], "h": b"\1" * 32}
            )
    for table in ("sanctions_lists", "sanctioned_addresses"):
        for statement in (f"DELETE FROM fleet.{table} RETURNING 1", f"TRUNCATE fleet.{table} CASCADE"):
            with pytest.raises(DBAPIError, match="only grows"):
                fleet.market.execute(statement)


@pytest.fixture
def command(fleet: WatchingFleet, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    app = typer.Typer(rich_markup_mode="rich")
    sanctions.register(app)
    monkeypatch.setenv("DATABASE_URL", fleet.database.url("fleet_operator"))
    monkeypatch.setenv("COLUMNS", "200")
    settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(app, ["sanctions", *arguments])
    settings.cache_clear()


def test_the_commands_say_what_is_named_and_since_when(fleet: WatchingFleet, command: Any, tmp_path: Path) -> None:
    assert command("status").exit_code == 1
    address, other = Account.create().address, Account.create().address
    file = tmp_path / "list.toml"
    file.write_text(f'version = 9\nsource = "a test"\naddresses = ["{address}"]\n')
    found = list_of(address, version=9)
    refused = command("load", str(file), "--by", "mina", "--hash", "ab" * 32)
    assert (refused.exit_code, found.hash() in refused.output) == (2, True)
    assert "1 addresses, 1 of them new" in command("load", str(file), "--by", "mina", "--hash", found.hash()).output
    assert "loaded already" in command("load", str(file), "--by", "mina").output
    shown = command("status")
    assert (shown.exit_code, found.hash() in shown.output) == (0, True)
    named = command("check", address)
    assert (named.exit_code, named.output.strip()) == (1, f"{address} is named since list 9")
    assert command("check", other).exit_code == 0
    proposed = command("delist", address, "--chain", str(CHAIN_ID), "--by", "mina", "--reason", "acquitted")
    assert proposed.exit_code == 0, proposed.output
    with fleet.database.engine("fleet_operator").connect() as connection:
        [action] = open_actions(connection, "delist")
    assert action.hash in command("status").output
    agreed = command("agree", str(action.id), "--hash", action.hash, "--by", "omid")
    assert (agreed.exit_code, address in agreed.output) == (0, True)
    assert f"taken off on chain {CHAIN_ID}" in command("check", address).output

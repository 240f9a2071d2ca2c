"""`fleet explain`: each wait is told, with since when and what unblocks it (rule 8)."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
import typer
from typer.testing import CliRunner

from custody.ledger import Entry, post
from custody.payments.story import Wait
from custody.settings.environment import settings
from custody.store.engine import transaction
from tests.conftest import Database
from tests.marketplace import CHAIN_ID, TOKEN, Marketplace
from tests.payment_scene import (
    cursor,
    destination,
    held,
    instruction,
    judge,
    put,
    request_is,
    set_threshold,
    story,
    waits,
)
from workers.cli import payments as commands

TREASURY = "0x" + "99" * 20
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def market(module_database: Database) -> Marketplace:
    return Marketplace(module_database)


@pytest.fixture(autouse=True)
def watched(market: Marketplace) -> None:
    cursor(market, 0)


@pytest.fixture
def fleet(market: Marketplace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a `fleet` command as the operator's role."""
    app = typer.Typer()
    commands.register(app)
    monkeypatch.setenv("DATABASE_URL", market.database.url("fleet_operator"))
    monkeypatch.setenv("COLUMNS", "400")
    settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(app, list(arguments))
    settings.cache_clear()


# Waiting -----------------------------------------------------------------------------------------------------------


def test_no_transfer_yet(market: Marketplace) -> None:
    payment = market.payment()
    found = story(market, payment)
    address = destination(market, payment).address
    assert found.waits == [Wait("a transfer to its address", found.happenings[0].at, f"a payment to {address}")]
    assert (found.destination, found.balances, found.amount) == (address, {}, 100)
    assert [item.what for item in found.happenings] == ["opened for 100 USDC"]


def test_a_transaction_that_is_looked_for(market: Marketplace) -> None:
    payment = market.payment()
    for number, (state, outcome, error) in enumerate(
        [("due", None, None), ("due", None, "the node is away"), ("missing", "not found in 300 s", None)]
    ):
        market.execute(
            "INSERT INTO fleet.chain_looks (chain_id, transaction_hash, payment_id, requested_by, state, outcome, last_error, "
            "created_at) VALUES (:c, :h, :p, 'webhook', :s, :o, :e, now() + :n * interval '1 second')",
            c=CHAIN_ID, h=f"0x{payment.hex}{number}", p=payment, s=state, o=outcome, e=error, n=number,
        )  # fmt: skip
    block = "a canonical block that holds it"
    assert waits(market, payment) == [
        (f"transaction 0x{payment.hex}0: not looked at yet", block),
        (f"transaction 0x{payment.hex}1: the node is away", block),
        (f"transaction 0x{payment.hex}2: not found in 300 s", "another transaction that pays this address"),
    ]


def test_depth(market: Marketplace) -> None:
    set_threshold(market, 12)
    payment = market.payment()
    market.fact(payment, block=100)
    put(market, payment, "processing", None)
    market.execute("DELETE FROM fleet.chain_cursors")
    assert waits(market, payment) == [
        (f"no block of chain {CHAIN_ID} was seen yet", "the watcher: fleet status"),
        ("depth: 0 of 12 confirmations of block 100", "12 more blocks"),
    ]
    for head, depth, unblocks in (
        (99, 0, "12 more blocks, about 12 s"),
        (103, 4, "8 more blocks, about 8 s"),
        (111, 12, "the next judgement"),
    ):
        cursor(market, head)
        assert waits(market, payment) == [(f"depth: {depth} of 12 confirmations of block 100", unblocks)]
    set_threshold(market, 20)
    assert waits(market, payment) == [("depth: 12 of 20 confirmations of block 100", "8 more blocks, about 8 s")]
    set_threshold(market, 12)


def test_depth_is_counted_on_the_chain_the_coins_came_by(market: Marketplace) -> None:
    market.execute("INSERT INTO fleet.tokens VALUES (137, :t, 'USDC', 6) ON CONFLICT DO NOTHING", t=TOKEN)
    payment = market.payment()
    market.fact(payment, block=100)
    market.execute("UPDATE fleet.chain_facts SET chain_id = 137 WHERE payment_id = :id", id=payment)
    cursor(market, 1_000_000)
    cursor(market, 109, chain=137)
    assert waits(market, payment) == [("depth: 10 of 300 confirmations of block 100", "290 more blocks, about 10 min")]


@pytest.mark.parametrize("situation", ["no transfer", "depth", "held"])
def test_a_paused_chain_is_said_whatever_else_it_waits_for(market: Marketplace, situation: str) -> None:
    payment = held(market) if situation == "held" else market.payment()
    if situation == "depth":
        market.fact(payment)
    cursor(market, 500, paused="reorganisation: 0xabc left")
    assert waits(market, payment)[0] == (f"chain {CHAIN_ID} is paused: reorganisation: 0xabc left", "an operator")
    cursor(market, 500)
    assert "paused" not in str(waits(market, payment))


def test_a_part_of_the_amount(market: Marketplace) -> None:
    payment = held(market, "partial")
    assert waits(market, payment) == [("the rest of the amount", "the buyer's further transfer to the same address")]


def test_a_quarantined_destination(market: Marketplace) -> None:
    payment = held(market)
    market.execute(
        "UPDATE public.derived_destinations SET status = 'quarantined', quarantine_reason = 'sanctioned sender' WHERE id = :d",
        d=destination(market, payment).id,
    )
    assert waits(market, payment)[0] == (
        "its destination is quarantined: sanctioned sender",
        f"two persons release it: fleet destinations release {destination(market, payment).id}",
    )


def test_a_sweep(market: Marketplace) -> None:
    payment = held(market)
    job = market.execute(
        "INSERT INTO fleet.sweep_jobs (destination_id, chain_id, token, strategy, amount_units, treasury, state) "
        "VALUES (:d, :c, :t, 'top_up', 1, :a, 'funding') RETURNING id",
        d=destination(market, payment).id, c=CHAIN_ID, t=TOKEN, a=TREASURY,
    )[0].id  # fmt: skip
    assert waits(market, payment)[0] == ("its sweep is funding", "the chain's next blocks")
    market.execute("UPDATE fleet.sweep_jobs SET state = 'planned', reason = 'gas price above cap' WHERE id = :j", j=job)
    assert waits(market, payment)[0] == ("its sweep is planned", "gas price above cap")
    market.execute("UPDATE fleet.sweep_jobs SET state = 'swept' WHERE id = :j", j=job)
    assert "sweep" not in str(waits(market, payment))


def test_coins_that_no_sweep_takes_yet(market: Marketplace) -> None:
    payment = market.payment()
    fact = market.fact(payment, 99_500_000)
    with transaction(market.database.engine("fleet_watcher")) as connection:
        post(
            connection,
            Entry(
                book_kind="payment", book_id=payment, chain_id=CHAIN_ID, token=TOKEN, entry_type="payment_detected",
                reason="seen", debit="destination", credit="detected", amount=Decimal("99.5"), fact_id=fact,
                debit_address=TREASURY, key=f"fact:{fact}:detected", evidence={"threshold": 12, "head_number": 40},
            ),
        )  # fmt: skip
    judge(market, payment)
    put(market, payment, "confirmed", "funded")
    found = story(market, payment)
    assert found.balances == {"destination": Decimal("99.5"), "detected": Decimal("99.5")}
    assert (found.waits[0].what, found.waits[0].unblocks) == (
        "99.5 of it is not swept yet",
        "the sweeps worker's next pass",
    )
    ledger = next(item.what for item in found.happenings if item.step == "ledger")
    assert ledger.startswith(
        "payment_detected : seen destination / detected 99.5 USDC, threshold 12 at head 40, block 10 0x"
    )


@pytest.mark.parametrize("status", ["delivery", "payment_confirmed", "disputed"])
def test_a_request_that_is_not_completed(market: Marketplace, status: str) -> None:
    payment = held(market)
    request_is(market, payment, status)
    assert waits(market, payment) == [(f"the purchase request is {status}", "the buyer confirms the delivery")]


def test_a_release_in_each_of_its_states(market: Marketplace) -> None:
    payment = held(market, "releasable")
    request_is(market, payment, "completed")
    assert waits(market, payment) == [("the releases worker has not drafted its release", "the next pass, each second")]
    one = instruction(market, payment, "ready")
    before = "the instruction before it on the device"
    expected = {
        "drafted": ("its release is drafted", before),
        "ready": ("its release is ready", before),
        "handed_out": ("the signer's approval on the treasury device", "fleet signer sign"),
        "signed": ("its release transaction is signed", "the chain's next blocks"),
        "broadcast": ("its release transaction is broadcast", "the chain's next blocks"),
    }
    for state, wait in expected.items():
        market.execute(
            "UPDATE fleet.release_instructions SET state = :s, handed_out_at = now() WHERE id = :i", s=state, i=one
        )
        assert waits(market, payment) == [wait]
    market.execute(
        "UPDATE fleet.release_instructions SET state = 'handed_out', rejected_reason = 'wrong amount' WHERE id = :i",
        i=one,
    )
    assert waits(market, payment) == [
        ("the signer's approval on the treasury device (refused on the device: wrong amount)", "fleet signer sign")
    ]
    market.execute(
        "UPDATE fleet.release_instructions SET state = 'ready', held_reason = 'short of gas' WHERE id = :i", i=one
    )
    assert waits(market, payment) == [("its release is ready: short of gas", before)]


def test_work_that_was_given_up_and_an_open_dispute(market: Marketplace) -> None:
    payment = held(market)
    market.execute("UPDATE public.payments SET disputed = true WHERE id = :id", id=payment)
    market.execute(
        "INSERT INTO fleet.dead_work (queue, subject_kind, subject_id, payment_id, reason, unblocks, attempts) "
        "VALUES ('sweeps', 'sweep_job', :s, :id, 'reverted', 'fleet work retry', 20)",
        s=str(uuid4()), id=payment,
    )  # fmt: skip
    assert waits(market, payment)[:2] == [
        ("sweeps gave up: reverted", "fleet work retry"),
        ("a dispute is open", "the dispute's resolution"),
    ]
    market.execute("UPDATE fleet.dead_work SET resolved_at = now() WHERE payment_id = :id", id=payment)
    assert waits(market, payment)[0][0] == "a dispute is open"


@pytest.mark.parametrize(
    ("status", "escrow"),
    [("completed", "released"), ("refunded", "refunded"), ("cancelled", "cancelled"), ("failed", "failed")],
)
def test_a_finished_payment_waits_for_nothing(market: Marketplace, fleet: Run, status: str, escrow: str) -> None:
    payment = held(market)
    put(market, payment, status, escrow)
    assert waits(market, payment) == []
    assert "It waits for nothing." in fleet("explain", str(payment)).output

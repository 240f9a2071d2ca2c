"""Proof of escrow where native coin came in and no entry books it: each deposit is a line, the rest a remainder (L8, L22)."""

from collections.abc import Callable

import pytest
from eth_account import Account

from custody.ledger.reports.escrow import Proof, prove_escrow
from tests.conftest import Database
from tests.integration.chain_fixtures import ChainWorld, Expected
from tests.integration.native_fixtures import NativeFleet, wei


@pytest.fixture
def native(watched_world: ChainWorld, database: Database) -> NativeFleet:
    made = NativeFleet(watched_world, database)
    made.watch()
    return made


def proof_of(fleet: NativeFleet) -> Proof:
    """At the chain's newest block, which the watcher has judged and of which it has answered nothing yet."""
    head = fleet.world.client.head()
    fleet.market.execute(
        "UPDATE fleet.chain_cursors SET head_number = :n, head_hash = :h, agreed_number = :n",
        n=head.number,
        h=head.hash,
    )
    return prove_escrow(fleet.database.engine("fleet_operator"), fleet.world.client, fleet.chain)


def lines(proof: Proof) -> list[tuple[str, str, int, str | None]]:
    return [(item.why, item.place[1], item.units, item.transaction_hash) for item in proof.in_transit]


@pytest.mark.parametrize("pay", [NativeFleet.plain, NativeFleet.proxied], ids=["plain", "proxied"])
def test_an_announced_deposit_is_a_line(native: NativeFleet, pay: Callable[[NativeFleet, Expected, int], str]) -> None:
    payment = native.payment(2)
    sent = pay(native, payment, 2)
    native.ask(sent)
    proof = proof_of(native)
    assert lines(proof) == [("deposit: announced, not booked yet", payment.destination, wei(2), sent)]
    assert proof.holds
    native.watch()
    proof = proof_of(native)
    assert lines(proof) == []
    assert proof.holds


def test_a_deposit_that_nobody_announced_is_a_line(native: NativeFleet) -> None:
    payment = native.payment(2)
    first, second = native.plain(payment, 1), native.plain(payment, 1)
    native.plain(Expected(payment.payment, Account.create().address, b"", 1), 1)  # to a stranger
    proof = proof_of(native)
    assert [(units, sent) for _, _, units, sent in lines(proof)] == [(wei(1), first), (wei(1), second)]
    assert {why for why, *_ in lines(proof)} == {"deposit: nobody announced it; ask: fleet look"}
    assert proof.holds


def test_what_no_transaction_explains_stays_a_remainder(native: NativeFleet) -> None:
    payment = native.payment(3)
    sent = native.plain(payment, 1)
    native.world.chain.set_balance(payment.destination, wei(1) + 5)
    native.world.chain.mine()
    proof = proof_of(native)
    assert [(units, each) for _, _, units, each in lines(proof)] == [(wei(1), sent)]
    assert [(asset.address, asset.remainder) for asset in proof.remainders] == [(payment.destination, 5)]
    assert not proof.holds


def test_what_is_booked_is_no_line_beside_more_that_is_not(native: NativeFleet) -> None:
    payment = native.payment(3)
    native.watch(native.plain(payment, 1))
    more = native.plain(payment, 1)
    proof = proof_of(native)
    assert [(units, each) for _, _, units, each in lines(proof)] == [(wei(1), more)]
    assert proof.holds

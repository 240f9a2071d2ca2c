"""Sweeps on a real chain with real tokens: to the treasury exactly once, whatever breaks in between."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from custody.chain import ChainUnavailable
from custody.destinations.sweeps.advancing import run_once
from custody.destinations.sweeps.planner import Verdict, candidates, plan
from custody.destinations.sweeps.sending import REBROADCAST_AFTER_BLOCKS
from custody.settings.thresholds import set_threshold
from custody.store.engine import transaction
from tests.conftest import Database
from tests.counts import ONLY_LONG, Counts, declared
from tests.security_gaps import close_gap, gap_of_payment
from tests.sweeping import CHAIN_ID, Crash, Fuse, SweepingFleet, World, call, manual_mining, sweeping_world
from workers.demo.development_chain import ETHER

UNIT = 1_000_000
CRASH_STRIDE = declared(1, 60)  # make test-long dies at every place


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with sweeping_world() as made:
        yield made


@pytest.fixture
def fleet(world: World, database: Database) -> SweepingFleet:
    return SweepingFleet(world, database, world.contracts.usdt)


@pytest.mark.parametrize("token_name", ["usdc", "usdt"])
def test_a_deposit_reaches_the_treasury_and_the_books_equal_the_chain(
    world: World, database: Database, token_name: str
):
    fleet = SweepingFleet(world, database, getattr(world.contracts, token_name))
    payment = fleet.payment(100 * UNIT)
    fleet.pay(payment, 100 * UNIT)
    fleet.run()
    assert fleet.jobs() == [("swept", None)]
    assert fleet.destination(payment) == ("swept", 1, 100 * UNIT, None)
    assert world.client.token_balance(fleet.token, fleet.treasury) == 100 * UNIT
    balance = fleet.market.balance(payment)
    assert (balance["destination"], balance["treasury"], balance["held"]) == (0, 100, 100)
    assert {address for token, address in fleet.books() if token == "native"} == {
        fleet.payer,
        fleet.address(payment),
    }
    fleet.assert_books_equal_chain()
    [sweep] = fleet.market.execute("SELECT * FROM public.derived_destination_sweeps")
    assert (sweep.from_address, sweep.to_address, sweep.amount) == (
        fleet.address(payment),
        fleet.treasury,
        100 * UNIT,
    )
    [entry] = fleet.market.execute("SELECT metadata FROM public.funds_ledger_entries WHERE reason = 'sweep'")
    assert entry.metadata["transaction_hash"] == sweep.transaction_hash
    assert entry.metadata["threshold"] == 1
    assert fleet.count("SELECT count(*) FROM fleet.outbox WHERE queue = 'releases'") == 1


def test_running_again_does_nothing(fleet: SweepingFleet):
    payment = fleet.payment(UNIT)
    fleet.pay(payment, UNIT)
    fleet.run()
    entries = fleet.count("SELECT count(*) FROM public.funds_ledger_entries")
    assert fleet.round() == 0
    assert fleet.count("SELECT count(*) FROM public.funds_ledger_entries") == entries
    assert fleet.count("SELECT count(*) FROM fleet.chain_transactions") == 2


def test_coins_of_a_paused_payment_wait_and_others_go(fleet: SweepingFleet):
    """R7: the reason names the gap and what unblocks it; one that opens while the chain is asked is seen as well."""
    paused, other = fleet.payment(UNIT), fleet.payment(UNIT)
    for payment in (paused, other):
        fleet.pay(payment, UNIT)
    sweeps = fleet.database.engine("fleet_sweeps")
    with transaction(sweeps) as connection:
        found = candidates(connection, fleet.chains, limit=10)
    assert [each.reason for each in found] == [None, None]
    gap = gap_of_payment(fleet.database, paused)
    with transaction(sweeps) as connection:
        late = plan(connection, fleet.chains, found, {
            (each.destination_id, each.token): Verdict("top_up_transfer", 1, 1) for each in found
        })  # fmt: skip
        connection.rollback()
    why = f"security_gap: gap {gap} is open; two persons close it: fleet gaps resolve {gap}"
    assert ([each.reason for each in late.waiting], len(late.jobs)) == ([why], 1)
    fleet.run()
    assert (fleet.destination(paused)[0], fleet.destination(other)[0]) == ("active", "swept")
    with transaction(sweeps) as connection:
        assert [each.reason for each in candidates(connection, fleet.chains, limit=10)] == [why]
    close_gap(fleet.database, gap)
    fleet.run()
    assert fleet.destination(paused)[0] == "swept"
    fleet.assert_books_equal_chain()


def test_coins_that_are_not_deep_stay_where_they_are(fleet: SweepingFleet):
    payment = fleet.payment(UNIT)
    fleet.pay(payment, UNIT, judged=False)
    fleet.run()
    assert fleet.jobs() == []
    assert fleet.destination(payment)[0] == "active"


def test_a_late_second_deposit_is_swept_by_a_second_job(fleet: SweepingFleet):
    payment = fleet.payment(100 * UNIT)
    fleet.pay(payment, 100 * UNIT)
    assert fleet.round() > 0
    fleet.pay(payment, 30 * UNIT, judged=False)
    fleet.run()
    assert fleet.destination(payment) == ("active", 1, 100 * UNIT, None)
    fleet.assert_books_equal_chain()
    [fact] = fleet.market.execute("SELECT id FROM fleet.chain_facts WHERE judged_at IS NULL AND direction = 'inbound'")
    fleet.judge(payment, fact.id, 30 * UNIT)
    fleet.run()
    assert fleet.destination(payment) == ("swept", 2, 130 * UNIT, None)
    assert fleet.world.client.token_balance(fleet.token, fleet.treasury) == 130 * UNIT
    fleet.assert_books_equal_chain()
    # What the first top-up left is spent before new coins are sent.
    values = fleet.market.execute(
        "SELECT value_wei FROM fleet.chain_transactions WHERE purpose = 'top_up' ORDER BY nonce"
    )
    assert len(values) < 2 or values[1].value_wei < values[0].value_wei


def test_a_sweep_of_two_payments_is_split_oldest_fact_first(fleet: SweepingFleet):
    first, second = fleet.payment(10 * UNIT), fleet.payment(20 * UNIT)
    fleet.market.execute(
        "UPDATE fleet.payment_routes SET destination_id = (SELECT destination_id FROM fleet.payment_routes "
        "WHERE payment_id = :a) WHERE payment_id = :b",
        a=first,
        b=second,
    )
    fleet.pay(first, 10 * UNIT)
    fleet.pay(second, 20 * UNIT)
    assert fleet.round() > 0
    # Comes after the job was made: its coins stay, whoever's they are.
    fleet.pay(first, 5 * UNIT)
    fleet.run()
    shares = fleet.market.execute(
        "SELECT payment_id, amount FROM public.funds_ledger_entries WHERE reason = 'sweep' ORDER BY created_at"
    )
    assert {(row.payment_id, row.amount) for row in shares[:2]} == {(first, 10), (second, 20)}
    assert [(row.payment_id, row.amount) for row in shares[2:]] == [(first, 5)]
    fleet.assert_books_equal_chain()


def test_depth_is_waited_for(fleet: SweepingFleet):
    with transaction(fleet.database.engine("fleet_operator")) as connection:
        set_threshold(connection, CHAIN_ID, 4, floor_blocks=1, by="test", reason="depth")
    payment = fleet.payment(UNIT)
    fleet.pay(payment, UNIT)
    fleet.run()
    assert fleet.jobs() == [("transferring", "sweep_not_deep")]
    assert fleet.count("SELECT count(*) FROM public.funds_ledger_entries WHERE reason = 'sweep'") == 0
    fleet.world.chain.mine(2)
    fleet.run()
    assert fleet.jobs()[0][0] == "transferring"
    fleet.world.chain.mine(1)
    fleet.run()
    assert fleet.jobs() == [("swept", None)]


def test_a_quarantine_that_comes_while_a_sweep_is_under_way_stays(fleet: SweepingFleet):
    """R13: the coins under way arrive and are booked; the address waits for people all the same."""
    payment = fleet.payment(UNIT)
    fleet.pay(payment, UNIT)
    with transaction(fleet.database.engine("fleet_operator")) as connection:
        set_threshold(connection, CHAIN_ID, 2, floor_blocks=1, by="test", reason="depth")
    fleet.run()
    fleet.market.execute(
        "UPDATE public.derived_destinations SET status = 'quarantined', quarantine_reason = 'late: test'"
    )
    fleet.world.chain.mine(1)
    fleet.run()
    assert fleet.jobs() == [("swept", None)]
    assert fleet.destination(payment) == ("quarantined", 1, UNIT, "late: test")
    fleet.assert_books_equal_chain()


def test_depth_and_block_are_what_a_quorum_says(fleet: SweepingFleet):
    """L13: one node shows the receipt; nothing is booked before the watcher's nodes agree on its depth and its block."""
    payment = fleet.payment(UNIT)
    fleet.pay(payment, UNIT)
    with transaction(fleet.database.engine("fleet_operator")) as connection:
        set_threshold(connection, CHAIN_ID, 2, floor_blocks=1, by="test", reason="depth")
    fleet.run()
    assert fleet.jobs() == [("transferring", "sweep_not_deep")]
    fleet.world.chain.mine(1)

    def advance() -> tuple[str, str | None]:
        fleet.market.execute("UPDATE fleet.sweep_jobs SET run_after = now()")
        run_once(fleet.database.engine("fleet_sweeps"), {CHAIN_ID: fleet.world.client}, fleet.chains, fleet.signer)
        return fleet.jobs()[0]

    state, reason = advance()  # the cursor still stands where it stood
    assert (state, (reason or "").partition(":")[0]) == ("transferring", "watcher_is_behind")
    fleet.see_head()
    fleet.market.execute(
        "INSERT INTO fleet.chain_blocks SELECT :c, n, 'another', 'parent', now(), true FROM generate_series(0, :n) AS n",
        c=CHAIN_ID,
        n=fleet.world.client.head().number,
    )
    state, reason = advance()
    assert (state, (reason or "").partition(":")[0]) == ("transferring", "quorum")
    assert fleet.count("SELECT count(*) FROM public.funds_ledger_entries WHERE reason = 'sweep'") == 0
    for number, header in fleet.world.client.headers(range(fleet.world.client.head().number + 1)).items():
        fleet.market.execute("UPDATE fleet.chain_blocks SET hash = :h WHERE number = :n", h=header.hash, n=number)
    assert advance() == ("swept", None)


def test_a_book_without_gas_waits_and_goes_on_when_funded(world: World, database: Database):
    fleet = SweepingFleet(world, database, world.contracts.usdt, funding_wei=0)
    world.chain.set_balance(fleet.payer, ETHER)  # on the chain, but the books do not know of it
    payment = fleet.payment(UNIT)
    fleet.pay(payment, UNIT)
    fleet.run()
    [(state, reason)] = fleet.jobs()
    assert state == "planned"
    assert (reason or "").startswith("house_float_low")
    assert fleet.count("SELECT count(*) FROM fleet.chain_transactions") == 0
    world.chain.set_balance(fleet.payer, 0)
    fleet.fund(ETHER)
    fleet.run()
    assert fleet.jobs() == [("swept", None)]
    fleet.assert_books_equal_chain()


def test_coins_a_stranger_left_at_the_address_pay_no_gas(fleet: SweepingFleet):
    payment = fleet.payment(UNIT)
    fleet.pay(payment, UNIT)
    fleet.world.chain.set_balance(fleet.address(payment), ETHER)
    fleet.run()
    assert fleet.jobs() == [("swept", None)]
    booked = fleet.books()["native", fleet.address(payment)]
    assert booked * ETHER == fleet.world.client.balance(fleet.address(payment)) - ETHER


@ONLY_LONG
def test_many_destinations_share_blocks(fleet: SweepingFleet):
    payments = [fleet.payment(UNIT) for _ in range(10)]
    fleet.pay_all(payments, UNIT)
    blocks = 0
    with manual_mining(fleet.world):
        while fleet.count("SELECT count(*) FROM public.derived_destination_sweeps") < len(payments):
            while fleet.round(in_flight_limit=4) > 0:
                assert (
                    fleet.count(
                        "SELECT count(*) FROM fleet.chain_transactions "
                        "WHERE purpose = 'top_up' AND state = 'broadcast' AND block_hash IS NULL"
                    )
                    <= 4
                )
            fleet.world.chain.mine(1)
            blocks += 1
            assert blocks < 10, fleet.jobs()
    # Three waves of top-ups, each wave's transfers beside the next one's top-ups.
    assert blocks <= 5
    fleet.assert_books_equal_chain()


def test_two_workers_at_once_sweep_once(fleet: SweepingFleet):
    payments = [fleet.payment(UNIT) for _ in range(6)]
    fleet.pay_all(payments, UNIT)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(12):
            for worker in [pool.submit(fleet.round) for _ in range(2)]:
                worker.result()
    fleet.run()
    assert {fleet.destination(payment) for payment in payments} == {("swept", 1, UNIT, None)}
    assert fleet.count("SELECT count(*) FROM fleet.chain_transactions") == 12
    fleet.assert_books_equal_chain()


# What breaks ----------------------------------------------------------------------------------------------------


def test_a_blacklisted_destination_is_quarantined_alone(fleet: SweepingFleet):
    bad, good = fleet.payment(UNIT), fleet.payment(UNIT)
    fleet.pay_all([bad, good], UNIT)
    call(fleet.world, fleet.token, "addBlackList(address)", fleet.address(bad))
    fleet.run()
    status, sweeps, _, reason = fleet.destination(bad)
    assert (status, sweeps) == ("quarantined", 0)
    assert (reason or "").startswith("transfer_reverts")
    assert fleet.destination(good) == ("swept", 1, UNIT, None)
    [dead] = fleet.market.execute("SELECT queue, subject_kind, reason FROM fleet.dead_work")
    assert (dead.queue, dead.subject_kind) == ("sweeps", "sweep_job")
    assert fleet.address(bad) in dead.reason
    fleet.assert_books_equal_chain()
    # A quarantined destination is not planned again.
    assert fleet.round() == 0


def test_a_transfer_refused_after_the_top_up_books_the_top_up(fleet: SweepingFleet):
    payment = fleet.payment(UNIT)
    fleet.pay(payment, UNIT)
    assert fleet.round() > 0
    call(fleet.world, fleet.token, "addBlackList(address)", fleet.address(payment))
    fleet.run()
    assert fleet.destination(payment)[0] == "quarantined"
    assert fleet.books()["native", fleet.address(payment)] > 0
    fleet.assert_books_equal_chain()


def test_a_dropped_transfer_is_sent_again_and_a_reverted_one_moves_nothing_in_the_books(fleet: SweepingFleet):
    payment = fleet.payment(UNIT)
    fleet.pay(payment, UNIT)
    with manual_mining(fleet.world):
        fleet.run()
        fleet.world.chain.mine(1)
        fleet.run()  # the transfer is sent
        [row] = fleet.market.execute("SELECT transaction_hash FROM fleet.chain_transactions WHERE purpose = 'sweep'")
        fleet.world.chain._request("anvil_dropTransaction", [row.transaction_hash])
    call(fleet.world, fleet.token, "addBlackList(address)", fleet.address(payment))
    fleet.run()
    assert fleet.jobs() == [("transferring", "sweep_waits_for_block")]
    fleet.world.chain._request("evm_increaseTime", [3600])
    fleet.world.chain.mine(REBROADCAST_AFTER_BLOCKS + 1)
    fleet.run()
    receipt = fleet.world.client.receipt(row.transaction_hash)
    assert receipt is not None
    assert not receipt.succeeded
    fleet.run()
    status, _, _, reason = fleet.destination(payment)
    assert status == "quarantined"
    assert (reason or "").startswith("transfer_log_differs")
    assert fleet.market.balance(payment)["destination"] == 1
    fleet.assert_books_equal_chain()


def test_a_shallow_reorganisation_is_swept_again_with_the_same_bytes(fleet: SweepingFleet):
    with transaction(fleet.database.engine("fleet_operator")) as connection:
        set_threshold(connection, CHAIN_ID, 5, floor_blocks=1, by="test", reason="depth")
    payment = fleet.payment(UNIT)
    fleet.pay(payment, UNIT)
    fleet.run()
    assert fleet.jobs() == [("transferring", "sweep_not_deep")]
    hashes = fleet.market.execute("SELECT transaction_hash FROM fleet.chain_transactions ORDER BY purpose")
    fleet.world.chain.reorganise(2)
    assert [fleet.world.client.receipt(row.transaction_hash) for row in hashes] == [None, None]
    fleet.run()
    assert fleet.jobs()[0][0] == "transferring"
    fleet.world.chain._request("evm_increaseTime", [3600])
    fleet.world.chain.mine(REBROADCAST_AFTER_BLOCKS + 1)
    for _ in range(3):  # the top-up first: without it the node refuses the transfer
        fleet.run()
    fleet.world.chain.mine(5)
    fleet.run()
    assert fleet.destination(payment) == ("swept", 1, UNIT, None)
    assert hashes == fleet.market.execute("SELECT transaction_hash FROM fleet.chain_transactions ORDER BY purpose")
    fleet.assert_books_equal_chain()


def test_a_token_that_keeps_a_part_is_booked_as_it_was_and_quarantined(fleet: SweepingFleet):
    payment = fleet.payment(10 * UNIT)
    fleet.pay(payment, 10 * UNIT)
    call(fleet.world, fleet.token, "setParams(uint256,uint256)", 10, 40)
    try:
        fleet.run()
    finally:
        call(fleet.world, fleet.token, "setParams(uint256,uint256)", 0, 0)
    assert fleet.destination(payment)[0] == "quarantined"
    balance = fleet.market.balance(payment)
    assert balance["destination"] == 0
    assert balance["transfer_cost"] > 0
    assert balance["transfer_cost"] + balance["treasury"] == 10
    fleet.assert_books_equal_chain()


def test_the_balance_shown_is_what_the_books_hold_of_the_expected_token(fleet: SweepingFleet):
    payment = fleet.payment(5 * UNIT)
    fleet.pay(payment, 5 * UNIT)
    [fact] = fleet.market.execute("SELECT * FROM fleet.chain_facts")
    other = next(token.address for token in fleet.chains.chains[0].tokens if token.symbol == "OTHER")
    fleet.market.execute(
        "INSERT INTO fleet.chain_facts (chain_id, block_number, block_hash, transaction_hash, log_index, tx_ordinal, token, "
        "sender, recipient, amount_units, direction, payment_id, destination_id) SELECT chain_id, block_number, block_hash, "
        "transaction_hash, 99, 99, :other, sender, recipient, 77, 'inbound', payment_id, destination_id "
        "FROM fleet.chain_facts WHERE id = :id",
        other=other,
        id=fact.id,
    )
    fleet.run()
    [row] = fleet.market.execute("SELECT balance FROM public.derived_destinations WHERE id = :d", d=fact.destination_id)
    assert row.balance == 0


def test_places_that_wait_do_not_hide_those_that_can_go(fleet: SweepingFleet):
    first, second = fleet.payment(UNIT), fleet.payment(UNIT)
    fleet.pay(first, UNIT, judged=False)
    fleet.pay(second, UNIT)
    fleet.run(limit=1)
    assert fleet.destination(second)[0] == "swept"
    assert fleet.destination(first)[0] == "active"


def test_an_intent_that_its_key_refuses_is_spent_on_nothing_and_stops_no_sweep(fleet: SweepingFleet):
    """R1: as after the deposit seed was replaced between nonce and signature."""
    stuck, other, later = fleet.payment(UNIT), fleet.payment(UNIT), fleet.payment(UNIT)
    fleet.pay(stuck, UNIT)
    fleet.pay(other, UNIT)
    for _ in range(2):  # both have their top-ups
        fleet.round()
    fleet.market.execute(
        "INSERT INTO fleet.chain_transactions (chain_id, sender, nonce, purpose, subject_id, recipient, value_wei) "
        "SELECT chain_id, address, next_nonce, 'top_up', (SELECT id FROM fleet.sweep_jobs ORDER BY created_at LIMIT 1), "
        "address, 1 FROM fleet.nonce_lanes WHERE kind = 'gas_payer'"
    )
    fleet.market.execute("UPDATE fleet.nonce_lanes SET next_nonce = next_nonce + 1 WHERE kind = 'gas_payer'")
    fleet.run()
    assert fleet.destination(other)[0] == "swept"
    [row] = fleet.market.execute("SELECT * FROM fleet.chain_transactions WHERE cancel_reason IS NOT NULL")
    assert row.state == "final"
    assert "is not the deposit address" in row.cancel_reason
    [kept] = fleet.market.execute("SELECT * FROM fleet.nonce_signatures WHERE transaction_id = :id", id=row.id)
    assert (kept.kind, kept.transaction_hash) == ("cancel", row.transaction_hash)
    fleet.pay(later, UNIT)
    fleet.run()
    assert fleet.destination(later)[0] == "swept"
    fleet.assert_books_equal_chain()


def test_another_chains_node_moves_no_nonce(fleet: SweepingFleet):
    payment = fleet.payment(UNIT)
    fleet.pay(payment, UNIT)
    [chain] = fleet.chains.chains
    fleet.chains = fleet.chains.model_copy(
        update={"chains": (chain.model_copy(update={"genesis_hash": "0x" + "ab" * 32}),)}
    )
    fleet.round()
    assert fleet.count("SELECT count(*) FROM fleet.nonce_lanes") == 0
    [(_, reason)] = fleet.jobs()
    assert reason is not None
    assert reason.startswith("WrongChain")


def test_a_node_that_forgot_old_state_does_not_stop_the_sweep(fleet: SweepingFleet, monkeypatch: pytest.MonkeyPatch):
    """Full nodes keep the state of 128 blocks; most chains' thresholds are deeper."""
    client = fleet.world.client
    read = client.token_balance

    def pruned(token: str, address: str, block: int | None = None) -> int:
        if block is not None:
            raise ChainUnavailable(31337, "node", "missing trie node")
        return read(token, address)

    monkeypatch.setattr(client, "token_balance", pruned)
    payment = fleet.payment(UNIT)
    fleet.pay(payment, UNIT)
    fleet.run()
    assert fleet.destination(payment)[0] == "swept"


def test_a_crash_anywhere_loses_nothing_and_sweeps_nothing_twice(
    fleet: SweepingFleet, monkeypatch: pytest.MonkeyPatch, counts: Counts
):
    monkeypatch.setattr(fleet.world.client, "send_raw", fleet.world.client.send_raw)  # put back at the end
    fuse = Fuse(fleet.database.engine("fleet_sweeps"), fleet.world.client)

    def sweep(at: int) -> UUID:
        payment = fleet.payment(UNIT)
        fuse.at = 0
        fleet.pay(payment, UNIT)
        fuse.places, fuse.at = 0, at
        try:
            fleet.run()
        except Crash:
            fuse.at = 0
            fleet.expire_leases()
            fleet.run()
        else:
            assert at in (0, fuse.places + 1), f"place {at} of {fuse.places} was not reached"
        return payment

    sweep(0)
    places = fuse.places
    assert places > 40
    swept = 1
    for at in range(1, places + 1, CRASH_STRIDE):
        payment = sweep(at)
        swept += 1
        assert fleet.destination(payment) == ("swept", 1, UNIT, None), f"after a crash at place {at}"
        assert fleet.world.client.token_balance(fleet.token, fleet.treasury) == swept * UNIT
        assert fleet.market.balance(payment)["treasury"] == 1
    counts("sweeps that died at a place of their own", swept - 1)
    assert fleet.count("SELECT count(*) FROM public.derived_destination_sweeps") == swept
    assert fleet.count("SELECT count(*) FROM fleet.chain_transactions WHERE state <> 'final'") == 0
    assert fleet.count("SELECT count(*) FROM fleet.chain_transactions") == 2 * swept
    fleet.assert_books_equal_chain()

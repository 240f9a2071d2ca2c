"""One node left, honest or not: what it says alone is never held, and a quorum sets it right once there is one again (L13, R17)."""

import copy
from typing import Any

import pytest
from eth_account import Account

from custody.chain import ChainUnavailable, node_panel
from custody.chain.house_funding import book_funding
from tests import lying_node as lies
from tests.conftest import Database
from tests.counts import sampled
from tests.integration.chain_fixtures import ChainWorld, WatchingFleet, units
from tests.lying_node import Lie
from tests.marketplace import CHAIN_ID
from tests.node_quorum import TIMEOUT, alone, nodes_of, together_again


@pytest.fixture(scope="module")
def told(watched_world: ChainWorld, module_database: Database) -> WatchingFleet:
    """One fleet for the whole table of lies; each has its own payments, nodes and watcher."""
    return WatchingFleet(watched_world, module_database, watched_world.contracts.usdc)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the last of three honest answers may be half a second late."""
    monkeypatch.setattr(node_panel, "PATIENCE_SECONDS", TIMEOUT)


@pytest.mark.parametrize("is_liar_honest", sampled([True, False]))
def test_what_a_lone_liar_invents_is_taken_back_and_never_held(told: WatchingFleet, is_liar_honest: bool) -> None:
    """L13: below a quorum detection goes on, by the word of whoever is left; a quorum then says what it was worth."""
    with nodes_of(told, 3) as nodes:
        victim = told.payment()
        _, real = nodes.pay()
        nodes.tick()
        receipt = told.world.rpc("eth_getTransactionReceipt", real)
        invented = "0x" + "5e" * 31 + ("01" if is_liar_honest else "02")
        false = copy.deepcopy(receipt)
        false["transactionHash"] = invented
        for log in false["logs"]:
            log["transactionHash"] = invented
            if len(log["topics"]) == 3:
                log["topics"][2] = "0x" + victim.destination[2:].lower().rjust(64, "0")
        alone(nodes, lies.inventing_receipt(invented, false))
        told.ask(invented)
        nodes.rest()
        assert nodes.balance(victim) == (100, 0)
        told.hold()
        assert nodes.balance(victim) == (100, 0)
        together_again(nodes, is_liar_honest=is_liar_honest)
        assert nodes.balance(victim) == (0, 0)
        assert not [fact for fact in told.facts(invented) if fact.live]
        assert told.market.state(victim.payment)[0] != "processing"
        told.hold()
        assert nodes.balance(victim) == (0, 0)


@pytest.mark.parametrize("is_liar_honest", sampled([True, False]))
def test_an_amount_that_a_lone_liar_changed_is_set_right(told: WatchingFleet, is_liar_honest: bool) -> None:
    """L2, L13: the transaction is real, its block is real, and ten times too much was seen in it."""
    with nodes_of(told, 3) as nodes:
        alone(nodes, lies.other_amounts)
        payment, sent = nodes.pay()
        nodes.rest()
        assert nodes.balance(payment) == (1000, 0)
        together_again(nodes, is_liar_honest=is_liar_honest)
        assert nodes.balance(payment) == (100, 0)
        [false, true] = told.facts(sent)
        assert (false.live, true.live, true.amount_units, true.incarnation) == (False, True, units(100), 2)
        told.hold()
        assert nodes.balance(payment) == (0, 100)


def test_what_a_lone_liar_left_out_is_found_however_long_it_was_alone(told: WatchingFleet) -> None:
    """L13, L14: what no quorum has seen is scanned again, also where it left the watched window meanwhile."""
    with nodes_of(told, 3) as nodes:
        alone(nodes, lies.no_logs_no_bloom)
        agreed = nodes.cursor.agreed_number
        payment, _ = nodes.pay()
        nodes.rest()
        told.world.rpc("anvil_mine", hex(300))
        nodes.rest()
        assert nodes.cursor.head_number > agreed + 300
        assert nodes.cursor.agreed_number == agreed
        assert nodes.balance(payment) == (0, 0)
        together_again(nodes, is_liar_honest=False)
        assert nodes.cursor.agreed_number == told.world.client.head().number
        assert nodes.balance(payment) == (100, 0)


@pytest.mark.parametrize(
    "lie", sampled([lies.other_hashes, lies.no_receipts, lies.together(lies.no_receipts, lies.other_hashes)])
)
@pytest.mark.parametrize("is_held", sampled([True, False]))
def test_below_a_quorum_nothing_is_taken_back_that_a_quorum_agreed_on(
    told: WatchingFleet, lie: Lie, is_held: bool
) -> None:
    """L13, L14: neither by replacing its block, nor by a look at it."""
    with nodes_of(told, 3) as nodes:
        payment, sent = nodes.pay()
        nodes.tick()
        if is_held:
            told.hold()
        before = nodes.balance(payment)
        assert before == ((0, 100) if is_held else (100, 0))
        told.world.rpc("anvil_mine", "0x2")
        nodes.tick()
        agreed = nodes.cursor.agreed_number
        alone(nodes, lie)
        told.ask(sent)
        nodes.rest()
        nodes.rest()
        assert nodes.balance(payment) == before
        assert nodes.cursor.agreed_number == agreed
        assert nodes.cursor.paused_reason is None
        together_again(nodes, is_liar_honest=True)
        assert nodes.balance(payment) == before
        assert told.look(sent).state == "seen"


def test_a_swapped_hash_of_the_old_block_alone_takes_nothing_back(told: WatchingFleet) -> None:
    """L13: a lone liar that has the newest agreed block right, and only the payment's own block wrong."""
    with nodes_of(told, 3) as nodes:
        payment, sent = nodes.pay()
        nodes.tick()
        told.hold()
        height = hex(told.facts(sent)[0].block_number)
        told.world.rpc("anvil_mine", "0x2")
        nodes.tick()

        def one_block(method: str, params: list[Any], result: Any) -> Any:
            if method == "eth_getBlockByNumber" and params[0] == height:
                result["hash"] = lies.other_hash(result["hash"])
            return None if method == "eth_getTransactionReceipt" else result

        alone(nodes, lies.changing(one_block))
        told.ask(sent)
        nodes.rest()
        assert nodes.balance(payment) == (0, 100)
        assert "a quorum agreed on block" in told.look(sent).last_error
        together_again(nodes, is_liar_honest=False)
        assert nodes.balance(payment) == (0, 100)
        assert told.look(sent).state == "seen"


def test_one_node_that_fails_once_does_not_leave_the_other_to_decide(told: WatchingFleet) -> None:
    """L13: a window that one of two sound nodes did not answer is no quorum, though none was put aside for it."""
    with nodes_of(told, 2) as nodes:
        payment, sent = nodes.pay()
        nodes.tick()
        assert nodes.balance(payment) == (100, 0)
        # The one is asked again at once, so it strikes; the other shows another chain.
        nodes.proxies[0].lie = lies.logs_of_another_block
        nodes.proxies[1].lie = lies.other_hashes
        told.ask(sent)
        nodes.pay()
        nodes.rest()
        assert [row.state for row in nodes.rows()] == ["healthy", "healthy"]
        assert nodes.cursor.waiting_reason == "quorum: 1 of 2 nodes answered"
        assert nodes.balance(payment) == (100, 0)


def test_a_block_that_a_lone_liar_invented_far_ahead_is_not_waited_for(told: WatchingFleet) -> None:
    """L13: money in a block that nobody else will ever have is taken back by the quorum, and not in a million blocks."""
    with nodes_of(told, 3) as nodes:
        victim = told.payment()
        _, real = nodes.pay()
        nodes.tick()
        far, invented, block_hash = hex(told.world.client.head().number + 10**6), "0x" + "6f" * 32, "0x" + "6e" * 32
        false = copy.deepcopy(told.world.rpc("eth_getTransactionReceipt", real))
        false |= {"transactionHash": invented, "blockNumber": far, "blockHash": block_hash}
        for log in false["logs"]:
            log |= {"transactionHash": invented, "blockNumber": far, "blockHash": block_hash}
            if len(log["topics"]) == 3:
                log["topics"][2] = "0x" + victim.destination[2:].lower().rjust(64, "0")
        block = {**told.world.rpc("eth_getBlockByNumber", "latest", False), "number": far, "hash": block_hash}

        def there(method: str, params: list[Any], result: Any) -> Any:
            if method == "eth_getBlockByNumber" and params[0] == far:
                return dict(block)
            return copy.deepcopy(false) if method == "eth_getTransactionReceipt" and params[0] == invented else result

        alone(nodes, lies.changing(there))
        told.ask(invented)
        nodes.rest()
        assert nodes.balance(victim) == (100, 0)
        together_again(nodes, is_liar_honest=True)
        assert nodes.balance(victim) == (0, 0)


def test_the_house_is_funded_by_what_a_quorum_sees(told: WatchingFleet) -> None:
    """L6, L13: one node's word makes no money, not even the house's own."""
    payer = Account.create().address
    told.market.execute(
        "INSERT INTO fleet.house_accounts (chain_id, address, kind) VALUES (:c, :a, 'gas_payer')", c=CHAIN_ID, a=payer
    )
    told.world.rpc("anvil_setBalance", payer, hex(10**18))
    with nodes_of(told, 2) as nodes:

        def fund() -> int:
            reader = nodes.watch.quorum_reader()
            assert reader is not None
            return book_funding(told.watcher, reader, told.chain, nodes.watch.fence, reader.head())

        def rich(method: str, _params: list[Any], result: Any) -> Any:
            return hex(10**24) if method == "eth_getBalance" else result

        nodes.proxies[0].lie = lies.changing(rich)
        with pytest.raises(ChainUnavailable, match="contradict each other on the balance"):
            fund()
        assert told.count("public.funds_ledger_entries WHERE reason = 'funding'") == 0
        nodes.proxies[0].lie = None
        assert fund() == 1
        [entry] = told.market.execute("SELECT amount FROM public.funds_ledger_entries WHERE reason = 'funding'")
        assert entry.amount == 1
        nodes.proxies[1].lie = lies.answering(500)
        nodes.rest()
        assert nodes.watch.quorum_reader() is None

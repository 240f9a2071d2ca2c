"""Holding on what two nodes agree on, never on one's word: Anvil, and a node before it that may lie (L13, R17)."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import pytest
import structlog

from custody.chain import ChainClient, ChainConnection
from custody.chain.nodes import ChainNodes
from custody.payments.holding import _usable_answers
from custody.payments.story import tell
from custody.settings.chains import Chain
from custody.settings.thresholds import set_threshold
from custody.store.engine import transaction
from tests.counts import sampled
from tests.integration.chain_fixtures import ChainWorld, Expected, WatchingFleet
from tests.marketplace import CHAIN_ID
from tests.scripted_node import ScriptedNode

FORK: Final = "0x" + "f0" * 32
Lie = Callable[[str, list[Any], Any], Any]
"""(method, params, the honest result) -> what the node says instead."""


def honest(_method: str, _params: list[Any], result: Any) -> Any:
    return result


@dataclass
class SecondNode:
    """Passes every question on to Anvil and may change the answers; ``away`` answers nothing."""

    world: ChainWorld
    lie: Lie = honest
    away: bool = False
    asked: list[str] = field(default_factory=list[str])

    def script(self, body: Any) -> Any:
        if self.away:
            return 503
        found = httpx.post(self.world.chain.rpc_url, json=body, trust_env=False, timeout=30).json()
        calls = {call["id"]: call for call in (body if isinstance(body, list) else [body])}
        for answer in found if isinstance(found, list) else [found]:
            call = calls[answer["id"]]
            self.asked.append(call["method"])
            answer["result"] = self.lie(call["method"], call["params"], answer["result"])
        return found


@pytest.fixture
def second(watched_world: ChainWorld) -> SecondNode:
    return SecondNode(watched_world)


@pytest.fixture
def nodes(fleet: WatchingFleet, second: SecondNode) -> Generator[ChainNodes]:
    """Two nodes of the fleet's chain, the first one honest."""
    with both(fleet, second) as made:
        yield made


@contextmanager
def both(fleet: WatchingFleet, second: SecondNode) -> Generator[ChainNodes]:
    with ScriptedNode(second.script).running() as url:
        genesis = fleet.chain.genesis_hash
        clients = [
            ChainClient(ChainConnection(CHAIN_ID, each, genesis, read_attempts=1))
            for each in (fleet.world.chain.rpc_url, url)
        ]
        made = ChainNodes(fleet.chain, clients)
        assert made.quorum == 2
        yield made
        made.close()


def seen(fleet: WatchingFleet, amount: int | None = None) -> tuple[Expected, str]:
    """A payment whose transfer the watcher has booked; enough nodes agree on its block."""
    payment = fleet.payment()
    sent = fleet.pay(payment, amount)
    fleet.watch(sent)
    fleet.agree()
    return payment, sent


def threshold(fleet: WatchingFleet, blocks: int) -> None:
    with transaction(fleet.database.engine("fleet_operator")) as connection:
        set_threshold(connection, CHAIN_ID, blocks, floor_blocks=1, by="a person", reason="a test of depth")


def waits(fleet: WatchingFleet, payment: Expected) -> str:
    with transaction(fleet.database.engine("fleet_operator")) as connection:
        return str(tell(connection, payment.payment).waits)


def holds(fleet: WatchingFleet, nodes: ChainNodes) -> tuple[int, str]:
    """How many were held, and what the log says."""
    with structlog.testing.capture_logs() as logs:
        held = fleet.hold(nodes)
    return held, str([entry for entry in logs if entry["log_level"] == "warning"])


def another_block(method: str, params: list[Any], result: Any) -> Any:
    if method == "eth_getBlockByNumber" and params[0] != "0x0":
        return {**result, "hash": FORK}
    return {**result, "blockHash": FORK, "logs": []} if method == "eth_getTransactionReceipt" else result


def no_receipt(method: str, _params: list[Any], result: Any) -> Any:
    return None if method == "eth_getTransactionReceipt" else result


def another_amount(method: str, _params: list[Any], result: Any) -> Any:
    if method == "eth_getTransactionReceipt":
        for log in result["logs"]:
            log["data"] = log["data"][:-1] + ("0" if log["data"][-1] != "0" else "1")
    return result


@pytest.mark.parametrize("lie", sampled([another_block, no_receipt, another_amount]))
def test_two_nodes_that_disagree_hold_nothing_until_they_agree(
    fleet: WatchingFleet, nodes: ChainNodes, second: SecondNode, lie: Lie
) -> None:
    payment, sent = seen(fleet)
    second.lie = lie
    held, said = holds(fleet, nodes)
    assert held == 0
    assert "quorum" in said
    assert [entry[0] for entry in fleet.entries(payment.payment)] == ["payment_detected"]
    assert fleet.look(sent).state == "seen"  # one node alone takes nothing back
    [dead] = fleet.market.execute("SELECT * FROM fleet.dead_work WHERE resolved_at IS NULL")
    assert (dead.queue, dead.payment_id) == ("confirmations", payment.payment)
    assert f"transaction {sent}: quorum" in dead.reason
    assert f"transaction {sent}: quorum" in waits(fleet, payment)

    second.lie = honest
    assert fleet.hold(nodes) == 1
    assert fleet.market.state(payment.payment) == ("confirmed", "funded")
    [row] = fleet.market.execute("SELECT metadata FROM public.funds_ledger_entries WHERE entry_type = 'hold'")
    assert row.metadata["nodes"] == 2
    assert fleet.market.execute("SELECT FROM fleet.dead_work WHERE resolved_at IS NULL") == []
    assert "quorum" not in waits(fleet, payment)


def test_a_payment_on_which_nodes_disagree_stops_no_other(
    fleet: WatchingFleet, nodes: ChainNodes, second: SecondNode
) -> None:
    doubtful, sent = seen(fleet)
    sure, _ = seen(fleet)
    second.lie = lambda method, params, result: None if params == [sent] else result
    assert fleet.hold(nodes) == 1
    assert fleet.market.state(doubtful.payment) == ("processing", None)
    assert fleet.market.state(sure.payment) == ("confirmed", "funded")


def test_a_node_that_is_away_leaves_no_quorum(fleet: WatchingFleet, nodes: ChainNodes, second: SecondNode) -> None:
    payment, _ = seen(fleet)
    second.away = True
    held, said = holds(fleet, nodes)
    assert held == 0
    assert "quorum: 1 of 2 nodes can be used" in said
    assert "HTTP status 503" in said
    assert fleet.market.execute("SELECT FROM fleet.dead_work") == []  # the chain's trouble, not the payment's
    fleet.market.execute(
        "INSERT INTO fleet.chain_nodes (chain_id, place, url, state, reason) VALUES (:c, 1, 'http://second', 'aside', 'away')",
        c=CHAIN_ID,
    )
    assert "quorum: 1 of 2 nodes of chain 31337 are not put aside, 2 must agree" in waits(fleet, payment)
    second.away = False
    assert fleet.hold(nodes) == 1


def test_a_node_of_another_chain_has_no_voice(fleet: WatchingFleet, second: SecondNode) -> None:
    """R17: the id is the same, the genesis block is not."""
    payment, _ = seen(fleet)
    second.lie = lambda method, params, result: {**result, "hash": FORK} if params[:1] == ["0x0"] else result
    with both(fleet, second) as nodes:
        held, said = holds(fleet, nodes)
    assert held == 0
    assert "another chain of the same id" in said
    second.lie = honest
    with both(fleet, second) as nodes:
        assert fleet.hold(nodes) == 1
    assert fleet.market.state(payment.payment) == ("confirmed", "funded")


def test_depth_is_the_least_that_a_node_gives(fleet: WatchingFleet, nodes: ChainNodes, second: SecondNode) -> None:
    """L13"""
    threshold(fleet, 3)
    payment, _ = seen(fleet)
    fleet.world.chain.mine(2)
    fleet.watch()
    fleet.agree()
    head = fleet.world.client.head().number

    def behind(method: str, params: list[Any], result: Any) -> Any:
        if method == "eth_getBlockByNumber" and params[0] == "latest":
            return fleet.world.rpc("eth_getBlockByNumber", hex(head - 1), False)
        return None if params[0] == hex(head) else result

    second.lie = behind
    assert fleet.hold(nodes) == 0
    assert fleet.market.execute("SELECT FROM fleet.dead_work") == []
    second.lie = honest
    assert fleet.hold(nodes) == 1
    [row] = fleet.market.execute("SELECT metadata FROM public.funds_ledger_entries WHERE entry_type = 'hold'")
    assert (row.metadata["head_number"], row.metadata["confirmations"]) == (head, 3)
    assert fleet.market.state(payment.payment) == ("confirmed", "funded")


def test_nothing_is_held_above_what_the_watcher_saw_agreed(fleet: WatchingFleet, nodes: ChainNodes) -> None:
    """L13: with two nodes a head is one node's word; explain names what is missing."""
    threshold(fleet, 2)
    payment, _ = seen(fleet)
    fleet.world.chain.mine()
    fleet.watch()
    fleet.market.execute("UPDATE fleet.chain_cursors SET agreed_number = NULL")
    held, said = holds(fleet, nodes)
    assert held == 0
    assert "quorum: the nodes have not agreed on a block yet" in said
    head = fleet.world.client.head()
    fleet.market.execute("UPDATE fleet.chain_cursors SET agreed_number = :n", n=head.number - 1)
    assert fleet.hold(nodes) == 0
    assert "depth: 1 of 2 confirmations" in waits(fleet, payment)  # counted from what is agreed
    # The nodes are ahead of the watcher: depth counts to the block that it saw agreed, with that block's hash.
    fleet.agree()
    fleet.world.chain.mine(5)
    assert fleet.hold(nodes) == 1
    [row] = fleet.market.execute("SELECT metadata FROM public.funds_ledger_entries WHERE entry_type = 'hold'")
    found = row.metadata
    assert (found["head_number"], found["head_hash"], found["confirmations"]) == (head.number, head.hash, 2)


def test_what_both_nodes_no_longer_have_is_looked_at_again(fleet: WatchingFleet, nodes: ChainNodes) -> None:
    """L20"""
    payment, sent = seen(fleet)
    fleet.world.chain.reorganise(1)
    fleet.world.forget_nonces()
    assert fleet.hold(nodes) == 0
    assert fleet.look(sent).state == "due"
    fleet.watch()
    assert fleet.market.state(payment.payment) == ("pending", None)


def test_a_transfer_that_no_receipt_carries_is_never_held(fleet: WatchingFleet, nodes: ChainNodes) -> None:
    """L2: whatever the watcher was shown, the receipt that the nodes agree on has another amount."""
    payment, sent = seen(fleet)
    fleet.market.execute(
        "UPDATE fleet.chain_facts SET amount_units = amount_units + 1 WHERE transaction_hash = :h", h=sent
    )
    assert fleet.hold(nodes) == 0
    assert "does not carry this transfer" in waits(fleet, payment)
    fleet.market.execute(
        "UPDATE fleet.chain_facts SET amount_units = amount_units - 1 WHERE transaction_hash = :h", h=sent
    )
    assert fleet.hold(nodes) == 1
    assert fleet.market.execute("SELECT FROM fleet.dead_work WHERE resolved_at IS NULL") == []


def test_what_a_reorganisation_took_leaves_no_work_for_an_operator(
    fleet: WatchingFleet, nodes: ChainNodes, second: SecondNode
) -> None:
    _, sent = seen(fleet)
    second.lie = no_receipt
    assert fleet.hold(nodes) == 0
    assert len(fleet.market.execute("SELECT FROM fleet.dead_work WHERE resolved_at IS NULL")) == 1
    fleet.world.chain.reorganise(1)
    fleet.world.forget_nonces()
    fleet.watch(sent)
    assert fleet.hold(nodes) == 0
    assert fleet.market.execute("SELECT FROM fleet.dead_work WHERE resolved_at IS NULL") == []


def test_stale_heads_are_put_aside_node_by_node(fleet: WatchingFleet) -> None:
    """Both nodes' newest block is from 1970: neither says anything about the present."""

    def script(body: Any) -> Any:
        block = {"number": "0x1", "hash": FORK, "parentHash": FORK, "timestamp": "0x1"}
        results = {"eth_chainId": "0x38", "eth_getBlockByNumber": block}
        calls = body if isinstance(body, list) else [body]
        said = [{"jsonrpc": "2.0", "id": call["id"], "result": results[call["method"]]} for call in calls]
        if not isinstance(body, list) and body["params"] == ["0x0", False]:
            said[0]["result"] = {**block, "number": "0x0", "hash": fleet.chain.genesis_hash}
        return said if isinstance(body, list) else said[0]

    real = Chain.model_validate({**fleet.chain.model_dump(), "id": 56, "max_head_age_seconds": 120})
    with ScriptedNode(script).running() as one, ScriptedNode(script).running() as other:
        nodes = ChainNodes(real, [ChainClient(ChainConnection(56, url, real.genesis_hash)) for url in (one, other)])
        with structlog.testing.capture_logs() as logs:
            assert _usable_answers(nodes, [], 1) == []
        nodes.close()
    [said] = logs
    assert said["reason"].startswith("quorum: 0 of 2 nodes can be used")
    assert said["reason"].count("the node is stuck") == 2
    assert "k3y" not in said["reason"]  # the URL's secret parts

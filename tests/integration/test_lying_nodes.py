"""Nodes that lie, each behind a real proxy: no false credit is held, no payment is missed, and the liar is named (L13, R17)."""

import copy
import logging
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from eth_account import Account

from custody.chain import ChainClient, ChainConnection, ChainUnavailable, node_panel
from custody.chain.fence import Fence
from custody.chain.house_funding import book_funding
from custody.chain.node_panel import STRIKES, NodePanel
from custody.chain.watching import BlockWatch
from tests import lying_node as lies
from tests.conftest import Database
from tests.integration.chain_fixtures import ChainWorld, Expected, WatchingFleet, units
from tests.lying_node import Lie, LyingNode
from tests.marketplace import CHAIN_ID
from tests.scripted_node import SECRET

TIMEOUT = 30.0  # seconds a node may take: honest ones are never too slow here
HANGING_TIMEOUT = 1.0  # what one that hangs costs


@dataclass
class Nodes:
    """A watch over several nodes, each behind a proxy that is honest until told otherwise."""

    fleet: WatchingFleet
    proxies: list[LyingNode]
    watch: BlockWatch

    @property
    def panel(self) -> NodePanel:
        return self.watch.panel

    def tick(self) -> None:
        """One round; no node waits for its time to be asked again, and no look for its backoff."""
        for node in self.panel.nodes:
            node.retry_at_seconds = 0.0
        self.fleet.make_due()
        self.watch.tick(100)

    def rest(self) -> None:
        """One round in which a node that was put aside stays there."""
        self.fleet.make_due()
        self.watch.tick(100)

    def pay(self, amount: int = 100) -> tuple[Expected, str]:
        payment = self.fleet.payment(amount)
        return payment, self.fleet.pay(payment)

    def rows(self) -> list[Any]:
        return self.fleet.market.execute("SELECT * FROM fleet.chain_nodes ORDER BY place")

    @property
    def cursor(self) -> Any:
        return self.fleet.market.execute("SELECT * FROM fleet.chain_cursors")[0]

    def is_credited(self, *payments: Expected) -> bool:
        return all(
            self.fleet.entries(one.payment)[-1:]
            == [("payment_detected", "seen", "destination", "detected", one.amount)]
            for one in payments
        )

    def balance(self, payment: Expected) -> tuple[int, int]:
        """(detected, held) of a payment, whole tokens."""
        found = self.fleet.market.execute(
            "SELECT coalesce(sum(detected), 0) AS detected, coalesce(sum(held), 0) AS held "
            "FROM fleet.ledger_balances WHERE book_id = :id",
            id=payment.payment,
        )[0]
        return int(found.detected), int(found.held)


@pytest.fixture(scope="module")
def told(watched_world: ChainWorld, module_database: Database) -> WatchingFleet:
    """One fleet for the whole table of lies; each has its own payments, nodes and watcher."""
    return WatchingFleet(watched_world, module_database, watched_world.contracts.usdc)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the last of three honest answers may be half a second late."""
    monkeypatch.setattr(node_panel, "PATIENCE_SECONDS", TIMEOUT)


@contextmanager
def nodes_of(fleet: WatchingFleet, count: int, *, lie: str = "") -> Generator[Nodes]:
    """``count`` nodes of Anvil's chain that a fresh watcher watches, all of them sound; the first one will lie."""
    with ExitStack() as stack:
        proxies = [stack.enter_context(LyingNode(fleet.world.chain.rpc_url).running()) for _ in range(count)]
        clients = [
            ChainClient(
                ChainConnection(
                    CHAIN_ID,
                    proxy.url,
                    fleet.chain.genesis_hash,
                    timeout=HANGING_TIMEOUT if lie in {"hangs", "drips"} and place == 0 else TIMEOUT,
                    read_attempts=1,
                )
            )
            for place, proxy in enumerate(proxies)
        ]
        panel = NodePanel(fleet.chain, clients)
        stack.callback(panel.close)
        nodes = Nodes(
            fleet, proxies, BlockWatch(fleet.watcher, fleet.chain, panel, Fence.take(fleet.watcher, CHAIN_ID))
        )
        nodes.tick()
        assert [row.state for row in nodes.rows()] == ["healthy"] * count
        assert nodes.cursor.agreed_number == fleet.world.client.head().number
        yield nodes


def invented_log(fleet: WatchingFleet, to: Expected) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def log(last: dict[str, Any]) -> dict[str, Any]:
        transfer = fleet.world.rpc("eth_getLogs", {"address": fleet.token, "fromBlock": last["blockNumber"]})[-1]
        return {
            **last,
            "address": fleet.token,
            "topics": [*transfer["topics"][:2], "0x" + to.destination[2:].lower().rjust(64, "0")],
            "data": "0x" + f"{units(to.amount):064x}",
        }

    return log


# What each lie ends as where two honest nodes have the liar between them: a part of the reason, or None where it is
# no lie or nobody is harmed by it.
LIES: dict[str, tuple[Lie, str | None]] = {
    "no logs": (lies.no_logs, "lack those of"),
    "one log dropped": (lies.last_log_dropped, "lack those of|the others agree on other content"),
    "no logs, and a bloom to fit": (lies.no_logs_no_bloom, "the others agree on other content"),
    "a bloom that promises all": (lies.full_bloom, "lack those of|the others agree on other content"),
    "other block hashes": (lies.other_hashes, "the others agree on other content"),
    "another parent": (lies.other_parent, "the others agree on other content"),
    "no receipts": (lies.no_receipts, "is not what the others agree on"),
    "receipts with other amounts": (lies.other_amounts, "is not what the others agree on"),
    "logs of another block": (lies.logs_of_another_block, "which is not its block"),
    "HTTP 503": (lies.answering(503), "HTTP status 503"),
    "HTTP 429": (lies.answering(429), "HTTP status 429"),
    "hangs": (lies.hang, "no answer within"),
    "drips": (lies.dripping, "no answer within"),
    "closes": (lies.answering(None), "no connection"),
    "garbage": (lies.answering(b"<html>no</html>"), "no JSON-RPC answer"),
    "not JSON-RPC": (lies.answering({"jsonrpc": "2.0"}), "no JSON-RPC answer"),
    "an answer is missing": (lies.one_answer_short, "calls got"),
    "reordered": (lies.reordered, None),
    "answers of other calls": (lies.swapped_ids, "expected"),
    "ids that nobody sent": (lies.foreign_ids, "no JSON-RPC answer"),
    "a limit of one block": (lies.limits, None),
    "a head nobody mined": (lies.ahead(1000), "though it says its newest is"),
    "a number without end": (lies.huge_number, "number: expected at most"),
    "a time without end": (lies.huge_timestamp, "timestamp: expected at most"),
    "a nonce without end": (lies.huge_nonce, "nonce: expected at most"),
    "its own URL in a field": (lies.echo, "hash: expected a 32-byte hash"),
    "its own URL in an error": (lies.echo_in_error, "the newest block: …"),
}


@pytest.mark.parametrize("lie", LIES)
def test_one_of_three_lies_and_nothing_is_missed(
    told: WatchingFleet, lie: str, caplog: pytest.LogCaptureFixture
) -> None:
    """L13, R17: the two others are a quorum; the liar is put aside with a reason, and taken again once it is honest."""
    caplog.set_level(logging.DEBUG)
    with nodes_of(told, 3, lie=lie) as nodes:
        liar = nodes.proxies[0]
        liar.lie, reason = LIES[lie]
        nodes.panel.nodes[0].strikes = STRIKES - 1
        paid = [nodes.pay()[0]]
        for _ in range(STRIKES + 1):
            nodes.rest()
        assert nodes.is_credited(*paid)
        assert nodes.cursor.agreed_number == told.world.client.head().number
        states = nodes.rows()
        assert [row.state for row in states[1:]] == ["healthy", "healthy"]
        if reason is None:
            assert states[0].state == "healthy"
        else:
            assert states[0].state == "aside"
            assert any(part in states[0].reason for part in reason.split("|")), states[0].reason
        assert SECRET not in caplog.text + "".join(f"{row.url} {row.reason}" for row in states)
        liar.lie, liar.drips = None, False
        liar.released.set()
        for node in nodes.panel.nodes:
            if node.pending is not None:
                node.pending.exception(timeout=30)
        paid.append(nodes.pay()[0])
        nodes.tick()
        assert [row.state for row in nodes.rows()] == ["healthy"] * 3
        assert nodes.is_credited(*paid)
        told.hold()
        assert [nodes.balance(one) for one in paid] == [(0, 100)] * len(paid)


OF_TWO = [
    "no logs",
    "one log dropped",
    "no logs, and a bloom to fit",
    "other block hashes",
    "another parent",
    "no receipts",
    "receipts with other amounts",
    "logs of another block",
    "HTTP 503",
    "ids that nobody sent",
    "a limit of one block",
    "a head nobody mined",
]


@pytest.mark.parametrize("lie", OF_TWO)
def test_one_of_two_lies_and_nothing_is_missed_once_it_is_honest(told: WatchingFleet, lie: str) -> None:
    """L13: what two nodes do not both say waits, or is seen on the other alone and held by nobody."""
    with nodes_of(told, 2) as nodes:
        liar = nodes.proxies[0]
        liar.lie, reason = LIES[lie]
        paid = [nodes.pay()[0]]
        nodes.rest()
        paid.append(nodes.pay()[0])
        nodes.rest()
        states, cursor = nodes.rows(), nodes.cursor
        assert states[1].state == "healthy"
        if states[0].state == "aside":
            assert reason is not None
            assert cursor.waiting_reason.startswith("quorum: 1 of 2 nodes are sound")
            assert nodes.is_credited(*paid)  # seen on the one that is left
        elif not nodes.is_credited(*paid):
            # An equal split: the chain waits, and nobody is blamed; or their receipts contradict each other.
            looks = [told.market.execute("SELECT last_error FROM fleet.chain_looks WHERE state = 'due'")]
            assert (cursor.waiting_reason or "").startswith(("split: ", "quorum: 1 of 2 nodes answered")) or all(
                "contradict" in row.last_error for row in looks[0]
            )
            assert states[0].state == "healthy"
        liar.lie, liar.drips = None, False
        liar.released.set()
        nodes.tick()
        nodes.tick()
        assert [row.state for row in nodes.rows()] == ["healthy"] * 2
        assert nodes.cursor.waiting_reason is None
        assert nodes.cursor.agreed_number == told.world.client.head().number
        assert nodes.is_credited(*paid)
        told.hold()
        assert [nodes.balance(one) for one in paid] == [(0, 100)] * len(paid)


def test_an_equal_split_waits_and_nobody_is_blamed(told: WatchingFleet) -> None:
    """L13: two nodes, two chains. Which is right is not decided by whoever is listed first."""
    for place in (0, 1):
        with nodes_of(told, 2) as nodes:
            nodes.proxies[place].lie = lies.other_hashes
            payment, _ = nodes.pay()
            before = nodes.cursor
            for _ in range(STRIKES + 1):
                nodes.rest()
            assert nodes.cursor.waiting_reason.startswith("split: the nodes show 2 different blocks")
            assert nodes.cursor.agreed_number == before.agreed_number
            assert [row.state for row in nodes.rows()] == ["healthy", "healthy"]
            assert nodes.balance(payment) == (0, 0)


def test_no_node_at_all(told: WatchingFleet) -> None:
    """Nothing moves, and the operator is told why, without a key in it (L13)."""
    with nodes_of(told, 2) as nodes:
        for proxy in nodes.proxies:
            proxy.lie = lies.answering(500)
        payment, _ = nodes.pay()
        before = nodes.cursor
        nodes.rest()
        nodes.rest()
        after = nodes.cursor
        assert after.waiting_reason.startswith("no node: ")
        assert after.waiting_reason.count("HTTP status 500") == 2
        assert SECRET not in after.waiting_reason
        assert (after.head_number, after.agreed_number) == (before.head_number, before.agreed_number)
        assert nodes.balance(payment) == (0, 0)
        for proxy in nodes.proxies:
            proxy.lie = None
        nodes.tick()  # they are sound again, and the next round begins from where a quorum stood
        nodes.tick()
        assert nodes.is_credited(payment)
        assert nodes.cursor.waiting_reason is None


@pytest.mark.parametrize("lie", ["other_chain", "other_genesis"])
def test_a_node_of_another_chain_has_no_voice(told: WatchingFleet, lie: str) -> None:
    """R17: a chain is its id and its genesis."""
    with nodes_of(told, 3) as nodes:
        nodes.proxies[0].lie = lies.answering(500)
        nodes.tick()
        nodes.proxies[0].lie = getattr(lies, lie)
        payment, _ = nodes.pay()
        nodes.tick()
        assert nodes.is_credited(payment)
        [first, *others] = nodes.rows()
        assert first.state == "aside"
        assert "it is chain 1" in first.reason or "its genesis block is" in first.reason
        assert [row.state for row in others] == ["healthy", "healthy"]
        nodes.proxies[0].lie = None
        nodes.tick()
        assert nodes.rows()[0].state == "healthy"


def test_a_stale_node_is_behind_until_it_has_caught_up(told: WatchingFleet) -> None:
    """L13: a node that stopped following the chain is put aside, the others go on."""
    with nodes_of(told, 3) as nodes:
        nodes.proxies[0].lie = lies.stale_head(told.world.client.head().number)
        told.world.rpc("anvil_mine", "0x9")
        payment, _ = nodes.pay()
        nodes.tick()
        [first, *others] = nodes.rows()
        assert first.state == "behind"
        assert "its peers have" in first.reason
        assert [row.state for row in others] == ["healthy", "healthy"]
        assert nodes.is_credited(payment)
        nodes.proxies[0].lie = None
        nodes.tick()
        assert nodes.rows()[0].state == "healthy"


def test_one_that_invents_blocks_does_not_shut_out_the_others(told: WatchingFleet) -> None:
    """L13: how far the chain has come is what a quorum says, not the one who says most."""
    with nodes_of(told, 3) as nodes:
        nodes.proxies[0].lie = lies.ahead(10**9)
        payment, _ = nodes.pay()
        nodes.tick()
        nodes.tick()
        assert [row.state for row in nodes.rows()[1:]] == ["healthy", "healthy"]
        assert nodes.is_credited(payment)


def alone(nodes: Nodes, lie: Lie) -> None:
    """The honest nodes go away; what is left lies."""
    for proxy in nodes.proxies[1:]:
        proxy.lie = lies.answering(500)
    nodes.proxies[0].lie = lie
    told = nodes.fleet
    told.world.rpc("anvil_mine", "0x1")
    nodes.rest()
    assert nodes.cursor.waiting_reason.startswith("quorum: 1 of 2 nodes are sound")


def together_again(nodes: Nodes, *, is_liar_honest: bool) -> None:
    if is_liar_honest:
        nodes.proxies[0].lie = None
    for proxy in nodes.proxies[1:]:
        proxy.lie = None
    nodes.fleet.world.rpc("anvil_mine", "0x1")
    for _ in range(3):
        nodes.tick()


@pytest.mark.parametrize("is_liar_honest", [True, False])
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


@pytest.mark.parametrize("is_liar_honest", [True, False])
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
    "lie", [lies.other_hashes, lies.no_receipts, lies.together(lies.no_receipts, lies.other_hashes)]
)
@pytest.mark.parametrize("is_held", [False, True])
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


def test_an_invented_log_brings_nothing_and_blames_nobody_honest(told: WatchingFleet) -> None:
    """L2, L13: a log in a block that others have without it, whatever its bloom may hold."""
    with nodes_of(told, 3) as nodes:
        victim = told.payment()
        nodes.proxies[0].lie = lies.inventing(invented_log(told, victim))
        nodes.panel.nodes[0].strikes = STRIKES - 1
        payment, _ = nodes.pay()
        nodes.rest()
        nodes.rest()
        states = nodes.rows()
        assert [row.state for row in states] == ["aside", "healthy", "healthy"]
        assert nodes.is_credited(payment)
        assert nodes.balance(victim) == (0, 0)
        nodes.proxies[0].lie = lies.together(lies.inventing(invented_log(told, victim)), lies.full_bloom)
        nodes.tick()
        nodes.panel.nodes[0].strikes = STRIKES - 1
        other, _ = nodes.pay()
        nodes.rest()
        nodes.rest()
        assert [row.state for row in nodes.rows()] == ["aside", "healthy", "healthy"]
        assert nodes.is_credited(other)
        assert nodes.balance(victim) == (0, 0)


def test_a_provider_that_limits_windows_is_no_liar(told: WatchingFleet) -> None:
    """A quorum of two catches up in windows that both bear, and neither is put aside."""
    with nodes_of(told, 2) as nodes:
        nodes.proxies[0].lie = lies.limited(10)
        payment, _ = nodes.pay()
        told.world.rpc("anvil_mine", hex(60))
        for _ in range(3):
            nodes.rest()
        assert [row.state for row in nodes.rows()] == ["healthy", "healthy"]
        assert nodes.cursor.agreed_number == told.world.client.head().number
        assert nodes.is_credited(payment)


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

"""Nodes that lie, each behind a real proxy: no false credit is held, no payment is missed, and the liar is named (L13, R17)."""

import logging

import pytest

from custody.chain import node_panel
from custody.chain.node_panel import STRIKES
from tests import lying_node as lies
from tests.conftest import Database
from tests.counts import sampled
from tests.integration.chain_fixtures import ChainWorld, WatchingFleet
from tests.lying_node import Lie
from tests.node_quorum import TIMEOUT, invented_log, nodes_of
from tests.scripted_node import SECRET


@pytest.fixture(scope="module")
def told(watched_world: ChainWorld, module_database: Database) -> WatchingFleet:
    """One fleet for the whole table of lies; each has its own payments, nodes and watcher."""
    return WatchingFleet(watched_world, module_database, watched_world.contracts.usdc)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the last of three honest answers may be half a second late."""
    monkeypatch.setattr(node_panel, "PATIENCE_SECONDS", TIMEOUT)


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


@pytest.mark.parametrize("lie", sampled(sampled(LIES)))
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


@pytest.mark.parametrize("lie", sampled(OF_TWO))
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

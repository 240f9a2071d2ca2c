"""`fleet confirmations`: who waits for depth, how long, and what blocks it (L13; design §5 and §2, rule 8)."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import pytest
from sqlalchemy import event

from custody.payments.waiting import Waiting, WatchedChain, nearest, watched_chains
from custody.store.work import bury
from tests.conftest import Database
from tests.marketplace import CHAIN_ID, TOKEN, Marketplace
from tests.payment_scene import cursor, judge, nodes, nothing_seen, scanned, set_threshold, transfer
from workers.cli import confirmations as command

Run = Callable[..., Any]
ETHEREUM, BSC, BASE = 1, 56, 8453


@pytest.fixture(scope="module")
def market(module_database: Database) -> Marketplace:
    return Marketplace(module_database)


@pytest.fixture(autouse=True)
def nothing(market: Marketplace) -> None:
    nothing_seen(market)


def chains(market: Marketplace) -> dict[int, WatchedChain]:
    with market.database.engine("fleet_operator").connect() as connection:
        return watched_chains(connection)


def listed(market: Marketplace, limit: int = 50) -> list[Waiting]:
    with market.database.engine("fleet_operator").connect() as connection:
        return nearest(connection, watched_chains(connection), limit).transfers


def only(market: Marketplace) -> Waiting:
    [found] = listed(market)
    return found


# Depth and time ----------------------------------------------------------------------------------------------------


def test_l13_depth_is_counted_from_the_agreed_head(market: Marketplace) -> None:
    transfer(market, 100, chain=BSC)
    cursor(market, 150, chain=BSC, agreed=148)
    found = only(market)
    assert (found.confirmations, found.threshold.blocks, found.blocks_missing) == (49, 200, 151)
    assert found.eta_seconds == 151 * Fraction("0.45")
    assert (found.blocked.code, found.blocked.since) == ("depth", found.seen_at)


def test_the_pace_is_measured_over_the_window(market: Marketplace) -> None:
    transfer(market, 1_000, chain=BSC)
    cursor(market, 1_000, chain=BSC)
    scanned(market, 1_000, 63, "3", chain=BSC)
    assert not chains(market)[BSC].state.pace.is_measured
    scanned(market, 1_000, 64, "3", chain=BSC)
    assert chains(market)[BSC].state.pace.seconds == 3
    assert only(market).eta_seconds == 199 * 3


def test_blocks_older_than_the_window_have_no_say(market: Marketplace) -> None:
    """A block that is watched longer for its fact (L14) was mined at the pace of its day."""
    transfer(market, 10_000, chain=BSC)
    scanned(market, 10_000, 256, "0.5", chain=BSC)
    market.execute(
        "INSERT INTO fleet.chain_blocks VALUES (:c, 9743, '0x1', '0x0', now() - interval '30 days', true)", c=BSC
    )
    assert chains(market)[BSC].state.pace.seconds == Fraction(1, 2)


def test_the_threshold_says_where_it_comes_from(market: Marketplace) -> None:
    transfer(market)
    cursor(market, 100)
    assert only(market).chain.threshold_source == "the chain's floor, no history row"
    set_threshold(market, 12)
    found = only(market)
    assert (found.threshold.blocks, found.chain.threshold_source) == (12, f"history row {found.threshold.history_id}")
    transfer(market, chain=BSC)
    cursor(market, 100, chain=BSC)
    key = f"confirmation_threshold:{BSC}"
    market.execute("INSERT INTO public.config_settings (key, value) VALUES (:k, '12')", k=key)
    market.execute("INSERT INTO public.config_setting_history (key, new_value) VALUES (:k, 12)", k=key)
    bsc = chains(market)[BSC]
    assert (bsc.threshold.blocks, bsc.threshold_source) == (
        200,
        f"the chain's floor, history row {bsc.threshold.history_id} asks for no more",
    )


def test_deep_enough_waits_for_the_judgement(market: Marketplace) -> None:
    payment = transfer(market)
    cursor(market, 100)
    found = only(market)
    assert (found.eta_seconds, found.blocked.code) == (0, "judgement")
    judge(market, payment)
    assert listed(market) == []


# What blocks -------------------------------------------------------------------------------------------------------


def blocked(market: Marketplace) -> tuple[str, str, Fraction | None]:
    found = only(market)
    return found.blocked.code, found.blocked.what, found.eta_seconds


def test_a_paused_chain_promises_no_time(market: Marketplace) -> None:
    transfer(market, chain=BSC)
    cursor(market, 120, chain=BSC, paused="a deep reorganisation")
    assert blocked(market) == ("paused", "chain 56 is paused: a deep reorganisation", None)
    assert only(market).blocked.since == market.execute("SELECT paused_at FROM fleet.chain_cursors")[0].paused_at
    cursor(market, 120, chain=BSC)
    assert blocked(market)[0] == "depth"


def test_l13_without_an_agreed_head_there_is_no_depth(market: Marketplace) -> None:
    transfer(market, chain=BSC)
    cursor(market, 500, chain=BSC, agreed=-1)
    assert blocked(market) == ("quorum", "quorum: the nodes of chain 56 have agreed on no block yet", None)
    assert only(market).confirmations == 0


def test_l13_one_node_is_a_quorum_on_a_development_chain(market: Marketplace) -> None:
    transfer(market)
    cursor(market, 100, agreed=-1)
    assert blocked(market) == ("judgement", "deep enough, not judged yet", 0)


@pytest.mark.parametrize(
    ("chain", "behind", "code"),
    [
        (ETHEREUM, 2, "depth"),  # the second block that a node did not hear of
        (ETHEREUM, 3, "quorum"),
        (BASE, 50, "depth"),  # 10 s
        (BASE, 51, "quorum"),
    ],
)
def test_l13_an_agreed_head_that_fell_behind_is_a_lost_quorum(
    market: Marketplace, chain: int, behind: int, code: str
) -> None:
    transfer(market, 1_050, chain=chain)
    cursor(market, 1_060, chain=chain, agreed=1_060 - behind)
    found = only(market)
    assert (found.blocked.code, found.eta_seconds is None) == (code, code == "quorum")
    if code == "quorum":
        assert f"agree up to block {1_060 - behind}, {behind} behind the newest" in found.blocked.what
        assert found.blocked.unblocks == "2 nodes that show the same blocks"


def test_l13_too_few_nodes_are_a_lost_quorum_since_the_last_one_left(market: Marketplace) -> None:
    transfer(market, chain=BSC)
    cursor(market, 120, chain=BSC)
    nodes(market, "healthy", "behind", "aside", chain=BSC)
    assert blocked(market)[0] == "depth"
    nodes(market, "healthy", "aside", "aside", chain=BSC)
    market.execute("UPDATE fleet.chain_nodes SET since = now() - interval '9 minutes' WHERE place = 1")
    assert blocked(market) == (
        "quorum",
        "quorum: 1 of 3 nodes of chain 56 are not put aside, 2 must agree",
        None,
    )
    since = market.execute("SELECT since FROM fleet.chain_nodes WHERE place = 2")[0].since
    assert only(market).blocked.since == since
    nodes(market, "healthy", chain=BSC)
    assert (blocked(market)[0], only(market).blocked.since) == ("quorum", None)


def test_a_silent_watcher_promises_no_time(market: Marketplace) -> None:
    transfer(market, chain=BSC)
    assert blocked(market) == ("watcher", "no block of chain 56 was seen yet", None)
    cursor(market, 120, chain=BSC)
    market.execute("UPDATE fleet.chain_cursors SET seen_at = now() - interval '61 seconds'")
    assert blocked(market) == (
        "watcher",
        "nothing was heard of chain 56: its nodes are away, or the watcher is",
        None,
    )


def test_a_payment_whose_holding_was_given_up_says_why(market: Marketplace) -> None:
    payment = transfer(market)
    cursor(market, 100)
    with market.database.engine("fleet_confirmations").begin() as connection:
        bury(
            connection, queue="confirmations", subject_kind="payment", subject_id=str(payment), payment_id=payment,
            reason="it has no route", unblocks="give it one", attempts=1,
        )  # fmt: skip
    assert blocked(market) == ("given_up", "it has no route", None)
    market.execute("UPDATE fleet.dead_work SET resolved_at = now()")
    assert blocked(market)[0] == "judgement"


# The list ----------------------------------------------------------------------------------------------------------


def test_the_soonest_comes_first_and_what_cannot_say_when_comes_last(market: Marketplace) -> None:
    """Time counts, not blocks: 150 blocks of BSC are sooner there than 10 of Ethereum."""
    cursor(market, 1_000, chain=ETHEREUM)
    cursor(market, 1_000, chain=BSC)
    cursor(market, 1_000, chain=BASE, paused="drill")
    cursor(market, 1_000)
    ethereum, bsc = transfer(market, 961, chain=ETHEREUM), transfer(market, 951, chain=BSC)
    paused, ready = transfer(market, 701, chain=BASE), transfer(market, 1_000)
    later = transfer(market, 960, chain=BSC)
    assert [found.payment_id for found in listed(market)] == [ready, bsc, later, ethereum, paused]
    assert [found.payment_id for found in listed(market, 2)] == [ready, bsc]


def test_dead_and_outgoing_facts_wait_for_nothing(market: Marketplace) -> None:
    cursor(market, 100)
    market.kill_fact(market.fact(market.payment()))
    market.moved_fact(5, "sweep", "0x" + "99" * 20)
    assert listed(market) == []


@contextmanager
def counted_queries(market: Marketplace) -> Generator[list[str]]:
    statements: list[str] = []
    engine = market.database.engine("fleet_operator")

    def note(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


def test_one_and_two_hundred_transfers_cost_the_same_queries(market: Marketplace) -> None:
    """Design §5: cost must not grow with the number of pending payments."""
    cursor(market, 100)
    payment = transfer(market, 90)
    engine = market.database.engine("fleet_operator")
    with counted_queries(market) as one:
        assert len(command.look(engine, None, 300).waiting.transfers) == 1
    market.execute(
        "INSERT INTO fleet.chain_facts (chain_id, block_number, block_hash, transaction_hash, log_index, tx_ordinal, token, "
        "sender, recipient, amount_units, direction, payment_id) "
        "SELECT :c, 90, '0xb', '0x' || lpad(to_hex(n), 64, '0'), 0, 0, :t, '0x', '0x', n, 'inbound', :p "
        "FROM generate_series(1, 199) n",
        c=CHAIN_ID, t=TOKEN, p=payment,
    )  # fmt: skip
    with counted_queries(market) as many:
        assert len(command.look(engine, None, 300).waiting.transfers) == 200
    assert one == many
    assert len(one) == 4
    assert sum("amount_units" in statement for statement in one) == 1
    with counted_queries(market) as few:
        found = command.look(engine, None, 5).waiting
    assert (len(found.transfers), found.total, few) == (5, 200, one)

"""`fleet explain`: confirmations, the threshold and its source, the time left, and what blocks it (L13, design §2.8)."""

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
import typer
from typer.testing import CliRunner

from custody.settings.environment import settings
from tests.conftest import Database
from tests.marketplace import CHAIN_ID, TOKEN, Marketplace
from tests.payment_scene import cursor, held, nodes, nothing_seen, scanned, set_threshold, waits
from workers.cli import payments as commands

Run = Callable[..., Any]
BSC = 56


@pytest.fixture(scope="module")
def market(module_database: Database) -> Marketplace:
    return Marketplace(module_database)


@pytest.fixture(autouse=True)
def nothing(market: Marketplace) -> None:
    nothing_seen(market)


@pytest.fixture
def fleet(market: Marketplace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a `fleet` command as the operator's role."""
    app = typer.Typer()
    commands.register(app)
    monkeypatch.setenv("DATABASE_URL", market.database.url("fleet_operator"))
    monkeypatch.setenv("COLUMNS", "200")
    settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(app, list(arguments))
    settings.cache_clear()


def paid_on_bsc(market: Marketplace) -> UUID:
    """A payment whose coins came by another chain than its own (L10)."""
    cursor(market, 0)
    market.execute("INSERT INTO fleet.tokens VALUES (:c, :t, 'USDC', 6) ON CONFLICT DO NOTHING", c=BSC, t=TOKEN)
    payment = market.payment()
    market.fact(payment, block=100)
    market.execute("UPDATE fleet.chain_facts SET chain_id = :c", c=BSC)
    return payment


def test_the_screen_has_depth_threshold_its_source_and_the_time_left(market: Marketplace, fleet: Run) -> None:
    set_threshold(market, 12)
    payment = market.payment()
    market.fact(payment, block=100)
    cursor(market, 103)
    scanned(market, 103, 64, "5")
    history = market.execute("SELECT id FROM public.config_setting_history ORDER BY changed_at DESC LIMIT 1")[0].id
    said = fleet("explain", str(payment)).output
    assert f"threshold of chain {CHAIN_ID}: 12, history row {history}" in said
    for words in ("4/12", "about 40 s", "4 of 12 confirmations of block 100", "8 more blocks, about 40 s"):
        assert words in said
    told = json.loads(fleet("explain", "--json", str(payment)).stdout)
    [depth], [chain] = told["depths"], told["chains"]
    assert (depth["confirmations"], depth["threshold"], depth["eta_seconds"]) == (4, 12, 40)
    assert depth["threshold_history_id"] == str(history)
    assert (depth["threshold_floor"], chain["head_number"]) == (1, 103)


def test_l13_a_lost_quorum_is_a_wait_with_the_nodes_put_aside(market: Marketplace, fleet: Run) -> None:
    payment = paid_on_bsc(market)
    cursor(market, 160, chain=BSC, agreed=120)
    nodes(market, "healthy", "aside", "aside", chain=BSC)
    assert waits(market, payment) == [
        ("quorum: 1 of 3 nodes of chain 56 are not put aside, 2 must agree", "2 nodes that show the same blocks"),
        ("node 2 of chain 56 is aside: another hash at block 99", "the node, or another in its place in CHAINS_FILE"),
        ("node 3 of chain 56 is aside: another hash at block 99", "the node, or another in its place in CHAINS_FILE"),
        ("depth: 21 of 200 confirmations of block 100", "179 more blocks"),
    ]
    said = fleet("explain", str(payment)).output
    assert "1 of 3" in said
    assert "about" not in said


def test_l13_an_agreed_head_that_fell_behind_is_a_wait(market: Marketplace) -> None:
    payment = paid_on_bsc(market)
    cursor(market, 160, chain=BSC, agreed=120)
    nodes(market, "healthy", "healthy", chain=BSC)
    assert waits(market, payment) == [
        (
            "quorum: the nodes of chain 56 agree up to block 120, 40 behind the newest",
            "2 nodes that show the same blocks",
        ),
        ("depth: 21 of 200 confirmations of block 100", "179 more blocks"),
    ]


def test_a_node_put_aside_blocks_nothing_while_a_quorum_stands(market: Marketplace, fleet: Run) -> None:
    payment = paid_on_bsc(market)
    cursor(market, 160, chain=BSC)
    nodes(market, "healthy", "healthy", "aside", chain=BSC)
    assert waits(market, payment) == [
        ("depth: 61 of 200 confirmations of block 100", "139 more blocks, about 63 s"),
    ]
    assert "node 3, https://node-3.example, aside: another hash at block 99" in fleet("explain", str(payment)).output


def test_a_paused_chain_promises_no_time(market: Marketplace) -> None:
    payment = paid_on_bsc(market)
    cursor(market, 160, chain=BSC, paused="a deep reorganisation")
    assert waits(market, payment) == [
        ("chain 56 is paused: a deep reorganisation", "an operator"),
        ("depth: 61 of 200 confirmations of block 100", "139 more blocks"),
    ]


def test_a_silent_watcher_is_a_wait_of_who_must_still_be_seen(market: Marketplace) -> None:
    cursor(market, 500)
    market.execute("UPDATE fleet.chain_cursors SET seen_at = now() - interval '2 minutes'")
    silent = f"nothing was heard of chain {CHAIN_ID}: its nodes are away, or the watcher is"
    assert waits(market, market.payment())[0] == (silent, "the nodes or the watcher: fleet status")
    assert silent not in str(waits(market, held(market)))


def test_another_providers_chain_without_a_floor_is_told_without_depth(market: Marketplace) -> None:
    """Tron and TON payments are not the fleet's to watch; their story is."""
    payment = market.payment()
    market.execute("UPDATE public.payments SET chain_id = 728126428, token_address = NULL WHERE id = :id", id=payment)
    assert waits(market, payment)[0][0] == "a transfer to its address"

"""`fleet confirmations`: who waits for depth, how long, and what blocks it (L13; design §5 and §2, rule 8)."""

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import typer
from rich.console import Console
from sqlalchemy import event
from typer.testing import CliRunner

from custody.chain.depth import UnknownChain
from custody.payments.waiting import Waiting, WatchedChain, nearest, watched_chains
from custody.settings.environment import SettingsError, settings
from custody.store.work import bury
from tests.conftest import Database
from tests.marketplace import CHAIN_ID, TOKEN, Marketplace
from tests.payment_scene import cursor, judge, nodes, scanned, set_threshold
from workers.cli import confirmations as command

Run = Callable[..., Any]
ETHEREUM, BSC, BASE = 1, 56, 8453

TRANSFER_KEYS = {
    "payment", "chain_id", "token", "symbol", "amount", "transaction_hash", "block_number", "confirmations",
    "blocks_missing", "threshold", "threshold_source", "threshold_history_id", "threshold_floor", "eta_seconds",
    "blocked_by", "blocked", "unblocks", "since", "seen_at",
}  # fmt: skip
CHAIN_KEYS = {
    "chain_id", "head_number", "agreed_number", "seen_at", "paused_reason", "blocked_by", "blocked", "since", "quorum",
    "nodes_healthy", "nodes_configured", "nodes", "threshold", "threshold_source", "threshold_history_id",
    "threshold_floor", "block_seconds", "block_seconds_measured",
}  # fmt: skip
NODE_KEYS = {"place", "url", "state", "reason", "head_number", "since"}


@pytest.fixture
def market(database: Database) -> Marketplace:
    return Marketplace(database)


@pytest.fixture
def fleet(market: Marketplace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs `fleet confirmations` as the operator's role, with no terminal."""
    app = typer.Typer()
    command.register(app)
    monkeypatch.setenv("DATABASE_URL", market.database.url("fleet_operator"))
    monkeypatch.delenv("COLUMNS", raising=False)
    settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(app, list(arguments))
    settings.cache_clear()


def transfer(
    market: Marketplace,
    block: int = 100,
    *,
    chain: int = CHAIN_ID,
    units: int = 100_000_000,
    payment: UUID | None = None,
) -> UUID:
    """A payment with one transfer that waits."""
    payment = payment or market.payment()
    fact = market.fact(payment, units, block=block)
    if chain != CHAIN_ID:
        market.execute("INSERT INTO fleet.tokens VALUES (:c, :t, 'USDC', 6) ON CONFLICT DO NOTHING", c=chain, t=TOKEN)
        market.execute("UPDATE fleet.chain_facts SET chain_id = :c WHERE id = :id", c=chain, id=fact)
    return payment


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


# The command -------------------------------------------------------------------------------------------------------


def test_json_has_the_documented_keys(market: Marketplace, fleet: Run) -> None:
    payment = transfer(market, 100, chain=BSC, units=1_500_000)
    cursor(market, 110, chain=BSC)
    scanned(market, 110, 100, "0.45", chain=BSC)
    nodes(market, "healthy", "healthy", "aside", chain=BSC)
    said = fleet("--json")
    assert said.exit_code == 0
    told = json.loads(said.stdout)
    assert told.keys() == {"at", "waiting", "chains", "transfers"}
    [row], [chain] = told["transfers"], told["chains"]
    assert row.keys() == TRANSFER_KEYS
    assert chain.keys() == CHAIN_KEYS
    assert all(node.keys() == NODE_KEYS for node in chain["nodes"])
    assert (row["payment"], row["amount"], row["symbol"], row["confirmations"]) == (str(payment), "1.5", "USDC", 11)
    assert (row["threshold"], row["blocks_missing"], row["eta_seconds"]) == (200, 189, 86)  # 85.05 s
    assert (chain["block_seconds"], chain["block_seconds_measured"]) == ("0.45", True)
    assert (chain["nodes_healthy"], chain["nodes_configured"], chain["quorum"]) == (2, 3, 2)
    assert (told["waiting"], row["blocked_by"], chain["blocked_by"]) == (1, "depth", None)


def test_the_documents_name_every_key() -> None:
    text = (Path(__file__).parents[2] / "docs" / "operate.md").read_text(encoding="utf-8")
    for key in TRANSFER_KEYS | CHAIN_KEYS | NODE_KEYS | {"at", "waiting", "chains", "transfers"}:
        assert f"`{key}`" in text, key


def test_a_long_amount_keeps_every_digit(market: Marketplace, fleet: Run) -> None:
    transfer(market, units=2**200)
    cursor(market, 100)
    [row] = json.loads(fleet("--json").stdout)["transfers"]
    assert row["amount"] == f"{Decimal((0, tuple(map(int, str(2**200))), -6)):f}"


def test_the_table_at_a_fixed_width(market: Marketplace) -> None:
    payment = transfer(market, 100, chain=BSC, units=1_500_000)
    transfer(market, 50, chain=BSC, units=2_000_000)
    cursor(market, 199, chain=BSC)
    nodes(market, "healthy", "healthy", "aside", chain=BSC)
    engine = market.database.engine("fleet_operator")
    console = Console(width=160, record=True, file=StringIO())
    console.print(command.render(command.look(engine, None, 1), 160))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    hash_ = market.execute("SELECT transaction_hash AS h FROM fleet.chain_facts WHERE block_number = 50")[0].h
    assert lines[0].split() == ["chain", "head", "agreed", "nodes", "threshold", "a", "block", "state"]
    assert lines[1].split() == ["56", "199", "199", "2", "of", "3", "200", "0.45", "s", "*", "watching"]
    assert lines[2].strip() == "node 3, https://node-3.example, aside: another hash at block 99 (for 3 min)"
    assert lines[3] == "* as documented: too few blocks were scanned to measure it"
    assert lines[5].split() == [
        "payment", "amount", "chain", "transaction", "confirmations", "ready", "in", "blocked", "by", "since",
    ]  # fmt: skip
    shallow = market.execute("SELECT payment_id FROM fleet.chain_facts WHERE block_number = 50")[0].payment_id
    assert lines[6].split()[:-2] == [
        str(shallow), "2", "USDC", "56", f"{hash_[:8]}…{hash_[-4:]}", "150/200", "███████▌", "about", "23", "s", "depth",
    ]  # fmt: skip
    assert lines[7] == "and 1 more"
    assert len(lines) == 8
    assert all(len(line) <= 160 for line in lines)
    assert str(payment) not in "".join(lines)


def test_a_low_terminal_shows_what_fits_and_counts_the_rest(market: Marketplace) -> None:
    cursor(market, 100)
    for _ in range(4):
        transfer(market)
    view = command.look(market.database.engine("fleet_operator"), None, 50)
    console = Console(width=80, record=True, file=StringIO())
    console.print(command.render(view, 80, height=9))
    text = console.export_text()
    assert text.count("USDC") == 2
    assert "and 2 more" in text
    assert f"…{str(view.waiting.transfers[0].payment_id)[-12:]}" in text


def test_a_pipe_prints_once_and_one_chain_alone(market: Marketplace, fleet: Run) -> None:
    mine, other = transfer(market, chain=BSC), transfer(market)
    cursor(market, 120, chain=BSC)
    cursor(market, 100)
    said = fleet()
    assert said.exit_code == 0
    assert str(mine) in said.output
    assert str(other) in said.output
    said = fleet("--chain", "56", "--once")
    assert str(mine) in said.output
    assert str(other) not in said.output
    assert "\x1b" not in said.output


def test_nothing_waits(market: Marketplace, fleet: Run) -> None:
    cursor(market, 100)
    said = fleet("--once")
    assert (said.exit_code, "no transfer waits for confirmations" in said.output) == (0, True)


def test_what_strangers_wrote_is_shown_and_not_obeyed(market: Marketplace, fleet: Run) -> None:
    transfer(market)
    cursor(market, 100, paused="[red]x[/nothing] \x1b[2J")
    said = fleet("--once")
    assert (said.exit_code, "[red]x[/nothing]" in said.output, "\x1b" in said.output) == (0, True, False)


# When there is nothing to show -------------------------------------------------------------------------------------


def test_without_a_fleet_it_says_how_to_start_one(fleet: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL")
    settings.cache_clear()
    said = fleet("--once")
    assert isinstance(said.exception, SettingsError)
    assert "start it with `fleet up`" in str(said.exception)


def test_a_database_that_is_away_says_what_to_do(fleet: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://fleet_operator:hidden@127.0.0.1:1/amanat")
    settings.cache_clear()
    said = fleet("--once")
    assert isinstance(said.exception, SettingsError)
    assert "does not answer" in str(said.exception)
    assert "starts with `fleet up`" in str(said.exception)
    assert "hidden" not in str(said.exception)


def test_a_database_without_a_fleet_says_what_to_do(market: Marketplace, fleet: Run) -> None:
    market.execute("DROP SCHEMA fleet CASCADE")
    said = fleet("--once")
    assert isinstance(said.exception, SettingsError)
    assert "`fleet db upgrade`" in str(said.exception)


def test_another_role_is_told_whose_the_command_is(
    market: Marketplace, fleet: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", market.database.url("fleet_ingress"))
    settings.cache_clear()
    said = fleet("--once")
    assert isinstance(said.exception, SettingsError)
    assert "fleet_operator" in str(said.exception)


def test_a_fleet_that_has_watched_nothing_says_so(fleet: Run) -> None:
    said = fleet("--once")
    assert (said.exit_code, "no chain was watched yet" in said.stderr) == (1, True)
    said = fleet("--json")
    assert (said.exit_code, json.loads(said.stdout)["transfers"]) == (1, [])


@pytest.mark.parametrize("value", ["NaN", "0"])
def test_a_threshold_that_is_no_number_of_blocks_is_named(market: Marketplace, fleet: Run, value: str) -> None:
    cursor(market, 100)
    key = f"confirmation_threshold:{CHAIN_ID}"
    market.execute("INSERT INTO public.config_settings (key, value) VALUES (:k, '1')", k=key)
    market.execute(
        "INSERT INTO public.config_setting_history (key, new_value) VALUES (:k, CAST(:v AS numeric))", k=key, v=value
    )
    said = fleet("--once")
    assert isinstance(said.exception, SettingsError)
    assert key in str(said.exception)


def test_an_unknown_chain_is_refused_with_those_that_exist(fleet: Run) -> None:
    said = fleet("--chain", "7")
    assert isinstance(said.exception, UnknownChain)
    assert "8453" in str(said.exception)

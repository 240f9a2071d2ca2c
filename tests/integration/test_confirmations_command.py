"""`fleet confirmations`: its table, its JSON, and what it says when there is nothing to show (design §2, rule 8)."""

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from custody.chain.depth import UnknownChain
from custody.settings.environment import SettingsError, settings
from tests.conftest import Database
from tests.marketplace import CHAIN_ID, Marketplace
from tests.payment_scene import cursor, nodes, nothing_seen, scanned, transfer
from workers.cli import confirmations as command

Run = Callable[..., Any]
BSC = 56

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


@pytest.fixture(scope="module")
def market(module_database: Database) -> Marketplace:
    return Marketplace(module_database)


@pytest.fixture(autouse=True)
def nothing(market: Marketplace) -> None:
    nothing_seen(market)


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


def test_a_database_without_a_fleet_says_what_to_do(
    database: Database, fleet: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.engine().begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA fleet CASCADE")
    monkeypatch.setenv("DATABASE_URL", database.url("fleet_operator"))
    settings.cache_clear()
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

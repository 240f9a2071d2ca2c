"""``fleet pause`` and ``fleet unpause``: one guard stops, two persons let go on, each chain by itself (R10)."""

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer
from sqlalchemy import text
from typer.testing import CliRunner

from custody.ledger.adjustments import open_actions
from custody.settings.environment import settings
from custody.store.engine import transaction
from tests.conftest import Database
from tests.fleet_process import wait_for
from tests.marketplace import Marketplace
from workers.cli import chain, pause

Run = Callable[..., Any]
WHO = ("--by", "mina", "--reason", "it looks odd")


@pytest.fixture
def market(database: Database) -> Marketplace:
    return Marketplace(database)


@pytest.fixture
def fleet(market: Marketplace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    app = typer.Typer(rich_markup_mode="rich")
    pause.register(app)
    chain.register(app)
    monkeypatch.setenv("DATABASE_URL", market.database.url("fleet_operator"))
    monkeypatch.setenv("COLUMNS", "200")
    settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(app, list(arguments))
    settings.cache_clear()


def seen(market: Marketplace, *chains: int) -> None:
    for chain_id in chains:
        market.execute(
            "INSERT INTO fleet.chain_cursors (chain_id, head_number, head_hash, head_timestamp) "
            "VALUES (:c, 1, '0x', now())",
            c=chain_id,
        )


def reasons(market: Marketplace) -> dict[int, str | None]:
    return {row.chain_id: row.paused_reason for row in market.execute("SELECT * FROM fleet.chain_cursors")}


def test_one_guard_stops_every_chain_at_once_and_first_reasons_stand(market: Marketplace, fleet: Run) -> None:
    seen(market, 1, 56, 31337)
    only = fleet("pause", "56", *WHO)
    assert (only.exit_code, only.output.strip()) == (0, "chain 56 is paused")
    assert reasons(market) == {1: None, 56: "paused by mina: it looks odd", 31337: None}
    every = fleet("pause", "--all", "--by", "omid", "--reason", "me too")
    assert every.exit_code == 0
    assert every.output.splitlines() == [
        "chain 1 is paused",
        "chain 56 was paused already; its reason stands: paused by mina: it looks odd",
        "chain 31337 is paused",
    ]
    assert reasons(market) == {
        1: "paused by omid: me too",
        56: "paused by mina: it looks odd",
        31337: "paused by omid: me too",
    }
    again = json.loads(fleet("pause", "--all", "--json", *WHO).output)
    assert [(each["chain_id"], each["outcome"]) for each in again["chains"]] == [
        (1, "already_paused"),
        (56, "already_paused"),
        (31337, "already_paused"),
    ]


def test_a_chain_that_somebody_holds_keeps_no_other_from_being_stopped(market: Marketplace, fleet: Run) -> None:
    seen(market, 1, 56)
    ended: list[Any] = []

    def end_who_waits() -> None:
        """As a server does that goes away, or a lock that is held too long."""
        waiting = "FROM pg_stat_activity WHERE application_name = 'fleet-pause' AND wait_event_type = 'Lock'"
        ended.extend(wait_for(lambda: market.execute(f"SELECT pg_terminate_backend(pid) {waiting}")))

    ending = threading.Thread(target=end_who_waits)
    with market.database.engine().connect() as holder:
        holder.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        holder.execute(text("SELECT FROM fleet.chain_cursors WHERE chain_id = 1 FOR UPDATE"))
        ending.start()
        answer = fleet("pause", "--all", *WHO)
        ending.join(60)
    assert len(ended) == 1
    assert answer.exit_code == 2
    assert answer.stderr.strip() == "chain 1 was not changed: the database did not answer; again"
    assert reasons(market) == {1: None, 56: "paused by mina: it looks odd"}


def test_going_on_is_only_proposed_for_each_that_is_paused(market: Marketplace, fleet: Run) -> None:
    seen(market, 1, 56, 31337)
    fleet("pause", "1", *WHO)
    fleet("pause", "31337", *WHO)
    answer = fleet("unpause", "--all", "--json", "--by", "mina", "--reason", "looked at")
    assert answer.exit_code == 0, answer.output
    outcomes = {each["chain_id"]: each for each in json.loads(answer.output)["chains"]}
    assert {chain_id: each["outcome"] for chain_id, each in outcomes.items()} == {
        1: "proposed",
        56: "not_paused",
        31337: "proposed",
    }
    assert {chain_id for chain_id, reason in reasons(market).items() if reason is not None} == {1, 31337}
    with transaction(market.database.engine("fleet_operator")) as connection:
        hashes = {str(one.id): one.hash for one in open_actions(connection, "go_on")}
    assert set(hashes) == {outcomes[1]["action"], outcomes[31337]["action"]}
    for chain_id, said in ((31337, "the chain goes on"), (1, "needs the signatures of two persons, nobody signed")):
        action = outcomes[chain_id]["action"]
        agreed = fleet("chain", "agree", action, "--hash", hashes[action], "--by", "omid")
        assert said in agreed.output, (chain_id, agreed.output)
    assert reasons(market) == {1: "paused by mina: it looks odd", 56: None, 31337: None}


def test_what_is_asked_wrongly_says_what_was_expected_and_changes_nothing(market: Marketplace, fleet: Run) -> None:
    empty = fleet("pause", "--all", *WHO)
    assert empty.stderr.strip() == (
        "no watcher has seen any chain yet: there is nothing to pause. See fleet status and CHAINS_FILE"
    )
    seen(market, 56)
    for arguments, expected in (
        (("pause", *WHO), "expected one chain's id, or --all for every chain that a watcher has seen"),
        (("pause", "56", "--all", *WHO), "expected one chain's id, or --all"),
        (("pause", "1", *WHO), "no watcher has seen chain 1 yet: there is nothing to pause"),
        (("pause", "56", "--by", "", "--reason", "x"), "by: expected 1 to 100 characters"),
        (("pause", "56", "--by", "mina", "--reason", "x" * 501), "reason: expected 1 to 500"),
        (("unpause", "56", *WHO), "chain 56 is not paused"),
    ):
        refused = fleet(*arguments)
        assert (refused.exit_code, expected in refused.stderr) == (2, True), (arguments, refused.stderr)
    assert fleet("pause", "56").exit_code == 2  # who and why are always said
    assert reasons(market) == {56: None}


def test_help_says_who_may_and_what_comes_next(fleet: Run) -> None:
    stop, go = fleet("pause", "--help").output, fleet("unpause", "--help").output
    assert "Any one guard may." in stop
    assert "fleet unpause" in stop
    for step in ("fleet signer approve", "fleet chain agree ACTION", "fleet chain status"):
        assert step in go

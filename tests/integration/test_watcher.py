"""The watcher as a process, and its lock: one a chain, whoever takes over goes on (L12)."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.fleet_process import FleetProcess, wait_for
from tests.integration.chain_fixtures import WatchingFleet
from workers.watcher import ChainLease, LeaseLost

CHAINS = """
[[chains]]
id = 31337
name = "anvil"
genesis_hash = "{genesis}"
rpc_urls = [{urls}]
treasury = "0x1111111111111111111111111111111111111111"
fee_proxy = "{proxy}"
tokens = [
    {{ symbol = "PAID", address = "{token}", decimals = 6 }},
    {{ symbol = "ETH", address = "native", decimals = 18 }},
]
"""
NOBODY = "http://127.0.0.1:9"  # the discard port: refused at once


def start(fleet: WatchingFleet, folder: Path, name: str, *urls: str, genesis: str | None = None) -> FleetProcess:
    chains = folder / f"{name}.toml"
    chains.write_text(
        CHAINS.format(
            genesis=genesis or fleet.chain.genesis_hash,
            urls=", ".join(f'"{url}"' for url in urls or fleet.chain.rpc_urls),
            proxy=fleet.chain.fee_proxy,
            token=fleet.token,
        ),
        encoding="utf-8",
    )
    environment = {
        "DATABASE_URL": fleet.database.url("fleet_watcher"),
        "CHAINS_FILE": str(chains),
        "FLEET_STATE_DIR": str(folder),
        "POLL_INTERVAL_SECONDS": "0.05",
    }
    return FleetProcess(["-m", "workers.watcher"], environment, folder / f"{name}.log")


@pytest.fixture
def processes() -> Iterator[list[FleetProcess]]:
    started: list[FleetProcess] = []
    yield started
    for process in started:
        process.kill()


def test_it_books_what_is_due_and_another_takes_over_when_it_ends(
    fleet: WatchingFleet, tmp_path: Path, processes: list[FleetProcess]
) -> None:
    first = start(fleet, tmp_path, "first")
    processes.append(first)
    first.wait_until_it_said("watching")
    second = start(fleet, tmp_path, "second")
    processes.append(second)
    second.wait_until_it_said("another_watcher_runs")
    payment = fleet.payment()
    sent = fleet.pay(payment)
    fleet.ask(sent)
    wait_for(lambda: fleet.market.state(payment.payment)[0] == "processing")
    first.wait_until_it_said("payment_detected")  # said once it is committed
    wait_for((tmp_path / "health" / "watcher").exists)  # written at the end of the round
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(timeout=30) == 0
    assert "watcher_stopped" in first.log.read_text(encoding="utf-8")
    second.wait_until_it_said('"watching"')
    again = fleet.payment()
    fleet.ask(fleet.pay(again))
    wait_for(lambda: fleet.market.state(again.payment)[0] == "processing")
    assert len(fleet.entries(payment.payment)) == 1


def test_a_node_that_is_away_is_put_aside_and_money_is_seen_on_the_other(
    fleet: WatchingFleet, tmp_path: Path, processes: list[FleetProcess]
) -> None:
    """L13: two nodes are configured; below the quorum detection goes on, and what waits for a quorum says so."""
    watcher = start(fleet, tmp_path, "away", NOBODY, fleet.world.chain.rpc_url)
    processes.append(watcher)
    watcher.wait_until_it_said("node_put_aside")
    payment = fleet.payment()
    fleet.pay(payment)  # nobody announces it
    wait_for(lambda: fleet.market.state(payment.payment)[0] == "processing")
    [cursor] = fleet.market.execute("SELECT * FROM fleet.chain_cursors")
    assert cursor.agreed_number is None
    assert cursor.waiting_reason.startswith("quorum: 1 of 2 nodes are sound")
    states = fleet.market.execute("SELECT place, state, reason FROM fleet.chain_nodes ORDER BY place")
    assert [(row.place, row.state) for row in states] == [(0, "aside"), (1, "healthy")]
    assert "no connection" in states[0].reason


def test_a_node_of_another_chain_is_refused_and_nothing_read_from_it(
    fleet: WatchingFleet, tmp_path: Path, processes: list[FleetProcess]
) -> None:
    watcher = start(fleet, tmp_path, "wrong", genesis="0x" + "ab" * 32)
    processes.append(watcher)
    watcher.wait_until_it_said("genesis block")
    assert fleet.count("fleet.chain_cursors") == 0


def test_the_lock_ends_with_its_session(fleet: WatchingFleet) -> None:
    url, stop = fleet.database.url("fleet_watcher"), threading.Event()
    first, second = ChainLease(url, 1), ChainLease(url, 1)
    assert first.acquire(stop)
    first.require()
    stop.set()  # tried once, and not waited for
    assert not second.acquire(stop)
    stop.clear()
    second.release()
    # As when Postgres restarts under it: the session is gone, and the watcher must not go on.
    with psycopg.connect(fleet.database.url(), autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'fleet-watcher-lease' AND datname = current_database()"
        )
    with pytest.raises(LeaseLost):
        first.require()
    assert second.acquire(stop)
    second.release()
    with pytest.raises(LeaseLost):
        second.require()
    assert first.acquire(stop)
    other = ChainLease(url, 2)  # another chain's lock is another one
    assert other.acquire(stop)
    other.release()
    first.release()

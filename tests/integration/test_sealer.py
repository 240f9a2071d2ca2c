"""The sealer as a process, and its alarm when something holds the seal back (L15)."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from custody.ledger import post
from custody.ledger.seal_keys import load_public_keys, load_seal_key, new_seal_key
from custody.settings.environment import FleetSettings, SettingsError
from custody.store.engine import transaction
from tasks.housekeeping import tidy
from tests.conftest import Database
from tests.fleet_process import FleetProcess, wait_for
from tests.ledger_book import book_of, move
from tests.marketplace import Marketplace
from tests.sealed_ledger import verified
from workers.sealer import Sealer


@pytest.fixture
def key_files(tmp_path: Path) -> tuple[Path, Path]:
    """A private and a public key file."""
    files = tmp_path / "seal_key", tmp_path / "seal_key.pub"
    for path, pem in zip(files, new_seal_key(), strict=True):
        path.write_text(pem)
        path.chmod(0o600)
    return files


@pytest.fixture
def sealer(database: Database, key_files: tuple[Path, Path]) -> Iterator[Sealer]:
    made = Sealer(
        FleetSettings.model_validate(
            {"database_url": database.url("fleet_sealer"), "ledger_seal_key_file": key_files[0]}
        )
    )
    yield made
    made.close()


def alarms(market: Marketplace) -> list[Any]:
    return market.execute("SELECT * FROM fleet.dead_work WHERE queue = 'sealer'")


def test_the_process_seals_what_is_posted_and_ends_when_asked(
    database: Database, key_files: tuple[Path, Path], tmp_path: Path
) -> None:
    market = Marketplace(database)
    private, public = key_files
    process = FleetProcess(
        ["-m", "workers.sealer"],
        {
            "DATABASE_URL": database.url("fleet_sealer"),
            "LEDGER_SEAL_KEY_FILE": str(private),
            "LEDGER_SEAL_INTERVAL_SECONDS": "0.1",
            "FLEET_STATE_DIR": str(tmp_path),
        },
        tmp_path / "sealer.log",
    )
    try:
        process.wait_until_it_said("sealer_started")
        book = book_of(market)
        for _ in range(2):
            move(book, "seen", Decimal(1), 0)
            wait_for(lambda: verified(database, load_public_keys(public)).unsealed_entries == 0)
        assert process.terminate() == 0
    finally:
        process.kill()
    said = [json.loads(line) for line in process.log.read_text().splitlines()]
    assert sum(line["entries"] for line in said if line["event"] == "ledger_sealed") == 2
    assert said[-1]["event"] == "sealer_stopped"
    assert "PRIVATE" not in process.log.read_text()
    assert (tmp_path / "health" / "sealer").exists()
    report = verified(database, load_public_keys(public))
    assert (report.problems, report.sealed_entries) == ([], 2)


def test_a_seal_held_back_is_an_alarm_until_it_is_made(database: Database, sealer: Sealer) -> None:
    market = Marketplace(database)
    book, other = book_of(market), book_of(market)
    facts = [market.fact(each.payment) for each in (book, other)]
    process = sealer
    now = datetime.now(UTC)
    later = now + timedelta(seconds=70)
    with transaction(database.engine("fleet_watcher")) as slow:
        post(slow, book.entry("seen", Decimal(1), fact=facts[0])[1])
        with transaction(database.engine("fleet_watcher")) as quick:
            post(quick, other.entry("seen", Decimal(1), fact=facts[1])[1])
        with capture_logs() as logs:
            assert process.one_pass(now) == 0
            assert logs == []
            process.one_pass(later)
            process.one_pass(later)
        assert [(line["event"], line["log_level"]) for line in logs] == [("ledger_not_sealed", "error")]
        assert logs[0]["lag_seconds"] >= 69
        assert "pg_stat_activity" in logs[0]["unblocks"]
        (alarm,) = alarms(market)
        assert alarm.resolved_at is None
        # Should the sealer not run at all, housekeeping says so.
        with capture_logs() as logs:
            tidy(database.engine("fleet_housekeeping"), later)
        assert "ledger_not_sealed" in [line["event"] for line in logs]
    with capture_logs() as logs:
        wait_for(lambda: process.one_pass(now) > 0)
        process.one_pass(now)
    assert "ledger_sealed_again" in [line["event"] for line in logs]
    assert alarms(market)[0].resolved_by == "sealer"


def test_an_alarm_of_before_a_restart_is_settled(database: Database, sealer: Sealer) -> None:
    market = Marketplace(database)
    market.execute(
        "INSERT INTO fleet.dead_work (queue, subject_kind, subject_id, reason, unblocks, attempts) "
        "VALUES ('sealer', 'ledger', 'seal', 'late', 'wait', 1)"
    )
    sealer.one_pass(datetime.now(UTC))
    assert alarms(market)[0].resolved_by == "sealer"


def test_a_key_that_is_no_key_of_ours_stops_it_at_once(tmp_path: Path, key_files: tuple[Path, Path]) -> None:
    private, public = key_files
    assert load_seal_key(private).id in load_public_keys(public)
    assert "PRIVATE" not in repr(load_seal_key(private))
    wrong = tmp_path / "wrong"
    for content in ("hunter2", public.read_text(), private.read_text().replace("M", "N", 3)):
        wrong.write_text(content)
        wrong.chmod(0o600)
        with pytest.raises(SettingsError, match="openssl genpkey -algorithm ed25519") as caught:
            load_seal_key(wrong)
        assert "hunter2" not in str(caught.value)
    private.chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600"):
        load_seal_key(private)
    for content in (
        "",
        "no key",
        private.read_text(),
        public.read_text()[:60],
        public.read_text().replace("M", "N", 3),
    ):
        wrong.write_text(content)
        with pytest.raises(SettingsError, match="must hold Ed25519 public keys"):
            load_public_keys(wrong)
    with pytest.raises(SettingsError, match="cannot be read"):
        load_public_keys(tmp_path / "missing")

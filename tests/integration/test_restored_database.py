"""The ceremony of docs/custody/restore.md: a restored database starts paused, and no nonce is handed out twice (R22)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from custody.settings.environment import settings
from custody.store.lives import pause_after_restore
from custody.trezor import UnsignedTransaction, encode_erc20_transfer
from tests.release_scene import FEE_PROXY, Scene
from workers.cli import database as command
from workers.signer import ApiInstruction, CheckedInstruction, Journal
from workers.signer.coverage import Promise

TRANSFER = encode_erc20_transfer(FEE_PROXY, 1)


@pytest.fixture
def fleet(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[typer.Typer]:
    monkeypatch.setenv("DATABASE_ADMIN_URL", scene.database.url())
    monkeypatch.setenv("CHAINS_FILE", str(scene.folder / "chains.toml"))
    settings.cache_clear()
    app = typer.Typer()
    command.register(app)
    app.callback()(lambda: None)
    yield app
    settings.cache_clear()


def run(app: typer.Typer, *arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "300"}).invoke(app, ["db", "restored", *arguments])


def worked_elsewhere(scene: Scene) -> None:
    """The dump came from another server: its lives are that one's."""
    scene.market.execute("UPDATE fleet.database_lives SET system_identifier = system_identifier - 1 RETURNING begun_at")


def paused(scene: Scene) -> str | None:
    return scene.market.execute("SELECT paused_reason FROM fleet.chain_cursors")[0].paused_reason


def lane(scene: Scene) -> Any:
    return scene.market.execute("SELECT next_nonce FROM fleet.nonce_lanes WHERE address = :a", a=scene.treasury)[0]


def test_the_first_server_begins_by_itself(scene: Scene) -> None:
    assert pause_after_restore(scene.database.engine("fleet_releases")) is False
    [life] = scene.market.execute("SELECT begun_by FROM fleet.database_lives")
    assert life.begun_by == "fleet db upgrade"
    assert pause_after_restore(scene.database.engine("fleet_watcher")) is False
    assert paused(scene) is None


@pytest.mark.parametrize("change", ["system_identifier = system_identifier + 1", "timeline_id = timeline_id + 1"])
def test_another_server_or_timeline_starts_paused(scene: Scene, change: str) -> None:
    pause_after_restore(scene.database.engine("fleet_releases"))
    payment = scene.payment()
    scene.market.execute(f"UPDATE fleet.database_lives SET {change} RETURNING begun_at")
    assert pause_after_restore(scene.database.engine("fleet_sweeps")) is True
    reason = paused(scene)
    assert reason is not None
    assert reason.startswith("database_restored")
    scene.run()
    assert scene.instruction(payment) is None
    # Whoever pauses first is heard; a second look changes nothing.
    assert pause_after_restore(scene.database.engine("fleet_releases")) is True
    assert paused(scene) == reason


def test_the_ceremony_is_rehearsed(scene: Scene, fleet: typer.Typer) -> None:
    """A payout was signed and mined after the backup: the restored lane would hand out its nonce again."""
    pause_after_restore(scene.database.engine("fleet_releases"))
    first, second = scene.payment(), scene.payment()
    scene.run()
    handed_out = scene.handed_out([first, second])
    scene.submit(handed_out, scene.sign(handed_out))
    scene.run()
    assert scene.instruction(handed_out).state == "final"
    spent = scene.instruction(handed_out).nonce + 1
    scene.market.execute("UPDATE fleet.nonce_lanes SET next_nonce = 0 WHERE address = :a RETURNING 1", a=scene.treasury)
    worked_elsewhere(scene)
    said = run(fleet, "--by", "omid")
    assert said.exit_code == 0, said.output
    assert "work begins on this database" in said.output
    assert lane(scene).next_nonce == spent
    reason = paused(scene)
    assert reason is not None
    assert reason.startswith("database_restored")
    assert pause_after_restore(scene.database.engine("fleet_releases")) is False
    assert paused(scene) == reason
    again = run(fleet, "--by", "omid")
    assert (again.exit_code, "work had begun on this database before" in again.output) == (0, True)
    assert scene.market.execute("SELECT count(*) AS n FROM fleet.database_lives")[0].n == 2


def test_what_a_journal_knows_to_be_signed_raises_the_lane_above_the_chain(
    scene: Scene, fleet: typer.Typer, tmp_path: Path
) -> None:
    """Two payouts were signed after the backup and no block has spent their nonces: neither is handed out again (R22)."""
    pause_after_restore(scene.database.engine("fleet_releases"))
    scene.payment()
    scene.run()
    before = lane(scene).next_nonce
    paths = [tmp_path / "ada.jsonl", tmp_path / "bob.jsonl"]
    for path, nonces in zip(paths, ([before, before + 1], [before]), strict=True):
        write_journal(scene, path, nonces)
    said = run(fleet, "--by", "omid", *(part for path in paths for part in ("--journal", str(path))))
    assert said.exit_code == 0, said.output
    assert lane(scene).next_nonce == before + 2
    assert f"signed and not spent yet: {', '.join(map(str, range(before + 2)))}" in " ".join(said.output.split())
    # A journal that knows less lowers nothing.
    again = run(fleet, "--by", "omid", "--journal", str(paths[1]))
    assert (again.exit_code, lane(scene).next_nonce) == (0, before + 2)


def write_journal(scene: Scene, path: Path, nonces: list[int]) -> None:
    """A signer's journal in which the treasury's device was asked for payouts on these nonces."""
    with Journal(path, create=True) as journal:
        for nonce in nonces:
            claimed = ApiInstruction.model_construct(id=f"instruction-{nonce}", payment_id="payment", purpose="release")
            payout = UnsignedTransaction(31337, nonce, 1, 1, 60_000, scene.chain.token, 0, TRANSFER)
            checked = CheckedInstruction(claimed, payout, scene.pinned, "USDT", 6)
            journal.record_asked(checked, Promise(scene.chain.token, {"payment": 1}, frozenset()))


def test_a_missing_journal_is_said(scene: Scene, fleet: typer.Typer, tmp_path: Path) -> None:
    scene.run()
    said = run(fleet, "--by", "omid", "--journal", str(tmp_path / "nowhere"))
    assert said.exit_code != 0
    assert scene.market.execute("SELECT count(*) AS n FROM fleet.database_lives WHERE begun_by = 'omid'")[0].n == 0

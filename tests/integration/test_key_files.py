"""fleet keys init, seal and check: encrypted key files, and every way in which one is refused (R20)."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from custody.destinations.keys.key_files import read_key_file, seal, unseal
from custody.destinations.keys.vault import KeyVault, payer_address, read_payer_keys
from custody.settings.environment import SettingsError, load_settings
from tests.counts import sampled
from tests.keys_agent import new_phrase
from workers.cli import keys

PASSPHRASE = "correct horse battery staple, twice"
Fleet = Callable[..., Result]


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """The command, with key files in ``tmp_path``/keys."""
    for name, content in (("passphrase", PASSPHRASE), ("other", PASSPHRASE[::-1]), ("short", "hunter2")):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o600)
    monkeypatch.setenv("KEYS_PASSPHRASE_FILE", str(tmp_path / "passphrase"))
    monkeypatch.setenv("DEPOSIT_SEED_FILE", str(tmp_path / "keys" / "deposit_seed"))
    monkeypatch.setenv("GAS_PAYER_KEY_FILE", str(tmp_path / "keys" / "gas_payer_key"))
    monkeypatch.delenv("KEYS_AGENT_SOCKET", raising=False)
    monkeypatch.delenv("TREZOR_SAFEKEEPING_REQUIRED", raising=False)
    app = typer.Typer()
    keys.register(app)
    return lambda *arguments: CliRunner().invoke(app, ["keys", *map(str, arguments)])


def test_what_is_made_opens_again_and_shows_nothing_secret(fleet: Fleet, tmp_path: Path):
    made = fleet("init", tmp_path / "keys", "--payers", 2)
    assert made.exit_code == 0, made.output
    phrase = read_key_file(load_settings(), "deposit_seed_file")[0]
    keys = read_key_file(load_settings(), "gas_payer_key_file")[0]
    assert len(phrase.split()) == 24
    payers = [payer_address(key) for key in read_payer_keys(keys)]
    assert len(set(payers)) == 2
    checked = fleet("check")
    assert checked.exit_code == 0
    for shown in (made.output, checked.output):
        assert all(payer in shown for payer in payers)
        assert phrase not in shown
        assert not any(key in shown for key in keys.split())
    for name in ("deposit_seed", "gas_payer_key"):
        file = tmp_path / "keys" / name
        assert file.stat().st_mode & 0o777 == 0o600
        assert not any(word in file.read_text() for word in (phrase, *keys.split(), PASSPHRASE))
    again = fleet("init", tmp_path / "keys")
    assert again.exit_code == 2
    assert "nothing was written" in again.output
    assert read_key_file(load_settings(), "deposit_seed_file")[0] == phrase


def test_a_seed_that_exists_is_taken_over(fleet: Fleet, tmp_path: Path):
    phrase = new_phrase()
    (tmp_path / "plain").write_text(phrase)
    (tmp_path / "plain").chmod(0o600)
    assert fleet("init", tmp_path / "keys", "--seed-file", tmp_path / "plain").exit_code == 0
    assert read_key_file(load_settings(), "deposit_seed_file")[0] == phrase
    sealed = fleet("seal", tmp_path / "plain", tmp_path / "again", "--for", "DEPOSIT_SEED_FILE")
    assert sealed.exit_code == 0
    assert unseal((tmp_path / "again").read_text(), PASSPHRASE, name="deposit_seed_file") == phrase
    assert fleet("seal", tmp_path / "plain", tmp_path / "third", "--for", "SEED").exit_code == 2


def _change(path: Path, field: str) -> None:
    fields = json.loads(path.read_text())
    fields[field] = 1 << 30 if field == "n" else fields[field][:-2] + ("00" if fields[field][-2:] != "00" else "01")
    path.write_text(json.dumps(fields))


def _swap(folder: Path) -> None:
    (folder / "keys/deposit_seed").write_bytes((folder / "keys/gas_payer_key").read_bytes())


Spoil = Callable[[Path, pytest.MonkeyPatch], object]
SPOILS: dict[str, tuple[Spoil, str]] = {
    "readable": (lambda at, _: (at / "keys/deposit_seed").chmod(0o640), "can be read by others; run: chmod 600"),
    "passphrase readable": (lambda at, _: (at / "passphrase").chmod(0o604), "KEYS_PASSPHRASE_FILE: "),
    "other passphrase": (lambda at, patch: patch.setenv("KEYS_PASSPHRASE_FILE", str(at / "other")), "does not open it"),
    "gone": (lambda at, _: (at / "keys/deposit_seed").unlink(), "which does not exist"),
    "plain": (lambda at, _: (at / "keys/deposit_seed").write_text("all " * 12), "expected an encrypted key file"),
    "empty": (lambda at, _: (at / "keys/deposit_seed").write_text("{}"), "it is damaged"),
    "swapped": (lambda at, _: _swap(at), "does not open it, or it was changed"),
    "flipped": (lambda at, _: _change(at / "keys/deposit_seed", "sealed"), "does not open it, or it was changed"),
    "costly": (lambda at, _: _change(at / "keys/deposit_seed", "n"), "it is damaged"),
}


@pytest.mark.parametrize("how", sampled(SPOILS))
def test_what_is_wrong_is_refused_with_its_sentence(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
):
    assert fleet("init", tmp_path / "keys").exit_code == 0
    spoil, expected = SPOILS[how]
    spoil(tmp_path, monkeypatch)
    checked = fleet("check")
    assert checked.exit_code == 2
    assert expected in checked.output


class _RealMoney:
    """What binds where a chain is no development chain."""

    source = "a genesis"
    is_development = False


def _real_money(*_: object) -> _RealMoney:
    return _RealMoney()


def test_the_agent_starts_with_no_plain_file_where_money_is_real(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("custody.destinations.keys.vault.bindings_of", _real_money)
    monkeypatch.setenv("FLEET_STATE_DIR", str(tmp_path))
    assert fleet("init", tmp_path / "keys").exit_code == 0
    assert len(KeyVault.from_settings(load_settings()).gas_payers) == 1
    plain = read_key_file(load_settings(), "gas_payer_key_file")[0]
    (tmp_path / "keys" / "gas_payer_key").write_text(plain)
    with pytest.raises(SettingsError, match="GAS_PAYER_KEY_FILE: expected an encrypted key file"):
        KeyVault.from_settings(load_settings())


def test_a_short_passphrase_makes_nothing(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KEYS_PASSPHRASE_FILE", str(tmp_path / "short"))
    refused = fleet("init", tmp_path / "keys")
    assert refused.exit_code == 2
    assert "at least 20 characters" in refused.output
    assert "hunter2" not in refused.output
    assert not (tmp_path / "keys" / "deposit_seed").exists()


def test_the_same_text_is_never_sealed_twice_alike():
    first, second = (seal("all all all", PASSPHRASE, name="deposit_seed_file") for _ in range(2))
    assert json.loads(first)["sealed"] != json.loads(second)["sealed"]
    with pytest.raises(SettingsError, match="GAS_PAYER_KEY_FILE: the passphrase"):
        unseal(first, PASSPHRASE, name="gas_payer_key_file")

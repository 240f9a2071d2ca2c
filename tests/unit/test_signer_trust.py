"""trust.toml (R4): what is refused, with the field's name; and the server that it pins."""

import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from custody.destinations.derivation import address_at
from custody.settings.environment import SettingsError, settings
from tests import policy_files
from tests.signer_files import TREASURY, XPUB, chain_said, safe_said, write_trust
from workers.cli.signer import EXIT_REFUSED, signer
from workers.signer import InstructionRefused, load_trust
from workers.signer.pins import require_trust

TOKENS = chain_said()["tokens"]


def test_a_whole_file_is_read_and_relative_paths_begin_at_it(tmp_path: Path) -> None:
    found = load_trust(write_trust(tmp_path, address_book="address-book.toml"))
    assert found.address_book == tmp_path / "address-book.toml"
    chain = found.chain(1)
    assert chain is not None
    assert (chain.treasury, chain.depth, found.chain(56)) == (TREASURY, 50, None)


def test_depth_is_never_below_the_chains_floor(tmp_path: Path) -> None:
    for given, depth in ((1, 50), (60, 60)):
        chain = load_trust(write_trust(tmp_path, chains=[chain_said(confirmations=given)])).chain(1)
        assert chain is not None
        assert chain.depth == depth


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"environment": "production"}, "environment: String should match"),
        ({"unknown": 1}, "unknown: Extra inputs are not permitted"),
        ({"k": 4}, "k: expected at most 3"),
        ({"k": "2"}, "k: Input should be a valid integer"),
        ({"chains": []}, "chains: Tuple should have at least 1 item"),
        ({"chains": [chain_said(), chain_said()]}, "chains: two share an id"),
        ({"chains": [chain_said(genesis_hash="0x12")]}, "chains.0.genesis_hash: String should match"),
        ({"chains": [chain_said(treasury=TREASURY.lower())]}, "chains.0.treasury: the EIP-55 checksum is wrong"),
        ({"chains": [chain_said(treasury=TOKENS[0]["address"])]}, "treasury: it is a token's address"),
        ({"chains": [chain_said(tokens=TOKENS[:1])]}, "the chain's own coin is missing"),
        ({"chains": [chain_said(tokens=[*TOKENS, TOKENS[0]])]}, "tokens: two share an address"),
        ({"chains": [chain_said(id=777)]}, "confirmations: chain 777 has no floor"),
        ({"chains": [chain_said(verify_rpc=["node.example.org/secret-key"])]}, "verify_rpc.0: expected http"),
        ({"chains": [chain_said(device_fingerprint="nope")]}, "chains.0.device_fingerprint"),
        ({"deposit_accounts": [{"xpub": "xprv" + XPUB[4:]}]}, "deposit_accounts.0.xpub: expected an extended public"),
        ({"deposit_accounts": [{"xpub": XPUB[:-1] + "1"}]}, "deposit_accounts.0.xpub: not a valid extended public"),
        ({"deposit_accounts": [{"xpub": XPUB}] * 2}, "deposit_accounts: two share an xpub"),
        ({"approvers": [{"person": "ada", "address": TREASURY}, {"person": "bob", "address": policy_files.key("bob").address}], "k": 1}, "is a treasury or a Safe's owner too"),
        ({"approvers": [{"person": "ada", "address": policy_files.key(each).address} for each in "ab"]}, "a person has two devices"),
        ({"chains": [chain_said(safe=safe_said(threshold=4))]}, "threshold: expected at most 3"),
        ({"chains": [chain_said(safe=safe_said(owners=[TREASURY], threshold=1))]}, "is a treasury and a Safe's owner"),
        ({"chains": [chain_said(safe=safe_said(owners=[policy_files.key("ada").address] * 2))]}, "owners: two share an address"),
        ({"chains": [chain_said(safe=safe_said(owner=TREASURY))]}, "is not among the owners"),
        ({"chains": [chain_said(safe=safe_said(singleton_code_hash=None))]}, "chains.0.safe.singleton_code_hash: Field required"),
        ({"chains": [chain_said(safe=safe_said(fallback_handler=None))]}, "chains.0.safe.fallback_handler: Field required"),
        ({"chains": [chain_said(safe=safe_said(modules=[TREASURY]))]}, "chains.0.safe.modules: Extra inputs"),
        ({"chains": [chain_said(safe=safe_said(owners=[policy_files.key("ada").address], threshold=1))]}, "is a treasury or a Safe's owner too"),
        ({"ledger": {"seal_public_keys": ["-----BEGIN PUBLIC KEY-----"]}}, "ledger.seal_public_keys.0: expected an Ed25519"),
        ({"ledger": None}, "ledger: Field required"),
        ({"policy": {"hash": "0x12"}}, "policy.hash: String should match"),
        ({"api": {"certificate_sha256": "AB" * 32}}, "api.certificate_sha256: String should match"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "-".join(value),
)  # fmt: skip
def test_each_wrong_field_is_named(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_trust(write_trust(tmp_path, **changed))
    assert words in str(caught.value)
    assert "secret-key" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = write_trust(tmp_path)
    path.chmod(mode)
    with pytest.raises(SettingsError, match="chmod go-w"):
        load_trust(path)


def test_a_folder_that_others_can_write_and_what_is_no_file_are_refused(tmp_path: Path) -> None:
    path = write_trust(tmp_path)
    tmp_path.chmod(0o777)
    with pytest.raises(SettingsError, match="folder that others can write"):
        load_trust(path)
    tmp_path.chmod(0o700)
    with pytest.raises(SettingsError, match="cannot be read"):
        load_trust(tmp_path)
    with pytest.raises(SettingsError, match="does not exist"):
        load_trust(tmp_path / "none.toml")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="UTF-8"):
        load_trust(path)
    path.write_text("k = ")
    with pytest.raises(SettingsError, match="no TOML"):
        load_trust(path)
    path.write_text("#" * 300_000)
    with pytest.raises(SettingsError, match="over 262144 bytes"):
        load_trust(path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = write_trust(tmp_path)
    os.chown(path, 65534, -1)
    with pytest.raises(SettingsError, match="must belong to root or to you"):
        load_trust(path)


def test_where_money_is_real_a_trust_file_is_required(tmp_path: Path) -> None:
    from tests.unit.test_signer_checks import chain

    require_trust(chain(31337), None)
    require_trust(chain(1), load_trust(write_trust(tmp_path)))
    with pytest.raises(InstructionRefused, match="SIGNER_TRUST_FILE"):
        require_trust(chain(1), None)


def test_fleet_signer_trust_show_prints_what_is_compared_and_no_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNER_TRUST_FILE", str(write_trust(tmp_path)))
    settings.cache_clear()
    shown = CliRunner().invoke(signer, ["trust", "show"])
    settings.cache_clear()
    assert shown.exit_code == 0, shown.output
    for word in (TREASURY, "node.example.org", address_at(XPUB, 0), "2 of 3", "cd" * 32, "0a1b2c3d", "ada"):
        assert word in shown.output
    assert "secret-key" not in shown.output


def test_fleet_signer_trust_show_prints_what_is_pinned_of_a_safe(tmp_path: Path) -> None:
    owner = policy_files.key("eli").address
    path = write_trust(tmp_path, chains=[chain_said(safe=safe_said(owner=owner), native_fee_proxy=policy_files.PROXY)])
    shown = CliRunner().invoke(signer, ["trust", "show", str(path)])
    assert shown.exit_code == 0, shown.output
    for word in (
        "2 of 3 owners, no modules, guard none",
        "02" * 32,
        f"{owner}, signs here",
        f"coin proxy {policy_files.PROXY}",
    ):
        assert word in shown.output


def test_fleet_signer_trust_show_names_the_wrong_field(tmp_path: Path) -> None:
    refused = CliRunner().invoke(signer, ["trust", "show", str(write_trust(tmp_path, k=9))])
    assert refused.exit_code == EXIT_REFUSED
    assert "k: expected at most 3" in refused.output

"""A trust file of a signer's machine, for tests without a chain."""

from pathlib import Path
from typing import Any

from custody.destinations.derivation import account_xpub_from_seed, seed_from_phrase
from custody.ledger.seal_keys import public_pem
from custody.policy.toml_text import toml_text
from tests import policy_files
from tests.sealed_ledger import new_key

XPUB = account_xpub_from_seed(seed_from_phrase("all " * 11 + "all"))
TREASURY = policy_files.TREASURY_ETH
OWNERS = ("dora", "eli", "finn")


def trust_said(**changed: Any) -> dict[str, Any]:
    """What a trust.toml for one real chain says, with some top-level fields changed."""
    said: dict[str, Any] = {
        "environment": "amn1",
        "k": 2,
        "chains": [chain_said()],
        "deposit_accounts": [{"xpub": XPUB}],
        "approvers": [{"person": each, "address": policy_files.key(each).address} for each in policy_files.PEOPLE],
        "ledger": {"seal_public_keys": [public_pem(new_key().public)]},
        "policy": {"hash": "ab" * 32, "minimum_version": 3},
        "api": {"certificate_sha256": "cd" * 32},
        **changed,
    }
    return {name: value for name, value in said.items() if value is not None}


def chain_said(**changed: Any) -> dict[str, Any]:
    """One ``[[chains]]`` table."""
    return {
        "id": 1,
        "name": "ethereum",
        "genesis_hash": "0x" + "01" * 32,
        "treasury": TREASURY,
        "device_fingerprint": "0a1b2c3d",
        "verify_rpc": ["https://node.example.org/secret-key"],
        "tokens": [
            {"symbol": "USDT", "address": policy_files.USDT_ETH, "decimals": 6},
            {"symbol": "ETH", "address": "native", "decimals": 18},
        ],
        **changed,
    }


def safe_said(**changed: Any) -> dict[str, Any]:
    """A ``[chains.safe]`` table of two of three owners."""
    said = {
        "singleton_code_hash": "0x" + "02" * 32,
        "owners": [policy_files.key(owner).address for owner in OWNERS],
        "threshold": 2,
        "fallback_handler": policy_files.PROXY,
        **changed,
    }
    return {name: value for name, value in said.items() if value is not None}


def write_trust(folder: Path, **changed: Any) -> Path:
    """The file, as only its owner can write it."""
    path = folder / "trust.toml"
    path.touch(mode=0o600)
    path.write_text(toml_text(trust_said(**changed)))
    return path

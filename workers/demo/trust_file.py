"""``trust.toml`` of a demo's treasury signer, or of each of a Safe's owners: what that machine believes by itself (R4)."""

from pathlib import Path
from typing import Any, Final

from custody.policy.documents import document_hash, read_toml
from custody.policy.toml_text import toml_text
from custody.policy.verified import GENESIS_FILE, POLICY_FILE
from workers.demo.provision import Provisioned
from workers.embedded.state_folder import write_private

_SAFE: Final = ("singleton_code_hash", "proxy_code_hash", "owners", "threshold", "fallback_handler", "guard")


def write_trust_file(path: Path, made: Provisioned, deposit_xpub: str) -> None:
    """Write it as a person would after the ceremony: from the signed files, with a node to ask. Mode 0600."""
    genesis = read_toml(made.policy_dir / GENESIS_FILE)
    said = {
        "environment": genesis["environment"],
        "k": genesis["k"],
        "chains": [
            {
                "id": chain["id"],
                "name": chain["name"],
                "genesis_hash": chain["genesis_hash"],
                **_treasury(chain["treasury"]),
                "confirmations": 1,  # the development chain's floor
                "verify_rpc": [made.services.chain_rpc_url],
                "tokens": [
                    {"symbol": token["symbol"], "address": token["address"], "decimals": token["decimals"]}
                    for token in chain["tokens"]
                ],
            }
            for chain in genesis["chains"]
        ],
        "deposit_accounts": [{"xpub": deposit_xpub}],
        "approvers": [{"person": each["person"], "address": each["address"]} for each in genesis["approvers"]],
        "policy": {"hash": document_hash("policy", read_toml(made.policy_dir / POLICY_FILE))},
        "ledger": {"seal_public_keys": [made.secrets.ledger_seal_public_key.read_text(encoding="utf-8")]},
    }
    write_private(path, toml_text(said))


def _treasury(pinned: dict[str, Any]) -> dict[str, Any]:
    """What the genesis pins of it: its device, or all of a Safe (R16)."""
    if pinned["kind"] == "eoa":
        return {"treasury": pinned["address"], "device_fingerprint": pinned["device_fingerprint"]}
    return {"treasury": pinned["address"], "safe": {name: pinned[name] for name in _SAFE if name in pinned}}

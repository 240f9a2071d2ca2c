"""``trust.toml`` of a demo's treasury signer: what that machine believes beside the device (R4)."""

from pathlib import Path

from custody.policy.documents import document_hash, read_toml
from custody.policy.toml_text import toml_text
from custody.policy.verified import GENESIS_FILE, POLICY_FILE
from workers.demo.provision import Provisioned
from workers.embedded.state_folder import write_private


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
                "treasury": chain["treasury"]["address"],
                "device_fingerprint": chain["treasury"]["device_fingerprint"],
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

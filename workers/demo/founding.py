"""A development fleet's genesis and policy: three approvers on software devices, two of whom sign (R8, R22).

In production people hold this ceremony: ``fleet genesis init`` and ``fleet policy sign`` (docs/custody/policy.md).
"""

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from eth_utils.crypto import keccak

from custody.chain import ChainClient
from custody.chain.nodes import ChainNodes
from custody.policy.documents import NO_HASH, document_hash, read_toml
from custody.policy.genesis import POWERS
from custody.policy.signing import add_signature, document_text
from custody.policy.toml_text import toml_text
from custody.policy.verified import GENESIS_FILE, POLICY_FILE
from custody.safe import pins_of, read_safe
from custody.settings.chains import Chain, Chains
from custody.trezor import TREASURY_PATH, open_device
from workers.demo.software_devices import software_device
from workers.signer.approving import APPROVAL_PATH

ENVIRONMENT: Final = "demo"
APPROVERS: Final = ("ada", "ben", "cleo")
K: Final = 2
_APPROVAL_ACCOUNT: Final = APPROVAL_PATH.removesuffix("/0/0")
_AT_ONCE: Final = "5000"  # whole tokens; a demo's payments are below 1,000
_A_DAY: Final = "1000000"


def genesis_hash(folder: Path) -> str:
    """The hash of the folder's first genesis, which processes pin."""
    first = folder / "history" / "genesis-1.toml"
    path = first if first.exists() else folder / GENESIS_FILE
    return document_hash("genesis", read_toml(path), file=path.name)


def approver_seed(secrets: Path, person: str) -> Path:
    """Where the seed of a person's software device lies."""
    return secrets / f"approver_{person}_seed"


def found(
    folder: Path,
    *,
    state_dir: Path,
    secrets: Path,
    device_seed: Path,
    deposit_xpub: str,
    chains: Chains,
    client: ChainClient,
    progress: Callable[[str], None],
) -> None:
    """Write genesis and policy to ``folder`` and have two approvers' devices sign them, unless they stand already."""
    if (folder / GENESIS_FILE).exists() and (folder / f"{POLICY_FILE}.sig").exists():
        return
    progress("founding: three approvers' devices, a signed genesis and policy")
    folder.mkdir(mode=0o700, exist_ok=True)
    now = datetime.now(UTC).replace(microsecond=0)
    with ExitStack() as devices:
        paths = {
            person: devices.enter_context(software_device(state_dir, approver_seed(secrets, person), person))
            for person in APPROVERS
        }
        treasuries = {chain.id: _treasury(chain, client, state_dir, device_seed) for chain in chains.chains}
        said: dict[str, Any] = {
            "environment": ENVIRONMENT,
            "version": 1,
            "previous": NO_HASH,
            "issued_at": now,
            "k": K,
            "address_book": {"entries": 0, "head": NO_HASH},
            "chains": [_chain(chain, client, treasuries[chain.id]) for chain in chains.chains],
            "deposit_accounts": [
                {
                    "name": "first",
                    "path": "m/44'/60'/0'",
                    "xpub_sha256": hashlib.sha256(deposit_xpub.encode()).hexdigest(),
                }
            ],
            "approvers": [_approver(person, path, now) for person, path in paths.items()],
        }
        (folder / GENESIS_FILE).write_text(toml_text(said), encoding="utf-8")
        root = document_hash("genesis", said)
        (folder / POLICY_FILE).write_text(toml_text(_policy(root, now, chains)), encoding="utf-8")
        for person in APPROVERS[:K]:
            _sign(folder, person, paths[person])


def _sign(folder: Path, person: str, path: str) -> None:
    with open_device(path, expected_address=None, derivation_path=APPROVAL_PATH, passphrase="") as device:
        for name in (GENESIS_FILE, POLICY_FILE):
            signature, signer = device.sign_message(document_text(folder / name))
            add_signature(folder / name, signer, f"0x{signature.hex()}")


def _treasury(chain: Chain, client: ChainClient, state_dir: Path, device_seed: Path) -> dict[str, Any]:
    """What pins the treasury: its device, or all of a Safe as it is on the chain (R16)."""
    if chain.safe is not None:
        return pins_of(read_safe(ChainNodes(chain, [client]), chain.treasury))
    with (
        software_device(state_dir, device_seed, "treasury") as path,
        open_device(path, expected_address=None, derivation_path=TREASURY_PATH, passphrase="") as device,
    ):
        return {"kind": "eoa", "address": chain.treasury, "device_fingerprint": device.fingerprint}


def _approver(person: str, path: str, now: datetime) -> dict[str, Any]:
    with open_device(path, expected_address=None, derivation_path=APPROVAL_PATH, passphrase="") as device:
        xpub = device.account_xpub(_APPROVAL_ACCOUNT)
        return {
            "person": person,
            "address": device.address,
            "device_model": device.model,
            "xpub_sha256": hashlib.sha256(xpub.encode()).hexdigest(),
            "powers": [*POWERS],
            "valid_from": now,
        }


def _chain(chain: Chain, client: ChainClient, treasury: dict[str, Any]) -> dict[str, Any]:
    contracts = (("fee-proxy", chain.fee_proxy), ("native-fee-proxy", chain.native_fee_proxy))
    return {
        "id": chain.id,
        "name": chain.name,
        "genesis_hash": chain.genesis_hash,
        "treasury": treasury,
        "contracts": [
            {"name": name, "address": at, "code_hash": "0x" + keccak(client.code(at)).hex()}
            for name, at in contracts
            if at is not None
        ],
        "tokens": [
            {
                "symbol": token.symbol,
                "currency": token.symbol,
                "address": token.address,
                "decimals": token.decimals,
                "treasury_maximum": f"{token.treasury_maximum:f}",
            }
            for token in chain.tokens
        ],
    }


def _policy(root: str, now: datetime, chains: Chains) -> dict[str, Any]:
    """Two persons for whatever leaves the house, to signed recipients, within limits; sweeps need nobody."""
    payouts = ["release", "refund", "fee_payout"]
    currencies = sorted({token.symbol for chain in chains.chains for token in chain.tokens})
    rules: list[dict[str, Any]] = [
        {
            "name": "known-recipients",
            "kind": "recipients",
            "purposes": payouts,
            "sources": ["address_book", "buyer_signature"],
            "cool_down_seconds": 0,  # a demo's sellers are made a minute before they are paid
        }
    ]
    for currency in currencies:
        name = currency.lower()
        limit = {"currency": currency, "purposes": payouts}
        rules += [
            {"name": f"{name}-at-once", "kind": "limit_per_transaction", "maximum": _AT_ONCE, **limit},
            {"name": f"{name}-a-day", "kind": "limit_per_day", "maximum": _A_DAY, **limit},
        ]
    return {
        "environment": ENVIRONMENT,
        "genesis": root,
        "version": 1,
        "previous": NO_HASH,
        "issued_at": now,
        "rules": [
            *rules,
            {"name": "two-persons", "kind": "approvals", "purposes": payouts, "tiers": [{"from": "0", "k": K}]},
            {"name": "payouts", "kind": "allow", "purposes": payouts},
            {"name": "into-the-treasury", "kind": "allow", "purposes": ["sweep"]},
            {"name": "books", "kind": "allow", "purposes": ["adjustment"]},
            {"name": "gas", "kind": "allow", "purposes": ["gas_funding"]},
        ],
    }

"""A real Safe on a development chain: singleton, proxy factory and fallback handler of Safe 1.4.1, and Safes of them.

Each contract's runtime code is pinned by its hash (R25): what a node shows must be what the package was pinned for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from eth_account.signers.local import LocalAccount
from eth_typing import ChecksumAddress, Hash32
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from custody.chain import ZERO_ADDRESS
from custody.safe.contract import exec_transaction_call, get_transaction_hash_call
from workers.demo.contract_packages import MalformedPackage, safe_contract
from workers.demo.wallet import Wallet

PROXY_GAS: Final = 1_000_000  # creation with three owners and a handler takes about 300,000
EXECUTION_GAS: Final = 500_000
CODE_HASHES: Final = MappingProxyType(
    {
        "Safe": "0x1fe2df852ba3299d6534ef416eefa406e56ced995bca886ab7a553e6d0c5e1c4",
        "SafeProxyFactory": "0x50c3cdc4074750a7a974204a716c999edd37482f907608d960b2b025ee0b3317",
        "CompatibilityFallbackHandler": "0x7c6007a5d711cea8dfd5d91f5940ec29c7f200fe511eb1fc1397b367af3c42f9",
    }
)
"""keccak-256 of the runtime code of @safe-global/safe-contracts 1.4.1."""
_FOLDERS: Final = {"SafeProxyFactory": "proxies", "CompatibilityFallbackHandler": "handler"}
_PROXY_CREATION_TOPIC: Final = "0x" + keccak(text="ProxyCreation(address,address)").hex()


@dataclass(frozen=True, slots=True)
class SafeContracts:
    """The shared contracts, from which any number of Safes is made."""

    singleton: ChecksumAddress
    factory: ChecksumAddress
    fallback_handler: ChecksumAddress
    package: Path


def deploy_safe_contracts(wallet: Wallet, package: Path) -> SafeContracts:
    """Deploy them and compare their code. Raises MalformedPackage, TransactionFailed."""
    made: dict[str, ChecksumAddress] = {}
    sent: list[str] = []
    for name in CODE_HASHES:
        made[name], transaction_hash = wallet.deploy(safe_contract(package, name, _FOLDERS.get(name, ".")).initcode())
        sent.append(transaction_hash)
    wallet.wait_all(sent)
    for name, address in made.items():
        _require_code(name, wallet.client.code(address))
    return SafeContracts(made["Safe"], made["SafeProxyFactory"], made["CompatibilityFallbackHandler"], package)


def create_safe(
    wallet: Wallet, contracts: SafeContracts, owners: Sequence[str], threshold: int, *, salt: int = 0
) -> ChecksumAddress:
    """A new Safe of these owners, with the fallback handler, made by the factory. Raises TransactionFailed."""
    setup = safe_contract(contracts.package, "Safe").calldata(
        "setup", list(owners), threshold, ZERO_ADDRESS, b"", contracts.fallback_handler, ZERO_ADDRESS, 0, ZERO_ADDRESS
    )
    factory = safe_contract(contracts.package, "SafeProxyFactory", "proxies")
    call = factory.calldata("createProxyWithNonce", contracts.singleton, setup, salt)
    receipt = wallet.wait(wallet.send(contracts.factory, call, gas=PROXY_GAS))
    created = [log for log in receipt.logs if log.address == contracts.factory and log.event == _PROXY_CREATION_TOPIC]
    return to_checksum_address("0x" + created[0].topics[1][-40:])


def execute(
    wallet: Wallet,
    safe: str,
    to: str,
    data: bytes,
    owners: Sequence[LocalAccount],
    *,
    value: int = 0,
    operation: int = 0,
) -> str:
    """Execute any SafeTx of a Safe whose owners' keys are at hand, as its owners would in a browser; its hash.

    The fleet itself never does: its one shape is custody.safe.SafeTransaction.
    """
    from custody.chain import CallRequest

    client = wallet.client
    nonce = int.from_bytes(client.call(CallRequest(to=safe, data=keccak(text="nonce()")[:4])))
    fields = (to, value, data, operation, 0, 0, 0, ZERO_ADDRESS, ZERO_ADDRESS)
    digest = client.call(CallRequest(to=safe, data=get_transaction_hash_call(fields, nonce)))
    ordered = sorted(owners, key=lambda owner: int(owner.address, 16))
    signatures = b"".join(bytes(owner.unsafe_sign_hash(Hash32(digest)).signature) for owner in ordered)
    return wallet.send(safe, exec_transaction_call(fields, signatures), gas=EXECUTION_GAS)


def _require_code(name: str, code: bytes) -> None:
    found = "0x" + keccak(code).hex()
    if found != CODE_HASHES[name]:
        raise MalformedPackage(f"{name}: its runtime code is {found}, pinned is {CODE_HASHES[name]}")


def call_of(package: Path, name: str, function: str, *arguments: object) -> bytes:
    """A call of one of the package's contracts, such as Safe.swapOwner."""
    return safe_contract(package, name, _FOLDERS.get(name, ".")).calldata(function, *arguments)

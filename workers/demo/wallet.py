"""An account in process that signs and sends on a development chain; the fleet's own keys never live here."""

import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

import rlp
from eth_account.datastructures import SignedSetCodeAuthorization
from eth_account.signers.local import LocalAccount
from eth_account.types import TransactionDictType
from eth_typing import ChecksumAddress
from eth_utils.address import to_canonical_address, to_checksum_address
from eth_utils.crypto import keccak

from custody.chain import ChainClient, Receipt
from workers.demo.development_chain import open_client

# Gas limits instead of estimates: an estimate fails for a call that needs a transaction not mined yet.
CALL_GAS: Final = 250_000
DEPLOY_GAS: Final = 6_000_000
RECEIPT_TIMEOUT: Final = 60.0  # seconds; the embedded chain makes a block each second or two
_POLL: Final = 0.05  # seconds between looks for a receipt


class TransactionFailed(RuntimeError):
    """A transaction reverted, or no block held it in time."""


class Wallet:
    """Signs with one account, keeps its nonce, and sends without waiting. Safe between threads."""

    def __init__(self, client: ChainClient, account: LocalAccount) -> None:
        self.client = client
        self.address: ChecksumAddress = account.address
        self._account = account
        self._lock = threading.Lock()
        self._nonce: int | None = None

    @classmethod
    def open(cls, rpc_url: str, account: LocalAccount) -> "Wallet":
        """Return a wallet on a development chain. Raises NotDevelopmentChain, ChainUnavailable."""
        return cls(open_client(rpc_url), account)

    def send(
        self,
        to: str | None,
        data: bytes = b"",
        *,
        value: int = 0,
        gas: int = CALL_GAS,
        authorizations: Sequence[SignedSetCodeAuthorization] = (),
    ) -> str:
        """Sign and send one transaction; return its hash. `value` in wei. Raises SendRefused.

        With `authorizations` it is of type 4 (EIP-7702). After an error the nonce is asked from the node again.
        """
        return self._send(to, data, value, gas, authorizations)[1]

    def deploy(self, initcode: bytes) -> tuple[ChecksumAddress, str]:
        """Send a contract's creation; return (its address to be, the transaction's hash)."""
        nonce, transaction_hash = self._send(None, initcode, 0, DEPLOY_GAS)
        return created_address(self.address, nonce), transaction_hash

    def _send(
        self,
        to: str | None,
        data: bytes,
        value: int,
        gas: int,
        authorizations: Sequence[SignedSetCodeAuthorization] = (),
    ) -> tuple[int, str]:
        base_fee, priority = self.client.fees()
        with self._lock:
            nonce = self.client.nonce(self.address, "pending") if self._nonce is None else self._nonce
            self._nonce = None
            transaction: dict[str, Any] = {
                "type": 4 if authorizations else 2,
                "chainId": self.client.chain.chain_id,
                "nonce": nonce,
                "to": b"" if to is None else to_canonical_address(to),
                "value": value,
                "data": data,
                "gas": gas,
                "maxFeePerGas": 2 * base_fee + priority,
                "maxPriorityFeePerGas": priority,
            }
            if authorizations:
                transaction["authorizationList"] = list(authorizations)
            signed = self._account.sign_transaction(cast(TransactionDictType, transaction))
            transaction_hash = self.client.send_raw(bytes(signed.raw_transaction))
            self._nonce = nonce + 1
        return nonce, transaction_hash

    def wait(self, transaction_hash: str, timeout: float = RECEIPT_TIMEOUT) -> Receipt:
        """Return the receipt once a block holds the transaction. Raises TransactionFailed."""
        return self.wait_all([transaction_hash], timeout)[0]

    def wait_all(self, transaction_hashes: Iterable[str], timeout: float = RECEIPT_TIMEOUT) -> list[Receipt]:
        """Return the receipts of all, in order, within `timeout` seconds. Raises TransactionFailed."""
        found = self.outcomes(transaction_hashes, timeout)
        for receipt in found:
            if not receipt.succeeded:
                raise TransactionFailed(f"transaction {receipt.transaction_hash} reverted")
        return found

    def outcomes(self, transaction_hashes: Iterable[str], timeout: float = RECEIPT_TIMEOUT) -> list[Receipt]:
        """Return the receipts of all, of those that reverted too. Raises TransactionFailed when no block holds one."""
        wanted = list(transaction_hashes)
        deadline = time.monotonic() + timeout
        while True:
            found = self.client.receipts_and_headers(wanted).receipts
            if len(found) == len(set(wanted)):
                return [found[transaction_hash] for transaction_hash in wanted]
            if time.monotonic() > deadline:
                missing = [transaction for transaction in wanted if transaction not in found]
                raise TransactionFailed(f"no receipt after {timeout} s: {', '.join(missing)}")
            time.sleep(_POLL)


def created_address(creator: str, nonce: int) -> ChecksumAddress:
    """Return the address CREATE gives a contract: keccak(rlp([creator, nonce]))[12:] (Yellow Paper §7)."""
    return to_checksum_address(keccak(rlp.encode([to_canonical_address(creator), nonce]))[12:])

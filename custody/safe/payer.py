"""The release payer: a gas key of the releases worker that sends ``execTransaction`` and nothing else (R16).

Whoever takes it burns its float of coins; it moves nothing of the Safe, whose owners sign. Its key is in no repr,
log or error.
"""

import re
from typing import Any, Final, NoReturn, final

from eth_typing import ChecksumAddress
from eth_utils.address import to_canonical_address
from pydantic import SecretBytes

from custody.safe.contract import EXEC_TRANSACTION
from custody.settings.environment import FleetSettings, SettingsError, read_secret_file
from custody.trezor.transaction import UnsignedTransaction

_KEY: Final = re.compile(r"(0x)?[0-9a-fA-F]{64}")
_NAME: Final = "RELEASE_PAYER_KEY_FILE"


class PayerRefused(Exception):
    """The transaction is of a shape that this key never signs. The message names the field."""


@final
class ReleasePayer:
    """Holds the key. Cannot be pickled; its repr shows the address alone."""

    __slots__ = ("_key", "address")

    def __init__(self, key: bytes) -> None:
        from eth_account import Account

        self._key = SecretBytes(key)
        try:
            self.address: ChecksumAddress = Account.from_key(key).address
        except Exception:  # the library's message may quote the key
            raise SettingsError(f"{_NAME}: not a private key of secp256k1") from None

    @classmethod
    def from_settings(cls, settings: FleetSettings) -> "ReleasePayer | None":
        """The payer whose key file is configured, None without one. Raises SettingsError, never with its content."""
        if settings.release_payer_key_file is None:
            return None
        key = read_secret_file(settings.path("release_payer_key_file"), what=_NAME)
        if not _KEY.fullmatch(key):
            raise SettingsError(f"{_NAME}: expected one private key, 64 hex digits")
        return cls(bytes.fromhex(key.removeprefix("0x")))

    def sign(self, unsigned: UnsignedTransaction, *, safe: str, ceiling_wei: int) -> bytes:
        """The raw transaction of an ``execTransaction`` of ``safe``.

        Raises PayerRefused for another call, a value, or a fee that may exceed ``ceiling_wei``.
        """
        from eth_account import Account
        from eth_account.types import TransactionDictType

        if unsigned.to != safe or not unsigned.data.startswith(EXEC_TRANSACTION) or unsigned.value:
            raise PayerRefused(f"release payer: expected execTransaction of {safe} without value")
        if unsigned.max_total_fee_wei > ceiling_wei:
            raise PayerRefused(f"release payer: up to {unsigned.max_total_fee_wei} wei; expected at most {ceiling_wei}")
        fields: TransactionDictType = {
            "type": 2,
            "chainId": unsigned.chain_id,
            "nonce": unsigned.nonce,
            "to": to_canonical_address(unsigned.to),
            "value": 0,
            "data": unsigned.data,
            "gas": unsigned.gas_limit,
            "maxFeePerGas": unsigned.max_fee_per_gas,
            "maxPriorityFeePerGas": unsigned.max_priority_fee_per_gas,
        }
        try:
            signed: Any = Account.from_key(self._key.get_secret_value()).sign_transaction(fields)
        except Exception as error:
            raise PayerRefused(f"release payer: signing failed: {type(error).__name__}") from None
        return bytes(signed.raw_transaction)

    def __repr__(self) -> str:
        return f"ReleasePayer(address={self.address!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("ReleasePayer holds a key and is never pickled")

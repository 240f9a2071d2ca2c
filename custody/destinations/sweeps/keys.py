"""The keys of the sweeps worker: they sign two shapes and nothing else (R8, R16, R20).

A transfer of an allow-listed token from a deposit address to the chains file's treasury, and a plain value
transfer from the gas payer to a deposit address of this seed. Key material is in no repr, log or error.
"""

import re
from typing import Any, Final, NoReturn, final

from eth_typing import ChecksumAddress
from eth_utils.address import to_canonical_address, to_checksum_address
from pydantic import SecretBytes

from custody.chain.erc20 import decode_transfer_call
from custody.chain.lanes import LaneTransaction
from custody.destinations.derivation import (
    account_xpub_from_seed,
    address_at,
    private_key_at,
    seed_from_phrase,
    xpub_fingerprint,
)
from custody.destinations.sweeps.fees import (
    GAS_LIMIT_MAXIMUM,
    MAX_FEE_PER_GAS_WEI,
    TOP_UP_MAXIMUM_WEI,
    GasTerms,
)
from custody.settings.chains import NATIVE, Chains
from custody.settings.environment import FleetSettings, SettingsError, read_secret_file

_KEY: Final = re.compile(r"(0x)?[0-9a-fA-F]{64}")


class SigningRefused(Exception):
    """The transaction is of a shape that this key never signs. The message names the field."""


@final
class SweepSigner:
    """Holds the deposit seed and the gas payer's key. Cannot be pickled; its repr shows public data only."""

    __slots__ = ("_chains", "_payer_key", "_seed", "fingerprint", "gas_payer", "xpub")

    def __init__(self, *, seed: bytes, gas_payer_key: bytes, chains: Chains) -> None:
        self._seed = SecretBytes(seed)
        self._payer_key = SecretBytes(gas_payer_key)
        self._chains = chains
        self.xpub: str = account_xpub_from_seed(seed)
        self.fingerprint: str = xpub_fingerprint(self.xpub)
        self.gas_payer: ChecksumAddress = _address_of(gas_payer_key)

    @classmethod
    def from_settings(cls, settings: FleetSettings, chains: Chains) -> "SweepSigner":
        """Read both secret files (mode 0600). Raises SettingsError or DerivationError, never with their content."""
        phrase = read_secret_file(settings.path("deposit_seed_file"), what="DEPOSIT_SEED_FILE")
        key = read_secret_file(settings.path("gas_payer_key_file"), what="GAS_PAYER_KEY_FILE")
        if not _KEY.fullmatch(key):
            raise SettingsError("GAS_PAYER_KEY_FILE: expected one private key, 64 hex digits")
        return cls(seed=seed_from_phrase(phrase), gas_payer_key=bytes.fromhex(key.removeprefix("0x")), chains=chains)

    def sign_sweep(self, intent: LaneTransaction, *, index: int, gas: GasTerms) -> bytes:
        """The raw transaction of a token transfer from the deposit address at ``index`` to the treasury.

        Raises SigningRefused for any other sender, recipient, token, value, calldata or gas above the caps.
        """
        chain = self._chains.chain(intent.chain_id)
        token = chain.token(intent.recipient)
        if intent.purpose != "sweep" or token is None or token.address == NATIVE or intent.value_wei != 0:
            raise SigningRefused("sweep: expected a call of a token in the chains file, without value")
        try:
            recipient, amount = decode_transfer_call(intent.data)
        except ValueError as error:
            raise SigningRefused(f"sweep: {error}") from None
        if recipient != to_checksum_address(chain.treasury) or amount == 0:
            raise SigningRefused(f"sweep: recipient {recipient} is not the treasury of the chains file")
        if address_at(self.xpub, index) != intent.sender:
            raise SigningRefused(f"sweep: sender {intent.sender} is not this seed's address {index}")
        return _sign(private_key_at(self._seed.get_secret_value(), index), intent, gas)

    def sign_top_up(self, intent: LaneTransaction, *, index: int, gas: GasTerms) -> bytes:
        """The raw transaction of a plain value transfer from the gas payer to the deposit address at ``index``.

        Raises SigningRefused for any other sender, recipient, calldata, or a value above TOP_UP_MAXIMUM_WEI.
        """
        if intent.purpose != "top_up" or intent.data:
            raise SigningRefused("top-up: expected a plain value transfer of the gas payer")
        self.check_top_up(intent.chain_id, intent.sender, intent.recipient, intent.value_wei, index=index)
        return _sign(self._payer_key.get_secret_value(), intent, gas)

    def check_top_up(self, chain_id: int, sender: str, recipient: str, value_wei: int, *, index: int) -> None:
        """Raise SigningRefused for a top-up that ``sign_top_up`` would refuse, SettingsError for a foreign chain."""
        self._chains.chain(chain_id)
        if sender != self.gas_payer:
            raise SigningRefused(f"top-up: sender {sender} is not the gas payer {self.gas_payer}")
        if not 0 < value_wei <= TOP_UP_MAXIMUM_WEI:
            raise SigningRefused(f"top-up: {value_wei} wei; expected at most {TOP_UP_MAXIMUM_WEI}")
        if address_at(self.xpub, index) != recipient:
            raise SigningRefused(f"top-up: recipient {recipient} is not this seed's address {index}")

    def __repr__(self) -> str:
        return f"SweepSigner(fingerprint={self.fingerprint!r}, gas_payer={self.gas_payer!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("SweepSigner holds keys and is never pickled")


def _address_of(key: bytes) -> ChecksumAddress:
    from eth_account import Account

    try:
        return Account.from_key(key).address
    except Exception:  # the library's message may quote the key
        raise SettingsError("GAS_PAYER_KEY_FILE: not a private key of secp256k1") from None


def _sign(key: bytes, intent: LaneTransaction, gas: GasTerms) -> bytes:
    from eth_account import Account
    from eth_account.types import TransactionDictType

    if not (0 < gas.gas_limit <= GAS_LIMIT_MAXIMUM and 0 < gas.max_fee <= MAX_FEE_PER_GAS_WEI):
        raise SigningRefused(f"gas {gas.gas_limit} at {gas.max_fee} wei is above the caps")
    fields: TransactionDictType = {
        "type": 2,
        "chainId": intent.chain_id,
        "nonce": intent.nonce,
        "to": to_canonical_address(intent.recipient),
        "value": intent.value_wei,
        "data": intent.data,
        "gas": gas.gas_limit,
        "maxFeePerGas": gas.max_fee,
        "maxPriorityFeePerGas": gas.max_priority_fee,
    }
    try:
        signed: Any = Account.from_key(key).sign_transaction(fields)
    except Exception as error:
        raise SigningRefused(f"signing failed: {type(error).__name__}") from None
    return bytes(signed.raw_transaction)


def gas_terms_of(raw: bytes) -> GasTerms:
    """The gas terms inside a signed EIP-1559 transaction. Raises ValueError for another type."""
    import rlp

    if raw[:1] != b"\x02":
        raise ValueError("expected a signed EIP-1559 transaction")
    fields: Any = rlp.decode(raw[1:])
    return GasTerms(
        gas_limit=int.from_bytes(fields[4]),
        max_fee=int.from_bytes(fields[3]),
        max_priority_fee=int.from_bytes(fields[2]),
    )

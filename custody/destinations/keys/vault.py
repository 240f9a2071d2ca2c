"""The keys themselves, and the only functions that use them. Lives in the keys agent's process alone (R20)."""

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn, final

from pydantic import SecretBytes

from custody.destinations.derivation import (
    account_xpub_from_seed,
    address_at,
    private_key_at,
    seed_from_phrase,
    xpub_fingerprint,
)
from custody.destinations.keys.binding import Bindings, bindings_of
from custody.destinations.keys.shapes import Asked, ShapeRefused, require_shape
from custody.destinations.keys.spending import DaySpending
from custody.settings.environment import FleetSettings, SettingsError, read_secret_file
from custody.trezor import Signature, UnsignedTransaction

JOURNAL_NAME: Final = "keys-agent.journal"
_KEY: Final = re.compile(r"(0x)?[0-9a-fA-F]{64}")


def _seconds() -> int:
    return time.time_ns() // 1_000_000_000


@final
class KeyVault:
    """Holds the deposit seed and the gas payer's key. Cannot be pickled; its repr shows public data only.

    Gives signatures, the payer's address and the account's fingerprint; no key, and no xpub: with one child's key it
    would give all the others.
    """

    __slots__ = (
        "_bindings",
        "_clock",
        "_lock",
        "_payer_key",
        "_seed",
        "_spending",
        "_xpub",
        "fingerprint",
        "gas_payer",
    )

    def __init__(
        self,
        *,
        seed: bytes,
        gas_payer_key: bytes,
        bind: Callable[[str], Bindings],
        spending: DaySpending,
        clock: Callable[[], int] = _seconds,
    ) -> None:
        self._seed = SecretBytes(seed)
        self._payer_key = SecretBytes(gas_payer_key)
        self._xpub = account_xpub_from_seed(seed)
        self._spending = spending
        self._clock = clock
        self._lock = threading.Lock()
        self.fingerprint: str = xpub_fingerprint(self._xpub)
        self.gas_payer: str = _address_of(gas_payer_key)
        self._bindings = bind(self._xpub)

    @classmethod
    def from_settings(cls, settings: FleetSettings) -> "KeyVault":
        """Read both secret files (mode 0600), the journal and what binds.

        Raises SettingsError, DerivationError, JournalDamaged or PolicyRefused, never with a key's content.
        """
        phrase = read_secret_file(settings.path("deposit_seed_file"), what="DEPOSIT_SEED_FILE")
        key = read_secret_file(settings.path("gas_payer_key_file"), what="GAS_PAYER_KEY_FILE")
        if not _KEY.fullmatch(key):
            raise SettingsError("GAS_PAYER_KEY_FILE: expected one private key, 64 hex digits")
        spending = DaySpending(journal_path(settings), settings.gas_payer_day_maximum_wei)
        return cls(
            seed=seed_from_phrase(phrase),
            gas_payer_key=bytes.fromhex(key.removeprefix("0x")),
            bind=lambda xpub: bindings_of(settings, xpub, spending),
            spending=spending,
        )

    @property
    def source(self) -> str:
        """Where treasury and tokens are from, in words."""
        return self._bindings.source

    def spent_wei(self, chain_id: int) -> int:
        """What the gas payer has spent on that chain in the last 24 hours."""
        with self._lock:
            return self._spending.spent_wei(chain_id, self._clock())

    def check(self, asked: Asked) -> None:
        """Raise ShapeRefused or DaySpent as ``sign`` would for the same transaction at a nonce not used yet."""
        with self._lock:
            self._require(asked)
            if asked.shape == "top_up":
                self._spending.require(asked.transaction.chain_id, None, _cost(asked), self._clock())

    def sign(self, asked: Asked) -> Signature:
        """The signature of the shape's own key. Raises ShapeRefused, DaySpent, or OSError while the disk is full."""
        with self._lock:
            self._require(asked)
            if asked.shape == "top_up":
                transaction = asked.transaction
                self._spending.take(transaction.chain_id, transaction.nonce, _cost(asked), self._clock())
                return _sign(self._payer_key.get_secret_value(), transaction)
            return _sign(private_key_at(self._seed.get_secret_value(), asked.index), asked.transaction)

    def _require(self, asked: Asked) -> None:
        require_shape(
            asked,
            chain=self._bindings.chain(asked.transaction.chain_id),
            address_at=lambda index: address_at(self._xpub, index),
        )

    def __repr__(self) -> str:
        return f"KeyVault(fingerprint={self.fingerprint!r}, gas_payer={self.gas_payer!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("KeyVault holds keys and is never pickled")


def journal_path(settings: FleetSettings) -> Path:
    """KEYS_AGENT_JOURNAL, or a file in the state folder."""
    return settings.keys_agent_journal or settings.fleet_state_dir.joinpath(JOURNAL_NAME)


def _cost(asked: Asked) -> int:
    return asked.transaction.value + asked.transaction.max_total_fee_wei


def _address_of(key: bytes) -> str:
    from eth_account import Account

    try:
        return Account.from_key(key).address
    except Exception:  # the library's message may quote the key
        raise SettingsError("GAS_PAYER_KEY_FILE: not a private key of secp256k1") from None


def _sign(key: bytes, transaction: UnsignedTransaction) -> Signature:
    from eth_keys.datatypes import PrivateKey

    try:
        made = PrivateKey(key).sign_msg_hash(transaction.signing_hash())
    except Exception as error:  # the library's message may quote the key
        raise ShapeRefused(f"signing failed: {type(error).__name__}") from None
    return Signature(made.v, made.r, made.s)

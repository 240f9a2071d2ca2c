"""The keys themselves, and the only functions that use them. Lives in the keys agent's process alone (R20)."""

import re
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final, NoReturn, final

from pydantic import SecretBytes

from custody.destinations.derivation import (
    DerivationError,
    account_xpub_from_seed,
    address_at,
    private_key_at,
    private_keys_at,
    seed_from_phrase,
    xpub_fingerprint,
)
from custody.destinations.keys.authorizations import AskedAuthorizations, digests
from custody.destinations.keys.binding import Bindings, bindings_of
from custody.destinations.keys.key_files import read_key_file, require_sealed
from custody.destinations.keys.payer_calls import require_batch_call
from custody.destinations.keys.set_code import PayerTransaction, call_of
from custody.destinations.keys.shapes import ACCOUNTS_MAXIMUM, PAYERS_MAXIMUM, Asked, ShapeRefused, require_shape
from custody.destinations.keys.spending import DaySpending
from custody.settings.environment import FleetSettings, SettingsError
from custody.trezor import Signature

JOURNAL_NAME: Final = "keys-agent.journal"
_KEY: Final = re.compile(r"(0x)?[0-9a-fA-F]{64}")


def _seconds() -> int:
    return time.time_ns() // 1_000_000_000


@final
class KeyVault:
    """Holds the deposit seeds and the gas payers' keys. Cannot be pickled; its repr shows public data only.

    Gives signatures, the payers' addresses and the accounts' fingerprints; no key, and no xpub: with one child's key it
    would give all the others.
    """

    __slots__ = (
        "_bindings",
        "_clock",
        "_lock",
        "_payer_keys",
        "_seeds",
        "_spending",
        "_xpubs",
        "accounts",
        "gas_payers",
    )

    def __init__(
        self,
        *,
        seeds: Sequence[bytes],
        gas_payer_keys: Sequence[bytes],
        bind: Callable[[Collection[str]], Bindings],
        spending: DaySpending,
        clock: Callable[[], int] = _seconds,
    ) -> None:
        self.gas_payers: tuple[str, ...] = tuple(payer_address(key) for key in gas_payer_keys)
        self._payer_keys = {name: SecretBytes(key) for name, key in zip(self.gas_payers, gas_payer_keys, strict=True)}
        if not 0 < len(self._payer_keys) <= PAYERS_MAXIMUM or len(self._payer_keys) != len(gas_payer_keys):
            raise SettingsError(
                f"GAS_PAYER_KEY_FILE: expected 1 to {PAYERS_MAXIMUM} private keys, a line each, none twice"
            )
        xpubs = [account_xpub_from_seed(seed) for seed in seeds]
        self.accounts: tuple[str, ...] = tuple(xpub_fingerprint(xpub) for xpub in xpubs)
        self._seeds = {name: SecretBytes(seed) for name, seed in zip(self.accounts, seeds, strict=True)}
        self._xpubs = dict(zip(self.accounts, xpubs, strict=True))
        if not 0 < len(self._seeds) <= ACCOUNTS_MAXIMUM or len(self._seeds) != len(seeds):
            raise SettingsError(
                f"DEPOSIT_SEED_FILE: expected 1 to {ACCOUNTS_MAXIMUM} phrases, a line each, newest first, none twice"
            )
        self._spending = spending
        self._clock = clock
        self._lock = threading.Lock()
        self._bindings = bind(xpubs)

    @classmethod
    def from_settings(cls, settings: FleetSettings) -> "KeyVault":
        """Read both key files (mode 0600, encrypted where money is real), the journal and what binds.

        Raises SettingsError, DerivationError, JournalDamaged or PolicyRefused, never with a key's content.
        """
        phrases, seed_is_sealed = read_key_file(settings, "deposit_seed_file")
        keys, keys_are_sealed = read_key_file(settings, "gas_payer_key_file")
        spending = DaySpending(journal_path(settings), settings.gas_payer_day_maximum_wei)
        vault = cls(
            seeds=[seed_from_phrase(phrase) for phrase in phrases.splitlines() if phrase.strip()],
            gas_payer_keys=read_payer_keys(keys),
            bind=lambda xpubs: bindings_of(settings, xpubs, spending),
            spending=spending,
        )
        for name, sealed in (("deposit_seed_file", seed_is_sealed), ("gas_payer_key_file", keys_are_sealed)):
            require_sealed(name, sealed=sealed, development=vault._bindings.is_development)
        return vault

    @property
    def source(self) -> str:
        """Where treasury and tokens are from, in words."""
        return self._bindings.source

    def spent_wei(self, chain_id: int) -> int:
        """What the gas payers have spent on that chain in the last 24 hours."""
        with self._lock:
            return self._spending.spent_wei(chain_id, self._clock())

    def check(self, asked: Asked) -> None:
        """Raise ShapeRefused or DaySpent as ``sign`` would for the same transaction at a nonce not used yet."""
        with self._lock:
            self._require(asked)
            if asked.payer is not None:
                self._spending.require(asked.transaction.chain_id, None, _cost(asked), self._clock())

    def sign(self, asked: Asked) -> Signature:
        """The signature of the shape's own key. Raises ShapeRefused, DaySpent, or OSError while the disk is full."""
        with self._lock:
            self._require(asked)
            transaction = asked.transaction
            if asked.payer is not None:
                key = self._payer_keys[asked.payer].get_secret_value()
                nonce = (asked.payer, transaction.nonce)
                self._spending.take(transaction.chain_id, nonce, _cost(asked), self._clock())
                return _sign(key, transaction.signing_hash())
            assert asked.account is not None
            assert asked.index is not None
            seed = self._seeds[asked.account].get_secret_value()
            return _sign(private_key_at(seed, asked.index), transaction.signing_hash())

    def authorize(self, asked: AskedAuthorizations) -> list[Signature]:
        """The signature of each item by its own deposit key, all or none. Raises ShapeRefused."""
        with self._lock:
            try:
                addresses = [self._deposit_address(asked.account, item.index) for item in asked.items]
                found = digests(
                    asked, chain=self._bindings.chain(asked.chain_id), addresses=addresses, now=self._clock()
                )
                keys = private_keys_at(
                    self._seeds[asked.account].get_secret_value(), [item.index for item in asked.items]
                )
            except DerivationError as error:
                raise ShapeRefused(str(error)) from None
            return [_sign(key, digest) for key, digest in zip(keys, found, strict=True)]

    def check_batch(self, transaction: PayerTransaction, *, payer: str, treasury: str) -> None:
        """Raise ShapeRefused or DaySpent as ``sign_batch`` would at a nonce not used yet."""
        with self._lock:
            self._require_batch(transaction, payer, treasury)
            call = call_of(transaction)
            self._spending.require(call.chain_id, None, call.max_total_fee_wei, self._clock())

    def sign_batch(self, transaction: PayerTransaction, *, payer: str, treasury: str) -> Signature:
        """The named gas payer's signature of a batch. Raises as ``sign``."""
        with self._lock:
            self._require_batch(transaction, payer, treasury)
            call = call_of(transaction)
            self._spending.take(call.chain_id, (payer, call.nonce), call.max_total_fee_wei, self._clock())
            return _sign(self._payer_keys[payer].get_secret_value(), transaction.signing_hash())

    def _require_batch(self, transaction: PayerTransaction, payer: str, treasury: str) -> None:
        self._require_payer(payer)
        require_batch_call(transaction, chain=self._bindings.chain(call_of(transaction).chain_id), treasury=treasury)

    def _require_payer(self, payer: str) -> None:
        if payer not in self._payer_keys:
            raise ShapeRefused(f"payer: {payer} is none of this agent's ({', '.join(self.gas_payers)})")

    def _require(self, asked: Asked) -> None:
        if asked.payer is not None:
            self._require_payer(asked.payer)
        require_shape(asked, chain=self._bindings.chain(asked.transaction.chain_id), address_at=self._deposit_address)

    def _deposit_address(self, account: str, index: int) -> str:
        xpub = self._xpubs.get(account)
        if xpub is None:
            raise ShapeRefused(f"account: {account} is none of this agent's ({', '.join(self.accounts)})")
        return address_at(xpub, index)

    def __repr__(self) -> str:
        return f"KeyVault(accounts={self.accounts!r}, gas_payers={self.gas_payers!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("KeyVault holds keys and is never pickled")


def journal_path(settings: FleetSettings) -> Path:
    """KEYS_AGENT_JOURNAL, or a file in the state folder."""
    return settings.keys_agent_journal or settings.fleet_state_dir.joinpath(JOURNAL_NAME)


def _cost(asked: Asked) -> int:
    return asked.transaction.value + asked.transaction.max_total_fee_wei


def read_payer_keys(text: str) -> list[bytes]:
    """The keys in a gas payers' key file, one a line. Raises SettingsError, never with its content."""
    keys = text.split()
    if not all(_KEY.fullmatch(key) for key in keys):
        raise SettingsError("GAS_PAYER_KEY_FILE: expected a private key a line, 64 hex digits each")
    return [bytes.fromhex(key.removeprefix("0x")) for key in keys]


def payer_address(key: bytes) -> str:
    """A gas payer's checksum address. Raises SettingsError, never with the key."""
    from eth_account import Account

    try:
        return Account.from_key(key).address
    except Exception:  # the library's message may quote the key
        raise SettingsError("GAS_PAYER_KEY_FILE: not a private key of secp256k1") from None


def _sign(key: bytes, digest: bytes) -> Signature:
    from coincurve import PrivateKey  # eth-keys, which calls it, takes 30 ms for each new key

    try:
        made = PrivateKey(key).sign_recoverable(digest, hasher=None)  # low s, and the same each time (RFC 6979)
    except Exception as error:  # the library's message may quote the key
        raise ShapeRefused(f"signing failed: {type(error).__name__}") from None
    return Signature(made[64], int.from_bytes(made[:32]), int.from_bytes(made[32:64]))

"""``trust.toml``: what the signer's own machine believes, whatever a server or a database says (R4).

A few kilobytes that a person writes once and compares with the ceremony's notes. Whoever can change the file can point
a signer anywhere, so it must belong to root or to the signer, and nobody else may be able to write it.
"""

import os
import stat
import tomllib
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from custody.chain.depth import FLOORS
from custody.destinations.derivation import DerivationError, xpub_fingerprint
from custody.ledger.seal_keys import PublicKeys, key_id
from custody.policy.genesis import Treasury
from custody.settings.chains import (
    DEVELOPMENT_CHAINS,
    FORMER_TREASURIES_MAXIMUM,
    NATIVE,
    SAFE_OWNERS_MAXIMUM,
    Address,
    FormerState,
    Hash32,
)
from custody.settings.environment import SettingsError

FILE_MAXIMUM_BYTES: Final = 262_144  # some hundred tokens and approvers are a tenth of it
CHAINS_MAXIMUM: Final = 32  # as in the chains file
RPC_MAXIMUM: Final = 4  # every one of them must confirm everything: more is only slower
_OTHERS_MAY_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _xpub(value: str) -> str:
    try:
        xpub_fingerprint(value)
    except DerivationError as error:
        raise ValueError(str(error).removeprefix("xpub: ")) from None
    return value


def _public_key(value: str) -> str:
    try:
        key = load_pem_public_key(value.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("expected an Ed25519 public key as PEM: openssl pkey -pubout")
    return value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class TrustedToken(_Strict):
    """A token that may be paid out, as a person read it from its issuer. ``address`` is ``native`` for the coin."""

    symbol: Annotated[str, Field(min_length=1, max_length=12)]
    address: Address | Literal["native"]
    decimals: Annotated[int, Field(ge=0, le=18, strict=True)]


class TrustedSafe(_Strict):
    """What the genesis pins of a treasury that is a Safe (R16). No modules, whatever else is said."""

    singleton_code_hash: Hash32
    proxy_code_hash: Hash32 | None = None
    owners: Annotated[tuple[Address, ...], Field(min_length=1, max_length=SAFE_OWNERS_MAXIMUM)]
    threshold: Annotated[int, Field(ge=1, strict=True)]
    fallback_handler: Address
    guard: Address | None = None
    owner: Address | None = None
    """Which of the owners signs on this machine; without it any of them may."""

    def pins(self, address: str) -> Treasury:
        """The same as a genesis says it."""
        return Treasury(kind="safe", address=address, **self.model_dump(exclude={"owner"}))

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(set(self.owners)) != len(self.owners):
            raise ValueError("owners: two share an address")
        if self.threshold > len(self.owners):
            raise ValueError(f"threshold: expected at most {len(self.owners)}, the number of owners")
        if self.owner is not None and self.owner not in self.owners:
            raise ValueError(f"owner: {self.owner} is not among the owners")
        return self


class TrustedFormer(_Strict):
    """A treasury of before a rotation (R22): its device still signs what leaves it, as its state allows."""

    address: Address
    state: FormerState
    safe: TrustedSafe | None = None
    device_fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")] | None = None


class TrustedChain(_Strict):
    """One chain: id and genesis hash together (R17), its treasury, and where this machine reads it by itself."""

    id: Annotated[int, Field(ge=1, strict=True)]
    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,12}$")]
    """As the genesis names it: it stands in the text that approvers sign."""
    genesis_hash: Hash32
    treasury: Address
    safe: TrustedSafe | None = None
    """Set where the treasury is a Safe; without it the treasury is an account of one device."""
    native_fee_proxy: Address | None = None
    """The contract through which buyers may pay the chain's own coin; its events are believed where the balance agrees (L8)."""
    device_fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")] | None = None
    """Of the root key of the wallet that signs here: the device is chosen by it (R23)."""
    former_treasuries: Annotated[tuple[TrustedFormer, ...], Field(max_length=FORMER_TREASURIES_MAXIMUM)] = ()
    confirmations: Annotated[int, Field(ge=1, le=100_000, strict=True)] | None = None
    """Blocks; never less than the chain's floor, which is also the default."""
    verify_rpc: Annotated[tuple[str, ...], Field(max_length=RPC_MAXIMUM)] = ()
    """URLs of nodes that the fleet does not run. They may hold keys and are never shown whole."""
    tokens: Annotated[tuple[TrustedToken, ...], Field(min_length=1, max_length=64)]

    def token(self, address: str) -> TrustedToken | None:
        """The token with that address, or None."""
        return next((token for token in self.tokens if token.address == address), None)

    @property
    def former(self) -> dict[str, str]:
        """Former treasuries with their state."""
        return {each.address: each.state for each in self.former_treasuries}

    @property
    def treasuries(self) -> frozenset[str]:
        """Every treasury that is pinned: coins that were swept to any of them are ours."""
        return frozenset({self.treasury, *self.former})

    def at(self, treasury: str) -> "TrustedChain":
        """The chain as one of its treasuries sees it; the active one is among the others then. Raises LookupError."""
        if treasury == self.treasury:
            return self
        one = next((each for each in self.former_treasuries if each.address == treasury), None)
        if one is None:
            raise LookupError(f"{treasury} is no pinned treasury of chain {self.id}")
        active = TrustedFormer(address=self.treasury, state="draining", safe=self.safe)
        others = (active, *(each for each in self.former_treasuries if each is not one))
        return self.model_copy(
            update={
                "treasury": one.address,
                "safe": one.safe,
                "device_fingerprint": one.device_fingerprint,
                "former_treasuries": others,
            }
        )

    @property
    def depth(self) -> int:
        """How many confirmations this machine wants to see: the chain's floor at least (L13)."""
        return max(FLOORS.get(self.id, 1), self.confirmations or 1)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.id not in FLOORS and self.confirmations is None:
            raise ValueError(f"confirmations: chain {self.id} has no floor of its own, say how many blocks are deep")
        if len({token.address for token in self.tokens}) != len(self.tokens):
            raise ValueError("tokens: two share an address")
        if len(self.treasuries) != 1 + len(self.former_treasuries):
            raise ValueError("former_treasuries: each treasury is named once")
        if self.treasuries & {token.address for token in self.tokens}:
            raise ValueError("treasury: it is a token's address: coins sent there are lost")
        if NATIVE not in {token.address for token in self.tokens}:
            raise ValueError("tokens: the chain's own coin is missing, add one with address 'native'")
        for place, url in enumerate(self.verify_rpc):
            if not url.startswith(("https://", "http://")):
                raise ValueError(f"verify_rpc.{place}: expected http:// or https:// with a host")
        return self


class TrustedApprover(_Strict):
    """One person's approval device (R3)."""

    person: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$")]
    address: Address


class TrustedDepositAccount(_Strict):
    """An account whose addresses buyers pay to; its xpub is written down at the ceremony."""

    xpub: Annotated[str, AfterValidator(_xpub)]


class TrustedPolicy(_Strict):
    """The policy that binds: its hash, or the least version, or both (R8)."""

    hash: Sha256 | None = None
    minimum_version: Annotated[int, Field(ge=1, strict=True)] | None = None
    approvals: Annotated[int, Field(ge=0, le=32, strict=True)] | None = None
    """Persons that must have approved a payout; ``k`` when not set, and 0 on development chains alone."""


class TrustedLedger(_Strict):
    """Keys that sign the ledger's seals; those of before a rotation may follow."""

    seal_public_keys: Annotated[tuple[Annotated[str, AfterValidator(_public_key)], ...], Field(min_length=1)]

    @property
    def keys(self) -> PublicKeys:
        """Public keys by key id."""
        loaded = [load_pem_public_key(pem.encode()) for pem in self.seal_public_keys]
        return {key_id(key): key for key in loaded if isinstance(key, Ed25519PublicKey)}


class TrustedApi(_Strict):
    """Who the signer API is: SHA-256 of its certificate's public key (SubjectPublicKeyInfo, DER)."""

    certificate_sha256: Sha256


class Trust(_Strict):
    """The whole file."""

    environment: Annotated[str, Field(pattern=r"^[a-z0-9]{4}$")]
    k: Annotated[int, Field(ge=1, le=32, strict=True)]
    chains: Annotated[tuple[TrustedChain, ...], Field(min_length=1, max_length=CHAINS_MAXIMUM)]
    deposit_accounts: Annotated[tuple[TrustedDepositAccount, ...], Field(min_length=1, max_length=64)]
    approvers: Annotated[tuple[TrustedApprover, ...], Field(min_length=1, max_length=128)]
    policy: TrustedPolicy = TrustedPolicy()
    ledger: TrustedLedger
    api: TrustedApi | None = None
    address_book: Path | None = None
    """This machine's own copy of the signed ``address-book.toml``; a relative path begins at trust.toml's folder."""

    def chain(self, chain_id: int) -> TrustedChain | None:
        """The chain with that id, or None."""
        return next((chain for chain in self.chains if chain.id == chain_id), None)

    @property
    def approvals(self) -> int:
        """How many of the pinned approvers must have approved a payout."""
        return self.k if self.policy.approvals is None else self.policy.approvals

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len({chain.id for chain in self.chains}) != len(self.chains):
            raise ValueError("chains: two share an id")
        if len({each.address for each in self.approvers}) != len(self.approvers):
            raise ValueError("approvers: two share an address")
        if len({each.person for each in self.approvers}) != len(self.approvers):
            raise ValueError("approvers: a person has two devices; expected one active device a person (R3)")
        if self.k > len(self.approvers):
            raise ValueError(f"k: expected at most {len(self.approvers)}, the number of approvers")
        if self.approvals > len(self.approvers):
            raise ValueError(f"policy.approvals: expected at most {len(self.approvers)}, the number of approvers")
        if self.approvals == 0 and any(chain.id not in DEVELOPMENT_CHAINS for chain in self.chains):
            raise ValueError("policy.approvals: expected at least 1 where money is real")
        if len({each.xpub for each in self.deposit_accounts}) != len(self.deposit_accounts):
            raise ValueError("deposit_accounts: two share an xpub")
        accounts = {at for chain in self.chains for at in chain.treasuries}
        safes = [each.safe for chain in self.chains for each in (chain, *chain.former_treasuries)]
        owners = {owner for safe in safes if safe is not None for owner in safe.owners}
        if both := accounts & owners:
            raise ValueError(
                f"chains: {min(both)} is a treasury and a Safe's owner; expected accounts of their own (R6)"
            )
        reused = {each.address for each in self.approvers} & (accounts | owners)
        if reused:
            raise ValueError(
                f"approvers: {min(reused)} is a treasury or a Safe's owner too; expected accounts of their own (R6)"
            )
        return self


def load_trust(path: Path) -> Trust:
    """Read and check the file. Raises SettingsError naming each wrong field and what was expected."""
    what = f"SIGNER_TRUST_FILE {path}"
    content = _read_guarded(path, what)
    try:
        trust = Trust.model_validate(tomllib.loads(content.decode("utf-8")))
    except UnicodeDecodeError:
        raise SettingsError(f"{what} is no TOML: it is not UTF-8 text") from None
    except RecursionError:
        raise SettingsError(f"{what} is no TOML of ours: it nests too deep") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{what} is no TOML: {error}") from None
    except ValidationError as error:
        lines = [
            f"{what}: {'.'.join(str(part) for part in item['loc']) or 'trust'}: "
            + item["msg"].removeprefix("Value error, ")
            for item in error.errors(include_input=False, include_url=False)
        ]
        raise SettingsError("\n".join(lines)) from None
    if trust.address_book is not None:
        trust = trust.model_copy(update={"address_book": path.parent / trust.address_book})
    return trust


def spki_sha256(public_key_der: bytes) -> str:
    """The pin of a certificate: SHA-256 of its public key's DER bytes, 64 hexadecimal digits."""
    return sha256(public_key_der).hexdigest()


def _read_guarded(path: Path, what: str) -> bytes:
    """The file's bytes, if nobody but root and this user can have written them. Raises SettingsError."""
    try:
        # One handle for every check: a file put in its place meanwhile is not the one that was checked.
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            content = file.read(FILE_MAXIMUM_BYTES + 1) if stat.S_ISREG(found.st_mode) else b""
        folder = path.resolve().parent.stat()
    except FileNotFoundError:
        raise SettingsError(f"{what} does not exist") from None
    except OSError as error:
        raise SettingsError(f"{what} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise SettingsError(f"{what} is no regular file")
    owners = {0, os.getuid()}
    if found.st_uid not in owners or folder.st_uid not in owners:
        raise SettingsError(f"{what} must belong to root or to you, and so must its folder; run: chown root {path}")
    if found.st_mode & _OTHERS_MAY_WRITE:
        raise SettingsError(f"{what} can be written by others; run: chmod go-w {path}")
    if folder.st_mode & _OTHERS_MAY_WRITE and not folder.st_mode & stat.S_ISVTX:
        raise SettingsError(f"{what} lies in a folder that others can write; run: chmod go-w {path.resolve().parent}")
    if len(content) > FILE_MAXIMUM_BYTES:
        raise SettingsError(f"{what} is over {FILE_MAXIMUM_BYTES} bytes")
    return content

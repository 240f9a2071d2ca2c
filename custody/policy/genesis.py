"""``genesis.toml``: what the fleet never takes from its database (R3, R5, R6, R8, R16, R17).

Chains with their genesis hash, treasuries, tokens and contracts; the deposit accounts; who approves, and how many.
"""

from datetime import datetime
from typing import Annotated, Final, Literal, Self, get_args

from pydantic import Field, model_validator

from custody.policy.documents import (
    NO_HASH,
    Address,
    ChainId,
    Document,
    DocumentHash,
    EnvironmentId,
    Hash32,
    Moment,
    Name,
    Symbol,
    Version,
    WholeTokens,
)
from custody.settings.chains import DEVELOPMENT_CHAINS, FORMER_TREASURIES_MAXIMUM, NATIVE, FormerState

Power = Literal["policy", "release", "refund", "sweep", "adjustment", "gas_funding", "fee_payout"]
"""What a person's approval may count for: files (``policy``), or requests of that purpose."""
POWERS: Final[tuple[Power, ...]] = get_args(Power)


def power_for(purpose: str) -> Power:
    """The power that approving a request of that purpose needs; who may let coins out may move them within the house (R22).

    Raises ValueError for no purpose of a request.
    """
    wanted = "release" if purpose == "drain" else purpose
    for power in POWERS:
        if power == wanted:
            return power
    raise ValueError(f"{purpose!r} is no purpose of a request")


K_MINIMUM: Final = 2  # two persons means two signatures (R10); one only where no money is real
TOKEN_DECIMALS_MAXIMUM: Final = 18  # what the ledger's numeric(38,18) holds
APPROVERS_MAXIMUM: Final = 32  # k of more persons is nobody's practice
CHAINS_MAXIMUM: Final = 32  # as in the chains file


class GenesisToken(Document):
    """A token of one chain. ``currency`` is what limits count in: the same word on every chain where it is one money."""

    symbol: Symbol
    currency: Symbol
    address: Address | Literal["native"]
    decimals: Annotated[int, Field(ge=0, le=TOKEN_DECIMALS_MAXIMUM, strict=True)]
    treasury_maximum: WholeTokens
    """Whole tokens that an EOA treasury may hold (R5)."""


class Treasury(Document):
    """Where sweeps go. An EOA names its device's root key fingerprint; a Safe all that R16 reads back."""

    kind: Literal["eoa", "safe"]
    address: Address
    device_fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")] | None = None
    singleton_code_hash: Hash32 | None = None
    proxy_code_hash: Hash32 | None = None
    """Of the code at the Safe's own address; without it the singleton's code alone is compared."""
    owners: Annotated[tuple[Address, ...], Field(max_length=APPROVERS_MAXIMUM)] = ()
    threshold: Annotated[int, Field(ge=1, strict=True)] | None = None
    fallback_handler: Address | None = None
    guard: Address | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        safe = (self.singleton_code_hash, self.threshold, self.fallback_handler)
        if self.kind == "eoa":
            if self.device_fingerprint is None:
                raise ValueError("device_fingerprint is missing: an EOA treasury pins its device's root key")
            if any(value is not None for value in (*safe, self.guard, self.proxy_code_hash)) or self.owners:
                raise ValueError("expected no owners, threshold, handler, guard or code hash: an EOA has none")
            return self
        if any(value is None for value in safe) or not self.owners:
            raise ValueError("expected singleton_code_hash, owners, threshold and fallback_handler of the Safe (R16)")
        if len(set(self.owners)) != len(self.owners):
            raise ValueError("two owners share an address")
        if self.threshold is None or self.threshold > len(self.owners):
            raise ValueError(f"threshold: expected at most {len(self.owners)}, the number of owners")
        return self


class FormerTreasury(Treasury):
    """A treasury of before a rotation, and what is left to do with it (R22). It is never left out, and never active again."""

    state: FormerState


class Contract(Document):
    """A contract that the fleet calls or is paid through, with the hash of its runtime code (R25)."""

    name: Name
    address: Address
    code_hash: Hash32


class GenesisChain(Document):
    """One chain: its id and genesis hash together (R17), where its money lies, what counts as money there."""

    id: ChainId
    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,12}$")]
    genesis_hash: Hash32
    treasury: Treasury
    former_treasuries: Annotated[tuple[FormerTreasury, ...], Field(max_length=FORMER_TREASURIES_MAXIMUM)] = ()
    tokens: Annotated[tuple[GenesisToken, ...], Field(min_length=1, max_length=64)]
    contracts: Annotated[tuple[Contract, ...], Field(max_length=32)] = ()

    def token(self, address: str) -> GenesisToken | None:
        """The token with that address, or None."""
        return next((token for token in self.tokens if token.address == address), None)

    @property
    def treasuries(self) -> tuple[Treasury, ...]:
        """Every treasury that the chain ever had, the active one first."""
        return (self.treasury, *self.former_treasuries)

    def former(self, address: str | None) -> FormerTreasury | None:
        """The former treasury at that address, or None."""
        return next((each for each in self.former_treasuries if each.address == address), None)

    @model_validator(mode="after")
    def _addresses_differ(self) -> Self:
        named = [token.address for token in self.tokens] + [contract.address for contract in self.contracts]
        if len(set(named)) != len(named):
            raise ValueError("two tokens or contracts share an address")
        if len({token.symbol for token in self.tokens}) != len(self.tokens):
            raise ValueError("two tokens share a symbol: people could not tell them apart")
        treasuries = [each.address for each in self.treasuries]
        if len(set(treasuries)) != len(treasuries):
            raise ValueError("former_treasuries: each treasury is named once; a former one never comes back (R22)")
        if set(treasuries) & set(named):
            raise ValueError("the treasury is a token's or a contract's address: coins sent there are lost")
        if NATIVE not in named:
            raise ValueError("the chain's own coin is missing: add a token with address 'native'")
        return self


class DepositAccount(Document):
    """An account that deposit addresses derive from, known by SHA-256 of its xpub's text.

    All 32 bytes: BIP-32's fingerprint of four can be found again by trying.
    """

    name: Name
    path: Annotated[str, Field(pattern=r"^m/44'/(60|1)'/\d{1,9}'$")]
    xpub_sha256: DocumentHash


class Approver(Document):
    """One approval device of one person (R3). ``revoked_at`` set: its signatures count no more, at once."""

    person: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$")]
    address: Address
    device_model: Annotated[str, Field(pattern=r"^[A-Z0-9]{4}$")]
    xpub_sha256: DocumentHash
    """Of the approval account's xpub, so that the device is known before it is asked."""
    powers: Annotated[tuple[Power, ...], Field(min_length=1)]
    valid_from: Moment
    revoked_at: Moment | None = None
    user_id: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Who the person is in the marketplace, so that nobody approves a payment to themselves."""


class AddressBookCheckpoint(Document):
    """The address book up to here is vouched for by this genesis, so a revoked approver's old entries stand."""

    entries: Annotated[int, Field(ge=0, strict=True)]
    head: DocumentHash


class Genesis(Document):
    """The whole file. Versions chain by ``previous``; the first one's hash names the fleet for ever."""

    environment: EnvironmentId
    version: Version
    previous: DocumentHash
    issued_at: Moment
    k: Annotated[int, Field(ge=1, le=APPROVERS_MAXIMUM, strict=True)]
    """Persons whose signatures a file needs."""
    address_book: AddressBookCheckpoint
    chains: Annotated[tuple[GenesisChain, ...], Field(min_length=1, max_length=CHAINS_MAXIMUM)]
    deposit_accounts: Annotated[tuple[DepositAccount, ...], Field(min_length=1, max_length=64)]
    approvers: Annotated[tuple[Approver, ...], Field(min_length=1, max_length=4 * APPROVERS_MAXIMUM)]

    @property
    def is_development(self) -> bool:
        """No chain of it holds real money (R17)."""
        return all(chain.id in DEVELOPMENT_CHAINS for chain in self.chains)

    def chain(self, chain_id: int) -> GenesisChain | None:
        """The chain with that id, or None."""
        return next((chain for chain in self.chains if chain.id == chain_id), None)

    def approver(self, address: str) -> Approver | None:
        """The approver with that address, revoked or not, or None."""
        return next((approver for approver in self.approvers if approver.address == address), None)

    def active_approvers(self, power: Power, at: datetime) -> tuple[Approver, ...]:
        """Whose signature counts for ``power`` at that moment."""
        return tuple(
            each
            for each in self.approvers
            if power in each.powers and each.revoked_at is None and each.valid_from <= at
        )

    @property
    def currencies(self) -> frozenset[str]:
        """Every currency that a limit can count in."""
        return frozenset(token.currency for chain in self.chains for token in chain.tokens)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.version == 1) != (self.previous == NO_HASH):
            raise ValueError("previous: expected 64 zeros for version 1, else the hash of the version before")
        if (self.address_book.entries == 0) != (self.address_book.head == NO_HASH):
            raise ValueError("address_book.head: expected 64 zeros for no entries, else the last entry's hash")
        if len({chain.id for chain in self.chains}) != len(self.chains):
            raise ValueError("chains: two chains share an id")
        if len({chain.name for chain in self.chains}) != len(self.chains):
            raise ValueError("chains: two chains share a name")
        if len(self.chains) > 1 and any(chain.id in DEVELOPMENT_CHAINS for chain in self.chains):
            raise ValueError("chains: a development chain (1337, 31337) may not stand beside another chain (R17)")
        if len({each.xpub_sha256 for each in self.deposit_accounts}) != len(self.deposit_accounts):
            raise ValueError("deposit_accounts: two accounts share an xpub")
        self._check_approvers()
        return self

    def _check_approvers(self) -> None:
        active = [each for each in self.approvers if each.revoked_at is None]
        if len({each.address for each in self.approvers}) != len(self.approvers):
            raise ValueError("approvers: two share an address")
        if len({each.person for each in active}) != len(active):
            raise ValueError("approvers: a person has two devices; expected one active approval device a person (R3)")
        if self.k < K_MINIMUM and not self.is_development:
            raise ValueError(f"k: expected at least {K_MINIMUM} where money is real (R10)")
        signers = sum(1 for each in active if "policy" in each.powers)
        if self.k > signers:
            raise ValueError(f"k: expected at most {signers}, the active approvers with the power 'policy'")
        accounts = {each.address for chain in self.chains for each in chain.treasuries}
        owners = {owner for chain in self.chains for each in chain.treasuries for owner in each.owners}
        if both := accounts & owners:
            raise ValueError(
                f"chains: {min(both)} is a treasury and a Safe's owner; expected accounts of their own (R6)"
            )
        reused = next((each for each in self.approvers if each.address in accounts | owners), None)
        if reused is not None:
            # One signature must never be worth two things (R6).
            raise ValueError(
                f"approvers: {reused.address} is a treasury or a Safe's owner too; expected its own account"
            )

"""The chains file: which chains exist, how they are reached, which tokens count, where the treasury is (TOML).

A chain is (id, genesis hash), never an id alone (R17). Addresses are EIP-55 checksummed. Amount units: whole tokens.
"""

import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from eth_utils.address import to_checksum_address
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from custody.settings.environment import SettingsError
from custody.settings.gas import GasSettings
from custody.settings.rpc_hosts import domain_of

NATIVE: Final = "native"
DEVELOPMENT_CHAINS: Final = frozenset({1337, 31337})

RPC_DOMAINS_MINIMUM: Final = 2
"""Domains of a chain's nodes: a quorum is two, and one provider that errs or lies must not be both (R17)."""

SAFE_OWNERS_MAXIMUM: Final = 32  # as many as a genesis may pin

FormerState = Literal["draining", "compromised", "retired"]
"""What is left to do with a treasury that another one took the place of (R22)."""
FORMER_TREASURIES_MAXIMUM: Final = 8
"""Former treasuries of a chain: each is asked for in every block, and a rotation a year makes one."""

_FILE_MAXIMUM_BYTES: Final = 1_048_576  # a chains file is a few kilobytes

_NO_ADDRESS: Final = "0x" + "0" * 40


def _checksummed(value: str) -> str:
    """An address as EIP-55 writes it, unchanged; a text that is not is refused, never repaired."""
    if value == NATIVE:
        return value
    if value != to_checksum_address(value):
        raise ValueError(
            "the EIP-55 checksum is wrong or missing: copy the address again from its source, upper and lower case as it is there"
        )
    if value == _NO_ADDRESS:
        raise ValueError("the zero address is refused, coins sent there are lost")
    return value


def _rpc_url(value: str) -> str:
    """An RPC URL, unchanged. The message never shows it: providers put their key in it."""
    try:
        parts = urlsplit(value)
        is_whole = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole:
        raise ValueError("expected http:// or https:// with a host")
    return value


Address = Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{40}$"), AfterValidator(_checksummed)]
Hash32 = Annotated[str, Field(pattern=r"^0x[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


SweepStrategyName = Literal["eip7702_batch", "eip3009_batch", "top_up_transfer", "native_drain", "create2_forwarder"]


class Token(_Strict):
    """A token that the fleet accepts on one chain. ``address`` is ``native`` for the chain's own coin."""

    symbol: Annotated[str, Field(min_length=1, max_length=12)]
    address: Annotated[str, Field(pattern=r"^(0x[0-9a-fA-F]{40}|native)$"), AfterValidator(_checksummed)]
    decimals: Annotated[int, Field(ge=0, le=18, strict=True)]
    sweep_strategy: SweepStrategyName | None = None
    """Always sweep this token so, where an address may be swept so; without it the cheapest way is taken."""
    coin_price: Annotated[Decimal, Field(gt=0)] | None = None
    """Whole coins of the chain that one whole token is worth, as "0.00031": without it no gas is too much for a sweep."""
    treasury_maximum: Decimal = Field(Decimal(10_000), gt=0, description="whole tokens an EOA treasury may hold (R5)")

    @field_validator("treasury_maximum", "coin_price", mode="before")
    @classmethod
    def _exact(cls, value: Any) -> Any:
        if isinstance(value, float | bool):
            raise ValueError('expected an exact amount: a whole number, or a decimal in quotes as "10000.5"')
        return value


class SafeOwners(_Strict):
    """Who signs for a treasury that is a Safe, as this machine knows it (R4, R16). The genesis pins the rest of it."""

    owners: Annotated[tuple[Address, ...], Field(min_length=1, max_length=SAFE_OWNERS_MAXIMUM)]
    threshold: Annotated[int, Field(ge=1, strict=True)]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(set(self.owners)) != len(self.owners):
            raise ValueError("two owners share an address")
        if self.threshold > len(self.owners):
            raise ValueError(f"threshold: expected at most {len(self.owners)}, the number of owners")
        return self


class FormerTreasury(_Strict):
    """A treasury of before a rotation: what comes and goes there is still followed (R22). ``safe`` as a chain's."""

    address: Address
    state: FormerState
    safe: SafeOwners | None = None


class Chain(_Strict):
    """One chain. ``rpc_urls`` may hold secrets: they are never logged whole."""

    id: Annotated[int, Field(ge=1, strict=True)]
    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,24}$")]
    genesis_hash: Hash32
    rpc_urls: Annotated[tuple[Annotated[str, AfterValidator(_rpc_url)], ...], Field(min_length=1, max_length=8)]
    treasury: Address
    safe: SafeOwners | None = None
    """Set where the treasury is a Safe; without it the treasury is an account of one device."""
    former_treasuries: Annotated[tuple[FormerTreasury, ...], Field(max_length=FORMER_TREASURIES_MAXIMUM)] = ()
    """Those that ``treasury`` took the place of, as the signed genesis names them: fleet treasury rotate."""
    fee_proxy: Address
    native_fee_proxy: Address | None = None
    tokens: Annotated[tuple[Token, ...], Field(min_length=1, max_length=64)]
    data_fee_margin_wei: Annotated[int, Field(ge=0, le=10**17, strict=True)] = 0
    """What a drain of native coin leaves for a fee beside gas (an OP-stack chain's L1 fee); 0 where there is none."""
    sweep_strategy: SweepStrategyName | None = None
    """The same for all tokens of the chain that name none."""
    finality_tag: Literal["safe", "finalized"] | None = None
    max_head_age_seconds: Annotated[int, Field(ge=5, le=3600, strict=True)] = 120
    rpc_timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 10.0
    gas: GasSettings = GasSettings()
    recipient_filter: Annotated[bool, Field(strict=True)] = False
    """The chain's providers answer eth_getLogs only by recipient: the question grows with what was issued (L12)."""
    recipient_filter_addresses: Annotated[int, Field(ge=1, le=10_000, strict=True)] = 500
    """Topics in one OR list; many providers refuse more than a thousand, and 500 are 35 kB of a request."""

    @property
    def is_development(self) -> bool:
        return self.id in DEVELOPMENT_CHAINS

    @property
    def treasuries(self) -> tuple[str, ...]:
        """Every treasury that the chain ever had, the active one first."""
        return (self.treasury, *(each.address for each in self.former_treasuries))

    def former(self, address: str) -> FormerTreasury | None:
        """The former treasury at that address, or None."""
        return next((each for each in self.former_treasuries if each.address == address), None)

    def at(self, treasury: str) -> "Chain":
        """The chain as one of its ``treasuries`` sees it: ``treasury`` and ``safe`` are that one's. Raises LookupError."""
        if treasury == self.treasury:
            return self
        former = self.former(treasury)
        if former is None:
            raise LookupError(f"{treasury} is no treasury of chain {self.id}")
        return self.model_copy(update={"treasury": former.address, "safe": former.safe})

    def token(self, address: str) -> Token | None:
        return next((token for token in self.tokens if token.address == address), None)

    def token_by_symbol(self, symbol: str) -> Token | None:
        return next((token for token in self.tokens if token.symbol == symbol), None)

    @model_validator(mode="after")
    def _tokens_differ(self) -> Self:
        addresses = [token.address for token in self.tokens]
        if len(set(addresses)) != len(addresses):
            raise ValueError("two tokens share an address")
        symbols = [token.symbol for token in self.tokens]
        if len(set(symbols)) != len(symbols):
            raise ValueError("two tokens share a symbol: people could not tell them apart")
        if NATIVE not in addresses:
            raise ValueError("the chain's own coin is missing: add a token with address 'native'")
        if self.native_fee_proxy in {self.fee_proxy, *addresses}:
            raise ValueError("native_fee_proxy is a token's or the token proxy's address: it is a contract of its own")
        if {self.fee_proxy, self.native_fee_proxy, *addresses} & set(self.treasuries):
            raise ValueError("the treasury is a token's or the fee proxy's address: coins sent there are lost")
        if len(set(self.treasuries)) != len(self.treasuries):
            raise ValueError("former_treasuries: each treasury is named once; a former one never comes back (R22)")
        owners = {owner for each in (self, *self.former_treasuries) if each.safe for owner in each.safe.owners}
        if owners & set(self.treasuries):
            raise ValueError("safe.owners: the treasury is the Safe itself, not one of its owners")
        return self


class Chains(_Strict):
    """The whole file."""

    chains: Annotated[tuple[Chain, ...], Field(min_length=1, max_length=32)]

    def chain(self, chain_id: int) -> Chain:
        """The chain with that id. Raises SettingsError naming the ids that exist."""
        for chain in self.chains:
            if chain.id == chain_id:
                return chain
        known = ", ".join(str(chain.id) for chain in self.chains)
        raise SettingsError(f"chain {chain_id} is not in the chains file (it has {known})")

    @model_validator(mode="after")
    def _development_stands_alone(self) -> Self:
        ids = [chain.id for chain in self.chains]
        if len(set(ids)) != len(ids):
            raise ValueError("two chains share an id")
        if len({chain.name for chain in self.chains}) != len(ids):
            raise ValueError("two chains share a name")
        # R17: a development chain's floor of 1 must never stand beside real money.
        if len(ids) > 1 and any(chain.is_development for chain in self.chains):
            raise ValueError("a development chain (1337, 31337) may not be configured beside another chain")
        return self


def load_chains(path: Path) -> Chains:
    """Read and check the chains file. Raises SettingsError naming each wrong field and what was expected."""
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_MAXIMUM_BYTES + 1)
    except FileNotFoundError:
        raise SettingsError(f"CHAINS_FILE names {path}, which does not exist") from None
    except OSError as error:
        raise SettingsError(f"CHAINS_FILE {path} cannot be read: {error.strerror}") from None
    if len(content) > _FILE_MAXIMUM_BYTES:
        raise SettingsError(f"CHAINS_FILE {path} is over {_FILE_MAXIMUM_BYTES} bytes")
    try:
        chains = Chains.model_validate(tomllib.loads(content.decode("utf-8")))
    except UnicodeDecodeError:
        raise SettingsError(f"CHAINS_FILE {path} is no TOML: it is not UTF-8 text") from None
    except RecursionError:
        raise SettingsError(f"CHAINS_FILE {path} is no TOML of ours: it nests too deep") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"CHAINS_FILE {path} is no TOML: {error}") from None
    except ValidationError as error:
        lines = [
            f"CHAINS_FILE {path}: {'.'.join(str(part) for part in item['loc']) or 'chains'}: "
            + item["msg"].removeprefix("Value error, ")
            for item in error.errors(include_input=False, include_url=False)
        ]
        raise SettingsError("\n".join(lines)) from None
    alone = [
        f"CHAINS_FILE {path}: chains.{place}.rpc_urls: {why}"
        for place, why in enumerate(map(_why_one_voice, chains.chains))
        if why is not None
    ]
    if alone:
        raise SettingsError("\n".join(alone))
    return chains


def _why_one_voice(chain: Chain) -> str | None:
    """R17: one provider's word moves no real money, whatever number of its URLs is named."""
    domains = {domain_of(url) for url in chain.rpc_urls}
    if chain.is_development or len(domains) >= RPC_DOMAINS_MINIMUM:
        return None
    return (
        f"expected URLs at hosts of {RPC_DOMAINS_MINIMUM} different domains at least, one a provider, because two must "
        f"agree before money moves (R17); got URLs: {len(chain.rpc_urls)}, domains: {len(domains)}. "
        "Only the development chains 1337 and 31337 may have fewer"
    )

"""``prices.toml``: prices that approvers vouch for, where no feed says them, signed as the policy is (R8).

Versions only rise; unlike a policy's they need not follow each other, because a price says nothing about the one before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from custody.policy.documents import (
    Document,
    DocumentHash,
    EnvironmentId,
    Moment,
    Version,
    WholeTokens,
    document_hash,
    validated,
)
from custody.policy.refusals import PolicyRefused
from custody.policy.signatures import require_signatures
from custody.policy.texts import file_text
from custody.policy.verified import CLOCK_SKEW_SECONDS, Accepted, SignedFile, VerifiedGenesis

PRICES_FILE: Final = "prices.toml"
LIFETIME_MAXIMUM: Final = timedelta(days=31)
"""Nobody answers for a price of last season."""


class SignedPrice(Document):
    """Dollars for one unit. ``source``: quotes are made of it; ``anchor``: a feed's price near it is no jump."""

    pair: Annotated[str, Field(pattern=r"^[A-Z]{3,12}/USD$")]
    price: Annotated[WholeTokens, Field(gt=0)]
    use: Literal["source", "anchor"] = "source"


class PriceFile(Document):
    """The whole file. ``genesis``: the hash of the first genesis, so that no other fleet's file is taken."""

    environment: EnvironmentId
    genesis: DocumentHash
    version: Version
    issued_at: Moment
    expires_at: Moment
    prices: Annotated[tuple[SignedPrice, ...], Field(min_length=1, max_length=64)]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not timedelta(0) < self.expires_at - self.issued_at <= LIFETIME_MAXIMUM:
            raise ValueError(f"expires_at: expected a time after issued_at, {LIFETIME_MAXIMUM.days} days at most")
        named = [(each.pair, each.use) for each in self.prices]
        if len(set(named)) != len(named):
            raise ValueError("prices: a pair is named twice for one use")
        return self


@dataclass(frozen=True, slots=True)
class VerifiedPrices:
    """A prices file that k approvers of the genesis signed, and that has not expired."""

    file: PriceFile
    hash: str
    signed_by: tuple[str, ...]

    def of(self, use: Literal["source", "anchor"]) -> Mapping[str, Decimal]:
        """Its prices of one use, by pair."""
        return {each.pair: each.price for each in self.file.prices if each.use == use}


def prices_text(file: PriceFile, said: Mapping[str, Any], *, file_name: str = PRICES_FILE) -> str:
    """The POLICY text that approvers sign of it (R18)."""
    return file_text("prices", file.environment, file.version, document_hash("prices", said, file=file_name))


def verify_prices(
    signed: SignedFile, genesis: VerifiedGenesis, *, accepted: Accepted | None = None, now: datetime
) -> VerifiedPrices:
    """The file, if it is this genesis', signed by k of its approvers, in its time, and not older than the accepted one.

    Raises PolicyRefused.
    """
    file = validated(PriceFile, signed.said, file=signed.name)
    found = document_hash("prices", signed.said, file=signed.name)
    if file.environment != genesis.genesis.environment or file.genesis != genesis.root:
        raise PolicyRefused(
            signed.name,
            "genesis",
            f"expected {genesis.genesis.environment} {genesis.root}, got {file.environment} {file.genesis}: another fleet's file",
        )
    if accepted is not None and file.version < accepted.version:
        raise PolicyRefused(
            signed.name, "version", f"expected {accepted.version} or more, got {file.version}: it is older"
        )
    if accepted is not None and file.version == accepted.version and found != accepted.hash:
        raise PolicyRefused(
            signed.name, "hash", f"expected {accepted.hash}: another version {file.version} was accepted"
        )
    if file.issued_at > now + timedelta(seconds=CLOCK_SKEW_SECONDS):
        raise PolicyRefused(
            signed.name, "issued_at", f"expected a time that has come, got {file.issued_at:%Y-%m-%d %H:%M:%S} UTC"
        )
    if file.expires_at <= now:
        raise PolicyRefused(
            signed.name, "expires_at", f"it expired {file.expires_at:%Y-%m-%d %H:%M:%S} UTC: sign a new version"
        )
    text = prices_text(file, signed.said, file_name=signed.name)
    persons = require_signatures(text, signed.signatures, genesis.genesis, file=f"{signed.name}.sig", now=now)
    return VerifiedPrices(file, found, persons)

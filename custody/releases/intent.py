"""What an approver agrees to (R18, R19): who gets how much from where, at what cost at most, and until when.

The transaction only refines it: nonce and gas are chosen later, within ``max_total_fee_wei``. Whoever is shown an
approval text computes this hash from the fields, so a text and another payout cannot be joined.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final
from uuid import UUID

DOMAIN: Final = "amanat.intent.v1"
GROUP_DOMAIN: Final = "amanat.intent.group.v1"
SHOWN_CHARACTERS: Final = 16  # of the hash, on a device: 64 bits, beside every field that they cover


@dataclass(frozen=True, slots=True)
class Share:
    """What one payment of a group gives to it, in the token's smallest unit, and the epoch of its book (R12, R23)."""

    amount_units: int
    release_epoch: int


@dataclass(frozen=True, slots=True)
class Intent:
    """One payout as it is approved.

    ``amount_units`` in the token's smallest unit, ``max_total_fee_wei`` in wei; ``token`` is an address or ``native``;
    ``payments`` are those it pays for, or the house book whose coins are moved; ``release_epoch`` is that of the payment's book (R12), 0 for a group, whose
    ``shares`` have one each, in the order of ``payments``; ``expires_at`` has whole minutes.
    """

    environment: str
    instruction_id: UUID
    purpose: str
    chain_id: int
    treasury: str
    token: str
    recipient: str
    amount_units: int
    payments: tuple[UUID, ...]
    release_epoch: int
    policy_version: int
    max_total_fee_wei: int
    expires_at: datetime
    raw_units: bool = False
    """The treasury's device cannot name the token and shows smallest units (R2)."""
    shares: tuple[Share, ...] = ()

    def __post_init__(self) -> None:
        if self.expires_at.utcoffset() is None or self.expires_at.second or self.expires_at.microsecond:
            raise ValueError("expires_at: expected whole minutes with a time zone; a device shows no more")
        if not self.payments or len(set(self.payments)) != len(self.payments):
            raise ValueError("payments: expected at least one, and each once")
        if self.shares and (
            self.release_epoch != 0
            or len(self.shares) != len(self.payments)
            or min(each.amount_units for each in self.shares) <= 0
            or sum(each.amount_units for each in self.shares) != self.amount_units
        ):
            raise ValueError("shares: expected one above zero for each payment, with the amount as their sum")

    def canonical_bytes(self) -> bytes:
        """Each field as its length (4 bytes, big endian) and its UTF-8 text: no two intents have the same bytes."""
        fields = (
            GROUP_DOMAIN if self.shares else DOMAIN,
            self.environment,
            str(self.instruction_id),
            self.purpose,
            str(self.chain_id),
            self.treasury.lower(),
            self.token.lower(),
            self.recipient.lower(),
            str(self.amount_units),
            ",".join(sorted(str(payment) for payment in self.payments)),
            str(self.release_epoch),
            str(self.policy_version),
            str(self.max_total_fee_wei),
            self.expires_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%MZ"),
            *(("raw_units",) if self.raw_units else ()),
            *self._shares_by_payment(),
        )
        encoded = [field.encode() for field in fields]
        return b"".join(len(field).to_bytes(4, "big") + field for field in encoded)

    def hash(self) -> bytes:
        """SHA-256 of the canonical bytes."""
        return sha256(self.canonical_bytes()).digest()

    def _shares_by_payment(self) -> Iterator[str]:
        if self.shares:
            ordered = sorted(zip(self.payments, self.shares, strict=True), key=lambda each: str(each[0]))
            yield ",".join(f"{share.amount_units}:{share.release_epoch}" for _, share in ordered)

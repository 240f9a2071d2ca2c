"""Whether a registration is proved (R3, R6, R24). Pure: the challenge, the place and everything in use are given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Final
from uuid import UUID

from custody.destinations.derivation import DerivationError, address_at, xpub_fingerprint
from custody.policy.signatures import signer_of
from custody.registration.texts import ApiPlace, register_text
from custody.trezor import SignatureError
from custody.trezor.accounts import ROLE_ACCOUNTS
from custody.trezor.text_rows import TextNotShowable

PROOF_INDEX: Final = 0  # spent on the proof; payments begin at 1
REUSE_INDICES: Final = 20  # addresses of the account that are compared with those of other roles (BIP-44's gap limit)
ACCOUNT: Final = ROLE_ACCOUNTS["registration"]


class RegistrationRefused(Exception):
    """The account is not registered, or its address not issued. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a signer's machine handed in. ``signature`` is 0x and 65 bytes r, s, v."""

    xpub: str
    address: str
    device_fingerprint: str
    signature: str
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Challenge:
    """What the claim answers: ``nonce`` 32 hex digits, for one user, until ``expires_at``."""

    nonce: str
    user_id: UUID
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class InUse:
    """Addresses and xpubs (by SHA-256 of their text, hex) that have another role, each with the role in words."""

    addresses: Mapping[str, str] = field(default_factory=dict[str, str])
    xpubs: Mapping[str, str] = field(default_factory=dict[str, str])


def prove(claim: Claim, challenge: Challenge, place: ApiPlace, in_use: InUse) -> str:
    """The account's fingerprint, 0x and 8 hex digits, once the claim is proved. Raises RegistrationRefused."""
    if claim.received_at > challenge.expires_at:
        raise RegistrationRefused(
            f"it came at {claim.received_at:%H:%M:%S}, the challenge ended at {challenge.expires_at:%H:%M:%S} UTC: "
            "register again"
        )
    try:
        fingerprint = xpub_fingerprint(claim.xpub, ACCOUNT)
        own = [address_at(claim.xpub, index, ACCOUNT) for index in range(REUSE_INDICES)]
    except DerivationError as error:
        raise RegistrationRefused(str(error)) from None
    if claim.address != own[PROOF_INDEX]:
        raise RegistrationRefused(
            f"address: expected {own[PROOF_INDEX]}, which is the xpub's own at {ACCOUNT}/0/{PROOF_INDEX}, "
            f"got {claim.address}"
        )
    _refuse_reuse(claim.xpub, own, in_use)
    try:
        text = register_text(
            place=place,
            nonce=challenge.nonce,
            expires_at=challenge.expires_at,
            address=claim.address,
            user_id=challenge.user_id,
            device_fingerprint=claim.device_fingerprint,
        )
        signer = signer_of(text, claim.signature)
    except (TextNotShowable, SignatureError) as error:
        raise RegistrationRefused(str(error)) from None
    if signer != claim.address:
        raise RegistrationRefused(
            f"signature: expected one of {claim.address} over this API's text ({place.host}, {place.shown_pin}); it is "
            f"{signer}'s or of another text: compare SIGNER_API_URL and the certificate"
        )
    return fingerprint


def _refuse_reuse(xpub: str, own: Sequence[str], in_use: InUse) -> None:
    role = in_use.xpubs.get(sha256(xpub.encode()).hexdigest())
    if role is None:
        role = next((in_use.addresses[address] for address in own if address in in_use.addresses), None)
    if role is not None:
        raise RegistrationRefused(
            f"its key is {role} already; a registration has its own account {ACCOUNT}, with no other role (R6)"
        )

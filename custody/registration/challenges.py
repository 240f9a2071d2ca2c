"""What the signer API writes: a challenge for an invitation, and what was handed in for it. It judges nothing (R9, R24)."""

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, text

from custody.registration.proof import ACCOUNT, RegistrationRefused
from custody.registration.texts import CHALLENGE_SECONDS, NONCE_BYTES
from custody.store.outbox import ring

CHALLENGES_LIMIT: Final = 20  # of one invitation: a person who is slow tries again, a loop does not


@dataclass(frozen=True, slots=True)
class OpenChallenge:
    """All that the server gives: hex and times, no text (R6)."""

    nonce: str
    user_id: UUID
    account: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class HandedIn:
    """A registration as a signer's machine sends it. ``signature`` 65 bytes r, s, v."""

    nonce: str
    xpub: str
    address: str
    device_fingerprint: str
    device_model: str
    device_label: str | None
    signature: bytes


def open_challenge(connection: Connection, invitation_code: str) -> OpenChallenge:
    """A new challenge for an invitation that is open, good for CHALLENGE_SECONDS. Raises RegistrationRefused."""
    invitation = connection.execute(
        text(
            """
            SELECT i.id, i.user_id, clock_timestamp() AS now,
                (SELECT count(*) FROM fleet.signer_challenges c WHERE c.invitation_id = i.id) AS challenges
            FROM fleet.registration_invitations i
            WHERE i.code_sha256 = :code AND i.used_at IS NULL AND i.expires_at > clock_timestamp()
            """
        ),
        {"code": sha256(invitation_code.encode()).digest()},
    ).one_or_none()
    if invitation is None:
        raise RegistrationRefused("There is no such invitation, or it has ended: ask an operator for another one.")
    if invitation.challenges >= CHALLENGES_LIMIT:
        raise RegistrationRefused("This invitation was tried too often: ask an operator for another one.")
    nonce = secrets.token_bytes(NONCE_BYTES)
    # Whole seconds: both sides write the same moment into the text.
    expires_at = invitation.now.replace(microsecond=0) + timedelta(seconds=CHALLENGE_SECONDS)
    connection.execute(
        text(
            "INSERT INTO fleet.signer_challenges (purpose, nonce, invitation_id, expires_at) "
            "VALUES ('register', :nonce, :invitation, :expires)"
        ),
        {"nonce": nonce, "invitation": invitation.id, "expires": expires_at},
    )
    return OpenChallenge(nonce.hex(), invitation.user_id, ACCOUNT, expires_at)


def hand_in(connection: Connection, claim: HandedIn) -> UUID:
    """Keep what was handed in for its challenge, once, and ring the worker that judges it; the same again returns it.

    Raises RegistrationRefused for an unknown nonce, or one that was answered otherwise (single use).
    """
    challenge = connection.execute(
        text("SELECT id FROM fleet.signer_challenges WHERE nonce = :nonce AND purpose = 'register'"),
        {"nonce": bytes.fromhex(claim.nonce)},
    ).scalar_one_or_none()
    if challenge is None:
        raise RegistrationRefused("There is no such challenge: register again.")
    values: dict[str, Any] = {
        "challenge": challenge,
        "xpub": claim.xpub,
        "address": claim.address,
        "fingerprint": claim.device_fingerprint,
        "model": claim.device_model,
        "label": claim.device_label,
        "signature": claim.signature,
    }
    made: UUID | None = connection.execute(
        text(
            """
            INSERT INTO fleet.trezor_registrations (challenge_id, xpub, address, device_fingerprint, device_model,
                device_label, signature)
            VALUES (:challenge, :xpub, :address, :fingerprint, :model, :label, :signature)
            ON CONFLICT (challenge_id) DO NOTHING RETURNING id
            """
        ),
        values,
    ).scalar_one_or_none()
    if made is not None:
        ring(connection, "housekeeping")
        return made
    standing = connection.execute(
        text(
            """
            SELECT id FROM fleet.trezor_registrations WHERE challenge_id = :challenge AND xpub = :xpub
                AND address = :address AND device_fingerprint = :fingerprint AND signature = :signature
            """
        ),
        values,
    ).scalar_one_or_none()
    if standing is None:
        raise RegistrationRefused("This challenge was answered already, and a challenge is good once: register again.")
    return standing


def registration_state(connection: Connection, registration_id: UUID) -> dict[str, Any] | None:
    """What became of a registration, or None: state, reason, address."""
    row = connection.execute(
        text("SELECT id, state, reason, address FROM fleet.trezor_registrations WHERE id = :id"),
        {"id": registration_id},
    ).one_or_none()
    if row is None:
        return None
    return {"id": str(row.id), "state": row.state, "reason": row.reason, "address": row.address}

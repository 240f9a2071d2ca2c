"""Logging in: a challenge given, its LOGIN text signed, a session opened (R6). Role: fleet_signer_api."""

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final

from sqlalchemy import Connection, Engine, text

from custody.policy.signatures import signer_of
from custody.registration import ApiPlace
from custody.registration.texts import CHALLENGE_SECONDS, NONCE_BYTES
from custody.sessions.identities import Identities, Identity
from custody.sessions.texts import login_text
from custody.store.engine import transaction
from custody.trezor import SignatureError

TOKEN_BYTES: Final = 32
OPEN_CHALLENGES_LIMIT: Final = 256  # signers are tens of people; more at once is nobody who reads a device
SESSIONS_OF_ONE: Final = 4  # a person at two machines, and one forgotten on each; the oldest ends


class LoginRefused(Exception):
    """No session is opened. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class LoginChallenge:
    """All that the server gives: hex and a time, no text (R6)."""

    nonce: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class LoginClaim:
    """What a signer's machine hands in. ``signature`` is 0x and 65 bytes r, s, v with v 27 or 28."""

    nonce: str
    address: str
    signature: str


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A new session. ``token`` is known to its caller alone: its SHA-256 is what is kept."""

    token: str
    identity: Identity
    expires_at: datetime


def open_challenge(connection: Connection) -> LoginChallenge:
    """A nonce, good once and for CHALLENGE_SECONDS. Raises LoginRefused when too many are open."""
    row = connection.execute(
        text(
            "SELECT clock_timestamp() AS now, count(*) AS open FROM fleet.signer_challenges "
            "WHERE purpose = 'login' AND used_at IS NULL AND expires_at > clock_timestamp()"
        )
    ).one()
    if row.open >= OPEN_CHALLENGES_LIMIT:
        raise LoginRefused("Too many logins are under way; wait two minutes.")
    nonce = secrets.token_bytes(NONCE_BYTES)
    # Whole seconds: both sides write the same moment into the text.
    expires_at = row.now.replace(microsecond=0) + timedelta(seconds=CHALLENGE_SECONDS)
    connection.execute(
        text("INSERT INTO fleet.signer_challenges (purpose, nonce, expires_at) VALUES ('login', :nonce, :expires)"),
        {"nonce": nonce, "expires": expires_at},
    )
    return LoginChallenge(nonce.hex(), expires_at)


def log_in(
    engine: Engine, place: ApiPlace, identities: Identities, claim: LoginClaim, *, seconds: int
) -> OpenedSession:
    """A session of ``seconds`` for who signed this API's LOGIN text over an open challenge.

    The challenge is spent first, by whatever answer, in a transaction of its own. Raises LoginRefused, NoIdentities.
    """
    with transaction(engine) as connection:
        expires_at = _spend(connection, claim.nonce)
    expected = login_text(place=place, nonce=claim.nonce, expires_at=expires_at, address=claim.address)
    try:
        signer = signer_of(expected, claim.signature)
    except SignatureError as error:
        raise LoginRefused(f"{error}; log in again.") from None
    if signer != claim.address:
        raise LoginRefused(
            f"The signature is not {claim.address}'s over this API's text ({place.host}, {place.shown_pin}): it is of "
            "another device, or for another API. Compare SIGNER_API_URL and the certificate."
        )
    identity = identities().get(claim.address)
    if identity is None:
        raise LoginRefused(
            f"{claim.address} is no active approver, treasury or Safe owner of the genesis: use the account of your "
            "role (docs/sign.md)."
        )
    token = secrets.token_hex(TOKEN_BYTES)
    with transaction(engine) as connection:
        ends = _open(connection, identity, token, seconds)
    return OpenedSession(token, identity, ends)


def purge_challenges(connection: Connection, before: datetime) -> int:
    """Delete login challenges that ended before then, and return how many. Role: fleet_housekeeping."""
    return connection.execute(
        text("DELETE FROM fleet.signer_challenges WHERE purpose = 'login' AND expires_at < :before"),
        {"before": before},
    ).rowcount


def _spend(connection: Connection, nonce: str) -> datetime:
    """Mark the challenge as used, once among any number that try, and return when it ends."""
    row = connection.execute(
        text(
            "UPDATE fleet.signer_challenges SET used_at = clock_timestamp() WHERE nonce = :nonce AND purpose = 'login' "
            "AND used_at IS NULL RETURNING expires_at, expires_at > clock_timestamp() AS in_time"
        ),
        {"nonce": bytes.fromhex(nonce)},
    ).one_or_none()
    if row is None:
        raise LoginRefused("There is no such challenge, or it was answered already; it is good once. Log in again.")
    if not row.in_time:
        raise LoginRefused(f"The challenge ended after {CHALLENGE_SECONDS} seconds: log in again.")
    return row.expires_at


def _open(connection: Connection, identity: Identity, token: str, seconds: int) -> datetime:
    barred = connection.execute(
        text("SELECT reason FROM fleet.barred_signers WHERE address = :address"), {"address": identity.address}
    ).scalar_one_or_none()
    if barred is not None:
        raise LoginRefused(f"{identity.address} is barred ({barred}): ask an operator.")
    connection.execute(
        text(
            """
            UPDATE fleet.signer_sessions SET ended_at = clock_timestamp(), ended_by = 'signer-api',
                ended_reason = 'newer sessions of the same device'
            WHERE id IN (SELECT id FROM fleet.signer_sessions WHERE address = :address AND ended_at IS NULL
                AND expires_at > clock_timestamp() ORDER BY opened_at DESC, id DESC OFFSET :kept)
            """
        ),
        {"address": identity.address, "kept": SESSIONS_OF_ONE - 1},
    )
    ends: datetime = connection.execute(
        text(
            """
            INSERT INTO fleet.signer_sessions (token_sha256, address, role, person, expires_at)
            VALUES (:token, :address, :role, :person, clock_timestamp() + make_interval(secs => :seconds))
            RETURNING expires_at
            """
        ),
        {
            "token": sha256(token.encode()).digest(),
            "address": identity.address,
            "role": identity.role,
            "person": identity.person,
            "seconds": seconds,
        },
    ).scalar_one()
    return ends

"""Sessions that stand, and their end: by the clock, a logout, an operator, a lost device or a new genesis (R3, R6)."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from uuid import UUID

from sqlalchemy import Connection, text

from custody.sessions.identities import Identity


@dataclass(frozen=True, slots=True)
class Session:
    """One open session, and whose it is by the signed files of now."""

    id: UUID
    identity: Identity
    opened_at: datetime
    expires_at: datetime


def find_session(connection: Connection, token: str, identities: Mapping[str, Identity]) -> Session | None:
    """The open session of a token; None for an unknown, ended or expired one, and for a device that counts no more.

    The genesis may have changed since the login: the role and the person must still be the ones that logged in.
    """
    row = connection.execute(
        text(
            """
            SELECT s.id, s.address, s.role, s.person, s.opened_at, s.expires_at FROM fleet.signer_sessions s
            WHERE s.token_sha256 = :token AND s.ended_at IS NULL AND s.expires_at > clock_timestamp()
              AND NOT EXISTS (SELECT FROM fleet.barred_signers b WHERE b.address = s.address)
            """
        ),
        {"token": sha256(token.encode("utf-8", "surrogateescape")).digest()},
    ).one_or_none()
    identity = None if row is None else identities.get(row.address)
    if row is None or identity is None or (identity.role, identity.person) != (row.role, row.person):
        return None
    return Session(row.id, identity, row.opened_at, row.expires_at)


def end_session(connection: Connection, session_id: UUID, *, by: str, reason: str) -> None:
    """End one session at once."""
    connection.execute(
        text(
            "UPDATE fleet.signer_sessions SET ended_at = clock_timestamp(), ended_by = :by, ended_reason = :reason "
            "WHERE id = :id AND ended_at IS NULL"
        ),
        {"id": session_id, "by": by, "reason": reason},
    )


def end_sessions_of(connection: Connection, who: str, *, by: str, reason: str) -> int:
    """End every open session of a person or an address at once; returns how many."""
    return connection.execute(
        text(
            "UPDATE fleet.signer_sessions SET ended_at = clock_timestamp(), ended_by = :by, ended_reason = :reason "
            "WHERE (address = :who OR person = :who) AND ended_at IS NULL AND expires_at > clock_timestamp()"
        ),
        {"who": who, "by": by, "reason": reason},
    ).rowcount


def bar(connection: Connection, address: str, *, by: str, reason: str) -> None:
    """Let a device log in no more, and its open sessions end with that."""
    connection.execute(
        text(
            "INSERT INTO fleet.barred_signers (address, barred_by, reason) VALUES (:address, :by, :reason) "
            "ON CONFLICT (address) DO NOTHING"
        ),
        {"address": address, "by": by, "reason": reason},
    )
    end_sessions_of(connection, address, by=by, reason=reason)


def allow(connection: Connection, address: str) -> bool:
    """Let a barred device log in again: it was found, or barred in error. False when it was not barred."""
    return (
        connection.execute(
            text("DELETE FROM fleet.barred_signers WHERE address = :address"), {"address": address}
        ).rowcount
        == 1
    )

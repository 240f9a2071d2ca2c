"""Nonce lanes: one row a nonce, the signed bytes stored before they are sent (L15, design §6).

The order of work, so that no crash loses or doubles a nonce:
transaction 1 takes the nonce and stores the intent; then sign; transaction 2 stores bytes and hash; then broadcast.
A lane with an intent that has no bytes finishes that one first.
"""

from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Connection, text

LaneKind = Literal["gas_payer", "destination", "treasury", "release_payer"]
Purpose = Literal["top_up", "sweep", "release", "cancel"]


class LaneBlocked(Exception):
    """The lane has an earlier intent without signed bytes; that one must be finished first."""


@dataclass(frozen=True, slots=True)
class LaneTransaction:
    """One row of fleet.chain_transactions. Values in wei; ``signed_bytes`` is the raw transaction."""

    id: UUID
    chain_id: int
    sender: str
    nonce: int
    purpose: str
    subject_id: UUID
    recipient: str
    value_wei: int
    data: bytes
    state: str
    signed_bytes: bytes | None
    transaction_hash: str | None


_COLUMNS = (
    "id, chain_id, sender, nonce, purpose, subject_id, recipient, value_wei, data, state, signed_bytes, "
    "transaction_hash"
)


def _read(row: Any) -> LaneTransaction:
    return LaneTransaction(
        id=row.id,
        chain_id=row.chain_id,
        sender=row.sender,
        nonce=row.nonce,
        purpose=row.purpose,
        subject_id=row.subject_id,
        recipient=row.recipient,
        value_wei=int(row.value_wei),
        data=bytes(row.data),
        state=row.state,
        signed_bytes=None if row.signed_bytes is None else bytes(row.signed_bytes),
        transaction_hash=row.transaction_hash,
    )


def open_lane(connection: Connection, chain_id: int, address: str, kind: LaneKind, chain_nonce: int) -> None:
    """Make the lane if it is new, starting at ``chain_nonce`` (the node's latest transaction count).

    An existing lane is only ever raised, never lowered: the chain's count is a floor.
    """
    connection.execute(
        text(
            """
            INSERT INTO fleet.nonce_lanes (chain_id, address, kind, next_nonce)
            VALUES (:chain_id, :address, :kind, :nonce)
            ON CONFLICT (chain_id, address) DO UPDATE
            SET next_nonce = greatest(fleet.nonce_lanes.next_nonce, excluded.next_nonce)
            """
        ),
        {"chain_id": chain_id, "address": address, "kind": kind, "nonce": chain_nonce},
    )


def take_nonce(
    connection: Connection,
    *,
    chain_id: int,
    sender: str,
    purpose: Purpose,
    subject_id: UUID,
    recipient: str,
    value_wei: int,
    data: bytes = b"",
) -> LaneTransaction:
    """Transaction 1: take the lane's next nonce for one intent.

    Raises LaneBlocked while an earlier intent has no bytes, LookupError if the lane was never opened.
    """
    nonce = connection.execute(
        text("SELECT next_nonce FROM fleet.nonce_lanes WHERE chain_id = :chain_id AND address = :sender FOR UPDATE"),
        {"chain_id": chain_id, "sender": sender},
    ).scalar_one_or_none()
    if nonce is None:
        raise LookupError(f"no nonce lane for {sender} on chain {chain_id}")
    blocking = connection.execute(
        text(
            "SELECT id FROM fleet.chain_transactions "
            "WHERE chain_id = :chain_id AND sender = :sender AND state = 'intent' LIMIT 1"
        ),
        {"chain_id": chain_id, "sender": sender},
    ).scalar_one_or_none()
    if blocking is not None:
        raise LaneBlocked(f"lane {sender} on chain {chain_id}: intent {blocking} has no signed bytes yet")
    row = connection.execute(
        text(
            f"""
            INSERT INTO fleet.chain_transactions
                (chain_id, sender, nonce, purpose, subject_id, recipient, value_wei, data)
            VALUES (:chain_id, :sender, :nonce, :purpose, :subject_id, :recipient, :value_wei, :data)
            RETURNING {_COLUMNS}
            """  # noqa: S608 - the columns are the constant above
        ),
        {
            "chain_id": chain_id,
            "sender": sender,
            "nonce": nonce,
            "purpose": purpose,
            "subject_id": subject_id,
            "recipient": recipient,
            "value_wei": value_wei,
            "data": data,
        },
    ).one()
    connection.execute(
        text("UPDATE fleet.nonce_lanes SET next_nonce = :nonce WHERE chain_id = :chain_id AND address = :sender"),
        {"nonce": nonce + 1, "chain_id": chain_id, "sender": sender},
    )
    return _read(row)


def store_signed(
    connection: Connection,
    transaction_id: UUID,
    signed_bytes: bytes,
    transaction_hash: str,
    *,
    data: bytes | None = None,
) -> None:
    """Transaction 2: keep the bytes and their hash before anyone sends them. Every hash of a nonce is kept.

    ``data``: the call that was signed, where the intent may have been written anew meanwhile; nothing is kept of another.
    """
    connection.execute(
        text(
            """
            UPDATE fleet.chain_transactions
            SET signed_bytes = :raw, transaction_hash = :hash, hashes = array_append(hashes, :hash), state = 'signed'
            WHERE id = :id AND state = 'intent' AND (CAST(:data AS bytea) IS NULL OR data = :data)
            """
        ),
        {"id": transaction_id, "raw": signed_bytes, "hash": transaction_hash, "data": data},
    )


def add_signed(
    connection: Connection, transaction_id: UUID, signed_bytes: bytes, transaction_hash: str, *, to_send: bool
) -> None:
    """Keep one more signature of a nonce that has several (R1): its hash always, its bytes if they are to be sent now."""
    connection.execute(
        text(
            """
            UPDATE fleet.chain_transactions
            SET signed_bytes = CASE WHEN :send OR signed_bytes IS NULL THEN :raw ELSE signed_bytes END,
                transaction_hash = CASE WHEN :send OR signed_bytes IS NULL THEN :hash ELSE transaction_hash END,
                hashes = CASE WHEN :hash = ANY (hashes) THEN hashes ELSE array_append(hashes, :hash) END,
                state = CASE WHEN :send OR state = 'intent' THEN 'signed' ELSE state END
            WHERE id = :id AND state IN ('intent', 'signed', 'broadcast')
            """
        ),
        {"id": transaction_id, "raw": signed_bytes, "hash": transaction_hash, "send": to_send},
    )


def replace_signed(
    connection: Connection, transaction_id: UUID, data: bytes, signed_bytes: bytes, transaction_hash: str
) -> None:
    """Another call on the same nonce takes the place of one that is not mined; the hashes of both are kept (R1)."""
    connection.execute(
        text(
            """
            UPDATE fleet.chain_transactions
            SET data = :data, signed_bytes = :raw, transaction_hash = :hash, hashes = array_append(hashes, :hash),
                state = 'signed'
            WHERE id = :id AND state IN ('signed', 'broadcast')
            """
        ),
        {"id": transaction_id, "data": data, "raw": signed_bytes, "hash": transaction_hash},
    )


def mark_broadcast(connection: Connection, transaction_id: UUID) -> None:
    """A node has taken the bytes (or knew them already), now. Sending the same bytes again is harmless."""
    connection.execute(
        text(
            "UPDATE fleet.chain_transactions SET state = 'broadcast', broadcast_at = clock_timestamp() "
            "WHERE id = :id AND state IN ('signed', 'broadcast')"
        ),
        {"id": transaction_id},
    )


def mark_final(
    connection: Connection,
    transaction_id: UUID,
    *,
    block_number: int,
    block_hash: str,
    succeeded: bool,
    fee_wei: int,
    transaction_hash: str | None = None,
) -> bool:
    """The nonce was consumed by this transaction in a canonical block at depth. True if this call said so first.

    ``transaction_hash``: the mined one, where a nonce has several.
    """
    result = connection.execute(
        text(
            """
            UPDATE fleet.chain_transactions
            SET state = 'final', block_number = :number, block_hash = :hash, succeeded = :succeeded,
                fee_wei = :fee, final_at = clock_timestamp(), transaction_hash = coalesce(:mined, transaction_hash)
            WHERE id = :id AND state IN ('signed', 'broadcast')
            """
        ),
        {
            "id": transaction_id,
            "number": block_number,
            "hash": block_hash,
            "succeeded": succeeded,
            "fee": fee_wei,
            "mined": transaction_hash,
        },
    )
    return result.rowcount == 1


def transactions_of(connection: Connection, subject_id: UUID) -> list[LaneTransaction]:
    """Every transaction of one sweep job or release instruction, oldest first."""
    rows = connection.execute(
        text(f"SELECT {_COLUMNS} FROM fleet.chain_transactions WHERE subject_id = :id ORDER BY created_at, nonce"),  # noqa: S608
        {"id": subject_id},
    )
    return [_read(row) for row in rows]


def unfinished(connection: Connection, chain_id: int, sender: str) -> list[LaneTransaction]:
    """The lane's transactions that no canonical block at depth has ended, in nonce order."""
    rows = connection.execute(
        text(
            f"SELECT {_COLUMNS} FROM fleet.chain_transactions WHERE chain_id = :chain_id AND sender = :sender "  # noqa: S608
            "AND state IN ('intent', 'signed', 'broadcast') ORDER BY nonce"
        ),
        {"chain_id": chain_id, "sender": sender},
    )
    return [_read(row) for row in rows]

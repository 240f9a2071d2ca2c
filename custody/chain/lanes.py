"""Nonce lanes: one row a nonce, the signed bytes stored before they are sent (L15, design §6).

The order of work, so that no crash loses or doubles a nonce:
transaction 1 takes the nonce and stores the intent; then sign; transaction 2 stores bytes and hash; then broadcast.
A lane with an intent that has no bytes finishes that one first. A nonce has one intent: its own bytes, the same with
higher fees, and the cancel are its signatures (R1), of which each is kept and the mined one decides.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import Connection, text

LaneKind = Literal["gas_payer", "destination", "treasury", "release_payer"]
Purpose = Literal["top_up", "sweep", "release", "cancel"]
SignatureKind = Literal["intent", "bump", "cancel"]

SIGNATURES_LIMIT: Final = 48  # of one nonce: both fees have grown 250-fold by then


class LaneBlocked(Exception):
    """The lane takes no nonce now. The message says what must happen first."""


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
    hashes: tuple[str, ...] = ()
    """Of every signature of the nonce; the mined one decides."""
    cancels: frozenset[str] = frozenset()
    """Those of them that spend the nonce on nothing."""
    cancel_reason: str | None = None
    block_hash: str | None = None
    sent_block: int | None = None


_COLUMNS = (
    "id, chain_id, sender, nonce, purpose, subject_id, recipient, value_wei, data, state, signed_bytes, "
    "transaction_hash, hashes, cancel_reason, block_hash, sent_block, "
    "ARRAY(SELECT s.transaction_hash FROM fleet.nonce_signatures s WHERE s.transaction_id = chain_transactions.id "
    "AND s.kind = 'cancel') AS cancels"
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
        hashes=tuple(row.hashes),
        cancels=frozenset(row.cancels),
        cancel_reason=row.cancel_reason,
        block_hash=row.block_hash,
        sent_block=row.sent_block,
    )


def open_lane(connection: Connection, chain_id: int, address: str, kind: LaneKind, chain_nonce: int) -> None:
    """Make the lane if it is new, starting at ``chain_nonce`` (the node's latest transaction count).

    An existing lane is only ever raised, never lowered: the chain's count is a floor. A gas payer's is not even raised:
    nobody else should have sent from it, and people look first (custody/chain/lane_leases.py).
    """
    connection.execute(
        text(
            """
            INSERT INTO fleet.nonce_lanes (chain_id, address, kind, next_nonce)
            VALUES (:chain_id, :address, :kind, :nonce)
            ON CONFLICT (chain_id, address) DO UPDATE
            SET next_nonce = greatest(fleet.nonce_lanes.next_nonce, excluded.next_nonce)
            WHERE fleet.nonce_lanes.kind <> 'gas_payer'
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
    fence: int | None = None,
    in_flight_limit: int | None = None,
) -> LaneTransaction:
    """Transaction 1: take the lane's next nonce for one intent.

    ``fence``: the taker's lease; a gas payer's lane gives no nonce without it. ``in_flight_limit``: nonces of the lane that
    no block has been seen to hold. Raises LaneBlocked while an earlier intent has no bytes, the lane is full, frozen or
    another's; LookupError if the lane was never opened.
    """
    lane = connection.execute(
        text(
            "SELECT next_nonce, kind, fence, frozen_reason FROM fleet.nonce_lanes "
            "WHERE chain_id = :chain_id AND address = :sender FOR UPDATE"
        ),
        {"chain_id": chain_id, "sender": sender},
    ).one_or_none()
    if lane is None:
        raise LookupError(f"no nonce lane for {sender} on chain {chain_id}")
    if lane.frozen_reason is not None:
        raise LaneBlocked(f"lane {sender} on chain {chain_id} is frozen: {lane.frozen_reason}")
    if lane.kind == "gas_payer" and lane.fence != fence:
        raise LaneBlocked(f"lane {sender} on chain {chain_id} is another sender's now")
    nonce = lane.next_nonce
    if in_flight_limit is not None and in_flight(connection, chain_id, sender) >= in_flight_limit:
        raise LaneBlocked(f"lane {sender} on chain {chain_id}: {in_flight_limit} nonces are in flight, its limit")
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
    call: tuple[str, bytes] | None = None,
) -> None:
    """Transaction 2: keep the bytes and their hash before anyone sends them. Every hash of a nonce is kept.

    ``call``: the recipient and data that were signed, where the intent may have been written anew meanwhile; nothing is
    kept of another call.
    """
    recipient, data = (None, None) if call is None else call
    done = connection.execute(
        text(
            """
            UPDATE fleet.chain_transactions
            SET signed_bytes = :raw, transaction_hash = :hash, hashes = array_append(hashes, :hash), state = 'signed'
            WHERE id = :id AND state = 'intent' AND (
                CAST(:recipient AS text) IS NULL OR (recipient, data) = (:recipient, CAST(:data AS bytea)))
            """
        ),
        {"id": transaction_id, "raw": signed_bytes, "hash": transaction_hash, "recipient": recipient, "data": data},
    )
    if done.rowcount:
        _keep(connection, transaction_id, "intent", signed_bytes, transaction_hash)


def add_signed(
    connection: Connection,
    transaction_id: UUID,
    signed_bytes: bytes,
    transaction_hash: str,
    *,
    to_send: bool,
    kind: SignatureKind = "bump",
) -> None:
    """Keep one more signature of a nonce that has several (R1): its bytes and hash always; ``to_send`` makes it the one
    that is sent from now on.
    """
    done = connection.execute(
        text(
            """
            UPDATE fleet.chain_transactions
            SET signed_bytes = CASE WHEN :send OR signed_bytes IS NULL THEN :raw ELSE signed_bytes END,
                transaction_hash = CASE WHEN :send OR signed_bytes IS NULL THEN :hash ELSE transaction_hash END,
                hashes = CASE WHEN :hash = ANY (hashes) THEN hashes ELSE array_append(hashes, :hash) END,
                state = CASE WHEN :send OR state = 'intent' THEN 'signed' ELSE state END,
                sent_block = CASE WHEN :send THEN NULL ELSE sent_block END
            WHERE id = :id AND state IN ('intent', 'signed', 'broadcast')
            """
        ),
        {"id": transaction_id, "raw": signed_bytes, "hash": transaction_hash, "send": to_send},
    )
    if done.rowcount:
        _keep(connection, transaction_id, kind, signed_bytes, transaction_hash)


def replace_signed(
    connection: Connection, transaction_id: UUID, data: bytes, signed_bytes: bytes, transaction_hash: str
) -> None:
    """Another call on the same nonce takes the place of one that is not mined; the hashes of both are kept (R1)."""
    connection.execute(
        text("UPDATE fleet.chain_transactions SET data = :data WHERE id = :id AND state IN ('signed', 'broadcast')"),
        {"id": transaction_id, "data": data},
    )
    add_signed(connection, transaction_id, signed_bytes, transaction_hash, to_send=True)


def _keep(connection: Connection, transaction_id: UUID, kind: SignatureKind, raw: bytes, transaction_hash: str) -> None:
    connection.execute(
        text(
            """
            INSERT INTO fleet.nonce_signatures (transaction_id, place, kind, signed_bytes, transaction_hash)
            SELECT :id, coalesce(max(place) + 1, 0), :kind, :raw, :hash FROM fleet.nonce_signatures
            WHERE transaction_id = :id ON CONFLICT (transaction_hash) DO NOTHING
            """
        ),
        {"id": transaction_id, "kind": kind, "raw": raw, "hash": transaction_hash},
    )


def signatures_of(connection: Connection, transaction_id: UUID) -> list[bytes]:
    """Every signed transaction of a nonce, oldest first."""
    return [
        bytes(raw)
        for raw in connection.execute(
            text("SELECT signed_bytes FROM fleet.nonce_signatures WHERE transaction_id = :id ORDER BY place"),
            {"id": transaction_id},
        ).scalars()
    ]


def ask_cancel(connection: Connection, transaction_id: UUID, reason: str) -> None:
    """Say that the nonce is to be spent on nothing, because its intent became pointless or impossible (R1)."""
    connection.execute(
        text(
            "UPDATE fleet.chain_transactions SET cancel_reason = coalesce(cancel_reason, :reason) "
            "WHERE id = :id AND state IN ('intent', 'signed', 'broadcast')"
        ),
        {"id": transaction_id, "reason": reason[:500]},
    )


def mark_broadcast(connection: Connection, transaction_id: UUID, *, head: int | None = None) -> None:
    """A node has taken the bytes (or knew them already), now. Sending the same bytes again is harmless.

    ``head``: the newest block then; kept of the first time that these bytes were sent.
    """
    connection.execute(
        text(
            "UPDATE fleet.chain_transactions SET state = 'broadcast', broadcast_at = clock_timestamp(), "
            "sent_block = coalesce(sent_block, :head) WHERE id = :id AND state IN ('signed', 'broadcast')"
        ),
        {"id": transaction_id, "head": head},
    )


def mark_taken(connection: Connection, transaction_id: UUID, reason: str) -> None:
    """Somebody else's transaction spent the nonce, as an operator has confirmed: its intent was not done."""
    connection.execute(
        text(
            "UPDATE fleet.chain_transactions SET state = 'failed', last_error = :reason, final_at = clock_timestamp() "
            "WHERE id = :id AND state IN ('intent', 'signed', 'broadcast')"
        ),
        {"id": transaction_id, "reason": reason},
    )


def note_block(connection: Connection, transaction_id: UUID, block: tuple[int, str] | None) -> None:
    """The canonical block (number, hash) that was seen to hold the nonce, or that none does any more. Not final yet."""
    number, block_hash = block or (None, None)
    connection.execute(
        text(
            "UPDATE fleet.chain_transactions SET block_number = :number, block_hash = :hash "
            "WHERE id = :id AND state IN ('signed', 'broadcast') AND block_hash IS DISTINCT FROM :hash"
        ),
        {"id": transaction_id, "number": number, "hash": block_hash},
    )


def in_flight(connection: Connection, chain_id: int, sender: str) -> int:
    """The lane's nonces that no block has been seen to hold. Exact while the lane is locked."""
    return connection.execute(
        text(
            "SELECT count(*) FROM fleet.chain_transactions WHERE chain_id = :chain AND sender = :sender "
            "AND state IN ('intent', 'signed', 'broadcast') AND block_hash IS NULL"
        ),
        {"chain": chain_id, "sender": sender},
    ).scalar_one()


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

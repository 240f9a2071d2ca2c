"""Every transaction that was ever handed to a signer for one nonce (R1): the bytes, and what came back for them.

One nonce has one intent: its payout, the payout again with higher fees, or the cancel. All are kept, since a signature
of each may exist; the mined one decides. The instruction's own row holds its newest payout.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast
from uuid import UUID

from sqlalchemy import Connection, text

from custody.releases.payout import Call, call_of, read_stored
from custody.releases.rows import Instruction
from custody.trezor.transaction import UnsignedTransaction

DigestKind = Literal["payout", "cancel"]

DIGESTS_LIMIT: Final = 32  # of one nonce: fees have grown 38-fold by then, and each judged signature tries them all


@dataclass(frozen=True, slots=True)
class Digest:
    """One transaction of an instruction's nonce, in the order ``place`` of hand-out."""

    id: UUID
    instruction_id: UUID
    place: int
    kind: DigestKind
    unsigned_bytes: bytes
    signing_hash: bytes
    signed_bytes: bytes | None
    transaction_hash: str | None


class TooManyDigests(Exception):
    """The nonce was outbid DIGESTS_LIMIT times; people must look. The message says so."""


def cancel_call(instruction: Instruction) -> Call:
    """What a cancel does: the treasury sends itself nothing (R1)."""
    return Call(instruction.treasury, 0, b"")


def digests_of(connection: Connection, instruction_id: UUID) -> list[Digest]:
    """All of an instruction's nonce, the oldest first."""
    found = connection.execute(
        text(
            "SELECT id, instruction_id, place, kind, unsigned_bytes, signing_hash, signed_bytes, transaction_hash "
            "FROM fleet.nonce_digests WHERE instruction_id = :id ORDER BY place"
        ),
        {"id": instruction_id},
    )
    return [_read(row) for row in found]


def waiting(digests: Sequence[Digest]) -> Digest | None:
    """What waits to be signed: the newest one, while it has no signature. Older ones are outbid."""
    return digests[-1] if digests and digests[-1].signed_bytes is None else None


def newest_signed(digests: Sequence[Digest], kind: DigestKind) -> Digest | None:
    """The newest one of a kind that has a signature."""
    return next((each for each in reversed(digests) if each.kind == kind and each.signed_bytes is not None), None)


def keep(
    connection: Connection, instruction_id: UUID, kind: DigestKind, unsigned: UnsignedTransaction, *, place: int = 0
) -> None:
    """Store what is handed to the signer, in the transaction that hands it out. Raises TooManyDigests."""
    if place >= DIGESTS_LIMIT:
        raise TooManyDigests(
            f"too_many_digests: its nonce was outbid {DIGESTS_LIMIT} times; find out why nothing is mined."
        )
    connection.execute(
        text(
            """
            INSERT INTO fleet.nonce_digests
                (instruction_id, place, kind, unsigned_bytes, signing_hash, max_total_fee_wei)
            VALUES (:instruction, :place, :kind, :bytes, :hash, :fee)
            """
        ),
        {
            "instruction": instruction_id,
            "place": place,
            "kind": kind,
            "bytes": unsigned.signing_bytes(),
            "hash": unsigned.signing_hash(),
            "fee": unsigned.max_total_fee_wei,
        },
    )


def mark_signed(connection: Connection, digest_id: UUID, signed_bytes: bytes, transaction_hash: str) -> None:
    """Keep the signature's bytes and hash, before anyone sends them; a second signature changes nothing."""
    connection.execute(
        text(
            """
            UPDATE fleet.nonce_digests
            SET signed_bytes = :raw, transaction_hash = :hash, signed_at = clock_timestamp()
            WHERE id = :id AND signed_bytes IS NULL
            """
        ),
        {"id": digest_id, "raw": signed_bytes, "hash": transaction_hash},
    )


def transaction_of(instruction: Instruction, digest: Digest) -> UnsignedTransaction:
    """The stored bytes as a transaction of this instruction's intent (R19). Raises BytesDiffer, naming the field."""
    return read_stored(
        instruction,
        digest.unsigned_bytes,
        digest.signing_hash,
        cancel_call if digest.kind == "cancel" else call_of,
        what=f"unsigned bytes of {digest.kind} {digest.place}",
    )


def _read(row: Any) -> Digest:
    return Digest(
        id=row.id,
        instruction_id=row.instruction_id,
        place=row.place,
        kind=cast(DigestKind, row.kind),
        unsigned_bytes=bytes(row.unsigned_bytes),
        signing_hash=bytes(row.signing_hash),
        signed_bytes=None if row.signed_bytes is None else bytes(row.signed_bytes),
        transaction_hash=row.transaction_hash,
    )

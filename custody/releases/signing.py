"""What signers handed in, judged against our own stored bytes (R19).

A submission is only ever (y_parity, r, s) or a refusal. The signature is put into the stored unsigned bytes, so a
changed field cannot be expressed; it counts when it recovers to the treasury over one of the nonce's digests (R1).
"""

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, text

from custody.chain.lanes import add_signed, store_signed, transactions_of
from custody.releases import rows
from custody.releases.digests import Digest, digests_of, mark_signed, transaction_of, waiting
from custody.releases.payout import BytesDiffer, call_of, stored_transaction
from custody.releases.rows import Instruction
from custody.releases.safe_signing import OWNERS_SIGN, take_owner_signature
from custody.releases.safe_treasury import Safes, SafeTreasury, safe_of
from custody.releases.states import SIGNATURE_MAY_EXIST
from custody.safe import OwnerSignatureRefused
from custody.store.engine import transaction
from custody.store.work import bury
from custody.trezor.transaction import Signature, SignatureError, UnsignedTransaction

log = structlog.get_logger(__name__)

_CLAIM: Final = text(
    """
    SELECT id, instruction_id, kind, y_parity, r, s, reason FROM fleet.signature_submissions
    WHERE state = 'received' AND NOT EXISTS (   -- a Safe's owners are the genesis' to say: without one they wait
        SELECT FROM fleet.release_instructions i
        WHERE i.id = instruction_id AND i.unsigned_kind = 'safe_transaction'
          AND NOT i.chain_id || ':' || i.treasury = ANY (:safes))
    ORDER BY received_at, id LIMIT 1 FOR UPDATE SKIP LOCKED
    """
)
_JUDGED: Final = text("UPDATE fleet.signature_submissions SET state = :state, refused_reason = :reason WHERE id = :id")


class SubmissionRefused(Exception):
    """The submission does not count; the instruction stays as it is. The message is its refused_reason."""


def judge_submissions(engine: Engine, limit: int, safes: Safes | None = None) -> int:
    """Judge at most ``limit`` submissions, one transaction each, oldest first; how many were judged.

    ``safes``: the treasuries that are Safes.
    """
    for judged in range(limit):
        with transaction(engine) as connection:
            known = [f"{chain_id}:{address}" for chain_id, address in safes or {}]
            row = connection.execute(_CLAIM, {"safes": known}).one_or_none()
            if row is None:
                return judged
            _judge(connection, row, safes or {})
    return limit


def _judge(connection: Connection, row: Any, safes: Safes) -> None:
    instruction = rows.lock(connection, row.instruction_id)
    try:
        if row.kind == "rejection":
            _note_rejection(connection, instruction, row.reason or "no reason given")
        elif instruction.is_safe:
            _accept_owner(connection, instruction, row, safe_of(safes, instruction))
            return
        else:
            _accept(connection, instruction, row)
    except SubmissionRefused as error:
        connection.execute(_JUDGED, {"id": row.id, "state": "refused", "reason": str(error)})
        log.warning(
            "signature_refused",
            instruction_id=str(instruction.id),
            submission_id=str(row.id),
            reason=str(error),
        )
        return
    connection.execute(_JUDGED, {"id": row.id, "state": "accepted", "reason": None})


def _note_rejection(connection: Connection, instruction: Instruction, reason: str) -> None:
    waits = (
        instruction.state in OWNERS_SIGN
        if instruction.is_safe
        else instruction.state in SIGNATURE_MAY_EXIST and waiting(digests_of(connection, instruction.id)) is not None
    )
    if not waits:
        raise SubmissionRefused(f"not_handed_out: the instruction is {instruction.state}; nothing waits for a signer.")
    # R1: still handed out, since a signature may exist all the same.
    connection.execute(
        text(
            "UPDATE fleet.release_instructions SET rejected_reason = :reason, updated_at = clock_timestamp() "
            "WHERE id = :id"
        ),
        {"id": instruction.id, "reason": reason},
    )
    log.warning("release_rejected_by_signer", instruction_id=str(instruction.id), reason=reason)


def _accept(connection: Connection, instruction: Instruction, row: Any) -> None:
    digests = digests_of(connection, instruction.id)
    if instruction.state not in SIGNATURE_MAY_EXIST or (
        instruction.state in {"signed", "broadcast"} and waiting(digests) is None
    ):
        raise SubmissionRefused(f"not_handed_out: the instruction is {instruction.state}; it takes no signature.")
    try:
        signature = Signature(int(row.y_parity), int(row.r), int(row.s))
    except SignatureError as error:
        raise SubmissionRefused(f"malformed_signature: {error}.") from error
    digest, unsigned = _recover(connection, instruction, digests, signature)
    take_signature(connection, instruction, digests, digest, unsigned, signature)


def take_signature(
    connection: Connection,
    instruction: Instruction,
    digests: Sequence[Digest],
    digest: Digest,
    unsigned: UnsignedTransaction,
    signature: Signature,
) -> None:
    """Keep a signature that recovers to the treasury over one of the nonce's digests, and what follows from it.

    The caller holds the instruction's lock. While it is being cancelled, a payout's signature is kept and not sent.
    Raises SubmissionRefused when the nonce lane holds another intent.
    """
    raw, transaction_hash = unsigned.signed_raw(signature), unsigned.transaction_hash(signature)
    lane = _lane_of(connection, instruction, unsigned)
    mark_signed(connection, digest.id, raw, transaction_hash)
    if instruction.state == "handed_out":
        store_signed(connection, lane, raw, transaction_hash)
        rows.move(connection, instruction, "signed", rejected_reason=None, signed_at=rows.now(connection))
    else:
        newer = any(each.place > digest.place and each.signed_bytes is not None for each in digests)
        is_wanted = (digest.kind == "cancel") == (instruction.state == "cancelling")
        kind = "cancel" if digest.kind == "cancel" else "bump"
        add_signed(connection, lane, raw, transaction_hash, to_send=is_wanted and not newer, kind=kind)
        rows.due_now(connection, instruction.id)
    log.info(
        "release_signed",
        payment_id=instruction.named,
        instruction_id=str(instruction.id),
        transaction_hash=transaction_hash,
        what=digest.kind,
    )


def _accept_owner(connection: Connection, instruction: Instruction, row: Any, safe: SafeTreasury | None) -> None:
    if instruction.state not in OWNERS_SIGN:
        raise SubmissionRefused(f"not_handed_out: the instruction is {instruction.state}; it takes no signature.")
    if safe is None:
        raise SubmissionRefused("safe_not_pinned: no signed genesis names this Safe's owners.")
    try:
        take_owner_signature(connection, instruction, row, safe.pinned)
    except BytesDiffer as error:
        _alarm(connection, instruction, str(error))
        raise SubmissionRefused(f"stored_bytes_differ: {error}; an operator must look at this instruction.") from error
    except OwnerSignatureRefused as error:
        raise SubmissionRefused(str(error)) from error


def whose(
    instruction: Instruction, digests: Sequence[Digest], signature: Signature
) -> tuple[Digest, UnsignedTransaction] | None:
    """The digest of the nonce over which the signature is the treasury's, the newest first. Raises BytesDiffer."""
    for digest in reversed(digests):
        unsigned = transaction_of(instruction, digest)
        try:
            if unsigned.recover(signature) == instruction.treasury:
                return digest, unsigned
        except SignatureError:
            continue
    return None


def _recover(
    connection: Connection, instruction: Instruction, digests: Sequence[Digest], signature: Signature
) -> tuple[Digest, UnsignedTransaction]:
    try:
        current = stored_transaction(instruction).signing_bytes()
        payouts = [each.unsigned_bytes for each in digests if each.kind == "payout"]
        if not payouts or payouts[-1] != current:
            raise BytesDiffer("unsigned bytes are not those that were handed out last")
        found = whose(instruction, digests, signature)
        asked = transaction_of(instruction, digests[-1])
    except BytesDiffer as error:
        _alarm(connection, instruction, str(error))
        raise SubmissionRefused(f"stored_bytes_differ: {error}; an operator must look at this instruction.") from error
    if found is not None:
        return found
    try:
        signer = asked.recover(signature)
    except SignatureError as error:
        raise SubmissionRefused(f"malformed_signature: {error}.") from error
    raise SubmissionRefused(
        f"wrong_signer: over these bytes it recovers to {signer}, not to the treasury {instruction.treasury}."
    )


def _lane_of(connection: Connection, instruction: Instruction, unsigned: UnsignedTransaction) -> UUID:
    """The lane's row of this nonce, which must be the instruction's intent (R1: one intent a nonce)."""
    wanted = call_of(instruction)
    for lane in transactions_of(connection, instruction.id):
        if lane.nonce == unsigned.nonce and lane.state in {"intent", "signed", "broadcast"}:
            if (lane.recipient, lane.value_wei, lane.data) != (wanted.to, wanted.value, wanted.data):
                _alarm(connection, instruction, "the nonce lane holds another intent")
                raise SubmissionRefused("stored_bytes_differ: the nonce lane holds another intent.")
            return lane.id
    raise SubmissionRefused("no_intent: the nonce lane has no open intent for this instruction.")


def _alarm(connection: Connection, instruction: Instruction, reason: str) -> None:
    log.error("release_bytes_differ", instruction_id=str(instruction.id), reason=reason)
    bury(
        connection,
        queue="releases",
        subject_kind="release_instruction",
        subject_id=instruction.id,
        payment_id=instruction.payment_id,
        reason=f"stored_bytes_differ: {reason}",
        unblocks="find out who changed the row; no signature over it is taken",
        attempts=1,
    )

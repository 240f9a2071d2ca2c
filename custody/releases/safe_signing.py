"""What a Safe's owners handed in, judged against our own stored SafeTx until enough of them signed (R16, R19).

A submission is (y_parity, r, s): v is 27 + y_parity, so no other kind of Safe signature can be expressed.
"""

from typing import Any, Final

import structlog
from sqlalchemy import Connection, text

from custody.policy.genesis import Treasury
from custody.releases import rows
from custody.releases.payout import BytesDiffer
from custody.releases.rows import Instruction
from custody.releases.safe_treasury import asked_of_owners
from custody.releases.states import InstructionState
from custody.safe import OwnerSignature, OwnerSignatureRefused
from custody.safe.signatures import owner_of
from custody.trezor.transaction import Signature, SignatureError

log = structlog.get_logger(__name__)

OWNERS_SIGN: Final = frozenset[InstructionState]({"handed_out", "cancelling"})
"""Owners sign the payout, or its rejection, in these; once enough of them have, no more are asked."""

_SIGNED: Final = text(
    """
    SELECT signer, y_parity, r, s FROM fleet.signature_submissions
    WHERE instruction_id = :id AND digest = :digest AND signer IS NOT NULL ORDER BY received_at, id
    """
)
_ACCEPT: Final = text(
    "UPDATE fleet.signature_submissions SET state = 'accepted', signer = :signer, digest = :digest WHERE id = :id"
)


def take_owner_signature(connection: Connection, instruction: Instruction, row: Any, pinned: Treasury) -> int:
    """Accept the submission ``row`` of one owner; how many have signed now. With the threshold a payout is ``signed``.

    The caller holds the instruction's lock. Raises BytesDiffer, OwnerSignatureRefused.
    """
    asked = asked_of_owners(instruction)
    if pinned.threshold is None or pinned.address != instruction.treasury:
        raise BytesDiffer("the genesis pins another Safe than the instruction's treasury")
    digest = asked.hash()
    try:
        signature = Signature(int(row.y_parity), int(row.r), int(row.s))
    except SignatureError as error:
        raise OwnerSignatureRefused(f"malformed_signature: {error}.") from error
    found = owner_of(digest, signature, pinned.owners)
    before = owner_signatures(connection, instruction, digest)
    if any(each.owner == found.owner for each in before):
        raise OwnerSignatureRefused(f"signed_twice: owner {found.owner} has signed already; another owner must.")
    connection.execute(_ACCEPT, {"id": row.id, "signer": found.owner, "digest": digest})
    count = len(before) + 1
    log.info(
        "safe_owner_signed",
        instruction_id=str(instruction.id),
        owner=found.owner,
        signed=count,
        needed=pinned.threshold,
    )
    if count >= pinned.threshold and not asked.is_rejection:
        rows.move(connection, instruction, "signed", rejected_reason=None, signed_at=rows.now(connection))
    elif asked.is_rejection:
        rows.due_now(connection, instruction.id)
    return count


def owner_signatures(connection: Connection, instruction: Instruction, digest: bytes) -> list[OwnerSignature]:
    """The accepted signatures over one SafeTx hash, in the order in which they came. Raises SignatureError."""
    return [
        OwnerSignature(row.signer, Signature(int(row.y_parity), int(row.r), int(row.s)))
        for row in connection.execute(_SIGNED, {"id": instruction.id, "digest": digest})
    ]

"""Ending a Safe's payout before it is executed: its owners sign the rejection, which spends the nonce on nothing (R1, R16).

The payout's signatures may be about all the same: whichever of the two is executed first decides, and finality reads it.
A dispute does not stop a rejection, and no approval is asked: nothing leaves the Safe.
"""

from typing import Final

import structlog
from sqlalchemy import Connection, Engine, text

from custody.chain import ChainUnavailable, SendRefused, WrongChain
from custody.chain.lanes import mark_broadcast
from custody.chain.nodes import ChainNodes
from custody.releases import rows
from custody.releases.requests import why_cancelled
from custody.releases.rows import Instruction
from custody.releases.safe_execution import execution_to_send
from custody.releases.safe_signing import owner_signatures
from custody.releases.safe_treasury import Safes, SafeStopped, SafeTreasury, safe_of
from custody.store.engine import transaction

log = structlog.get_logger(__name__)

_SIGNED: Final = text(
    "UPDATE fleet.release_instructions "
    "SET rejection_signed_at = CASE WHEN :is_enough THEN coalesce(rejection_signed_at, now()) END "
    "WHERE id = :id AND (rejection_signed_at IS NULL) = :is_enough"
)
_DUE: Final = "w.chain_id = :chain AND w.state = 'cancelling' AND w.unsigned_kind = 'safe_transaction'"


def begin_rejection(connection: Connection, instruction: Instruction) -> Instruction:
    """Ask a Safe's owners for the rejection of what they were handed; the caller holds the lock. Raises MoveRefused.

    An owner's refusal of the payout is no refusal of its rejection, so it is forgotten.
    """
    rows.move(connection, instruction, "cancelling", rejected_reason=None)
    log.info("safe_rejection_asked", instruction_id=str(instruction.id), safe_nonce=instruction.nonce)
    return rows.lock(connection, instruction.id)


def send_rejections(engine: Engine, nodes: ChainNodes, safes: Safes, limit: int) -> int:
    """Execute at most ``limit`` rejections that enough owners signed; how many were sent. Others wait with a reason."""
    with transaction(engine) as connection:
        leased = rows.lease(connection, _DUE, {"chain": nodes.chain.id}, limit)
    sent = 0
    for instruction in leased:
        safe = safe_of(safes, instruction)
        try:
            _require_owners(engine, safe, instruction)
            lane = execution_to_send(engine, nodes, safe, instruction)
            if lane is None:
                reason = "safe_nonce_spent: what the Safe executed on it is looked up once it is deep enough."
            else:
                assert lane.signed_bytes is not None
                nodes.require_identity()
                nodes.send(lane.signed_bytes)
                with transaction(engine) as connection:
                    mark_broadcast(connection, lane.id)
                sent += lane.state != "broadcast"
                reason = (
                    f"rejection_sent: {lane.transaction_hash} spends nonce {instruction.nonce} of the Safe on nothing."
                )
        except (SafeStopped, SendRefused) as error:
            reason = str(error)
        except (ChainUnavailable, WrongChain) as error:
            reason = f"chain_unavailable: {error}"
        with transaction(engine) as connection:
            rows.hold(connection, instruction, reason)
    return sent


def _require_owners(engine: Engine, safe: SafeTreasury | None, instruction: Instruction) -> None:
    """Raise SafeStopped, saying who is waited for, while too few owners have signed the rejection."""
    if safe is None:
        return  # which execution_to_send says
    needed = safe.pinned.threshold or 0
    with transaction(engine) as connection:
        signed = len(owner_signatures(connection, instruction, instruction.rejection_hash or b""))
        why = why_cancelled(connection, instruction.id)
        connection.execute(_SIGNED, {"id": instruction.id, "is_enough": signed >= needed})
    if signed < needed:
        raise SafeStopped(
            f"waits_for_cancel: {signed} of {needed} owners have signed the rejection of nonce {instruction.nonce} of the "
            f"Safe (fleet signer sign {instruction.id}); until that nonce is spent the payout may still be executed (R1). "
            f"It is {why}."
        )

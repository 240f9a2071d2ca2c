"""Handing out a payout of a Safe: the Safe is read at one block, its next nonce is taken, the SafeTx is stored (R1, R16).

The nonce is the Safe's own: one intent a nonce, and none is handed out beside another. Gas is the release payer's.
"""

from typing import Any, Final

from sqlalchemy import Connection, text

from custody.chain import CallRequest, ExecutionReverted
from custody.chain.nodes import ChainNodes
from custody.releases import rows
from custody.releases.rows import Instruction
from custody.releases.safe_treasury import SafeStopped, SafeTreasury, payout_of, require_pinned
from custody.safe import SafeState, SafeTransactionError

_NEXT_NONCE: Final = text(
    """
    SELECT coalesce(max(nonce) + 1, 0) FROM fleet.release_instructions
    WHERE chain_id = :chain AND treasury = :safe AND unsigned_kind = 'safe_transaction'
    """
)


def ask_safe(nodes: ChainNodes, instruction: Instruction, safe: SafeTreasury | None) -> SafeState:
    """The Safe as the genesis pins it, read at one block, and the chain's word that the payout would go through.

    Raises SafeStopped, ChainUnavailable, WrongChain.
    """
    if safe is None or safe.pinned.address != instruction.treasury:
        raise SafeStopped(
            f"safe_not_pinned: the chains file says that {instruction.treasury} is a Safe, and no signed genesis pins it; "
            "sign one: fleet genesis init."
        )
    state = require_pinned(nodes, safe)
    try:
        payout = payout_of(instruction, state.nonce)
    except SafeTransactionError as error:
        raise SafeStopped(f"recipient_refused: {error}") from error
    request = CallRequest(to=payout.to, data=payout.data, value=payout.value, sender=instruction.treasury)
    try:
        nodes.any(lambda client: client.estimate_gas(request))
    except ExecutionReverted as error:
        raise SafeStopped(
            f"would_revert: the chain refuses this payout now ({error.reason}); check the Safe's balance and whether the "
            "token blocks Safe or seller."
        ) from error
    return state


def safe_columns(
    connection: Connection, instruction: Instruction, state: SafeState, ceiling_wei: int
) -> dict[str, Any]:
    """The Safe's next nonce, and the SafeTx on it, as an instruction that is handed out keeps them.

    ``ceiling_wei`` bounds the execution's whole fee. Raises SafeStopped.
    """
    given = {"chain": instruction.chain_id, "safe": instruction.treasury}
    nonce = max(state.nonce, connection.execute(_NEXT_NONCE, given).scalar_one())
    try:
        payout = payout_of(instruction, nonce)
    except SafeTransactionError as error:
        raise SafeStopped(f"recipient_refused: {error}") from error
    return {
        "unsigned_kind": rows.SAFE_TRANSACTION,
        "nonce": nonce,
        "unsigned_bytes": payout.stored_bytes(),
        "signing_hash": payout.hash(),
        "rejection_hash": payout.rejection().hash(),
        "max_total_fee_wei": ceiling_wei,
        "safe_block": state.block_number,
        "safe_block_nonce": state.nonce,
    }

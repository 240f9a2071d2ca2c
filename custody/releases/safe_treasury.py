"""A Safe as the treasury of a chain: what is pinned of it, and the look at it before anything is handed out or sent (R16)."""

from collections.abc import Mapping
from dataclasses import dataclass

from custody.chain.nodes import ChainNodes
from custody.policy import Genesis
from custody.policy.genesis import Treasury
from custody.releases.payout import BytesDiffer, call_of
from custody.releases.rows import Instruction
from custody.safe import (
    NotASafe,
    ReleasePayer,
    SafeState,
    SafeTransaction,
    SafeTransactionError,
    read_safe,
    safe_differences,
)
from custody.trezor.transaction import TransactionError


class SafeStopped(Exception):
    """The instruction waits because of its Safe; the message is its held_reason."""


@dataclass(frozen=True, slots=True)
class SafeTreasury:
    """One chain's Safe as the genesis pins it, and the key that pays for its executions (None: none is configured)."""

    pinned: Treasury
    payer: ReleasePayer | None


Safes = Mapping[tuple[int, str], SafeTreasury]
"""By chain id and the Safe's address: while a treasury is drained, a chain has two (R22)."""


def safes_of(genesis: Genesis, payer: ReleasePayer | None) -> Safes:
    """The Safes that a verified genesis pins, those of before a rotation too."""
    return {
        (chain.id, each.address): SafeTreasury(each, payer)
        for chain in genesis.chains
        for each in chain.treasuries
        if each.kind == "safe"
    }


def safe_of(safes: Safes, instruction: Instruction) -> SafeTreasury | None:
    """The Safe that an instruction pays from, None where its treasury is no Safe, or none that is pinned."""
    return safes.get((instruction.chain_id, instruction.treasury))


def require_pinned(nodes: ChainNodes, safe: SafeTreasury) -> SafeState:
    """The Safe at one block, the same in everything that is pinned. Raises SafeStopped naming each difference."""
    try:
        found = read_safe(nodes, safe.pinned.address)
    except NotASafe as error:
        raise SafeStopped(f"safe_differs: {error}; nothing is signed or sent for it (R16).") from error
    if sentences := safe_differences(found, safe.pinned):
        raise SafeStopped(
            f"safe_differs: at block {found.block_number} {'; '.join(sentences)}. Nothing is signed or sent until it is "
            "as the genesis pins it, or a new genesis is signed (R16)."
        )
    return found


def payout_of(instruction: Instruction, nonce: int) -> SafeTransaction:
    """The SafeTx that pays an instruction: direct, without value for a token (R16). Raises SafeTransactionError."""
    try:
        call = call_of(instruction)
    except TransactionError as error:
        raise SafeTransactionError("recipient", str(error)) from None
    return SafeTransaction(instruction.chain_id, instruction.treasury, call.to, call.value, call.data, nonce)


def asked_of_owners(instruction: Instruction) -> SafeTransaction:
    """What the Safe's owners sign now: the payout, or its rejection while it is cancelled (R1). Raises BytesDiffer."""
    payout = stored_payout(instruction)
    if instruction.state != "cancelling":
        return payout
    rejection = payout.rejection()
    if rejection.hash() != instruction.rejection_hash:
        raise BytesDiffer("unsigned bytes: the rejection's hash is not the instruction's")
    return rejection


def stored_payout(instruction: Instruction) -> SafeTransaction:
    """The instruction's stored SafeTx, which must be the one it describes (R19). Raises BytesDiffer."""
    if not instruction.is_safe or instruction.unsigned_bytes is None or instruction.nonce is None:
        raise BytesDiffer("unsigned bytes of a SafeTx are missing")
    try:
        stored = SafeTransaction.from_stored_bytes(instruction.unsigned_bytes)
        expected = payout_of(instruction, instruction.nonce)
    except SafeTransactionError as error:
        raise BytesDiffer(f"unsigned bytes: {error}") from error
    for field in ("chain_id", "safe", "to", "value", "data", "nonce"):
        if getattr(stored, field) != getattr(expected, field):
            raise BytesDiffer(f"unsigned bytes: {field} is not the instruction's")
    if stored.hash() != instruction.signing_hash:
        raise BytesDiffer("unsigned bytes: signing hash is not the instruction's")
    return stored

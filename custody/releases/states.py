"""The states of a release instruction and every legal move between them (R1): one table.

From ``handed_out`` on a signature is assumed to exist, whatever the database says: only a canonical transaction
on the instruction's nonce, at depth, ends it (its own, a cancel, or a foreign one: L19).
"""

from types import MappingProxyType
from typing import Final, Literal, get_args

InstructionState = Literal[
    "drafted",
    "awaiting_approval",
    "ready",
    "handed_out",
    "signed",
    "broadcast",
    "final",
    "cancelling",
    "cancelled",
    "expired",
    "failed",
]

STATES: Final[tuple[InstructionState, ...]] = get_args(InstructionState)

MOVES: Final = MappingProxyType[InstructionState, frozenset[InstructionState]](
    {
        "drafted": frozenset({"awaiting_approval", "expired"}),
        "awaiting_approval": frozenset({"ready", "expired"}),
        # Back to approval when what was judged has changed (R12); expired while no bytes have left the fleet.
        "ready": frozenset({"awaiting_approval", "handed_out", "expired"}),
        "handed_out": frozenset({"signed", "cancelling", "final", "failed"}),
        "signed": frozenset({"broadcast", "cancelling", "final", "failed"}),
        "broadcast": frozenset({"cancelling", "final", "failed"}),
        # Both transactions of the nonce exist now; the mined one decides.
        "cancelling": frozenset({"cancelled", "final", "failed"}),
        "final": frozenset(),
        "cancelled": frozenset(),
        "expired": frozenset(),
        "failed": frozenset(),
    }
)

ENDED: Final = frozenset[InstructionState](state for state in STATES if not MOVES[state])
"""No move leaves these."""

SIGNATURE_MAY_EXIST: Final = frozenset[InstructionState]({"handed_out", "signed", "broadcast", "cancelling"})
"""The unsigned bytes have left the fleet and their nonce is not spent yet (R1)."""


class MoveRefused(Exception):
    """The instruction may not move so, or another process moved it first. The message says which moves are legal."""


def require_move(source: InstructionState, target: InstructionState) -> None:
    """Raise MoveRefused unless the table has ``source`` -> ``target``."""
    if target not in MOVES[source]:
        legal = ", ".join(state for state in STATES if state in MOVES[source]) or "none, it has ended"
        raise MoveRefused(f"an instruction that is {source} cannot become {target}; legal: {legal}")

"""Releases: from a funded, swept payment to a seller paid by a transaction that a treasury device signed.

R1, R9, R12, R14, R17 and R19 shape it; ``step.build(settings).run_once(limit)`` is what the worker runs.
"""

from custody.releases.gate import Gate, ReleaseStopped, Stop, release_gate
from custody.releases.instructions import draft_release
from custody.releases.rows import Instruction
from custody.releases.sources import Sources, SourceUnreadable
from custody.releases.states import MOVES, STATES, InstructionState, MoveRefused
from custody.releases.step import Step, build, run_once

__all__ = [
    "MOVES",
    "STATES",
    "Gate",
    "Instruction",
    "InstructionState",
    "MoveRefused",
    "ReleaseStopped",
    "SourceUnreadable",
    "Sources",
    "Step",
    "Stop",
    "build",
    "draft_release",
    "release_gate",
    "run_once",
]

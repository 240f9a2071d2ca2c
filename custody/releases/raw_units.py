"""Payouts whose amount is read in smallest units, because the device cannot name their token (R2).

The mark is part of what approvers agree to: an instruction that gets it is put before them again, and one more of them
must agree. A device that cuts the amount at the screen's edge (a One) signs it all the same never.
"""

from typing import Literal

from sqlalchemy import Connection, text

from custody.chain.assets import NATIVE
from custody.releases.rows import Instruction


def mark_raw_units(connection: Connection, instruction: Instruction) -> tuple[Literal["done", "refused"], str]:
    """Mark an instruction that no approver's signature binds yet; what came of it. The caller holds the lock."""
    if instruction.token == NATIVE:
        return "refused", "every device names a chain's own coin; smallest units are for tokens."
    if instruction.is_safe:
        return "refused", "a Safe's owners see every field of it anyway."
    if instruction.raw_units:
        return "done", "it is marked already."
    if instruction.state not in ("drafted", "awaiting_approval"):
        return "refused", (
            f"it is {instruction.state}: its approvers agreed to an amount in whole tokens. Cancel it, and mark the next "
            "one before it is approved."
        )
    connection.execute(
        text(
            "UPDATE fleet.release_instructions SET raw_units = true, run_after = clock_timestamp(), "
            "updated_at = clock_timestamp() WHERE id = :id AND state IN ('drafted', 'awaiting_approval')"
        ),
        {"id": instruction.id},
    )
    return "done", "the device will show smallest units: it is put before the approvers again, and one more must agree."

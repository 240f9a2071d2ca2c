"""The double-entry ledger over ``funds_ledger_entries`` (design §4, ledger-rules.md)."""

from custody.ledger.batches import Outcome, post_batch
from custody.ledger.entries import (
    BATCH_MAXIMUM,
    BookTooSmall,
    DisputeOpen,
    Entry,
    EntryMalformed,
    KeyUsedForOtherContent,
    LedgerRefusal,
    MovementNotAllowed,
    Posted,
    post,
    post_together,
)

__all__ = [
    "BATCH_MAXIMUM",
    "BookTooSmall",
    "DisputeOpen",
    "Entry",
    "EntryMalformed",
    "KeyUsedForOtherContent",
    "LedgerRefusal",
    "MovementNotAllowed",
    "Outcome",
    "Posted",
    "post",
    "post_batch",
    "post_together",
]

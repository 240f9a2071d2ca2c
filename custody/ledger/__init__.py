"""The double-entry ledger over ``funds_ledger_entries`` (design §4, ledger-rules.md)."""

from custody.ledger.entries import (
    BookTooSmall,
    DisputeOpen,
    Entry,
    EntryMalformed,
    KeyUsedForOtherContent,
    LedgerRefusal,
    MovementNotAllowed,
    Posted,
    post,
)

__all__ = [
    "BookTooSmall",
    "DisputeOpen",
    "Entry",
    "EntryMalformed",
    "KeyUsedForOtherContent",
    "LedgerRefusal",
    "MovementNotAllowed",
    "Posted",
    "post",
]

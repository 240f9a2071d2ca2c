"""A Safe as treasury (R16): what is pinned of it, the one shape of transaction it executes, its owners' signatures.

Contract sources: Safe 1.3.0 and 1.4.1. Hashes and signatures by EIP-712.
"""

from custody.safe.payer import PayerRefused, ReleasePayer
from custody.safe.pins import pins_of, safe_differences
from custody.safe.reading import NotASafe, SafeState, read_safe
from custody.safe.signatures import OwnerSignature, OwnerSignatureRefused, pack_signatures, read_owner_signature
from custody.safe.transaction import SafeTransaction, SafeTransactionError

__all__ = [
    "NotASafe",
    "OwnerSignature",
    "OwnerSignatureRefused",
    "PayerRefused",
    "ReleasePayer",
    "SafeState",
    "SafeTransaction",
    "SafeTransactionError",
    "pack_signatures",
    "pins_of",
    "read_owner_signature",
    "read_safe",
    "safe_differences",
]

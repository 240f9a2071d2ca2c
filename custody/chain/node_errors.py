"""What nodes say when they refuse a transaction, in one table.

JSON-RPC gives no error codes for it, only words, and each client has its own. Words read in the sources of
go-ethereum (also BNB's and Polygon's forks, op-geth, Nitro), Erigon, Nethermind, Besu, Reth and Anvil.
"""

import re
from types import MappingProxyType
from typing import Final

from custody.chain.errors import (
    AlreadyKnown,
    InsufficientFunds,
    NonceTooLow,
    Rejected,
    ReplacementUnderpriced,
    SendRefused,
)

# Looked up in this order, in lower case, as parts of the node's message. A phrase that is part of another
# one's message comes after it.
PHRASES: Final = MappingProxyType(
    {
        "already known": AlreadyKnown,  # geth, Reth, Erigon
        "alreadyknown": AlreadyKnown,  # Nethermind
        "already_exists": AlreadyKnown,  # Erigon's pool
        "known transaction": AlreadyKnown,  # Besu, older geth
        "transaction already imported": AlreadyKnown,  # Anvil
        "already in mempool": AlreadyKnown,
        "replacement transaction underpriced": ReplacementUnderpriced,  # geth, Reth, Anvil
        "replacement_underpriced": ReplacementUnderpriced,
        "could not replace existing tx": ReplacementUnderpriced,  # Erigon
        "replacementnotallowed": ReplacementUnderpriced,  # Nethermind
        "nonce too low": NonceTooLow,  # geth, Reth, Anvil, Besu
        "nonce_too_low": NonceTooLow,  # Besu's reason code
        "nonce is too low": NonceTooLow,
        "oldnonce": NonceTooLow,  # Nethermind
        "insufficient funds": InsufficientFunds,  # geth, Reth, Anvil, Erigon
        "insufficientfunds": InsufficientFunds,  # Nethermind
        "upfront cost exceeds account balance": InsufficientFunds,  # Besu
        "upfront_cost_exceeds_balance": InsufficientFunds,  # Besu's reason code
    }
)


def classify(words: str) -> type[SendRefused]:
    """Return the class of a node's refusal; Rejected when its words are not in the table."""
    said = words.lower()
    for phrase, kind in PHRASES.items():
        # At the start of a word only: "unknown transaction type" is no known transaction.
        if re.search(rf"(?<![a-z]){re.escape(phrase)}", said):
            return kind
    return Rejected

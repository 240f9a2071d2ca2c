"""Custody: the money's rules, one room a subject. Whoever imports a room counts in exact decimals from then on."""

import decimal
from typing import Final

EXACT_DIGITS: Final = (
    160  # a whole uint256 (78 digits) times a fraction of as many; Python's own 28 round numeric(38,18)
)

# Each thread takes its context from DefaultContext; this one has its own already.
decimal.DefaultContext.prec = EXACT_DIGITS
decimal.getcontext().prec = EXACT_DIGITS

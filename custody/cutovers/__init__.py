"""Which store decides of a domain, MongoDB or Postgres, and cutting one over (design §3, R10)."""

from custody.cutovers.proposing import KIND, execute_cutover, propose_cutover
from custody.cutovers.standing import CollectionStanding, DomainStanding, standing_of
from custody.cutovers.stores import DOMAINS, Domain, cut_over_to, is_cut_over, require_beginnings, say_beginnings

__all__ = [
    "DOMAINS",
    "KIND",
    "CollectionStanding",
    "Domain",
    "DomainStanding",
    "cut_over_to",
    "execute_cutover",
    "is_cut_over",
    "propose_cutover",
    "require_beginnings",
    "say_beginnings",
    "standing_of",
]

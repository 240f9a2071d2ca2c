"""Whose domain an RPC URL's host is in: two nodes of one provider are one voice (R17)."""

from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

# Second-level names under which a country's registry sells names: the owner's own is one label further left. A name that
# is missing here merges two owners into one, which refuses a file that is good, and never lets a bad one pass unless the
# registry's own rule is rarer than these.
_REGISTRY_LABELS: Final = frozenset({"ac", "co", "com", "edu", "gob", "gov", "net", "ne", "or", "org"})
_COUNTRY_LETTERS: Final = 2


def domain_of(url: str) -> str:
    """The registrable domain of a URL's host, in lower case; of an address or a single label, the host itself.

    ``url`` is checked already: it has a host. "rpc-1.eu.example.com" and "rpc.example.com" are one, "example.co.uk" and
    "other.co.uk" are two.
    """
    host = (urlsplit(url).hostname or "").rstrip(".").lower()
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    labels = host.split(".")
    is_below_registry = len(labels[-1]) == _COUNTRY_LETTERS and len(labels) > 1 and labels[-2] in _REGISTRY_LABELS
    return ".".join(labels[-3:] if is_below_registry else labels[-2:])

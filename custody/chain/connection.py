"""How to reach one chain, with every limit named.

The URL is a secret: providers put their key in it.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from custody.settings.chains import Chain

DEFAULT_CONNECT_TIMEOUT: Final = 3.0
DEFAULT_TIMEOUT: Final = 10.0
DEFAULT_MAX_BODY: Final = 16 * 1024 * 1024
DEFAULT_READ_ATTEMPTS: Final = 3
DEFAULT_MAX_BATCH: Final = 100
URLS_KEPT: Final = 256  # whose secrets are worked out once: several nodes of each of 32 chains


@dataclass(frozen=True, slots=True)
class ChainConnection:
    """One RPC endpoint of one chain (R17).

    - `url`: http or https; never shown, `masked_url` is.
    - `genesis_hash`: block 0's hash, pinned together with the id; None only before it was pinned.
    - `connect_timeout`, `timeout`: seconds. The whole answer has to arrive within `timeout`: a node that
      drips bytes would hold a worker for ever.
    - `max_body`: bytes of one answer. A full block's receipts are some MiB; more is refused unread.
    - `read_attempts`: tries of a read. Sends are never repeated here, the caller knows what it sent.
    - `max_batch`: calls in one batched request; most providers cap between 100 and 1000.

    Raises ValueError for a URL that is not http(s) with a host, or a limit below its least.
    """

    chain_id: int
    url: str = field(repr=False)
    genesis_hash: str | None = None
    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT
    timeout: float = DEFAULT_TIMEOUT
    max_body: int = DEFAULT_MAX_BODY
    read_attempts: int = DEFAULT_READ_ATTEMPTS
    max_batch: int = DEFAULT_MAX_BATCH

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"RPC URL of chain {self.chain_id}: expected http:// or https:// with a host")
        for name in ("connect_timeout", "timeout", "max_body", "read_attempts", "max_batch"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} of chain {self.chain_id}: expected more than 0")

    @property
    def masked_url(self) -> str:
        """The URL with everything left out that may be a key: user, password, path and query."""
        parts = urlsplit(self.url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        port = f":{parts.port}" if parts.port else ""
        hidden = "/…" if parts.path.strip("/") or parts.query or parts.username or parts.password else ""
        return f"{parts.scheme}://{host}{port}{hidden}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The parts of the URL that may be a key, longest first, for `redact`."""
        return _secrets_of(self.url)

    def redact(self, text: str) -> str:
        """Return `text` without this connection's secrets and without control characters."""
        for secret in self.secrets:
            text = text.replace(secret, "…")
        if text.isprintable():
            return text
        return "".join(character if character.isprintable() else " " for character in text)


@lru_cache(maxsize=URLS_KEPT)
def _secrets_of(url: str) -> tuple[str, ...]:
    parts = urlsplit(url)
    found = {url, parts.username, parts.password, parts.query}
    found.add(parts.path.strip("/"))
    found.add(parts.netloc.rpartition("@")[0])
    found.add(f"{parts.path}?{parts.query}" if parts.query else parts.path)
    found.update(parts.path.split("/"))
    # Short pieces such as "v3" are no secrets, and masking them would garble every message.
    return tuple(sorted({part for part in found if part and len(part) >= 4}, key=len, reverse=True))


def connections(chain: "Chain") -> tuple[ChainConnection, ...]:
    """Return one connection for each RPC URL of a chain in the chains file, in its order."""
    return tuple(
        ChainConnection(chain.id, url, chain.genesis_hash, timeout=chain.rpc_timeout_seconds) for url in chain.rpc_urls
    )

"""What was issued after a block had been scanned with a recipient filter is asked for again in that block (L12).

Only where a chain's setting `recipient_filter` is on. In memory is what the kept blocks were asked for: a watcher that
starts knows nothing and asks once for everything, so a crash between two steps loses nothing.
"""

from dataclasses import dataclass, field
from time import monotonic
from typing import Final

import structlog
from sqlalchemy import Connection, Engine, text

from custody.chain import scanned_blocks
from custody.chain.errors import ChainUnavailable
from custody.chain.fence import Fence
from custody.chain.looks import request_looks
from custody.chain.node_panel import NodePanel
from custody.chain.recipient_filter import RecipientFilter, padded
from custody.settings.chains import Chain
from custody.store.engine import forbid_inside_transaction, transaction

log = structlog.get_logger(__name__)

RELOAD_SECONDS: Final = 300.0  # everything issued is read again: rows that were changed, or came with an old time
OVERLAP_SECONDS: Final = 600  # read again each time: a row is committed after its own time, by less than this
RESCAN_BLOCKS: Final = 500  # blocks a question about the past: what the stricter providers allow


@dataclass(slots=True)
class IssuedRescan:
    """One chain's filter, kept up to date, and the blocks that it came too late for."""

    engine: Engine
    chain: Chain
    panel: NodePanel
    fence: Fence
    _issued: RecipientFilter = field(init=False)
    _covered: RecipientFilter = field(init=False)
    _loaded_at_seconds: float | None = None

    def __post_init__(self) -> None:
        nothing = RecipientFilter(frozenset(), frozenset(), frozenset(), self.chain.recipient_filter_addresses)
        self._issued = self._covered = nothing

    def refresh(self) -> None:
        """Read what is issued by now, and let the nodes be asked for it from here on."""
        now = monotonic()
        is_whole = self._loaded_at_seconds is None or now - self._loaded_at_seconds >= RELOAD_SECONDS
        with transaction(self.engine) as connection:
            addresses, references = _issued(connection, None if is_whole else OVERLAP_SECONDS)
        if is_whole:
            self._loaded_at_seconds = now
        treasuries = frozenset(padded(each) for each in self.chain.treasuries)
        self._issued = RecipientFilter(
            self._issued.recipients | addresses | treasuries,
            self._issued.references | references,
            treasuries,
            self.chain.recipient_filter_addresses,
        )
        self.panel.recipients = self._issued

    def look_back(self, head_number: int) -> None:
        """Ask for what is new in the blocks that are kept, up to ``head_number``; whatever a node shows is looked at.

        A look is a hint (L20), so one node's word is enough to ask for it; what is asked for is known to be covered once
        a quorum has answered. What no quorum answered is asked for again.
        """
        unasked, size = self._issued.without(self._covered), self._issued.size
        # The treasury pays nobody's debt: what moved there is the outflows' and the sweeps' to see.
        new = RecipientFilter(unasked.recipients - self._issued.senders, unasked.references, frozenset(), size)
        if new.is_empty:
            return
        with transaction(self.engine) as connection:
            oldest = scanned_blocks.oldest(connection, self.chain.id)
        if oldest is None:
            return
        forbid_inside_transaction("asking for what was issued later")
        found: dict[str, None] = {}
        is_covered = True
        for first in range(oldest.number, head_number + 1, RESCAN_BLOCKS):
            try:
                hashes, answered = self.panel.find(new, first, min(first + RESCAN_BLOCKS - 1, head_number))
            except ChainUnavailable as error:
                log.warning("rescan_waits", chain_id=self.chain.id, reason=str(error))
                return
            found |= dict.fromkeys(hashes)
            is_covered = is_covered and answered >= self.panel.quorum
        with self.fence.transaction(self.engine) as connection:
            unseen = _never_looked_at(connection, self.chain.id, list(found))
            request_looks(connection, self.chain.id, dict.fromkeys(unseen), requested_by="issued later")
        if unseen:
            log.info("issued_after_its_money", chain_id=self.chain.id, transactions=len(unseen))
        if is_covered:
            self._covered = self._issued


_ADDRESSES: Final = text(
    "SELECT address FROM public.derived_destinations WHERE CAST(:seconds AS integer) IS NULL "
    "OR created_at > clock_timestamp() - make_interval(secs => CAST(:seconds AS integer))"
)
_REFERENCES: Final = text(
    "SELECT reference_topic FROM fleet.payment_routes WHERE reference_topic IS NOT NULL AND (CAST(:seconds AS integer) IS NULL "
    "OR created_at > clock_timestamp() - make_interval(secs => CAST(:seconds AS integer)))"
)


def _issued(connection: Connection, newer_seconds: int | None) -> tuple[frozenset[str], frozenset[str]]:
    """Padded addresses and reference topics: all, or those of the last ``newer_seconds``."""
    addresses = connection.execute(_ADDRESSES, {"seconds": newer_seconds})
    references = connection.execute(_REFERENCES, {"seconds": newer_seconds})
    return (
        frozenset(padded(address) for address in addresses.scalars()),
        frozenset(topic.lower() for topic in references.scalars()),
    )


def _never_looked_at(connection: Connection, chain_id: int, hashes: list[str]) -> list[str]:
    """Those that no look told anything of us yet, in the same order: a start asks again for all that is known."""
    known = connection.execute(
        text(
            "SELECT transaction_hash FROM fleet.chain_looks "
            "WHERE chain_id = :id AND transaction_hash = ANY(:hashes) AND state IN ('due', 'seen')"
        ),
        {"id": chain_id, "hashes": hashes},
    )
    seen = {*known.scalars()}
    return [each for each in hashes if each not in seen]

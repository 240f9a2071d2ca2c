"""One round of quoting: ask for what is due (Postgres), ask the sources (chains, a signed file), keep what was decided.

Never both at once (L15). Correct with any number of workers: rows are leased, and a quote is only given once.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import structlog
from sqlalchemy import Engine

from custody.chain import ChainClient, connections
from custody.chain.nodes import ChainNodes
from custody.policy.safekeeping import signed_folder
from custody.quotes import storing
from custody.quotes.arithmetic import QuoteRefused
from custody.quotes.chainlink import ChainlinkFeeds
from custody.quotes.deciding import Bounds, Quote, Wanted, decide
from custody.quotes.feeds import load_feeds
from custody.quotes.prices import Answer, PriceSource, ask, pairs_needed
from custody.quotes.signed_prices import SignedPrices
from custody.settings.chains import load_chains
from custody.settings.environment import FleetSettings
from custody.store.engine import transaction

log = structlog.get_logger(__name__)

Vouched = tuple[datetime, Mapping[str, Decimal]]


@dataclass
class Sources(AbstractContextManager["Sources"]):
    """Every configured source. Close it, or use it as a context: feeds keep connections to their nodes."""

    every: tuple[PriceSource, ...]
    signed: SignedPrices | None = None
    nodes: tuple[ChainNodes, ...] = ()

    def ask(self, pairs: Sequence[str], now: datetime) -> tuple[Answer, ...]:
        """All answers of all sources to these pairs."""
        return ask(self.every, pairs, now)

    @property
    def vouched(self) -> Vouched | None:
        """What the signed file that was just asked vouches for, and since when."""
        return None if self.signed is None else self.signed.anchors

    def close(self) -> None:
        """Close the connections to the nodes."""
        for each in self.nodes:
            each.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def open_sources(settings: FleetSettings, engine: Engine, *, accepts: bool) -> Sources:
    """The sources that the settings name. ``accepts``: whether versions of prices.toml that are seen are written down.

    Raises SettingsError.
    """
    chains = load_chains(settings.path("chains_file"))
    every: list[PriceSource] = []
    nodes: dict[int, ChainNodes] = {}
    if settings.quotes_file is not None:
        feeds = load_feeds(settings.path("quotes_file")).feeds
        wanted = {feed.chain for feed in feeds}
        for chain in chains.chains:
            if chain.id in wanted:
                nodes[chain.id] = ChainNodes(chain, [ChainClient(each) for each in connections(chain)])
        every.append(ChainlinkFeeds(feeds, nodes, margin_seconds=settings.quote_feed_margin_seconds))
    signed = None
    if settings.quote_prices_file is not None:
        folder = signed_folder(settings, chains)
        # A file that is not there yet is a refused source, not a worker that cannot start.
        signed = SignedPrices(engine, settings.quote_prices_file, folder, accepts=accepts)
        every.append(signed)
    return Sources(tuple(every), signed, tuple(nodes.values()))


def run_once(
    engine: Engine, sources: Sources, bounds: Bounds, clock: Callable[[], datetime], limit: int, *, attempts_limit: int
) -> int:
    """Make at most ``limit`` quotes that are due. Returns how many rows moved on."""
    with transaction(engine) as connection:
        moved = storing.link_parents(connection, limit) + storing.enlist(connection, limit)
    with transaction(engine) as connection:
        due = storing.claim(connection, limit)
    if not due:
        return moved
    now = clock()
    units = sorted({unit for each in due for unit in (each.wanted.currency, each.wanted.symbol)})
    pairs = sorted({pair for each in due for pair in pairs_needed(each.wanted.currency, each.wanted.symbol)})
    answers = sources.ask(pairs, now)
    with transaction(engine) as connection:
        anchors = storing.accepted_prices(connection, units, sources.vouched)
        for each in due:
            try:
                quote = decide(each.wanted, answers, anchors=anchors, bounds=bounds, now=now)
            except QuoteRefused as refused:
                storing.refuse(connection, each, refused, attempts_limit)
                log.warning("quote_refused", quote_id=str(each.id), bound=refused.bound, reason=refused.sentence)
                continue
            moved += storing.store(connection, each, quote)
    return moved


def price_now(
    engine: Engine, sources: Sources, bounds: Bounds, wanted: Wanted, now: datetime
) -> tuple[Quote | QuoteRefused, tuple[Answer, ...]]:
    """What would be quoted now, or which bound refuses it, and what each source said. Writes nothing."""
    answers = sources.ask(sorted(pairs_needed(wanted.currency, wanted.symbol)), now)
    with transaction(engine) as connection:
        anchors = storing.accepted_prices(connection, (wanted.currency, wanted.symbol), sources.vouched)
    try:
        return decide(wanted, answers, anchors=anchors, bounds=bounds, now=now), answers
    except QuoteRefused as refused:
        return refused, answers

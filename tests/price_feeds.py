"""Price feeds on a chain of the tests' own, and the sources that read them."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from custody.chain import ChainClient, ChainConnection
from custody.chain.nodes import ChainNodes
from custody.quotes.chainlink import ChainlinkFeeds
from custody.quotes.feeds import Feed
from custody.settings.chains import Chain
from tests.anvil_node import running_anvil
from tests.sweep_contracts_scene import build_for_tests
from workers.demo.development_chain import DevelopmentChain
from workers.demo.wallet import Wallet

CHAIN_ID = 31337
HEARTBEAT = 3_600
MARGIN = 300
DECIMALS = 8
NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
"""The clock of these tests; feeds date their answers as they are told."""


@dataclass
class FeedChain:
    """One Anvil. Each feed is a contract that says what ``say`` gave it."""

    chain: DevelopmentChain
    wallet: Wallet

    @property
    def client(self) -> ChainClient:
        return self.wallet.client

    def feed(self, pair: str, *, decimals: int = DECIMALS, description: str | None = None, **changed: Any) -> Feed:
        """Deploy a feed that has said nothing yet; ``changed``: what the quotes file says otherwise."""
        said = description or pair.replace("/", " / ")
        code = build_for_tests("PriceFeed").initcode(decimals, said)
        address, sent = self.wallet.deploy(code)
        self.wallet.wait(sent)
        return Feed.model_validate(
            {
                "pair": pair,
                "chain": CHAIN_ID,
                "address": address,
                "heartbeat_seconds": HEARTBEAT,
                "decimals": decimals,
                **changed,
            }
        )

    def say(
        self,
        feed: Feed,
        price: str,
        *,
        age: int = 10,
        now: datetime = NOW,
        round_id: int = 7,
        answered_in: int | None = None,
        updated_at: int | None = None,
    ) -> None:
        """Have a feed answer ``price`` dollars, ``age`` seconds before ``now``."""
        units = int(Decimal(price) * 10**feed.decimals)
        at = int(now.timestamp()) - age if updated_at is None else updated_at
        answered = round_id if answered_in is None else answered_in
        self.call(feed, "say", round_id, units, at, answered)

    def call(self, feed: Feed, name: str, *values: object) -> None:
        self.wallet.wait(self.wallet.send(feed.address, build_for_tests("PriceFeed").calldata(name, *values)))

    def source(
        self, *feeds: Feed, nodes: int = 1, genesis: str | None = None, chain_id: int = CHAIN_ID
    ) -> ChainlinkFeeds:
        """The source of some feeds, over so many connections to the node."""
        chain = self.described(genesis, chain_id)
        clients = [ChainClient(ChainConnection(chain_id, self.chain.rpc_url, chain.genesis_hash)) for _ in range(nodes)]
        return ChainlinkFeeds(feeds, {chain_id: ChainNodes(chain, clients)}, margin_seconds=MARGIN)

    def described(self, genesis: str | None = None, chain_id: int = CHAIN_ID) -> Chain:
        """The chain as a chains file has it."""
        address = "0x" + "11" * 20
        return Chain.model_validate(
            {
                "id": chain_id,
                "name": "private",
                "genesis_hash": genesis or self.client.genesis_hash(),
                "rpc_urls": [self.chain.rpc_url],
                "treasury": address,
                "fee_proxy": "0x" + "22" * 20,
                "tokens": [{"symbol": "ETH", "address": "native", "decimals": 18}],
            }
        )


@contextmanager
def feed_chain() -> Generator[FeedChain]:
    """An Anvil that mines each transaction at once."""
    with running_anvil() as url:
        chain = DevelopmentChain(url)
        wallet = Wallet.open(url, chain.new_account())
        try:
            yield FeedChain(chain, wallet)
        finally:
            wallet.client.close()
            chain.close()

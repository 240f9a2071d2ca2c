"""A watch over several nodes, each behind a real proxy that is honest until told otherwise."""

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from custody.chain import ChainClient, ChainConnection
from custody.chain.fence import Fence
from custody.chain.node_panel import NodePanel
from custody.chain.watching import BlockWatch
from tests import lying_node as lies
from tests.integration.chain_fixtures import Expected, WatchingFleet, units
from tests.lying_node import Lie, LyingNode
from tests.marketplace import CHAIN_ID

TIMEOUT = 30.0  # seconds a node may take: honest ones are never too slow here
HANGING_TIMEOUT = 1.0  # what one that hangs costs


@dataclass
class Nodes:
    """A watch over several nodes, each behind a proxy that is honest until told otherwise."""

    fleet: WatchingFleet
    proxies: list[LyingNode]
    watch: BlockWatch

    @property
    def panel(self) -> NodePanel:
        return self.watch.panel

    def tick(self) -> None:
        """One round; no node waits for its time to be asked again, and no look for its backoff."""
        for node in self.panel.nodes:
            node.retry_at_seconds = 0.0
        self.fleet.make_due()
        self.watch.tick(100)

    def rest(self) -> None:
        """One round in which a node that was put aside stays there."""
        self.fleet.make_due()
        self.watch.tick(100)

    def pay(self, amount: int = 100) -> tuple[Expected, str]:
        payment = self.fleet.payment(amount)
        return payment, self.fleet.pay(payment)

    def rows(self) -> list[Any]:
        return self.fleet.market.execute("SELECT * FROM fleet.chain_nodes ORDER BY place")

    @property
    def cursor(self) -> Any:
        return self.fleet.market.execute("SELECT * FROM fleet.chain_cursors")[0]

    def is_credited(self, *payments: Expected) -> bool:
        return all(
            self.fleet.entries(one.payment)[-1:]
            == [("payment_detected", "seen", "destination", "detected", one.amount)]
            for one in payments
        )

    def balance(self, payment: Expected) -> tuple[int, int]:
        """(detected, held) of a payment, whole tokens."""
        found = self.fleet.market.execute(
            "SELECT coalesce(sum(detected), 0) AS detected, coalesce(sum(held), 0) AS held "
            "FROM fleet.ledger_balances WHERE book_id = :id",
            id=payment.payment,
        )[0]
        return int(found.detected), int(found.held)


@contextmanager
def nodes_of(fleet: WatchingFleet, count: int, *, lie: str = "") -> Generator[Nodes]:
    """``count`` nodes of Anvil's chain that a fresh watcher watches, all of them sound; the first one will lie."""
    with ExitStack() as stack:
        proxies = [stack.enter_context(LyingNode(fleet.world.chain.rpc_url).running()) for _ in range(count)]
        clients = [
            ChainClient(
                ChainConnection(
                    CHAIN_ID,
                    proxy.url,
                    fleet.chain.genesis_hash,
                    timeout=HANGING_TIMEOUT if lie in {"hangs", "drips"} and place == 0 else TIMEOUT,
                    read_attempts=1,
                )
            )
            for place, proxy in enumerate(proxies)
        ]
        panel = NodePanel(fleet.chain, clients)
        stack.callback(panel.close)
        nodes = Nodes(
            fleet, proxies, BlockWatch(fleet.watcher, fleet.chain, panel, Fence.take(fleet.watcher, CHAIN_ID))
        )
        nodes.tick()
        assert [row.state for row in nodes.rows()] == ["healthy"] * count
        assert nodes.cursor.agreed_number == fleet.world.client.head().number
        yield nodes


def invented_log(fleet: WatchingFleet, to: Expected) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def log(last: dict[str, Any]) -> dict[str, Any]:
        transfer = fleet.world.rpc("eth_getLogs", {"address": fleet.token, "fromBlock": last["blockNumber"]})[-1]
        return {
            **last,
            "address": fleet.token,
            "topics": [*transfer["topics"][:2], "0x" + to.destination[2:].lower().rjust(64, "0")],
            "data": "0x" + f"{units(to.amount):064x}",
        }

    return log


def alone(nodes: Nodes, lie: Lie) -> None:
    """The honest nodes go away; what is left lies."""
    for proxy in nodes.proxies[1:]:
        proxy.lie = lies.answering(500)
    nodes.proxies[0].lie = lie
    told = nodes.fleet
    told.world.rpc("anvil_mine", "0x1")
    nodes.rest()
    assert nodes.cursor.waiting_reason.startswith("quorum: 1 of 2 nodes are sound")


def together_again(nodes: Nodes, *, is_liar_honest: bool) -> None:
    if is_liar_honest:
        nodes.proxies[0].lie = None
    for proxy in nodes.proxies[1:]:
        proxy.lie = None
    nodes.fleet.world.rpc("anvil_mine", "0x1")
    for _ in range(3):
        nodes.tick()

"""A provider that answers eth_getLogs only by recipient: money is found all the same, also what came too early (L12)."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from eth_account import Account

from custody.chain import ChainClient, ChainConnection, erc20
from custody.chain.fence import Fence
from custody.chain.logs import TRANSFER_TOPIC
from custody.chain.node_panel import NodePanel
from custody.chain.outflows import watch_treasury
from custody.chain.recipient_filter import RecipientFilter, padded
from custody.chain.scanning import Watched
from custody.chain.watching import BlockWatch
from tests.integration.chain_fixtures import Expected, WatchingFleet, units
from tests.lying_node import Calls, LyingNode
from tests.marketplace import CHAIN_ID

SEEN = ("payment_detected", "seen", "destination", "detected")
MOST: Final = 2  # topics in one OR list, so that a few payments need several


@dataclass
class ForcingProvider:
    """Refuses every eth_getLogs without a list of 1 to ``MOST`` topics beside topic0, and keeps the lists it got."""

    refused: int = 0
    lists: list[list[str]] = field(default_factory=list[list[str]])
    first_blocks: list[int] = field(default_factory=list[int])

    def __call__(self, _node: LyingNode, calls: Calls, answers: list[dict[str, Any]]) -> Any:
        for call, answer in zip(calls, answers, strict=True):
            if call["method"] != "eth_getLogs":
                continue
            found = [topic for topic in call["params"][0].get("topics", [])[1:] if topic]
            if len(found) == 1 and 1 <= len(found[0]) <= MOST:
                self.lists.append(found[0])
                self.first_blocks.append(int(call["params"][0]["fromBlock"], 16))
            else:
                self.refused += 1
                answer.pop("result", None)
                answer["error"] = {"code": -32602, "message": "specify an address in your request"}
        return answers


@dataclass
class Forced:
    """A fleet whose one node is such a provider's."""

    fleet: WatchingFleet
    provider: ForcingProvider
    node: LyingNode

    @contextmanager
    def watch(self, *, is_filtered: bool = True) -> Generator[BlockWatch]:
        """A watcher that has just started."""
        chain = self.fleet.chain.model_copy(
            update={"recipient_filter": is_filtered, "recipient_filter_addresses": MOST}
        )
        connection = ChainConnection(CHAIN_ID, self.node.url, chain.genesis_hash, timeout=30, read_attempts=1)
        panel = NodePanel(chain, [ChainClient(connection)])
        fence = Fence.take(self.fleet.watcher, CHAIN_ID)
        try:
            yield BlockWatch(self.fleet.watcher, chain, panel, fence, watch_treasury)
        finally:
            panel.close()

    def early(self, address: str) -> str:
        """Money to an address that nobody has issued yet."""
        buyer = self.fleet.world.buyer
        sent = buyer.send(self.fleet.token, erc20.encode_transfer(address, units(100)))
        buyer.wait(sent)
        return sent

    def is_credited(self, *payments: Expected) -> bool:
        return all(self.fleet.entries(one.payment) == [(*SEEN, 100)] for one in payments)


@pytest.fixture
def forced(fleet: WatchingFleet) -> Generator[Forced]:
    provider = ForcingProvider()
    with LyingNode(fleet.world.chain.rpc_url).running() as node:
        node.lie = provider
        yield Forced(fleet, provider, node)


def test_money_is_found_by_recipient_and_by_reference(forced: Forced) -> None:
    fleet = forced.fleet
    paid, plain, _other = (fleet.payment() for _ in range(3))
    with forced.watch() as watch:
        watch.tick(100)
        forced.provider.lists.clear()
        fleet.pay(paid)
        fleet.transfer(plain, 100)
        watch.tick(100)
    assert forced.is_credited(paid, plain)
    assert forced.provider.refused == 0
    asked = {topic for each in forced.provider.lists for topic in each}
    assert {padded(one.destination) for one in (paid, plain, _other)} < asked
    routes = fleet.market.execute("SELECT reference_topic FROM fleet.payment_routes")
    assert {row.reference_topic for row in routes} < asked
    by = fleet.market.execute("SELECT DISTINCT requested_by FROM fleet.chain_looks")
    assert [row.requested_by for row in by] == ["scan"]
    assert fleet.books_equal_chain()


def test_without_the_setting_such_a_provider_is_put_aside(forced: Forced) -> None:
    payment = forced.fleet.payment()
    with forced.watch() as filtered:
        filtered.tick(100)
    forced.fleet.transfer(payment, 100)
    with forced.watch(is_filtered=False) as watch:
        watch.tick(100)
        assert watch.panel.nodes[0].state == "aside"
    assert forced.provider.refused > 0
    assert not forced.is_credited(payment)


def test_money_that_came_before_its_address_was_issued_is_found(forced: Forced) -> None:
    address = Account.create().address
    with forced.watch() as watch:
        watch.tick(100)
        sent = forced.early(address)
        watch.tick(100)
        assert forced.fleet.count("fleet.chain_looks") == 0
        payment = forced.fleet.payment(destination=address)
        watch.tick(100)
        assert forced.is_credited(payment)
        assert forced.fleet.look(sent).requested_by == "issued later"
        # What is known is asked for no second time in the past.
        forced.provider.first_blocks.clear()
        watch.tick(100)
    assert min(forced.provider.first_blocks) > forced.fleet.world.client.head().number
    assert forced.provider.refused == 0
    assert forced.fleet.books_equal_chain()


def test_a_watcher_that_starts_finds_what_was_issued_while_none_ran(forced: Forced) -> None:
    address = Account.create().address
    with forced.watch() as watch:
        watch.tick(100)
        forced.early(address)
        watch.tick(100)
    payment = forced.fleet.payment(destination=address)
    with forced.watch() as watch:
        watch.tick(100)
    assert forced.is_credited(payment)
    assert forced.fleet.books_equal_chain()


def test_a_provider_that_fails_to_answer_about_the_past_is_asked_again(forced: Forced) -> None:
    address = Account.create().address
    with forced.watch() as watch:
        watch.tick(100)
        forced.early(address)
        watch.tick(100)
        payment = forced.fleet.payment(destination=address)

        def broken(_node: LyingNode, calls: Calls, answers: list[dict[str, Any]]) -> Any:
            for call, answer in zip(calls, answers, strict=True):
                if call["method"] == "eth_getLogs":
                    answer.pop("result", None)
                    answer["error"] = {"code": -32000, "message": "try again"}
            return answers

        forced.node.lie = broken
        watch.tick(100)
        assert not forced.is_credited(payment)
        forced.node.lie = forced.provider
        for node in watch.panel.nodes:
            node.retry_at_seconds = 0.0
        watch.tick(100)
    assert forced.is_credited(payment)


def test_no_question_has_an_empty_list_or_one_that_is_too_long(fleet: WatchingFleet) -> None:
    """An empty OR list asks for everybody's logs."""
    events = Watched.of(fleet.chain).events
    topics = [padded(f"0x{number:040x}") for number in range(1, 8)]
    asked = RecipientFilter(frozenset(topics[:5]), frozenset(), frozenset(topics[5:6]), 2)
    questions = asked.questions(events, 1, 2)
    lists: list[Any] = [next(item for item in each["topics"][1:] if item) for each in questions]  # pyright: ignore[reportIndexIssue]
    assert [len(each) for each in lists] == [2, 2, 1, 1]
    assert all(each["topics"][0] == TRANSFER_TOPIC for each in questions)  # pyright: ignore[reportIndexIssue]
    assert asked.without(asked).is_empty
    assert asked.without(asked).questions(events, 1, 2) == []

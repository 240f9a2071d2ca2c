"""The watcher's scan on a real chain: what it finds by itself, what it costs, what a stop or a crash leaves (L12 to L15)."""

from collections.abc import Iterator
from typing import Any

import pytest
from eth_account import Account
from sqlalchemy import event, text

from custody.chain import ChainClient, ChainConnection
from custody.chain.bloom import bloom_of
from custody.chain.cursor import WINDOW_MINIMUM_BLOCKS
from custody.chain.fence import Fence, Fenced
from custody.chain.node_panel import NodePanel
from custody.chain.watching import WINDOW_MAXIMUM_BLOCKS, BlockWatch
from tests import lying_node as lies
from tests.counts import ONLY_LONG
from tests.integration.chain_fixtures import Died, Expected, WatchingFleet, dying_at, snapshot
from tests.lying_node import Calls, LyingNode
from tests.marketplace import CHAIN_ID

SEEN = ("payment_detected", "seen", "destination", "detected")


@pytest.fixture
def node(fleet: WatchingFleet) -> Iterator[LyingNode]:
    """The chain's one node, behind a proxy that counts."""
    with LyingNode(fleet.world.chain.rpc_url).running() as proxy:
        fleet.watch_of = watch_at(fleet, proxy)
        yield proxy
        fleet.watch_of.panel.close()


def watch_at(fleet: WatchingFleet, proxy: LyingNode) -> BlockWatch:
    client = ChainClient(ChainConnection(CHAIN_ID, proxy.url, fleet.chain.genesis_hash, timeout=30, read_attempts=1))
    panel = NodePanel(fleet.chain, [client])
    return BlockWatch(fleet.watcher, fleet.chain, panel, Fence.take(fleet.watcher, CHAIN_ID))


def mine(fleet: WatchingFleet, blocks: int = 1) -> None:
    fleet.world.rpc("anvil_mine", hex(blocks))


def cursor(fleet: WatchingFleet) -> Any:
    return fleet.market.execute("SELECT * FROM fleet.chain_cursors")[0]


def test_money_that_nobody_announced_is_seen(fleet: WatchingFleet) -> None:
    """L12: through the proxy or as a plain transfer; nothing but the scan asks for it."""
    fleet.watch()
    through_proxy, plain = fleet.payment(), fleet.payment()
    fleet.pay(through_proxy)
    fleet.transfer(plain, 100)
    fleet.watch()
    assert fleet.entries(through_proxy.payment) == [(*SEEN, 100)]
    assert fleet.entries(plain.payment) == [(*SEEN, 100)]
    asked = fleet.market.execute("SELECT DISTINCT requested_by FROM fleet.chain_looks")
    assert [row.requested_by for row in asked] == ["scan"]
    assert fleet.books_equal_chain()


def test_a_block_costs_the_same_whatever_waits(fleet: WatchingFleet, node: LyingNode) -> None:
    """One request of at most six calls a node and block, with one payment that waits and with two hundred."""
    fleet.payment()
    fleet.watch()

    def cost() -> list[list[str]]:
        node.requests.clear()
        for _ in range(3):
            mine(fleet)
            fleet.watch()
        return list(node.requests)

    with_one = cost()
    many(fleet, 199)
    paid = fleet.payment()
    fleet.pay(paid)
    fleet.watch()
    fleet.hold()
    assert cost() == with_one
    # A round asks for the next block; when it was there, once more for the one after it.
    assert all(len(request) <= 6 for request in with_one)
    assert [request for request in with_one if "eth_getLogs" not in request] == []
    assert len(with_one) == 3
    assert fleet.entries(paid.payment)[0] == (*SEEN, 100)


def test_a_stop_over_300_blocks_is_caught_up_in_windows(fleet: WatchingFleet, node: LyingNode) -> None:
    fleet.watch()
    first, second = fleet.payment(), fleet.payment()
    fleet.pay(first)
    mine(fleet, 300)
    fleet.pay(second)
    fleet.watch_of = watch_at(fleet, node)  # as after a restart
    node.requests.clear()
    fleet.watch()
    assert cursor(fleet).agreed_number == fleet.world.client.head().number
    assert fleet.entries(first.payment) == fleet.entries(second.payment) == [(*SEEN, 100)]
    sizes = window_sizes(node)
    assert max(sizes) == WINDOW_MAXIMUM_BLOCKS
    assert len(sizes) <= 2 + 302 // WINDOW_MAXIMUM_BLOCKS + 1


@ONLY_LONG
def test_a_window_shrinks_when_a_node_does_not_bear_it_and_grows_again(fleet: WatchingFleet, node: LyingNode) -> None:
    fleet.watch()
    payment = fleet.payment()
    fleet.pay(payment)
    mine(fleet, 100)
    node.lie = lies.limited(10)
    fleet.watch()  # learns where the head is
    node.requests.clear()
    for _ in range(3):
        fleet.watch()
    assert cursor(fleet).agreed_number == fleet.world.client.head().number
    assert fleet.entries(payment.payment) == [(*SEEN, 100)]
    assert [row.state for row in fleet.market.execute("SELECT state FROM fleet.chain_nodes")] == ["healthy"]
    node.lie = None
    mine(fleet, 300)
    node.requests.clear()
    for _ in range(3):
        fleet.watch()
    assert cursor(fleet).agreed_number == fleet.world.client.head().number
    sizes = window_sizes(node)
    assert max(sizes) > 20
    rising = sizes[: sizes.index(max(sizes)) + 1]
    assert rising == sorted(rising)


def window_sizes(node: LyingNode) -> list[int]:
    """How many blocks each scanning request asked for, besides the head."""
    return [request.count("eth_getBlockByNumber") - 1 for request in node.requests if "eth_getLogs" in request]


def test_the_first_start_looks_back_a_window_and_no_more_is_kept(fleet: WatchingFleet) -> None:
    """L14: money paid just before the first start is found; hashes beyond the watched window are dropped."""
    early = fleet.payment()
    fleet.pay(early)
    mine(fleet, WINDOW_MINIMUM_BLOCKS + 10)
    payment = fleet.payment()
    fleet.pay(payment)
    mine(fleet, 50)
    start = fleet.world.client.head().number - WINDOW_MINIMUM_BLOCKS
    fleet.watch()
    oldest = fleet.market.execute("SELECT min(number) AS n FROM fleet.chain_blocks")[0].n
    assert oldest == start
    assert fleet.entries(payment.payment) == [(*SEEN, 100)]
    assert fleet.entries(early.payment) == []
    mine(fleet, 40)
    fleet.watch()
    head = fleet.world.client.head().number
    kept = fleet.market.execute("SELECT min(number) AS low, max(number) AS high, count(*) AS n FROM fleet.chain_blocks")
    assert (kept[0].low, kept[0].high, kept[0].n) == (head - WINDOW_MINIMUM_BLOCKS, head, WINDOW_MINIMUM_BLOCKS + 1)


def test_a_watcher_that_was_fenced_off_writes_nothing(fleet: WatchingFleet, node: LyingNode) -> None:
    """L12: it slept, another one took the chain, and now it wakes up with answers in its hand."""
    older = fleet.block_watch
    fleet.watch()
    newer = watch_at(fleet, node)
    payment = fleet.payment()
    sent = fleet.pay(payment)
    fleet.ask(sent)
    before = everything(fleet)
    for _ in range(2):
        with pytest.raises(Fenced):
            older.tick(100)
        assert everything(fleet) == before
    newer.tick(100)
    assert fleet.entries(payment.payment) == [(*SEEN, 100)]
    mine(fleet)
    after = everything(fleet)
    with pytest.raises(Fenced):
        older.tick(100)
    assert everything(fleet) == after
    newer.panel.close()


def test_it_is_fenced_between_its_reading_and_its_writing(fleet: WatchingFleet, node: LyingNode) -> None:
    """L12, L15: nothing holds the chain while a node is asked; the fence is looked at in the writing transaction."""
    fleet.watch()
    payment = fleet.payment()
    fleet.pay(payment)
    before = everything(fleet)

    def overtaken(_node: LyingNode, _calls: Calls, answers: list[dict[str, Any]]) -> Any:
        Fence.take(fleet.database.engine(), CHAIN_ID)
        return answers

    node.lie = overtaken
    with pytest.raises(Fenced):
        fleet.watch()
    assert everything(fleet) == before


def everything(fleet: WatchingFleet) -> dict[str, Any]:
    rows = dict(snapshot(fleet.database))
    for table, order in (("chain_cursors", "chain_id"), ("chain_blocks", "number"), ("chain_nodes", "place")):
        rows[table] = [
            dict(row._mapping) for row in fleet.market.execute(f"SELECT * FROM fleet.{table} ORDER BY {order}")
        ]
    rows["outbox"] = fleet.count("fleet.outbox")
    return rows


def test_a_crash_between_any_two_statements_of_a_round_leaves_nothing_half_done(fleet: WatchingFleet) -> None:
    """L1, L12: the cursor passes a block together with the looks at what concerns us in it, and not before."""
    fleet.watch()
    first, second = fleet.payment(), fleet.payment()
    sent = fleet.pay(first)
    fleet.transfer(second, 100)
    height = fleet.world.client.receipt(sent)
    assert height is not None
    number = 0
    while True:
        number += 1
        try:
            with dying_at(fleet.watcher, number):
                fleet.watch()
        except Died:
            fleet.watch_of = None  # the process is gone; the next one takes the chain
            stands = cursor(fleet)
            looks = fleet.market.execute("SELECT 1 FROM fleet.chain_looks WHERE transaction_hash = :h", h=sent)
            assert (stands.agreed_number >= height.block_number) == bool(looks)
            blocks = fleet.market.execute("SELECT max(number) AS n FROM fleet.chain_blocks")[0].n
            assert stands.head_number == stands.agreed_number == blocks
            for payment in (first, second):
                entries, state = fleet.entries(payment.payment), fleet.market.state(payment.payment)[0]
                assert (entries == [(*SEEN, 100)]) == (state == "processing")
                assert len(entries) <= 1
            continue
        break
    assert number > 15
    fleet.make_due()
    fleet.watch()
    assert fleet.entries(first.payment) == fleet.entries(second.payment) == [(*SEEN, 100)]
    assert fleet.books_equal_chain()


def test_an_address_issued_while_its_block_was_read_is_not_missed(fleet: WatchingFleet, node: LyingNode) -> None:
    """L12: matched in the transaction that moves the cursor, after the block's data arrived."""
    fleet.watch()
    destination = Account.create().address
    fleet.pay(Expected(fleet.payment().payment, destination, b"12345678", 100))
    issued: list[Expected] = []

    def late(_node: LyingNode, _calls: Calls, answers: list[dict[str, Any]]) -> Any:
        if not issued:
            issued.append(fleet.payment(destination=destination))
        return answers

    node.lie = late
    fleet.watch()
    assert fleet.entries(issued[0].payment) == [(*SEEN, 100)]


def test_matching_reads_by_index_however_many_were_issued(fleet: WatchingFleet) -> None:
    """The database's time is that of the block, not of what was ever issued."""
    fleet.watch()
    payment = fleet.payment()
    many(fleet, 20_000)
    statements: list[tuple[str, Any]] = []

    def before(_connection: object, _cursor: object, statement: str, parameters: Any, *_rest: object) -> None:
        if (
            "derived_destinations WHERE" in statement
            or "reference_topic = ANY" in statement
            or "block_hash <> ALL" in statement
        ):
            statements.append((statement, parameters))

    fleet.pay(payment)
    event.listen(fleet.watcher, "before_cursor_execute", before)
    try:
        fleet.watch()
    finally:
        event.remove(fleet.watcher, "before_cursor_execute", before)
    assert fleet.entries(payment.payment) == [(*SEEN, 100)]
    assert {"derived_destinations", "payment_routes", "chain_facts"} <= {
        table
        for table in ("derived_destinations", "payment_routes", "chain_facts")
        for said, _ in statements
        if table in said
    }
    with fleet.database.engine().begin() as connection:
        for statement, parameters in statements:
            if statement.lstrip().startswith("SELECT"):
                plan = "\n".join(connection.exec_driver_sql("EXPLAIN " + statement, parameters).scalars())
                assert "Seq Scan" not in plan, plan


def many(fleet: WatchingFleet, count: int) -> None:
    """So many more payments that wait, each at an address of its own, and as many facts of others that are long held."""
    with fleet.database.engine().begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(
            text(
                """
                INSERT INTO public.payments (id, legacy_object_id, purchase_request_ref_kind, purchase_request_id,
                    seller_offer_ref_kind, seller_offer_external_ref, buyer_id, seller_ref_kind, seller_id, amount, currency, chain_id,
                    token_address, provider_payment_id, payment_reference, status)
                SELECT md5('many-' || n)::uuid, substr(md5('many-' || n), 1, 24), p.purchase_request_ref_kind,
                    p.purchase_request_id, 'template', 'many-' || n, p.buyer_id, p.seller_ref_kind,
                    p.seller_id, p.amount, p.currency, p.chain_id, p.token_address, 'many-' || n,
                    '0x' || lpad(to_hex(n), 16, '0'), 'pending'
                FROM (SELECT * FROM public.payments LIMIT 1) p, generate_series(1, :count) AS n
                """
            ),
            {"count": count},
        )
        connection.execute(
            text(
                """
                INSERT INTO public.derived_destinations (buyer_id, seller_offer_ref_kind, seller_offer_external_ref,
                    chain_id, address, derivation_path, derivation_index)
                SELECT (SELECT id FROM public.users LIMIT 1), 'template', 'many-' || n, :chain,
                    '0x' || lpad(to_hex(n), 40, '0'), 'm/0', 1000000 + n
                FROM generate_series(1, :count) AS n
                """
            ),
            {"chain": CHAIN_ID, "count": count},
        )
        connection.execute(
            text(
                """
                INSERT INTO fleet.payment_routes (payment_id, chain_id, token, destination_id, expected, request_id,
                    payment_reference, reference_topic)
                SELECT md5('many-' || (d.derivation_index - 1000000))::uuid, :chain, :token, d.id, 100, 'many-' || (d.derivation_index - 1000000),
                    '0x' || lpad(to_hex(d.derivation_index - 1000000), 16, '0'), '0x' || lpad(to_hex(d.derivation_index), 64, '0')
                FROM public.derived_destinations d WHERE d.seller_offer_external_ref LIKE 'many-%'
                """
            ),
            {"chain": CHAIN_ID, "token": fleet.token},
        )
        connection.execute(
            text(
                """
                INSERT INTO fleet.chain_facts (chain_id, block_number, block_hash, transaction_hash, log_index, tx_ordinal,
                    token, sender, recipient, amount_units, direction, judged_at)
                SELECT :chain, 1, '0x' || n, '0x' || n, 0, 0, :token, '0x', '0x', 1, 'inbound', now()
                FROM generate_series(1, :count) AS n
                """
            ),
            {"chain": CHAIN_ID, "token": fleet.token, "count": count},
        )
    for table in ("public.derived_destinations", "fleet.payment_routes", "fleet.chain_facts"):
        fleet.market.execute(f"ANALYZE {table}")


def test_the_bloom_is_what_a_real_node_computes(fleet: WatchingFleet) -> None:
    """Of every log of a block: its contract and its topics (Yellow Paper, 4.3.1)."""
    sent = fleet.pay(fleet.payment())
    receipt = fleet.world.rpc("eth_getTransactionReceipt", sent)
    block = fleet.world.rpc("eth_getBlockByNumber", receipt["blockNumber"], False)
    items = [bytes.fromhex(item[2:]) for log in receipt["logs"] for item in (log["address"], *log["topics"])]
    assert len(items) > 3
    assert "0x" + bloom_of(items).hex() == block["logsBloom"]

"""Whatever a node answers: a window is read, or refused for a reason; and no two answers win one vote (L12, L13, R17)."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from eth_account import Account
from eth_utils.crypto import keccak
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from custody.chain import ChainClient, ChainConnection, ChainUnavailable
from custody.chain.blocks import BlockHeader, ScannedBlock
from custody.chain.bloom import BLOOM_BYTES, bloom_of, may_hold
from custody.chain.logs import FEE_PROXY_TOPIC, TRANSFER_TOPIC, read_log
from custody.chain.node_panel import STRIKES, Agreement, Node, NodePanel
from custody.chain.nodes import FUTURE_SECONDS
from custody.chain.scanning import ChangedMeanwhile, NodeAtFault, NodeReading, Watched, read_window
from custody.settings.chains import Chain, Token
from tests.counts import declared
from tests.scripted_node import ScriptedNode

TOKEN, PROXY, TREASURY = (Account.from_key(bytes([place]) * 32).address for place in (1, 2, 3))
ZEROES = bytes(BLOOM_BYTES)


def chain_of(chain_id: int = 31337) -> Chain:
    return Chain(
        id=chain_id,
        name="told",
        genesis_hash="0x" + "11" * 32,
        rpc_urls=("http://127.0.0.1:9",),
        treasury=TREASURY,
        fee_proxy=PROXY,
        tokens=(
            Token(symbol="PAID", address=TOKEN, decimals=6, treasury_maximum=Decimal(10_000)),
            Token(symbol="ETH", address="native", decimals=18, treasury_maximum=Decimal(10_000)),
        ),
    )


# Blooms ------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=20, max_size=32), max_size=40))
def test_everything_that_is_in_a_bloom_is_found(items: list[bytes]) -> None:
    bloom = bloom_of(items)
    assert len(bloom) == BLOOM_BYTES
    for item in items:
        assert may_hold(bloom, "0x" + item.hex(), ["0x" + other.hex() for other in items])


@given(st.binary(min_size=20, max_size=20), st.binary(min_size=32, max_size=32))
def test_what_is_excluded_is_not_in_it(address: bytes, topic: bytes) -> None:
    assert not may_hold(ZEROES, "0x" + address.hex(), ["0x" + topic.hex()])
    assert may_hold(bytes([255]) * BLOOM_BYTES, "0x" + address.hex(), ["0x" + topic.hex()])
    whole = bloom_of([address, topic])
    for place in range(8 * BLOOM_BYTES):
        if whole[place // 8] >> (place % 8) & 1:
            less = bytearray(whole)
            less[place // 8] &= ~(1 << (place % 8))
            assert not may_hold(bytes(less), "0x" + address.hex(), ["0x" + topic.hex()])


def test_a_known_bloom() -> None:
    """The Yellow Paper's bits, from keccak's pairs of bytes: the low 11 bits of each, counted from the right."""
    address = bytes.fromhex("095e7baea6a6c7c4c2dfeb977efac326af552d87")  # go-ethereum's bloom test
    digest = keccak(address)
    bits = {int.from_bytes(digest[start : start + 2]) % 2048 for start in (0, 2, 4)}
    assert int.from_bytes(bloom_of([address])) == sum(1 << bit for bit in bits)
    # go-ethereum core/types/bloom9_test.go: these are in the bloom of the first list, the others are not.
    positive = [b"testtest", b"test", b"hallo", b"other"]
    negative = [b"tes", b"lo"]
    bloom = bloom_of(positive)
    assert all(may_hold(bloom, "0x" + item.hex(), []) for item in positive)
    assert not any(may_hold(bloom, "0x" + item.hex(), []) for item in negative)


# Hostile answers ---------------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.from_regex(r"0x[0-9a-f]{0,70}", fullmatch=True)
    | st.sampled_from(["0x", "0x0", "0x" + "f" * 64, "0x" + "0" * 64, "0x" + "00" * 256, TOKEN, TREASURY, "latest"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def hash_of(*parts: object) -> str:
    return "0x" + keccak(text=repr(parts)).hex()


def raw_block(number: int) -> dict[str, Any]:
    recipient = "0x" + "00" * 12 + "77" * 20
    topics = [TRANSFER_TOPIC, recipient, recipient]
    return {
        "number": hex(number),
        "hash": hash_of(number),
        "parentHash": hash_of(number - 1),
        "timestamp": hex(1_700_000_000 + number),
        "baseFeePerGas": "0x7",
        "logsBloom": "0x" + bloom_of(bytes.fromhex(item[2:]) for item in (TOKEN, *topics)).hex(),
        "transactions": [
            {
                "hash": hash_of("sent", number),
                "blockHash": hash_of(number),
                "transactionIndex": "0x0",
                "from": TREASURY,
                "to": TOKEN,
                "value": "0x1",
                "nonce": "0x3",
                "input": "0x1234",
            }
        ],
    }


def raw_log(number: int) -> dict[str, Any]:
    recipient = "0x" + "00" * 12 + "77" * 20
    return {
        "address": TOKEN,
        "topics": [TRANSFER_TOPIC, recipient, recipient],
        "data": "0x" + f"{258:064x}",
        "blockNumber": hex(number),
        "blockHash": hash_of(number),
        "transactionHash": hash_of("sent", number),
        "transactionIndex": "0x0",
        "logIndex": "0x0",
        "removed": False,
    }


def honest() -> list[Any]:
    """The results of a window of two blocks: head, finalized, blocks, logs, balance, nonce."""
    return [
        raw_block(11),
        raw_block(9),
        raw_block(10),
        raw_block(11),
        [raw_log(10), raw_log(11)],
        "0x5",
        "0x6",
    ]


class Told:
    """Answers a batch with `results`, and whatever is asked next with `more`."""

    def __init__(self) -> None:
        self.results: list[Any] = honest()
        self.more: Any = None

    def __call__(self, body: Any) -> Any:
        calls = body if isinstance(body, list) else [body]
        results = self.results if len(calls) == len(self.results) else [self.more] * len(calls)
        answers = [
            {"jsonrpc": "2.0", "id": call["id"], "result": one} for call, one in zip(calls, results, strict=True)
        ]
        return answers if isinstance(body, list) else answers[0]


@pytest.fixture(scope="module")
def told() -> Iterator[tuple[Told, Callable[[], NodeReading]]]:
    script = Told()
    watched = Watched.of(chain_of())
    with ScriptedNode(script).running() as url:
        client = ChainClient(ChainConnection(31337, url, read_attempts=1))
        yield script, lambda: read_window(client, watched, 10, 11, "finalized")
        client.close()


def test_the_honest_window_is_read(told: tuple[Told, Callable[[], NodeReading]]) -> None:
    script, read = told
    script.results, script.more = honest(), None
    reading = read()
    assert (reading.head.number, reading.finalized, [block.header.number for block in reading.blocks]) == (
        11,
        9,
        [10, 11],
    )
    assert [len(block.logs) for block in reading.blocks] == [1, 1]
    assert (reading.blocks[-1].treasury_balance, reading.blocks[-1].treasury_nonce) == (5, 6)
    assert reading.blocks[0].transactions[0].data == bytes.fromhex("1234")


@settings(max_examples=declared(3_000, 30), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_json_in_place_of_any_field(told: tuple[Told, Callable[[], NodeReading]], data: st.DataObject) -> None:
    """Ends in a reading or in a refusal: never in another exception, which would stop a chain's watch."""
    script, read = told
    results = honest()
    for _ in range(data.draw(st.integers(1, 2))):
        holder: Any = results
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            key = data.draw(st.sampled_from(keys))
            inner = holder[key]
            if not isinstance(inner, dict | list) or not inner or data.draw(st.integers(0, 4)) == 0:
                break
            holder = inner
        holder[key] = data.draw(json_values)
    script.results = results
    script.more = data.draw(json_values | st.just([{"logs": [raw_log(10)]}]))
    try:
        reading = read()
    except (NodeAtFault, ChangedMeanwhile, ChainUnavailable):
        return
    for block in reading.blocks:
        assert block.header.number in {10, 11}
        assert all(log.block_hash == block.header.hash for log in block.logs)
    assert 0 <= reading.head.number < 2**63


# Votes -------------------------------------------------------------------------------------------------------------------


def block_of(number: int, kind: int) -> ScannedBlock:
    """Kinds 0 and 1 are different blocks; 2 and 3 have the hash of 0 with a log more, or another parent."""
    fork = 1 if kind == 1 else 0
    header = BlockHeader(number, hash_of(number, fork), hash_of(number - 1, fork), 1_700_000_000 + number)
    logs = (replace(read_log(raw_log(number), 31337), block_hash=header.hash),) if kind == 2 else ()
    if kind == 3:
        header = replace(header, parent_hash=hash_of("another"))
    return ScannedBlock(header, (), logs, None, None)


class ToldPanel(NodePanel):
    """A panel whose nodes have answered."""

    readings: Mapping[int, NodeReading]

    def _ask(self, read: Callable[[Node], NodeReading], *, is_window: bool) -> dict[Node, NodeReading]:
        return {node: self.readings[node.place] for node in self.nodes if node.place in self.readings}


def panel_of(stack: ExitStack, count: int, chain_id: int = 31337, now: int = 0) -> ToldPanel:
    # Nobody listens there: who has to prove its logs cannot.
    clients = [ChainClient(ChainConnection(chain_id, "http://127.0.0.1:9", read_attempts=1)) for _ in range(count)]
    panel = ToldPanel(chain_of(chain_id), clients, now_seconds=lambda: now)
    stack.callback(panel.close)
    return panel


def reading_of(kinds: list[int], first: int = 10) -> NodeReading:
    blocks = tuple(block_of(first + place, kind) for place, kind in enumerate(kinds))
    head = blocks[-1].header if blocks else block_of(first - 1, 0).header
    return NodeReading(head, None, blocks, {block.header.number: ZEROES for block in blocks})


@settings(max_examples=declared(3_000, 30), deadline=None)
@given(
    answers=st.lists(st.none() | st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=5),
    aside=st.sets(st.integers(0, 4)),
)
def test_a_quorum_and_one_winner_or_nothing(answers: list[list[int] | None], aside: set[int]) -> None:
    """L13: never agreed below a quorum, never where as many say otherwise, never by who did not answer."""
    with ExitStack() as stack:
        panel = panel_of(stack, len(answers))
        for node in panel.nodes:
            if node.place in aside:
                panel.put_aside(node, "for the test")
        panel.readings = {
            place: reading_of(kinds) for place, kinds in enumerate(answers) if kinds is not None and place not in aside
        }
        could = [node for node in panel.nodes if node.state == "healthy"]
        agreement = panel.read(10, 12)
        assert agreement.is_agreed == (len(could) >= panel.quorum)
        needed = panel.quorum if agreement.is_agreed else 1
        assert not agreement.nodes or len(agreement.nodes) >= needed
        _require_backing(agreement, panel, needed)


def _require_backing(agreement: Agreement, panel: ToldPanel, needed: int) -> None:
    assert [block.header.number for block in agreement.blocks] == [10 + n for n in range(len(agreement.blocks))]
    for place, block in enumerate(agreement.blocks):
        shown = [
            (reading.blocks[place].header, reading.blocks[place].logs)
            for reading in panel.readings.values()
            if len(reading.blocks) > place
        ]
        mine = (block.header, block.logs)
        assert shown.count(mine) >= needed
        assert all(shown.count(other) < needed for other in shown if other != mine)
        for node in agreement.nodes:
            seen = panel.readings[node.place].blocks[place]
            assert (seen.header, seen.logs) == mine


def test_strikes_count_in_a_row_and_once_a_reading() -> None:
    """One answer that does not fit may be a reorganisation that reached the node first, however many blocks it shows."""
    with ExitStack() as stack:
        panel = panel_of(stack, 3)
        dissenting = {0: reading_of([1, 1, 1]), 1: reading_of([0, 0, 0]), 2: reading_of([0, 0, 0])}
        fitting = {place: reading_of([0, 0, 0]) for place in range(3)}
        for _ in range(3):
            for _ in range(STRIKES - 1):
                panel.readings = dissenting
                panel.read(10, 12)
            assert panel.nodes[0].state == "healthy"
            panel.readings = fitting
            panel.read(10, 12)
        panel.readings = dissenting
        for _ in range(STRIKES):
            assert panel.nodes[0].state == "healthy"
            panel.read(10, 12)
        assert panel.nodes[0].state == "aside"
        assert [node.state for node in panel.nodes[1:]] == ["healthy", "healthy"]


def test_the_pause_doubles_until_a_node_agrees_again() -> None:
    with ExitStack() as stack:
        panel = panel_of(stack, 3)
        dissenting = {0: reading_of([1]), 1: reading_of([0]), 2: reading_of([0])}
        panel.put_aside(panel.nodes[0], "it lied")
        for expected in (2, 3, 4):
            panel.readings = dissenting  # its head is well, its block is not: one more lie is enough
            panel.read(10, 10)
            assert (panel.nodes[0].state, panel.nodes[0].asides) == ("aside", expected)
        panel.readings = {place: reading_of([0]) for place in range(3)}
        panel.read(10, 10)
        assert (panel.nodes[0].state, panel.nodes[0].asides) == ("healthy", 0)


@pytest.mark.parametrize(
    ("age", "reason"),
    [(121, "is 121 s old, more than 120 s"), (-FUTURE_SECONDS - 1, "s in the future"), (120, None), (-60, None)],
)
def test_a_head_too_old_or_of_the_future_has_no_voice(age: int, reason: str | None) -> None:
    """L13: max_head_age, on every chain but the development ones."""
    head = block_of(10, 0).header
    for chain_id in (1, 31337):
        with ExitStack() as stack:
            panel = panel_of(stack, 2, chain_id, now=head.timestamp + age)
            panel.readings = {0: reading_of([0]), 1: reading_of([0])}
            agreement = panel.read(10, 10)
            if reason is None or chain_id == 31337:
                assert agreement.is_agreed
                assert len(agreement.blocks) == 1
            else:
                assert not agreement.nodes
                assert [node.state for node in panel.nodes] == ["behind", "behind"]
                assert reason in (agreement.waiting or "")


def test_secrets_in_a_reason_are_masked() -> None:
    with ExitStack() as stack:
        client = ChainClient(ChainConnection(31337, "https://user:hunter22@node.example/v3/k3y-0123456789"))
        panel = NodePanel(chain_of(), [client])
        stack.callback(panel.close)
        panel.put_aside(
            panel.nodes[0], "hash: the node answered 'https://user:hunter22@node.example/v3/k3y-0123456789'"
        )
        assert "hunter22" not in f"{panel.nodes[0].reason} {panel.nodes[0].url}"
        assert "k3y-0123456789" not in f"{panel.nodes[0].reason} {panel.nodes[0].url}"


def test_a_bloom_that_excludes_a_shown_log_is_a_fault(told: tuple[Told, Callable[[], NodeReading]]) -> None:
    """A node that invents a log must have a bloom to fit it; one that drops all of them is asked for its receipts."""
    script, read = told
    results = honest()
    invented = copy.deepcopy(raw_log(10))
    invented["topics"][2] = "0x" + "00" * 12 + "99" * 20
    invented["logIndex"] = "0x1"
    results[4] = [raw_log(10), invented, raw_log(11)]
    script.results = results
    with pytest.raises(NodeAtFault, match="which its bloom excludes"):
        read()
    script.results = honest()
    script.results[4] = [raw_log(11)]
    script.more = [{"logs": [raw_log(10)]}]
    with pytest.raises(NodeAtFault, match="lack those of"):
        read()
    script.more = []
    assert read().blocks[0].logs == ()  # a bloom promises more than there is now and then
    proxied = {**raw_log(10), "address": TOKEN, "topics": [FEE_PROXY_TOPIC]}
    script.results = honest()
    script.results[4] = [raw_log(10), proxied, raw_log(11)]  # of no meaning from a token
    script.results[2]["logsBloom"] = "0x" + "ff" * BLOOM_BYTES
    assert len(read().blocks[0].logs) == 1

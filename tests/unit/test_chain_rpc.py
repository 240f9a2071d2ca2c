"""The client against a scripted node on loopback: what a bad node, a bad network and a secret URL do."""

import gzip
import json
import logging
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

import pytest

from custody.chain import (
    AlreadyKnown,
    CallRequest,
    ChainClient,
    ChainConnection,
    ChainError,
    ChainUnavailable,
    ExecutionReverted,
    Rejected,
    SendOutcomeUnknown,
    WrongChain,
)
from tests.scripted_node import SECRET, Script, ScriptedNode

GENESIS = "0x" + "11" * 32
TX = "0x" + "aa" * 32
ADDRESS = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"


@contextmanager
def client_of(script: Script, **limits: Any) -> Generator[tuple[ChainClient, ScriptedNode]]:
    node = ScriptedNode(script)
    with node.running() as url:
        client = ChainClient(ChainConnection(31337, url, **limits))
        try:
            yield client, node
        finally:
            client.close()


def result(value: Any) -> Script:
    return lambda body: {"jsonrpc": "2.0", "id": body["id"], "result": value}


def error(code: int, message: str, data: Any = None) -> Script:
    return lambda body: {
        "jsonrpc": "2.0",
        "id": body["id"],
        "error": {"code": code, "message": message, "data": data},
    }


def block(number: int, byte: int = 0x22) -> dict[str, Any]:
    return {
        "number": hex(number),
        "hash": "0x" + f"{byte:02x}" * 32,
        "parentHash": "0x" + "33" * 32,
        "timestamp": "0x64",
        "baseFeePerGas": "0x7",
    }


def receipt(transaction: str, number: int, byte: int = 0x22) -> dict[str, Any]:
    return {
        "transactionHash": transaction,
        "transactionIndex": "0x0",
        "blockNumber": hex(number),
        "blockHash": "0x" + f"{byte:02x}" * 32,
        "status": "0x1",
        "from": ADDRESS,
        "to": None,
        "contractAddress": ADDRESS,
        "gasUsed": "0x1",
        "effectiveGasPrice": "0x1",
        "logs": [],
    }


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (403, "HTTP status 403"),
        (307, "no JSON-RPC answer"),
        (b"<html>no</html>", "no JSON-RPC answer"),
        (b"", "no JSON-RPC answer"),
        (b"[]", "no JSON-RPC answer"),
        (b"17", "no JSON-RPC answer"),
        (b"[" * 60_000, "no JSON-RPC answer"),
        (b"\xff\xfe", "no JSON-RPC answer"),
        (b'{"jsonrpc":"2.0","id":1}', "no JSON-RPC answer"),
        (b'{"jsonrpc":"2.0","id":1,"result":"17"}', "balance: expected a hex quantity"),
        (b'{"jsonrpc":"2.0","id":1,"result":null}', "balance: expected a hex quantity"),
        (b'{"jsonrpc":"2.0","id":1,"result":"0x' + b"1" * 65 + b'"}', "balance: expected a hex quantity"),
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no such method"}}', "no such method"),
        (b'{"jsonrpc":"2.0","id":1,"error":"broken"}', "broken"),
    ],
)
def test_an_unusable_answer_makes_the_chain_unavailable_at_once(answer: Any, reason: str):
    with (
        client_of(lambda _: answer) as (client, node),
        pytest.raises(ChainUnavailable, match=reason) as raised,
    ):
        client.balance(ADDRESS)
    assert len(node.bodies) == 1
    assert raised.value.chain_id == 31337
    assert SECRET not in str(raised.value) + repr(raised.value)


@pytest.mark.parametrize("answer", [503, 429, None])
def test_what_may_pass_is_tried_again(answer: Any):
    answers = iter([answer, answer])
    with client_of(lambda body: next(answers, result("0x7")(body))) as (client, node):
        assert client.balance(ADDRESS) == 7
    assert len(node.bodies) == 3


def test_a_rate_limit_in_json_is_tried_again_and_ends():
    with (
        client_of(error(-32005, f"limit exceeded for {SECRET}"), read_attempts=2) as (client, node),
        pytest.raises(ChainUnavailable, match="limit exceeded for …") as raised,
    ):
        client.head()
    assert len(node.bodies) == 2
    assert type(raised.value) is ChainUnavailable


def test_no_listener_is_unavailable_and_shows_no_secret():
    url = f"http://user:{SECRET}@127.0.0.1:1/v3/{SECRET}?key={SECRET}"
    client = ChainClient(ChainConnection(1, url, read_attempts=1))
    with pytest.raises(ChainUnavailable, match=r"chain 1 at http://127\.0\.0\.1:1/…: no connection") as raised:
        client.chain_id()
    found: BaseException | None = raised.value
    while found is not None:
        assert SECRET not in repr(found) + str(found)
        found = found.__cause__ or found.__context__
    assert SECRET not in repr(client.chain)
    client.close()


def test_the_libraries_logs_show_no_secret(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    with client_of(result("0x7")) as (client, _):
        client.balance(ADDRESS)
    assert "Making request HTTP" in caplog.text
    assert "POST" in caplog.text
    assert SECRET not in caplog.text


def test_a_long_answer_is_refused():
    long = result("0x" + "00" * 50_000)
    with (
        client_of(long, max_body=10_000) as (client, _),
        pytest.raises(ChainUnavailable, match="more than 10000 bytes"),
    ):
        client.code(ADDRESS)
    with client_of(long, max_body=200_000) as (client, _):
        assert client.code(ADDRESS) == bytes(50_000)


def test_a_silent_node_is_given_up():
    release = threading.Event()

    def wait(_: Any) -> None:
        release.wait(60)

    with client_of(wait, timeout=0.2, read_attempts=1) as (client, _):
        with pytest.raises(ChainUnavailable, match=r"no answer within 0\.2 s"):
            client.head()
        release.set()


def test_a_dripping_node_is_given_up():
    gone = threading.Event()

    def drip(_: bytes) -> Iterable[bytes]:
        while not gone.wait(0.02):
            yield b" "

    with client_of(result("0x" + "00" * 50_000), timeout=0.3, read_attempts=1) as (client, node):
        node.parts = drip
        with pytest.raises(ChainUnavailable, match=r"no answer within 0\.3 s"):
            client.head()
        gone.set()


def test_a_cut_answer_is_tried_again():
    lengths = iter([10, None])
    with client_of(result("0x7")) as (client, node):
        node.parts = lambda content: [content[: next(lengths)]]
        assert client.balance(ADDRESS) == 7
    assert len(node.bodies) == 2


def test_a_compressed_answer_counts_unpacked():
    def bomb(body: Any) -> Any:
        return gzip.compress(json.dumps(result("0x" + "00" * 500_000)(body)).encode())

    with client_of(bomb, max_body=100_000) as (client, node):
        node.encoding = "gzip"
        with pytest.raises(ChainUnavailable, match="more than 100000 bytes"):
            client.code(ADDRESS)
    with client_of(bomb, max_body=2_000_000) as (client, node):
        node.encoding = "gzip"
        assert client.code(ADDRESS) == bytes(500_000)


def test_the_environment_does_not_decide_where_reads_go(monkeypatch: pytest.MonkeyPatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with client_of(result("0x7"), read_attempts=1) as (client, _):
        assert client.balance(ADDRESS) == 7


def test_wrong_chain_and_wrong_genesis_are_refused():
    def node(body: Any) -> Any:
        return result("0x7a69" if body["method"] == "eth_chainId" else block(0, 0x11))(body)

    with client_of(node) as (client, _):
        client.require_identity(31337, GENESIS)
        client.require_identity(31337, None)
        with pytest.raises(WrongChain, match="it is chain 31337, expected 1"):
            client.require_identity(1, GENESIS)
        with pytest.raises(WrongChain, match="its genesis block is 0x1111"):
            client.require_identity(31337, "0x" + "12" * 32)


def test_receipts_and_headers_take_two_requests():
    other, missing = "0x" + "bb" * 32, "0x" + "cc" * 32

    def node(body: Any) -> Any:
        def one(call: Any) -> Any:
            [what, *_] = call["params"]
            known: dict[str, Any] = {
                "latest": block(9),
                TX: receipt(TX, 5),
                other: receipt(other, 6, 0x44),
                hex(5): block(5),
                hex(6): block(6),
            }
            return result(known.get(what))(call)

        # Out of order, as the specification allows.
        return [one(call) for call in reversed(body)] if isinstance(body, list) else one(body)

    with client_of(node) as (client, scripted):
        found = client.receipts_and_headers([TX, other, missing, TX])
    assert [len(body) for body in scripted.bodies] == [4, 2]
    assert found.head.number == 9
    assert set(found.receipts) == {TX, other}
    assert found.canonical(TX) == found.receipts[TX]
    assert found.canonical(other) is None, "its block was replaced between the two requests"
    assert found.canonical(missing) is None


def test_headers_of_known_heights_come_with_the_receipts():
    def node(body: Any) -> Any:
        known: dict[str, Any] = {"latest": block(9), TX: receipt(TX, 5), hex(5): block(5), hex(7): block(7)}
        answers = [result(known.get(call["params"][0]))(call) for call in (body if isinstance(body, list) else [body])]
        return answers if isinstance(body, list) else answers[0]

    with client_of(node) as (client, scripted):
        found = client.receipts_and_headers([TX], [7, 5, 12, 7])
        assert [[call["params"][0] for call in body] for body in scripted.bodies] == [
            ["latest", TX, "0x5", "0x7", "0xc"]  # headers last: they contradict a receipt that was replaced meanwhile
        ]
        assert set(found.headers) == {5, 7}
        assert found.canonical(TX) == found.receipts[TX]
        scripted.bodies.clear()
        assert set(client.receipts_and_headers([TX], [7]).headers) == {5, 7}
        assert len(scripted.bodies) == 2


def test_a_batch_is_split_at_its_limit():
    def node(body: Any) -> Any:
        calls = body if isinstance(body, list) else [body]
        answers = [result(block(9) if call["params"][0] == "latest" else None)(call) for call in calls]
        return answers if isinstance(body, list) else answers[0]

    with client_of(node, max_batch=3) as (client, scripted):
        client.receipts_and_headers(["0x" + f"{byte:02x}" * 32 for byte in range(6)])
    assert [len(body) if isinstance(body, list) else 1 for body in scripted.bodies] == [3, 3, 1]


def test_a_batch_with_answers_missing_is_refused():
    with (
        client_of(lambda body: [result(block(9))(body[0])]) as (client, _),
        pytest.raises(ChainUnavailable, match="2 calls got 1 answers"),
    ):
        client.receipts_and_headers([TX])


@pytest.mark.parametrize(
    ("read", "answer", "reason"),
    [
        ("receipt", receipt("0x" + "bb" * 32, 5), "got another transaction's"),
        ("receipt", {**receipt(TX, 5), "status": None}, "status"),
        ("header", block(6), "asked for 5, got 6"),
        ("head", None, "block: expected an object"),
        ("token_balance", "0x", "is there a contract at this address"),
    ],
)
def test_an_answer_to_another_question_is_refused(read: str, answer: Any, reason: str):
    with client_of(result(answer)) as (client, _):
        reads: dict[str, Callable[[], object]] = {
            "receipt": lambda: client.receipt(TX),
            "header": lambda: client.header(5),
            "head": client.head,
            "token_balance": lambda: client.token_balance(ADDRESS, ADDRESS),
        }
        with pytest.raises(ChainUnavailable, match=reason):
            reads[read]()


def test_what_is_not_mined_is_none():
    with client_of(result(None)) as (client, _):
        assert client.receipt(TX) is None
        assert client.header(10) is None
    with client_of(result({**receipt(TX, 5), "blockHash": None, "blockNumber": None})) as (client, _):
        assert client.receipt(TX) is None


def test_a_revert_is_told_apart():
    with client_of(error(3, "execution reverted: no", "0x08c379a0")) as (client, node):
        with pytest.raises(ExecutionReverted, match="no") as raised:
            client.call(CallRequest(to=ADDRESS))
        assert raised.value.data == bytes.fromhex("08c379a0")
        with pytest.raises(ExecutionReverted):
            client.estimate_gas(CallRequest(to=ADDRESS, value=5, sender=ADDRESS))
    assert node.bodies[1]["params"] == [{"to": ADDRESS, "from": ADDRESS, "value": "0x5", "data": "0x"}]


def test_a_refused_transaction_is_sent_once_and_classified():
    with client_of(error(-32000, "already known")) as (client, node), pytest.raises(AlreadyKnown):
        client.send_raw(b"\x02raw")
    assert len(node.bodies) == 1
    with (
        client_of(error(-32000, f"bad\n{SECRET}" + "x" * 1000)) as (client, _),
        pytest.raises(Rejected) as raised,
    ):
        client.send_raw(b"\x02raw")
    assert SECRET not in str(raised.value)
    assert raised.value.reason.startswith("bad …x")
    assert len(raised.value.reason) == 300


@pytest.mark.parametrize("answer", [503, None, b"{", b'{"jsonrpc":"2.0","id":1,"result":"0x' + b"11" * 32 + b'"}'])
def test_a_send_without_a_usable_answer_is_not_repeated_and_says_so(answer: Any):
    with (
        client_of(lambda _: answer) as (client, node),
        pytest.raises(SendOutcomeUnknown, match="may have been sent, look for it"),
    ):
        client.send_raw(b"\x02raw")
    assert len(node.bodies) == 1


def test_logs_of_another_block_are_refused():
    log = {
        "address": ADDRESS,
        "topics": [],
        "data": "0x",
        "blockNumber": "0x5",
        "blockHash": "0x" + "22" * 32,
        "transactionHash": TX,
        "transactionIndex": "0x0",
        "logIndex": "0x1",
    }
    with client_of(result([log, {**log, "logIndex": "0x0"}])) as (client, node):
        found = client.block_logs("0x" + "22" * 32, [ADDRESS], [GENESIS])
        assert [entry.log_index for entry in found] == [0, 1]
        assert node.bodies[0]["params"] == [
            {"blockHash": "0x" + "22" * 32, "address": [ADDRESS], "topics": [[GENESIS]]}
        ]
        with pytest.raises(ChainUnavailable, match="some are of another block"):
            client.block_logs("0x" + "23" * 32, [ADDRESS], [GENESIS])


def test_errors_survive_pickling():
    import pickle

    for raised in (ChainUnavailable(1, "http://x", "why"), ExecutionReverted(1, "http://x", "why", b"\x01")):
        copy = pickle.loads(pickle.dumps(raised))
        assert isinstance(copy, ChainError)
        assert (type(copy), str(copy)) == (type(raised), str(raised))


@pytest.mark.parametrize("url", ["", "ftp://host", "127.0.0.1:8545", "http://", "ws://host"])
def test_a_url_that_is_none_is_refused_without_showing_it(url: str):
    with pytest.raises(ValueError, match="RPC URL of chain 1: expected http:// or https://"):
        ChainConnection(1, url)


@pytest.mark.parametrize("limit", ["connect_timeout", "timeout", "max_body", "read_attempts", "max_batch"])
def test_each_limit_is_above_zero(limit: str):
    limits: dict[str, Any] = {limit: 0}
    with pytest.raises(ValueError, match=f"{limit} of chain 1"):
        ChainConnection(1, "http://h", None, **limits)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("http://127.0.0.1:8545", "http://127.0.0.1:8545"),
        ("https://rpc.example/", "https://rpc.example"),
        (f"https://u:{SECRET}@rpc.example:444/v3/{SECRET}?a={SECRET}#x", "https://rpc.example:444/…"),
        ("http://[::1]:8545", "http://[::1]:8545"),
        (f"https://rpc.example?key={SECRET}", "https://rpc.example/…"),
    ],
)
def test_the_url_is_masked(url: str, masked: str):
    assert ChainConnection(1, url).masked_url == masked

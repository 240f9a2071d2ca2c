"""All nodes of a chain asked at once: none waits for another for long, and each shows which chain it is of (L13, R17)."""

import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import pytest

from custody.chain import ChainClient, ChainConnection, WrongChain
from custody.chain.nodes import ChainNodes
from custody.settings.chains import Chain
from custody.store.engine import SocketInsideTransaction, _in_transaction, forbid_inside_transaction
from tests.scripted_node import ScriptedNode

GENESIS: Final = "0x" + "11" * 32
WAIT: Final = 20  # seconds; a test that needs them has failed


def chain(chain_id: int = 56) -> Chain:
    return Chain.model_validate(
        {
            "id": chain_id,
            "name": "tests",
            "genesis_hash": GENESIS,
            "rpc_urls": ["http://127.0.0.1:1"],
            "treasury": "0x000000000000000000000000000000000000dEaD",
            "fee_proxy": "0x000000000000000000000000000000000000bEEF",
            "tokens": [{"symbol": "ETH", "address": "native", "decimals": 18}],
        }
    )


def block(number: int) -> dict[str, Any]:
    block_hash = GENESIS if number == 0 else f"0x{number:064x}"
    return {"number": hex(number), "hash": block_hash, "parentHash": GENESIS, "timestamp": "0x1"}


def honest(call: Any, chain_id: int = 56) -> Any:
    method, params = call["method"], call["params"]
    found: Any = None
    if method == "eth_chainId":
        found = hex(chain_id)
    elif method == "eth_getBlockByNumber":
        found = block(9 if params[0] == "latest" else int(params[0], 16))
    return {"jsonrpc": "2.0", "id": call["id"], "result": found}


def node(before: Callable[[Any], Any] = lambda body: None, chain_id: int = 56) -> ScriptedNode:
    """An honest node at block 9. What ``before`` returns of a request is its answer, unless that is None."""

    def script(body: Any) -> Any:
        said = before(body)
        if said is not None:
            return said
        return [honest(call, chain_id) for call in body] if isinstance(body, list) else honest(body, chain_id)

    return ScriptedNode(script)


@contextmanager
def nodes_of(*scripted: ScriptedNode) -> Generator[ChainNodes]:
    asked = chain()
    with ExitStack() as stack:
        urls = [stack.enter_context(one.running()) for one in scripted]
        clients = [ChainClient(ChainConnection(asked.id, url, GENESIS, timeout=WAIT, read_attempts=1)) for url in urls]
        nodes = ChainNodes(asked, clients)
        stack.callback(nodes.close)
        yield nodes


def heads(nodes: ChainNodes) -> list[int]:
    return [answer.head.number for _, answer in nodes.answers([], [])[0]]


def test_the_nodes_are_asked_at_once() -> None:
    both = threading.Barrier(2, timeout=WAIT)

    def meet(_body: Any) -> None:
        both.wait()  # breaks, and the node answers nothing, unless the other one is asked meanwhile

    with nodes_of(node(meet), node(meet)) as nodes:
        assert heads(nodes) == [9, 9]
        nodes.require_identity()


def test_a_node_that_hangs_keeps_nobody_waiting_and_is_not_asked_again() -> None:
    answers = threading.Event()
    slow = node(lambda _body: None if answers.wait(WAIT) else 503)
    with nodes_of(node(), slow, node()) as nodes:
        for _ in range(3):
            found, silent = nodes.answers([], [])
            assert [answer.head.number for _, answer in found] == [9, 9]
            assert [reason for reason in silent if "has not answered" in reason] == silent
            assert len(silent) == 1
        assert len(slow.bodies) == 1
        pending = next(future for future in nodes._asked.values() if not future.done())
        answers.set()
        pending.result(WAIT)
        assert heads(nodes) == [9, 9, 9]


def test_two_nodes_are_both_waited_for() -> None:
    """A quorum of two has no node to spare."""
    released = threading.Event()
    late = node(lambda _body: None if released.wait(WAIT) else 503)
    with nodes_of(node(lambda _body: released.set()), late) as nodes:
        assert heads(nodes) == [9, 9]


def test_a_node_of_another_chain_is_put_aside_and_says_so() -> None:
    """R17"""
    with nodes_of(node(), node(chain_id=1)) as nodes:
        found, silent = nodes.answers([], [])
        assert len(found) == 1
        assert "it is chain 1, expected 56" in silent[0]
        with pytest.raises(WrongChain):
            nodes.require_identity()


def test_a_node_shows_its_identity_first_and_after_each_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = False
    now = [1_000.0]
    monkeypatch.setattr("custody.chain.nodes.monotonic", lambda: now[0])

    def before(body: Any) -> Any:
        return 400 if broken and body["method"] == "eth_getBlockByNumber" and body["params"][0] == "latest" else None

    one = node(before)

    def identified() -> int:
        return sum(body["method"] == "eth_chainId" for body in one.bodies)

    with nodes_of(one) as nodes:
        one.bodies.clear()
        assert heads(nodes) == heads(nodes) == [9]
        assert identified() == 1
        broken = True
        assert heads(nodes) == []
        broken = False
        assert heads(nodes) == [9]
        assert identified() == 2
        now[0] += 30
        assert heads(nodes) == [9]
        assert identified() == 3


def test_no_thread_opens_a_socket_inside_a_transaction() -> None:
    """L15: the threads know what their caller is in."""
    with nodes_of(node(), node()) as nodes:
        token = _in_transaction.set(True)
        try:
            with pytest.raises(SocketInsideTransaction):
                nodes.agreed(lambda _client: forbid_inside_transaction("a node"))
        finally:
            _in_transaction.reset(token)


@pytest.mark.parametrize(
    ("chain_id", "configured", "quorum"), [(31337, 1, 1), (31337, 2, 2), (31337, 3, 2), (56, 1, 2), (56, 3, 2)]
)
def test_two_nodes_must_agree_but_where_a_development_chain_has_one(
    chain_id: int, configured: int, quorum: int
) -> None:
    clients = [ChainClient(ChainConnection(chain_id, "http://127.0.0.1:1")) for _ in range(configured)]
    nodes = ChainNodes(chain(chain_id), clients)
    assert nodes.quorum == quorum
    nodes.close()

"""A node that can be told to lie: a real HTTP proxy before an honest one, which counts what it is asked."""

import copy
import json
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
from eth_utils.crypto import keccak

from tests.scripted_node import SECRET

Calls = list[dict[str, Any]]
Lie = Callable[["LyingNode", Calls, list[dict[str, Any]]], Any]
"""Gets the calls and their honest answers, its own to change. Returns answers; or bytes to send, an HTTP status, None to
close the connection unanswered."""

RELEASE_SECONDS = 30.0  # a hanging answer ends by then if the test forgets it


class LyingNode:
    """Forwards JSON-RPC to `upstream` and answers what `lie` makes of it; honest while that is None."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.lie: Lie | None = None
        self.url = ""
        self.requests: list[list[str]] = []
        """The methods of each request's calls."""
        self.released = threading.Event()
        self.drips = False
        self._client = httpx.Client(trust_env=False, timeout=RELEASE_SECONDS)

    def ask(self, method: str, *params: Any) -> Any:
        """The honest answer."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        return self._client.post(self.upstream, json=body).json()["result"]

    def answer(self, body: Any) -> Any:
        calls: Calls = body if isinstance(body, list) else [body]
        self.requests.append([call["method"] for call in calls])
        found = self._client.post(self.upstream, json=calls).json()
        by_id = {one["id"]: one for one in found}
        answers = [by_id[call["id"]] for call in calls]
        said = answers if self.lie is None else self.lie(self, calls, copy.deepcopy(answers))
        if isinstance(said, list) and not isinstance(body, list):
            return said[0] if said else []
        return said

    @contextmanager
    def running(self) -> Generator["LyingNode"]:
        node = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                said = node.answer(body)
                if said is None:
                    self.close_connection = True
                    return
                status = said if isinstance(said, int) else 200
                sent = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                try:
                    for place in range(0, len(sent), 1 if node.drips else len(sent)):
                        self.wfile.write(sent[place : place + 1] if node.drips else sent)
                        if node.drips and node.released.wait(0.02):
                            break
                except OSError:
                    self.close_connection = True  # who asked has gone

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.url = f"http://user:{SECRET}@127.0.0.1:{server.server_port}/v3/{SECRET}?apikey={SECRET}"
        try:
            yield self
        finally:
            self.released.set()
            server.shutdown()
            thread.join()
            server.server_close()
            self._client.close()


# The lies ----------------------------------------------------------------------------------------------------------------


def changing(change: Callable[[str, list[Any], Any], Any]) -> Lie:
    """A lie about single results: `change` gets method, params and the honest result."""

    def lie(_node: LyingNode, calls: Calls, answers: list[dict[str, Any]]) -> Any:
        for call, answer in zip(calls, answers, strict=True):
            if "result" in answer:
                answer["result"] = change(call["method"], call["params"], answer["result"])
        return answers

    return lie


def about_blocks(change: Callable[[dict[str, Any]], None]) -> Lie:
    """A lie about every block that is shown, but for the genesis."""

    def each(method: str, params: list[Any], result: Any) -> Any:
        if method == "eth_getBlockByNumber" and result is not None and params[0] != "0x0":
            change(result)
        return result

    return changing(each)


def together(*lies: Lie) -> Lie:
    def lie(node: LyingNode, calls: Calls, answers: list[dict[str, Any]]) -> Any:
        said: Any = answers
        for one in lies:
            said = one(node, calls, said)
        return said

    return lie


def stale_head(newest: int) -> Lie:
    """As a node that stopped following the chain at a block."""

    def lie(node: LyingNode, calls: Calls, answers: list[dict[str, Any]]) -> Any:
        for call, answer in zip(calls, answers, strict=True):
            method, params = call["method"], call["params"]
            result: Any = answer.get("result")
            if method == "eth_getBlockByNumber":
                if params[0] == "latest":
                    answer["result"] = node.ask(method, hex(newest), False)
                elif int(params[0], 16) > newest:
                    answer["result"] = None
            elif method == "eth_getLogs":
                answer["result"] = [log for log in result if int(log["blockNumber"], 16) <= newest]
            elif method == "eth_getTransactionReceipt" and result and int(result["blockNumber"], 16) > newest:
                answer["result"] = None
        return answers

    return lie


def _without_logs(method: str, _params: list[Any], result: Any) -> Any:
    return [] if method == "eth_getLogs" else result


def _without_last_log(method: str, _params: list[Any], result: Any) -> Any:
    return result[:-1] if method == "eth_getLogs" else result


def _without_receipts(method: str, _params: list[Any], result: Any) -> Any:
    if method == "eth_getBlockReceipts":
        return []
    return None if method == "eth_getTransactionReceipt" else result


def _other_amounts(method: str, _params: list[Any], result: Any) -> Any:
    if method == "eth_getTransactionReceipt" and result is not None:
        for log in result["logs"]:
            if len(log["data"]) == 66:
                log["data"] = "0x" + f"{10 * int(log['data'], 16):064x}"
    return result


def _no_bloom(block: dict[str, Any]) -> None:
    block["logsBloom"] = "0x" + "00" * 256


def _full_bloom(block: dict[str, Any]) -> None:
    block["logsBloom"] = "0x" + "ff" * 256


def other_hash(value: str) -> str:
    return "0x" + keccak(hexstr=value + "00").hex()


def _other_hashes(method: str, params: list[Any], result: Any) -> Any:
    if result is None:
        return None
    if method == "eth_getBlockByNumber" and params[0] != "0x0":
        result["hash"] = other_hash(result["hash"])
        for one in result["transactions"]:
            if isinstance(one, dict):
                one["blockHash"] = result["hash"]
    elif method in {"eth_getLogs", "eth_getTransactionReceipt"}:
        for one in result["logs"] + [result] if method == "eth_getTransactionReceipt" else result:
            one["blockHash"] = other_hash(one["blockHash"])
    return result


def _other_parent(block: dict[str, Any]) -> None:
    block["parentHash"] = other_hash(block["parentHash"])


def ahead(blocks: int) -> Lie:
    """A head that nobody has mined, of the very hash of the newest."""

    def each(method: str, params: list[Any], result: Any) -> Any:
        if method == "eth_getBlockByNumber" and params[0] == "latest":
            result["number"] = hex(int(result["number"], 16) + blocks)
        return result

    return changing(each)


def _logs_of_another_block(node: LyingNode, calls: Calls, answers: list[dict[str, Any]]) -> Any:
    for call, answer in zip(calls, answers, strict=True):
        if call["method"] == "eth_getLogs":
            query = dict(call["params"][0])
            before = hex(int(query["fromBlock"], 16) - 1)
            answer["result"] = node.ask("eth_getLogs", {**query, "fromBlock": before, "toBlock": before})
            for log in answer["result"]:
                log["blockNumber"] = query["fromBlock"]
    return answers


def _limits(_node: LyingNode, calls: Calls, answers: list[dict[str, Any]]) -> Any:
    for call, answer in zip(calls, answers, strict=True):
        if call["method"] == "eth_getLogs" and call["params"][0]["fromBlock"] != call["params"][0]["toBlock"]:
            answer.pop("result", None)
            answer["error"] = {"code": -32602, "message": "block range too large, at most 1"}
    return answers


def limited(blocks: int) -> Lie:
    """A provider that answers logs of at most so many blocks."""

    def lie(_node: LyingNode, calls: Calls, answers: list[dict[str, Any]]) -> Any:
        for call, answer in zip(calls, answers, strict=True):
            if call["method"] == "eth_getLogs":
                query = call["params"][0]
                if int(query["toBlock"], 16) - int(query["fromBlock"], 16) >= blocks:
                    answer.pop("result", None)
                    answer["error"] = {"code": -32602, "message": f"block range too large, at most {blocks}"}
        return answers

    return lie


def _hang(node: LyingNode, _calls: Calls, _answers: list[dict[str, Any]]) -> Any:
    node.released.wait(RELEASE_SECONDS)


def dripping(node: LyingNode, _calls: Calls, answers: list[dict[str, Any]]) -> Any:
    node.drips = True
    return answers


def _swapped_ids(_node: LyingNode, _calls: Calls, answers: list[dict[str, Any]]) -> Any:
    ids = [answer["id"] for answer in answers]
    for answer, one in zip(answers, reversed(ids), strict=True):
        answer["id"] = one
    return answers


def _foreign_ids(_node: LyingNode, _calls: Calls, answers: list[dict[str, Any]]) -> Any:
    return [{**answer, "id": None if place % 2 else "seven"} for place, answer in enumerate(answers)]


def _echo(node: LyingNode, _calls: Calls, answers: list[dict[str, Any]]) -> Any:
    """Puts its own URL, with the key, into a field."""
    for answer in answers:
        if isinstance(answer.get("result"), dict):
            answer["result"]["hash"] = node.url[-70:]
    return answers


def _echo_in_error(node: LyingNode, _calls: Calls, answers: list[dict[str, Any]]) -> Any:
    return [{"jsonrpc": "2.0", "id": one["id"], "error": {"code": -32000, "message": node.url}} for one in answers]


def _too_large(field: str) -> Lie:
    def change(block: dict[str, Any]) -> None:
        block[field] = "0x" + "f" * 64

    return about_blocks(change)


def _huge_nonce(method: str, _params: list[Any], result: Any) -> Any:
    return "0x" + "f" * 60 if method == "eth_getTransactionCount" else result


def _other_chain(method: str, _params: list[Any], result: Any) -> Any:
    return "0x1" if method == "eth_chainId" else result


def _other_genesis(method: str, params: list[Any], result: Any) -> Any:
    if method == "eth_getBlockByNumber" and params[0] == "0x0":
        result["hash"] = other_hash(result["hash"])
    return result


def inventing(log: Callable[[dict[str, Any]], dict[str, Any]]) -> Lie:
    """One log more of each block that has one: `log` makes it of a copy of the last one there."""

    def each(method: str, _params: list[Any], result: Any) -> Any:
        if method == "eth_getLogs" and result:
            last = copy.deepcopy(result[-1])
            last["logIndex"] = hex(int(last["logIndex"], 16) + 1)
            return [*result, log(last)]
        return result

    return changing(each)


def inventing_receipt(transaction_hash: str, receipt: dict[str, Any]) -> Lie:
    """A receipt of a transaction that nobody sent."""

    def each(method: str, params: list[Any], result: Any) -> Any:
        if method == "eth_getTransactionReceipt" and params[0] == transaction_hash:
            return copy.deepcopy(receipt)
        return result

    return changing(each)


no_logs = changing(_without_logs)
last_log_dropped = changing(_without_last_log)
no_logs_no_bloom = together(changing(_without_logs), about_blocks(_no_bloom), changing(_without_receipts))
other_amounts = changing(_other_amounts)
no_receipts = changing(_without_receipts)
other_hashes = changing(_other_hashes)
other_parent = about_blocks(_other_parent)
full_bloom = about_blocks(_full_bloom)
logs_of_another_block: Lie = _logs_of_another_block
limits: Lie = _limits
hang: Lie = _hang
swapped_ids: Lie = _swapped_ids
foreign_ids: Lie = _foreign_ids
echo: Lie = _echo
echo_in_error: Lie = _echo_in_error
huge_number = _too_large("number")
huge_timestamp = _too_large("timestamp")
huge_nonce = changing(_huge_nonce)
other_chain = changing(_other_chain)
other_genesis = changing(_other_genesis)


def answering(said: Any) -> Lie:
    """The same for everything: bytes, an HTTP status, None, JSON."""
    return lambda _node, _calls, _answers: said


def one_answer_short(_node: LyingNode, _calls: Calls, answers: list[dict[str, Any]]) -> Any:
    return answers[:-1]


def reordered(_node: LyingNode, _calls: Calls, answers: list[dict[str, Any]]) -> Any:
    """No lie: a batch may be answered in any order."""
    return answers[::-1]
